/* tables.h - dequantises rectangles of the kinds with tables of scales and zeros: FP8, INT8, INT, GPTQ, AWQ.
 *
 * Up to TABLE_ROWS rows and TABLE_COLUMNS columns at a time, in runs of columns that share a scale. Words of the
 * transposed kinds are transposed first, all rows at once, so that each cache line is read once. */
#ifndef LP_TABLES_H
#define LP_TABLES_H

#include <math.h>

#include "../../base/size.h" /* lp_size_min */
#include "codes.h"

#define TABLE_ROWS 128 /* a cache line of AWQ */
#define TABLE_COLUMNS 256

/* A rectangle of at most [TABLE_ROWS, TABLE_COLUMNS]. */
typedef struct {
    const lp_packed *p;
    size_t row, n_rows, column, n_columns;
} rectangle;

/* ---- words of 4- or 8-bit codes, the lowest bits first ---- */

/* The words of each row, from the rectangle's first column on: bits, not float values. */
typedef float table_words[TABLE_ROWS][TABLE_COLUMNS / 4];

typedef uint32_t lane_words __attribute__((vector_size(4 * LANES)));

/* out [row][word] = from [word][row], in 4-byte words. Rows are `pitch` bytes apart in `from`, `to` words in out. */
INLINE void transpose_words(float *out, size_t to, const unsigned char *from, size_t pitch, size_t n_words,
                            size_t n_rows) {
    for (size_t k = 0; k < n_words; k += LANES)
        for (size_t r = 0; r < n_rows; r += LANES) {
            WVEC square[LANES];
            if (k + LANES > n_words || r + LANES > n_rows) {
                for (size_t i = k; i < lp_size_min(k + LANES, n_words); i++)
                    for (size_t j = r; j < lp_size_min(r + LANES, n_rows); j++)
                        memcpy(out + j * to + i, from + i * pitch + 4 * j, 4);
                continue;
            }
            UNROLL for (size_t i = 0; i < LANES; i++) square[i] = W(widen_f32)(from + (k + i) * pitch + 4 * r);
            W(transpose)(square);
            UNROLL for (size_t i = 0; i < LANES; i++) W(store)(out + (r + i) * to + k, square[i]);
        }
}

/* GPTQ: a word holds columns of one row; the next word is the next row. */
NOINLINE void transpose_gptq(table_words out, const rectangle *at) {
    const lp_packed *p = at->p;
    size_t per_word = 32 / p->bits, n_words = (at->n_columns + per_word - 1) / per_word, pitch = 4 * p->n_rows;
    transpose_words(out[0], TABLE_COLUMNS / 4, p->codes + at->column / per_word * pitch + 4 * at->row, pitch, n_words,
                    at->n_rows);
}

/* Swaps the bits of a in mask << shift with the bits of b in mask. */
INLINE void exchange(lane_words *a, lane_words *b, unsigned shift, uint32_t mask) {
    lane_words both = ((*a >> shift) ^ *b) & mask;
    *b ^= both, *a ^= both << shift;
}

/* Swaps nibble i of word j with nibble j of word i, of eight words, in each lane. */
INLINE void transpose_nibbles(lane_words w[8]) {
    UNROLL for (int i = 0; i < 4; i++) exchange(w + i, w + i + 4, 16, 0x0000ffff);
    UNROLL for (int i = 0; i < 2; i++) exchange(w + i, w + i + 2, 8, 0x00ff00ff);
    UNROLL for (int i = 4; i < 6; i++) exchange(w + i, w + i + 2, 8, 0x00ff00ff);
    UNROLL for (int i = 0; i < 8; i += 2) exchange(w + i, w + i + 1, 4, 0x0f0f0f0f);
}

/* AWQ: a word holds eight rows of one column; the next word is the next eight rows. The first row begins a word. Eight
 * columns of LANES words become words of columns, as GPTQ stores them, except for the order of the rows. */
