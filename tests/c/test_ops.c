/* test_ops.c - how operations are cut into jobs: every row exactly once, at any size and number of threads, also where
 * a job begins inside a batch of several sequences; and every verb against a plain twin. */
#define _GNU_SOURCE
#include "check.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../csrc/ops/attention.h"
#include "../../csrc/ops/linear.h"
#include "../../csrc/ops/rows.h"
#include "canonical.h"

static uint64_t seed = 88172645463325252u;
static float random_float(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(seed >> 32)) * 0x1p-30f;
}

static float *floats(size_t n) {
    float *x = aligned_alloc(64, (n * sizeof *x + 64) / 64 * 64);
    for (size_t i = 0; i < n; i++) x[i] = random_float();
    return x;
}

/* ---- products: kernels that only count ----------------------------------------------------------------------- */

enum { MOST_ROWS = 40000 };
static unsigned char n_done[2][MOST_ROWS];
static size_t row_unit;
static atomic_int is_wrong;

static size_t no_units(const lp_product *p) {
    (void)p;
    return 0;
}

static void count_rows(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch) {
    (void)scratch;
    if (!n_rows || row % row_unit) atomic_store(&is_wrong, 1); /* on a worker, which may not count checks */
    for (size_t i = row; i < row + n_rows; i++) n_done[p->gated ? 0 : factor][i]++;
}

/* Each row of each factor, once for every part of the tokens. */
static void check_cut(size_t n_rows, size_t more_rows, size_t n_threads, int gated, size_t m, size_t band_macs,
                      int is_packed) {
    static const lp_packed packed = {.n_rows = 1};
    lp_kernels counting = {
        .row_unit = 12, .band_rows = {48, 24}, .band_macs = band_macs, .pack_units = no_units, .bands = count_rows};
    lp_ops ops = {.kernels = &counting, .parallel = {.n_threads = n_threads}};
    lp_weight w[] = {{NULL, LP_ELEMENT_BF16, n_rows, 64, 0, NULL},
                     {NULL, LP_ELEMENT_BF16, gated ? n_rows : more_rows, 64, 0, NULL}};
    static float x[200 * 64];
    lp_product p = {.m = m, .k = 64, .x = x, .n_factors = more_rows ? 2 : 1, .gated = gated};
    for (size_t f = 0; f < p.n_factors; f++) p.factor[f].w = &w[f];
    if (is_packed) w[0].packed = &packed;
    row_unit = is_packed ? 24 : counting.row_unit; /* words of eight rows are not cut */
    memset(n_done, 0, sizeof n_done);
    CHECK(lp_linear(&ops, &p) == 0 && !is_wrong);
    int once = 1;
    for (size_t f = 0; f < (gated ? 1 : p.n_factors); f++) {
        unsigned char times = n_done[f][0]; /* 1, but where the tokens are too many for a job */
        once &= times >= 1 && (times == 1 || band_macs < m * 64 * 12 * 2);
        for (size_t i = 0; i < MOST_ROWS; i++) once &= n_done[f][i] == (i < w[f].n_rows ? times : 0);
    }
    CHECK(once);
    if (!once) fprintf(stderr, "  rows %zu and %zu, %zu threads, %zu tokens\n", n_rows, more_rows, n_threads, m);
}

static void check_cuts(void) {
    static const size_t rows[] = {1, 2, 11, 12, 13, 47, 48, 49, 95, 96, 97, 300, 1000, 1024, 4095, 8192, 30001, 40000};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t n_threads = 1; n_threads <= 64; n_threads = n_threads * 3 + 1) {
            for (int packed = 0; packed < 2; packed++) {
                check_cut(rows[i], 0, n_threads, 0, 1 + i % 3, 50000000, packed);
                check_cut(rows[i], rows[i / 2], n_threads, 0, 40, 1000000, packed);
                check_cut(rows[i], rows[i], n_threads, 1, 7, 50000000, packed);
            }
            check_cut(rows[i], 0, n_threads, 0, 200, 64 * 12 * 70, 0); /* the tokens in parts */
        }
}

/* ---- passes over rows ---------------------------------------------------------------------------------------- */

static const lp_ops *ops_of(size_t n_threads) {
    static lp_ops ops;
    static _Alignas(64) float scratch[4][1 << 16];
    ops = (lp_ops){.kernels = lp_kernels_get(NULL), .parallel = {.n_threads = n_threads}, .scratch = scratch[0]};
    ops.scratch_stride = 1 << 16;
    return &ops;
}

