/* microkernel_prefetch.h - the sums of microkernel.h, while the weights that come next are widened between the
 * products.
 *
 * A template, see parameters.h. Widening first and multiplying then leaves the multipliers idle while weights arrive:
 * for a fifth of the time at 8 tokens, for a tenth at 128. Here a few rows at a time are widened between the products
 * of what was widened before, and the lines to be widened after them are prefetched. T(multiply_widening) is the first
 * of several tiles and widens the next panel for all; T(stream) is the only tile and widens block by block. */
#ifndef LP_MICROKERNEL_PREFETCH_H
#define LP_MICROKERNEL_PREFETCH_H

#include <stdint.h>
#include <string.h>

#include "microkernel.h"

#define SOON_BYTES 512 /* prefetch distance within a row, where the pattern is not sequential */
#define SOON_ROWS 2    /* how many rows ahead of what is widened lines come into L1, out of L2 or further away */

/* ---- the first of several tiles ---- */

/* The next chunk, row after row: a line that two chunks share is still there for the second. */
INLINE void T(widen_next)(next_panel *next, lp_element element) {
    const size_t bytes = lp_element_bytes(element), chunk = CHUNK * bytes;
    T(widen_chunk)(next->to, next->from, element);
    for (size_t line = 0; line < chunk; line += 64)
        __builtin_prefetch(next->from + SOON_ROWS * next->stride + line, 0, 3);
    if (next->after)
        for (size_t line = 0; line < chunk; line += 64) __builtin_prefetch(next->from + next->after + line, 0, 2);
    next->to += CHUNK, next->from += chunk, next->column += CHUNK;
    if (next->column < next->n) return;
    next->to += K_PANEL - next->n, next->from += next->stride - next->n * bytes, next->column = 0;
}

/* A panel of a tile, while a panel of as many rows is widened. kc is a multiple of CHUNK. */
INLINE void T(multiply_widening)(float *c, const float *x, const float *w, size_t kc, int is_first_block,
                                 next_panel next, lp_element element, const int n_vec, const int n_rows) {
    const int paired = is_paired(element);
    size_t k = 0;
    do {
        size_t end = lp_size_min(k + LP_K_BLOCK, kc), end_of_next = lp_size_min(end, next.n);
        VEC acc[MAX_ROWS][MAX_VECS];
        T(clear)(acc, n_vec, n_rows);
        for (; k < end_of_next; k += CHUNK) {
            for (int part = 0; part < n_rows / 3; part++) {
                UNROLL for (int r = 0; r < 3; r++) T(widen_next)(&next, element);
                for (int i = 0; i < CHUNK * 3 / n_rows; i += 4)
                    T(four_steps)(acc, &x, &w, K_PANEL, paired, n_vec, n_rows);
            }
            w += paired ? CHUNK / 2 : 0;
        }
        for (; k < end; k += CHUNK) {
            for (int i = 0; i < CHUNK; i += 4) T(four_steps)(acc, &x, &w, K_PANEL, paired, n_vec, n_rows);
            w += paired ? CHUNK / 2 : 0;
        }
        T(accumulate)(c, acc, is_first_block, n_vec, n_rows);
        is_first_block = 0;
    } while (k < kc);
}

/* ---- the only tile ---- */

/* As T(widen_chunk), to where only such chunks went before, and zeros before them. */
INLINE void T(spread_chunk)(float *out, const char *w, lp_element element) {
#if SPREAD_BF16
    if (is_paired(element)) {
        UNROLL for (size_t i = 0; i < CHUNK / 2; i += LP_N) V(spread_bf16)(out + i, out + CHUNK / 2 + i, w + 4 * i);
        return;
    }
#endif
    T(widen_chunk)(out, w, element);
}

INLINE void T(stream_block)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const float *w, next_block next,
                            lp_element element, const int n_vec, const int n_rows) {
    const int paired = is_paired(element);
    const size_t bytes = lp_element_bytes(element);
    for (size_t column = 0; column < LP_K_BLOCK; column += CHUNK) {
        for (int part = 0; part < n_rows / 3; part++) {
            UNROLL for (int r = 0; r < 3; r++) {
                size_t row = (size_t)(3 * part + r);
                T(spread_chunk)(next.to + row * LP_K_BLOCK + column, next.from + row * next.stride + column * bytes,
                                element);
                const char *after = next.after + row * next.after_row + column / CHUNK * next.after_column;
                for (size_t line = 0; line < CHUNK * bytes; line += 64) __builtin_prefetch(after + line, 0, 2);
            }
            for (int i = 0; i < CHUNK * 3 / n_rows; i += 4)
                T(four_steps)(acc, &x, &w, LP_K_BLOCK, paired, n_vec, n_rows);
        }
        w += paired ? CHUNK / 2 : 0;
    }
}

