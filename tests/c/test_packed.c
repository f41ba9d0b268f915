/* test_packed.c - in every variant, products with packed weights have the bits of products with their float32 values;
 * damaged parts of a packed weight are refused. */
#define _GNU_SOURCE /* setenv */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/base/weight.h"
#include "../../csrc/kernels/dequant/scalar.h"
#include "canonical.h"
#include "packed_weight.h"
#include "variants.h"

/* ---------------------------------------------------------------- products */

static float *floats(size_t n) {
    float *x = aligned_alloc(64, (n * 4 + 127) / 64 * 64);
    for (size_t i = 0; i < n; i++) x[i] = (float)((int32_t)random_bits() * 0x1p-30);
    return x;
}

/* A packed weight and its float32 values, both without its first `skip` rows. */
typedef struct {
    lp_packed packed;
    held hold;
    float *values;
    lp_weight w[2]; /* packed, plain */
} pair;

static void fill_pair(pair *t, size_t n_rows, size_t skip, lp_element scale, int has_zeros, int has_groups) {
    size_t n_cols = t->packed.n_cols;
    fill(&t->packed, &t->hold, scale, has_zeros, has_groups);
    t->values = floats(n_rows * n_cols);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_cols; c++) t->values[r * n_cols + c] = packed_value(&t->packed, skip + r, c);
    t->w[0] = (lp_weight){.data = t->packed.codes,
                          .element = LP_ELEMENT_PACKED,
                          .n_rows = n_rows,
                          .n_cols = n_cols,
                          .first_row = skip,
                          .packed = &t->packed};
    t->w[1] = (lp_weight){.data = t->values, .element = LP_ELEMENT_F32, .n_rows = n_rows, .n_cols = n_cols};
}

static void make_pair(pair *t, lp_packed p, size_t n_rows, size_t skip, int i) {
    size_t all = n_rows + skip, n_cols = p.n_cols, rows_in_word = lp_packed_is_transposed(p.kind) ? 32 / p.bits : 1;
    *t = (pair){.packed = p};
    t->packed.n_rows = (all + rows_in_word - 1) / rows_in_word * rows_in_word;
    if (lp_packed_is_block(p.kind) && i % 3 == 0) { /* permuted rows: whole heads */
        t->packed.n_rows = (all + 15) / 16 * 16;
        t->packed.turned = 16;
    }
    t->packed.scale_rows = lp_packed_is_transposed(p.kind) || i % 3 ? 1 : 8;
    t->packed.scale_cols = i % 4 == 3 ? n_cols : lp_packed_is_block(p.kind) ? 1 : 32u << i % 3;
    if (t->packed.scale_cols > n_cols) t->packed.scale_cols = n_cols;
    t->packed.as_bf16 = i % 5 == 4;
    fill_pair(t, n_rows, skip, (lp_element)(i % 3), p.kind != LP_PACKED_FP8 && i % 2,
              (p.kind == LP_PACKED_INT || p.kind == LP_PACKED_GPTQ) && i % 4 == 2);
}

static void free_pair(pair *t) {
    free(t->values);
    free_held(&t->hold, &t->packed);
}

static void run(const lp_kernels *k, lp_product *p, size_t job) {
    for (size_t u = 0; u < k->pack_units(p); u++) k->pack(p, u);
    for (size_t f = 0; f < (p->gated ? 1 : p->n_factors); f++)
        for (size_t row = 0, end = p->factor[f].w->n_rows; row < end; row += job) {
            float *scratch = floats(k->band_scratch(p->m));
            k->bands(p, f, row, end - row < job ? end - row : job, scratch);
            free(scratch);
        }
}

/* The same product with packed and with plain weights: all results have the same bits. */
static void check_product(const lp_kernels *k, pair *t, size_t m, int gated, int i) {
    size_t n = t[0].w[0].n_rows, kk = t[0].w[0].n_cols, size = m * n;
    float *x = floats(m * kk), *add = floats(size), *bias = floats(n), *packed = floats(k->packed_size(m, kk));
    float *out[2] = {floats(6 * size), floats(6 * size)};
    memset(out[0], 0, 6 * size * sizeof(float)), memset(out[1], 0, 6 * size * sizeof(float));
    lp_weight biases = {.data = bias, .element = LP_ELEMENT_F32, .n_rows = 1, .n_cols = n};
    for (int plain = 0; plain < 2; plain++) {
        lp_product p = {.m = m, .k = kk, .x = x, .x_packed = packed, .n_factors = gated ? 2 : 1, .gated = gated};
        for (int f = 0; f <= gated; f++)
            p.factor[f] = (lp_factor){.w = &t[f].w[plain || (gated && i % 4 == f)], /* maybe one of the two is plain */
                                      .bias = i % 2 ? &biases : NULL,
                                      .y = out[plain] + (size_t)(2 * f) * size,
                                      .add = gated ? NULL : add,
                                      .sum = gated ? NULL : out[plain] + size};
        if (gated) p.act = out[plain] + 4 * size, p.hidden = out[plain] + 5 * size;
        run(k, &p, 12 * (1 + (size_t)i % 7) * (n > 128 ? 4 : 1));
    }
    int same = same_floats(out[0], out[1], 6 * size);
    CHECK(same);
    if (!same)
        fprintf(stderr, "  %s %s m=%zu n=%zu k=%zu gated=%d i=%d\n", k->name, lp_packed_kind_name(t->packed.kind), m, n,
                kk, gated, i);
    free(x), free(add), free(bias), free(packed), free(out[0]), free(out[1]);
}

