/* lane_blocks.h - products in lanes (lanes.h) for the block kinds. Offsets and shifts are those of scalar.h. */
#ifndef LP_LANE_BLOCKS_H
#define LP_LANE_BLOCKS_H

#include "lane_rows.h"
#include "superblocks.h" /* scaled, from_zero */

/* words = the masked bits of 16 bytes of each row. */
INLINE void take_words(WVEC words[4], const unsigned char *from, size_t pitch, unsigned right, uint32_t mask) {
    W(columns_words)(words, from, pitch);
    UNROLL for (int i = 0; i < 4; i++) words[i] = W(bits)(words[i], right, mask * 0x01010101);
}
INLINE void add_words(WVEC words[4], const WVEC high[4], unsigned right, uint32_t mask, unsigned left) {
    UNROLL for (int i = 0; i < 4; i++) words[i] =
        W(left_or)(W(bits)(high[i], right, mask * 0x01010101), left, words[i]);
}
INLINE void iq4_words(WVEC words[4]) {
    UNROLL for (int i = 0; i < 4; i++) words[i] = W(lookup_words)(words[i], iq4_values);
}

/* ---- blocks of 32 columns, two per k-block ---- */

/* Sets bit 4 of 16 bytes from 16 bits of each row, from bit `from` on: four at a time, copied 7, 14 and 21 bits up. */
INLINE void add_fifth_bits(WVEC words[4], WVEC bits, unsigned from) {
    UNROLL for (unsigned i = 0; i < 4; i++) {
        WVEC four = W(bits)(bits, from + 4 * i, 15);
        four = W(left_or)(four, 7, four);
        four = W(left_or)(four, 14, four);
        words[i] = W(left_or)(W(bits)(four, 0, 0x01010101), 4, words[i]);
    }
}

INLINE void small_blocks(lane_rows *l, size_t column, const size_t n, const lp_packed_kind kind) {
    const int is_q8 = kind == LP_PACKED_Q8_0, is_iq4 = kind == LP_PACKED_IQ4_NL;
    const int has_fifth = kind == LP_PACKED_Q5_0 || kind == LP_PACKED_Q5_1;
    const int has_min = kind == LP_PACKED_Q4_1 || kind == LP_PACKED_Q5_1;
    const int formula = has_min ? PLUS : is_q8 || is_iq4 ? TIMES : FROM_ZERO;
    const size_t codes = (has_min ? 4 : 2) + (has_fifth ? 4 : 0), bytes = codes + (is_q8 ? 32 : 16);
    WVEC acc[SIDE_BY_SIDE], fifth[SIDE_BY_SIDE], words[4];
    coefficients c[SIDE_BY_SIDE];
    CLEAR(acc, n);
    for (size_t block = 0; block < 2; block++) {
        const unsigned char *from = l->rows + (column / 32 + block) * bytes;
        const float *x = l->x + column + 32 * block;
        UNROLL for (size_t b = 0; b < n; b++) {
            W(columns_words)(words, from + 2 * b * bytes, l->pitch);
            c[b] = from_zero(W(half_of)(words[0], 0), has_fifth ? 16 : 8);
            if (has_min) c[b].b = W(half_of)(words[0], 1);
            fifth[b] = has_min ? words[1] : W(left_or)(words[1], 16, W(bits)(words[0], 16, 0xffff));
        }
        UNROLL for (unsigned half = 0; half < 2; half++) UNROLL for (size_t b = 0; b < n; b++) {
            lane_codes in = is_q8 || is_iq4 || has_fifth ? BYTES : half ? HIGH_NIBBLES : LOW_NIBBLES;
            prefetch_chunk(l);
            W(columns_words)(words, from + 2 * b * bytes + codes + (is_q8 ? 16 * half : 0), l->pitch);
            if (in == BYTES && !is_q8)
                UNROLL for (int i = 0; i < 4; i++) words[i] = W(bits)(words[i], 4 * half, 0x0f0f0f0f);
            if (has_fifth) add_fifth_bits(words, fifth[b], 16 * half);
            if (is_iq4) iq4_words(words);
            multiply_words(acc + b, x + LANE_BLOCK * b + 16 * half, words, in, c[b], formula);
        }
    }
    add_blocks(l, acc, column, n);
}

#define DOT_SMALL(kind, KIND)                                                   \
    INLINE void blocks_of_##kind(lane_rows *l, size_t column, const size_t n) { \
        small_blocks(l, column, n, LP_PACKED_##KIND);                           \
    }                                                                           \
    DOT(kind)
