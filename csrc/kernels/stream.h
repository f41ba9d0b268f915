/* stream.h - the sums of tile.h for one tile of tokens, widening the weights that come next while it multiplies.
 *
 * Included once per vector width, as tile.h. With one tile there is nothing to share a widened block with, and
 * widening first and multiplying then would leave the multipliers idle for a fifth of the time at 8 tokens. Here
 * columns go by in strips of 64: a strip is multiplied from one half of a ring while the next is widened into the
 * other half, a few rows at a time between the products. */
#define STRIP 64

#define PIECE 32 /* columns widened at once: a line of the cache, which rows 4 KB apart would not leave there for long */

/* A piece of one row. */
INLINE void T(widen_piece)(float *out, const char *w, lp_word word) {
    if (word == LP_WORD_F32) {
        memcpy(out, w, PIECE * sizeof *out);
        return;
    }
    UNROLL for (size_t i = 0; i < PIECE; i += LP_N)
        V(store)(out + i, word == LP_WORD_BF16 ? V(widen_bf16)(w + 2 * i) : V(widen_f16)(w + 2 * i));
}

/* Where column `column` of a run of rows lies: past the end of these rows the next ones begin. */
INLINE const char *T(strip_at)(const char *rows, const char *next, size_t k, size_t column, size_t bytes) {
    return column < k ? rows + column * bytes : next + (column - k) * bytes;
}

/* Columns k0 .. k0 + kc (a multiple of STRIP) of n_rows rows, whose first strip is in ring half *half. `rows` and
 * `next` are the first bytes of these rows and of those that follow, each k columns long. */
INLINE void T(stream)(float *c, const float *x, float *ring, int *half, const char *rows, const char *next, size_t k,
                      size_t k0, size_t kc, lp_word word, const int n_vec, const int n_rows) {
    size_t bytes = lp_word_bytes(word), stride = k * bytes;
    const size_t row_stride = STRIP, k_stride = 1;
    VEC acc[MAX_ROWS][MAX_VECS];
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
    for (size_t strip = k0 + STRIP; strip <= k0 + kc; strip += STRIP) {
        const float *w = ring + (size_t)*half * MAX_ROWS * STRIP;
        float *to = ring + (size_t)!*half * MAX_ROWS * STRIP;
        const char *from = T(strip_at)(rows, next, k, strip, bytes);
        const char *ahead = T(strip_at)(rows, next, k, strip + LP_K_BLOCK, bytes);
        for (size_t column = 0; column < STRIP; column += PIECE) {
            for (int part = 0; part < n_rows / 3; part++) {
                UNROLL for (int r = 0; r < 3; r++) {
                    size_t row = (size_t)(3 * part + r);
                    T(widen_piece)(to + row * STRIP + column, from + row * stride + column * bytes, word);
                    for (size_t line = 0; line < PIECE * bytes; line += 64)
                        __builtin_prefetch(ahead + row * stride + column * bytes + line, 0, 2);
                }
                for (int i = 0; i < PIECE * 3 / n_rows; i += 4) {
                    UNROLL for (int u = 0; u < 4; u++) STEP(u);
                    x += 4 * (size_t)n_vec * LP_N;
                    w += 4;
                }
            }
        }
        *half = !*half;
    }
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) {
        float *sum = c + (r * n_vec + v) * LP_N;
        V(store)(sum, k0 == 0 ? acc[r][v] : V(add)(V(load)(sum), acc[r][v]));
    }
}
