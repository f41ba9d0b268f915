/* gguf_value.h - the values of keys: checked and skipped, never stored.
 *
 * Only arrays of strings, arrays and bools are walked item by item; others are skipped at once. */
#ifndef LP_GGUF_VALUE_H
#define LP_GGUF_VALUE_H

#include "gguf.h"       /* lp_gguf_key */
#include "gguf_bytes.h" /* lp_gguf_bytes */

#define LP_GGUF_MAX_DEPTH 4                   /* of nested arrays; ggml allows none */
#define LP_GGUF_MAX_ITEMS ((uint64_t)1 << 24) /* per array; vocabularies have 2^18 */

/* Checks and skips a value of key->type; sets item_type, n_items, offset, n_bytes and bits. -1: failed. */
int lp_gguf_pass_value(lp_gguf_bytes *bytes, lp_gguf_key *key);

#endif
