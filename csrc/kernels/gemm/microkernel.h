/* microkernel.h - sums of products over blocks of k, for a few rows of w and a few vectors of tokens.
 *
 * A template, see parameters.h. c, x and w as the callers lay them out:
 *   x [kc][n_vec * N]   the same k of n_vec * N tokens, packed
 *   w float32           widened rows [n_rows][K_PANEL] or [n_rows][LP_K_BLOCK], or a panel [kc][LP_PANEL]
 *   c [n_rows][n_vec * N]
 * Each sum is one chain of fused multiply-adds in the order of k, beginning at +0. The first block of k is stored,
 * later ones are added to what c holds. n_vec and n_rows are constants: all sums stay in registers. */
#ifndef LP_MICROKERNEL_H
#define LP_MICROKERNEL_H

#include "../queries.h"       /* lp_span */
#include "../simd/elements.h" /* lp_element_to_f32 */
#include "../simd/vector.h"   /* V, T, VEC */
#include "partition.h"        /* K_PANEL, CHUNK, MAX_ROWS */
#include "prefetch.h"         /* prefetch_lines */

INLINE void T(clear)(VEC acc[MAX_ROWS][MAX_VECS], const int n_vec, const int n_rows) {
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
}

/* One k: x [n_vec * N] times one number of each row of w. */
INLINE void T(step)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const float *w, size_t row_stride, const int n_vec,
                    const int n_rows) {
    VEC xs[MAX_VECS];
    UNROLL for (int v = 0; v < n_vec; v++) xs[v] = V(load)(x + (size_t)v * LP_N);
    UNROLL for (int r = 0; r < n_rows; r++) {
        VEC wr = V(set1)(w[(size_t)r * row_stride]);
        UNROLL for (int v = 0; v < n_vec; v++) V(fma_into)(&acc[r][v], wr, xs[v]);
    }
}

/* Four columns of a widened chunk, and on to the next ones. */
INLINE void T(four_steps)(VEC acc[MAX_ROWS][MAX_VECS], const float **x, const float **w, size_t row_stride,
                          const int paired, const int n_vec, const int n_rows) {
    UNROLL for (int u = 0; u < 4; u++)
        T(step)(acc, *x + (size_t)u * (size_t)n_vec * LP_N, *w + column_in_chunk(u, paired), row_stride, n_vec, n_rows);
    *x += 4 * (size_t)n_vec * LP_N;
    *w += paired ? 2 : 4;
}

/* A block's sums to c. */
INLINE void T(accumulate)(float *c, VEC acc[MAX_ROWS][MAX_VECS], int is_first_block, const int n_vec,
                          const int n_rows) {
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) {
        float *to = c + (r * n_vec + v) * LP_N;
        V(store)(to, is_first_block ? acc[r][v] : V(add)(V(load)(to), acc[r][v]));
    }
}

/* One block of attention, w by panels: kc columns and then `n_masked` more, of which column i counts for lanes (tokens)
 * >= i only, the diagonal of the causal mask. */
INLINE void T(tile)(float *c, const float *x, const float *w, size_t kc, size_t n_masked, int is_first_block,
                    const int n_vec, const int n_rows) {
    VEC acc[MAX_ROWS][MAX_VECS];
    T(clear)(acc, n_vec, n_rows);
    size_t k = 0;
    for (; k + 4 <= kc; k += 4, x += 4 * (size_t)n_vec * LP_N, w += 4 * LP_PANEL)
        UNROLL for (int u = 0; u < 4; u++)
            T(step)(acc, x + (size_t)u * (size_t)n_vec * LP_N, w + (size_t)u * LP_PANEL, 1, n_vec, n_rows);
    for (; k < kc; k++, x += (size_t)n_vec * LP_N, w += LP_PANEL) T(step)(acc, x, w, 1, n_vec, n_rows);
    for (size_t i = 0; i < n_masked; i++, x += (size_t)n_vec * LP_N, w += LP_PANEL)
        UNROLL for (int v = 0; v < n_vec; v++) {
            VEC xs = V(load)(x + (size_t)v * LP_N);
            size_t lane = i > (size_t)v * LP_N ? lp_size_min(i - (size_t)v * LP_N, LP_N) : 0;
            UNROLL for (int r = 0; r < n_rows; r++) {
                VEC sum = V(fma)(V(set1)(w[r]), xs, acc[r][v]);
                acc[r][v] = V(keep_from)(lane, sum, acc[r][v]);
            }
        }
    T(accumulate)(c, acc, is_first_block, n_vec, n_rows);
}

/* One k that counts for lanes low .. high of the tile alone, in its vector that begins with lane v. */
INLINE void T(masked_step)(VEC *acc, const float *x, const float *w, size_t low, size_t high, size_t v,
                           const int n_rows) {
    VEC xs = V(load)(x);
    low = low > v ? lp_size_min(low - v, LP_N) : 0, high = high > v ? lp_size_min(high - v, LP_N) : 0;
    UNROLL for (int r = 0; r < n_rows; r++) {
        VEC sum = V(fma)(V(set1)(w[r]), xs, acc[r]);
        acc[r] = V(keep_from)(low, V(keep_from)(high, acc[r], sum), acc[r]);
    }
}

