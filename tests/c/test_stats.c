/* test_stats.c - statistics against slow ones: sums of powers one value at a time, counted buckets, a full sort, Grams
 * by fmaf; the state is the same for any order, number of threads and cut into runs. */
#define _GNU_SOURCE
#include "check.h"

#include <math.h>
#include <stdlib.h>

#include "../../csrc/base/fpenv.h"
#include "../../csrc/stats/stats.h"
#include "variants.h"

static uint64_t seed = 88172645463325252u;
static uint32_t random_bits(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}
static float of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* ---- wide integers ------------------------------------------------------------------------------------------- */

/* The same, bit by bit. */
static void add_slowly(uint64_t *limbs, size_t n, lp_u128 value, size_t shift, int negative) {
    for (size_t bit = 0; bit < 128; bit++) {
        if (!(value >> bit & 1)) continue;
        size_t at = (shift + bit) / 64;
        uint64_t one = (uint64_t)1 << (shift + bit) % 64;
        while (at < n) {
            uint64_t old = limbs[at];
            limbs[at] += negative ? 0 - one : one;
            if (negative ? limbs[at] < old : limbs[at] > old) break;
            at++, one = 1;
        }
    }
}

static void check_limbs(void) {
    int same = 1;
    for (int round = 0; round < 2000; round++) {
        size_t n = 3 + random_bits() % 17;
        uint64_t a[20] = {0}, b[20] = {0};
        for (int i = 0; i < 20; i++) {
            lp_u128 value = (lp_u128)random_bits() << random_bits() % 97 | random_bits() % 3;
            size_t shift = random_bits() % (64 * (n - 2));
            int negative = random_bits() & 1;
            lp_limbs_add(a, n, value, shift, negative);
            add_slowly(b, n, value, shift, negative);
        }
        same &= !memcmp(a, b, sizeof a);
    }
    CHECK(same);
}

/* ---- tallies ------------------------------------------------------------------------------------------------- */

static uint32_t any_float(int kind) {
    uint32_t bits = random_bits();
    if (kind == 0) return (bits & 0x7f800000) == 0x7f800000 ? bits & 0x807fffff : bits; /* all of them, no specials */
    if (kind == 1) return bits & 0x807fffff;                                            /* denormals */
    if (kind == 2) return (bits & 0x80ffffff) | 0x7e000000;                             /* the largest */
    if (kind == 3) return bits & 0x80000000;                                            /* zeros */
    return (bits & 0x81ffffff) | 0x3e000000;                                            /* a few binades */
}

static void sum_slowly(uint64_t *sums, uint32_t x) {
    static const size_t powers[LP_N_SUMS] = {1, 1, 2, 3, 4};
    size_t e = x >> 23 & 255;
    uint64_t m = (x & 0x7fffff) | (uint64_t)(e != 0) << 23;
    for (size_t i = 0; i < LP_N_SUMS; sums += lp_sum_limbs[i++]) {
        lp_u128 power = 1;
        for (size_t p = 0; p < powers[i]; p++) power *= m;
        lp_limbs_add(sums, lp_sum_limbs[i], power, powers[i] * (e ? e - 1 : 0), x >> 31 && (i == 1 || i == 3));
    }
}

static void check_tally(int kind, size_t n) {
    lp_tally *t = calloc(1, sizeof *t), *zeros = calloc(1, sizeof *zeros);
    uint64_t sums[LP_SUM_LIMBS] = {0}, expected[LP_SUM_LIMBS] = {0}, counts[LP_N_PAGES * LP_PAGE] = {0};
    uint64_t reversed[LP_SUM_LIMBS] = {0}, total = 0;
    uint32_t *x = calloc(n, sizeof *x);
    lp_histogram h = {0}, none = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] = any_float(kind);
        sum_slowly(expected, x[i]);
        counts[x[i] >> 19]++;
    }
    for (size_t at = 0, step; at < n; at += step) {
        step = 1 + random_bits() % LP_TALLY_VALUES;
        if (step > n - at) step = n - at;
        lp_tally_add(t, x + at, step, 1, 1);
        CHECK(!lp_tally_flush(t, sums, &h));
    }
    for (size_t i = n; i--;) {
        lp_tally_add(t, x + i, 1, 1, 0);
        if (i % 7 == 0) CHECK(!lp_tally_flush(t, reversed, NULL));
    }
    CHECK(!memcmp(sums, expected, sizeof sums) && !memcmp(reversed, expected, sizeof sums));
    lp_tally_add(t, x, n < LP_TALLY_VALUES ? n : LP_TALLY_VALUES, 0, 1);
    CHECK(!lp_tally_flush(t, NULL, &none) && !memcmp(t, zeros, sizeof *t));
    int same = 1;
    for (size_t i = 0; i < h.n; i++) {
        same &= !i || h.pages[i - 1].id < h.pages[i].id;
        for (size_t j = 0; j < LP_PAGE; j++)
            same &= h.pages[i].count[j] == counts[h.pages[i].id * LP_PAGE + j], total += h.pages[i].count[j];
    }
    CHECK(same && total == n);
    free(h.pages), free(none.pages), free(x), free(t), free(zeros);
}

