/* kernels.h - the table of hot loops: one row per instruction set, every row with the same bits.
 *
 * The arithmetic is the canonical one of docs/arithmetic.md. Kernels compute on one thread, allocate nothing and
 * know no tensor; ops.c cuts the work and hands out scratch.
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

#define LP_MOST_PEAK_SUMS 384 /* independent sums of multiply_add in any row */

/* One matrix of a product and where its results go. Results that nobody asked for are NULL. */
typedef struct {
    const lp_weight *w;    /* [n_rows, k] */
    const lp_weight *bias; /* [n_rows] of the same element type; without data, or NULL: none */
    float *y;              /* [m, n_rows] */
    const float *add;      /* [m, n_rows]: the residual stream, or NULL */
    float *sum;            /* [m, n_rows]: add + y */
} lp_factor;

/* Up to three matrices that share x. When `gated`, there are two, gate and up, of one shape: act = silu(gate) and
 * hidden = act * up are made while the tiles are in cache. */
typedef struct {
    size_t m, k;
    const float *x;  /* [m, k] */
    float *x_packed; /* lp_kernels.packed_size(m, k) floats, 64-byte aligned */
    lp_factor factor[3];
    size_t n_factors;
    int gated;
    float *act, *hidden; /* [m, n_rows], or NULL */
} lp_product;

/* Keys, or columns of v, that lie side by side: a tile finds its numbers at fixed places, one line after the other. */
#define LP_PANEL 8

/* Causal attention of one sequence. k and v lie together, head by head: rows that were as far apart as tokens are would
 * fall into a few sets of the caches. q and k are after RoPE. The last panel of k is whole: what follows the last key
 * in it is read, and may be anything. */
typedef struct {
    size_t n_tokens, head_dim;
    const float *q; /* rows q_stride floats apart */
    const float *k; /* column d of token t at [(t / LP_PANEL * head_dim + d) * LP_PANEL + t % LP_PANEL] */
    const float *v; /* column d of token t at [d / LP_PANEL * v_stride + t * LP_PANEL + d % LP_PANEL] */
    size_t q_stride, v_stride;
    float *z; /* as q; v and z are NULL when only the maps are wanted */
    float scale;
    float *scores;  /* [n_tokens, n_tokens] of this head, or NULL */
    float *pattern; /* the same, zeros: keys after the query are not written */
} lp_head;

typedef struct {
    const char *name;
    size_t row_unit;     /* rows of w per tile: bands are multiples of it */
    size_t band_rows[2]; /* of each factor: not gated, gated */
    size_t band_macs;    /* multiply-adds of one job at most, so that a run can be stopped */

    /* x to x_packed, in pack_units(p) independent units; none when x is used as it lies. */
    size_t (*packed_size)(size_t m, size_t k);
    size_t (*pack_units)(const lp_product *p);
    void (*pack)(const lp_product *p, size_t unit);

    /* n rows from `row` of one factor (of both when gated), a band of band_rows after the other: few large calls are
     * faster than many small ones. scratch: band_scratch(m) floats, 64-byte aligned. */
    size_t (*band_scratch)(size_t m);
    void (*bands)(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch);

    /* Queries q_tile * i and on of one head. scratch: attend_scratch(n_tokens, head_dim) floats. */
    size_t q_tile;
    size_t (*attend_scratch)(size_t n_tokens, size_t head_dim);
    void (*attend)(const lp_head *h, size_t i, float *scratch);

    /* One row each. Results may be NULL. rms_norm: inverse = 1 / rms before it was rounded, unit = x * inverse,
     * out = gain * unit. scale_row: unit = x * scale, out = gain * unit. */
    void (*rms_norm)(float *rms, float *inverse, float *unit, float *out, const float *x, const lp_weight *gain,
                     double eps, size_t d);
    void (*scale_row)(float *unit, float *out, const float *x, float scale, const lp_weight *gain, size_t d);
    /* out[n_heads, head_dim] from x; cos and sin are [head_dim / 2]. */
    void (*rope)(float *out, const float *x, const float *cos, const float *sin, size_t n_heads, size_t head_dim);
    void (*widen)(float *out, const void *w, lp_word word, size_t n);
    /* out may be x. */
    void (*exp)(float *out, const float *x, size_t n);
    void (*silu)(float *out, const float *x, size_t n);
    /* z [head_dim] of one query: the sum of pattern[key] * v[key], whose rows are v_stride floats apart. */
    void (*mix)(float *z, const float *pattern, const float *v, size_t v_stride, size_t n_keys, size_t head_dim);

    /* For the roof. Every sum gets 0.5 * 0.25 in each round; every float is read (n is a multiple of 64). */
    size_t peak_sums;
    void (*multiply_add)(float *sums, size_t n_rounds);
    float (*read_all)(const float *x, size_t n);
} lp_kernels;

/* The row in use: the best that the CPU has, or the one that LLAMAPROBE_KERNELS names. NULL: LP_EARG for a name
 * that is not in this build, LP_EUNSUPPORTED for a row that the CPU lacks. It reads the environment, which in Python
 * other threads may move while they hold the GIL: call it with the GIL, before the work. */
const lp_kernels *lp_kernels_get(lp_error *err);

/* Software-prefetch pattern of weights: sequential (AMD), or per row at a short distance (Intel); docs/speed.md. The
 * bits are the same. */
int lp_kernels_in_order(void);
void lp_kernels_set_in_order(int in_order); /* for tests */

/* All rows of this build, best last. */
size_t lp_kernels_count(void);
const lp_kernels *lp_kernels_at(size_t i);
const char *lp_kernels_name(size_t i);
int lp_kernels_supported(size_t i);

#endif
