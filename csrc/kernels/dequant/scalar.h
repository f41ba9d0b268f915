/* scalar.h - one value of a packed weight, by definition of its kind: the reference for the fast loops.
 *
 * docs/quantised.md describes it. All arithmetic is float32, in the order written, every operation rounded. With f16
 * scales the products are exact, and so are the values, except those of Q4_1, Q5_1, Q2_K, Q4_K and Q5_K, where the
 * final sum or difference rounds once. Scales that are not finite follow IEEE.
 *
 * Codes are little endian. i is the column within its block, b the block's bytes. */
#ifndef LP_SCALAR_H
#define LP_SCALAR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../base/half.h"   /* lp_f32_to_bf16 */
#include "../../base/packed.h" /* lp_packed */
#include "../simd/elements.h"  /* lp_f16_at, lp_element_to_f32 */

static const signed char iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* ---- blocks of 32 columns: d, then if any the minimum and the fifth bits, then nibbles (bytes of Q8_0) ---- */

/* Columns 0 .. 16 are the low nibbles of 16 bytes, 16 .. 32 the high ones. */
INLINE int packed_nibble(const unsigned char *nibbles, size_t i) { return nibbles[i % 16] >> (i / 16 * 4) & 15; }

INLINE int packed_fifth_bit(const unsigned char *bits, size_t i) { return bits[i / 8] >> i % 8 & 1; }

INLINE float packed_small_block(lp_packed_kind kind, const unsigned char *b, size_t i) {
    float d = lp_f16_at(b, 0), min = lp_f16_at(b, 1);
    switch (kind) {
    case LP_PACKED_Q8_0:
        return d * (float)(signed char)b[2 + i];
    case LP_PACKED_Q4_0:
        return d * (float)(packed_nibble(b + 2, i) - 8);
    case LP_PACKED_Q4_1:
        return d * (float)packed_nibble(b + 4, i) + min;
    case LP_PACKED_Q5_0:
        return d * (float)((packed_nibble(b + 6, i) | packed_fifth_bit(b + 2, i) << 4) - 16);
    case LP_PACKED_Q5_1:
        return d * (float)(packed_nibble(b + 8, i) | packed_fifth_bit(b + 4, i) << 4) + min;
    default: /* IQ4_NL */
        return d * (float)iq4_values[packed_nibble(b + 2, i)];
    }
}

/* ---- superblocks of 256 columns: groups of 16 or 32 with small integers as scales, and d for all of them ---- */

