/* half.h - one bf16 or f16 number to float32 and back, with integers alone.
 *
 * bf16 is the upper half of a float32. f16 has 1 sign, 5 exponent and 10 mantissa bits. Widening is exact.
 * Narrowing rounds to nearest even, overflows to infinity and preserves NaN. No float operation is used, so
 * the mode of the FPU does not matter. */
#ifndef LP_HALF_H
#define LP_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t lp_f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float lp_f32_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline float lp_bf16_to_f32(uint16_t word) { return lp_f32_from_bits((uint32_t)word << 16); }

static inline float lp_f16_to_f32(uint16_t word) {
    uint32_t sign = (uint32_t)(word & 0x8000) << 16, magnitude = word & 0x7fff;
    if (magnitude >= 0x7c00) return lp_f32_from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x0400) return lp_f32_from_bits(sign | ((magnitude << 13) + ((127u - 15) << 23)));
    if (magnitude == 0) return lp_f32_from_bits(sign);
    /* subnormal, magnitude * 2^-24: its highest set bit becomes the implicit one */
    uint32_t top = 31 - (uint32_t)__builtin_clz(magnitude);
    return lp_f32_from_bits(sign | (top + 127 - 24) << 23 | ((magnitude << (23 - top)) & 0x7fffff));
}

/* bits / 2^shift, 1 <= shift <= 31, to nearest even */
static inline uint32_t lp_round_shift(uint32_t bits, int shift) {
    uint32_t half = (uint32_t)1 << (shift - 1), rest = bits & (2 * half - 1), result = bits >> shift;
    return result + (rest > half || (rest == half && (result & 1)));
}

static inline uint16_t lp_f32_to_bf16(float x) {
    uint32_t bits = lp_f32_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)lp_round_shift(bits, 16);
}

static inline uint16_t lp_f32_to_f16(float x) {
    uint32_t bits = lp_f32_bits(x), magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and up */
    if (magnitude >= 0x38800000) return (uint16_t)(sign | lp_round_shift(magnitude - ((127u - 15) << 23), 13));
    if (magnitude < 0x33000000) return (uint16_t)sign; /* below 2^-25, half the smallest subnormal */
    uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
    return (uint16_t)(sign | lp_round_shift(mantissa, 126 - (int)(magnitude >> 23)));
}

#endif
