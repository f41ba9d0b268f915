/* gemv.h - products of 1 to GEMV_TOKENS tokens, for which vectors along tokens would be mostly idle: vectors along rows
 * of w.
 *
 * A template, see parameters.h; what the widths share stands at the end. N rows of w are transposed in registers as
 * they are read and multiplied at once; nothing is stored in between. Two blocks of k run side by side, because the sum
 * of one block is a chain that waits for itself; their sums are added in order. */
#ifndef LP_GEMV_H
#define LP_GEMV_H

#include <string.h>

#include "../simd/elements.h" /* lp_element_to_f32 */
#include "../simd/vector.h"   /* V, T, VEC */
#include "../dequant/lanes.h" /* dot_lanes */
#include "packed_panel.h"     /* dequantise_panel */
#include "partition.h"        /* lp_band */

#define MOST_BLOCKS 4    /* that run side by side: of one token, 4 of float32 in L1, else 2 */
#define GEMV_ROWS 16     /* of a packed weight that are dequantised together; of transposed kinds a whole band */
#define GEMV_COLUMNS 256 /* the same: a whole panel, so that scales of superblocks are computed once */
#define GEMV_SOON 512    /* columns: the prefetch distance within a row, where the pattern is not sequential */

/* Columns 0 .. N of N rows that are `stride` bytes apart: c[j] lane r = row r, column j. */
INLINE void T(columns)(VEC *c, const char *w, size_t stride, lp_element element) {
    if (element == LP_ELEMENT_BF16) {
        V(columns_bf16)(c, w, stride);
        return;
    }
    UNROLL for (size_t r = 0; r < LP_N; r++) c[r] = V_WIDEN(w + r * stride, element);
    V(transpose)(c);
}

/* The one column at w. */
INLINE VEC T(column)(const char *w, size_t stride, lp_element element) {
    float c[LP_N];
    for (size_t r = 0; r < LP_N; r++) c[r] = lp_element_to_f32(w + r * stride, element);
    return V(load)(c);
}

/* Prefetches the lines of N x N elements, after `n_done` such steps: sequentially, of the rows that follow; or else of
 * these rows, GEMV_SOON columns after `column`, and past their end of the rows that follow. */
INLINE void T(gemv_prefetch)(const char *w, size_t k, size_t column, size_t n_done, size_t bytes, int sequential) {
    const size_t n_lines = LP_N * LP_N * bytes / 64, stride = k * bytes;
    if (sequential) {
        const char *next = w + LP_N * stride + n_done * n_lines * 64;
        for (size_t line = 0; line < n_lines; line++) __builtin_prefetch(next + line * 64, 0, 2);
        return;
    }
    size_t soon = column + GEMV_SOON, row = column / LP_N * n_lines % LP_N;
    if (soon >= k) soon += (LP_N - 1) * k; /* the next rows lie behind these without a gap */
    const char *from = w + row * stride + soon * bytes;
    for (size_t line = 0; line < n_lines; line++) __builtin_prefetch(from + line * stride, 0, 2);
}

/* total[t] = or += the sums of n_blocks blocks of kc columns from `at` on of N rows at w, `stride` bytes apart, for
 * n_tokens rows of x. */
INLINE void T(gemv_blocks)(VEC *total, const float *x, const char *w, size_t n_columns, size_t stride,
                           lp_element element, size_t at, size_t kc, int is_first, int sequential, const int prefetched,
                           const int n_blocks, const int n_tokens) {
    const size_t bytes = lp_element_bytes(element);
    size_t k = 0;
    VEC acc[MOST_BLOCKS][GEMV_TOKENS];
    UNROLL for (int b = 0; b < n_blocks; b++) UNROLL for (int t = 0; t < n_tokens; t++) acc[b][t] = V(zero)();
    for (; k + LP_N <= kc; k += LP_N) {
        UNROLL for (int b = 0; b < n_blocks; b++) {
            VEC c[LP_N];
            size_t column = at + k + (size_t)b * LP_K_BLOCK, n_done = (at + n_blocks * k) / LP_N + (size_t)b;
            if (prefetched) T(gemv_prefetch)(w, n_columns, column, n_done, bytes, sequential);
            T(columns)(c, w + column * bytes, stride, element);
            UNROLL for (int j = 0; j < LP_N; j++) UNROLL for (int t = 0; t < n_tokens; t++) {
                VEC xk = V(set1)(x[(size_t)t * n_columns + column + (size_t)j]);
                V(fma_into)(&acc[b][t], xk, c[j]);
            }
        }
    }
    for (; k < kc; k++) { /* n_blocks is 1 here: blocks that run side by side are whole */
        VEC c = T(column)(w + (at + k) * bytes, stride, element);
        UNROLL for (int t = 0; t < n_tokens; t++) {
            VEC xk = V(set1)(x[(size_t)t * n_columns + at + k]);
            V(fma_into)(&acc[0][t], xk, c);
        }
    }
    UNROLL for (int b = 0; b < n_blocks; b++) UNROLL for (int t = 0; t < n_tokens; t++) total[t] =
        is_first && b == 0 ? acc[b][t] : V(add)(total[t], acc[b][t]);
}

