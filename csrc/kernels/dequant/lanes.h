/* lanes.h - gemv: one token times LANES rows of a packed weight, one row per vector lane, without storing the values.
 *
 * Codes and scales are transposed while packed, four or more columns per word, so that a few shuffles serve many
 * columns. The products of a k-block are one dependency chain, so four k-blocks are interleaved, 16 columns of each in
 * turn. Each value is computed by the same operations as elsewhere. */
#ifndef LP_LANES_H
#define LP_LANES_H

#include "lane_blocks.h" /* dot_q8_0 and so on */
#include "lane_tables.h" /* dot_fp8 and so on */

typedef void lane_function(lane_rows *rows);

/* Rows from `row` on of a transposed kind, at most those of one strip; the last strip overlaps the one before. Returns
 * the number of rows, or 0 as dot_lanes. */
static size_t dot_strip(float *out, const float *x, const lp_packed *p, size_t row, size_t n_rows) {
    float sums[STRIP_ROWS];
    int scattered = p->group_of != NULL;
    if (p->n_rows < STRIP_ROWS) return 0;
    if (scattered && (p->kind == LP_PACKED_AWQ || p->bits != 4 || lp_packed_groups(p) > MOST_TABLES)) return 0;
    size_t first = lp_size_min(row / 8 * 8, p->n_rows - STRIP_ROWS), skip = row - first, height = STRIP_ROWS;
    if (p->kind == LP_PACKED_GPTQ) height = lp_size_min((skip + n_rows + LANES - 1) / LANES * LANES, STRIP_ROWS);
    rectangle at = {p, first, height, 0, p->n_cols};
    (p->kind == LP_PACKED_AWQ ? dot_awq
     : scattered              ? dot_gptq_scattered
     : p->bits == 4           ? dot_gptq_4
                              : dot_gptq_8)(sums, &at, x);
    n_rows = lp_size_min(n_rows, height - skip);
    memcpy(out, sums + skip, n_rows * sizeof *out);
    return n_rows;
}

static size_t dot_rows(float *out, const float *x, const lp_packed *p, size_t row, size_t n_rows) {
    static lane_function *const functions[LP_N_PACKED] = {
        [LP_PACKED_Q8_0] = dot_q8_0, [LP_PACKED_Q4_0] = dot_q4_0, [LP_PACKED_Q4_1] = dot_q4_1,
        [LP_PACKED_Q5_0] = dot_q5_0, [LP_PACKED_Q5_1] = dot_q5_1, [LP_PACKED_IQ4_NL] = dot_iq4_nl,
        [LP_PACKED_Q2_K] = dot_q2_k, [LP_PACKED_Q3_K] = dot_q3_k, [LP_PACKED_Q4_K] = dot_q4_k,
        [LP_PACKED_Q5_K] = dot_q5_k, [LP_PACKED_Q6_K] = dot_q6_k, [LP_PACKED_IQ4_XS] = dot_iq4_xs,
        [LP_PACKED_FP8] = dot_fp8,   [LP_PACKED_INT8] = dot_int8, [LP_PACKED_INT] = dot_int_4};
    lane_function *dot = p->kind == LP_PACKED_INT && p->bits == 8 ? dot_int_8 : functions[p->kind];
    float sums[LANES];
    if (!dot || p->group_of || p->n_rows < LANES) return 0;
    size_t first = lp_size_min(row, p->n_rows - LANES), skip = row - first, stored = lp_packed_row(p, first);
    /* the rows of half a head are evenly spaced, those of both halves are not */
    if (p->turned && first % (p->turned / 2) + LANES > p->turned / 2) return 0;
    size_t bytes = lp_packed_row_bytes(p), between = lp_packed_row(p, first + 1) - stored;
    lane_rows l = {.at = {p, first, LANES, 0, p->n_cols}, .rows = p->codes + stored * bytes, .pitch = between * bytes};
    l.soon = l.rows + (stored + (between + 1) * LANES <= p->n_rows ? LANES * l.pitch : 0);
    l.step = LANES * bytes * 16 / p->n_cols, l.x = x;
    dot(&l);
    W(store)(sums, l.nan);
    for (size_t r = 0; r < LANES; r++) l.failed |= (lp_f32_bits(sums[r]) & 0x80808080) != 0;
    W(store)(sums, l.total);
    n_rows = lp_size_min(n_rows, LANES - skip);
    memcpy(out, sums + skip, n_rows * sizeof *out);
    return l.failed ? 0 : n_rows;
}

/* out [n] = x [k] times rows row .. row + n of w. Returns n <= n_rows; 0: lanes cannot compute these rows. */
static size_t dot_lanes(float *out, const float *x, const lp_weight *w, size_t row, size_t n_rows) {
    const lp_packed *p = w->packed;
    int transposed = lp_packed_is_transposed(p->kind), block = lp_packed_is_block(p->kind);
    if (p->as_bf16 || p->n_cols % LANE_BLOCK || (!block && p->scale_cols % LANE_BLOCK)) return 0;
    return (transposed ? dot_strip : dot_rows)(out, x, p, w->first_row + row, n_rows);
}

#endif
