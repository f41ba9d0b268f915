/* softmax.h - N softmaxes at once, one query per lane, down a column of keys.
 *
 * Included once per vector width, as tile.h. s is [n_keys][width]; lane i of the vector is query `query` + i, which
 * sees keys up to its own number. */

/* The first lane that may see `key`. */
INLINE size_t T(first_lane)(size_t key, size_t query) { return key > query ? lp_size_min(key - query, LP_N) : 0; }

/* s *= scale, -inf where the key comes after the query; most [N] gets each query's maximum. */
NOINLINE void T(scale_scores)(float *most, float *s, size_t width, size_t n_keys, size_t query, float scale) {
    VEC by = V(set1)(scale), least = V(set1)(-INFINITY), max = least;
    for (size_t key = 0; key < n_keys; key++) {
        VEC x = V(mul)(V(load)(s + key * width), by);
        if (key > query) x = V(keep_from)(T(first_lane)(key, query), x, least);
        V(store)(s + key * width, x);
        max = V(max)(x, max);
    }
    V(store)(most, max);
}

/* s = exp(s - most), 0 where the key comes after the query: said so, because Intel takes 150 cycles to find that e^-inf
 * is less than the least denormal. The sums: float64, key by key into 16 lanes, then the lanes 8 apart, 4, 2, 1. */
INLINE VEC T(exp_sum)(float *s, VEC most, size_t width, size_t n_keys, size_t query) {
    V_CAT(VEC, d, ) sum[16];
    for (size_t lane = 0; lane < 16; lane++) {
        sum[lane] = V_CAT(VEC, d_, zero)();
        for (size_t key = lane; key < n_keys; key += 16) {
            VEC x = V(sub)(V(load)(s + key * width), most);
            if (key > query) x = V(keep_from)(T(first_lane)(key, query), x, V(zero)());
            VEC e = V(exp)(x);
            if (key > query) e = V(keep_from)(T(first_lane)(key, query), e, V(zero)());
            V(store)(s + key * width, e);
            sum[lane] = V_CAT(VEC, d_, add)(sum[lane], V_CAT(VEC, d_, from)(e));
        }
    }
    for (size_t apart = 8; apart; apart /= 2)
        for (size_t lane = 0; lane < apart; lane++) sum[lane] = V_CAT(VEC, d_, add)(sum[lane], sum[lane + apart]);
    return V_CAT(VEC, d_, round)(sum[0]);
}

/* s to the pattern; 0 where the key comes after the query. */
NOINLINE void T(softmax)(float *s, const float *most, size_t width, size_t n_keys, size_t query) {
    VEC sum = T(exp_sum)(s, V(load)(most), width, n_keys, query);
    for (size_t key = 0; key < n_keys; key++) {
        VEC p = V(div)(V(load)(s + key * width), sum);
        if (key > query) p = V(keep_from)(T(first_lane)(key, query), p, V(zero)());
        V(store)(s + key * width, p);
    }
}
