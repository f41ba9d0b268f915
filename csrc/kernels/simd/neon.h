/* neon.h - the verbs of eight lanes as two registers of four; plain.h defines them. */
#ifndef LP_NEON_H
#define LP_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "isa.h" /* INLINE, UNROLL */

typedef struct {
    float32x4_t lo, hi;
} v8;
typedef struct {
    float64x2_t f[4];
} v8d;

INLINE v8 v8_load(const float *p) { return (v8){vld1q_f32(p), vld1q_f32(p + 4)}; }
INLINE void v8_store(float *p, v8 a) { vst1q_f32(p, a.lo), vst1q_f32(p + 4, a.hi); }
INLINE void v8_store_nontemporal(float *p, v8 a) { v8_store(p, a); }
INLINE void v8_nontemporal_end(void) {}
INLINE v8 v8_set1(float a) { return (v8){vdupq_n_f32(a), vdupq_n_f32(a)}; }
INLINE v8 v8_zero(void) { return v8_set1(0); }
INLINE v8 v8_add(v8 a, v8 b) { return (v8){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
INLINE v8 v8_sub(v8 a, v8 b) { return (v8){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
INLINE v8 v8_mul(v8 a, v8 b) { return (v8){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
INLINE v8 v8_div(v8 a, v8 b) { return (v8){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
INLINE v8 v8_fma(v8 a, v8 b, v8 c) { return (v8){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
INLINE v8 v8_if_less(v8 a, v8 b, v8 x, v8 y) {
    return (v8){vbslq_f32(vcltq_f32(a.lo, b.lo), x.lo, y.lo), vbslq_f32(vcltq_f32(a.hi, b.hi), x.hi, y.hi)};
}
/* Not FMAX: where a is NaN, the result is b. */
INLINE v8 v8_max(v8 a, v8 b) { return v8_if_less(b, a, a, b); }

INLINE v8 v8_keep_from(size_t lane, v8 x, v8 y) {
    static const uint32_t lanes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    uint32x4_t from = vdupq_n_u32((uint32_t)lane);
    return (v8){vbslq_f32(vcgeq_u32(vld1q_u32(lanes), from), x.lo, y.lo),
                vbslq_f32(vcgeq_u32(vld1q_u32(lanes + 4), from), x.hi, y.hi)};
}

INLINE float32x4_t lp_neon_scale2(float32x4_t p, float32x4_t biased, float bias) {
    int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(biased), vreinterpretq_s32_f32(vdupq_n_f32(bias)));
    int32x4_t a = vshrq_n_s32(n, 1), b = vsubq_s32(n, a), one = vdupq_n_s32(127);
    float32x4_t two_a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(a, one), 23));
    float32x4_t two_b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(b, one), 23));
    return vmulq_f32(vmulq_f32(p, two_a), two_b);
}
INLINE v8 v8_scale2(v8 p, v8 biased, float bias) {
    return (v8){lp_neon_scale2(p.lo, biased.lo, bias), lp_neon_scale2(p.hi, biased.hi, bias)};
}

/* Four lanes of 32 bits at any address. */
INLINE uint32x4_t lp_neon_bits(const void *p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
INLINE float32x4_t lp_neon_f32(uint32x4_t bits) { return vreinterpretq_f32_u32(bits); }

INLINE v8 v8_widen_bf16(const void *p) {
    uint16x8_t halves = vreinterpretq_u16_u8(vld1q_u8(p));
    return (v8){lp_neon_f32(vshll_n_u16(vget_low_u16(halves), 16)), lp_neon_f32(vshll_high_n_u16(halves, 16))};
}
INLINE void v8_split_bf16(v8 *even, v8 *odd, const void *p) {
    uint32x4_t lo = lp_neon_bits(p), hi = lp_neon_bits((const char *)p + 16), mask = vdupq_n_u32(0xffff0000);
    *even = (v8){lp_neon_f32(vshlq_n_u32(lo, 16)), lp_neon_f32(vshlq_n_u32(hi, 16))};
    *odd = (v8){lp_neon_f32(vandq_u32(lo, mask)), lp_neon_f32(vandq_u32(hi, mask))};
}
INLINE v8 v8_widen_f16(const void *p) {
    float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(p));
    return (v8){vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}

INLINE v8 v8_widen_f32(const void *p) {
    return (v8){lp_neon_f32(lp_neon_bits(p)), lp_neon_f32(lp_neon_bits((const char *)p + 16))};
}

INLINE v8 v8_from_i8(const void *p) {
    int16x8_t q = vmovl_s8(vld1_s8(p));
    return (v8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(q))), vcvtq_f32_s32(vmovl_high_s16(q))};
}
INLINE v8 v8_from_u8(const void *p) {
    uint16x8_t q = vmovl_u8(vld1_u8(p));
    return (v8){vcvtq_f32_u32(vmovl_u16(vget_low_u16(q))), vcvtq_f32_u32(vmovl_high_u16(q))};
}
INLINE v8 v8_from_nibbles(const unsigned char *p) {
    static const int32_t right[8] = {0, -4, -8, -12, -16, -20, -24, -28};
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    uint32x4_t codes = vdupq_n_u32(word), mask = vdupq_n_u32(15);
    return (v8){vcvtq_f32_u32(vandq_u32(vshlq_u32(codes, vld1q_s32(right)), mask)),
                vcvtq_f32_u32(vandq_u32(vshlq_u32(codes, vld1q_s32(right + 4)), mask))};
}
/* Floats from codes in the high bytes of 16-bit lanes, by way of f16; scaled by 2^-8. */
INLINE v8 lp_neon_e4m3(int16x8_t codes) {
    uint16x8_t half = vandq_u16(vreinterpretq_u16_s16(vshrq_n_s16(codes, 1)), vdupq_n_u16(0xbf80));
    float16x8_t f16 = vreinterpretq_f16_u16(half);
    return (v8){vcvt_f32_f16(vget_low_f16(f16)), vcvt_high_f32_f16(f16)};
}
INLINE v8 v8_from_e4m3(const void *p) { return lp_neon_e4m3(vshll_n_s8(vld1_s8(p), 8)); }
INLINE v8 v8_set1_f16(const void *p) {
    uint16_t half;
    __builtin_memcpy(&half, p, sizeof half);
    float32x4_t x = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)));
    return (v8){x, x};
}
INLINE void v8_lookup_bytes(unsigned char *out, const signed char *table, const unsigned char *p) {
    vst1q_u8(out, vqtbl1q_u8(vreinterpretq_u8_s8(vld1q_s8(table)), vld1q_u8(p)));
}
INLINE void v8_spread_bits(unsigned char *out, const unsigned char *p, unsigned char value) {
    uint8x8_t bit = vcreate_u8(0x8040201008040201);
    UNROLL for (int i = 0; i < 4; i++) vst1_u8(out + 8 * i, vand_u8(vtst_u8(vdup_n_u8(p[i]), bit), vdup_n_u8(value)));
}

INLINE v8d v8d_zero(void) {
    float64x2_t zero = vdupq_n_f64(0);
    return (v8d){{zero, zero, zero, zero}};
}
INLINE v8d v8d_add(v8d a, v8d b) {
    UNROLL for (int i = 0; i < 4; i++) a.f[i] = vaddq_f64(a.f[i], b.f[i]);
    return a;
}
INLINE v8d v8d_from(v8 a) {
    return (v8d){{vcvt_f64_f32(vget_low_f32(a.lo)), vcvt_high_f64_f32(a.lo), vcvt_f64_f32(vget_low_f32(a.hi)),
                  vcvt_high_f64_f32(a.hi)}};
}
INLINE v8 v8d_round(v8d a) {
    return (v8){vcvt_high_f32_f64(vcvt_f32_f64(a.f[0]), a.f[1]), vcvt_high_f32_f64(vcvt_f32_f64(a.f[2]), a.f[3])};
}

/* Four rows of four 32-bit lanes to columns. */
INLINE void lp_neon_transpose(uint32x4_t r[4]) {
    uint64x2_t even[2], odd[2]; /* pairs of rows: columns 0 and 2, columns 1 and 3 */
    UNROLL for (int i = 0; i < 2; i++) {
        even[i] = vreinterpretq_u64_u32(vtrn1q_u32(r[2 * i], r[2 * i + 1]));
        odd[i] = vreinterpretq_u64_u32(vtrn2q_u32(r[2 * i], r[2 * i + 1]));
    }
    r[0] = vreinterpretq_u32_u64(vtrn1q_u64(even[0], even[1]));
    r[1] = vreinterpretq_u32_u64(vtrn1q_u64(odd[0], odd[1]));
    r[2] = vreinterpretq_u32_u64(vtrn2q_u64(even[0], even[1]));
    r[3] = vreinterpretq_u32_u64(vtrn2q_u64(odd[0], odd[1]));
}

INLINE void v8_transpose(v8 r[8]) {
    uint32x4_t part[4][4]; /* columns 0 .. 3 of the upper and the lower rows, then columns 4 .. 7 */
    UNROLL for (int i = 0; i < 4; i++) {
        part[0][i] = vreinterpretq_u32_f32(r[i].lo), part[1][i] = vreinterpretq_u32_f32(r[4 + i].lo);
        part[2][i] = vreinterpretq_u32_f32(r[i].hi), part[3][i] = vreinterpretq_u32_f32(r[4 + i].hi);
    }
    UNROLL for (int i = 0; i < 4; i++) lp_neon_transpose(part[i]);
    UNROLL for (int i = 0; i < 4; i++) {
        r[i] = (v8){lp_neon_f32(part[0][i]), lp_neon_f32(part[1][i])};
        r[4 + i] = (v8){lp_neon_f32(part[2][i]), lp_neon_f32(part[3][i])};
    }
}

/* Words 0 .. 4 of eight rows: low[i] of the first four. */
INLINE void lp_neon_columns(uint32x4_t low[4], uint32x4_t high[4], const char *w, size_t stride) {
    UNROLL for (size_t i = 0; i < 4; i++) {
        low[i] = lp_neon_bits(w + i * stride);
        high[i] = lp_neon_bits(w + (i + 4) * stride);
    }
    lp_neon_transpose(low);
    lp_neon_transpose(high);
}

/* A 32-bit lane holds two neighbours of a row, so that half the shuffles suffice. */
INLINE void v8_columns_bf16(v8 c[8], const char *w, size_t stride) {
    uint32x4_t low[4], high[4], second = vdupq_n_u32(0xffff0000);
    lp_neon_columns(low, high, w, stride);
    UNROLL for (int i = 0; i < 4; i++) {
        c[2 * i] = (v8){lp_neon_f32(vshlq_n_u32(low[i], 16)), lp_neon_f32(vshlq_n_u32(high[i], 16))};
        c[2 * i + 1] = (v8){lp_neon_f32(vandq_u32(low[i], second)), lp_neon_f32(vandq_u32(high[i], second))};
    }
}

INLINE void v8_columns_words(v8 c[4], const void *p, size_t stride) {
    uint32x4_t low[4], high[4];
    lp_neon_columns(low, high, p, stride);
    UNROLL for (int i = 0; i < 4; i++) c[i] = (v8){lp_neon_f32(low[i]), lp_neon_f32(high[i])};
}
INLINE uint32x4_t lp_neon_words(float32x4_t w) { return vreinterpretq_u32_f32(w); }
INLINE uint32x4_t lp_neon_right(float32x4_t w, int n) { return vshlq_u32(lp_neon_words(w), vdupq_n_s32(-n)); }
INLINE int32x4_t lp_neon_byte(float32x4_t w, int n) {
    return vshrq_n_s32(vreinterpretq_s32_u32(vshlq_u32(lp_neon_words(w), vdupq_n_s32(24 - 8 * n))), 24);
}
INLINE v8 v8_byte_of(v8 w, int n) {
    return (v8){vcvtq_f32_s32(lp_neon_byte(w.lo, n)), vcvtq_f32_s32(lp_neon_byte(w.hi, n))};
}
INLINE v8 v8_nibble_of(v8 w, int n) {
    uint32x4_t mask = vdupq_n_u32(15);
    return (v8){vcvtq_f32_u32(vandq_u32(lp_neon_right(w.lo, 4 * n), mask)),
                vcvtq_f32_u32(vandq_u32(lp_neon_right(w.hi, 4 * n), mask))};
}
INLINE v8 v8_half_of(v8 w, int n) {
    return (v8){vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(lp_neon_right(w.lo, 16 * n)))),
                vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(lp_neon_right(w.hi, 16 * n))))};
}
INLINE void v8_e4m3_of(v8 codes[4], v8 w) {
    int16x8_t lo = vreinterpretq_s16_f32(w.lo), hi = vreinterpretq_s16_f32(w.hi);
    int16x8_t even = vuzp1q_s16(lo, hi), odd = vuzp2q_s16(lo, hi); /* bytes 0 and 1, bytes 2 and 3 */
    codes[0] = lp_neon_e4m3(vshlq_n_s16(even, 8)), codes[1] = lp_neon_e4m3(even);
    codes[2] = lp_neon_e4m3(vshlq_n_s16(odd, 8)), codes[3] = lp_neon_e4m3(odd);
}
INLINE float32x4_t lp_neon_lookup(float32x4_t w, const signed char *table) {
    return vreinterpretq_f32_s8(vqtbl1q_s8(vld1q_s8(table), vreinterpretq_u8_f32(w)));
}
INLINE v8 v8_lookup_words(v8 w, const signed char *table) {
    return (v8){lp_neon_lookup(w.lo, table), lp_neon_lookup(w.hi, table)};
}
INLINE v8 v8_bits(v8 w, unsigned right, uint32_t mask) {
    uint32x4_t kept = vdupq_n_u32(mask);
    return (v8){lp_neon_f32(vandq_u32(lp_neon_right(w.lo, (int)right), kept)),
                lp_neon_f32(vandq_u32(lp_neon_right(w.hi, (int)right), kept))};
}
INLINE v8 v8_plus(v8 w, uint32_t n) {
    uint32x4_t each = vdupq_n_u32(n);
    return (v8){lp_neon_f32(vaddq_u32(lp_neon_words(w.lo), each)), lp_neon_f32(vaddq_u32(lp_neon_words(w.hi), each))};
}
INLINE v8 v8_left_or(v8 w, unsigned left, v8 a) {
    return (v8){lp_neon_f32(vorrq_u32(lp_neon_right(w.lo, -(int)left), lp_neon_words(a.lo))),
                lp_neon_f32(vorrq_u32(lp_neon_right(w.hi, -(int)left), lp_neon_words(a.hi)))};
}

/* Multiplies by lane 0 of a. In asm, and volatile to keep the order: gcc 12 and clang 14 hoist the loads of several
 * steps and run out of registers (a tile of 96 products had up to 17 spills, now none). */
INLINE void v8_fma_into(v8 *c, v8 a, v8 b) {
    float number = vgetq_lane_f32(a.lo, 0);
    __asm__ volatile("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c->lo) : "w"(b.lo), "w"(number));
    __asm__ volatile("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c->hi) : "w"(b.hi), "w"(number));
}
#endif