NOINLINE void transpose_awq(table_words out, const rectangle *at) {
    unsigned char transposed[8][TABLE_COLUMNS / 8][TABLE_ROWS / 2]; /* [nibble][word of columns][word of rows] */
    const size_t pitch = at->p->n_rows / 8 * 4, n = (at->n_columns + 7) / 8, n_words = (at->n_rows + 7) / 8;
    const size_t whole = at->p->n_cols * pitch, from = at->column * pitch + at->row / 8 * 4;
    for (size_t i = 0; i < n; i++)
        for (size_t word = 0; word < n_words; word += LANES) {
            lane_words square[8], end[8];
            size_t first = from + 8 * i * pitch + 4 * word, step = pitch;
            const unsigned char *codes = at->p->codes + first;
            if (first + 7 * pitch + sizeof *square > whole) { /* the last words of the matrix */
                memset(end, 0, sizeof end);
                for (size_t c = 0; c < 8 && first + c * pitch < whole; c++)
                    memcpy(end + c, codes + c * pitch, lp_size_min(whole - first - c * pitch, sizeof *end));
                codes = (const unsigned char *)end, step = sizeof *end;
            }
            UNROLL for (size_t c = 0; c < 8; c++) memcpy(square + c, codes + c * step, sizeof *square);
            transpose_nibbles(square);
            UNROLL for (size_t r = 0; r < 8; r++)
                memcpy(transposed[r % 4 * 2 + r / 4][i] + 4 * word, square + r, sizeof *square);
        }
    for (size_t r = 0; r < 8; r++)
        transpose_words(out[r], 8 * (TABLE_COLUMNS / 4), transposed[r][0], sizeof **transposed, n,
                        (n_words + LANES - 1) / LANES * LANES);
}

/* ---- scales and zeros ---- */

/* Scales and zeros of a rectangle's rows for one group of columns. */
typedef struct {
    float scale[TABLE_ROWS], zero[TABLE_ROWS];
} table_column;

static size_t group_of(const lp_packed *p, size_t column) {
    return p->group_of ? p->group_of[column] : column / p->scale_cols;
}

/* The end of the run of columns, from `column` on, that are in one group. */
static size_t end_of_run(const lp_packed *p, size_t column, size_t end) {
    if (!p->group_of) return lp_size_min(end, (column / p->scale_cols + 1) * p->scale_cols);
    size_t group = p->group_of[column];
    while (++column < end && p->group_of[column] == group) {
    }
    return column;
}

/* The eight nibbles of an AWQ word, sorted by row. */
INLINE uint32_t in_order_of_rows(uint32_t word) {
    uint32_t even = word & 0xffff, odd = word >> 16;
    even = (even | even << 8) & 0x00ff00ff, odd = (odd | odd << 8) & 0x00ff00ff;
    even = (even | even << 4) & 0x0f0f0f0f, odd = (odd | odd << 4) & 0x0f0f0f0f;
    return even | odd << 4;
}

/* Word i, from the rectangle's first row on, of 4-bit zeros. */
INLINE uint64_t zero_word(const rectangle *at, size_t group, size_t i) {
    const lp_packed *p = at->p;
    size_t word = at->row / 8 + i;
    uint32_t zeros = packed_word(p->zeros, p->kind == LP_PACKED_INT ? word * lp_packed_groups(p) + group
                                                                    : group * (p->n_rows / 8) + word);
    if (p->kind == LP_PACKED_AWQ) return in_order_of_rows(zeros);
    return p->zero_is_less_one ? ((zeros & 0x77777777u) + 0x11111111u) ^ (zeros & 0x88888888u) : zeros;
}

/* 16 rows at a time; the first row need not begin a word. */
INLINE void read_zero_nibbles(float zero[TABLE_ROWS], const rectangle *at, size_t group) {
    size_t skip = at->row % 8, n = (skip + at->n_rows + 7) / 8;
    for (size_t r = 0, i = 0; r < at->n_rows; r += 16, i += 2) {
        uint64_t nibbles = zero_word(at, group, i);
        if (i + 1 < n) nibbles |= zero_word(at, group, i + 1) << 32;
        if (skip) nibbles = nibbles >> 4 * skip | (i + 2 < n ? zero_word(at, group, i + 2) << (64 - 4 * skip) : 0);
        for (size_t j = 0; j < 16; j += LANES)
            W(store)(zero + r + j, W(from_nibbles)((const unsigned char *)&nibbles + j / 2));
    }
}