/* Every element once and no others: n is not a multiple of a job. */
static void check_elementwise(size_t n) {
    const lp_ops *ops = ops_of(3);
    float *a = floats(n), *b = floats(n), *out = floats(n + 1), end = out[n];
    int same = 1;
    CHECK(lp_add(ops, out, a, b, n) == 0);
    for (size_t i = 0; i < n; i++) same &= out[i] == a[i] + b[i];
    CHECK(lp_multiply(ops, out, a, b, n) == 0);
    for (size_t i = 0; i < n; i++) same &= out[i] == a[i] * b[i];
    CHECK(lp_activate(ops, LP_SILU, out, a, n) == 0);
    for (size_t i = 0; i < n; i++) same &= out[i] == canonical_silu(a[i]);
    CHECK(lp_activate(ops, LP_GELU_TANH, out, a, n) == 0);
    for (size_t i = 0; i < n; i++) same &= out[i] == canonical_gelu_tanh(a[i]);
    CHECK(lp_cap(ops, out, a, 0.5f, n) == 0);
    for (size_t i = 0; i < n; i++) same &= out[i] == canonical_cap(a[i], 0.5f);
    CHECK(lp_copy(ops, out, b, n) == 0 && !memcmp(out, b, n * sizeof *b));
    CHECK(lp_zero(ops, out, n) == 0);
    for (size_t i = 0; i < n; i++) same &= out[i] == 0;
    CHECK(same && out[n] == end);
    free(a), free(b), free(out);
}

/* ---- in place, with a poll that forks ---- */

typedef struct {
    int polls_left;
    pid_t child;
} forking;

static int fork_once(void *arg) {
    forking *f = arg;
    if (f->polls_left-- == 0) f->child = fork();
    return 0;
}

