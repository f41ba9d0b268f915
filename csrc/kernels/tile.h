/* tile.h - sums of products over one block of k, for a few rows of w and a few vectors of tokens.
 *
 * Included once per vector width with LP_N (lanes) defined. c, x and w as the callers lay them out:
 *   x [kc][n_vec * N]   the same k of n_vec * N tokens, packed
 *   w row r, column k   at w[r * row_stride + k * k_stride], float32
 *   c [n_rows][n_vec * N]
 * Each sum is one chain of fused multiply-adds in the order of k, beginning at +0. The first block of k is stored,
 * later ones are added to what c holds. */
#define V_CAT_(a, b, c) a##b##c
#define V_CAT(a, b, c) V_CAT_(a, b, c)
#define VEC V_CAT(v, LP_N, )
#define V(verb) V_CAT(VEC, _, verb)
#define T(name) V_CAT(name, _, LP_N)
#define FMA_INTO V_CAT(V, LP_N, _FMA_INTO) /* (c, a, b): c += a * b, where all lanes of a are one number */
#define MAX_ROWS 12
#define MAX_VECS 4

/* N words of any dtype to float32. */
INLINE VEC T(widen_words)(const char *w, lp_word word) {
    if (word == LP_WORD_F32) return V(widen_f32)(w);
    return word == LP_WORD_BF16 ? V(widen_bf16)(w) : V(widen_f16)(w);
}

/* One k, of which x has n_vec vectors at number i and each row of w one number at `at`, WEIGHT(at) in all lanes. */
#undef STEP_AT
#define STEP_AT(i, at)                                                                                                \
    do {                                                                                                              \
        VEC xs[MAX_VECS];                                                                                             \
        UNROLL for (int v = 0; v < n_vec; v++) xs[v] = V(load)(x + ((size_t)(i) * (size_t)n_vec + (size_t)v) * LP_N); \
        UNROLL for (int r = 0; r < n_rows; r++) {                                                                     \
            VEC wr = WEIGHT((size_t)r * row_stride + (at));                                                           \
            UNROLL for (int v = 0; v < n_vec; v++) FMA_INTO(acc[r][v], wr, xs[v]);                                    \
        }                                                                                                             \
    } while (0)
#undef STEP
#define STEP(i) STEP_AT(i, (size_t)(i) * k_stride)

#undef WEIGHT
#define WEIGHT(at) V(set1)(w[at])

/* Adds the sums to what c holds, or stores the first. */
INLINE void T(keep)(float *c, VEC acc[MAX_ROWS][MAX_VECS], int first, const int n_vec, const int n_rows) {
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) {
        float *to = c + (r * n_vec + v) * LP_N;
        V(store)(to, first ? acc[r][v] : V(add)(V(load)(to), acc[r][v]));
    }
}

/* Sums over kc columns and then `n_masked` more, of which column i counts for lanes (tokens) >= i only: the
 * diagonal of causal attention. */
INLINE void T(tile)(float *c, const float *x, const float *w, size_t row_stride, size_t k_stride, size_t kc,
                    size_t n_masked, int first, const int n_vec, const int n_rows) {
    VEC acc[MAX_ROWS][MAX_VECS];
    UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
    size_t k = 0;
    for (; k + 4 <= kc; k += 4) {
        UNROLL for (int u = 0; u < 4; u++) STEP(u);
        x += 4 * (size_t)n_vec * LP_N;
        w += 4 * k_stride;
    }
    for (; k < kc; k++) {
        STEP(0);
        x += (size_t)n_vec * LP_N;
        w += k_stride;
    }
    for (size_t i = 0; i < n_masked; i++) {
        UNROLL for (int v = 0; v < n_vec; v++) {
            VEC xs = V(load)(x + (size_t)v * LP_N);
            size_t lane = i > (size_t)v * LP_N ? lp_size_min(i - (size_t)v * LP_N, LP_N) : 0;
            UNROLL for (int r = 0; r < n_rows; r++) {
                VEC sum = V(fma)(WEIGHT((size_t)r * row_stride), xs, acc[r][v]);
                acc[r][v] = V(keep_from)(lane, sum, acc[r][v]);
            }
        }
        x += (size_t)n_vec * LP_N;
        w += k_stride;
    }
    T(keep)(c, acc, first, n_vec, n_rows);
}