static void check_kind(const lp_kernels *k, lp_packed p) {
    static const size_t ms[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 23, 32, 33, 40, 49, 64, 70};
    static const size_t ns[] = {24, 1, 12, 48, 35, 60, 100, 9}, ks[] = {256, 300, 64, 100, 512, 258, 31, 576};
    size_t columns = lp_packed_block_columns(p.kind), per_word = p.kind == LP_PACKED_GPTQ ? 32 / p.bits : 1;
    size_t unit = columns ? columns : per_word;
    for (int i = 0; i < 18; i++) {
        pair t[2];
        size_t m = ms[(size_t)(i * 5 + (int)p.kind) % 16], n = ns[(size_t)i % 8];
        p.n_cols = (ks[(size_t)i % 8] + unit - 1) / unit * unit;
        for (int f = 0; f < 2; f++) make_pair(&t[f], p, n, f + i % 2 ? (size_t)(8 * (i % 5)) : 0, i);
        check_product(k, t, m, 0, i);
        check_product(k, t, i % 3 ? m : ms[(size_t)i % 4], 1, i);
        free_pair(&t[0]), free_pair(&t[1]);
    }
}

/* One token and two, for which lanes.h is used: whole k-blocks, groups of whole k-blocks, and enough rows for heads and
 * strips; FP8 with an occasional NaN. */
static void check_lanes(const lp_kernels *k, lp_packed p) {
    static const size_t ns[] = {256, 140, 16, 300, 48, 128}, ks[] = {512, 128, 320, 1024, 64};
    size_t unit = lp_packed_block_columns(p.kind) == 256 ? 256 : 64, word = lp_packed_is_transposed(p.kind) ? 8 : 1;
    for (int i = 0; i < 15; i++) {
        pair t[2];
        size_t n = ns[i % 6], skip = (size_t)(i % 3 * 8);
        for (int f = 0; f < 2; f++) {
            t[f] = (pair){.packed = p};
            t[f].packed.n_cols = (ks[i % 5] + unit - 1) / unit * unit;
            t[f].packed.n_rows = (n + skip + word - 1) / word * word;
            if (lp_packed_is_block(p.kind) && i % 2) {
                t[f].packed.n_rows = (n + skip + 63) / 64 * 64;
                t[f].packed.turned = 64;
            }
            t[f].packed.scale_rows = word == 1 && i % 4 == 1 ? 100 : 1;
            t[f].packed.scale_cols = i % 3 ? 64u << i % 2 : t[f].packed.n_cols;
            t[f].packed.zero_is_less_one = p.kind == LP_PACKED_GPTQ && i % 2;
            fill_pair(&t[f], n, skip, (lp_element)(i % 3), p.kind != LP_PACKED_FP8 && i % 4,
                      p.kind == LP_PACKED_GPTQ && i % 4 == 1);
        }
        check_product(k, t, 1 + (size_t)i % 5 / 3, 0, i);
        if (word == 8) check_product(k, t, 5 + (size_t)i * 10, i % 4 == 3, i); /* strips of more tokens */
        check_product(k, t, 1 + (size_t)i % 2, 1, i);
        free_pair(&t[0]), free_pair(&t[1]);
    }
}

/* Few tokens, and a second matrix with fewer rows than lanes: neither uses lanes.h. */
static void check_few_rows(const lp_kernels *k, lp_packed p) {
    pair t[2];
    p.n_cols = 320;
    make_pair(&t[0], p, 200, 0, 1), make_pair(&t[1], p, 4, 8, 1);
    for (size_t m = 1; m <= 4; m++) {
        float *x = floats(m * p.n_cols), *packed = floats(k->packed_size(m, p.n_cols)), *y[2];
        for (int plain = 0; plain < 2; plain++) {
            y[plain] = floats(m * 204);
            lp_product q = {.m = m, .k = p.n_cols, .x = x, .x_packed = packed, .n_factors = 2};
            q.factor[0] = (lp_factor){.w = &t[0].w[plain], .y = y[plain]};
            q.factor[1] = (lp_factor){.w = &t[1].w[plain], .y = y[plain] + m * 200};
            run(k, &q, 144);
        }
        CHECK(same_floats(y[0], y[1], m * 204));
        free(x), free(packed), free(y[0]), free(y[1]);
    }
    free_pair(&t[0]), free_pair(&t[1]);
}

