/* plain.h - N lanes in plain C: the definition of every verb, for N = 4, 8 or 16.
 *
 * vN is N floats, vNd as many doubles; the kernels use nothing else of an instruction set. vector.h includes this
 * once per width, with PLAIN_N defined.
 *   load store set1 zero add sub mul div   lane by lane, IEEE, rounded to nearest even
 *   store_nontemporal(p, a) store to an aligned p, bypassing the caches; visible to others after nontemporal_end()
 *   fma(a, b, c)           a * b + c, rounded once
 *   fma_into(&c, a, b)     c = fma(a, b, c), where all lanes of a are one number
 *   max(a, b)              a > b ? a : b
 *   if_less(a, b, x, y)    a < b ? x : y
 *   keep_from(lane, x, y)  lanes >= lane are from x, the others from y; lane <= N
 *   scale2(p, t, bias)     p * 2^n, n = bits(t) - bits(bias), as two factors so that a denormal rounds once
 *   widen_bf16 widen_f16 widen_f32   N elements at any address to float32
 *   split_bf16(even, odd, p)         elements 0, 2, 4 .. and 1, 3, 5 .. of 2 N at any address
 *   spread_bf16(even, odd, p)        the same, stored to the high halves of floats whose low halves are 0 (SPREAD_BF16)
 *   set1_bf16(p)           the element at p; the two bytes before it are read too (BF16_RING)
 *   transpose(r)           r[i] lane j <-> r[j] lane i
 *   columns_bf16(c, w, stride)       columns 0 .. N of N rows, `stride` bytes apart: c[j] lane r = row r, column j
 *   from_i8 from_u8        N bytes at any address
 *   from_e4m3              N bytes of FP8, times 2^-8; NaN is read as 480
 *   from_nibbles(p)        N nibbles at p, the low one of each byte first
 *   set1_f16(p)            the f16 at p
 *   lookup(t, p, shift)    lane i is lane (p[i] >> shift) % 16 of t (N = 16)
 *   lookup_nibbles(t, p)   lane i is the lane of t that nibble i at p names (N = 16)
 *   lookup_bytes(out, t, p)          out[i] = t[p[i]], 16 bytes each, p[i] < 16
 *   spread_bits(out, p, value)       out[i] = `value` where bit i of the 32 bits at p is set, else 0
 * Lanes as 32-bit words, not float values (dequant/lanes.h):
 *   columns_words(c, p, stride)      words 0 .. 4 of N rows, `stride` bytes apart: c[j] lane r = row r, word j
 *   byte_of nibble_of half_of(w, i)  byte i as a signed integer, nibble i, f16 i
 *   e4m3_of(c, w)          c[i] = byte i of w as from_e4m3
 *   lookup_words(w, t)     t[b] for each byte b < 16 of w, t of 16 bytes
 *   bits(w, right, mask)   w >> right & mask
 *   left_or(w, left, a)    w << left | a
 *   plus(w, n)             w + n
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
INLINE VN VERB(from_i8)(const void *p) {
    VN a;
    EACH a.f[i] = (float)((const signed char *)p)[i];
    return a;
}
INLINE VN VERB(from_u8)(const void *p) {
    VN a;
    EACH a.f[i] = (float)((const unsigned char *)p)[i];
    return a;
}
INLINE VN VERB(from_nibbles)(const unsigned char *p) {
    VN a;
    EACH a.f[i] = (float)(p[i / 2] >> i % 2 * 4 & 15);
    return a;
}
/* By way of f16: shifted into a float32, a small code would be denormal, which costs some CPUs 5 to 150 cycles. */
INLINE float VERB(e4m3)(uint32_t code) { return lp_f16_to_f32((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7)); }
INLINE VN VERB(from_e4m3)(const void *p) {
    VN a;
    EACH { a.f[i] = VERB(e4m3)(((const unsigned char *)p)[i]); }
    return a;
}
INLINE VN VERB(set1_f16)(const void *p) { return VERB(set1)(lp_f16_at(p, 0)); }
#if PLAIN_N == 16
INLINE VN VERB(lookup)(VN table, const unsigned char *p, unsigned shift) {
    VN a;
    EACH a.f[i] = table.f[p[i] >> shift & 15];
    return a;
}
INLINE VN VERB(lookup_nibbles)(VN table, const unsigned char *p) {
    VN a;
    EACH a.f[i] = table.f[p[i / 2] >> i % 2 * 4 & 15];
    return a;
}
#endif
INLINE void VERB(lookup_bytes)(unsigned char *out, const signed char *table, const unsigned char *p) {
    for (int i = 0; i < 16; i++) out[i] = (unsigned char)table[p[i]];
}
INLINE void VERB(spread_bits)(unsigned char *out, const unsigned char *p, unsigned char value) {
    for (int i = 0; i < 32; i++) out[i] = p[i / 8] >> i % 8 & 1 ? value : 0;
}
INLINE void VERB(columns_words)(VN c[4], const void *p, size_t stride) {
    EACH for (int j = 0; j < 4; j++) memcpy(&c[j].f[i], (const char *)p + (size_t)i * stride + 4 * j, 4);
}
/* Defines a verb lane by lane: `value` is computed from `word`, the bits of a lane of w. */
#define WORDWISE(name, parameter, value)         \
    INLINE VN VERB(name)(VN w, parameter) {      \
        EACH {                                   \
            uint32_t word = lp_f32_bits(w.f[i]); \
            w.f[i] = value;                      \
        }                                        \
        return w;                                \
    }
WORDWISE(byte_of, int n, (float)(signed char)(word >> 8 * n))
WORDWISE(nibble_of, int n, (float)(word >> 4 * n & 15))
WORDWISE(half_of, int n, lp_f16_to_f32((uint16_t)(word >> 16 * n)))
INLINE void VERB(e4m3_of)(VN codes[4], VN w) {
    EACH for (int j = 0; j < 4; j++) codes[j].f[i] = VERB(e4m3)(lp_f32_bits(w.f[i]) >> 8 * j);
}
#define TABLE const signed char *table
#define LOOKUP(i) (uint32_t)(unsigned char)table[word >> i & 15] << i
WORDWISE(lookup_words, TABLE, lp_f32_from_bits(LOOKUP(0) | LOOKUP(8) | LOOKUP(16) | LOOKUP(24)))
#undef LOOKUP
#undef TABLE
#define MASK unsigned right, uint32_t mask
WORDWISE(bits, MASK, lp_f32_from_bits(word >> right & mask))
#undef MASK
WORDWISE(plus, uint32_t n, lp_f32_from_bits(word + n))
#define WORDS unsigned left, VN a
WORDWISE(left_or, WORDS, lp_f32_from_bits(word << left | lp_f32_bits(a.f[i])))
#undef WORDS
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

#undef WORDWISE
#undef LANEWISE
#undef EACH
#undef VERBD
#undef VERB
#undef VND
#undef VN

#endif
