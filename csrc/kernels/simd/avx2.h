/* avx2.h - the verbs of eight lanes with AVX2, FMA and F16C; plain.h defines them. */
#ifndef LP_AVX2_H
#define LP_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "isa.h" /* INLINE, UNROLL, LP_TARGET_BEGIN */

#ifndef LP_TARGET
#define LP_TARGET "avx2,fma,f16c"
#endif
LP_TARGET_BEGIN(LP_TARGET)

typedef __m256 v8;
typedef struct {
    __m256d lo, hi;
} v8d;

INLINE v8 v8_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v8_store(float *p, v8 a) { _mm256_storeu_ps(p, a); }
INLINE void v8_store_nontemporal(float *p, v8 a) { _mm256_stream_ps(p, a); }
INLINE void v8_nontemporal_end(void) { _mm_sfence(); }
INLINE v8 v8_set1(float a) { return _mm256_set1_ps(a); }
INLINE v8 v8_zero(void) { return _mm256_setzero_ps(); }
INLINE v8 v8_add(v8 a, v8 b) { return _mm256_add_ps(a, b); }
INLINE v8 v8_sub(v8 a, v8 b) { return _mm256_sub_ps(a, b); }
INLINE v8 v8_mul(v8 a, v8 b) { return _mm256_mul_ps(a, b); }
INLINE v8 v8_div(v8 a, v8 b) { return _mm256_div_ps(a, b); }
INLINE v8 v8_fma(v8 a, v8 b, v8 c) { return _mm256_fmadd_ps(a, b, c); }
INLINE v8 v8_max(v8 a, v8 b) { return _mm256_max_ps(a, b); }
INLINE v8 v8_if_less(v8 a, v8 b, v8 x, v8 y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }

INLINE v8 v8_keep_from(size_t lane, v8 x, v8 y) {
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)lane), lanes);
    return _mm256_blendv_ps(x, y, _mm256_castsi256_ps(below));
}

INLINE v8 v8_scale2(v8 p, v8 biased, float bias) {
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(biased), _mm256_castps_si256(_mm256_set1_ps(bias)));
    __m256i a = _mm256_srai_epi32(n, 1), b = _mm256_sub_epi32(n, a), one = _mm256_set1_epi32(127);
    v8 two_a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(a, one), 23));
    v8 two_b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(b, one), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, two_a), two_b);
}

INLINE v8 v8_widen_bf16(const void *p) {
    __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16));
}

/* The empty asm keeps it one load: gcc would load twice, and each load that crosses a cache line costs two. */
INLINE void v8_split_bf16(v8 *even, v8 *odd, const void *p) {
    __m256i pairs = _mm256_loadu_si256(p);
    __asm__("" : "+v"(pairs));
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}
INLINE v8 v8_widen_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }

INLINE v8 v8_widen_f32(const void *p) { return _mm256_loadu_ps(p); }

INLINE v8 v8_from_i8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p))); }
INLINE v8 v8_from_u8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p))); }
INLINE v8 v8_from_nibbles(const unsigned char *p) {
    int word;
    __builtin_memcpy(&word, p, sizeof word);
    __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    return _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)));
}
INLINE v8 v8_from_e4m3(const void *p) {
    __m128i codes = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(p)), 7);
    return _mm256_cvtph_ps(_mm_and_si128(codes, _mm_set1_epi16((short)0xbf80)));
}
INLINE v8 v8_set1_f16(const void *p) {
    short half;
    __builtin_memcpy(&half, p, sizeof half);
    return _mm256_cvtph_ps(_mm_set1_epi16(half));
}
INLINE void v8_lookup_bytes(unsigned char *out, const signed char *table, const unsigned char *p) {
    __m128i from = _mm_loadu_si128((const void *)table), at = _mm_loadu_si128((const void *)p);
    _mm_storeu_si128((void *)out, _mm_shuffle_epi8(from, at));
}
INLINE void v8_spread_bits(unsigned char *out, const unsigned char *p, unsigned char value) {
    int bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i found = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte), bit);
    found = _mm256_and_si256(_mm256_cmpeq_epi8(found, bit), _mm256_set1_epi8((char)value));
    _mm256_storeu_si256((void *)out, found);
}

INLINE v8d v8d_zero(void) { return (v8d){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
INLINE v8d v8d_add(v8d a, v8d b) { return (v8d){_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)}; }
INLINE v8d v8d_from(v8 a) {
    return (v8d){_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))};
}
INLINE v8 v8d_round(v8d a) { return _mm256_set_m128(_mm256_cvtpd_ps(a.hi), _mm256_cvtpd_ps(a.lo)); }