/* Scratch sizes grow with the number of tokens, so one scratch serves steps of fewer tokens. */
static void check_scratch(const lp_kernels *k) {
    for (size_t m = 1; m < 300; m++)
        CHECK(k->band_scratch(m) <= k->band_scratch(m + 1) && k->packed_size(m, 64) <= k->packed_size(m + 1, 64));
}

static void check_variant(const lp_kernels *k) {
    check_scratch(k);
    for (int kind = 0; kind < LP_N_PACKED; kind++)
        for (unsigned bits = 4; bits <= 8; bits += 4) {
            int has_bits = kind >= LP_PACKED_INT;
            if (bits == 8 && (!has_bits || kind == LP_PACKED_AWQ)) continue;
            check_kind(k, (lp_packed){.kind = (lp_packed_kind)kind, .bits = has_bits ? bits : 0});
            check_lanes(k, (lp_packed){.kind = (lp_packed_kind)kind, .bits = has_bits ? bits : 0});
            if (has_bits) check_few_rows(k, (lp_packed){.kind = (lp_packed_kind)kind, .bits = bits});
        }
}

/* ---------------------------------------------------------------- parts */

enum { GPTQ_ROWS = 16, GPTQ_COLUMNS = 32, GROUPS = 2 };

/* A valid GPTQ weight [16, 32] in two groups, which a test then changes. */
typedef struct {
    lp_packed p;
    lp_part part[LP_N_ROLES];
    uint64_t shape[LP_N_ROLES][2];
    unsigned char bytes[LP_N_ROLES][GPTQ_ROWS * GPTQ_COLUMNS];
    uint32_t group_of[GPTQ_COLUMNS];
} draft;

static void set_part(draft *d, lp_role role, const char *dtype, size_t item, uint64_t rows, uint64_t columns) {
    d->shape[role][0] = rows, d->shape[role][1] = columns;
    d->part[role] = (lp_part){.name = lp_role_name(role),
                              .name_len = strlen(lp_role_name(role)),
                              .dtype = dtype,
                              .rank = 2,
                              .shape = d->shape[role],
                              .data = d->bytes[role],
                              .n_bytes = item * rows * columns};
}

static void begin(draft *d) {
    memset(d, 0, sizeof *d);
    d->p =
        (lp_packed){.kind = LP_PACKED_GPTQ, .bits = 4, .n_rows = 16, .n_cols = 32, .scale_rows = 1, .scale_cols = 16};
    set_part(d, LP_CODES, "I32", 4, 4, 16);
    set_part(d, LP_SCALES, "F16", 2, 2, 16);
    set_part(d, LP_ZEROS, "I32", 4, 2, 2);
    set_part(d, LP_GROUP_OF, "I32", 4, 1, 32);
    d->part[LP_GROUP_OF].data = (const unsigned char *)d->group_of;
    d->part[LP_GROUP_OF].rank = 1, d->shape[LP_GROUP_OF][0] = 32;
    for (uint32_t i = 0; i < 32; i++) d->group_of[i] = i / 16;
}

static const char *const paths[LP_N_ROLES] = {"a.safetensors", "a.safetensors", "a.safetensors", "a.safetensors"};

static void check_refused(draft *d, lp_status status, const char *part_of_message) {
    lp_error err = {0};
    CHECK(lp_packed_open(&d->p, d->part, paths, &err) == -1 && err.status == status);
    CHECK(strstr(err.msg, part_of_message) != NULL);
    if (!strstr(err.msg, part_of_message)) fprintf(stderr, "  %s\n  lacks %s\n", err.msg, part_of_message);
    CHECK(!d->p.group_of);
    begin(d);
}

