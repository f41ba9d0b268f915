/* gram.c - multiplies strips of columns with lp_linear, and adds the products to the sums. */
#include "gram.h"

#include <stdlib.h>
#include <string.h>

#include "../base/size.h"  /* lp_size_min */
#include "../ops/linear.h" /* lp_linear */

#define STRIP 128         /* columns per product */
#define TILE 16           /* columns that one job transposes */
#define ROWS_A_JOB 8      /* rows of a product that one job adds to the sums */
#define FAST_EXPONENT 167 /* values below 2^40 */

int lp_gram_init(lp_gram *g, size_t d) {
    size_t n, n_bytes;
    *g = (lp_gram){.d = d};
    if (lp_size_mul(&n, d, d + 1) || lp_size_mul(&n_bytes, n / 2, sizeof *g->sums)) return -1;
    if (!lp_memory_fits(n_bytes, NULL)) return -1; /* calloc would overcommit */
    g->sums = calloc(n / 2, sizeof *g->sums);
    return g->sums ? 0 : -1;
}

void lp_gram_free(lp_gram *g) {
    free(g->sums);
    free(g->wide);
    *g = (lp_gram){0};
}

void lp_gram_work_free(lp_gram_work *w) {
    lp_block_free(&w->columns);
    lp_block_free(&w->product);
    lp_block_free(&w->packed);
    lp_block_free(&w->scratch);
    for (size_t i = 0; i < w->n_spills; i++) free(w->spill[i].list);
    free(w->spill);
    *w = (lp_gram_work){0};
}

static int reserve(lp_block *block, size_t n_floats) {
    size_t n_bytes;
    if (lp_size_mul(&n_bytes, n_floats ? n_floats : 1, sizeof(float))) return -1;
    if (block->n_bytes >= n_bytes) return 0;
    lp_block_free(block);
    return lp_block_reserve(block, n_bytes);
}

/* ---- values that do not fit 128 bits ------------------------------------------------------------------------ */

static lp_wide *find_slot(lp_wide *wide, size_t n_slots, uint64_t at) {
    size_t i = (size_t)(at * 0x9E3779B97F4A7C15u >> 20) & (n_slots - 1);
    while (wide[i].at && wide[i].at != at) i = (i + 1) & (n_slots - 1);
    return &wide[i];
}

static int grow_table(lp_gram *g) {
    size_t n = g->n_slots ? 2 * g->n_slots : 64;
    lp_wide *wide = calloc(n, sizeof *wide);
    if (!wide) return -1;
    for (size_t i = 0; i < g->n_slots; i++)
        if (g->wide[i].at) *find_slot(wide, n, g->wide[i].at) = g->wide[i];
    free(g->wide);
    g->wide = wide, g->n_slots = n;
    return 0;
}

static int add_wide(lp_gram *g, const lp_spilled *s) {
    if (2 * (g->n_wide + 1) > g->n_slots && grow_table(g)) return -1;
    lp_wide *to = find_slot(g->wide, g->n_slots, s->entry + 1);
    g->n_wide += !to->at;
    to->at = s->entry + 1;
    lp_limbs_add(to->limbs, LP_WIDE_LIMBS, s->value, s->shift, s->negative);
    return 0;
}

static void spill(lp_spill *s, uint64_t entry, lp_u128 value, uint32_t shift, int negative) {
    if (s->n == s->capacity) {
        size_t capacity = 2 * s->capacity + 64;
        lp_spilled *list = realloc(s->list, capacity * sizeof *list);
        if (!list) {
            s->failed = 1;
            return;
        }
        s->list = list, s->capacity = capacity;
    }
    s->list[s->n++] = (lp_spilled){.entry = entry, .value = value, .shift = shift, .negative = negative};
}

/* ---- a block ------------------------------------------------------------------------------------------------- */

typedef struct {
    lp_gram *g;
    lp_gram_work *w;
    const float *x;
    const uint8_t *kept;
    size_t k, j0, m, n; /* tokens; of the strip: first column, rows, columns */
} block;

static void transpose_job(void *arg, size_t i, size_t worker) {
    const block *b = arg;
    size_t d = b->g->d, first = i * TILE, end = lp_size_min(first + TILE, d);
    float *columns = b->w->columns.data;
    (void)worker;
    for (size_t t = 0; t < b->k; t++)
        for (size_t c = first; c < end; c++) columns[c * b->k + t] = b->kept[t] ? b->x[t * d + c] : 0;
}

