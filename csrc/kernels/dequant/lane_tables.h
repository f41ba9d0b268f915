/* lane_tables.h - products in lanes (lanes.h) for the kinds with tables of scales. */
#ifndef LP_LANE_TABLES_H
#define LP_LANE_TABLES_H

#include "lane_rows.h"

/* ---- codes with tables ---- */

/* Sets the top bit of each byte of `found` whose byte in `words` is an FP8 NaN. */
INLINE WVEC nan_codes(WVEC found, WVEC words) {
    return W(left_or)(W(plus)(W(bits)(words, 0, 0x7f7f7f7f), 0x01010101), 0, found);
}

/* Scales (times unit) and zeros of the rows for the group of `column`; groups are whole k-blocks. */
INLINE coefficients lane_table(lane_rows *l, size_t column, const float unit) {
    if (column >= l->group_end) {
        table_column table;
        size_t group = column / l->at.p->scale_cols;
        read_table(&table, &l->at, group);
        for (size_t r = 0; unit != 1 && r < LANES; r++) l->failed |= !has_room_for_unit(table.scale[r]);
        l->of_group = (coefficients){W(mul)(W(load)(table.scale), W(set1)(unit)), W(load)(table.zero)};
        l->group_end = (group + 1) * l->at.p->scale_cols;
    }
    return l->of_group;
}

/* Copies n bytes of each row next to each other: rows a power of two apart map to the same cache set, which would
 * evict their lines before the next 16 bytes are read. */
INLINE void copy_rows(unsigned char *near, const lane_rows *l, size_t byte, const size_t n) {
    for (size_t r = 0; r < LANES; r++) memcpy(near + r * n, l->rows + r * l->pitch + byte, n);
}

INLINE void blocks_of_bytes(lane_rows *l, size_t column, const size_t n, const lane_codes codes) {
    unsigned char near[SIDE_BY_SIDE][LANES * LANE_BLOCK];
    WVEC acc[SIDE_BY_SIDE];
    coefficients c[SIDE_BY_SIDE];
    CLEAR(acc, n);
    for (size_t b = 0; b < n; b++) {
        size_t at = column + b * LANE_BLOCK;
        c[b] = lane_table(l, at, codes == E4M3 ? E4M3_UNIT : 1);
        if (codes == LESS_128) c[b].b = W(sub)(c[b].b, W(set1)(128));
        copy_rows(near[b], l, at, LANE_BLOCK);
    }
    for (size_t part = 0; part < LANE_BLOCK; part += 16) UNROLL for (size_t b = 0; b < n; b++) {
            WVEC words[4];
            prefetch_chunk(l);
            W(columns_words)(words, near[b] + part, LANE_BLOCK);
            if (codes == E4M3) UNROLL for (int i = 0; i < 4; i++) l->nan = nan_codes(l->nan, words[i]);
            if (codes == LESS_128) UNROLL for (int i = 0; i < 4; i++) words[i] = less_128(words[i]);
            const float *x = l->x + column + LANE_BLOCK * b + part;
            multiply_words(acc + b, x, words, codes, c[b], codes == E4M3 ? TIMES : FROM_ZERO);
        }
    add_blocks(l, acc, column, n);
}
INLINE void blocks_of_fp8(lane_rows *l, size_t column, const size_t n) { blocks_of_bytes(l, column, n, E4M3); }
INLINE void blocks_of_int8(lane_rows *l, size_t column, const size_t n) { blocks_of_bytes(l, column, n, BYTES); }
INLINE void blocks_of_int_8(lane_rows *l, size_t column, const size_t n) { blocks_of_bytes(l, column, n, LESS_128); }
DOT(fp8)
DOT(int8)
DOT(int_8)

/* acc + x [32 / bits] * the values of the codes in a word */
INLINE WVEC multiply_word(WVEC acc, const float *x, WVEC words, const int bits, WVEC zero, WVEC scale) {
    if (bits == 8) words = less_128(words), zero = W(sub)(zero, W(set1)(128));
    UNROLL for (int i = 0; i < 32 / bits; i++) {
        WVEC code = bits == 4 ? W(nibble_of)(words, i) : W(byte_of)(words, i);
        WVEC w = W(mul)(W(sub)(code, zero), scale);
        acc = W(fma)(W(set1)(x[i]), w, acc);
    }
    return acc;
}

