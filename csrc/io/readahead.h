/* readahead.h - brings the weights of the next layer into memory while this one is computed.
 *
 * Only pages that are cold on disk are read, never more than one layer ahead, so that a model larger than memory
 * streams through it. When all pages are in the page cache, checking costs about a microsecond per 16 MB and no thread
 * is started. All of it is advice: what is not read ahead is read when it is touched. */
#ifndef LP_READAHEAD_H
#define LP_READAHEAD_H

#include <stddef.h>
#include <stdint.h>

#include "../base/weight.h" /* lp_weight */

typedef struct lp_readahead lp_readahead;

/* For a pass over these weights, which are pages of files: those of group i, a layer or the head, end before `end[i]`.
 * The lists must outlive it. NULL when no page is cold, or no thread can be started. */
lp_readahead *lp_readahead_start(const lp_weight *const *weights, const size_t *end, size_t n_groups);
/* The pass begins with the next group: the one after it may be read. NULL is legal, here and below. */
void lp_readahead_advance(lp_readahead *ahead);
void lp_readahead_stop(lp_readahead *ahead);

/* Prefetches the cold embeddings of these tokens, and no more: page faults would read megabytes around each. */
void lp_readahead_rows(const lp_weight *embed, const int32_t *token_ids, size_t n_tokens);

#endif