static void check_parts(void) {
    static draft d;
    lp_error err;
    begin(&d);
    CHECK(lp_packed_open(&d.p, d.part, paths, &err) == 0 && !d.p.group_of); /* column / scale_cols needs no table */
    CHECK(d.p.n_bytes == 4 * 16 * 4 + 2 * 16 * 2 + 2 * 2 * 4 + 32 * 4);
    CHECK(lp_packed_bytes(&d.p, 16) == d.p.n_bytes && lp_packed_bytes(&d.p, 4) == d.p.n_bytes / 4);
    begin(&d), d.group_of[0] = 1;
    CHECK(lp_packed_open(&d.p, d.part, paths, &err) == 0 && d.p.group_of && d.p.group_of[0] == 1);
    lp_packed_close(&d.p);
    begin(&d), d.p.scale_cols = 0, d.part[LP_GROUP_OF].dtype = NULL;
    set_part(&d, LP_SCALES, "F32", 4, 1, 16), set_part(&d, LP_ZEROS, "I32", 4, 1, 2);
    CHECK(lp_packed_open(&d.p, d.part, paths, &err) == 0 && d.p.scale_cols == 32 && d.p.scale == LP_ELEMENT_F32);

    begin(&d), d.group_of[31] = 2, check_refused(&d, LP_EFORMAT, "column 31 into group 2; there are 2 groups");
    d.group_of[3] = (uint32_t)-1, check_refused(&d, LP_EFORMAT, "column 3 into group -1; there are 2 groups");
    d.part[LP_CODES].dtype = "F32", check_refused(&d, LP_EFORMAT, "\"codes\" has dtype F32; the codes of gptq are I32");
    d.part[LP_SCALES].dtype = "I32", check_refused(&d, LP_EFORMAT, "BF16, F16 or F32");
    d.part[LP_ZEROS].dtype = "I8", check_refused(&d, LP_EFORMAT, "\"zeros\" has dtype I8");
    d.part[LP_GROUP_OF].dtype = "F32", check_refused(&d, LP_EFORMAT, "\"group_of\" has dtype F32");
    d.shape[LP_CODES][0] = 5, check_refused(&d, LP_EFORMAT, "a.safetensors: tensor \"codes\" has shape [5, 16]");
    d.shape[LP_SCALES][1] = 17, check_refused(&d, LP_EFORMAT, "has shape [2, 17]; the scales of a");
    d.shape[LP_ZEROS][0] = 3, check_refused(&d, LP_EFORMAT, "[3, 2]");
    d.shape[LP_GROUP_OF][0] = 31, check_refused(&d, LP_EFORMAT, "[31]");
    d.part[LP_CODES].n_bytes--,
        check_refused(&d, LP_EFORMAT, "has 255 bytes; the codes of a gptq weight [16, 32] are 256");
    d.part[LP_CODES].dtype = NULL, check_refused(&d, LP_EARG, "needs codes");
    d.part[LP_SCALES].dtype = NULL, check_refused(&d, LP_EARG, "needs scales");
    d.p.kind = LP_PACKED_Q8_0, d.p.bits = 0, check_refused(&d, LP_EARG, "q8_0 weight has no scales");
    d.p.n_rows = 12, check_refused(&d, LP_EARG, "packs 8 codes into a word");
    d.p.n_cols = 36, check_refused(&d, LP_EARG, "packs 8 codes into a word");
    d.p.bits = 3, check_refused(&d, LP_EARG, "codes of 3 bits");
    d.p.scale_rows = 2, check_refused(&d, LP_EARG, "scales for each row");
    d.p.turned = 16, check_refused(&d, LP_EARG, "turned");
    d.p.n_rows = (size_t)-1 / 2, check_refused(&d, LP_EARG, "cannot have the shape [9223372036854775807, 32]");
    d.p.n_rows = 0, check_refused(&d, LP_EARG, "cannot have the shape [0, 32]");
}

/* The ranges for readahead cover the rows and lie within the parts; zeros end in a word that is partly used. */
static void check_ranges(void) {
    for (int kind = 0; kind < LP_N_PACKED; kind++) {
        pair t;
        lp_range ranges[LP_N_ROLES];
        lp_packed p = {.kind = (lp_packed_kind)kind, .bits = kind >= LP_PACKED_INT ? 4 : 0, .n_cols = 512};
        make_pair(&t, p, 35, 16, 6 * kind + 1);
        size_t row_bytes = lp_packed_row_bytes(&t.packed), n = lp_weight_ranges(&t.w[0], 8, 2, ranges);
        CHECK(n == 1u + !!t.packed.scales + !!t.packed.zeros);
        if (kind == LP_PACKED_INT)
            CHECK(n == 3 && ranges[2].n_bytes == 4 * ((35 + 16 + 7) / 8) * lp_packed_groups(&t.packed));
        if (lp_packed_is_transposed(p.kind))
            CHECK(ranges[0].data == (const char *)t.packed.codes &&
                  ranges[0].n_bytes == row_bytes * 512 / (kind == LP_PACKED_AWQ ? 1 : 8));
        else
            CHECK(ranges[0].data == (const char *)t.packed.codes + 24 * row_bytes &&
                  ranges[0].n_bytes == 2 * row_bytes);
        CHECK(lp_weight_ranges(&t.w[1], 8, 2, ranges) == 1 && ranges[0].data == (const char *)(t.values + 8 * 512) &&
              ranges[0].n_bytes == 2 * 512 * sizeof(float));
        free_pair(&t);
    }
}

int main(int argc, char **argv) {
    check_parts();
    check_ranges();
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