INLINE void blocks_of_int_4(lane_rows *l, size_t column, const size_t n) {
    unsigned char near[SIDE_BY_SIDE][LANES * LANE_BLOCK / 2];
    WVEC acc[SIDE_BY_SIDE], words[4];
    coefficients c[SIDE_BY_SIDE];
    CLEAR(acc, n);
    for (size_t b = 0; b < n; b++) {
        size_t at = column + b * LANE_BLOCK;
        c[b] = lane_table(l, at, 1);
        copy_rows(near[b], l, at / 2, LANE_BLOCK / 2);
    }
    for (size_t part = 0; part < LANE_BLOCK; part += 32) UNROLL for (size_t b = 0; b < n; b++) {
            size_t at = column + LANE_BLOCK * b + part;
            prefetch_chunk(l), prefetch_chunk(l);
            W(columns_words)(words, near[b] + part / 2, LANE_BLOCK / 2);
            UNROLL for (int i = 0; i < 4; i++) acc[b] =
                multiply_word(acc[b], l->x + at + 8 * i, words[i], 4, c[b].b, c[b].a);
        }
    add_blocks(l, acc, column, n);
}
DOT(int_4)

/* ---- transposed kinds: words of STRIP_ROWS rows, a few cache lines, hold one column (AWQ), four or eight ---- */

#define STRIP_ROWS TABLE_ROWS
#define STRIP_SOON 128 /* columns: the prefetch distance */

/* The address of the words of `column`; past the last column, of those of the next strip. */
INLINE const unsigned char *strip_words(const rectangle *at, size_t column) {
    const lp_packed *p = at->p;
    size_t row = at->row, awq = p->kind == LP_PACKED_AWQ;
    if (column >= at->n_columns) row = lp_size_min(row + at->n_rows, p->n_rows - at->n_rows);
    column %= at->n_columns;
    return p->codes + column / (awq ? 1 : 32 / p->bits) * lp_packed_row_bytes(p) + 4 * (awq ? row / 8 : row);
}

/* out [n_rows]; n_rows is a multiple of LANES. */
INLINE void dot_gptq(float *out, const rectangle *at, const float *x, const int bits) {
    const lp_packed *p = at->p;
    table_column table;
    float acc[STRIP_ROWS];
    size_t pitch = 4 * p->n_rows;
    for (size_t column = 0; column < at->n_columns; column += LANE_BLOCK) {
        const unsigned char *from = strip_words(at, column), *soon = strip_words(at, column + STRIP_SOON);
        if (column % p->scale_cols == 0) read_table(&table, at, column / p->scale_cols);
        memset(acc, 0, sizeof acc);
        for (size_t c = column; c < column + LANE_BLOCK; c += 32 / (size_t)bits, from += pitch, soon += pitch) {
            for (size_t line = 0; line < 4 * at->n_rows + 63; line += 64) __builtin_prefetch(soon + line, 0, 2);
            for (size_t r = 0; r < at->n_rows; r += LANES) {
                WVEC words = W(widen_f32)(from + 4 * r), sum = W(load)(acc + r);
                W(store)(acc + r,
                         multiply_word(sum, x + c, words, bits, W(load)(table.zero + r), W(load)(table.scale + r)));
            }
        }
        for (size_t r = 0; r < at->n_rows; r++) out[r] = column ? out[r] + acc[r] : acc[r];
    }
}
NOINLINE void dot_gptq_4(float *out, const rectangle *at, const float *x) { dot_gptq(out, at, x, 4); }
NOINLINE void dot_gptq_8(float *out, const rectangle *at, const float *x) { dot_gptq(out, at, x, 8); }

