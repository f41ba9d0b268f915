/* avx512.h - the verbs of 16 lanes with AVX-512F, DQ, BW and VL, and avx2.h's of eight; plain.h defines them. */
#ifndef LP_AVX512_H
#define LP_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define LP_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#include "avx2.h" /* v8 */
#include "isa.h"  /* INLINE, UNROLL, LP_TARGET_BEGIN */

LP_TARGET_BEGIN(LP_TARGET)

typedef __m512 v16;
typedef struct {
    __m512d lo, hi;
} v16d;

INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
INLINE void v16_store_nontemporal(float *p, v16 a) { _mm512_stream_ps(p, a); }
INLINE void v16_nontemporal_end(void) { _mm_sfence(); }
INLINE v16 v16_set1(float a) { return _mm512_set1_ps(a); }
INLINE v16 v16_zero(void) { return _mm512_setzero_ps(); }
INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v16_if_less(v16 a, v16 b, v16 x, v16 y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE v16 v16_keep_from(size_t lane, v16 x, v16 y) { return _mm512_mask_blend_ps((__mmask16)(0xffffu << lane), y, x); }

INLINE v16 v16_scale2(v16 p, v16 biased, float bias) {
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(biased), _mm512_castps_si512(_mm512_set1_ps(bias)));
    __m512i a = _mm512_srai_epi32(n, 1), b = _mm512_sub_epi32(n, a), one = _mm512_set1_epi32(127);
    v16 two_a = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, one), 23));
    v16 two_b = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(b, one), 23));
    return _mm512_mul_ps(_mm512_mul_ps(p, two_a), two_b);
}

INLINE v16 v16_widen_bf16(const void *p) {
    __m512i halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
}
INLINE void v16_split_bf16(v16 *even, v16 *odd, const void *p) {
    __m512i pairs = _mm512_loadu_si512(p);
    __asm__("" : "+v"(pairs)); /* as v8_split_bf16 */
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}
/* Masked stores only: a shift and a mask would take issue slots from the multiply-adds. */
INLINE void v16_spread_bf16(float *even, float *odd, const void *p) {
    __m512i pairs = _mm512_loadu_si512(p);
    _mm512_mask_storeu_epi16((char *)even + 2, 0x55555555, pairs);
    _mm512_mask_storeu_epi16(odd, 0xaaaaaaaa, pairs);
}
INLINE void v8_spread_bf16(float *even, float *odd, const void *p) {
    __m256i pairs = _mm256_loadu_si256(p);
    _mm256_mask_storeu_epi16((char *)even + 2, 0x5555, pairs);
    _mm256_mask_storeu_epi16(odd, 0xaaaa, pairs);
}
INLINE v16 v16_widen_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }

INLINE v16 v16_widen_f32(const void *p) { return _mm512_loadu_ps(p); }

INLINE v16 v16_from_i8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))); }
INLINE v16 v16_from_u8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p))); }
/* Nibble i at p is the low one of lane i. */
INLINE __m512i lp_avx512_nibbles(const unsigned char *p) {
    __m512i pairs = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const void *)p));
    return _mm512_or_si512(pairs, _mm512_slli_epi64(pairs, 28));
}
INLINE v16 v16_from_nibbles(const unsigned char *p) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(lp_avx512_nibbles(p), _mm512_set1_epi32(15)));
}
/* f16 from codes in the high bytes of 16-bit lanes, scaled by 2^-8. */
INLINE __m512i lp_avx512_e4m3(__m512i codes) {
    return _mm512_and_si512(_mm512_srai_epi16(codes, 1), _mm512_set1_epi16((short)0xbf80));
}
INLINE v16 v16_from_e4m3(const void *p) {
    __m256i codes = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(p)), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(codes, _mm256_set1_epi16((short)0xbf80)));
}
INLINE v16 v16_set1_f16(const void *p) {
    short half;
    __builtin_memcpy(&half, p, sizeof half);
    return _mm512_cvtph_ps(_mm256_set1_epi16(half));
}
/* The permutation uses only the low four bits of an index. */
INLINE v16 v16_lookup(v16 table, const unsigned char *p, unsigned shift) {
    __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
    return _mm512_permutexvar_ps(_mm512_srli_epi32(codes, shift), table);
}
INLINE v16 v16_lookup_nibbles(v16 table, const unsigned char *p) {
    return _mm512_permutexvar_ps(lp_avx512_nibbles(p), table);
}
INLINE void v16_spread_bits(unsigned char *out, const unsigned char *p, unsigned char value) {
    v8_spread_bits(out, p, value);
}

INLINE v16d v16d_zero(void) { return (v16d){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
INLINE v16d v16d_add(v16d a, v16d b) { return (v16d){_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)}; }
INLINE v16d v16d_from(v16 a) {
    return (v16d){_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))};
}
INLINE v16 v16d_round(v16d a) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo)), _mm512_cvtpd_ps(a.hi), 1);
}