/* The zero of row i, which is in row r of the table: for kinds that read_zero_nibbles does not read. */
static float read_zero(const rectangle *at, size_t i, size_t r, size_t group) {
    const lp_packed *p = at->p;
    if (p->kind == LP_PACKED_INT8) return p->zeros ? (signed char)p->zeros[r * lp_packed_groups(p) + group] : 0;
    if (!p->zeros) return (float)(1 << (p->bits - 1));
    if (p->kind != LP_PACKED_GPTQ || p->bits == 4) return (float)packed_zero(p, r, group);
    return (float)((p->zeros[group * p->n_rows + at->row + i] + p->zero_is_less_one) & 255);
}

NOINLINE void read_table(table_column *out, const rectangle *at, size_t group) {
    const lp_packed *p = at->p;
    const int transposed = lp_packed_is_transposed(p->kind), nibbles = p->zeros && p->bits == 4 && p->scale_rows == 1;
    size_t bytes = lp_element_bytes(p->scale), n_groups = lp_packed_groups(p);
    if (transposed) from_elements(out->scale, p->scales + (group * p->n_rows + at->row) * bytes, at->n_rows, p->scale);
    if (nibbles) read_zero_nibbles(out->zero, at, group);
    if (transposed && nibbles) return;
    size_t r = at->row / p->scale_rows, into = at->row % p->scale_rows; /* one division, not one per row */
    for (size_t i = 0; i < at->n_rows; i++) {
        if (!transposed) out->scale[i] = lp_element_to_f32(p->scales + (r * n_groups + group) * bytes, p->scale);
        if (!nibbles && p->kind != LP_PACKED_FP8) out->zero[i] = read_zero(at, i, r, group);
        if (++into == p->scale_rows) r++, into = 0;
    }
}

/* ---- columns of one group: out [n_rows][n], any n, from rows of codes `pitch` bytes apart ---- */

typedef void columns_function(float *out, size_t stride, const unsigned char *q, size_t pitch, size_t n_rows, size_t n,
                              const table_column *table);

#define STEP 64 /* columns per iteration */

/* Defines columns_of_<name>: values(j) is a vector from column j on, `value` the code of one of the last columns. */
#define COLUMNS_OF(name, prepare, values, value)                                                                    \
    NOINLINE void columns_of_##name(float *out, size_t stride, const unsigned char *q, size_t pitch, size_t n_rows, \
                                    size_t n, const table_column *table) {                                          \
        for (size_t r = 0; r < n_rows; r++, out += stride, q += pitch) {                                            \
            const float scale = table->scale[r], zero = table->zero[r];                                             \
            size_t i = 0;                                                                                           \
            prepare;                                                                                                \
            for (; i + STEP <= n; i += STEP)                                                                        \
                UNROLL for (size_t j = i; j < i + STEP; j += LANES) W(store)(out + j, values(j));                   \
            for (; i < n; i++) out[i] = ((float)(value) - zero) * scale;                                            \
        }                                                                                                           \
    }

#define I8_VALUES(i) value_of(W(from_i8)(q + i), c, FROM_ZERO)
#define U8_VALUES(i) value_of(W(from_u8)(q + i), c, FROM_ZERO)
#if LANES == 16
#define NIBBLE_VALUES(i) W(lookup_nibbles)(c, q + i / 2)
#define NIBBLE_COEFFICIENTS nibble_values c = nibble_values_of((coefficients){W(set1)(scale), W(set1)(zero)}, FROM_ZERO)
#else
#define NIBBLE_VALUES(i) value_of(W(from_nibbles)(q + i / 2), c, FROM_ZERO)
#define NIBBLE_COEFFICIENTS coefficients c = {W(set1)(scale), W(set1)(zero)}
#endif
COLUMNS_OF(i8, coefficients c = ((coefficients){W(set1)(scale), W(set1)(zero)}), I8_VALUES, (signed char)q[i])
COLUMNS_OF(u8, coefficients c = ((coefficients){W(set1)(scale), W(set1)(zero)}), U8_VALUES, q[i])
COLUMNS_OF(nibbles, NIBBLE_COEFFICIENTS, NIBBLE_VALUES, q[i / 2] >> i % 2 * 4 & 15) /* low nibble first */