DOT_SMALL(q8_0, Q8_0)
DOT_SMALL(q4_0, Q4_0)
DOT_SMALL(q4_1, Q4_1)
DOT_SMALL(q5_0, Q5_0)
DOT_SMALL(q5_1, Q5_1)
DOT_SMALL(iq4_nl, IQ4_NL)

/* ---- superblocks: four k-blocks ---- */

/* Scales times d and minima times dmin of 16 groups (eight of Q4_K, Q5_K and IQ4_XS); lane r: row r. */
typedef struct {
    WVEC scale[MOST_GROUPS], min[MOST_GROUPS];
} lane_groups;

/* Q4_K and Q5_K: scales and minima of the eight groups. */
INLINE void groups_q4(lane_groups *g, const unsigned char *s, size_t pitch) {
    WVEC w[4], scale[2], min[2];
    W(columns_words)(w, s, pitch);
    scale[0] = W(bits)(w[1], 0, 0x3f3f3f3f), min[0] = W(bits)(w[2], 0, 0x3f3f3f3f);
    scale[1] = W(left_or)(W(bits)(w[1], 6, 0x03030303), 4, W(bits)(w[3], 0, 0x0f0f0f0f));
    min[1] = W(left_or)(W(bits)(w[2], 6, 0x03030303), 4, W(bits)(w[3], 4, 0x0f0f0f0f));
    WVEC d = W(half_of)(w[0], 0), dmin = W(half_of)(w[0], 1);
    UNROLL for (int i = 0; i < 8; i++) {
        g->scale[i] = W(mul)(d, W(byte_of)(scale[i / 4], i % 4));
        g->min[i] = W(mul)(dmin, W(byte_of)(min[i / 4], i % 4));
    }
}

INLINE void groups_q2(lane_groups *g, const unsigned char *s, size_t pitch) {
    WVEC w[4], end[4];
    W(columns_words)(w, s, pitch);
    W(columns_words)(end, s + 68, pitch);
    WVEC d = W(half_of)(end[3], 0), dmin = W(half_of)(end[3], 1);
    UNROLL for (int i = 0; i < 16; i++) {
        g->scale[i] = W(mul)(d, W(nibble_of)(w[i / 4], i % 4 * 2));
        g->min[i] = W(mul)(dmin, W(nibble_of)(w[i / 4], i % 4 * 2 + 1));
    }
}

INLINE void groups_q3(lane_groups *g, const unsigned char *s, size_t pitch) {
    WVEC w[4], end[4];
    W(columns_words)(w, s + 92, pitch);
    W(columns_words)(end, s + 94, pitch);
    WVEC d = W(half_of)(end[3], 1);
    UNROLL for (int i = 0; i < 4; i++) {
        WVEC low = W(bits)(w[1 + i % 2], (unsigned)i / 2 * 4, 0x0f0f0f0f);
        low = W(left_or)(W(bits)(w[3], (unsigned)i * 2, 0x03030303), 4, low);
        UNROLL for (int j = 0; j < 4; j++) g->scale[4 * i + j] = W(mul)(d, W(sub)(W(byte_of)(low, j), W(set1)(32)));
    }
}

INLINE void groups_q6(lane_groups *g, const unsigned char *s, size_t pitch) {
    WVEC w[4], end[4];
    W(columns_words)(w, s + 192, pitch);
    W(columns_words)(end, s + 194, pitch);
    WVEC d = W(half_of)(end[3], 1);
    UNROLL for (int i = 0; i < 16; i++) g->scale[i] = W(mul)(d, W(byte_of)(w[i / 4], i % 4));
}

INLINE void groups_iq4(lane_groups *g, const unsigned char *s, size_t pitch) {
    WVEC w[4];
    W(columns_words)(w, s, pitch);
    WVEC d = W(half_of)(w[0], 0);
    UNROLL for (int i = 0; i < 8; i++) {
        WVEC scale = W(left_or)(W(bits)(w[0], 16 + 2 * (unsigned)i, 3), 4, W(bits)(w[1], 4 * (unsigned)i, 15));
        g->scale[i] = W(mul)(d, W(sub)(W(byte_of)(scale, 0), W(set1)(32)));
    }
}

