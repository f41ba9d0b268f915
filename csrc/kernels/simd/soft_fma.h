/* soft_fma.h - a * b + c with one rounding, for CPUs without the instruction.
 *
 * The product of two float32 is exact in float64. The sum s is rounded to 53 bits and its error e is found exactly
 * (Knuth's two-sum). Where e is not 0, the last bit of s is forced to 1 towards the true value ("round to odd",
 * Boldo and Melquiond 2008). As 53 >= 24 + 2 bits, rounding s to float32 then rounds the exact result once, denormal
 * results included. */
#ifndef LP_SOFT_FMA_H
#define LP_SOFT_FMA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "isa.h" /* INLINE */

INLINE float lp_soft_fma(float a, float b, float c) {
#if defined(FP_FAST_FMAF) || defined(__aarch64__)
    return fmaf(a, b, c);
#else
    double p = (double)a * b, d = c, s = p + d;
    double t = s - p, e = (p - (s - t)) + (d - t);
    uint64_t bits;
    memcpy(&bits, &s, 8);
    /* An even last bit and a nonzero error: step towards the error. Inf and NaN have e = NaN and stay. */
    int up = (e > 0) == (s > 0), inexact = (e > 0) | (e < 0);
    uint64_t odd = up ? bits + 1 : bits - 1;
    bits = inexact && !(bits & 1) ? odd : bits;
    memcpy(&s, &bits, 8);
    return (float)s;
#endif
}

#endif