/* Whether any of n codes, a multiple of 32, is NaN. */
INLINE int has_nan(const unsigned char *q, size_t n) {
    words_32 word, found = {0};
    for (size_t i = 0; i < n; i += sizeof word) {
        memcpy(&word, q + i, sizeof word);
        found |= (word & EACH_BYTE(0x7f)) + EACH_BYTE(1);
    }
    return ((found[0] | found[1] | found[2] | found[3]) & EACH_BYTE(0x80)) != 0;
}

/* from_e4m3 and e4m3_of are off by a factor of 2^-8: the scale is multiplied by the inverse, unless it is too large. */
#define E4M3_UNIT 256
INLINE int has_room_for_unit(float scale) { return fabsf(scale) < 0x1p119f; }

NOINLINE void columns_of_e4m3(float *out, size_t stride, const unsigned char *q, size_t pitch, size_t n_rows, size_t n,
                              const table_column *table) {
    for (size_t r = 0; r < n_rows; r++, out += stride, q += pitch) {
        const float scale = table->scale[r];
        size_t i = 0, whole = has_room_for_unit(scale) ? n - n % STEP : 0;
        WVEC s = W(set1)(scale * E4M3_UNIT);
        if (has_nan(q, whole)) whole = 0;
        for (; i < whole; i += STEP)
            UNROLL for (size_t j = i; j < i + STEP; j += LANES) W(store)(out + j, W(mul)(W(from_e4m3)(q + j), s));
        for (; i < n; i++) out[i] = packed_e4m3(q[i]) * scale;
    }
}

/* 4-bit codes from an odd column `at` on. */
static void odd_columns(float *out, size_t stride, const unsigned char *q, size_t pitch, size_t at, size_t n_rows,
                        size_t n, const table_column *table) {
    for (size_t r = 0; r < n_rows; r++, out += stride, q += pitch)
        for (size_t i = 0; i < n; i++) out[i] = ((float)packed_code(q, at + i, 4) - table->zero[r]) * table->scale[r];
}

/* ---- GPTQ with neighbouring columns in different groups: LANES rows of a column per vector, then transposed ---- */

INLINE WVEC gptq_zeros(const lp_packed *p, size_t row, size_t group, const unsigned bits) {
    if (!p->zeros) return W(set1)((float)(1 << (bits - 1)));
    const unsigned char *from = p->zeros + (group * p->n_rows + row) * bits / 8;
    uint64_t words[2] = {0};
    memcpy(words, from, LANES * bits / 8);
    if (bits == 8) {
        for (int i = 0; i < 2 && p->zero_is_less_one; i++)
            words[i] = ((words[i] & EACH_BYTE(0x7f)) + EACH_BYTE(1)) ^ (words[i] & EACH_BYTE(0x80));
        return W(from_u8)(words);
    }
    if (p->zero_is_less_one) words[0] = ((words[0] & EACH_BYTE(0x77)) + EACH_BYTE(0x11)) ^ (words[0] & EACH_BYTE(0x88));
    return W(from_nibbles)((const unsigned char *)words);
}

typedef int32_t lane_integers __attribute__((vector_size(4 * LANES)));
typedef float lane_floats __attribute__((vector_size(4 * LANES)));

/* Scales and zeros of LANES rows for one group. */
INLINE coefficients gptq_table(const lp_packed *p, size_t row, size_t group, const unsigned bits) {
    float scale[LANES];
    from_elements(scale, p->scales + (group * p->n_rows + row) * lp_element_bytes(p->scale), LANES, p->scale);
    return (coefficients){W(load)(scale), gptq_zeros(p, row, group, bits)};
}

/* LANES rows from `row` on of one column. */
INLINE WVEC gptq_column(const lp_packed *p, size_t row, size_t column, coefficients c, const unsigned bits) {
    const size_t per_word = 32 / bits;
    lane_words words;
    memcpy(&words, p->codes + (column / per_word * p->n_rows + row) * 4, sizeof words);
    words = words >> (unsigned)(column % per_word * bits) & ((1u << bits) - 1);
    lane_floats codes = __builtin_convertvector((lane_integers)words, lane_floats);
    return value_of(W(widen_f32)(&codes), c, FROM_ZERO);
}

