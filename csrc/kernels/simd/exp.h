/* exp.h - e^x for a vector, and silu. The same operations in every variant.
 *
 * A template, see parameters.h. docs/arithmetic.md derives the constants. n = x / ln 2, rounded to an integer by
 * adding and subtracting 1.5 * 2^23; r = x - n ln 2 in two fused steps; e^r by a polynomial of degree 6; the result is
 * p * 2^n with 2^n as two factors, so that a denormal rounds once. At most 0.9 ulp off over all floats. e^-inf = +0,
 * e^inf = inf, NaN stays. */
#ifndef LP_EXP_H
#define LP_EXP_H

#include "vector.h" /* V, VEC */

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

#endif
