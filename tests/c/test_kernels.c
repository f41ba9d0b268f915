/* test_kernels.c - every variant that this CPU has, against the scalar definition, bit for bit.
 *
 * Sizes are chosen around every edge: tiles of tokens, bands of rows, blocks of k; data are ordinary, denormal, or
 * sprinkled with inf, NaN and -0; weights begin at odd addresses. */
#define _GNU_SOURCE /* setenv */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "canonical.h"
#include "variants.h"

static uint64_t seed = 88172645463325252u;
static uint32_t random_bits(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

enum { ORDINARY, TINY, WILD, N_KINDS };

static float random_float(int kind) {
    float x = (float)((int32_t)random_bits() * 0x1p-30);
    if (kind == TINY) return x * 0x1p-140f;
    if (kind == WILD && random_bits() % 64 == 0) {
        static const float odd[] = {INFINITY, -INFINITY, NAN, -0.0f, 0x1p127f, 0x1p-149f};
        return odd[random_bits() % 6];
    }
    return x;
}

static float *floats(size_t n, int kind) {
    float *x = aligned_alloc(64, (n * 4 + 127) / 64 * 64);
    for (size_t i = 0; i < n; i++) x[i] = random_float(kind);
    return x;
}

/* n elements at the end of *hold, at every kind of address: where a line begins, odd, as files have them, at its end */
static void *elements(char **hold, size_t n, lp_element element, int kind) {
    static const size_t offsets[] = {0, 1, 8, 62};
    static size_t n_calls;
    size_t offset = offsets[n_calls++ % 4];
    void *block = NULL;
    CHECK(posix_memalign(&block, 64, offset + n * lp_element_bytes(element) + (n == 0)) == 0);
    *hold = block;
    char *w = *hold + offset;
    for (size_t i = 0; i < n; i++) {
        float x = random_float(kind);
        uint16_t half = element == LP_ELEMENT_BF16 ? lp_f32_to_bf16(x) : lp_f32_to_f16(x);
        if (element == LP_ELEMENT_F32)
            memcpy(w + 4 * i, &x, 4);
        else
            memcpy(w + 2 * i, &half, 2);
    }
    return w;
}

/* In jobs of so many rows; weights are prefetched in either way. */
static void run_product(const lp_kernels *k, lp_product *p, size_t job) {
    lp_kernels_set_prefetch_sequential((int)(job / 12 % 2));
    for (size_t u = 0; u < k->pack_units(p); u++) k->pack(p, u);
    for (size_t f = 0; f < (p->gated ? 1 : p->n_factors); f++)
        for (size_t row = 0, end = p->factor[f].w->n_rows; row < end; row += job) {
            size_t n = end - row < job ? end - row : job;
            float *scratch = floats(k->band_scratch(p->m), WILD); /* what a run before may have left */
            k->bands(p, f, row, n, scratch);
            free(scratch);
        }
}

/* One linear layer with all its extras against the definition. */
static void check_linear(const lp_kernels *k, size_t m, size_t n, size_t kk, lp_element element, int kind) {
    char *hold_w, *hold_b;
    float *x = floats(m * kk, kind), *add = floats(m * n, kind), *y = floats(m * n, WILD), *sum = floats(m * n, WILD);
    size_t skip = n % 2 * 3; /* rows of the tensor before the matrix */
    void *w = elements(&hold_w, (skip + n) * kk, element, kind), *bias = elements(&hold_b, n, element, kind);
    lp_product p = {.m = m, .k = kk, .x = x, .n_factors = 1};
    p.x_packed = floats(k->packed_size(m, kk), WILD);
    lp_weight matrix = {w, element, n, kk, skip, NULL}, biases = {bias, element, 1, n, 0, NULL};
    p.factor[0] = (lp_factor){.w = &matrix, .bias = &biases, .y = y, .add = add, .sum = sum};
    run_product(k, &p, 12 * (1 + (m + n + kk) % 14));
    float *wide = floats(n * kk, 0), *want = floats(m * n, 0), *want_sum = floats(m * n, 0);
    for (size_t i = 0; i < n * kk; i++) wide[i] = canonical_element(w, element, skip * kk + i);
    for (size_t i = 0; i < m * n; i++) {
        want[i] = canonical_dot(x + i / n * kk, 1, wide + i % n * kk, 1, kk) + canonical_element(bias, element, i % n);
        want_sum[i] = add[i] + want[i];
    }
    int same = same_floats(y, want, m * n) && same_floats(sum, want_sum, m * n);
    CHECK(same);
    if (!same)
        fprintf(stderr, "  %s linear m=%zu n=%zu k=%zu element=%d kind=%d\n", k->name, m, n, kk, (int)element, kind);
    free(x), free(add), free(y), free(sum), free(hold_w), free(hold_b), free(p.x_packed);
    free(wide), free(want), free(want_sum);
}

/* Sums that lie a hair beside the middle of two floats: rounded to float64 on the way they would be a tie, and half
 * of them wrong. 8388609 * 16777214 is 2^47 - 2 and 8392705 * 16769026 is 2^47 + 2. */
static void check_near_ties(const lp_kernels *k, size_t m) {
    enum { N = 48 };
    static const float a[] = {8388609, 8392705}, b[] = {16777214, 16769026};
    float *x = floats(2 * m, 0), *y = floats(m * N, WILD), w[2 * N];
    for (size_t t = 0; t < m; t++) x[2 * t] = 1, x[2 * t + 1] = a[t % 2] * 0x1p-35f;
    for (size_t r = 0; r < N; r++) {
        w[2 * r] = (r & 2 ? 1 + 0x1p-23f : 1) * (r & 4 ? -1 : 1);
        w[2 * r + 1] = b[r % 2] * (r & 8 ? -0x1p-36f : 0x1p-36f);
    }
    lp_product p = {.m = m, .k = 2, .x = x, .n_factors = 1, .x_packed = floats(k->packed_size(m, 2), WILD)};
    lp_weight matrix = {.data = w, .element = LP_ELEMENT_F32, .n_rows = N, .n_cols = 2};
    p.factor[0] = (lp_factor){.w = &matrix, .y = y};
    run_product(k, &p, 24);
    for (size_t i = 0; i < m * N; i++) {
        float want = canonical_dot(x + i / N * 2, 1, w + i % N * 2, 1, 2);
        CHECK(same_floats(&want, y + i, 1));
    }
    free(x), free(y), free(p.x_packed);
}

/* element: of gate and of up, which a checkpoint may hold in different types */
static void check_gated(const lp_kernels *k, size_t m, size_t n, size_t kk, int kind, const lp_element element[2]) {
    static unsigned n_calls;
    char *hold[2];
    lp_weight matrix[2];
    lp_product p = {.m = m, .k = kk, .n_factors = 2, .gated = 1, .activation = n_calls++ % 3 ? LP_SILU : LP_GELU_TANH};
    p.x = floats(m * kk, kind), p.x_packed = floats(k->packed_size(m, kk), WILD);
    p.act = floats(m * n, WILD), p.hidden = floats(m * n, WILD);
    float *y[2] = {floats(m * n, WILD), floats(m * n, WILD)};
    for (int f = 0; f < 2; f++) {
        matrix[f] = (lp_weight){elements(&hold[f], n * kk, element[f], kind), element[f], n, kk, 0, NULL};
        p.factor[f] = (lp_factor){.w = &matrix[f], .y = y[f]};
    }
    run_product(k, &p, 12 * (1 + (m + n + kk) % 7));
    float *wide = floats(2 * n * kk, 0);
    for (size_t i = 0; i < 2 * n * kk; i++)
        wide[i] = canonical_element(matrix[i / (n * kk)].data, element[i / (n * kk)], i % (n * kk));
    int same = 1;
    for (size_t i = 0; i < m * n; i++) {
        float gate = canonical_dot(p.x + i / n * kk, 1, wide + i % n * kk, 1, kk);
        float up = canonical_dot(p.x + i / n * kk, 1, wide + (n + i % n) * kk, 1, kk);
        float act = canonical_activation(p.activation, gate), hidden = act * up;
        same &= same_floats(&gate, y[0] + i, 1) && same_floats(&up, y[1] + i, 1) && same_floats(&act, p.act + i, 1) &&
                same_floats(&hidden, p.hidden + i, 1);
    }
    CHECK(same);
    if (!same) fprintf(stderr, "  %s gated m=%zu n=%zu k=%zu kind=%d\n", k->name, m, n, kk, kind);
    free((void *)p.x), free(p.x_packed), free(p.act), free(p.hidden), free(y[0]), free(y[1]);
    free(hold[0]), free(hold[1]), free(wide);
}

/* What the definition says of a row; NULL: not compared. Only the keys that it sees are read. */
static int same_row(const lp_head *h, size_t row, const float *raw, const float *scores, const float *pattern,
                    const float *z) {
    size_t n = lp_head_keys(h), query = lp_head_position(h, row), first = canonical_first_key(query, h->window);
    float *want = floats(3 * n, 0), *want_pattern = want + 2 * n;
    int same = 1;
    for (size_t t = first; t <= query; t++)
        want[t] = canonical_dot(h->q + row * h->q_stride, 1,
                                h->k + t / LP_PANEL * LP_PANEL * h->head_dim + t % LP_PANEL, LP_PANEL, h->head_dim);
    canonical_softmax(want, want + n, want_pattern, query, n, h->window, h->scale, h->cap);
    same &= !raw || same_floats(want, raw + row * n, n);
    same &= !scores || same_floats(want + n, scores + row * n, n);
    same &= !pattern || same_floats(want_pattern, pattern + row * n, n);
    for (size_t d = 0; z && d < h->head_dim; d++) {
        const float *v = h->v + d / LP_PANEL * h->v_stride + d % LP_PANEL;
        float want_z = canonical_sum(want_pattern, 1, v, LP_PANEL, first, query + 1);
        same &= same_floats(&want_z, z + row * h->q_stride + d, 1);
    }
    free(want);
    return same;
}

/* All tiles, which have every row once. */
static void attend_all(const lp_kernels *k, const lp_head *h, float *scratch) {
    size_t row = 0, end;
    for (size_t i = lp_head_first_tile(h, k->q_tile); i < lp_head_end_tile(h, k->q_tile); i++, row = end) {
        CHECK(lp_head_tile(h, i, k->q_tile, &end) == row && end > row);
        CHECK(h->one_token || lp_head_position(h, row) / k->q_tile == lp_head_position(h, end - 1) / k->q_tile);
        k->attend(h, i, scratch);
    }
    CHECK(row == h->n_rows);
}

/* shape: n_rows, n_past and one_token. */
static void check_attention(const lp_kernels *k, lp_head shape, size_t head_dim, int kind, size_t window, float cap) {
    size_t n = shape.n_rows, n_keys = lp_head_keys(&shape), n_map = n * n_keys;
    size_t stride = 2 * head_dim + 3, size = n * stride, v_stride = n_keys * LP_PANEL + 5;
    float *q = floats(size, kind), *key = floats((n_keys + LP_PANEL - 1) / LP_PANEL * LP_PANEL * head_dim, kind),
          *z = floats(size, WILD);
    float *v = floats((head_dim + LP_PANEL - 1) / LP_PANEL * v_stride, kind);
    float *raw = floats(n_map, WILD), *scores = floats(n_map, WILD), *maps = floats(n_map + 1, WILD);
    float *pattern = maps + n / 16 % 2; /* begins on a line of the cache, or does not */
    memset(maps, 0, (n_map + 1) * sizeof *maps);
    lp_head h = shape;
    h.head_dim = head_dim, h.q_stride = stride, h.v_stride = v_stride;
    h.q = q, h.k = key, h.v = v, h.z = z, h.scores_raw = raw, h.scores = scores, h.pattern = pattern;
    h.scale = 0.3f, h.cap = cap, h.window = window;
    const lp_head whole = h;
    float *scratch = floats(k->attend_scratch(n_keys, head_dim), WILD);
    attend_all(k, &h, scratch);
    int same = 1;
    for (size_t m = 0; m < n; m++) same &= same_row(&h, m, raw, scores, pattern, z);
    memset(maps, 0, (n_map + 1) * sizeof *maps);
    h.v = h.z = h.scores = h.scores_raw = NULL; /* the pattern alone */
    attend_all(k, &h, scratch);
    for (size_t m = 0; m < n; m++) same &= same_row(&whole, m, NULL, NULL, pattern, NULL);
    CHECK(same);
    if (!same)
        fprintf(stderr, "  %s attention n=%zu past=%zu one_token=%d head_dim=%zu kind=%d window=%zu cap=%g\n", k->name,
                n, shape.n_past, shape.one_token, head_dim, kind, window, (double)cap);
    free(q), free(key), free(v), free(z), free(raw), free(scores), free(maps), free(scratch);
}

/* Nothing of a key that is hidden by the window reaches a result: k is NaN and v is inf before token `bad`, and some
 * queries see only keys from it on. And a z of -0 stays: equal patterns of at most 1/2 times the least denormal are -0.
 */
static void check_hidden_keys(const lp_kernels *k, size_t n, size_t window, size_t bad) {
    enum { H = 18 };
    size_t v_stride = n * LP_PANEL;
    float *q = floats(n * H, ORDINARY), *key = floats((n + LP_PANEL) * H, ORDINARY);
    float *v = floats((H + LP_PANEL) * n, ORDINARY), *z = floats(n * H, WILD),
          *pattern = calloc(n * n, sizeof *pattern);
    float *scratch = floats(k->attend_scratch(n, H), WILD);
    lp_head h = {.n_rows = n,
                 .head_dim = H,
                 .q = q,
                 .k = key,
                 .v = v,
                 .q_stride = H,
                 .v_stride = v_stride,
                 .z = z,
                 .scale = 1,
                 .window = window,
                 .pattern = pattern};
    int same = 1, finite = 1, minus_zero = 1;
    size_t n_finite = 0;
    for (size_t t = 0; t < bad; t++)
        for (size_t d = 0; d < H; d++) {
            key[t / LP_PANEL * LP_PANEL * H + d * LP_PANEL + t % LP_PANEL] = NAN;
            v[d / LP_PANEL * v_stride + t * LP_PANEL + d % LP_PANEL] = t % 2 ? INFINITY : NAN;
        }
    attend_all(k, &h, scratch);
    for (size_t m = 0; m < n; m++) {
        same &= same_row(&h, m, NULL, NULL, pattern, z);
        if (canonical_first_key(m, window) < bad) continue;
        for (size_t d = 0; d < H; d++) finite &= isfinite(z[m * H + d]) != 0, n_finite++;
    }
    for (size_t i = 0; i < (n + LP_PANEL) * H; i++) key[i] = 0;
    for (size_t i = 0; i < (H + LP_PANEL) * n; i++) v[i] = -0x1p-149f;
    memset(pattern, 0, n * n * sizeof *pattern);
    attend_all(k, &h, scratch);
    for (size_t m = 0; m < n; m++) {
        same &= same_row(&h, m, NULL, NULL, pattern, z);
        for (size_t d = 0; m && window != 1 && d < H; d++) minus_zero &= z[m * H + d] == 0 && signbit(z[m * H + d]);
    }
    CHECK(same && finite && minus_zero);
    CHECK(n_finite > 0 || bad + window > n);
    if (!same || !finite || !minus_zero)
        fprintf(stderr, "  %s hidden keys n=%zu window=%zu bad=%zu\n", k->name, n, window, bad);
    free(q), free(key), free(v), free(z), free(pattern), free(scratch);
}

static void check_norm(const lp_kernels *k, size_t d, int kind, float offset) {
    char *hold;
    float *x = floats(d, kind), *unit = floats(d, WILD), *out = floats(d, WILD), rms, inverse;
    float *parts_unit = floats(d, WILD), *parts_out = floats(d, WILD), same_inverse;
    lp_weight gain = {elements(&hold, d, LP_ELEMENT_F16, kind), LP_ELEMENT_F16, 1, d, 0, NULL};
    double lane[16] = {0};
    k->rms_norm(&rms, &inverse, unit, out, x, &gain, offset, 1e-5, d);
    for (size_t i = 0; i < d; i++) lane[i % 16] += (double)x[i] * x[i];
    double mean = canonical_lanes(lane) / (double)d;
    float scale = (float)(1 / sqrt(mean + 1e-5)), want = (float)sqrt(mean + 1e-5);
    int same = same_floats(&rms, &want, 1) && same_floats(&inverse, &scale, 1);
    k->rms_norm(NULL, &same_inverse, NULL, NULL, x, NULL, offset, 1e-5, d); /* the norm of its parts */
    k->scale_row(parts_unit, NULL, x, same_inverse, NULL, offset, d);
    k->scale_row(NULL, parts_out, parts_unit, 1, &gain, offset, d);
    for (size_t i = 0; i < d; i++) {
        float g = canonical_element(gain.data, LP_ELEMENT_F16, i), u = x[i] * scale, o;
        if (offset != 0) g += offset; /* else -0 stays */
        o = g * u;
        same &= same_floats(&u, unit + i, 1) && same_floats(&o, out + i, 1);
        same &= same_floats(&u, parts_unit + i, 1) && same_floats(&o, parts_out + i, 1);
    }
    CHECK(same);
    free(x), free(unit), free(out), free(hold), free(parts_unit), free(parts_out);
}

/* z of one query from rows of v that lie apart, and activations in place. */
static void check_parts(const lp_kernels *k, size_t n_keys, size_t head_dim, int kind) {
    size_t stride = head_dim + n_keys % 3;
    float *p = floats(n_keys, kind), *v = floats(n_keys * stride, kind), *z = floats(head_dim + 1, WILD), end = 7;
    z[head_dim] = end;
    int same = 1;
    for (size_t first = 0; first < n_keys; first += 1 + n_keys / 3) {
        k->mix(z, p, v, stride, first, n_keys, head_dim);
        for (size_t d = 0; d < head_dim; d++) {
            float want = canonical_sum(p, 1, v + d, stride, first, n_keys);
            same &= same_floats(&want, z + d, 1);
        }
    }
    same &= z[head_dim] == end;
    float *act = floats(n_keys, WILD);
    for (int activation = LP_SILU; activation <= LP_GELU_TANH; activation++) {
        memcpy(act, p, n_keys * sizeof *p);
        k->activate((lp_activation)activation, act, act, n_keys);
        for (size_t i = 0; i < n_keys; i++) {
            float want = canonical_activation((lp_activation)activation, p[i]);
            same &= same_floats(&want, act + i, 1);
        }
    }
    CHECK(same);
    if (!same) fprintf(stderr, "  %s mix n_keys=%zu head_dim=%zu kind=%d\n", k->name, n_keys, head_dim, kind);
    free(p), free(v), free(z), free(act);
}

static void check_rope(const lp_kernels *k, size_t n_heads, size_t h, size_t half, int interleaved, int kind) {
    float *x = floats(n_heads * h, kind), *out = floats(n_heads * h, WILD), *c = floats(h, kind), *s = floats(h, kind);
    int same = 1;
    k->rope(out, x, c, s, n_heads, h, half, interleaved);
    for (size_t i = 0; i < n_heads * h; i++) {
        size_t j = i % h, p = interleaved ? j / 2 : j % half, apart = interleaved ? 1 : half;
        int first = interleaved ? j % 2 == 0 : j < half;
        float want = x[i];
        if (j < 2 * half) {
            float a = x[i] * c[p], b = (first ? x[i + apart] : x[i - apart]) * s[p];
            want = first ? a - b : a + b;
        }
        same &= same_floats(&want, out + i, 1);
    }
    CHECK(same);
    free(x), free(out), free(c), free(s);
}

static void check_exp(const lp_kernels *k) {
    enum { N = 4099 };
    static float x[N], y[N];
    int same = 1;
    for (size_t round = 0; round < 64; round++) {
        for (size_t i = 0; i < N; i++) x[i] = lp_f32_from_bits(random_bits() * 2654435761u + (uint32_t)i);
        x[0] = -104, x[1] = INFINITY, x[2] = -INFINITY, x[3] = NAN, x[4] = -0.0f, x[5] = 88.72284f, x[6] = -103.97f;
        k->exp(y, x, N);
        for (size_t i = 0; i < N; i++) {
            float want = canonical_exp(x[i]);
            same &= same_floats(&want, y + i, 1);
        }
    }
    CHECK(same);
    CHECK(y[1] == INFINITY && y[2] == 0 && isnan(y[3]) && y[4] == 1);
}

/* tanh is cap with 1. Every exponent and sign, and the edges of its pieces. */
static void check_tanh(const lp_kernels *k) {
    enum { N = 1001 };
    static const float caps[] = {1, 50, 30, 1e-3f},
                       edges[] = {-0.0f,      INFINITY,        -INFINITY, NAN, 0x1p-12f,  0x1.fffffep-13f,
                                  0x1.18p-1f, -0x1.17fffep-1f, 10,        -11, 0x1p-149f, 3e38f};
    float x[N], y[N], gelu[N];
    int same = 1;
    for (size_t round = 0; round < 64; round++) {
        float cap = caps[round % 4];
        for (size_t i = 0; i < N; i++) {
            uint32_t exponent = round & 4 ? 127 - 14 + random_bits() % 20 : random_bits() % 256;
            x[i] = lp_f32_from_bits((random_bits() & 0x807fffff) | exponent << 23);
        }
        memcpy(x, edges, sizeof edges);
        k->cap(y, x, cap, N), k->activate(LP_GELU_TANH, gelu, x, N);
        for (size_t i = 0; i < N; i++) {
            float want[] = {canonical_cap(x[i], cap), canonical_gelu_tanh(x[i])};
            same &= same_floats(want, y + i, 1) && same_floats(want + 1, gelu + i, 1);
            same &= isnan(x[i]) || fabsf(y[i]) <= cap;
        }
        CHECK(cap != 1 || (signbit(y[0]) && y[0] == 0 && y[1] == 1 && y[2] == -1 && isnan(y[3])));
    }
    CHECK(same);
}

/* What the roof is measured with does what it says: else it measures something else. */
static void check_peak(const lp_kernels *k) {
    float sums[LP_MOST_PEAK_SUMS + 1], x[64 * 3 + 1], total = 0;
    CHECK(k->peak_sums > 0 && k->peak_sums <= LP_MOST_PEAK_SUMS);
    for (size_t i = 0; i <= k->peak_sums; i++) sums[i] = (float)i;
    k->multiply_add(sums, 24);
    for (size_t i = 0; i < k->peak_sums; i++) CHECK(sums[i] == (float)i + 3);
    CHECK(sums[k->peak_sums] == (float)k->peak_sums);
    for (size_t i = 0; i < 64 * 3 + 1; i++) x[i] = (float)(i + 1); /* integers: any order of adding is exact */
    for (size_t i = 0; i < 64 * 3; i++) total += x[i];
    CHECK(k->read_all(x, 64 * 3) == total);
}

static void check_variant(const lp_kernels *k) {
    static const size_t ns[] = {1, 7, 12, 17, 35, 49}, ks[] = {1, 31, 64, 65, 257, 576, 600},
                        ms[] = {16, 17, 24, 31, 32, 40, 67, 49, 64, 113};
    static const size_t lengths[] = {1, 2, 7, 8, 9, 16, 23, 31, 32, 33, 48, 57, 64, 96, 100, 255, 257, 272, 288, 300};
    static const size_t dims[] = {2, 6, 32, 64, 80, 256, 258}, windows[] = {1, 2, 7, 63, 64, 65, 100};
    for (size_t m = 1; m <= 13; m++)
        for (size_t n = 0; n < 6; n++)
            for (size_t i = 0; i < 6; i++)
                check_linear(k, m, ns[n], ks[i], (lp_element)((m + n + i) % 3), (int)((m + i) % N_KINDS));
    for (size_t m = 0; m < sizeof ms / sizeof *ms; m++)
        for (size_t i = 0; i < 6; i++) {
            check_linear(k, ms[m], 35, ks[i], LP_ELEMENT_BF16, (int)(i % N_KINDS));
            check_linear(k, ms[m], 49, 64 * (i + 1), (lp_element)(i % 3), (int)(m % N_KINDS));
            lp_element mixed[2] = {(lp_element)(i % 3), (lp_element)((i + m) % 3)};
            check_linear(k, ms[m], 100 + 31 * i, 64 * (m + 3), (lp_element)((i + m) % 3), (int)(i % N_KINDS));
            check_gated(k, ms[m], ns[i], ks[(m + i) % 6], (int)(i % N_KINDS), mixed);
            check_gated(k, ms[m], 72 + ns[i], 576, (int)(i % N_KINDS), mixed);
            check_gated(k, m + 5, 24 + ns[i], 128, (int)(m % N_KINDS), mixed);
            check_gated(k, m + 1, ns[i], 300 + 20 * (m % 2), (int)(i % N_KINDS), mixed);
        }
    /* results that are whole lines */
    for (size_t i = 0; i + 1 < sizeof ms / sizeof *ms; i++) {
        lp_element mixed[2] = {(lp_element)(i % 3), (lp_element)((i + i / 3) % 3)};
        check_linear(k, ms[1 + i], i % 2 ? 64 : 96, 320, (lp_element)(i % 3), (int)(i % N_KINDS));
        check_gated(k, ms[1 + i], i % 2 ? 48 : 96, 200, (int)(i % N_KINDS), mixed);
    }
    for (size_t i = 0; i < 2; i++)
        check_linear(k, 9 + 31 * i, 13, 1100 + 1012 * i, LP_ELEMENT_BF16, ORDINARY); /* units of x */
    check_linear(k, 101, 48, 832, LP_ELEMENT_BF16, ORDINARY); /* three tiles, which share the prefetches */
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t d = 0; d < 7; d++) {
            check_attention(k, (lp_head){.n_rows = lengths[i]}, dims[d], (int)((i + d) % N_KINDS), 0, 0);
            check_parts(k, lengths[i], dims[d], (int)((i + d) % N_KINDS));
        }
    /* windows that end inside a tile, inside a block and at its edges, and caps, at every length */
    for (size_t n = 1, i = 0; n <= 200; n++)
        for (size_t w = n % 3; w < 7; w += 3, i++)
            check_attention(k, (lp_head){.n_rows = n}, dims[i % 5], (int)(i % N_KINDS), windows[w], i % 5 < 2 ? 50 : 0);
    for (size_t i = 0; i < 8; i++) {
        check_attention(k, (lp_head){.n_rows = 300 + 5 * i}, 18, ORDINARY, i < 7 ? windows[i] : 128, 2);
        check_hidden_keys(k, 90 + 30 * i, windows[i % 7], 40 + 11 * i);
    }
    /* after a past: rows that begin inside a tile, and the heads of one token */
    for (size_t past = 0, i = 0; past <= 300; past += 3 + past % 5, i++) {
        size_t n = 1 + i * 7 % 40, window = i % 3 ? windows[i % 7] : 0;
        float cap = i % 5 ? 0 : 50;
        check_attention(k, (lp_head){.n_rows = n, .n_past = past}, dims[i % 5], (int)(i % N_KINDS), window, cap);
        check_attention(k, (lp_head){.n_rows = n, .n_past = past, .one_token = 1}, dims[i % 4], (int)(i % N_KINDS),
                        window, cap);
    }
    for (size_t d = 1; d < 200; d += 3) check_norm(k, d, (int)(d % N_KINDS), (float)(d % 2));
    for (size_t h = 2; h < 140; h += 6)
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            check_rope(k, h % 5 + 1, h, h / 2, interleaved, (int)(h % N_KINDS));
            check_rope(k, h % 3 + 1, h, (h + 3) / 4, interleaved, (int)(h % N_KINDS)); /* a part of a head */
        }
    check_near_ties(k, 2), check_near_ties(k, 33);
    check_exp(k);
    check_tanh(k);
    check_peak(k);
}

int main(int argc, char **argv) {
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
