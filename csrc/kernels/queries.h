/* queries.h - a tile of queries at work in attention.h, and which keys it meets.
 *
 * Query i sees the keys up to its own or, with a window W, the last W of them: i - W < key <= i. For the queries of a
 * tile these are, in order: keys at the edge, hidden from some queries by the window; keys that all see; and the
 * diagonal, hidden from the queries before them. Keys that none sees are not computed. Heads of one token all see the
 * same keys: none is at the edge, and the diagonal is that token's own key. */
#ifndef LP_QUERIES_H
#define LP_QUERIES_H

#include "../base/size.h" /* lp_size_min */
#include "kernels.h"      /* lp_head */

#define SUM_LANES 16 /* the sum of exp goes into lanes by key mod 16 */

typedef struct {
    const lp_head *head;
    size_t row, m, width; /* first row of the head, rows, lanes */
    size_t m0;            /* position of the first row */
    size_t window;        /* 0: none */
    size_t first, seen;   /* keys: the first in scratch, a multiple of SUM_LANES, and the first that a query sees */
    size_t n_keys;        /* up to the position of the last row */
    float *q;             /* [head_dim][width] */
    float *s;             /* [n_keys, rounded up][width]: scores, then pattern; rows before `first` are not written */
    float *z;             /* [head_dim][width] */
} lp_queries;

/* The keys of one block, as above. */
typedef struct {
    size_t n_edge, edge, window; /* edge key i counts for lanes below edge + i, the last `window` of them */
    size_t n_whole;
    size_t n_diagonal; /* diagonal key i counts for lanes from i on */
    size_t n_added;    /* lanes whose sum has begun: they add this block, the others begin with it */
} lp_span;

/* The first key that all of n queries from `query` on have in their window, among those in scratch. */
static inline size_t edge_end(const lp_queries *t, size_t query, size_t n) {
    if (t->head->one_token) return t->seen;
    if (!t->window || query + n <= t->window + t->first) return t->first;
    return lp_size_min(query + n - t->window, t->n_keys);
}

#endif