INLINE void v8_transpose(v8 r[8]) {
    v8 t[8];
    UNROLL for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        v8 a = r[i], b = r[i + 4];
        r[i] = _mm256_permute2f128_ps(a, b, 0x20);
        r[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

/* Words 0 .. 4 of eight rows. */
INLINE void lp_avx2_columns(__m256i c[4], const char *w, size_t stride) {
    __m256i r[4], t[4];
    UNROLL for (size_t i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const __m128i *)(w + i * stride));
        __m128i high = _mm_loadu_si128((const __m128i *)(w + (i + 4) * stride));
        r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    t[0] = _mm256_unpacklo_epi32(r[0], r[1]), t[1] = _mm256_unpackhi_epi32(r[0], r[1]);
    t[2] = _mm256_unpacklo_epi32(r[2], r[3]), t[3] = _mm256_unpackhi_epi32(r[2], r[3]);
    c[0] = _mm256_unpacklo_epi64(t[0], t[2]), c[1] = _mm256_unpackhi_epi64(t[0], t[2]);
    c[2] = _mm256_unpacklo_epi64(t[1], t[3]), c[3] = _mm256_unpackhi_epi64(t[1], t[3]);
}

/* A 32-bit lane holds two neighbours of a row, so that half the shuffles suffice. */
INLINE void v8_columns_bf16(v8 c[8], const char *w, size_t stride) {
    __m256i pair[4];
    lp_avx2_columns(pair, w, stride);
    UNROLL for (int i = 0; i < 4; i++) {
        c[2 * i] = _mm256_castsi256_ps(_mm256_slli_epi32(pair[i], 16));
        c[2 * i + 1] = _mm256_castsi256_ps(_mm256_and_si256(pair[i], _mm256_set1_epi32((int)0xffff0000)));
    }
}
INLINE void v8_columns_words(v8 c[4], const void *p, size_t stride) {
    __m256i words[4];
    lp_avx2_columns(words, p, stride);
    UNROLL for (int i = 0; i < 4; i++) c[i] = _mm256_castsi256_ps(words[i]);
}
INLINE v8 v8_byte_of(v8 w, int n) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(_mm256_castps_si256(w), 24 - 8 * n), 24));
}
INLINE v8 v8_nibble_of(v8 w, int n) {
    __m256i right = _mm256_srli_epi32(_mm256_castps_si256(w), 4 * n);
    return _mm256_cvtepi32_ps(_mm256_and_si256(right, _mm256_set1_epi32(15)));
}
INLINE v8 v8_half_of(v8 w, int n) {
    __m256i half = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(w), 16 * n), _mm256_set1_epi32(0xffff));
    half = _mm256_packus_epi32(half, half);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(half, 0x08)));
}
INLINE void v8_e4m3_of(v8 codes[4], v8 w) {
    const __m256i low_halves = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)); /* then the high ones */
    __m256i bits = _mm256_castps_si256(w);
    UNROLL for (int i = 0; i < 2; i++) {
        __m256i halves = _mm256_srai_epi16(i ? bits : _mm256_slli_epi16(bits, 8), 1);
        halves = _mm256_shuffle_epi8(_mm256_and_si256(halves, _mm256_set1_epi16((short)0xbf80)), low_halves);
        halves = _mm256_permute4x64_epi64(halves, 0xd8);
        codes[i] = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        codes[i + 2] = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    }
}
INLINE v8 v8_lookup_words(v8 w, const signed char *table) {
    __m256i from = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(from, _mm256_castps_si256(w)));
}
INLINE v8 v8_bits(v8 w, unsigned right, uint32_t mask) {
    __m256i bits = _mm256_srli_epi32(_mm256_castps_si256(w), (int)right);
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)mask)));
}
INLINE v8 v8_plus(v8 w, uint32_t n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(w), _mm256_set1_epi32((int)n)));
}
INLINE v8 v8_left_or(v8 w, unsigned left, v8 a) {
    return _mm256_or_ps(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(w), (int)left)), a);
}

/* In asm: gcc 12 folds the load of a into every product that uses it, which makes the tile load-bound, and spills;
 * with operands in registers a tile runs at 94 % of peak instead of 65 %. "v" is 16 registers, 32 with AVX-512VL. */
INLINE void v8_fma_into(v8 *c, v8 a, v8 b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(*c) : "v"(a), "v"(b)); }

LP_TARGET_END

#endif