/* A block of attention at the edge of a window, as T(tile) for any span. Few blocks have one: a vector after the other,
 * and apart from T(tile), whose sums would lose registers to the masks. */
INLINE void T(edge_tile)(float *c, const float *x, const float *w, const lp_span *span, size_t width,
                         const int n_rows) {
    for (size_t v = 0; v < width; v += LP_N) {
        VEC acc[MAX_ROWS][MAX_VECS], masked[MAX_ROWS];
        const float *xv = x + v, *wk = w;
        UNROLL for (int r = 0; r < n_rows; r++) masked[r] = V(zero)();
        for (size_t i = 0, end = span->edge; i < span->n_edge; i++, end++, xv += width, wk += LP_PANEL)
            T(masked_step)(masked, xv, wk, end > span->window ? end - span->window : 0, end, v, n_rows);
        UNROLL for (int r = 0; r < n_rows; r++) acc[r][0] = masked[r];
        for (size_t i = 0; i < span->n_whole; i++, xv += width, wk += LP_PANEL) T(step)(acc, xv, wk, 1, 1, n_rows);
        UNROLL for (int r = 0; r < n_rows; r++) masked[r] = acc[r][0];
        for (size_t i = 0; i < span->n_diagonal; i++, xv += width, wk += LP_PANEL)
            T(masked_step)(masked, xv, wk, i, width, v, n_rows);
        size_t n_added = span->n_added > v ? lp_size_min(span->n_added - v, LP_N) : 0;
        for (int r = 0; r < n_rows; r++) {
            float *to = c + (size_t)r * width + v;
            V(store)(to, V(keep_from)(n_added, masked[r], V(add)(V(load)(to), masked[r])));
        }
    }
}
NOINLINE void T(edge_rows)(float *c, const float *x, const float *w, const lp_span *span, size_t width) {
    T(edge_tile)(c, x, w, span, width, ATTENTION_ROWS);
}
NOINLINE void T(edge_row)(float *c, const float *x, const float *w, const lp_span *span, size_t width) {
    T(edge_tile)(c, x, w, span, width, 1);
}

/* out [CHUNK] from w [CHUNK]; the order of bf16 is that of is_paired(). */
INLINE void T(widen_chunk)(float *out, const char *w, lp_element element) {
    UNROLL for (size_t i = 0; i < CHUNK; i += is_paired(element) ? 2 * LP_N : LP_N) {
        const char *from = w + i * lp_element_bytes(element);
        if (is_paired(element)) {
            VEC even, odd;
            V(split_bf16)(&even, &odd, from);
            V(store)(out + i / 2, even);
            V(store)(out + i / 2 + CHUNK / 2, odd);
        } else {
            V(store)(out + i, V_WIDEN(from, element));
        }
    }
}

/* A row of a panel: out [n] from w [n]. Columns after the last whole chunk lie in their order. */
INLINE void T(widen_row)(float *out, const char *w, lp_element element, size_t n) {
    size_t i = 0, bytes = lp_element_bytes(element);
    for (; i + CHUNK <= n; i += CHUNK) T(widen_chunk)(out + i, w + i * bytes, element);
    for (; i < n; i++) out[i] = lp_element_to_f32(w + i * bytes, element);
}

/* kc columns of a panel's rows, block after block, while cache lines are prefetched. */
INLINE void T(multiply)(float *c, const float *x, const float *w, size_t kc, int is_first_block, prefetch_lines a,
                        const int paired, const int n_vec, const int n_rows) {
    const char *soon_x = a.x ? a.x : (const char *)x, *soon_w = a.w ? a.w : (const char *)x;
    size_t x_step = a.x ? X_STEP : 0, k = 0, chunk = 0;
    do {
        size_t end = lp_size_min(k + LP_K_BLOCK, kc);
        VEC acc[MAX_ROWS][MAX_VECS];
        T(clear)(acc, n_vec, n_rows);
        for (; k + CHUNK <= end; k += CHUNK) {
            for (size_t i = 0; i < CHUNK / 8; i++, soon_w += 2 * a.w_step, soon_x += x_step) {
                __builtin_prefetch(soon_w, 0, 2);
                __builtin_prefetch(soon_x, 0, 2);
                __builtin_prefetch(soon_x + 64, 0, 2);
                T(four_steps)(acc, &x, &w, K_PANEL, paired, n_vec, n_rows);
                __builtin_prefetch(soon_w + a.w_step, 0, 2);
                __builtin_prefetch(soon_x + 128, 0, 2);
                __builtin_prefetch(soon_x + 192, 0, 2);
                T(four_steps)(acc, &x, &w, K_PANEL, paired, n_vec, n_rows);
            }
            w += paired ? CHUNK / 2 : 0;
            if (++chunk == a.n_chunks) chunk = 0, a.w += a.pitch, soon_w = a.w;
        }
        for (; k < end; k++) {
            T(step)(acc, x, w, K_PANEL, n_vec, n_rows);
            x += (size_t)n_vec * LP_N;
            w++;
        }
        T(accumulate)(c, acc, is_first_block, n_vec, n_rows);
        is_first_block = 0;
    } while (k < kc);
}

#endif