/* out [n_tokens][pitch], N numbers of each row: x [n_tokens, k] times N rows of w. The pitch is always N; without the
 * argument gcc 12 spills more, and one token of float32 takes 5 to 17 % longer on AVX-512. */
INLINE void T(gemv)(float *out, size_t pitch, const float *x, const char *w, size_t k, lp_element element,
                    int sequential, const int n_tokens) {
    const size_t stride = k * lp_element_bytes(element);
    size_t at = 0;
    VEC total[GEMV_TOKENS] = {V(zero)()};
    for (; at + 2 * LP_K_BLOCK <= k; at += 2 * LP_K_BLOCK)
        T(gemv_blocks)(total, x, w, k, stride, element, at, LP_K_BLOCK, at == 0, sequential, 1, 2, n_tokens);
    for (; at < k; at += LP_K_BLOCK)
        T(gemv_blocks)(total, x, w, k, stride, element, at, lp_size_min(k - at, LP_K_BLOCK), at == 0, sequential, 1, 1,
                       n_tokens);
    UNROLL for (int t = 0; t < n_tokens; t++) V(store)(out + (size_t)t * pitch, total[t]);
}

/* c [n_tokens][N] = or += the sums of kc columns of N rows of float32 in L1, K_PANEL floats apart; x [n_tokens,
 * n_columns] from the first of these columns on. */
INLINE void T(gemv_panel)(float *c, const float *x, size_t n_columns, const float *w, size_t kc, int is_first,
                          const int n_tokens) {
    const char *rows = (const char *)w;
    const size_t stride = K_PANEL * sizeof *w;
    size_t at = 0;
    VEC total[GEMV_TOKENS] = {V(zero)()};
    if (!is_first) UNROLL for (int t = 0; t < n_tokens; t++) total[t] = V(load)(c + t * LP_N);
    const int n_blocks = n_tokens == 1 ? MOST_BLOCKS : 2;
    for (; at + n_blocks * LP_K_BLOCK <= kc; at += n_blocks * LP_K_BLOCK)
        T(gemv_blocks)(total, x, rows, n_columns, stride, LP_ELEMENT_F32, at, LP_K_BLOCK, is_first && at == 0, 0, 0,
                       n_blocks, n_tokens);
    for (size_t n; at < kc; at += n) {
        n = lp_size_min(kc - at, LP_K_BLOCK);
        T(gemv_blocks)(total, x, rows, n_columns, stride, LP_ELEMENT_F32, at, n, is_first && at == 0, 0, 0, 1,
                       n_tokens);
    }
    UNROLL for (int t = 0; t < n_tokens; t++) V(store)(c + t * LP_N, total[t]);
}

#define GEMV(n_tokens, name, element)                                                                            \
    NOINLINE void T(gemv_##n_tokens##_##name)(float *out, size_t pitch, const float *x, const char *w, size_t k, \
                                              int sequential) {                                                  \
        T(gemv)(out, pitch, x, w, k, element, sequential, n_tokens);                                             \
    }
#define GEMV_PANEL(n_tokens)                                                                                      \
    NOINLINE void T(gemv_panel_##n_tokens)(float *c, const float *x, size_t n_columns, const float *w, size_t kc, \
                                           int is_first) {                                                        \
        T(gemv_panel)(c, x, n_columns, w, kc, is_first, n_tokens);                                                \
    }
#define GEMV_OTHERS(n_tokens) \
    GEMV_PANEL(n_tokens) GEMV(n_tokens, f16, LP_ELEMENT_F16) GEMV(n_tokens, f32, LP_ELEMENT_F32)
#if LP_N == NARROW_LANES
GEMV(1, bf16, LP_ELEMENT_BF16)
GEMV_OTHERS(1)
GEMV_OTHERS(2)
GEMV_OTHERS(3)
GEMV_OTHERS(4)
#endif
#if LP_N == NARROW_LANES || GEMV_WIDE
GEMV(2, bf16, LP_ELEMENT_BF16)
GEMV(3, bf16, LP_ELEMENT_BF16)
GEMV(4, bf16, LP_ELEMENT_BF16)
#endif

#if LP_N == LANES

typedef void gemv_function(float *out, size_t pitch, const float *x, const char *w, size_t k, int sequential);
typedef void gemv_panel_function(float *c, const float *x, size_t n_columns, const float *w, size_t kc, int is_first);

