/* blocks.h - dequantises columns of one stored row: the kinds with blocks of 1 or 32 columns. */
#ifndef LP_BLOCKS_H
#define LP_BLOCKS_H

#include "codes.h"

/* out [n] = columns column .. column + n of the row. `column` is a multiple of 64; n of the block, or of 64 if less. */
#define DEQUANTISE_ROW(kind) \
    NOINLINE void dequantise_##kind(float *out, const unsigned char *row, size_t column, size_t n)

DEQUANTISE_ROW(f32) { from_elements(out, row + 4 * column, n, LP_ELEMENT_F32); }
DEQUANTISE_ROW(f16) { from_elements(out, row + 2 * column, n, LP_ELEMENT_F16); }
DEQUANTISE_ROW(bf16) { from_elements(out, row + 2 * column, n, LP_ELEMENT_BF16); }

/* The loop body runs once per block: b, its bytes; d, its scale; out [32]. */
#define BLOCKS(kind, bytes, ...)                                             \
    DEQUANTISE_ROW(kind) {                                                   \
        const unsigned char *b = row + column / 32 * bytes;                  \
        for (const float *end = out + n; out < end; out += 32, b += bytes) { \
            WVEC d = W(set1_f16)(b);                                         \
            __VA_ARGS__                                                      \
        }                                                                    \
    }

INLINE coefficients scaled(WVEC scale) { return (coefficients){scale, scale}; }
INLINE coefficients from_zero(WVEC scale, float zero) { return (coefficients){scale, W(set1)(zero)}; }
INLINE coefficients with_min(WVEC scale, const unsigned char *min) { return (coefficients){scale, W(set1_f16)(min)}; }

INLINE void block_of_nibbles(float *out, const unsigned char *nibbles, coefficients c, const int formula) {
    from_nibbles(out, nibbles, 16, 0, c, formula);
    from_nibbles(out + 16, nibbles, 16, 4, c, formula);
}

INLINE void block_of_fifth_bits(float *out, const unsigned char *bits, coefficients c, const int formula,
                                const unsigned char zero) {
    unsigned char codes[32];
    W(spread_bits)(codes, bits, 16);
    move_bits(codes, bits + 4, 16, 0, 15, 0, 1, zero);
    move_bits(codes + 16, bits + 4, 16, 4, 15, 0, 1, zero);
    from_bytes(out, codes, 32, c, formula);
}

BLOCKS(q8_0, 34, from_bytes(out, b + 2, 32, scaled(d), TIMES);)
BLOCKS(q4_0, 18, block_of_nibbles(out, b + 2, from_zero(d, 8), FROM_ZERO);)
BLOCKS(q4_1, 20, block_of_nibbles(out, b + 4, with_min(d, b + 2), PLUS);)
BLOCKS(q5_0, 22, block_of_fifth_bits(out, b + 2, scaled(d), TIMES, 16);)
BLOCKS(q5_1, 24, block_of_fifth_bits(out, b + 4, with_min(d, b + 2), PLUS, 0);)
BLOCKS(iq4_nl, 18, block_of_nibbles(out, b + 2, scaled(d), IQ4);)

#endif