INLINE void v16_transpose(v16 r[16]) {
    v16 t[16];
    UNROLL for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    /* now quarter q of r[4 g + i] is column 4 q + i of rows 4 g .. 4 g + 3 */
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x44);
        t[4 + i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xee);
        t[8 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x44);
        t[12 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        r[8 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* Words 0 .. 4 of sixteen rows; quarter q of r[i] is of row 4 q + i. */
INLINE void lp_avx512_columns(__m512i c[4], const char *w, size_t stride) {
    __m512i r[4], t[4];
    UNROLL for (size_t i = 0; i < 4; i++) {
        __m128i quarter[4];
        UNROLL for (size_t q = 0; q < 4; q++) quarter[q] = _mm_loadu_si128((const void *)(w + (4 * q + i) * stride));
        __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter[0]), quarter[1], 1);
        __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter[2]), quarter[3], 1);
        r[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    t[0] = _mm512_unpacklo_epi32(r[0], r[1]), t[1] = _mm512_unpackhi_epi32(r[0], r[1]);
    t[2] = _mm512_unpacklo_epi32(r[2], r[3]), t[3] = _mm512_unpackhi_epi32(r[2], r[3]);
    c[0] = _mm512_unpacklo_epi64(t[0], t[2]), c[1] = _mm512_unpackhi_epi64(t[0], t[2]);
    c[2] = _mm512_unpacklo_epi64(t[1], t[3]), c[3] = _mm512_unpackhi_epi64(t[1], t[3]);
}

/* As v8_columns_bf16. */
INLINE void v16_columns_bf16(v16 c[16], const char *w, size_t stride) {
    UNROLL for (size_t half = 0; half < 2; half++, w += 16) { /* 8 columns */
        __m512i pair[4];
        lp_avx512_columns(pair, w, stride);
        UNROLL for (size_t i = 0; i < 4; i++) {
            c[8 * half + 2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(pair[i], 16));
            c[8 * half + 2 * i + 1] =
                _mm512_castsi512_ps(_mm512_and_si512(pair[i], _mm512_set1_epi32((int)0xffff0000)));
        }
    }
}
INLINE void v16_columns_words(v16 c[4], const void *p, size_t stride) {
    __m512i words[4];
    lp_avx512_columns(words, p, stride);
    UNROLL for (int i = 0; i < 4; i++) c[i] = _mm512_castsi512_ps(words[i]);
}
INLINE v16 v16_byte_of(v16 w, int n) {
    __m512i top = _mm512_slli_epi32(_mm512_castps_si512(w), (unsigned)(24 - 8 * n));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
}
/* The permutation uses only the low four bits of an index, and its table converts to float. */
INLINE v16 v16_nibble_of(v16 w, int n) {
    v16 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(_mm512_castps_si512(w), (unsigned)(4 * n)), table);
}
INLINE v16 v16_half_of(v16 w, int n) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(w), (unsigned)(16 * n))));
}
INLINE void v16_e4m3_of(v16 codes[4], v16 w) {
    const __m512i low_halves =
        _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, /* above them the high ones */
                         30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i bits = _mm512_castps_si512(w);
    UNROLL for (int i = 0; i < 2; i++) {
        __m512i halves = lp_avx512_e4m3(i ? bits : _mm512_slli_epi16(bits, 8));
        halves = _mm512_permutexvar_epi16(low_halves, halves);
        codes[i] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
        codes[i + 2] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    }
}
INLINE v16 v16_lookup_words(v16 w, const signed char *table) {
    __m512i from = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
    return _mm512_castsi512_ps(_mm512_shuffle_epi8(from, _mm512_castps_si512(w)));
}
INLINE v16 v16_bits(v16 w, unsigned right, uint32_t mask) {
    __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(w), right);
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)mask)));
}
INLINE v16 v16_plus(v16 w, uint32_t n) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(w), _mm512_set1_epi32((int)n)));
}
INLINE v16 v16_left_or(v16 w, unsigned left, v16 a) {
    return _mm512_or_ps(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(w), left)), a);
}

/* One instruction: with two, a tile of 8 tokens would be bound by the front end. */
INLINE v8 v8_set1_bf16(const char *p) {
    v8 a;
    __asm__("vpandd %1%{1to8%}, %2, %0"
            : "=v"(a)
            : "m"(*(const char (*)[4])(p - 2)), "v"(_mm256_set1_epi32((int)0xffff0000)));
    return a;
}
INLINE v16 v16_set1_bf16(const char *p) {
    v16 a;
    __asm__("vpandd %1%{1to16%}, %2, %0"
            : "=v"(a)
            : "m"(*(const char (*)[4])(p - 2)), "v"(_mm512_set1_epi32((int)0xffff0000)));
    return a;
}

/* As v8_fma_into. */
INLINE void v16_fma_into(v16 *c, v16 a, v16 b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(*c) : "v"(a), "v"(b)); }

LP_TARGET_END

#endif
