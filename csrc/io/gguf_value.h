/* gguf_value.h - the values of keys: checked and passed over, never kept.
 *
 * Arrays are walked item by item only as far as items have lengths of their own. */
#ifndef LP_GGUF_VALUE_H
#define LP_GGUF_VALUE_H

#include "gguf.h"       /* lp_gguf_key */
#include "gguf_bytes.h" /* lp_gguf_bytes */

#define LP_GGUF_MAX_DEPTH 4                   /* of arrays in arrays; ggml has none */
#define LP_GGUF_MAX_ITEMS ((uint64_t)1 << 24) /* of an array; vocabularies have 2^18 */

/* Reads a value of key->type, and fills in what follows the type in the struct. */
int lp_gguf_pass_value(lp_gguf_bytes *bytes, lp_gguf_key *key);

#endif