/* 16 scales and minima, a nibble each; 2-bit codes: 32 bytes hold four planes of 32 columns, lowest bits first. */
INLINE float packed_q2_k(const unsigned char *b, size_t i) {
    int scale = b[i / 16] & 15, min = b[i / 16] >> 4;
    int q = b[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
    return lp_f16_at(b + 80, 0) * (float)scale * (float)q - lp_f16_at(b + 82, 0) * (float)min;
}

/* Third bits first, a plane of 32 columns in each bit of 32 bytes; a clear bit subtracts 4. */
INLINE float packed_q3_k(const unsigned char *b, size_t i) {
    const unsigned char *scales = b + 96;
    size_t g = i / 16;
    int scale = (scales[g % 8] >> g / 8 * 4 & 15) | (scales[8 + g % 4] >> g / 4 * 2 & 3) << 4;
    int q = (b[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - (b[i % 32] >> i / 32 & 1 ? 0 : 4);
    return lp_f16_at(b + 108, 0) * (float)(scale - 32) * (float)q;
}

/* The scale and minimum of group g of Q4_K and Q5_K, six bits each, in 12 bytes: those of the first four groups are
 * the low bits of bytes 0 .. 8; the others have their low nibbles in bytes 8 .. 12 and their top two bits in 0 .. 8. */
INLINE void packed_scale_and_min(const unsigned char *b, size_t g, int *scale, int *min) {
    if (g < 4) {
        *scale = b[g] & 63, *min = b[g + 4] & 63;
        return;
    }
    *scale = (b[g + 4] & 15) | b[g - 4] >> 6 << 4;
    *min = b[g + 4] >> 4 | b[g] >> 6 << 4;
}

/* Nibbles: 32 bytes hold two groups of 32, the first in the low ones. */
INLINE int packed_k_nibble(const unsigned char *nibbles, size_t i) {
    return nibbles[i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15;
}

INLINE float packed_q4_k(const unsigned char *b, size_t i) {
    int scale, min, q = packed_k_nibble(b + 16, i);
    packed_scale_and_min(b + 4, i / 32, &scale, &min);
    return lp_f16_at(b, 0) * (float)scale * (float)q - lp_f16_at(b, 1) * (float)min;
}

/* Fifth bits before the nibbles, a group in each bit of 32 bytes. */
INLINE float packed_q5_k(const unsigned char *b, size_t i) {
    int scale, min, q = packed_k_nibble(b + 48, i) | (b[16 + i % 32] >> i / 32 & 1) << 4;
    packed_scale_and_min(b + 4, i / 32, &scale, &min);
    return lp_f16_at(b, 0) * (float)scale * (float)q - lp_f16_at(b, 1) * (float)min;
}

/* Per 128 columns: 64 bytes with the low nibbles of the first 64 columns below those of the last 64; 32 bytes with four
 * planes of two high bits. */
INLINE float packed_q6_k(const unsigned char *b, size_t i) {
    size_t half = i / 128, in_half = i % 128;
    int low = b[half * 64 + in_half % 64] >> in_half / 64 * 4 & 15;
    int high = b[128 + half * 32 + in_half % 32] >> in_half / 32 * 2 & 3;
    return lp_f16_at(b + 208, 0) * (float)(signed char)b[192 + i / 16] * (float)((low | high << 4) - 32);
}

/* d, the high two bits of eight scales, their low nibbles, then 16 bytes of nibbles for each group. */
INLINE float packed_iq4_xs(const unsigned char *b, size_t i) {
    size_t g = i / 32;
    int scale = (b[4 + g / 2] >> g % 2 * 4 & 15) | (lp_half_at(b + 2, 0) >> 2 * g & 3) << 4;
    return lp_f16_at(b, 0) * (float)(scale - 32) * (float)iq4_values[packed_nibble(b + 8 + 16 * g, i % 32)];
}

INLINE float packed_in_block(lp_packed_kind kind, const unsigned char *b, size_t i) {
    switch (kind) {
    case LP_PACKED_F32:
        return lp_element_to_f32(b, LP_ELEMENT_F32);
    case LP_PACKED_F16:
        return lp_f16_at(b, 0);
    case LP_PACKED_BF16:
        return lp_bf16_at(b, 0);
    case LP_PACKED_Q2_K:
        return packed_q2_k(b, i);
    case LP_PACKED_Q3_K:
        return packed_q3_k(b, i);
    case LP_PACKED_Q4_K:
        return packed_q4_k(b, i);
    case LP_PACKED_Q5_K:
        return packed_q5_k(b, i);
    case LP_PACKED_Q6_K:
        return packed_q6_k(b, i);
    case LP_PACKED_IQ4_XS:
        return packed_iq4_xs(b, i);
    default:
        return packed_small_block(kind, b, i);
    }
}

/* ---- codes and tables ---- */

/* 1 sign, 4 exponent (bias 7) and 3 mantissa bits; no infinity, 0x7f and 0xff are NaN. */
INLINE float packed_e4m3(unsigned code) {
    uint32_t sign = (uint32_t)(code & 0x80) << 24, magnitude = code & 0x7f;
    if (magnitude == 0x7f) return lp_f32_from_bits(sign | 0x7fc00000);
    if (magnitude >= 8) return lp_f32_from_bits(sign | ((magnitude << 20) + ((127u - 7) << 23)));
    return lp_f32_from_bits(sign | lp_f32_bits((float)magnitude * 0x1p-9f));
}

INLINE uint32_t packed_word(const unsigned char *words, size_t i) {
    const unsigned char *b = words + 4 * i;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Code i of a stream of 4- or 8-bit codes, the lowest bits of each word first. */
INLINE int packed_code(const unsigned char *words, size_t i, unsigned bits) {
    return (int)(packed_word(words, i * bits / 32) >> i * bits % 32 & ((1u << bits) - 1));
}

/* Nibble i of an AWQ word is row (0, 2, 4, 6, 1, 3, 5, 7)[i] of its eight. */
INLINE int packed_awq_code(const unsigned char *words, size_t i) {
    return (int)(packed_word(words, i / 8) >> 4 * (i % 2 * 4 + i % 8 / 2) & 15);
}

/* Row `row` of words, each row `n` words long. */
INLINE const unsigned char *packed_words(const unsigned char *words, size_t row, size_t n) {
    return words + row * n * 4;
}

INLINE int packed_table_code(const lp_packed *p, size_t row, size_t column) {
    size_t per_word = 32 / p->bits;
    if (p->kind == LP_PACKED_AWQ) return packed_awq_code(packed_words(p->codes, column, p->n_rows / 8), row);
    if (p->kind == LP_PACKED_GPTQ)
        return packed_code(p->codes + (column / per_word * p->n_rows + row) * 4, column % per_word, p->bits);
    return packed_code(packed_words(p->codes, row, (p->n_cols + per_word - 1) / per_word), column, p->bits);
}

/* The zero of row r of the table of scales and of a group. */
INLINE int packed_zero(const lp_packed *p, size_t r, size_t group) {
    size_t n_rows = lp_packed_bands(p), n_groups = lp_packed_groups(p), per_word = 32 / p->bits;
    if (!p->zeros) return 1 << (p->bits - 1);
    if (p->kind == LP_PACKED_AWQ) return packed_awq_code(packed_words(p->zeros, group, n_rows / 8), r);
    if (p->kind == LP_PACKED_INT)
        return packed_code(p->zeros + (r / per_word * n_groups + group) * 4, r % per_word, p->bits);
    int zero = packed_code(packed_words(p->zeros, group, n_rows / per_word), r, p->bits);
    return (zero + p->zero_is_less_one) & ((1 << p->bits) - 1);
}

INLINE float packed_in_table(const lp_packed *p, size_t row, size_t column) {
    size_t r = row / p->scale_rows, group = p->group_of ? p->group_of[column] : column / p->scale_cols;
    size_t by_row = r * lp_packed_groups(p) + group, by_group = group * lp_packed_bands(p) + r;
    size_t at = lp_packed_is_transposed(p->kind) ? by_group : by_row;
    float scale = lp_element_to_f32(p->scales + at * lp_element_bytes(p->scale), p->scale);
    if (p->kind == LP_PACKED_FP8) return packed_e4m3(p->codes[row * p->n_cols + column]) * scale;
    if (p->kind == LP_PACKED_INT8) {
        int zero = p->zeros ? (signed char)p->zeros[at] : 0;
        return (float)((signed char)p->codes[row * p->n_cols + column] - zero) * scale;
    }
    return (float)(packed_table_code(p, row, column) - packed_zero(p, r, group)) * scale;
}

/* ---- any kind ---- */

INLINE float packed_block_value(const lp_packed *p, size_t row, size_t column) {
    size_t columns = lp_packed_block_columns(p->kind), bytes = lp_packed_block_bytes(p->kind);
    size_t block = lp_packed_row(p, row) * (p->n_cols / columns) + column / columns;
    return packed_in_block(p->kind, p->codes + block * bytes, column % columns);
}

INLINE float packed_value(const lp_packed *p, size_t row, size_t column) {
    float value = lp_packed_is_block(p->kind) ? packed_block_value(p, row, column) : packed_in_table(p, row, column);
    return p->as_bf16 ? lp_bf16_to_f32(lp_f32_to_bf16(value)) : value;
}

#endif
