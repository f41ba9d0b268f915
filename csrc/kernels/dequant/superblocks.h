/* superblocks.h - dequantises columns of one stored row: the kinds with blocks of 256 columns.
 *
 * First the scales of all groups of a superblock, then pieces of 64 columns, whose layouts differ only by a shift. */
#ifndef LP_SUPERBLOCKS_H
#define LP_SUPERBLOCKS_H

#include "../../base/size.h" /* lp_size_min */
#include "blocks.h"          /* DEQUANTISE_ROW */

#define MOST_GROUPS 16

/* out [16] = d * (scales - zero); `low` and `high` hold 8 scales each, combined in registers. */
INLINE void scale_groups(float *out, uint64_t low, uint64_t high, const unsigned char *d, unsigned char zero) {
    words_16 words = {low, high};
    unsigned char bytes[MOST_GROUPS];
    words = (words_16)((bytes_16)words - zero);
    memcpy(bytes, &words, sizeof bytes);
    from_bytes(out, bytes, MOST_GROUPS, scaled(W(set1_f16)(d)), TIMES);
}

INLINE uint64_t eight_bytes(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}
INLINE uint64_t four_bytes(const unsigned char *p) { return packed_word(p, 0); }

/* Q4_K, Q5_K: out = d times eight scales, then dmin times eight minima. */
INLINE void scale_groups_and_mins(float out[MOST_GROUPS], const unsigned char *b) {
    uint64_t x = four_bytes(b + 4), y = four_bytes(b + 8), z = four_bytes(b + 12);
    uint64_t scale = (x | z << 32) & 0x0f0f0f0f3f3f3f3fu, min = (y | z >> 4 << 32) & 0x0f0f0f0f3f3f3f3fu;
    words_16 words = {scale | (x >> 6 & 0x03030303u) << 36, min | (y >> 6 & 0x03030303u) << 36};
    unsigned char bytes[MOST_GROUPS];
    memcpy(bytes, &words, sizeof bytes);
    WVEC d = W(set1_f16)(b), dmin = W(set1_f16)(b + 2);
    UNROLL for (size_t i = 0; i < MOST_GROUPS; i += LANES)
        W(store)(out + i, W(mul)(W(from_i8)(bytes + i), LANES > 8 ? W(keep_from)(8, dmin, d)
                                                        : i < 8   ? d
                                                                  : dmin));
}

/* Q3_K: 16 scales of six bits, the low four in nibbles. */
INLINE void scale_groups_q3(float out[MOST_GROUPS], const unsigned char *b) {
    uint64_t low = eight_bytes(b + 96), z = four_bytes(b + 104), high = z | z >> 2 << 32;
    scale_groups(out, (low & EACH_BYTE(15)) | (high & EACH_BYTE(3)) << 4,
                 (low >> 4 & EACH_BYTE(15)) | (high >> 4 & EACH_BYTE(3)) << 4, b + 108, 32);
}

/* IQ4_XS: eight scales of six bits, the low four in nibbles, the high two packed. */
INLINE void scale_groups_iq4(float out[MOST_GROUPS], const unsigned char *b) {
    uint64_t low = four_bytes(b + 4), high = lp_half_at(b + 2, 0);
    low = (low | low << 16) & 0x0000ffff0000ffffu, high = (high | high << 24) & 0x000000ff000000ffu;
    low = (low | low << 8) & 0x00ff00ff00ff00ffu, high = (high | high << 12) & 0x000f000f000f000fu;
    low = (low | low << 4) & EACH_BYTE(15), high = (high | high << 6) & EACH_BYTE(3);
    scale_groups(out, low | high << 4, 0, b, 32);
}

INLINE void scale_groups_q2(float scale[MOST_GROUPS], float min[MOST_GROUPS], const unsigned char *b) {
    uint64_t low = eight_bytes(b), high = eight_bytes(b + 8);
    scale_groups(scale, low & EACH_BYTE(15), high & EACH_BYTE(15), b + 80, 0);
    scale_groups(min, low >> 4 & EACH_BYTE(15), high >> 4 & EACH_BYTE(15), b + 82, 0);
}

