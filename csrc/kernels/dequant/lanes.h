/* lanes.h - products of one token with LANES rows of a packed weight, nothing stored in between: rows lie in the lanes
 * of vectors.
 *
 * Codes are turned as they are packed, four columns or more in a word, so that a few shuffles serve many columns, and
 * so are scales. A block of k is a chain that waits for itself: four blocks run side by side, of one chunk of 16
 * columns after the other. Each number is computed by the same operations as elsewhere. */
#ifndef LP_LANES_H
#define LP_LANES_H

#include "superblocks.h" /* value_of, coefficients, scaled */
#include "tables.h"      /* read_table, has_nan */

#define LANE_BLOCK 64 /* LP_K_BLOCK */
#define SIDE_BY_SIDE 4

/* LANES rows, `pitch` bytes apart, the x that they are multiplied with, and what is prefetched meanwhile: as many bytes
 * as are read, `step` for every chunk. */
typedef struct {
    rectangle at; /* of all columns */
    const unsigned char *rows, *soon;
    size_t pitch, step;
    const float *x;
    WVEC total;
    int failed; /* there is something that only the loops of other files do */
} lane_rows;

typedef enum { BYTES, LOW_NIBBLES, HIGH_NIBBLES, E4M3 } lane_codes;

INLINE WVEC lane_code(WVEC words, int i, const lane_codes codes) {
    switch (codes) {
    case BYTES:
        return W(byte_of)(words, i);
    case E4M3:
        return W(e4m3_of)(words, i);
    default:
        return W(nibble_of)(words, 2 * i + (codes == HIGH_NIBBLES));
    }
}

/* A chunk: acc += x [16] * the values of 16 columns, four in a word. */
INLINE void multiply_words(WVEC *acc, const float *x, const WVEC words[4], const lane_codes codes, coefficients c,
                           const int formula) {
    UNROLL for (int i = 0; i < 16; i++) {
        WVEC w = value_of(lane_code(words[i / 4], i % 4, codes), c, formula);
        *acc = W(fma)(W(set1)(x[i]), w, *acc);
    }
}

INLINE void prefetch_chunk(lane_rows *l) {
    for (size_t line = 0; line < l->step; line += 64) __builtin_prefetch(l->soon + line, 0, 2);
    l->soon += l->step;
}

INLINE void multiply_chunk(WVEC *acc, lane_rows *l, size_t at, const float *x, const lane_codes codes, coefficients c,
                           const int formula) {
    WVEC words[4];
    prefetch_chunk(l);
    W(columns_words)(words, l->rows + at, l->pitch);
    multiply_words(acc, x, words, codes, c, formula);
}

INLINE void add_blocks(lane_rows *l, const WVEC *acc, size_t column, const size_t n) {
    for (size_t b = 0; b < n; b++) l->total = column + b ? W(add)(l->total, acc[b]) : acc[b];
}

/* A function for all columns, a multiple of LANE_BLOCK, from one for n blocks from column `column` on. */
#define DOT(kind)                                                                                         \
    NOINLINE void dot_##kind(lane_rows *rows) {                                                           \
        lane_rows l = *rows;                                                                              \
        size_t column = 0, k = l.at.n_columns;                                                            \
        for (; column + SIDE_BY_SIDE * LANE_BLOCK <= k && !l.failed; column += SIDE_BY_SIDE * LANE_BLOCK) \
            blocks_of_##kind(&l, column, SIDE_BY_SIDE);                                                   \
        for (; column < k && !l.failed; column += LANE_BLOCK) blocks_of_##kind(&l, column, 1);            \
        *rows = l;                                                                                        \
    }
#define DOT_SUPERBLOCKS(kind)                                                                 \
    NOINLINE void dot_##kind(lane_rows *rows) {                                               \
        lane_rows l = *rows;                                                                  \
        for (size_t column = 0; column < l.at.n_columns; column += SIDE_BY_SIDE * LANE_BLOCK) \
            blocks_of_##kind(&l, column);                                                     \
        *rows = l;                                                                            \
    }

#define CLEAR(acc, n) UNROLL for (size_t b = 0; b < (n); b++)(acc)[b] = W(zero)()

/* ---- blocks of 32 columns, two in a block of k ---- */