/* Where column `column` of the rows lies: past their end the next ones begin. */
INLINE const char *T(column_at)(const row_stream *s, size_t column, size_t bytes) {
    return column < s->k ? s->rows + column * bytes : s->next + (column - s->k) * bytes;
}

/* Widens the first block of the rows. */
INLINE void T(stream_begin)(const row_stream *s, lp_element element, const int n_rows) {
    float *to = s->ring + (size_t)s->half * MAX_ROWS * LP_K_BLOCK;
#if SPREAD_BF16 /* the ring held something else before */
    if (is_paired(element)) memset(s->ring, 0, 2 * MAX_ROWS * LP_K_BLOCK * sizeof *s->ring);
#endif
    for (size_t r = 0; r < (size_t)n_rows; r++)
        for (size_t column = 0; column < LP_K_BLOCK; column += CHUNK) {
            const char *from = s->rows + (r * s->k + column) * lp_element_bytes(element);
            T(widen_chunk)(to + r * LP_K_BLOCK + column, from, element);
        }
}

/* All columns (a multiple of LP_K_BLOCK) of n_rows rows. As many bytes are prefetched as are read: of the next rows,
 * sequentially, or else SOON_BYTES ahead in each of these rows, and in the next ones past their end. */
INLINE void T(stream)(float *c, const float *x, row_stream *s, lp_element element, const int n_vec, const int n_rows) {
    const size_t bytes = lp_element_bytes(element), half = MAX_ROWS * LP_K_BLOCK, chunk = CHUNK * bytes;
    const int sequential = lp_kernels_prefetch_sequential();
    if (s->ready != s->rows) T(stream_begin)(s, element, n_rows);
    for (size_t k = 0; k < s->k; k += LP_K_BLOCK, s->half = !s->half) {
        VEC acc[MAX_ROWS][MAX_VECS];
        T(clear)(acc, n_vec, n_rows);
        next_block next = {.to = s->ring + (size_t)!s->half * half,
                           .from = T(column_at)(s, k + LP_K_BLOCK, bytes),
                           .stride = s->k * bytes};
        next.after = sequential ? s->next + k * (size_t)n_rows * bytes
                                : T(column_at)(s, k + LP_K_BLOCK + SOON_BYTES / bytes, bytes);
        next.after_row = sequential ? chunk : s->k * bytes;
        next.after_column = sequential ? (size_t)n_rows * chunk : chunk;
        T(stream_block)(acc, x, s->ring + (size_t)s->half * half, next, element, n_vec, n_rows);
        T(accumulate)(c, acc, k == 0, n_vec, n_rows);
        x += LP_K_BLOCK * (size_t)n_vec * LP_N;
    }
    s->ready = s->next;
}

/* ---- the only tile, of bf16 that stay as they lie ----
 *
 * Where broadcast and mask are one instruction nothing is widened: whole cache lines are copied to the ring, where rows
 * that are 4 KB apart no longer fall into one set of L1. Each line is read once, as it lies; numbers that begin in the
 * middle of a line stay there in the ring. */
#if BF16_RING

#define LINE_BYTES 64
#define BLOCK_LINES ((int)(LP_K_BLOCK * 2 / LINE_BYTES))
#define RING_PITCH ((size_t)(BLOCK_LINES + 1) * LINE_BYTES) /* line 0 is the last one of the block before */

_Static_assert(BLOCK_LINES >= 2, "line 0 of a half is used up when the last line of the other one comes");

/* Bytes of line 0 that belong to what lies before `rows`: all of them where rows begin with a line. k is a multiple
 * of LP_K_BLOCK, so it is the same for all rows of a matrix. */
INLINE size_t T(skew)(const char *rows) { return ((uintptr_t)rows - 1) % LINE_BYTES + 1; }

/* No line of rows row .. row + n reaches out of the matrix w [n_rows, k]. */
INLINE int T(lines_inside)(const void *w, size_t n_rows, size_t row, size_t n, size_t k) {
    size_t skew = T(skew)((const char *)w + row * k * 2);
    return skew == LINE_BYTES || (row * k * 2 >= skew && (n_rows - row - n) * k * 2 >= LINE_BYTES - skew);
}