/* ---- the largest --------------------------------------------------------------------------------------------- */

static void check_top(size_t n, size_t k) {
    lp_top_entry *heap = calloc(k, sizeof *heap), *all = calloc(n, sizeof *all);
    size_t held = 0;
    for (size_t i = 0; i < n; i++) {
        all[i] = (lp_top_entry){lp_float_key(any_float(4) & 0xfff00000), (int32_t)(random_bits() % 3),
                                (int64_t)(random_bits() % 3), (int64_t)i};
        lp_top_put(heap, &held, k, &all[i]);
    }
    lp_top_sort(all, n), lp_top_sort(heap, held);
    CHECK(held == (n < k ? n : k) && !memcmp(heap, all, held * sizeof *heap));
    int sorted = 1;
    for (size_t i = 1; i < n; i++)
        sorted &=
            all[i - 1].key > all[i].key || (all[i - 1].key == all[i].key && all[i - 1].document <= all[i].document);
    CHECK(sorted);
    free(heap), free(all);
}

static void check_keys(void) {
    const float rising[] = {-INFINITY, -3e38f, -1, -1e-45f, -0.0f, 0.0f, 1e-45f, 1, 3e38f, INFINITY};
    for (size_t i = 0; i < sizeof rising / sizeof *rising; i++) {
        int32_t key = lp_float_key(bits_of(rising[i]));
        CHECK(lp_float_of_key(key) == bits_of(rising[i]));
        CHECK(!i || lp_float_key(bits_of(rising[i - 1])) < key);
    }
}

/* ---- Grams --------------------------------------------------------------------------------------------------- */

/* An entry of the Gram in units of 2^-149. */
static void entry_of(const lp_gram *g, size_t entry, uint64_t *limbs) {
    lp_i128 sum = g->sums[entry];
    memset(limbs, 0, LP_WIDE_LIMBS * sizeof *limbs);
    lp_limbs_add(limbs, LP_WIDE_LIMBS, sum < 0 ? -(lp_u128)sum : (lp_u128)sum, LP_GRAM_UNIT, sum < 0);
    for (size_t i = 0; i < g->n_slots; i++) {
        if (g->wide[i].at != entry + 1) continue;
        unsigned carry = 0;
        for (size_t j = 0; j < LP_WIDE_LIMBS; j++) {
            lp_u128 both = (lp_u128)limbs[j] + g->wide[i].limbs[j] + carry;
            limbs[j] = (uint64_t)both, carry = (unsigned)(both >> 64);
        }
    }
}

/* Blocks of x [n, d] by fmaf: entry (i, j) of each, added slowly. */
static void gram_slowly(const float *x, const uint8_t *kept, size_t n, size_t d, size_t i, size_t j, uint64_t *limbs) {
    float y = 0;
    for (size_t first = 0; first < n; first += LP_K_BLOCK) {
        float sum = 0;
        for (size_t t = first; t < n && t < first + LP_K_BLOCK; t++)
            if (kept[t]) sum = fmaf(x[t * d + i], x[t * d + j], sum);
        y = first ? y + sum : sum;
    }
    uint32_t bits = bits_of(y), e = bits >> 23 & 255;
    lp_limbs_add(limbs, LP_WIDE_LIMBS, (bits & 0x7fffff) | (lp_u128)(e != 0) << 23, e ? e - 1 : 0, bits >> 31);
}

static const lp_kernels *the_variant;