/* Packs `m` (<= width) rows of x, `stride` floats apart, into [k][width], a multiple of N; lanes past m are 0. */
NOINLINE void T(pack)(float *out, const float *x, size_t stride, size_t width, size_t m, size_t k) {
    for (size_t v = 0; v < width; v += LP_N) {
        size_t have = m > v ? lp_size_min(m - v, LP_N) : 0, i = 0;
        for (; i + LP_N <= k; i += LP_N) {
            VEC r[LP_N];
            UNROLL for (size_t j = 0; j < LP_N; j++) r[j] = j < have ? V(load)(x + (v + j) * stride + i) : V(zero)();
            V(transpose)(r);
            UNROLL for (size_t j = 0; j < LP_N; j++) V(store)(out + (i + j) * width + v, r[j]);
        }
        for (; i < k; i++)
            for (size_t j = 0; j < LP_N; j++) out[i * width + v + j] = j < have ? x[(v + j) * stride + i] : 0;
    }
}

/* The way back: c [n][width], of which columns v .. v + N are `m` tokens, to rows of y, `stride` floats apart.
 * With `add`, also sum = add + y, which lie as y does; y may be NULL then. */
NOINLINE void T(unpack)(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width, size_t m,
                        size_t n) {
    for (size_t i = 0; i < n; i += LP_N) {
        VEC r[LP_N];
        size_t have = lp_size_min(n - i, LP_N);
        UNROLL for (size_t j = 0; j < LP_N; j++) r[j] = j < have ? V(load)(c + (i + j) * width) : V(zero)();
        V(transpose)(r);
        for (size_t t = 0; t < m; t++) {
            size_t at = t * stride + i;
            if (have == LP_N) {
                if (y) V(store)(y + at, r[t]);
                if (sum) V(store)(sum + at, V(add)(V(load)(add + at), r[t]));
                continue;
            }
            float part[LP_N];
            V(store)(part, r[t]);
            for (size_t j = 0; j < have; j++) {
                if (y) y[at + j] = part[j];
                if (sum) sum[at + j] = add[at + j] + part[j];
            }
        }
    }
}

/* The same to whole lines of memory that nobody reads soon: rows of y and sum begin on lines, n is a multiple of LINE.
 * Lines go past the caches, which is half the traffic, those of a row one after the other, because memory takes two
 * neighbours at once; V(stream_end) comes before anybody reads them. */
#define LINE 16 /* floats */
#define FAR_SPAN 64
INLINE void T(stream_rows)(float *y, const float *add, float *sum, size_t stride, const float *rows, size_t m,
                           size_t n) {
    for (size_t t = 0; t < m; t++, rows += FAR_SPAN) {
        for (size_t i = 0; y && i < n; i += LP_N) V(stream)(y + t * stride + i, V(load)(rows + i));
        for (size_t i = 0, at = t * stride; sum && i < n; i += LP_N)
            V(stream)(sum + at + i, V(add)(V(load)(add + at + i), V(load)(rows + i)));
    }
}

INLINE void T(unpack_lines)(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width,
                            size_t m, size_t n) {
    _Alignas(64) float rows[LP_N * FAR_SPAN];
    for (size_t i = 0, span; i < n; i += span) {
        span = lp_size_min(n - i, FAR_SPAN);
        for (size_t j = 0; j < span; j += LP_N) {
            VEC r[LP_N];
            UNROLL for (size_t l = 0; l < LP_N; l++) r[l] = V(load)(c + (i + j + l) * width);
            V(transpose)(r);
            UNROLL for (size_t l = 0; l < LP_N; l++) V(store)(rows + l * FAR_SPAN + j, r[l]);
        }
        T(stream_rows)(y ? y + i : NULL, add ? add + i : NULL, sum ? sum + i : NULL, stride, rows, m, span);
    }
}
