/* test_dequant.c - every kind of packed weight, in every variant of this CPU, against the scalar definition, bit for
 * bit: random bytes at any alignment, scales that are not finite, rectangles across every edge. */
#define _GNU_SOURCE /* setenv */
#include "check.h"

#include "../../csrc/base/size.h"
#include "../../csrc/kernels/dequant/scalar.h"
#include "canonical.h"
#include "packed_weight.h"
#include "variants.h"

enum { ROWS = 50, COLUMNS = 900, GUARD = 3 };

/* Dequantises one rectangle; the floats around it must not change. */
static void check_rectangle(const lp_kernels *k, const lp_weight *w, size_t row, size_t n_rows, size_t column,
                            size_t n) {
    static float out[(ROWS + 2) * (COLUMNS + 256 + 2 * GUARD)], want[COLUMNS + 256 + 2 * GUARD];
    size_t stride = n + 2 * GUARD, offset = GUARD + random_bits() % 16;
    memset(out, 0xa5, sizeof out);
    k->dequantise(out + offset, stride, w, row, n_rows, column, n);
    int same = 1;
    for (size_t r = 0; r < n_rows; r++) {
        memset(want, 0xa5, sizeof want);
        for (size_t i = 0; i < n; i++) want[i] = packed_value(w->packed, w->first_row + row + r, column + i);
        same = same && same_floats(out + offset + r * stride, want, stride);
    }
    CHECK(same);
    if (!same)
        fprintf(stderr, "  %s %s bits=%u [%zu, %zu] rows %zu + %zu, columns %zu + %zu\n", k->name,
                lp_packed_kind_name(w->packed->kind), w->packed->bits, w->packed->n_rows, w->packed->n_cols, row,
                n_rows, column, n);
}

/* Rectangles as products and reads of rows call for, and arbitrary ones. */
static void check_packed(const lp_kernels *k, const lp_packed *p) {
    size_t skip = p->n_rows > 20 && random_bits() % 2 ? 8 : 0;
    lp_weight w = {.data = p->codes,
                   .element = LP_ELEMENT_PACKED,
                   .n_rows = p->n_rows - skip,
                   .n_cols = p->n_cols,
                   .first_row = skip,
                   .packed = p};
    check_rectangle(k, &w, 0, w.n_rows, 0, w.n_cols);
    for (int i = 0; i < 12; i++) {
        size_t row = random_bits() % w.n_rows, column = random_bits() % w.n_cols / 64 * 64;
        size_t n_rows = 1 + random_bits() % (w.n_rows - row), n = w.n_cols - column;
        if (i % 2) n = lp_size_min(n, 64u << random_bits() % 3);
        if (i % 3 == 2) row = row / 16 * 16, n_rows = lp_size_min(16, w.n_rows - row);
        if (i == 11) column += random_bits() % n, n = w.n_cols - column, n = 1 + random_bits() % n;
        check_rectangle(k, &w, row, n_rows, column, n);
    }
}

static void check_blocks(const lp_kernels *k) {
    for (int kind = 0; lp_packed_is_block((lp_packed_kind)kind); kind++)
        for (int i = 0; i < 6; i++) {
            held hold = {0};
            lp_packed p = {.kind = (lp_packed_kind)kind, .scale_rows = 1, .scale_cols = 1, .as_bf16 = i % 3 == 2};
            size_t columns = lp_packed_block_columns(p.kind);
            p.n_rows = i % 2 ? 48 : 1 + random_bits() % ROWS, p.turned = i % 2 ? 16 : 0;
            p.n_cols = columns == 1 ? 1 + random_bits() % COLUMNS : columns * (1 + random_bits() % (COLUMNS / columns));
            fill(&p, &hold, LP_ELEMENT_F16, 0, 0);
            check_packed(k, &p);
            free_held(&hold, &p);
        }
}

/* Rectangles that share a scale: the matrix, rows, 128 x 128, and groups of every size. */
static void check_table(const lp_kernels *k, lp_packed p, int i) {
    static const size_t groups[] = {128, 32, 64, 40, 256, COLUMNS};
    held hold = {0};
    int transposed = lp_packed_is_transposed(p.kind), indexed = p.kind == LP_PACKED_INT || p.kind == LP_PACKED_GPTQ;
    size_t per_word = p.bits ? 32 / p.bits : 1;
    p.n_rows = 1 + random_bits() % ROWS, p.n_cols = 1 + random_bits() % COLUMNS;
    if (transposed) p.n_rows = (p.n_rows + per_word - 1) / per_word * per_word;
    if (p.kind == LP_PACKED_GPTQ || i % 4 == 1) p.n_cols = (p.n_cols + 63) / 64 * 64;
    p.scale_rows = transposed || i % 3 ? 1 : lp_size_min(p.n_rows, i % 2 ? ROWS : 32);
    p.scale_cols = lp_size_min(groups[i % 6], p.n_cols), p.as_bf16 = i % 5 == 4;
    p.zero_is_less_one = p.kind == LP_PACKED_GPTQ && i % 4 > 1;
    fill(&p, &hold, (lp_element)(i % LP_ELEMENT_PACKED), p.kind != LP_PACKED_FP8 && i % 2, indexed && i % 4 == 3);
    check_packed(k, &p);
    free_held(&hold, &p);
}

static void check_tables(const lp_kernels *k) {
    for (int i = 0; i < 12; i++) {
        check_table(k, (lp_packed){.kind = LP_PACKED_FP8}, i);
        check_table(k, (lp_packed){.kind = LP_PACKED_INT8}, i);
        check_table(k, (lp_packed){.kind = LP_PACKED_AWQ, .bits = 4}, i);
        for (unsigned bits = 4; bits <= 8; bits += 4) {
            check_table(k, (lp_packed){.kind = LP_PACKED_INT, .bits = bits}, i);
            check_table(k, (lp_packed){.kind = LP_PACKED_GPTQ, .bits = bits}, i);
        }
    }
}

/* All codes of FP8 with scales at the ends of the range: products that overflow, or are denormal. */
static void check_all_of_fp8(const lp_kernels *k) {
    static const float scales[] = {1, 0x1p-149f, 0x1.8p-130f, 0x1p-126f, 3e-5f, 0x1.fffffep127f, 0, -1, INFINITY, NAN};
    unsigned char codes[512]; /* the first half without NaN, which has its own path */
    for (int i = 0; i < 512; i++) codes[i] = (unsigned char)(i < 256 && i % 128 == 127 ? 0 : i);
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        lp_packed p = {.kind = LP_PACKED_FP8,
                       .n_rows = 1,
                       .n_cols = 512,
                       .codes = codes,
                       .scale = LP_ELEMENT_F32,
                       .scales = (const unsigned char *)(scales + i),
                       .scale_rows = 1,
                       .scale_cols = 512};
        lp_weight w = {.data = codes, .element = LP_ELEMENT_PACKED, .n_rows = 1, .n_cols = 512, .packed = &p};
        check_rectangle(k, &w, 0, 1, 0, 512);
    }
}

static void check_variant(const lp_kernels *k) {
    check_blocks(k);
    check_tables(k);
    check_all_of_fp8(k);
}

int main(int argc, char **argv) {
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
