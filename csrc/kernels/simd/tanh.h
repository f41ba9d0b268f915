/* tanh.h - tanh for a vector, and gelu_tanh and caps from it. The same operations in every variant.
 *
 * A template, see parameters.h. docs/arithmetic.md states the steps. Below 0.546875, x + x^3 P(x^2); above,
 * 1 - 2 / (e^2|x| + 1), where e^2|x| and later terms are sums of two floats; below 2^-12 x itself. At most 0.886 ulp
 * off over all floats, odd and monotone. -0 stays, tanh(inf) = 1, NaN stays. */
#ifndef LP_TANH_H
#define LP_TANH_H

#include "exp.h"    /* EXP_LOG2E, EXP_BIAS, EXP_LN2_HIGH, EXP_LN2_LOW */
#include "vector.h" /* V, VEC */

#define TANH_TINY 0x1p-12f        /* tanh(x) rounds to x below it */
#define TANH_SMALL 0x1.18p-1f     /* above it 1 - tanh(x) is exact enough */
#define TANH_MOST 10.0f           /* tanh(10) rounds to 1 */
#define GELU_SCALE 0x1.988454p-1f /* sqrt(2 / pi) */
#define GELU_CUBE 0x1.6e4e26p-5f  /* 0.044715 */

/* |x| < TANH_SMALL: x + (x z) P(z), z = x^2 */
INLINE VEC V(tanh_small)(VEC x) {
    VEC z = V(mul)(x, x);
    VEC p = V(fma)(V(set1)(-0x1.9cf7c6p-8f), z, V(set1)(0x1.5991d6p-6f));
    p = V(fma)(p, z, V(set1)(-0x1.b93380p-5f));
    p = V(fma)(p, z, V(set1)(0x1.110d70p-3f));
    p = V(fma)(p, z, V(set1)(-0x1.55554cp-2f));
    return V(fma)(V(mul)(x, z), p, x);
}

/* e^b, 0 <= b <= 20, as the sum of two floats. */
INLINE void V(exp_pair)(VEC *high, VEC *low, VEC b) {
    VEC one = V(set1)(1), bias = V(set1)(EXP_BIAS);
    VEC biased = V(fma)(b, V(set1)(EXP_LOG2E), bias), n = V(sub)(biased, bias);
    VEC r = V(fma)(n, V(set1)(-EXP_LN2_HIGH), b);
    r = V(fma)(n, V(set1)(-EXP_LN2_LOW), r);
    VEC q = V(fma)(V(set1)(0x1.6d5cf2p-10f), r, V(set1)(0x1.123bdep-7f));
    q = V(fma)(q, r, V(set1)(0x1.5554dap-5f));
    q = V(fma)(q, r, V(set1)(0x1.55548ep-3f));
    q = V(fma)(q, r, V(set1)(0.5f));
    VEC t = V(fma)(V(mul)(q, r), r, r); /* e^r - 1 */
    *high = V(add)(one, t);
    *low = V(scale2)(V(sub)(t, V(sub)(*high, one)), biased, EXP_BIAS);
    *high = V(scale2)(*high, biased, EXP_BIAS);
}

/* a >= TANH_SMALL: 1 - 2 / (e^2a + 1) */
INLINE VEC V(tanh_large)(VEC a) {
    VEC one = V(set1)(1), two = V(set1)(2), most = V(set1)(TANH_MOST), high, low;
    VEC b = V(if_less)(most, a, most, a);
    V(exp_pair)(&high, &low, V(add)(b, b));
    VEC d = V(add)(high, one), d_low = V(add)(V(sub)(one, V(sub)(d, high)), low);
    VEC w = V(div)(two, d), minus_w = V(sub)(V(zero)(), w);
    VEC rest = V(fma)(minus_w, d_low, V(fma)(minus_w, d, two));
    VEC w_low = V(mul)(rest, V(mul)(w, V(set1)(0.5f)));
    VEC s = V(sub)(one, w), c = V(sub)(V(sub)(one, s), w);
    return V(add)(s, V(sub)(c, w_low));
}

NOINLINE VEC V(tanh)(VEC x) {
    VEC zero = V(zero)(), a = V(if_less)(x, zero, V(sub)(zero, x), x), large = V(tanh_large)(a);
    large = V(if_less)(x, zero, V(sub)(zero, large), large);
    VEC y = V(if_less)(a, V(set1)(TANH_SMALL), V(tanh_small)(x), large);
    return V(if_less)(a, V(set1)(TANH_TINY), x, y);
}

/* (x / 2) (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
INLINE VEC V(gelu_tanh)(VEC x) {
    VEC cube = V(mul)(V(mul)(x, x), x);
    VEC u = V(mul)(V(set1)(GELU_SCALE), V(add)(x, V(mul)(V(set1)(GELU_CUBE), cube)));
    return V(mul)(V(mul)(V(set1)(0.5f), x), V(add)(V(set1)(1), V(tanh)(u)));
}

/* c tanh(x / c) */
INLINE VEC V(cap)(VEC x, VEC c) { return V(mul)(V(tanh)(V(div)(x, c)), c); }

#endif
