/* attention.h - causal attention of one kv head for a tile of queries: tokens of one query head or, when a sequence has
 * one token, the query heads that share k and v, which are then read once.
 *
 * Vectors run along the queries, as in gemm.h, so k and v are numbers to broadcast, k by panels of keys and v by panels
 * of columns. Scores stay in scratch as [key][query of the tile]; the softmax runs down the keys with one query per
 * lane and needs no sum across lanes. A tile takes ATTENTION_ROWS keys (or columns of v) at once: of keys after the
 * last query only those that fill up the last tile are multiplied, and their scores are never read. On the diagonal,
 * and at the edge of a window, lanes take part that see the key. */
#ifndef LP_ATTENTION_H
#define LP_ATTENTION_H

#include "gemm/microkernel.h" /* T(tile) */
#include "gemm/packing.h"     /* pack_tokens, unpack_tokens */
#include "queries.h"          /* lp_queries, lp_span */
#include "softmax.h"          /* T(scale_scores), T(cap_scores), T(softmax) */

_Static_assert(LP_PANEL % ATTENTION_ROWS == 0, "what a tile takes at once lies side by side");

/* Sums of x (q or pattern) times a panel of w (k or v): ATTENTION_ROWS of it, or one for the last columns of a head
 * whose size is no multiple. */
typedef void attention_tile(float *c, const float *x, const float *w, size_t kc, size_t n_masked, int first);
#define ATTENTION_TILE(name, shape, n_vec, n_rows)                                                        \
    NOINLINE void name(float *c, const float *x, const float *w, size_t kc, size_t n_masked, int first) { \
        shape(tile)(c, x, w, kc, n_masked, first, n_vec, n_rows);                                         \
    }
#if NARROW_LANES < LANES
ATTENTION_TILE(rows_narrow, NARROW_T, 1, ATTENTION_ROWS)
ATTENTION_TILE(row_narrow, NARROW_T, 1, 1)
#else
#define rows_narrow NULL
#define row_narrow NULL
#endif
ATTENTION_TILE(rows_one, T, 1, ATTENTION_ROWS)
ATTENTION_TILE(row_one, T, 1, 1)
ATTENTION_TILE(rows_wide, T, 2, ATTENTION_ROWS)
ATTENTION_TILE(row_wide, T, 2, 1)
static attention_tile *const rows_tiles[] = {rows_narrow, rows_one, rows_wide}; /* by tile_kind */
static attention_tile *const row_tiles[] = {row_narrow, row_one, row_wide};

static size_t round_keys(size_t n) { return (n + ATTENTION_ROWS - 1) / ATTENTION_ROWS * ATTENTION_ROWS; }

static size_t attend_scratch(size_t n_keys, size_t head_dim) { return (round_keys(n_keys) + 2 * head_dim) * WIDE; }

#define SOON (2 * LP_PANEL) /* keys ahead that are prefetched */

/* For one token k and v are read once, from memory: without this, that takes half as long again as the products. */
INLINE void prefetch_floats(const float *x, size_t n) {
    for (size_t i = 0; i < n; i += LINE_FLOATS) __builtin_prefetch(x + i);
}

static void dot_keys(const lp_queries *t) {
    const lp_head *h = t->head;
    attention_tile *tile = rows_tiles[kind_of(t->width)];
    for (size_t key = t->first; key < t->n_keys; key += ATTENTION_ROWS) {
        const float *k = h->k + key / LP_PANEL * h->head_dim * LP_PANEL + key % LP_PANEL;
        if (h->one_token && key % LP_PANEL == 0 && key + SOON < t->n_keys)
            prefetch_floats(k + SOON * h->head_dim, LP_PANEL * h->head_dim);
        for (size_t d = 0; d < h->head_dim; d += LP_K_BLOCK)
            tile(t->s + key * t->width, t->q + d * t->width, k + d * LP_PANEL, lp_size_min(h->head_dim - d, LP_K_BLOCK),
                 0, d == 0);
    }
}

/* Keys key .. end of the tile's rows of a map. */
static void store_keys(const lp_queries *t, float *map, size_t key, size_t end) {
    size_t n = lp_head_keys(t->head);
    if (!map || key >= end) return;
    results to = {.y = map, .stride = n};
    unpack_tokens(&to, t->row * n + key, t->s + key * t->width, t->width, t->m, end - key, 0);
}

/* -inf for n keys; on_lines: they begin and end with cache lines. */
static void hide_keys(float *scores, size_t n, int on_lines) {
    size_t i = 0;
    for (; on_lines && i < n; i += LANES) V(store_nontemporal)(scores + i, V(set1)(-INFINITY));
    for (; i < n; i++) scores[i] = -INFINITY;
}

/* Whole rows of a map of scores: -inf before the keys in scratch and after them. (A pattern is 0 there already.) */
static void store_scores(const lp_queries *t, float *map) {
    size_t n = lp_head_keys(t->head);
    if (!map) return;
    store_keys(t, map, t->first, t->n_keys);
    map += t->row * n;
    int nontemporal = on_lines(&(results){.y = map, .stride = n}, 0, t->n_keys, t->width);
    for (size_t i = 0; i < t->m; i++, map += n) {
        hide_keys(map, t->first, nontemporal);
        hide_keys(map + t->n_keys, n - t->n_keys, nontemporal);
    }
}

