/* dequantise.h - a rectangle of a packed weight to float32: row by row, or tile by tile if the kind has tables of
 * scales.
 *
 * The same bits as scalar.h, which also computes the columns of a row after its last whole block. */
#ifndef LP_DEQUANTISE_H
#define LP_DEQUANTISE_H

#include "../kernels.h" /* lp_weight */
#include "superblocks.h"
#include "tables.h"

typedef void row_function(float *out, const unsigned char *row, size_t column, size_t n);

#define ROW_FUNCTION(NAME, name, ...) [LP_PACKED_##NAME] = dequantise_##name,
static row_function *const row_functions[] = {LP_BLOCK_KINDS(ROW_FUNCTION)};

/* To the nearest bf16, ties to even; NaN stays NaN. */
static void round_to_bf16(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = lp_f32_bits(x[i]), rounded = bits + 0x7fff + (bits >> 16 & 1);
        if ((bits & 0x7fffffff) > 0x7f800000) rounded = bits | 0x400000;
        x[i] = lp_f32_from_bits(rounded & 0xffff0000);
    }
}

/* The columns of one row that no fast loop computes. */
static void dequantise_rest(float *out, const lp_packed *p, size_t row, size_t column, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = packed_value(p, row, column + i);
}

/* The number of columns that a fast loop computes: whole blocks, or 64-column pieces of superblocks. */
static size_t whole_columns(const lp_packed *p, size_t column, size_t n) {
    size_t unit = lp_size_min(lp_packed_block_columns(p->kind), 64);
    return column % 64 ? 0 : n - n % unit;
}

static void dequantise_blocks(float *out, size_t stride, const lp_packed *p, size_t row, size_t n_rows, size_t column,
                              size_t n) {
    size_t whole = whole_columns(p, column, n), pitch = lp_packed_row_bytes(p);
    for (size_t r = 0; r < n_rows; r++, out += stride) {
        row_functions[p->kind](out, p->codes + lp_packed_row(p, row + r) * pitch, column, whole);
        dequantise_rest(out + whole, p, row + r, column + whole, n - whole);
    }
}

/* Rectangles of AWQ begin at a whole word: the rows before it are scalar. */
static void dequantise_tables(float *out, size_t stride, const lp_packed *p, size_t row, size_t n_rows, size_t column,
                              size_t n) {
    for (size_t c = 0, width; c < n; c += width) {
        width = lp_size_min(n - c, TABLE_COLUMNS);
        for (size_t r = 0, height; r < n_rows; r += height) {
            height = lp_size_min(n_rows - r, TABLE_ROWS);
            int into_word = p->kind == LP_PACKED_AWQ && (row + r) % 8;
            if (into_word) height = lp_size_min(height, 8 - (row + r) % 8);
            rectangle at = {p, row + r, height, column + c, width};
            if (into_word || column % 64)
                for (size_t i = 0; i < height; i++)
                    dequantise_rest(out + (r + i) * stride + c, p, row + r + i, column + c, width);
            else
                dequantise_table(out + r * stride + c, stride, &at);
        }
    }
}

/* out [n_rows, n_columns], rows `stride` floats apart = rows row .. and columns column .. of w. Fast if column is a
 * multiple of 64. */
static void dequantise(float *out, size_t stride, const lp_weight *w, size_t row, size_t n_rows, size_t column,
                       size_t n_columns) {
    const lp_packed *p = w->packed;
    (lp_packed_is_block(p->kind) ? dequantise_blocks : dequantise_tables)(out, stride, p, w->first_row + row, n_rows,
                                                                          column, n_columns);
    for (size_t r = 0; r < n_rows && p->as_bf16; r++) round_to_bf16(out + r * stride, n_columns);
}

#endif