static gemv_function *const gemv_functions[GEMV_TOKENS][3] = {
#define GEMV_OF(n_tokens) \
    {NARROW_T(gemv_##n_tokens##_bf16), NARROW_T(gemv_##n_tokens##_f16), NARROW_T(gemv_##n_tokens##_f32)}
    GEMV_OF(1), GEMV_OF(2), GEMV_OF(3), GEMV_OF(4)};
#if GEMV_WIDE
static gemv_function *const gemv_wide[GEMV_TOKENS] = {NULL, T(gemv_2_bf16), T(gemv_3_bf16), T(gemv_4_bf16)};
#endif

/* Rows of w in the vector that begins where `left` rows are still to do, and the function for them. The columns of f16
 * and f32 would not fit into the registers; one token is bound by memory, and reads fewer rows side by side. */
static gemv_function *gemv_of(size_t *lanes, size_t left, size_t n_tokens, lp_element element) {
#if GEMV_WIDE
    if (left >= LANES && n_tokens > 1 && element == LP_ELEMENT_BF16) {
        *lanes = LANES;
        return gemv_wide[n_tokens - 1];
    }
#endif
    (void)left;
    *lanes = NARROW_LANES;
    return gemv_functions[n_tokens - 1][element];
}

/* A stripe's sums [token][height]. */
static void gemv_stripe(lp_band *b, float *sums, const lp_weight *w) {
    const lp_product *p = b->p;
    int sequential = lp_kernels_prefetch_sequential();
    for (size_t r = 0, lanes; r < b->n_rows; r += lanes) {
        gemv_function *gemv = gemv_of(&lanes, b->n_rows - r, p->m, w->element);
        /* the last vector of a matrix begins earlier: rows that were done are done again */
        size_t row = lp_size_min(b->row + r, w->n_rows - lanes);
        float *out = sums + r, part[GEMV_TOKENS * LANES];
        gemv(part, lanes, p->x, lp_weight_at(w, row, 0), p->k, sequential);
        size_t skip = b->row + r - row, n = lp_size_min(lanes - skip, b->n_rows - r);
        for (size_t t = 0; t < p->m; t++) memcpy(out + t * b->height, part + t * lanes + skip, n * sizeof *out);
    }
}

/* The same for n rows of a packed weight, n <= BAND_ROWS, that are dequantised panel by panel. */
static void gemv_packed_rows(lp_band *b, float *sums, const lp_weight *w, size_t row, size_t n) {
    static gemv_panel_function *const panels[] = {NARROW_T(gemv_panel_1), NARROW_T(gemv_panel_2),
                                                  NARROW_T(gemv_panel_3), NARROW_T(gemv_panel_4)};
    const lp_product *p = b->p;
    size_t lanes = NARROW_LANES, n_wide = (n + lanes - 1) / lanes * lanes, m = p->m;
    float *wide = b->wide[0], part[BAND_ROWS * GEMV_TOKENS];              /* [n_wide / lanes][m][lanes] */
    memset(wide + n * K_PANEL, 0, (n_wide - n) * K_PANEL * sizeof *wide); /* computed too, and never read */
    for (size_t k = 0, kc; k < p->k; k += kc) {
        kc = lp_size_min(p->k - k, GEMV_COLUMNS);
        dequantise_panel(wide, K_PANEL, w, row, n, k, kc);
        for (size_t r = 0; r < n; r += lanes) panels[m - 1](part + r * m, p->x + k, p->k, wide + r * K_PANEL, kc, !k);
    }
    for (size_t r = 0; r < n; r += lanes)
        for (size_t t = 0; t < m; t++)
            memcpy(sums + t * b->height + r, part + r * m + t * lanes, lp_size_min(lanes, n - r) * sizeof *sums);
}

/* Rows from r on of a stripe of a packed weight, in lanes: how many. 0: they are dequantised first, which for several
 * tokens is less work where rows are to be turned. */
static size_t gemv_lanes(lp_band *b, float *sums, const lp_weight *w, size_t r) {
    const lp_product *p = b->p;
    size_t n = 0, left = b->n_rows - r;
    if (p->m > 2 && !lp_packed_is_transposed(w->packed->kind)) return 0;
    for (size_t t = 0; t < p->m && (t == 0 || n); t++)
        n = dot_lanes(sums + t * b->height + r, p->x + t * p->k, w, b->row + r, left);
    return n;
}

static void gemv_packed_stripe(lp_band *b, float *sums, const lp_weight *w) {
    size_t at_once = lp_packed_is_transposed(w->packed->kind) ? BAND_ROWS : GEMV_ROWS;
    for (size_t r = 0, n; r < b->n_rows; r += n) {
        n = gemv_lanes(b, sums, w, r);
        if (n) continue;
        n = lp_size_min(b->n_rows - r, at_once);
        gemv_packed_rows(b, sums + r, w, b->row + r, n);
    }
}

/* Rows of all stripes: sums [token][height], from which the results are made row by row. */
static void gemv_band(lp_band *b) {
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_weight *w = b->factor[s].w;
        (w->packed ? gemv_packed_stripe : gemv_stripe)(b, b->sums + s * b->pitch, w);
    }
}

#endif

#endif