/* scores to pattern, in place */
static void normalize(const lp_queries *t) {
    const lp_head *h = t->head;
    float most[WIDE];
    int narrow = t->width < LANES;
    for (size_t v = 0; v < t->width; v += LANES) (narrow ? NARROW_T(scale_scores) : T(scale_scores))(t, v, most + v);
    store_scores(t, h->scores_raw);
    for (size_t v = 0; h->cap != 0 && v < t->width; v += LANES)
        (narrow ? NARROW_T(cap_scores) : T(cap_scores))(t, v, most + v);
    store_scores(t, h->scores);
    if (!h->pattern && !h->z) return;
    for (size_t v = 0; v < t->width; v += LANES) (narrow ? NARROW_T(softmax) : T(softmax))(t, v, most + v);
}

/* How many of n keys are stored before each tile of columns, so that all are: whole cache lines. */
static size_t store_share(size_t n, size_t head_dim) {
    size_t n_tiles = head_dim / ATTENTION_ROWS + head_dim % ATTENTION_ROWS;
    return (n + n_tiles * LINE_FLOATS - 1) / (n_tiles * LINE_FLOATS) * LINE_FLOATS;
}

/* z += pattern x v for n columns of v and a block of keys at the edge of a window. */
NOINLINE void mix_edge(float *z, const float *pattern, const float *v, const lp_span *span, size_t width, size_t n) {
    if (width < LANES)
        (n == 1 ? NARROW_T(edge_row) : NARROW_T(edge_rows))(z, pattern, v, span, width);
    else
        (n == 1 ? T(edge_row) : T(edge_rows))(z, pattern, v, span, width);
}

/* The keys of `block` from `key` to `end`. */
static lp_span span_of(const lp_queries *t, size_t block, size_t key, size_t end) {
    /* where a window ends inside the tile, all keys are at its edge */
    int all_edge = t->window && t->window < t->m && !t->head->one_token;
    size_t edge = all_edge ? t->n_keys : edge_end(t, t->m0, t->m);
    edge = lp_size_min(edge > key ? edge : key, end);
    size_t diagonal = lp_size_min(t->m0 > edge ? t->m0 : edge, end), n_added = block > t->seen ? t->width : 0;
    /* the sum of query i has begun if the first key that it sees, i - W + 1, lies before the block */
    if (n_added && t->window && !t->head->one_token)
        n_added = block + t->window > t->m0 ? block + t->window - 1 - t->m0 : 0;
    return (lp_span){.n_edge = edge - key,
                     .edge = key + t->window - t->m0,
                     .window = t->window,
                     .n_whole = diagonal - edge,
                     .n_diagonal = end - diagonal,
                     .n_added = n_added};
}

/* z = pattern x v: blocks of keys, counted from key 0, each for all of z while the pattern is in L1. The diagonal lies
 * inside the last block, because tiles end at positions that are multiples of WIDE, which divides LP_K_BLOCK. */
_Static_assert(LP_K_BLOCK % WIDE == 0, "a tile of queries ends inside one block of keys");
static void mix_values(const lp_queries *t) {
    const lp_head *h = t->head;
    enum tile_kind kind = kind_of(t->width);
    for (size_t block = t->seen / LP_K_BLOCK * LP_K_BLOCK; block <= t->m0; block += LP_K_BLOCK) {
        size_t key = block > t->seen ? block : t->seen, end = lp_size_min(block + LP_K_BLOCK, t->n_keys);
        size_t stored = block > t->first ? block : t->first, share = store_share(end - stored, h->head_dim);
        const lp_span span = span_of(t, block, key, end);
        size_t before = span.n_whole, masked = span.n_diagonal;
        int first = !span.n_added, edged = span.n_edge || (!first && span.n_added < t->width);
        for (size_t d = 0, n; d < h->head_dim; d += n, stored += share) {
            n = h->head_dim - d < ATTENTION_ROWS ? 1 : ATTENTION_ROWS;
            store_keys(t, h->pattern, stored, lp_size_min(stored + share, end));
            const float *v = h->v + d / LP_PANEL * h->v_stride + key * LP_PANEL + d % LP_PANEL;
            if (h->one_token && d % LP_PANEL == 0 && end < t->n_keys)
                prefetch_floats(v + (end - key) * LP_PANEL, lp_size_min(LP_K_BLOCK, t->n_keys - end) * LP_PANEL);
            float *z = t->z + d * t->width, *pattern = t->s + key * t->width;
            if (edged)
                mix_edge(z, pattern, v, &span, t->width, n);
            else
                (n == 1 ? row_tiles : rows_tiles)[kind](z, pattern, v, before, masked, first);
        }
    }
}

static void attend(const lp_head *h, size_t tile, float *scratch) {
    size_t end, row = lp_head_tile(h, tile, WIDE, &end), window = h->window < lp_head_keys(h) ? h->window : 0;
    int soon = h->one_token || h->n_rows < NONTEMPORAL_TOKENS;
    for (size_t width; row < end; row += width) {
        width = tile_width(end - row);
        size_t m = lp_size_min(end - row, width), m0 = lp_head_position(h, row);
        size_t n_keys = lp_head_position(h, row + m - 1) + 1, seen = window && m0 >= window ? m0 + 1 - window : 0;
        float *q = scratch, *z = q + h->head_dim * width, *s = z + h->head_dim * width;
        lp_queries t = {h, row, m, width, m0, window, seen / SUM_LANES * SUM_LANES, seen, n_keys, q, s, z};
        pack_tokens(q, h->q + row * h->q_stride, h->q_stride, width, m, h->head_dim);
        dot_keys(&t);
        normalize(&t);
        if (!h->z) {
            store_keys(&t, h->pattern, t.first, n_keys);
            continue;
        }
        mix_values(&t);
        results to = {.y = h->z, .stride = h->q_stride};
        unpack_tokens(&to, row * h->q_stride, z, width, m, h->head_dim, soon);
    }
    V(nontemporal_end)();
}

#endif