static void check_gram(size_t d, float scale, size_t n_threads, int n_blocks) {
    lp_ops ops = {.kernels = the_variant, .parallel = {.n_threads = n_threads}};
    lp_gram g;
    lp_gram_work work = {0};
    size_t n_pairs = d * (d + 1) / 2, n_rows = 0;
    uint64_t (*expected)[LP_WIDE_LIMBS] = calloc(n_pairs, sizeof *expected);
    float *x = calloc(LP_GRAM_TOKENS * d, sizeof *x);
    CHECK(!lp_gram_init(&g, d));
    for (int block = 0; block < n_blocks; block++) {
        uint8_t kept[LP_GRAM_TOKENS];
        size_t n = 1 + random_bits() % LP_GRAM_TOKENS;
        for (size_t t = 0; t < n; t++) n_rows += kept[t] = random_bits() % 8 > 0;
        for (size_t i = 0; i < n * d; i++) x[i] = (float)((int)random_bits() >> 8) * scale * (i % d ? 1 : 0x1p-60f);
        CHECK(!lp_gram_add(&g, &work, &ops, x, kept, n));
        for (size_t i = 0; i < d; i++)
            for (size_t j = 0; j <= i; j++) gram_slowly(x, kept, n, d, i, j, expected[i * (i + 1) / 2 + j]);
    }
    int same = 1;
    for (size_t i = 0; i < n_pairs; i++) {
        uint64_t found[LP_WIDE_LIMBS];
        entry_of(&g, i, found);
        same &= !memcmp(found, expected[i], sizeof found);
    }
    CHECK(same && g.n_rows == (int64_t)n_rows && !g.n_overflows);
    free(x), free(expected);
    lp_gram_free(&g), lp_gram_work_free(&work);
}

/* Sums beyond 128 bits, and a block with infinities. */
static void check_gram_overflow(void) {
    lp_ops ops = {.kernels = the_variant, .parallel = {.n_threads = 1}};
    lp_gram g;
    lp_gram_work work = {0};
    uint8_t kept[1] = {1};
    float x[2] = {0x1p19f, 0x1.8p19f}; /* squares of 2^38 and 2.25 times that: 2^51 after thousands of blocks */
    uint64_t found[LP_WIDE_LIMBS], expected[LP_WIDE_LIMBS] = {0};
    CHECK(!lp_gram_init(&g, 2));
    for (int i = 0; i < 20000; i++) {
        lp_gram_add(&g, &work, &ops, x, kept, 1);
        lp_limbs_add(expected, LP_WIDE_LIMBS, (lp_u128)9 << 36, 149, 0);
    }
    entry_of(&g, 2, found);
    CHECK(g.n_wide > 0 && !memcmp(found, expected, sizeof found));
    x[0] = 1e30f;
    lp_gram_add(&g, &work, &ops, x, kept, 1);
    CHECK(g.n_overflows == 1);
    lp_gram_free(&g), lp_gram_work_free(&work);
}

/* ---- a run --------------------------------------------------------------------------------------------------- */

enum { MOST_TOKENS = 700, CHANNELS = 37, N_SEQS = 5, TOP = 9 };
static const size_t starts[N_SEQS + 1] = {0, 300, 301, 320, 600, MOST_TOKENS};

static lp_stats *new_stats(const lp_stats_spec *spec) {
    lp_stats *s;
    lp_error err;
    lp_stats_target target = {LP_X, 0, CHANNELS, 0};
    CHECK(!lp_stats_new(&s, spec, &target, 1, 2, &err));
    return s;
}

static lp_model *model_of(size_t d) {
    lp_model *m = calloc(1, sizeof *m); /* as much of one as is looked at */
    m->config.n_layers = 1, m->config.d_model = d;
    lp_points_add(&m->present, LP_X);
    return m;
}