/* n <= 2 vectors of rows from `row` on, whose group may change with every column. */
INLINE void dot_scattered(float *out, const rectangle *at, size_t row, const float *x, const size_t n) {
    const lp_packed *p = at->p;
    coefficients table[MOST_TABLES][2];
    size_t pitch = 4 * p->n_rows;
    WVEC total[2] = {W(zero)()};
    for (size_t g = 0; g < lp_packed_groups(p); g++)
        for (size_t i = 0; i < n; i++) table[g][i] = gptq_table(p, at->row + row + i * LANES, g, 4);
    for (size_t column = 0; column < at->n_columns; column += LANE_BLOCK) {
        const unsigned char *from = strip_words(at, column) + 4 * row, *soon = from + STRIP_SOON / 8 * pitch;
        WVEC acc[2];
        CLEAR(acc, 2);
        for (size_t c = column; c < column + LANE_BLOCK; c += 8, from += pitch, soon += pitch) {
            WVEC words[2];
            for (size_t i = 0; i < n; i++) {
                words[i] = W(widen_f32)(from + 4 * i * LANES);
                __builtin_prefetch(soon + 4 * i * LANES, 0, 2);
            }
            UNROLL for (int u = 0; u < 8; u++) {
                const coefficients *of = table[p->group_of[c + (size_t)u]];
                WVEC xc = W(set1)(x[c + (size_t)u]);
                for (size_t i = 0; i < n; i++)
                    acc[i] = W(fma)(xc, value_of(W(nibble_of)(words[i], u), of[i], FROM_ZERO), acc[i]);
            }
        }
        for (size_t i = 0; i < n; i++) total[i] = column ? W(add)(total[i], acc[i]) : acc[i];
    }
    for (size_t i = 0; i < n; i++) W(store)(out + row + i * LANES, total[i]);
}

/* As dot_gptq. */
NOINLINE void dot_gptq_scattered(float *out, const rectangle *at, const float *x) {
    size_t row = 0;
    for (; row + 2 * LANES <= at->n_rows; row += 2 * LANES) dot_scattered(out, at, row, x, 2);
    for (; row < at->n_rows; row += LANES) dot_scattered(out, at, row, x, 1);
}

/* out [8 * LANES]. Nibble i of word j is row 8 j + (0, 2, 4, 6, 1, 3, 5, 7)[i]. */
INLINE void dot_awq_words(float *out, const rectangle *at, const float *x) {
    static const size_t row_of[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    const lp_packed *p = at->p;
    table_column table;
    float lane[2][8][LANES];
    size_t pitch = lp_packed_row_bytes(p);
    WVEC total[8] = {W(zero)()};
    for (size_t column = 0; column < at->n_columns; column += LANE_BLOCK) {
        if (column % p->scale_cols == 0) {
            read_table(&table, at, column / p->scale_cols);
            for (size_t i = 0; i < 8 * LANES; i++) {
                lane[0][i / LANES][i % LANES] = table.scale[i % LANES * 8 + row_of[i / LANES]];
                lane[1][i / LANES][i % LANES] = table.zero[i % LANES * 8 + row_of[i / LANES]];
            }
        }
        WVEC acc[8], s[8], z[8];
        CLEAR(acc, 8);
        UNROLL for (int i = 0; i < 8; i++) s[i] = W(load)(lane[0][i]), z[i] = W(load)(lane[1][i]);
        const unsigned char *from = strip_words(at, column), *soon = strip_words(at, column + STRIP_SOON);
        for (size_t c = column; c < column + LANE_BLOCK; c++, from += pitch, soon += pitch) {
            WVEC words = W(widen_f32)(from), xc = W(set1)(x[c]);
            __builtin_prefetch(soon, 0, 2);
            __builtin_prefetch(soon + 63, 0, 2); /* the tensor may have any alignment */
            UNROLL for (int i = 0; i < 8; i++) acc[i] =
                W(fma)(xc, W(mul)(W(sub)(W(nibble_of)(words, i), z[i]), s[i]), acc[i]);
        }
        UNROLL for (int i = 0; i < 8; i++) total[i] = column ? W(add)(total[i], acc[i]) : acc[i];
    }
    for (size_t i = 0; i < 8; i++) W(store)(lane[0][i], total[i]);
    for (size_t i = 0; i < 8 * LANES; i++) out[i % LANES * 8 + row_of[i / LANES]] = lane[0][i / LANES][i % LANES];
}
NOINLINE void dot_awq(float *out, const rectangle *at, const float *x) {
    for (size_t r = 0; r < at->n_rows; r += 8 * LANES) {
        rectangle part = {at->p, at->row + r, 8 * LANES, 0, at->n_columns};
        dot_awq_words(out + r, &part, x);
    }
}

#endif