/* The scale of each row is the first half of its block; so many bytes in all, and before the codes. */
INLINE void small_blocks(lane_rows *l, size_t column, const size_t n, const size_t bytes, const int nibbles) {
    WVEC acc[SIDE_BY_SIDE], d[SIDE_BY_SIDE], words[4];
    CLEAR(acc, n);
    for (size_t part = 0; part < 2; part++) {
        size_t first = (column / 32 + part) * bytes;
        const float *x = l->x + column + 32 * part;
        UNROLL for (size_t b = 0; b < n; b++) {
            W(columns_words)(words, l->rows + first + 2 * b * bytes, l->pitch);
            d[b] = W(half_of)(words[0], 0);
        }
        UNROLL for (size_t b = 0; b < n; b++) {
            size_t at = first + 2 * b * bytes + 2;
            if (nibbles)
                multiply_chunk(acc + b, l, at, x + LANE_BLOCK * b, LOW_NIBBLES, from_zero(d[b], 8), FROM_ZERO);
            else
                multiply_chunk(acc + b, l, at, x + LANE_BLOCK * b, BYTES, scaled(d[b]), TIMES);
        }
        UNROLL for (size_t b = 0; b < n; b++) {
            size_t at = first + 2 * b * bytes + 2;
            const float *xb = x + LANE_BLOCK * b + 16;
            if (nibbles)
                multiply_chunk(acc + b, l, at, xb, HIGH_NIBBLES, from_zero(d[b], 8), FROM_ZERO);
            else
                multiply_chunk(acc + b, l, at + 16, xb, BYTES, scaled(d[b]), TIMES);
        }
    }
    add_blocks(l, acc, column, n);
}
INLINE void blocks_of_q8_0(lane_rows *l, size_t column, const size_t n) { small_blocks(l, column, n, 34, 0); }
INLINE void blocks_of_q4_0(lane_rows *l, size_t column, const size_t n) { small_blocks(l, column, n, 18, 1); }
DOT(q8_0)
DOT(q4_0)

/* ---- superblocks: four blocks of k ---- */

/* Scales and minima of the eight groups, each by its row's d and dmin. */
INLINE void lane_scales_and_least(coefficients c[8], const unsigned char *b, size_t pitch) {
    WVEC w[4], scale[2], least[2], z;
    W(columns_words)(w, b, pitch);
    z = W(bits)(w[3], 4, 0x0f0f0f0f);
    scale[0] = W(bits)(w[1], 0, 0x3f3f3f3f), least[0] = W(bits)(w[2], 0, 0x3f3f3f3f);
    scale[1] = W(left_or)(W(bits)(w[1], 6, 0x03030303), 4, W(bits)(w[3], 0, 0x0f0f0f0f));
    least[1] = W(left_or)(W(bits)(w[2], 6, 0x03030303), 4, z);
    WVEC d = W(half_of)(w[0], 0), dmin = W(half_of)(w[0], 1);
    UNROLL for (int g = 0; g < 8; g++) {
        c[g].a = W(mul)(d, W(byte_of)(scale[g / 4], g % 4));
        c[g].b = W(mul)(dmin, W(byte_of)(least[g / 4], g % 4));
    }
}

INLINE void blocks_of_q4_k(lane_rows *l, size_t column) {
    WVEC acc[SIDE_BY_SIDE];
    coefficients c[8];
    size_t first = column / 256 * 144;
    CLEAR(acc, 4);
    lane_scales_and_least(c, l->rows + first, l->pitch);
    for (size_t part = 0; part < 2; part++)
        UNROLL for (size_t b = 0; b < 4; b++)
            multiply_chunk(acc + b, l, first + 16 + 32 * b + 16 * part, l->x + column + LANE_BLOCK * b + 16 * part,
                           LOW_NIBBLES, c[2 * b], LESS);
    for (size_t part = 0; part < 2; part++)
        UNROLL for (size_t b = 0; b < 4; b++)
            multiply_chunk(acc + b, l, first + 16 + 32 * b + 16 * part, l->x + column + LANE_BLOCK * b + 32 + 16 * part,
                           HIGH_NIBBLES, c[2 * b + 1], LESS);
    add_blocks(l, acc, column, 4);
}
DOT_SUPERBLOCKS(q4_k)