/* Sequences first .. end through `see`. */
static void see(lp_stats *s, const lp_model *m, const float *x, const int32_t *group, size_t first, size_t end,
                size_t n_threads) {
    static const int64_t documents[N_SEQS] = {7, 3, 3, 0, 9}, window[N_SEQS] = {0, 5, 6, 0, 0};
    size_t own[N_SEQS + 1], base = starts[first];
    lp_error err = {0};
    for (size_t i = first; i <= end; i++) own[i - first] = starts[i] - base;
    lp_stats_batch batch = {end - first, starts[end] - base, own, group + base, documents + first, window + first};
    lp_ops ops = {.kernels = the_variant, .parallel = {.n_threads = n_threads}};
    CHECK(!lp_stats_begin(s, m, &batch, &err));
    CHECK(!lp_stats_see(s, &ops, LP_X, 0, x + base * CHANNELS) && lp_stats_fault_of(s) == LP_STATS_STOPPED);
    lp_error again;
    CHECK(lp_stats_begin(s, m, &batch, &again) && strstr(again.msg, "stopped in the middle"));
    lp_stats_end(s);
    CHECK(lp_stats_fault_of(s) == LP_STATS_WHOLE);
}

static int same_state(const lp_stats_spec *q, lp_stats_state *a, lp_stats_state *b) {
    size_t n = CHANNELS;
    int same = !memcmp(a->counts, b->counts, n * LP_N_COUNTS * 8) && !memcmp(a->range, b->range, n * 8) &&
               !memcmp(a->sums, b->sums, n * LP_SUM_LIMBS * 8) && !memcmp(a->fires, b->fires, n * q->n_thetas * 8) &&
               !memcmp(a->top_n, b->top_n, n * sizeof(size_t));
    for (size_t c = 0; c < n && same; c++) {
        const lp_histogram *g = &a->histograms[c], *h = &b->histograms[c];
        lp_top_sort(a->top + c * TOP, a->top_n[c]), lp_top_sort(b->top + c * TOP, b->top_n[c]);
        same = g->n == h->n && !memcmp(g->pages, h->pages, g->n * sizeof *g->pages) &&
               !memcmp(a->top + c * TOP, b->top + c * TOP, a->top_n[c] * sizeof *a->top);
    }
    for (size_t e = 0; e < n * (n + 1) / 2 && same; e++) {
        uint64_t x[LP_WIDE_LIMBS], y[LP_WIDE_LIMBS];
        entry_of(&a->gram, e, x), entry_of(&b->gram, e, y);
        same = !memcmp(x, y, sizeof x);
    }
    return same && a->gram.n_rows == b->gram.n_rows && a->gram.n_left_out == b->gram.n_left_out;
}

static void check_counts(const lp_stats_state *s, const float *x, const int32_t *group, int32_t which) {
    int same = 1;
    for (size_t c = 0; c < CHANNELS; c++) {
        int64_t n[LP_N_COUNTS] = {0}, fires = 0;
        for (size_t t = 0; t < MOST_TOKENS; t++) {
            float v = x[t * CHANNELS + c];
            if (group[t] != which) continue;
            n[isnan(v) ? LP_COUNT_NAN : isinf(v) ? LP_COUNT_INF : LP_COUNT_FINITE]++;
            n[LP_COUNT_ZERO] += v == 0;
            fires += isfinite(v) && v > 0;
        }
        same &= !memcmp(n, s->counts + c * LP_N_COUNTS, sizeof n) && s->fires[2 * c] == fires;
    }
    CHECK(same);
}

static void check_run(void) {
    static const float thetas[2] = {0, 1.5f};
    static const size_t orders[][N_SEQS] = {{0, 1, 2, 3, 4}, {4, 2, 0, 3, 1}, {3, 4, 1, 0, 2}};
    lp_stats_spec spec = {.moments = 1, .histogram = 1, .gram = 1, .n_top = TOP, .n_thetas = 2, .thetas = thetas};
    float *x = calloc(MOST_TOKENS * CHANNELS, sizeof *x);
    int32_t group[MOST_TOKENS];
    lp_model *m = model_of(CHANNELS);
    for (size_t i = 0; i < MOST_TOKENS * CHANNELS; i++) x[i] = of_bits(any_float(4) & 0xffff0000);
    for (size_t i = 0; i < 40; i++) x[random_bits() % (MOST_TOKENS * CHANNELS)] = of_bits(any_float(3));
    for (size_t t = 0; t < MOST_TOKENS; t++) group[t] = (int32_t)(random_bits() % 6) / 3 * 2 - 1 + (t % 2 ? 1 : 0);
    for (size_t t = 0; t < MOST_TOKENS; t++) group[t] = group[t] > 1 ? 1 : group[t];
    x[5 * CHANNELS + 3] = NAN, x[5 * CHANNELS + 4] = -INFINITY, x[400 * CHANNELS] = INFINITY;
    lp_stats *whole = new_stats(&spec);
    see(whole, m, x, group, 0, N_SEQS, 1);
    for (int32_t g = 0; g < 2; g++) check_counts(lp_stats_state_of(whole, 0, (size_t)g), x, group, g);
    for (size_t i = 0; i < 3; i++) {
        lp_stats *parts = new_stats(&spec);
        for (size_t j = 0; j < N_SEQS; j++) see(parts, m, x, group, orders[i][j], orders[i][j] + 1, 1 + i * 2);
        for (size_t g = 0; g < 2; g++)
            CHECK(same_state(&spec, lp_stats_state_of(whole, 0, g), lp_stats_state_of(parts, 0, g)));
        lp_stats_free(parts);
    }
    lp_stats_free(whole);
    free(m), free(x);
}

