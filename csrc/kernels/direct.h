/* direct.h - products of so few tokens that vectors along tokens would be mostly idle: vectors along rows of w.
 *
 * Included once per vector width, as tile.h. N rows of w are turned to columns in registers as they are read and
 * multiplied at once; nothing is stored in between. Two blocks of k run side by side, because the sum of one block
 * is a chain that waits for itself; their sums are added in order. */
#ifndef LP_DIRECT
#define LP_DIRECT
#define MAX_TOKENS 4
typedef void direct_tile(float *out, size_t pitch, const float *x, const char *w, size_t k);
#endif

/* Columns k .. k + N of N rows that are `stride` bytes apart: c[j] lane r = row r, column j. */
INLINE void T(columns)(VEC *c, const char *w, size_t stride, lp_word word) {
#ifdef V_COLUMNS_BF16
    if (word == LP_WORD_BF16) {
        V_COLUMNS_BF16(c, w, stride);
        return;
    }
#endif
    UNROLL for (size_t r = 0; r < LP_N; r++) c[r] = T(widen_words)(w + r * stride, word);
    V(transpose)(c);
}

/* The one column at w. */
INLINE VEC T(column)(const char *w, size_t stride, lp_word word) {
    float c[LP_N];
    for (size_t r = 0; r < LP_N; r++) c[r] = lp_weight_float(w + r * stride, word);
    return V(load)(c);
}

/* total[t] = or += the sums of n_blocks blocks of kc columns from w and x on, for n_tokens rows of x. */
INLINE const char *T(direct_blocks)(VEC *total, const float *x, size_t x_stride, const char *w, size_t stride,
                                    lp_word word, size_t kc, int first, const char *ahead, const int n_blocks,
                                    const int n_tokens) {
    size_t bytes = lp_word_bytes(word), k = 0;
    VEC acc[2][MAX_TOKENS];
    UNROLL for (int b = 0; b < n_blocks; b++) UNROLL for (int t = 0; t < n_tokens; t++) acc[b][t] = V(zero)();
    for (; k + LP_N <= kc; k += LP_N) {
        UNROLL for (int b = 0; b < n_blocks; b++) {
            VEC c[LP_N];
            size_t at = k + (size_t)b * LP_K_BLOCK;
            /* the rows that come next lie behind these without a gap: as many bytes ahead as are read here */
            for (size_t line = 0; line < LP_N * LP_N * bytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);
            ahead += LP_N * LP_N * bytes;
            T(columns)(c, w + at * bytes, stride, word);
            UNROLL for (int j = 0; j < LP_N; j++) UNROLL for (int t = 0; t < n_tokens; t++) {
                VEC xk = V(set1)(x[(size_t)t * x_stride + at + (size_t)j]);
                FMA_INTO(acc[b][t], xk, c[j]);
            }
        }
    }
    for (; k < kc; k++) { /* n_blocks is 1 here: blocks that run side by side are whole */
        VEC c = T(column)(w + k * bytes, stride, word);
        UNROLL for (int t = 0; t < n_tokens; t++) {
            VEC xk = V(set1)(x[(size_t)t * x_stride + k]);
            FMA_INTO(acc[0][t], xk, c);
        }
    }
    UNROLL for (int b = 0; b < n_blocks; b++) UNROLL for (int t = 0; t < n_tokens; t++) total[t] =
        first && b == 0 ? acc[b][t] : V(add)(total[t], acc[b][t]);
    return ahead;
}

/* out [n_tokens][pitch], N numbers of each row: x w^T for N rows of w and all of k. */
INLINE void T(direct)(float *out, size_t pitch, const float *x, const char *w, size_t k, lp_word word,
                      const int n_tokens) {
    size_t bytes = lp_word_bytes(word), stride = k * bytes, at = 0;
    const char *ahead = w + LP_N * stride;
    VEC total[MAX_TOKENS] = {V(zero)()};
    for (; at + 2 * LP_K_BLOCK <= k; at += 2 * LP_K_BLOCK)
        ahead =
            T(direct_blocks)(total, x + at, k, w + at * bytes, stride, word, LP_K_BLOCK, at == 0, ahead, 2, n_tokens);
    for (; at < k; at += LP_K_BLOCK)
        ahead = T(direct_blocks)(total, x + at, k, w + at * bytes, stride, word, lp_size_min(k - at, LP_K_BLOCK),
                                 at == 0, ahead, 1, n_tokens);
    UNROLL for (int t = 0; t < n_tokens; t++) V(store)(out + (size_t)t * pitch, total[t]);
}

#define DIRECT(n_tokens, name, word)                                                                                 \
    NOINLINE void T(direct_##n_tokens##_##name)(float *out, size_t pitch, const float *x, const char *w, size_t k) { \
        T(direct)(out, pitch, x, w, k, word, n_tokens);                                                              \
    }
#define DIRECT_ALL(n_tokens) \
    DIRECT(n_tokens, bf16, LP_WORD_BF16) DIRECT(n_tokens, f16, LP_WORD_F16) DIRECT(n_tokens, f32, LP_WORD_F32)
DIRECT_ALL(1)
DIRECT_ALL(2)
DIRECT_ALL(3)
DIRECT_ALL(4)

static direct_tile *const T(direct_table)[MAX_TOKENS][3] = {
#define DIRECT_ROW(n) \
    { T(direct_##n##_bf16), T(direct_##n##_f16), T(direct_##n##_f32) }
    DIRECT_ROW(1), DIRECT_ROW(2), DIRECT_ROW(3), DIRECT_ROW(4)};

#undef DIRECT
#undef DIRECT_ALL
#undef DIRECT_ROW
