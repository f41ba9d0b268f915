/* plain.h - N lanes in plain C: the definition of every verb, for N = 4, 8 or 16.
 *
 * vN is N floats, vNd as many doubles; the kernels use nothing else of an instruction set. vector.h includes this
 * once per width, with PLAIN_N defined.
 *   load store set1 zero add sub mul div   lane by lane, IEEE, rounded to nearest even
 *   store_nontemporal(p, a) store past the caches to an aligned p; others see it after nontemporal_end()
 *   fma(a, b, c)           a * b + c, rounded once
 *   fma_into(&c, a, b)     c = fma(a, b, c), where all lanes of a are one number
 *   max(a, b)              a > b ? a : b
 *   if_less(a, b, x, y)    a < b ? x : y
 *   keep_from(lane, x, y)  lanes >= lane of x, the others of y; lane <= N
 *   scale2(p, t, bias)     p * 2^n, n = bits(t) - bits(bias), as two factors so that a denormal rounds once
 *   widen_bf16 widen_f16 widen_f32   N elements at any address to float32
 *   split_bf16(even, odd, p)         elements 0, 2, 4 .. and 1, 3, 5 .. of 2 N at any address
 *   spread_bf16(even, odd, p)        the same, stored to the high halves of floats whose low halves are 0 (SPREAD_BF16)
 *   set1_bf16(p)           the element at p; the two bytes before it are read too (BF16_RING)
 *   transpose(r)           r[i] lane j <-> r[j] lane i
 *   columns_bf16(c, w, stride)       columns 0 .. N of N rows, `stride` bytes apart: c[j] lane r = row r, column j
 *   vNd: zero, add, from (exact), round (to float32)                                                             */
#ifndef LP_PLAIN_H
#define LP_PLAIN_H

#include "elements.h" /* lp_bf16_at, lp_f16_at, lp_f32_bits, lp_f32_from_bits */
#include "isa.h"      /* INLINE */
#include "soft_fma.h" /* lp_soft_fma */

#ifndef PLAIN_N
#define PLAIN_N 4
#endif

#define VN LP_CAT(v, PLAIN_N, )
#define VND LP_CAT(v, PLAIN_N, d)
#define VERB(name) LP_CAT(VN, _, name)
#define VERBD(name) LP_CAT(VND, _, name)
#define EACH for (int i = 0; i < PLAIN_N; i++)
#define LANEWISE(name, value)          \
    INLINE VN VERB(name)(VN a, VN b) { \
        EACH a.f[i] = value;           \
        return a;                      \
    }

typedef struct {
    float f[PLAIN_N];
} VN;
typedef struct {
    double f[PLAIN_N];
} VND;

INLINE VN VERB(load)(const float *p) {
    VN a;
    EACH a.f[i] = p[i];
    return a;
}
INLINE void VERB(store)(float *p, VN a) { EACH p[i] = a.f[i]; }
INLINE void VERB(store_nontemporal)(float *p, VN a) { VERB(store)(p, a); }
INLINE void VERB(nontemporal_end)(void) {}
INLINE VN VERB(set1)(float x) {
    VN a;
    EACH a.f[i] = x;
    return a;
}
INLINE VN VERB(zero)(void) { return VERB(set1)(0); }
LANEWISE(add, a.f[i] + b.f[i])
LANEWISE(sub, a.f[i] - b.f[i])
LANEWISE(mul, a.f[i] * b.f[i])
LANEWISE(div, a.f[i] / b.f[i])
LANEWISE(max, a.f[i] > b.f[i] ? a.f[i] : b.f[i])
INLINE VN VERB(fma)(VN a, VN b, VN c) {
    EACH c.f[i] = lp_soft_fma(a.f[i], b.f[i], c.f[i]);
    return c;
}
INLINE void VERB(fma_into)(VN *c, VN a, VN b) { *c = VERB(fma)(a, b, *c); }
INLINE VN VERB(if_less)(VN a, VN b, VN x, VN y) {
    EACH x.f[i] = a.f[i] < b.f[i] ? x.f[i] : y.f[i];
    return x;
}
INLINE VN VERB(keep_from)(size_t lane, VN x, VN y) {
    EACH x.f[i] = (size_t)i >= lane ? x.f[i] : y.f[i];
    return x;
}
INLINE VN VERB(scale2)(VN p, VN biased, float bias) {
    EACH {
        int32_t n = (int32_t)(lp_f32_bits(biased.f[i]) - lp_f32_bits(bias)), a = n >> 1, b = n - a;
        float two_a = lp_f32_from_bits(((uint32_t)a + 127u) << 23),
              two_b = lp_f32_from_bits(((uint32_t)b + 127u) << 23);
        p.f[i] = p.f[i] * two_a * two_b;
    }
    return p;
}
INLINE VN VERB(widen_bf16)(const void *p) {
    VN a;
    EACH a.f[i] = lp_bf16_at(p, (size_t)i);
    return a;
}
INLINE void VERB(split_bf16)(VN *even, VN *odd, const void *p) {
    EACH even->f[i] = lp_bf16_at(p, 2 * (size_t)i);
    EACH odd->f[i] = lp_bf16_at(p, 2 * (size_t)i + 1);
}
INLINE float VERB(high_half)(float old, float high) {
    return lp_f32_from_bits(lp_f32_bits(high) | (lp_f32_bits(old) & 0xffff));
}
INLINE void VERB(spread_bf16)(float *even, float *odd, const void *p) {
    EACH even[i] = VERB(high_half)(even[i], lp_bf16_at(p, 2 * (size_t)i));
    EACH odd[i] = VERB(high_half)(odd[i], lp_bf16_at(p, 2 * (size_t)i + 1));
}
INLINE VN VERB(widen_f16)(const void *p) {
    VN a;
    EACH a.f[i] = lp_f16_at(p, (size_t)i);
    return a;
}
INLINE VN VERB(set1_bf16)(const char *p) { return VERB(set1)(lp_bf16_at(p, 0)); }
INLINE VN VERB(widen_f32)(const void *p) {
    VN a;
    memcpy(&a, p, sizeof a);
    return a;
}
INLINE void VERB(transpose)(VN *r) {
    EACH for (int j = 0; j < i; j++) {
        float a = r[i].f[j];
        r[i].f[j] = r[j].f[i];
        r[j].f[i] = a;
    }
}
INLINE void VERB(columns_bf16)(VN *c, const char *w, size_t stride) {
    EACH c[i] = VERB(widen_bf16)(w + (size_t)i * stride);
    VERB(transpose)(c);
}
INLINE VND VERBD(zero)(void) {
    VND a;
    EACH a.f[i] = 0;
    return a;
}
INLINE VND VERBD(add)(VND a, VND b) {
    EACH a.f[i] += b.f[i];
    return a;
}
INLINE VND VERBD(from)(VN a) {
    VND d;
    EACH d.f[i] = a.f[i];
    return d;
}
INLINE VN VERBD(round)(VND a) {
    VN r;
    EACH r.f[i] = (float)a.f[i];
    return r;
}

#undef LANEWISE
#undef EACH
#undef VERBD
#undef VERB
#undef VND
#undef VN

#endif
