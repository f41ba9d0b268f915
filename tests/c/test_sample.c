/* test_sample.c - the rule lp-sample-1 against the same written out plainly, on every variant; tests/test_sample.py has
 * NumPy's Philox and the rule once more. */
#define _GNU_SOURCE /* unsetenv, in variants.h */
#include "check.h"

#include <math.h>
#include <stdlib.h>

#include "../../csrc/ops/sample.h"
#include "variants.h"

#define N 300

/* The place of an id in the rank: larger logits first, equal ones by id. */
static size_t place_of(const float *l, size_t id) {
    size_t place = 0;
    for (size_t i = 0; i < N; i++) place += l[i] > l[id] || (l[i] == l[id] && i < id);
    return place;
}

static size_t naive(const lp_sample *s, const lp_kernels *kernels, const float *l, uint64_t position) {
    float w[N], max = -INFINITY;
    size_t at[N];
    for (size_t i = 0; i < N; i++) max = l[i] > max ? l[i] : max;
    for (size_t i = 0; i < N; i++) w[i] = (l[i] - max) / s->temperature, at[place_of(l, i)] = i;
    kernels->exp(w, w, N);
    size_t n_kept = s->top_k && s->top_k < N ? s->top_k : N;
    double all = 0, sum = 0, u = (double)(lp_philox(s->seed, s->number, position) >> 11) / 9007199254740992.0;
    for (size_t j = 0; j < n_kept; j++) all += (double)w[at[j]];
    for (size_t j = 0; s->top_p != 0 && j < n_kept; j++) {
        sum += (double)w[at[j]];
        if (sum >= s->top_p * all) n_kept = j + 1;
    }
    int kept[N] = {0};
    for (size_t j = 0; j < n_kept; j++) kept[at[j]] = 1;
    sum = all = 0;
    for (size_t i = 0; i < N; i++)
        if (kept[i]) all += (double)w[i];
    for (size_t i = 0; i < N; i++)
        if (kept[i] && (sum += (double)w[i]) > u * all) return i;
    return N; /* tests/test_sample.py has a case of this */
}

static lp_draw draw(const lp_sample *s, const lp_kernels *kernels, const float *l, uint64_t position) {
    lp_error err;
    lp_draw d = {N, 0};
    size_t n_bytes;
    CHECK(!lp_sample_scratch(&n_bytes, s, N));
    void *scratch = malloc(n_bytes);
    CHECK(scratch && !lp_sample_draw(&d, s, kernels, l, N, position, scratch, &err));
    free(scratch);
    return d;
}

static void check_draws(const lp_kernels *kernels) {
    float l[N];
    size_t same = 0, n_draws = 0;
    for (uint64_t position = 0; position < 200; position++) {
        for (size_t i = 0; i < N; i++) { /* a grid of 1/4, so that there are ties; some are -inf, some -0 */
            int step = (int)(lp_philox(7, position, i) % 48) - 24;
            l[i] = step == -24 ? -INFINITY : step == 0 && i % 2 ? -0.0f : (float)step * 0.25f;
        }
        static const float temperature[] = {1.0f, 0.1f, 3.7f, 1e-40f};
        static const size_t top_k[] = {0, 1, 7, N, N + 9};
        static const double top_p[] = {0, 0.9, 1, 1e-9};
        lp_sample s = {temperature[position % 4], top_k[position % 5], top_p[position / 2 % 4], 11, position};
        same += draw(&s, kernels, l, position).id == naive(&s, kernels, l, position);
        n_draws++;
    }
    CHECK(same == n_draws);
}

static void check_greedy(const lp_kernels *kernels) {
    float l[N] = {0};
    lp_sample greedy = {0};
    l[5] = l[9] = 2;
    CHECK(draw(&greedy, kernels, l, 0).id == 5);
    CHECK(fabs(draw(&greedy, kernels, l, 0).logprob + log(2 + (N - 2) * exp(-2))) < 1e-12);
    for (size_t i = 0; i < N; i++) l[i] = i == 8 ? -1e30f : -INFINITY;
    CHECK(draw(&greedy, kernels, l, 0).id == 8 && draw(&greedy, kernels, l, 0).logprob == 0);
    lp_sample any = {1, 0, 0, 0, 0};
    CHECK(draw(&any, kernels, l, 0).id == 8);
}

static void check_errors(const lp_kernels *kernels) {
    static const struct {
        float value;
        const char *text;
    } bad[] = {{NAN, "position 17 have a NaN, at id 3"}, {INFINITY, "position 17 have +inf, at id 3"}};
    float l[N] = {0}, none[N];
    lp_sample greedy = {0}, wrong[] = {{-1, 0, 1, 0, 0}, {NAN, 0, 1, 0, 0}, {INFINITY, 0, 1, 0, 0},
                                       {1, 0, -1, 0, 0}, {1, 0, NAN, 0, 0}, {1, 0, 1.5, 0, 0}};
    lp_error err;
    lp_draw d;
    for (int i = 0; i < 2; i++) {
        l[3] = bad[i].value;
        CHECK(lp_sample_draw(&d, &greedy, kernels, l, N, 17, NULL, &err) == -1 && err.status == LP_EARG);
        CHECK(strstr(err.msg, bad[i].text) != NULL);
    }
    for (size_t i = 0; i < N; i++) none[i] = -INFINITY;
    CHECK(lp_sample_draw(&d, &greedy, kernels, none, N, 17, NULL, &err) == -1 && strstr(err.msg, "17 are all -inf"));
    l[3] = 0;
    for (int i = 0; i < 6; i++) CHECK(lp_sample_draw(&d, &wrong[i], kernels, l, N, 17, NULL, &err) == -1);
    size_t n_bytes;
    lp_sample ranked = {1, 5, 0, 0, 0};
    CHECK(lp_sample_scratch(&n_bytes, &ranked, SIZE_MAX / 9) == -1);
}

static void check_variant(const lp_kernels *kernels) {
    check_draws(kernels);
    check_greedy(kernels);
    check_errors(kernels);
}

int main(int argc, char **argv) {
    CHECK(lp_philox(0, 0, 0) == 0x16554d9eca36314c); /* the words of NumPy */
    CHECK(lp_philox(1, 0, 0) == 0xcb7ea744cf19bb4c);
    CHECK(lp_philox(0, 1, 7) == 0xcd9ba3953e931a75);
    CHECK(lp_philox(UINT64_MAX, UINT64_MAX, (uint64_t)1 << 31) == 0xa1638eda1ca452d9);
    CHECK(lp_philox(0x0123456789abcdef, 42, UINT64_MAX) == 0xacc79dbd04fe0656);
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
