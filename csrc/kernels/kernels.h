/* kernels.h - the table of hot loops: one variant per instruction set, all with the same bits.
 *
 * The arithmetic is the canonical one of docs/arithmetic.md; docs/kernels.md draws the loops. Kernels compute on one
 * thread, allocate nothing and know no tensor; ops/ cuts the work and hands out scratch.
 *
 * A product is y[m, n] = sum_k x[m, k] w[n, k]. Vectors run along m: x is packed once so that the same k of
 * several tokens is one vector load, and w needs no transpose, only widening to float32, whose numbers are then
 * broadcast. For few tokens, where most lanes would be idle, w is transposed in registers instead. */
#ifndef LP_KERNELS_H
#define LP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"  /* lp_error */
#include "../base/weight.h" /* lp_weight */

#define LP_ARITHMETIC_VERSION 1 /* of docs/arithmetic.md: runs of another version have other bits */
#define LP_K_BLOCK 64           /* k is summed in blocks of this many; part of the canonical arithmetic */

#define LP_MOST_PEAK_SUMS 384 /* independent sums of multiply_add in any variant */

typedef enum {
    LP_SILU,      /* x / (1 + e^-x) */
    LP_GELU_TANH, /* (x / 2) (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
} lp_activation;

/* One matrix of a product and where its results go; NULL: not requested. */
typedef struct {
    const lp_weight *w;    /* [n_rows, k] */
    const lp_weight *bias; /* [n_rows], not packed; NULL, or without data: none */
    float *y;              /* [m, n_rows] */
    const float *add;      /* [m, n_rows]: the residual stream, or NULL */
    float *sum;            /* [m, n_rows]: add + y */
} lp_factor;

/* Up to three matrices that share x. When `gated`, there are two, gate and up, of one shape: act = activation(gate) and
 * hidden = act * up are made while the tiles are in cache. */
typedef struct {
    size_t m, k;
    const float *x;  /* [m, k] */
    float *x_packed; /* lp_kernels.packed_size(m, k) floats, 64-byte aligned */
    lp_factor factor[3];
    size_t n_factors;
    int gated;
    lp_activation activation;
    float *act, *hidden; /* [m, n_rows], or NULL */
} lp_product;

/* Keys, or columns of v, that lie side by side: what a tile broadcasts is consecutive in memory. */
#define LP_PANEL 8

/* Causal attention of one kv head of one sequence. Rows of q are queries: the tokens of one query head, row i at
 * position n_past + i, or the query heads that share k and v, all of the one token at position n_past. A query at
 * position p sees the keys up to p or, with a window, the last `window` of them; keys count from the first token of the
 * sequence. q and k are after RoPE. k and v are packed by head: rows as far apart as tokens would fall into a few sets
 * of the caches. The last panel of k is whole: what follows the last key in it is read, and may be anything. */
typedef struct {
    size_t n_rows, n_past, head_dim;
    int one_token;  /* rows are heads */
    const float *q; /* rows q_stride floats apart */
    const float *k; /* column d of key t at [(t / LP_PANEL * head_dim + d) * LP_PANEL + t % LP_PANEL] */
    const float *v; /* column d of key t at [d / LP_PANEL * v_stride + t * LP_PANEL + d % LP_PANEL] */
    size_t q_stride, v_stride;
    float *z; /* as q; v and z are NULL when only the maps are requested */
    float scale;
    float cap;         /* scores = cap * tanh(scores_raw / cap); 0: none */
    size_t window;     /* 0: none */
    float *scores_raw; /* [n_rows, keys], before the cap, or NULL */
    float *scores;     /* the same, after it */
    float *pattern;    /* the same, zeros: keys that the query does not see may not be written */
} lp_head;

/* The position of a row, and the keys of the sequence: one more than the last position. */
static inline size_t lp_head_position(const lp_head *h, size_t row) { return h->n_past + (h->one_token ? 0 : row); }
static inline size_t lp_head_keys(const lp_head *h) { return lp_head_position(h, h->n_rows - 1) + 1; }

/* Tiles of queries are cut at positions that are multiples of q_tile, so that no tile crosses an edge of the blocks of
 * keys; heads of one token are cut at any multiple of it. */
static inline size_t lp_head_first_tile(const lp_head *h, size_t q_tile) {
    return h->one_token ? 0 : h->n_past / q_tile;
}
static inline size_t lp_head_end_tile(const lp_head *h, size_t q_tile) {
    return ((h->one_token ? 0 : h->n_past) + h->n_rows + q_tile - 1) / q_tile;
}
/* The first row of a tile, and one past the last. */
static inline size_t lp_head_tile(const lp_head *h, size_t tile, size_t q_tile, size_t *end) {
    size_t before = h->one_token ? 0 : h->n_past, begin = tile * q_tile;
    *end = begin + q_tile - before < h->n_rows ? begin + q_tile - before : h->n_rows;
    return begin > before ? begin - before : 0;
}

typedef struct {
    const char *name;
    size_t row_unit;     /* bands are multiples of so many rows of w */
    size_t band_rows[2]; /* of each factor: not gated, gated */
    size_t band_macs;    /* multiply-adds of one job at most, so that a run can be stopped */

    /* x to x_packed [tile][k][tokens of the tile], in pack_units(p) independent units; 0: x is used as it lies. */
    size_t (*packed_size)(size_t m, size_t k);
    size_t (*pack_units)(const lp_product *p);
    void (*pack)(const lp_product *p, size_t unit);

    /* n_rows rows from `row` of one factor (of both when gated), band by band: the weights of the next band are
     * prefetched, so few large calls are faster than many small ones. scratch: band_scratch(m) floats, which
     * is no less for more tokens, 64-byte aligned. */
    size_t (*band_scratch)(size_t m);
    void (*bands)(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch);

    /* One tile of queries, as above; q_tile divides LP_K_BLOCK. scratch: attend_scratch(keys, head_dim) floats. */
    size_t q_tile;
    size_t (*attend_scratch)(size_t n_keys, size_t head_dim);
    void (*attend)(const lp_head *h, size_t tile, float *scratch);

    /* x [d] of one token. Results may be NULL. rms_norm: inverse = 1 / rms before it was rounded, unit = x * inverse,
     * out = (gain + offset) * unit. scale_row: unit = x * scale, out = (gain + offset) * unit. */
    void (*rms_norm)(float *rms, float *inverse, float *unit, float *out, const float *x, const lp_weight *gain,
                     float offset, double eps, size_t d);
    void (*scale_row)(float *unit, float *out, const float *x, float scale, const lp_weight *gain, float offset,
                      size_t d);
    /* out [n_heads, head_dim] from x; cos and sin [half]. Floats of a head from 2 * half on are copied. */
    void (*rope)(float *out, const float *x, const float *cos, const float *sin, size_t n_heads, size_t head_dim,
                 size_t half, int interleaved);
    void (*widen)(float *out, const void *w, lp_element element, size_t n);
    /* Rows row .. row + n_rows and columns column .. column + n_columns of a packed weight, to rows of `out` that are
     * `stride` floats apart. column is a multiple of LP_K_BLOCK. */
    void (*dequantise)(float *out, size_t stride, const lp_weight *w, size_t row, size_t n_rows, size_t column,
                       size_t n_columns);
    /* out may be x. */
    void (*exp)(float *out, const float *x, size_t n);
    void (*activate)(lp_activation activation, float *out, const float *x, size_t n);
    void (*cap)(float *out, const float *x, float cap, size_t n); /* cap * tanh(x / cap) */
    /* z [head_dim] of one query: the sum of pattern[key] * v[key] for keys first .. end, rows of v v_stride floats
     * apart. */
    void (*mix)(float *z, const float *pattern, const float *v, size_t v_stride, size_t first, size_t end,
                size_t head_dim);

    /* For the roof. Every sum gets 0.5 * 0.25 in each round; every float is read (n is a multiple of 64). */
    size_t peak_sums;
    void (*multiply_add)(float *sums, size_t n_rounds);
    float (*read_all)(const float *x, size_t n);
} lp_kernels;

/* The variant in use: the CPU's best, or the one that LLAMAPROBE_KERNELS names. NULL: LP_EARG for a name that is not in
 * this build, LP_EUNSUPPORTED for a variant that the CPU lacks. It reads the environment, which other threads of Python
 * may change while they hold the GIL: call it with the GIL, before the work. */
const lp_kernels *lp_kernels_get(lp_error *err);

/* Software-prefetch pattern of weights: sequential (AMD), or per row at a short distance (Intel). The bits are the
 * same. */
int lp_kernels_prefetch_sequential(void);
void lp_kernels_set_prefetch_sequential(int sequential); /* for tests */

/* All variants of this build, best last. */
size_t lp_kernels_count(void);
const lp_kernels *lp_kernels_at(size_t i);
int lp_kernels_supported(size_t i);

#endif