/* Two bits per column, in planes of 32 columns. */
INLINE void move_planes(unsigned char codes[64], const unsigned char *planes, size_t at, unsigned left, const int add,
                        const unsigned char zero) {
    const unsigned char *from = planes + at / 128 * 32;
    unsigned shift = (unsigned)at % 128 / 32 * 2;
    move_bits(codes, from, 32, shift, 3, left, add, zero);
    move_bits(codes + 32, from, 32, shift + 2, 3, left, add, zero);
}

/* One bit per column. */
INLINE void add_bit_planes(unsigned char codes[64], const unsigned char *planes, size_t at, unsigned left,
                           const unsigned char zero) {
    move_bits(codes, planes, 32, (unsigned)at / 32, 1, left, 1, zero);
    move_bits(codes + 32, planes, 32, (unsigned)at / 32 + 1, 1, left, 1, zero);
}

/* The last argument runs per piece of 64 columns, from column `at` of superblock b; `groups` once per superblock. */
#define SUPERBLOCKS(kind, bytes, groups, ...)                                                \
    DEQUANTISE_ROW(kind) {                                                                   \
        unsigned char codes[64];                                                             \
        float scale[MOST_GROUPS], min[MOST_GROUPS];                                          \
        (void)codes, (void)min;                                                              \
        while (n) {                                                                          \
            const unsigned char *b = row + column / 256 * bytes;                             \
            size_t at = column % 256, width = lp_size_min(n, 256 - at);                      \
            groups;                                                                          \
            for (const float *end = out + width; out < end; out += 64, at += 64) __VA_ARGS__ \
            column += width, n -= width;                                                     \
        }                                                                                    \
    }

INLINE void groups_of_16(float *out, const unsigned char *codes, const float *scale) {
    UNROLL for (size_t g = 0; g < 4; g++)
        from_bytes(out + 16 * g, codes + 16 * g, 16, scaled(W(set1)(scale[g])), TIMES);
}

INLINE coefficients group_with_min(const float *scale, const float *min, size_t g) {
    return (coefficients){W(set1)(scale[g]), W(set1)(min[g])};
}

SUPERBLOCKS(q2_k, 84, scale_groups_q2(scale, min, b), {
    move_planes(codes, b + 16, at, 0, 0, 0);
    UNROLL for (size_t g = 0; g < 4; g++)
        from_bytes(out + 16 * g, codes + 16 * g, 16, group_with_min(scale, min, at / 16 + g), LESS);
})

SUPERBLOCKS(q3_k, 110, scale_groups_q3(scale, b), {
    move_planes(codes, b + 32, at, 0, 0, 0);
    add_bit_planes(codes, b, at, 2, 4);
    groups_of_16(out, codes, scale + at / 16);
})

SUPERBLOCKS(q4_k, 144, scale_groups_and_mins(scale, b), {
    from_nibbles(out, b + 16 + at / 2, 32, 0, group_with_min(scale, scale + 8, at / 32), LESS);
    from_nibbles(out + 32, b + 16 + at / 2, 32, 4, group_with_min(scale, scale + 8, at / 32 + 1), LESS);
})

SUPERBLOCKS(q5_k, 176, scale_groups_and_mins(scale, b), {
    take_bits(codes, b + 48 + at / 2, 32, 0, 15);
    take_bits(codes + 32, b + 48 + at / 2, 32, 4, 15);
    add_bit_planes(codes, b + 16, at, 4, 0);
    from_bytes(out, codes, 32, group_with_min(scale, scale + 8, at / 32), LESS);
    from_bytes(out + 32, codes + 32, 32, group_with_min(scale, scale + 8, at / 32 + 1), LESS);
})

SUPERBLOCKS(q6_k, 210, scale_groups(scale, eight_bytes(b + 192), eight_bytes(b + 200), b + 208, 0), {
    take_bits(codes, b + at / 128 * 64, 64, (unsigned)at % 128 / 64 * 4, 15);
    move_planes(codes, b + 128, at, 4, 1, 32);
    groups_of_16(out, codes, scale + at / 16);
})

SUPERBLOCKS(iq4_xs, 136, scale_groups_iq4(scale, b), {
    block_of_nibbles(out, b + 8 + at / 2, scaled(W(set1)(scale[at / 32])), IQ4);
    block_of_nibbles(out + 32, b + 24 + at / 2, scaled(W(set1)(scale[at / 32 + 1])), IQ4);
})

#endif
