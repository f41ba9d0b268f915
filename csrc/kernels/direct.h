/* direct.h - products of so few tokens that vectors along tokens would be mostly idle: vectors along rows of w.
 *
 * Included once per vector width, as tile.h. N rows of w are turned to columns in registers as they are read and
 * multiplied at once; nothing is stored in between. Two blocks of k run side by side, because the sum of one block
 * is a chain that waits for itself; their sums are added in order. */
#ifndef LP_DIRECT
#define LP_DIRECT
#define MAX_TOKENS 4
#define DIRECT_SOON 512 /* columns */
typedef void direct_tile(float *out, size_t pitch, const float *x, const char *w, size_t k, int in_order);
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

/* Asks for as many lines as N columns of N rows are, after `n_done` such steps: of the rows that follow, in the order
 * of memory, or else of these rows DIRECT_SOON columns after `column`, and past their end of the rows that follow. */
INLINE void T(direct_ask)(const char *w, size_t k, size_t column, size_t n_done, size_t bytes, int in_order) {
    const size_t n_lines = LP_N * LP_N * bytes / 64, stride = k * bytes;
    if (in_order) {
        const char *next = w + LP_N * stride + n_done * n_lines * 64;
        for (size_t line = 0; line < n_lines; line++) __builtin_prefetch(next + line * 64, 0, 2);
        return;
    }
    size_t soon = column + DIRECT_SOON, row = column / LP_N * n_lines % LP_N;
    if (soon >= k) soon += (LP_N - 1) * k; /* the next rows lie behind these without a gap */
    const char *from = w + row * stride + soon * bytes;
    for (size_t line = 0; line < n_lines; line++) __builtin_prefetch(from + line * stride, 0, 2);
}

/* total[t] = or += the sums of n_blocks blocks of kc columns from `at` on of N rows at w, for n_tokens rows of x. */
INLINE void T(direct_blocks)(VEC *total, const float *x, const char *w, size_t n_columns, lp_word word, size_t at,
                             size_t kc, int in_order, const int n_blocks, const int n_tokens) {
    const size_t bytes = lp_word_bytes(word), stride = n_columns * bytes;
    size_t k = 0;
    VEC acc[2][MAX_TOKENS];
    UNROLL for (int b = 0; b < n_blocks; b++) UNROLL for (int t = 0; t < n_tokens; t++) acc[b][t] = V(zero)();
    for (; k + LP_N <= kc; k += LP_N) {
        UNROLL for (int b = 0; b < n_blocks; b++) {
            VEC c[LP_N];
            size_t column = at + k + (size_t)b * LP_K_BLOCK, n_done = (at + n_blocks * k) / LP_N + (size_t)b;
            T(direct_ask)(w, n_columns, column, n_done, bytes, in_order);
            T(columns)(c, w + column * bytes, stride, word);
            UNROLL for (int j = 0; j < LP_N; j++) UNROLL for (int t = 0; t < n_tokens; t++) {
                VEC xk = V(set1)(x[(size_t)t * n_columns + column + (size_t)j]);
                FMA_INTO(acc[b][t], xk, c[j]);
            }
        }
    }
    for (; k < kc; k++) { /* n_blocks is 1 here: blocks that run side by side are whole */
        VEC c = T(column)(w + (at + k) * bytes, stride, word);
        UNROLL for (int t = 0; t < n_tokens; t++) {
            VEC xk = V(set1)(x[(size_t)t * n_columns + at + k]);
            FMA_INTO(acc[0][t], xk, c);
        }
    }
    UNROLL for (int b = 0; b < n_blocks; b++) UNROLL for (int t = 0; t < n_tokens; t++) total[t] =
        at == 0 && b == 0 ? acc[b][t] : V(add)(total[t], acc[b][t]);
}

/* out [n_tokens][pitch], N numbers of each row: x w^T for N rows of w and all of k. */
INLINE void T(direct)(float *out, size_t pitch, const float *x, const char *w, size_t k, lp_word word, int in_order,
                      const int n_tokens) {
    size_t at = 0;
    VEC total[MAX_TOKENS] = {V(zero)()};
    for (; at + 2 * LP_K_BLOCK <= k; at += 2 * LP_K_BLOCK)
        T(direct_blocks)(total, x, w, k, word, at, LP_K_BLOCK, in_order, 2, n_tokens);
    for (; at < k; at += LP_K_BLOCK)
        T(direct_blocks)(total, x, w, k, word, at, lp_size_min(k - at, LP_K_BLOCK), in_order, 1, n_tokens);
    UNROLL for (int t = 0; t < n_tokens; t++) V(store)(out + (size_t)t * pitch, total[t]);
}

#define DIRECT(n_tokens, name, word)                                                                               \
    NOINLINE void T(direct_##n_tokens##_##name)(float *out, size_t pitch, const float *x, const char *w, size_t k, \
                                                int in_order) {                                                    \
        T(direct)(out, pitch, x, w, k, word, in_order, n_tokens);                                                  \
    }

#if defined(LP_HALF) && LP_N != LP_HALF
/* The wide vector of two: direct_lanes() of tiles.h chooses it for bf16 and for more than one token only. */
DIRECT(2, bf16, LP_WORD_BF16)
DIRECT(3, bf16, LP_WORD_BF16)
DIRECT(4, bf16, LP_WORD_BF16)

static direct_tile *const T(direct_table)[MAX_TOKENS][3] = {
    {NULL}, {T(direct_2_bf16)}, {T(direct_3_bf16)}, {T(direct_4_bf16)}};
#else
#define DIRECT_ALL(n_tokens) \
    DIRECT(n_tokens, bf16, LP_WORD_BF16) DIRECT(n_tokens, f16, LP_WORD_F16) DIRECT(n_tokens, f32, LP_WORD_F32)
DIRECT_ALL(1)
DIRECT_ALL(2)
DIRECT_ALL(3)
DIRECT_ALL(4)

static direct_tile *const T(direct_table)[MAX_TOKENS][3] = {
#define DIRECT_ROW(n) {T(direct_##n##_bf16), T(direct_##n##_f16), T(direct_##n##_f32)}
    DIRECT_ROW(1), DIRECT_ROW(2), DIRECT_ROW(3), DIRECT_ROW(4)};
#endif

#undef DIRECT
#undef DIRECT_ALL
#undef DIRECT_ROW