INLINE void blocks_of_q6_k(lane_rows *l, size_t column) {
    WVEC acc[SIDE_BY_SIDE], scale[16], words[4], high[4];
    const unsigned char *s = l->rows + column / 256 * 210;
    CLEAR(acc, 4);
    W(columns_words)(high, s + 194, l->pitch);
    W(columns_words)(words, s + 192, l->pitch);
    WVEC d = W(half_of)(high[3], 1);
    UNROLL for (int g = 0; g < 16; g++) scale[g] = W(mul)(d, W(byte_of)(words[g / 4], g % 4));
    for (size_t j = 0; j < 4; j++) UNROLL for (size_t b = 0; b < 4; b++) { /* columns 16 j .. of piece b */
            prefetch_chunk(l);
            W(columns_words)(words, s + b / 2 * 64 + 16 * j, l->pitch);
            W(columns_words)(high, s + 128 + b / 2 * 32 + 16 * j % 32, l->pitch);
            UNROLL for (int i = 0; i < 4; i++) words[i] =
                W(left_or)(W(bits)(high[i], (unsigned)(b % 2 * 4 + j / 2 * 2), 0x03030303), 4,
                           W(bits)(words[i], b % 2 * 4, 0x0f0f0f0f));
            multiply_words(acc + b, l->x + column + LANE_BLOCK * b + 16 * j, words, BYTES,
                           from_zero(scale[4 * b + j], 32), FROM_ZERO);
        }
    add_blocks(l, acc, column, 4);
}
DOT_SUPERBLOCKS(q6_k)

/* ---- codes with tables ---- */

/* What the rows have for the groups of n blocks; the groups are whole blocks. */
INLINE void lane_table(coefficients *c, lane_rows *l, size_t column, const size_t n, const float unit) {
    size_t last = 0;
    table_column table;
    for (size_t b = 0; b < n; b++) {
        size_t group = (column + LANE_BLOCK * b) / l->at.p->scale_cols;
        if (!b || group != last) read_table(&table, &l->at, group);
        if (unit != 1)
            for (size_t r = 0; r < LANES; r++) l->failed |= !(fabsf(table.scale[r]) < 0x1p7f);
        c[b] = (coefficients){W(mul)(W(load)(table.scale), W(set1)(unit)), W(load)(table.zero)};
        last = group;
    }
}

INLINE void blocks_of_bytes(lane_rows *l, size_t column, const size_t n, const lane_codes codes) {
    WVEC acc[SIDE_BY_SIDE];
    coefficients c[SIDE_BY_SIDE];
    CLEAR(acc, n);
    lane_table(c, l, column, n, codes == E4M3 ? 0x1p120f : 1);
    for (size_t r = 0; codes == E4M3 && r < LANES; r++)
        l->failed |= has_nan(l->rows + r * l->pitch + column, n * LANE_BLOCK);
    for (size_t part = 0; part < LANE_BLOCK; part += 16) UNROLL for (size_t b = 0; b < n; b++) {
            size_t at = column + LANE_BLOCK * b + part;
            multiply_chunk(acc + b, l, at, l->x + at, codes, c[b], codes == E4M3 ? TIMES : FROM_ZERO);
        }
    add_blocks(l, acc, column, n);
}
INLINE void blocks_of_fp8(lane_rows *l, size_t column, const size_t n) { blocks_of_bytes(l, column, n, E4M3); }
INLINE void blocks_of_int8(lane_rows *l, size_t column, const size_t n) { blocks_of_bytes(l, column, n, BYTES); }
DOT(fp8)
DOT(int8)

/* acc += x [8] * the values of the nibbles of a word */
INLINE WVEC multiply_nibbles(WVEC acc, const float *x, WVEC words, WVEC zero, WVEC scale) {
    UNROLL for (int i = 0; i < 8; i++) {
        WVEC w = W(mul)(W(sub)(W(nibble_of)(words, i), zero), scale);
        acc = W(fma)(W(set1)(x[i]), w, acc);
    }
    return acc;
}