#define MOST_TABLES 128 /* groups whose tables fit L1 */

/* n_rows and n_columns are multiples of LANES, `row` of eight. */
INLINE void gptq_columns(float *out, size_t stride, const rectangle *at, const unsigned bits) {
    const lp_packed *p = at->p;
    const uint32_t *group_of_column = p->group_of + at->column;
    size_t n_groups = lp_packed_groups(p);
    int all = n_groups <= MOST_TABLES && n_groups < at->n_columns; /* else each column reads its own */
    coefficients table[MOST_TABLES];
    for (size_t r = 0; r < at->n_rows; r += LANES) {
        const size_t row = at->row + r;
        for (size_t g = 0; all && g < n_groups; g++) table[g] = gptq_table(p, row, g, bits);
        for (size_t c = 0; c < at->n_columns; c += LANES) {
            WVEC square[LANES];
            for (size_t i = 0; i < LANES; i++) {
                size_t g = group_of_column[c + i];
                square[i] = gptq_column(p, row, at->column + c + i, all ? table[g] : gptq_table(p, row, g, bits), bits);
            }
            W(transpose)(square);
            UNROLL for (size_t i = 0; i < LANES; i++) W(store)(out + (r + i) * stride + c, square[i]);
        }
    }
}
NOINLINE void gptq_columns_4(float *out, size_t stride, const rectangle *at) { gptq_columns(out, stride, at, 4); }
NOINLINE void gptq_columns_8(float *out, size_t stride, const rectangle *at) { gptq_columns(out, stride, at, 8); }

/* Whether gptq_columns is used: the group changes at least twice within the rectangle. */
static int is_scattered(const rectangle *at) {
    const lp_packed *p = at->p;
    size_t end = at->column + at->n_columns;
    if (!p->group_of || p->kind != LP_PACKED_GPTQ || at->row % 8 || at->n_rows % LANES || at->n_columns % LANES)
        return 0;
    size_t second = end_of_run(p, at->column, end);
    return second < end && end_of_run(p, second, end) < end;
}

/* ---- rectangles ---- */

/* q: the codes of the rectangle's first row and column; rows are `pitch` bytes apart. */
static void table_rectangle(float *out, size_t stride, const rectangle *at, const unsigned char *q, size_t pitch) {
    const lp_packed *p = at->p;
    columns_function *columns = p->kind == LP_PACKED_FP8    ? columns_of_e4m3
                                : p->kind == LP_PACKED_INT8 ? columns_of_i8
                                : p->bits == 8              ? columns_of_u8
                                                            : columns_of_nibbles;
    for (size_t c = 0, end; c < at->n_columns; c = end) {
        table_column table;
        end = end_of_run(p, at->column + c, at->column + at->n_columns) - at->column;
        read_table(&table, at, group_of(p, at->column + c));
        if (p->bits == 4 && c % 2)
            odd_columns(out + c, stride, q, pitch, c, at->n_rows, end - c, &table);
        else
            columns(out + c, stride, q + (p->bits == 4 ? c / 2 : c), pitch, at->n_rows, end - c, &table);
    }
}

static void dequantise_table(float *out, size_t stride, const rectangle *at) {
    const lp_packed *p = at->p;
    if (is_scattered(at)) {
        (p->bits == 4 ? gptq_columns_4 : gptq_columns_8)(out, stride, at);
    } else if (lp_packed_is_transposed(p->kind)) {
        table_words words;
        (p->kind == LP_PACKED_AWQ ? transpose_awq : transpose_gptq)(words, at);
        table_rectangle(out, stride, at, (const unsigned char *)words, sizeof *words);
    } else {
        size_t pitch = lp_packed_row_bytes(p), first = p->kind == LP_PACKED_INT ? at->column * p->bits / 8 : at->column;
        table_rectangle(out, stride, at, p->codes + at->row * pitch + first, pitch);
    }
}

#endif
