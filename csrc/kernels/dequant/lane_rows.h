/* lane_rows.h - what the products of lanes.h share: LANES rows, one per lane, as words of packed codes. */
#ifndef LP_LANE_ROWS_H
#define LP_LANE_ROWS_H

#include "codes.h"  /* value_of, coefficients */
#include "tables.h" /* rectangle */

#define LANE_BLOCK 64 /* LP_K_BLOCK */
#define SIDE_BY_SIDE 4

/* LANES rows, `pitch` bytes apart, their factor x, and the prefetch of the next rows: `step` bytes per chunk, as many
 * as are read. */
typedef struct {
    rectangle at;                     /* these rows, all columns */
    const unsigned char *rows, *soon; /* soon: to prefetch next */
    size_t pitch, step;
    const float *x;
    WVEC total, nan;       /* nan: the top bit of a byte is set if an FP8 code was NaN */
    coefficients of_group; /* of the group that ends before column `group_end` */
    size_t group_end;
    int failed; /* a value that these loops cannot compute: dequantise instead */
} lane_rows;

typedef enum { BYTES, LESS_128, LOW_NIBBLES, HIGH_NIBBLES, E4M3 } lane_codes;

/* The codes of the four columns in a word, as floats. */
INLINE void lane_code(WVEC four[4], WVEC words, const lane_codes codes) {
    if (codes == E4M3) W(e4m3_of)(four, words);
    if (codes == BYTES || codes == LESS_128) UNROLL for (int i = 0; i < 4; i++) four[i] = W(byte_of)(words, i);
    if (codes == LOW_NIBBLES || codes == HIGH_NIBBLES)
        UNROLL for (int i = 0; i < 4; i++) four[i] = W(nibble_of)(words, 2 * i + (codes == HIGH_NIBBLES));
}

/* Unsigned bytes minus 128, as signed bytes: flips the top bits. */
INLINE WVEC less_128(WVEC words) {
    static const signed char high[16] = {-128, -112, -96, -80, -64, -48, -32, -16, 0, 16, 32, 48, 64, 80, 96, 112};
    return W(left_or)(W(lookup_words)(W(bits)(words, 4, 0x0f0f0f0f), high), 0, W(bits)(words, 0, 0x0f0f0f0f));
}

/* One chunk: acc += x [16] * the values of 16 columns, four per word. */
INLINE void multiply_words(WVEC *acc, const float *x, const WVEC words[4], const lane_codes codes, coefficients c,
                           const int formula) {
    UNROLL for (int i = 0; i < 4; i++) {
        WVEC four[4];
        lane_code(four, words[i], codes);
        UNROLL for (int j = 0; j < 4; j++) *acc = W(fma)(W(set1)(x[4 * i + j]), value_of(four[j], c, formula), *acc);
    }
}

INLINE void prefetch_chunk(lane_rows *l) {
    for (size_t line = 0; line < l->step; line += 64) __builtin_prefetch(l->soon + line, 0, 2);
    l->soon += l->step;
}

INLINE void add_blocks(lane_rows *l, const WVEC *acc, size_t column, const size_t n) {
    for (size_t b = 0; b < n; b++) l->total = column + b ? W(add)(l->total, acc[b]) : acc[b];
}

/* Defines dot_<kind> for all columns, a multiple of LANE_BLOCK, from blocks_of_<kind> for n k-blocks from `column`. */
#define DOT(kind)                                                                                         \
    NOINLINE void dot_##kind(lane_rows *rows) {                                                           \
        lane_rows l = *rows;                                                                              \
        size_t column = 0, k = l.at.n_columns;                                                            \
        for (; column + SIDE_BY_SIDE * LANE_BLOCK <= k && !l.failed; column += SIDE_BY_SIDE * LANE_BLOCK) \
            blocks_of_##kind(&l, column, SIDE_BY_SIDE);                                                   \
        for (; column < k && !l.failed; column += LANE_BLOCK) blocks_of_##kind(&l, column, 1);            \
        *rows = l;                                                                                        \
    }

#define CLEAR(acc, n) UNROLL for (size_t b = 0; b < (n); b++)(acc)[b] = W(zero)()

#endif