/* The codes of 16 columns from 32 half + 16 part on of k-block b. `planes`: the bit planes of Q3_K and Q5_K. */
INLINE void superblock_words(WVEC words[4], const WVEC planes[4], const unsigned char *s, size_t pitch,
                             const lp_packed_kind kind, const unsigned b, const unsigned half, unsigned part) {
    const unsigned two_bits = b % 2 * 4 + half * 2, of_128 = b / 2 * 32 + 16 * part, of_64 = b * 32 + 16 * part;
    WVEC high[4];
    switch (kind) {
    case LP_PACKED_Q2_K:
        take_words(words, s + 16 + of_128, pitch, two_bits, 3);
        break;
    case LP_PACKED_Q3_K:
        take_words(words, s + 32 + of_128, pitch, two_bits, 3);
        add_words(words, planes, 2 * b + half, 1, 2);
        break;
    case LP_PACKED_Q4_K:
        W(columns_words)(words, s + 16 + of_64, pitch);
        break;
    case LP_PACKED_Q5_K:
        take_words(words, s + 48 + of_64, pitch, 4 * half, 15);
        add_words(words, planes, 2 * b + half, 1, 4);
        break;
    case LP_PACKED_Q6_K:
        take_words(words, s + b / 2 * 64 + 32 * half + 16 * part, pitch, b % 2 * 4, 15);
        W(columns_words)(high, s + 128 + of_128, pitch);
        add_words(words, high, two_bits, 3, 4);
        break;
    default: /* IQ4_XS */
        take_words(words, s + 8 + 32 * b + 16 * half, pitch, 4 * part, 15);
        iq4_words(words);
    }
}

INLINE void multiply_half(WVEC *acc, lane_rows *l, const unsigned char *s, const float *x, const lane_groups *g,
                          const lp_packed_kind kind, const unsigned half) {
    const int of_16 = kind == LP_PACKED_Q2_K || kind == LP_PACKED_Q3_K || kind == LP_PACKED_Q6_K;
    const int has_min = kind == LP_PACKED_Q2_K || kind == LP_PACKED_Q4_K || kind == LP_PACKED_Q5_K;
    const int formula = has_min ? LESS : kind == LP_PACKED_IQ4_XS ? TIMES : FROM_ZERO;
    const lane_codes in = kind != LP_PACKED_Q4_K ? BYTES : half ? HIGH_NIBBLES : LOW_NIBBLES;
    for (unsigned part = 0; part < 2; part++) {
        WVEC words[4], planes[4];
        if (kind == LP_PACKED_Q3_K || kind == LP_PACKED_Q5_K)
            W(columns_words)(planes, s + (kind == LP_PACKED_Q5_K ? 16 : 0) + 16 * part, l->pitch);
        UNROLL for (unsigned b = 0; b < 4; b++) {
            size_t group = of_16 ? 4 * b + 2 * half + part : 2 * b + half;
            coefficients c = from_zero(g->scale[group], kind == LP_PACKED_Q3_K ? 4 : 32);
            if (has_min) c.b = g->min[group];
            prefetch_chunk(l);
            superblock_words(words, planes, s, l->pitch, kind, b, half, part);
            multiply_words(acc + b, x + LANE_BLOCK * b + 32 * half + 16 * part, words, in, c, formula);
        }
    }
}

#define DOT_SUPERBLOCKS(kind, KIND, bytes, groups)                                                    \
    INLINE void blocks_of_##kind(lane_rows *l, size_t column) {                                       \
        WVEC acc[SIDE_BY_SIDE];                                                                       \
        lane_groups g;                                                                                \
        const unsigned char *s = l->rows + column / 256 * (bytes);                                    \
        CLEAR(acc, 4);                                                                                \
        groups(&g, s, l->pitch);                                                                      \
        multiply_half(acc, l, s, l->x + column, &g, LP_PACKED_##KIND, 0);                             \
        multiply_half(acc, l, s, l->x + column, &g, LP_PACKED_##KIND, 1);                             \
        add_blocks(l, acc, column, 4);                                                                \
    }                                                                                                 \
    NOINLINE void dot_##kind(lane_rows *rows) {                                                       \
        lane_rows l = *rows;                                                                          \
        for (size_t column = 0; column < l.at.n_columns; column += 256) blocks_of_##kind(&l, column); \
        *rows = l;                                                                                    \
    }
DOT_SUPERBLOCKS(q2_k, Q2_K, 84, groups_q2)
DOT_SUPERBLOCKS(q3_k, Q3_K, 110, groups_q3)
DOT_SUPERBLOCKS(q4_k, Q4_K, 144, groups_q4)
DOT_SUPERBLOCKS(q5_k, Q5_K, 176, groups_q4)
DOT_SUPERBLOCKS(q6_k, Q6_K, 210, groups_q6)
DOT_SUPERBLOCKS(iq4_xs, IQ4_XS, 136, groups_iq4)

#endif