INLINE void blocks_of_int(lane_rows *l, size_t column, const size_t n) {
    WVEC acc[SIDE_BY_SIDE], words[4];
    coefficients c[SIDE_BY_SIDE];
    CLEAR(acc, n);
    lane_table(c, l, column, n, 1);
    for (size_t part = 0; part < LANE_BLOCK; part += 32) UNROLL for (size_t b = 0; b < n; b++) {
            size_t at = column + LANE_BLOCK * b + part;
            prefetch_chunk(l), prefetch_chunk(l);
            W(columns_words)(words, l->rows + at / 2, l->pitch);
            UNROLL for (int i = 0; i < 4; i++) acc[b] =
                multiply_nibbles(acc[b], l->x + at + 8 * i, words[i], c[b].b, c[b].a);
        }
    add_blocks(l, acc, column, n);
}
DOT(int)

/* ---- transposed kinds: words of STRIP_ROWS rows, some cache lines, for one column or eight ---- */

#define STRIP_ROWS 128
#define STRIP_SOON 128 /* columns: the prefetch distance */

/* The scales and zeros of a strip of at->n_rows rows. */
INLINE void strip_table(float scale[STRIP_ROWS], float zero[STRIP_ROWS], const rectangle *at, size_t group) {
    table_column table;
    for (size_t r = 0; r < at->n_rows; r += TABLE_ROWS) {
        rectangle part = {at->p, at->row + r, lp_size_min(at->n_rows - r, TABLE_ROWS), 0, 0};
        read_table(&table, &part, group);
        memcpy(scale + r, table.scale, part.n_rows * sizeof *scale);
        memcpy(zero + r, table.zero, part.n_rows * sizeof *zero);
    }
}

/* Where the words of `column` lie, or past the last column those of the strip that follows. */
INLINE const unsigned char *strip_words(const rectangle *at, size_t column) {
    const lp_packed *p = at->p;
    size_t row = at->row, awq = p->kind == LP_PACKED_AWQ;
    if (column >= at->n_columns) row = lp_size_min(row + at->n_rows, p->n_rows - at->n_rows);
    column %= at->n_columns;
    return p->codes + column / (awq ? 1 : 8) * lp_packed_row_bytes(p) + 4 * (awq ? row / 8 : row);
}

/* out [n_rows], a multiple of LANES; four bits. */
NOINLINE void dot_gptq(float *out, const rectangle *at, const float *x) {
    const lp_packed *p = at->p;
    float scale[STRIP_ROWS], zero[STRIP_ROWS], acc[STRIP_ROWS];
    size_t pitch = 4 * p->n_rows;
    for (size_t column = 0; column < at->n_columns; column += LANE_BLOCK) {
        const unsigned char *from = strip_words(at, column), *soon = strip_words(at, column + STRIP_SOON);
        if (column % p->scale_cols == 0) strip_table(scale, zero, at, column / p->scale_cols);
        memset(acc, 0, sizeof acc);
        for (size_t c = column; c < column + LANE_BLOCK; c += 8, from += pitch, soon += pitch) {
            for (size_t line = 0; line < 4 * at->n_rows + 63; line += 64) __builtin_prefetch(soon + line, 0, 2);
            for (size_t r = 0; r < at->n_rows; r += LANES) {
                WVEC words = W(widen_f32)(from + 4 * r), sum = W(load)(acc + r);
                W(store)(acc + r, multiply_nibbles(sum, x + c, words, W(load)(zero + r), W(load)(scale + r)));
            }
        }
        for (size_t r = 0; r < at->n_rows; r++) out[r] = column ? out[r] + acc[r] : acc[r];
    }
}

