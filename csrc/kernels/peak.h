/* peak.h - what a core can do at most, in a row's own verbs; every row of kernels has this body.
 *
 * multiply_add has as many independent sums as the widest tile, in registers, and loads nothing between. read_all looks
 * at every float of a stretch of memory, in order, as weights are read. */
#define PEAK_SUMS (ROWS_2 * WIDE)

_Static_assert(PEAK_SUMS <= LP_MOST_PEAK_SUMS, "the caller's array holds the sums of every row");

NOINLINE void multiply_add(float *sums, size_t n_rounds) {
    VEC acc[ROWS_2][2], a = V(set1)(0.5f), b = V(set1)(0.25f);
    UNROLL for (int r = 0; r < ROWS_2; r++) UNROLL for (int v = 0; v < 2; v++) acc[r][v] =
        V(load)(sums + (2 * r + v) * LP_N);
    for (size_t i = 0; i < n_rounds; i++)
        UNROLL for (int r = 0; r < ROWS_2; r++) UNROLL for (int v = 0; v < 2; v++) FMA_INTO(acc[r][v], a, b);
    UNROLL for (int r = 0; r < ROWS_2; r++) UNROLL for (int v = 0; v < 2; v++)
        V(store)(sums + (2 * r + v) * LP_N, acc[r][v]);
}

NOINLINE float read_all(const float *x, size_t n) {
    VEC sum[4];
    float lanes[LP_N], total = 0;
    UNROLL for (int i = 0; i < 4; i++) sum[i] = V(zero)();
    for (size_t at = 0; at < n; at += 4 * LP_N)
        UNROLL for (int i = 0; i < 4; i++) sum[i] = V(add)(sum[i], V(load)(x + at + i * LP_N));
    UNROLL for (int i = 0; i < 4; i++) {
        V(store)(lanes, sum[i]);
        for (int j = 0; j < LP_N; j++) total += lanes[j];
    }
    return total;
}