/* Parent and child both cap and divide each element once. */
static void check_fork_in_place(int n_polls) {
    enum { MANY = 5000000 };
    lp_ops ops = *ops_of(3);
    forking f = {n_polls, -1};
    float *x = floats(MANY), *y = floats(MANY);
    int status, ok = 1;
    memcpy(y, x, MANY * sizeof *x);
    ops.parallel.poll = fork_once, ops.parallel.poll_arg = &f;
    ok &= lp_cap(&ops, y, y, 0.5f, MANY) == 0 && lp_divide(&ops, y, y, 3, MANY) == 0;
    for (size_t i = 0; i < MANY; i += 101) ok &= y[i] == canonical_cap(x[i], 0.5f) / 3;
    free(x), free(y);
    if (f.child == 0) _exit(!ok);
    CHECK(ok && f.child > 0);
    CHECK(waitpid(f.child, &status, 0) == f.child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The norm and its parts, of rows in many jobs. */
static void check_norms(size_t m, size_t d, float offset) {
    const lp_ops *ops = ops_of(3);
    float *x = floats(m * d), *g = floats(d), *rms = floats(m), *inverse = floats(m), *unit = floats(m * d);
    float *out = floats(m * d), *parts = floats(m * d), *out_parts = floats(m * d), *rms_alone = floats(m);
    lp_weight gain = {g, LP_ELEMENT_F32, 1, d, 0, NULL};
    int same = 1;
    CHECK(lp_rms_norm(ops, rms, inverse, unit, out, x, &gain, offset, 1e-5, m, d) == 0);
    for (size_t t = 0; t < m; t++) {
        double lane[16] = {0};
        for (size_t i = 0; i < d; i++) lane[i % 16] += (double)x[t * d + i] * x[t * d + i];
        double root = sqrt(canonical_lanes(lane) / (double)d + 1e-5);
        same &= rms[t] == (float)root && inverse[t] == (float)(1 / root);
        for (size_t i = t * d; i < (t + 1) * d; i++)
            same &= unit[i] == x[i] * inverse[t] && out[i] == (g[i - t * d] + offset) * unit[i];
    }
    CHECK(same);
    memset(inverse, 0, m * sizeof *inverse);
    CHECK(lp_rms_norm(ops, rms_alone, inverse, NULL, NULL, x, NULL, offset, 1e-5, m, d) == 0);
    CHECK(lp_scale_rows(ops, parts, NULL, x, inverse, NULL, offset, m, d) == 0);
    CHECK(lp_scale_rows(ops, NULL, out_parts, parts, NULL, &gain, offset, m, d) == 0);
    CHECK(!memcmp(rms, rms_alone, m * sizeof *rms) && !memcmp(unit, parts, m * d * sizeof *unit));
    CHECK(!memcmp(out, out_parts, m * d * sizeof *out));
    free(x), free(g), free(rms), free(inverse), free(unit), free(out), free(parts), free(out_parts), free(rms_alone);
}

static void check_embed(size_t m, size_t d) {
    enum { N = 7 };
    float *table = floats((N + 2) * d), *out = floats(m * d);
    int32_t *ids = malloc(m * sizeof *ids);
    lp_weight w = {table, LP_ELEMENT_F32, N, d, 2, NULL};
    int same = 1;
    for (size_t t = 0; t < m; t++) ids[t] = (int32_t)(t * 5 % N);
    CHECK(lp_embed(ops_of(3), out, ids, &w, m) == 0);
    for (size_t t = 0; t < m; t++) same &= !memcmp(out + t * d, table + (size_t)(2 + ids[t]) * d, d * sizeof *out);
    CHECK(same);
    lp_weight all = {table, LP_ELEMENT_F32, 1, m * d < N * d ? m * d : N * d, 0, NULL};
    CHECK(lp_widen(ops_of(3), out, &all) == 0 && !memcmp(out, table, all.n_cols * sizeof *out));
    free(table), free(out), free(ids);
}

/* ---- batches of sequences ------------------------------------------------------------------------------------ */

enum { N_SEQS = 5, MOST_TOKENS = 200 };

/* Sequences whose first rows lie inside jobs, and jobs that begin inside sequences. */
static size_t make_sequences(lp_sequence *s, const size_t *lengths, size_t n_heads, size_t n_kv_heads) {
    size_t start = 0;
    for (size_t i = 0; i < N_SEQS; start += lengths[i++]) s[i] = (lp_sequence){.start = start, .n_tokens = lengths[i]};
    lp_number_sequences(s, N_SEQS, lp_kernels_get(NULL)->q_tile, n_heads, n_kv_heads);
    return start;
}

static void check_rope(const size_t *lengths, size_t n_heads, size_t head_dim) {
    lp_sequence s[N_SEQS];
    size_t m = make_sequences(s, lengths, n_heads, n_heads), d = n_heads * head_dim, half = head_dim / 2, longest = 0;
    for (size_t i = 0; i < N_SEQS; i++) longest = lengths[i] > longest ? lengths[i] : longest;
    float *x = floats(m * d), *out = floats(m * d), *inv_freq = floats(half);
    float *cos = floats(longest * half), *sin = floats(longest * half);
    int same = 1;
    CHECK(m * d > 3 * 32768); /* several jobs */
    lp_angles angles = {.cos = {cos}, .sin = {sin}, .half = half, .short_until = longest};
    CHECK(lp_rope_table(ops_of(3), cos, sin, inv_freq, 1, 0, longest, half) == 0);
    CHECK(lp_rope(ops_of(3), out, x, &angles, s, N_SEQS, n_heads, head_dim) == 0);
    for (size_t i = 0; i < N_SEQS; i++)
        for (size_t t = 0; t < lengths[i]; t++)
            for (size_t c = 0; c < d; c++) {
                const float *row = x + (s[i].start + t) * d;
                size_t j = c % half, first = c / head_dim * head_dim + j, at = t * half + j;
                float a = row[first], b = row[first + half];
                float want = c % head_dim < half ? a * cos[at] - b * sin[at] : b * cos[at] + a * sin[at];
                same &= out[(s[i].start + t) * d + c] == want;
            }
    CHECK(same);
    free(x), free(out), free(inv_freq), free(cos), free(sin);
}

/* One query against the definition: scores, pattern and z of a head. */
static int check_query(const lp_attention *a, const lp_sequence *s, size_t head, size_t t) {
    size_t n = s->n_tokens, kv = head / (a->n_heads / a->n_kv_heads), h = a->head_dim;
    size_t q_at = (s->start + t) * a->n_heads * h + head * h, kv_at = s->start * a->n_kv_heads * h + kv * h;
    size_t map_at = s->map_at + (head * n + t) * n, first = canonical_first_key(t, a->window);
    float raw[MOST_TOKENS], scores[MOST_TOKENS], pattern[MOST_TOKENS];
    for (size_t key = 0; key < n; key++)
        raw[key] = canonical_dot(a->q + q_at, 1, a->k + kv_at + key * a->n_kv_heads * h, 1, h);
    canonical_softmax(raw, scores, pattern, t, n, a->window, (float)(1 / sqrt((double)h)), a->cap);
    int same = same_floats(raw, a->scores_raw + map_at, n) && same_floats(scores, a->scores + map_at, n) &&
               same_floats(pattern, a->pattern + map_at, n);
    for (size_t c = 0; c < h; c++)
        same &= a->z[q_at + c] == canonical_sum(pattern, 1, a->v + kv_at + c, a->n_kv_heads * h, first, t + 1);
    return same;
}

/* Fused attention against the definition, and its parts against it. */
static void check_attention(const size_t *lengths, size_t n_heads, size_t n_kv_heads, size_t head_dim, size_t window,
                            float cap) {
    lp_sequence s[N_SEQS];
    size_t m = make_sequences(s, lengths, n_heads, n_kv_heads), q_n = m * n_heads * head_dim,
           kv_n = m * n_kv_heads * head_dim;
    size_t n_map = s[N_SEQS - 1].map_at + n_heads * lengths[N_SEQS - 1] * lengths[N_SEQS - 1];
    lp_ops ops = *ops_of(3);
    lp_attention a = {.n_heads = n_heads,
                      .n_kv_heads = n_kv_heads,
                      .head_dim = head_dim,
                      .n_map = n_map,
                      .sequences = s,
                      .n_sequences = N_SEQS,
                      .q = floats(q_n),
                      .k = floats(kv_n),
                      .v = floats(kv_n),
                      .scale = (float)(1 / sqrt((double)head_dim)),
                      .window = window,
                      .cap = cap,
                      .scores_raw = floats(n_map),
                      .scores = floats(n_map),
                      .pattern = calloc(n_map, sizeof(float)),
                      .z = floats(q_n)};
    lp_attention parts = a;
    int same = 1;
    ops.packed = floats(lp_ops_packed_heads(m, N_SEQS, n_kv_heads, head_dim));
    CHECK(ops.kernels->attend_scratch(lengths[0], head_dim) <= ops.scratch_stride);
    CHECK(lp_attend(&ops, &a) == 0);
    for (size_t i = 0; i < N_SEQS; i++)
        for (size_t head = 0; head < n_heads; head++)
            for (size_t t = 0; t < lengths[i]; t++) same &= check_query(&a, &s[i], head, t);
    CHECK(same);
    parts.pattern = floats(n_map), parts.z = floats(q_n);
    if (cap != 0) { /* else raw and scores are one value */
        parts.scores = floats(n_map);
        CHECK(lp_cap_scores(&ops, &parts) == 0 && !memcmp(parts.scores, a.scores, n_map * sizeof(float)));
        free(parts.scores), parts.scores = a.scores;
    }
    CHECK(lp_softmax(&ops, &parts) == 0 && !memcmp(parts.pattern, a.pattern, n_map * sizeof(float)));
    CHECK(lp_mix(&ops, &parts) == 0 && !memcmp(parts.z, a.z, q_n * sizeof(float)));
    free((void *)a.q), free((void *)a.k), free((void *)a.v), free(a.scores_raw), free(a.scores);
    free(a.pattern), free(a.z);
    free(parts.pattern), free(parts.z), free(ops.packed);
}

int main(void) {
    static const size_t sizes[] = {1, 2, 17, 32767, 32768, 32769, 70000};
    check_cuts();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_elementwise(sizes[i]);
    check_norms(1, 7, 0), check_norms(300, 576, 1), check_norms(3, 40000, 0), check_norms(40000, 3, 1);
    check_embed(5, 40000), check_embed(700, 130);
    check_rope((const size_t[]){61, 1, 130, 7, 93}, 9, 66);
    check_rope((const size_t[]){1, 30, 1, 20, 2}, 2, 4096);
    check_attention((const size_t[]){130, 1, 33, 2, 61}, 4, 2, 18, 0, 0);
    check_attention((const size_t[]){40, 40, 1, 1, 9}, 3, 1, 64, 0, 0.25f);
    check_attention((const size_t[]){190, 30, 31, 1, 100}, 2, 1, 20, 31, 0);
    check_attention((const size_t[]){77, 130, 3, 64, 65}, 2, 2, 6, 64, 0.5f);
    if (getenv("EMULATED"))
        puts("forks not run: user-mode QEMU 7 aborts when a forked child makes a thread");
    else
        for (int i = 0; i < 6; i++) check_fork_in_place(i);
    return CHECK_REPORT();
}
