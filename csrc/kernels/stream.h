/* stream.h - the sums of tile.h, while the weights that come next are widened between the products.
 *
 * Included once per vector width, as tile.h. Widening first and multiplying then leaves the multipliers idle while
 * weights arrive: for a fifth of the time at 8 tokens, for a tenth at 128. Here a few rows at a time are widened
 * between the products of what was widened before, and lines that will be widened after them are asked for. */
#define PIECE \
    32 /* columns widened at once: a line of the cache, which rows 4 KB apart would not leave there for long */
#define STRIP 64 /* columns of a strip: with one tile of tokens, two strips of its rows live in L1 */

/* What is widened meanwhile: n columns (a multiple of PIECE) of as many rows as are multiplied. */
#ifndef LP_COMING
#define LP_COMING
typedef struct {
    float *to; /* row r at to + r * to_stride */
    size_t to_stride, n;
    const char *from, *after; /* the weights, and those that will come after them; rows are from_stride bytes apart */
    size_t from_stride;
} coming;
#endif

/* A piece of one row. */
INLINE void T(widen_piece)(float *out, const char *w, lp_word word) {
    if (word == LP_WORD_F32) {
        memcpy(out, w, PIECE * sizeof *out);
        return;
    }
    UNROLL for (size_t i = 0; i < PIECE; i += LP_N)
        V(store)(out + i, word == LP_WORD_BF16 ? V(widen_bf16)(w + 2 * i) : V(widen_f16)(w + 2 * i));
}

/* Products of next.n columns. */
INLINE void T(strip)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const float *w, const size_t row_stride, coming next,
                     lp_word word, const int n_vec, const int n_rows) {
    const size_t k_stride = 1, bytes = lp_word_bytes(word);
    for (size_t column = 0; column < next.n; column += PIECE) {
        for (int part = 0; part < n_rows / 3; part++) {
            UNROLL for (int r = 0; r < 3; r++) {
                size_t row = (size_t)(3 * part + r), at = row * next.from_stride + column * bytes;
                T(widen_piece)(next.to + row * next.to_stride + column, next.from + at, word);
                for (size_t line = 0; line < PIECE * bytes; line += 64)
                    __builtin_prefetch(next.after + at + line, 0, 2);
            }
            for (int i = 0; i < PIECE * 3 / n_rows; i += 4) {
                UNROLL for (int u = 0; u < 4; u++) STEP(u);
                x += 4 * (size_t)n_vec * LP_N;
                w += 4;
            }
        }
    }
}

/* A block of k of a tile, from rows of LP_K_BLOCK columns, while a block of as many rows is widened. */
INLINE void T(block)(float *c, const float *x, const float *w, size_t kc, int first, coming next, lp_word word,
                     const int n_vec, const int n_rows) {
    const size_t row_stride = LP_K_BLOCK, k_stride = 1;
    VEC acc[MAX_ROWS][MAX_VECS];
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
    T(strip)(acc, x, w, LP_K_BLOCK, next, word, n_vec, n_rows);
    x += next.n * (size_t)n_vec * LP_N;
    w += next.n;
    for (size_t k = next.n; k < kc; k++, x += (size_t)n_vec * LP_N, w++) STEP(0);
    T(keep)(c, acc, first, n_vec, n_rows);
}

/* Where column `column` of a run of rows lies: past the end of these rows the next ones begin. */
INLINE const char *T(column_at)(const char *rows, const char *next, size_t k, size_t column, size_t bytes) {
    return column < k ? rows + column * bytes : next + (column - k) * bytes;
}

/* Columns k0 .. k0 + kc (a multiple of STRIP) of n_rows rows, whose first strip is in ring half *half. `rows` and
 * `next` are the first bytes of these rows and of those that follow, each k columns long. */
INLINE void T(stream)(float *c, const float *x, float *ring, int *half, const char *rows, const char *next, size_t k,
                      size_t k0, size_t kc, lp_word word, const int n_vec, const int n_rows) {
    size_t bytes = lp_word_bytes(word);
    VEC acc[MAX_ROWS][MAX_VECS];
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
    for (size_t strip = k0 + STRIP; strip <= k0 + kc; strip += STRIP, *half = !*half) {
        coming what = {ring + (size_t) !*half * MAX_ROWS * STRIP,
                       STRIP,
                       STRIP,
                       T(column_at)(rows, next, k, strip, bytes),
                       T(column_at)(rows, next, k, strip + LP_K_BLOCK, bytes),
                       k * bytes};
        T(strip)(acc, x, ring + (size_t)*half * MAX_ROWS * STRIP, STRIP, what, word, n_vec, n_rows);
        x += STRIP * (size_t)n_vec * LP_N;
    }
    T(keep)(c, acc, k0 == 0, n_vec, n_rows);
}