INLINE char *T(ring_half)(const row_stream *s, int half) {
    return (char *)s->ring + LINE_BYTES + (size_t)half * MAX_ROWS * RING_PITCH;
}

INLINE void T(copy_line)(char *to, const char *from) {
    UNROLL for (size_t i = 0; i < LINE_BYTES; i += 4 * LP_N)
        V(store)((float *)(to + i), V(load)((const float *)(from + i)));
}

/* Line `i` of a block to a row of the ring; the last one is line 0 of the block that follows, in the other half. */
INLINE void T(bring)(char *to, char *other, const char *from, int i, size_t skew) {
    T(copy_line)(to + i * LINE_BYTES, from + i * LINE_BYTES);
    if (i == BLOCK_LINES && skew < LINE_BYTES) T(copy_line)(other, from + i * LINE_BYTES);
}

/* As T(step); w are bf16. */
INLINE void T(ring_step)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const char *w, const int n_vec,
                         const int n_rows) {
    VEC xs[MAX_VECS];
    UNROLL for (int v = 0; v < n_vec; v++) xs[v] = V(load)(x + (size_t)v * LP_N);
    UNROLL for (int r = 0; r < n_rows; r++) {
        VEC wr = V(set1_bf16)(w + (size_t)r * RING_PITCH);
        UNROLL for (int v = 0; v < n_vec; v++) V(fma_into)(&acc[r][v], wr, xs[v]);
    }
}

/* The block at w, while lines 1 to BLOCK_LINES of the block at `from` are brought. */
INLINE const float *T(ring_block)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const char *w, char *to, char *other,
                                  const char *from, size_t from_stride, size_t skew, const char *after, const int n_vec,
                                  const int n_rows) {
    for (int line = 1; line <= BLOCK_LINES; line++) {
        for (int part = 0; part < n_rows / 3; part++) {
            UNROLL for (int r = 0; r < 3; r++, after += LINE_BYTES) {
                size_t row = (size_t)(3 * part + r);
                T(bring)(to + row * RING_PITCH, other + row * RING_PITCH, from + row * from_stride, line, skew);
                __builtin_prefetch(after, 0, 2);
            }
            for (int i = 0; i < LINE_BYTES / 2 * 3 / n_rows; i += 4) {
                UNROLL for (int u = 0; u < 4; u++)
                    T(ring_step)(acc, x + (size_t)u * (size_t)n_vec * LP_N, w + 2 * u, n_vec, n_rows);
                x += 4 * (size_t)n_vec * LP_N;
                w += 4 * 2;
            }
        }
    }
    return x;
}

/* Lines 0 .. last of the first block of n_rows rows. */
INLINE void T(ring_begin)(char *to, char *other, const char *rows, size_t stride, int last, const int n_rows) {
    size_t skew = T(skew)(rows);
    for (int i = skew == LINE_BYTES; i <= last; i++)
        for (size_t r = 0; r < (size_t)n_rows; r++)
            T(bring)(to + r * RING_PITCH, other + r * RING_PITCH, rows - skew + r * stride, i, skew);
}

/* As T(stream). */
INLINE void T(ring_stream)(float *c, const float *x, row_stream *s, const int n_vec, const int n_rows) {
    const size_t stride = s->k * 2, skew = T(skew)(s->rows);
    char *here = T(ring_half)(s, s->half), *there = T(ring_half)(s, !s->half);
    if (s->ready != s->rows) T(ring_begin)(here, there, s->rows, stride, BLOCK_LINES, n_rows);
    for (size_t k = 0; k < s->k; k += LP_K_BLOCK) {
        VEC acc[MAX_ROWS][MAX_VECS];
        T(clear)(acc, n_vec, n_rows);
        const char *from = T(column_at)(s, k + LP_K_BLOCK, 2);
        size_t from_skew = T(skew)(from);
        if (k + LP_K_BLOCK == s->k) T(ring_begin)(there, here, from, stride, 0, n_rows);
        x = T(ring_block)(acc, x, here + skew, there, here, from - from_skew, stride, from_skew,
                          s->next + k * (size_t)n_rows * 2, n_vec, n_rows);
        T(accumulate)(c, acc, k == 0, n_vec, n_rows);
        char *was = here;
        here = there, there = was, s->half = !s->half;
    }
    s->ready = s->next;
}

#endif

#endif