/* out [8 * LANES]: nibble i of word j is row 8 j + (0, 2, 4, 6, 1, 3, 5, 7)[i]. */
INLINE void dot_awq_words(float *out, const rectangle *at, const float *x) {
    static const size_t row_of[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    const lp_packed *p = at->p;
    float scale[STRIP_ROWS], zero[STRIP_ROWS], lane[2][8][LANES];
    size_t pitch = lp_packed_row_bytes(p);
    WVEC total[8] = {W(zero)()};
    for (size_t column = 0; column < at->n_columns; column += LANE_BLOCK) {
        if (column % p->scale_cols == 0) {
            strip_table(scale, zero, at, column / p->scale_cols);
            for (size_t i = 0; i < 8 * LANES; i++) {
                lane[0][i / LANES][i % LANES] = scale[i % LANES * 8 + row_of[i / LANES]];
                lane[1][i / LANES][i % LANES] = zero[i % LANES * 8 + row_of[i / LANES]];
            }
        }
        WVEC acc[8], s[8], z[8];
        CLEAR(acc, 8);
        UNROLL for (int i = 0; i < 8; i++) s[i] = W(load)(lane[0][i]), z[i] = W(load)(lane[1][i]);
        const unsigned char *from = strip_words(at, column), *soon = strip_words(at, column + STRIP_SOON);
        for (size_t c = column; c < column + LANE_BLOCK; c++, from += pitch, soon += pitch) {
            WVEC words = W(widen_f32)(from), xc = W(set1)(x[c]);
            __builtin_prefetch(soon, 0, 2);
            __builtin_prefetch(soon + 63, 0, 2); /* the tensor may begin anywhere */
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

/* ---- any kind ---- */

typedef void lane_function(lane_rows *rows);

/* Rows `row` .. of a transposed kind: as many of n_rows as one strip has. The last strip of a matrix begins earlier. */
static size_t dot_strip(float *out, const float *x, const lp_packed *p, size_t row, size_t n_rows) {
    float sums[STRIP_ROWS];
    if (p->bits != 4 || p->group_of || p->n_rows < STRIP_ROWS) return 0;
    size_t first = lp_size_min(row / 8 * 8, p->n_rows - STRIP_ROWS), skip = row - first, height = STRIP_ROWS;
    if (p->kind == LP_PACKED_GPTQ) height = lp_size_min((skip + n_rows + LANES - 1) / LANES * LANES, STRIP_ROWS);
    rectangle at = {p, first, height, 0, p->n_cols};
    (p->kind == LP_PACKED_AWQ ? dot_awq : dot_gptq)(sums, &at, x);
    n_rows = lp_size_min(n_rows, height - skip);
    memcpy(out, sums + skip, n_rows * sizeof *out);
    return n_rows;
}

static size_t dot_rows(float *out, const float *x, const lp_packed *p, size_t row, size_t n_rows) {
    static lane_function *const functions[LP_N_PACKED] = {[LP_PACKED_Q8_0] = dot_q8_0, [LP_PACKED_Q4_0] = dot_q4_0,
                                                          [LP_PACKED_Q4_K] = dot_q4_k, [LP_PACKED_Q6_K] = dot_q6_k,
                                                          [LP_PACKED_FP8] = dot_fp8,   [LP_PACKED_INT8] = dot_int8,
                                                          [LP_PACKED_INT] = dot_int};
    float sums[LANES];
    if (!functions[p->kind] || p->group_of || p->bits == 8 || p->n_rows < LANES) return 0;
    size_t first = lp_size_min(row, p->n_rows - LANES), skip = row - first, stored = lp_packed_row(p, first);
    /* rows of half a head lie at equal distances, those of both halves do not */
    if (p->turned && first % (p->turned / 2) + LANES > p->turned / 2) return 0;
    size_t bytes = lp_packed_row_bytes(p), between = lp_packed_row(p, first + 1) - stored;
    lane_rows l = {.at = {p, first, LANES, 0, p->n_cols}, .rows = p->codes + stored * bytes, .pitch = between * bytes};
    l.soon = l.rows + (stored + (between + 1) * LANES <= p->n_rows ? LANES * l.pitch : 0);
    l.step = LANES * bytes * 16 / p->n_cols, l.x = x;
    functions[p->kind](&l);
    W(store)(sums, l.total);
    n_rows = lp_size_min(n_rows, LANES - skip);
    memcpy(out, sums + skip, n_rows * sizeof *out);
    return l.failed ? 0 : n_rows;
}

/* out = the sums of x [k] times rows row .. row + n of w. Returns n <= n_rows; 0: this kind, or these rows, cannot be
 * multiplied in lanes. */
static size_t dot_lanes(float *out, const float *x, const lp_weight *w, size_t row, size_t n_rows) {
    const lp_packed *p = w->packed;
    int transposed = lp_packed_is_transposed(p->kind), block = lp_packed_is_block(p->kind);
    if (p->as_bf16 || p->n_cols % LANE_BLOCK || (!block && p->scale_cols % LANE_BLOCK)) return 0;
    return (transposed ? dot_strip : dot_rows)(out, x, p, w->first_row + row, n_rows);
}

#endif