static int stop(void *arg) {
    int *left = arg;
    return !(*left)--;
}

/* A poll that stops the run at its n-th call, in the middle of a value: the statistics never come back. */
static void check_stop(void) {
    lp_stats_spec spec = {.moments = 1, .gram = 1};
    static float x[MOST_TOKENS * CHANNELS];
    static int32_t group[MOST_TOKENS];
    lp_model *m = model_of(CHANNELS);
    int left = 0;
    for (int n = 0, done = 0; !done && n < 100; n++) {
        lp_stats *s = new_stats(&spec);
        lp_error err = {0};
        left = n;
        lp_stats_batch batch = {
            N_SEQS, MOST_TOKENS, starts, group, (const int64_t[N_SEQS]){0}, (const int64_t[N_SEQS]){0}};
        lp_ops ops = {.kernels = the_variant, .parallel = {1, stop, &left}};
        CHECK(!lp_stats_begin(s, m, &batch, &err));
        done = !lp_stats_see(s, &ops, LP_X, 0, x);
        CHECK(done || (lp_stats_fault_of(s) == LP_STATS_STOPPED && lp_stats_begin(s, m, &batch, &err)));
        CHECK(done || n < 99);
        lp_stats_free(s);
    }
    free(m);
}

static void check_refusals(void) {
    lp_stats_spec spec = {.n_top = 1}, digits = {.n_prefixes = 1, .high = 8, .n_bits = 9};
    lp_stats_target map = {LP_PATTERN, 0, 12, 3}, x = {LP_X, 0, CHANNELS + 1, 0};
    lp_stats *s;
    lp_error err;
    CHECK(lp_stats_new(&s, &spec, &map, 1, 1, &err) && err.status == LP_EARG);
    CHECK(lp_stats_new(&s, &digits, &x, 1, 1, &err) && err.status == LP_EARG);
    CHECK(!lp_stats_new(&s, &spec, &x, 1, 1, &err));
    lp_model *m = model_of(CHANNELS);
    int32_t group[1] = {1};
    lp_stats_batch batch = {1, 1, (const size_t[]){0, 1}, group, (const int64_t[]){0}, (const int64_t[]){0}};
    CHECK(lp_stats_begin(s, m, &batch, &err) && strstr(err.msg, "38 channels, the model has 37"));
    m->config.d_model++;
    CHECK(lp_stats_begin(s, m, &batch, &err) && strstr(err.msg, "token 0 is of group 1; there are 1 groups"));
    lp_stats_free(s), lp_stats_free(NULL);
    free(m);
}

static void check_variant(const lp_kernels *variant) {
    the_variant = variant;
    check_gram(1, 0x1p-20f, 1, 3), check_gram(37, 0x1p-20f, 2, 4), check_gram(150, 0x1p-24f, 3, 2);
    check_gram(20, 0x1p-80f, 2, 3), check_gram(20, 0x1p30f, 1, 3);
    check_run();
}

int main(int argc, char **argv) {
    lp_fpenv fpenv = lp_fpenv_set();
    check_limbs();
    for (int kind = 0; kind < 5; kind++) check_tally(kind, 1), check_tally(kind, 2048), check_tally(kind, 5001);
    check_keys();
    check_top(0, 3), check_top(2, 3), check_top(500, 1), check_top(500, 17), check_top(500, 500);
    for_each_variant(argc, argv, check_variant);
    check_gram_overflow();
    check_stop();
    check_refusals();
    lp_fpenv_restore(fpenv);
    return CHECK_REPORT();
}