static void add_entry(lp_i128 *sum, uint64_t entry, uint32_t bits, lp_spill *s) {
    uint32_t exponent = bits >> 23 & 255, e = exponent ? exponent - 1 : 0;
    uint64_t m = (bits & 0x7fffff) | (uint64_t)(exponent != 0) << 23;
    int negative = bits >> 31;
    if (exponent == 255) {
        s->n_overflows++;
        return;
    }
    size_t below = e < LP_GRAM_UNIT ? LP_GRAM_UNIT - e : 0;
    if (exponent >= FAST_EXPONENT || (below && (below > 24 ? m : m & (((uint64_t)1 << below) - 1)))) {
        spill(s, entry, m, e, negative);
        return;
    }
    lp_i128 value = below ? (lp_i128)(below > 24 ? 0 : m >> below) : (lp_i128)m << (e - LP_GRAM_UNIT);
    if (!__builtin_add_overflow(*sum, negative ? -value : value, sum)) return;
    /* undo the wrapped addition, and spill the old sum */
    lp_u128 old = (lp_u128)*sum - (negative ? -(lp_u128)value : (lp_u128)value);
    int was_negative = (int)(old >> 127);
    spill(s, entry, was_negative ? -old : old, LP_GRAM_UNIT, was_negative);
    *sum = negative ? -value : value;
}

/* Adds rows of the strip's product; its row r is row j0 + r of X^T X. */
static void add_job(void *arg, size_t i, size_t worker) {
    const block *b = arg;
    const uint32_t *y = b->w->product.data;
    for (size_t r = i * ROWS_A_JOB; r < lp_size_min((i + 1) * ROWS_A_JOB, b->m); r++) {
        size_t row = b->j0 + r, at = row * (row + 1) / 2 + b->j0;
        for (size_t j = 0; j < lp_size_min(b->n, r + 1); j++)
            add_entry(&b->g->sums[at + j], at + j, y[r * b->n + j], &b->w->spill[worker]);
    }
}

static int add_strip(block *b, const lp_ops *ops, const lp_parallel *quiet) {
    float *columns = b->w->columns.data;
    lp_weight w = {.data = columns + b->j0 * b->k, .element = LP_ELEMENT_F32, .n_rows = b->n, .n_cols = b->k};
    lp_product p = {.m = b->m, .k = b->k, .x = columns + b->j0 * b->k, .n_factors = 1};
    lp_ops own = {.kernels = ops->kernels, .parallel = ops->parallel};
    size_t n;
    own.scratch_stride = (ops->kernels->band_scratch(b->m) + 15) / 16 * 16;
    if (lp_size_mul(&n, own.scratch_stride, ops->parallel.n_threads) || reserve(&b->w->scratch, n) ||
        reserve(&b->w->packed, ops->kernels->packed_size(b->m, b->k)) || lp_size_mul(&n, b->m, b->n) ||
        reserve(&b->w->product, n))
        return 1;
    own.scratch = b->w->scratch.data, own.packed = b->w->packed.data;
    p.factor[0] = (lp_factor){.w = &w, .y = b->w->product.data};
    if (lp_linear(&own, &p)) return -1;
    return lp_pool_run(quiet, (b->m + ROWS_A_JOB - 1) / ROWS_A_JOB, add_job, b);
}

static int drain(lp_gram *g, lp_gram_work *w) {
    int failed = 0;
    for (size_t i = 0; i < w->n_spills; i++) {
        lp_spill *s = &w->spill[i];
        for (size_t j = 0; j < s->n; j++) failed |= add_wide(g, &s->list[j]);
        failed |= s->failed;
        g->n_overflows += s->n_overflows;
        s->n = 0, s->n_overflows = 0;
    }
    return failed ? 1 : 0;
}

int lp_gram_add(lp_gram *g, lp_gram_work *w, const lp_ops *ops, const float *x, const uint8_t *kept, size_t n_tokens) {
    lp_parallel quiet = {.n_threads = ops->parallel.n_threads};
    block b = {.g = g, .w = w, .x = x, .kept = kept};
    size_t n, n_rows = 0;
    for (size_t t = 0; t < n_tokens; t++)
        if (kept[t]) n_rows++, b.k = t + 1; /* later tokens would add +0 */
    if (!b.k) return 0;
    if (w->n_spills < quiet.n_threads) {
        lp_spill *more = realloc(w->spill, quiet.n_threads * sizeof *more);
        if (!more) return 1;
        memset(more + w->n_spills, 0, (quiet.n_threads - w->n_spills) * sizeof *more);
        w->spill = more, w->n_spills = quiet.n_threads;
    }
    if (lp_size_mul(&n, g->d, b.k) || reserve(&w->columns, n)) return 1;
    lp_pool_run(&quiet, (g->d + TILE - 1) / TILE, transpose_job, &b);
    for (b.j0 = 0; b.j0 < g->d; b.j0 += STRIP) {
        b.m = g->d - b.j0, b.n = lp_size_min(STRIP, b.m);
        int stopped = add_strip(&b, ops, &quiet);
        if (stopped) return stopped;
    }
    g->n_rows += (int64_t)n_rows;
    return drain(g, w);
}
