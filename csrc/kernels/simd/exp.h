/* exp.h - e^x for a vector, and what is made of it: silu, softmax. The same operations in every variant.
 *
 * A template, see parameters.h. docs/arithmetic.md derives the constants. n = x / ln 2 to the nearest integer, by
 * adding and taking off 1.5 * 2^23; r = x - n ln 2 in two fused steps; e^r by a polynomial of degree 6; the result is
 * p * 2^n with 2^n as two factors, so that a denormal rounds once. At most 0.9 ulp off over all floats. e^-inf = +0,
 * e^inf = inf, NaN stays. */
#ifndef LP_EXP_H
#define LP_EXP_H

#include <math.h> /* INFINITY */

#include "../../base/size.h" /* lp_size_min */
#include "vector.h"          /* V, VD, T, VEC, VECD */

#define EXP_LOG2E 0x1.715476p+0f
#define EXP_BIAS 0x1.8p+23f
#define EXP_LN2_HIGH 0x1.62e4p-1f
#define EXP_LN2_LOW 0x1.7f7d1cp-20f
#define EXP_LEAST (-104.0f) /* e^-104 < half the least denormal: rounds to 0 */
#define EXP_MOST 89.0f      /* e^89 > the largest float: rounds to inf */

INLINE VEC V(exp)(VEC x) {
    VEC least = V(set1)(EXP_LEAST), most = V(set1)(EXP_MOST), bias = V(set1)(EXP_BIAS), one = V(set1)(1.0f);
    x = V(if_less)(x, least, least, x);
    x = V(if_less)(most, x, most, x);
    VEC biased = V(fma)(x, V(set1)(EXP_LOG2E), bias), n = V(sub)(biased, bias);
    VEC r = V(fma)(n, V(set1)(-EXP_LN2_HIGH), x);
    r = V(fma)(n, V(set1)(-EXP_LN2_LOW), r);
    VEC p = V(fma)(V(set1)(0x1.6a528p-10f), r, V(set1)(0x1.123b1ap-7f));
    p = V(fma)(p, r, V(set1)(0x1.5558aep-5f));
    p = V(fma)(p, r, V(set1)(0x1.55549p-3f));
    p = V(fma)(p, r, V(set1)(0x1.fffffcp-2f));
    p = V(fma)(p, r, one);
    p = V(fma)(p, r, one);
    return V(scale2)(p, biased, EXP_BIAS);
}

/* x / (1 + e^-x) */
INLINE VEC V(silu)(VEC x) {
    VEC e = V(exp)(V(sub)(V(zero)(), x));
    return V(div)(x, V(add)(V(set1)(1.0f), e));
}

/* N softmaxes at once, one query per lane, down a column of keys. s is [n_keys][width]; lane i of the vector is query
 * `query` + i, which sees keys up to its own number. */

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

/* s = exp(s - most), 0 where the key comes after the query: set outright, because Intel takes 150 cycles to find that
 * e^-inf is less than the least denormal. The sums: float64, key by key into 16 lanes, then the lanes 8 apart, 4, 2,
 * 1. */
INLINE VEC T(exp_sum)(float *s, VEC most, size_t width, size_t n_keys, size_t query) {
    VECD sum[16];
    for (size_t lane = 0; lane < 16; lane++) {
        sum[lane] = VD(zero)();
        for (size_t key = lane; key < n_keys; key += 16) {
            VEC x = V(sub)(V(load)(s + key * width), most);
            if (key > query) x = V(keep_from)(T(first_lane)(key, query), x, V(zero)());
            VEC e = V(exp)(x);
            if (key > query) e = V(keep_from)(T(first_lane)(key, query), e, V(zero)());
            V(store)(s + key * width, e);
            sum[lane] = VD(add)(sum[lane], VD(from)(e));
        }
    }
    for (size_t apart = 8; apart; apart /= 2)
        for (size_t lane = 0; lane < apart; lane++) sum[lane] = VD(add)(sum[lane], sum[lane + apart]);
    return VD(round)(sum[0]);
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

#endif
