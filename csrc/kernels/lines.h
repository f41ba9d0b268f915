/* lines.h - stream.h for bf16 that stay as they lie: a broadcast of 32 bits and a mask is a weight.
 *
 * Included once per vector width, after stream.h, by rows whose broadcast and mask are one instruction. Nothing is
 * widened: whole lines of memory are copied to the ring, where rows that are 4 KB apart no longer fall into one set
 * of L1. Each line is read once, as it lies; numbers that begin in the middle of a line stay there in the ring. */
#define LINE_BYTES 64
#define STRIP_LINES ((int)(STRIP * 2 / LINE_BYTES))
#define RING_PITCH ((size_t)(STRIP_LINES + 1) * LINE_BYTES) /* line 0 is the last one of the strip before */

_Static_assert(STRIP_LINES >= 2, "line 0 of a half is used up when the last line of the other one comes");

/* Bytes of line 0 that belong to what lies before `rows`: all of them where rows begin with a line. k is a multiple
 * of STRIP, so it is the same for all rows of a matrix. */
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

/* Line `i` of a strip to a row of the ring; the last one is line 0 of the strip that follows, in the other half. */
INLINE void T(bring)(char *to, char *other, const char *from, int i, size_t skew) {
    T(copy_line)(to + i * LINE_BYTES, from + i * LINE_BYTES);
    if (i == STRIP_LINES && skew < LINE_BYTES) T(copy_line)(other, from + i * LINE_BYTES);
}

#undef WEIGHT
#define WEIGHT(at) V(set1_bf16)(w + 2 * (at))

/* Products of the strip at w, while lines 1 to STRIP_LINES of the strip at `from` are brought. */
INLINE const float *T(lines_strip)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const char *w, char *to, char *other,
                                   const char *from, size_t from_stride, size_t skew, const char *after,
                                   const int n_vec, const int n_rows) {
    const size_t row_stride = RING_PITCH / 2, k_stride = 1;
    for (int line = 1; line <= STRIP_LINES; line++) {
        for (int part = 0; part < n_rows / 3; part++) {
            UNROLL for (int r = 0; r < 3; r++, after += LINE_BYTES) {
                size_t row = (size_t)(3 * part + r);
                T(bring)(to + row * RING_PITCH, other + row * RING_PITCH, from + row * from_stride, line, skew);
                __builtin_prefetch(after, 0, 2);
            }
            for (int i = 0; i < LINE_BYTES / 2 * 3 / n_rows; i += 4) {
                UNROLL for (int u = 0; u < 4; u++) STEP(u);
                x += 4 * (size_t)n_vec * LP_N;
                w += 4 * 2;
            }
        }
    }
    return x;
}

/* Lines 0 .. last of the first strip of n_rows rows. */
INLINE void T(lines_begin)(char *to, char *other, const char *rows, size_t stride, int last, const int n_rows) {
    size_t skew = T(skew)(rows);
    for (int i = skew == LINE_BYTES; i <= last; i++)
        for (size_t r = 0; r < (size_t)n_rows; r++)
            T(bring)(to + r * RING_PITCH, other + r * RING_PITCH, rows - skew + r * stride, i, skew);
}

/* As T(stream). */
INLINE void T(lines)(float *c, const float *x, row_stream *s, const int n_vec, const int n_rows) {
    const size_t stride = s->k * 2, skew = T(skew)(s->rows);
    char *here = T(ring_half)(s, s->half), *there = T(ring_half)(s, !s->half);
    if (s->ready != s->rows) T(lines_begin)(here, there, s->rows, stride, STRIP_LINES, n_rows);
    for (size_t k = 0; k < s->k; k += STRIP) {
        VEC acc[MAX_ROWS][MAX_VECS];
        UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
        const char *from = T(column_at)(s, k + STRIP, 2);
        size_t from_skew = T(skew)(from);
        if (k + STRIP == s->k) T(lines_begin)(there, here, from, stride, 0, n_rows);
        x = T(lines_strip)(acc, x, here + skew, there, here, from - from_skew, stride, from_skew,
                           s->next + k * (size_t)n_rows * 2, n_vec, n_rows);
        T(keep)(c, acc, k == 0, n_vec, n_rows);
        char *was = here;
        here = there, there = was, s->half = !s->half;
    }
    s->ready = s->next;
}
#undef WEIGHT
#define WEIGHT(at) V(set1)(w[at])
