/* sample.c - see sample.h. Scratch: the weights [n] as float32, then, where a rank is needed, two arrays of entries
 * [n].
 *
 * An entry is the rank of a logit as one integer: its bits, inverted so that a larger logit is a smaller number, above
 * its id. A stable radix sort over the upper half alone keeps equal logits in the order of their ids. */
#include "sample.h"

#include <math.h>
#include <string.h>

#include "../base/fpenv.h" /* lp_fpenv_set, lp_fpenv_restore */
#include "../base/half.h"  /* lp_f32_bits */
#include "../base/size.h"  /* lp_size_mul3, lp_size_add, lp_size_min */

#define DIGIT_BITS 11
#define N_DIGITS 3 /* of 32 bits */
#define DIGIT_COUNT ((size_t)1 << DIGIT_BITS)

/* ---- the random number ---- */

/* The high and the low half of a * b, from halves of 32 bits. */
static void multiply(uint64_t *high, uint64_t *low, uint64_t a, uint64_t b) {
    uint64_t a0 = a & 0xffffffff, a1 = a >> 32, b0 = b & 0xffffffff, b1 = b >> 32;
    uint64_t carry = (a0 * b0 >> 32) + (a1 * b0 & 0xffffffff) + a0 * b1;
    *high = a1 * b1 + (a1 * b0 >> 32) + (carry >> 32);
    *low = a * b;
}

uint64_t lp_philox(uint64_t seed, uint64_t number, uint64_t position) {
    uint64_t c[4] = {position, 0, 0, 0}, key[2] = {seed, number};
    for (int round = 0; round < 10; round++) {
        uint64_t high0, low0, high1, low1;
        multiply(&high0, &low0, 0xD2E7470EE14C6C93, c[0]);
        multiply(&high1, &low1, 0xCA5A826395121157, c[2]);
        c[0] = high1 ^ c[1] ^ key[0];
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key[1];
        c[3] = low0;
        key[0] += 0x9E3779B97F4A7C15;
        key[1] += 0xBB67AE8584CAA73B;
    }
    return c[0];
}

/* ---- the rank ---- */

static int needs_rank(const lp_sample *s) { return s->temperature != 0 && (s->top_k || s->top_p != 0); }

int lp_sample_scratch(size_t *n_bytes, const lp_sample *s, size_t n) {
    size_t entries = 0;
    lp_fpenv old = lp_fpenv_set(); /* a denormal temperature is not 0 */
    int too_big = lp_size_mul3(n_bytes, n + (n & 1), sizeof(float), 1) ||
                  (needs_rank(s) && lp_size_mul3(&entries, n, 2, sizeof(uint64_t))) ||
                  lp_size_add(n_bytes, *n_bytes, entries);
    lp_fpenv_restore(old);
    return too_big ? -1 : 0;
}

static uint64_t entry_of(float logit, size_t id) {
    uint32_t bits = lp_f32_bits(logit + 0.0f); /* -0 is 0 */
    bits ^= bits >> 31 ? 0 : 0x7fffffff;       /* positive: a larger one is less; negative: so it is already */
    return (uint64_t)bits << 32 | (uint32_t)id;
}

/* Sorts entries [n] with a spare array of that size; returns the one that holds the result. */
static uint64_t *sort(uint64_t *entries, uint64_t *spare, size_t n) {
    for (int digit = 0; digit < N_DIGITS; digit++) {
        size_t ends[DIGIT_COUNT] = {0}, at = 0;
        int shift = 32 + digit * DIGIT_BITS;
        for (size_t i = 0; i < n; i++) ends[entries[i] >> shift & (DIGIT_COUNT - 1)]++;
        for (size_t d = 0; d < DIGIT_COUNT; d++) {
            size_t count = ends[d];
            ends[d] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++) spare[ends[entries[i] >> shift & (DIGIT_COUNT - 1)]++] = entries[i];
        uint64_t *sorted = spare;
        spare = entries;
        entries = sorted;
    }
    return entries;
}

/* Sets the weights to 0 of all that top_k and top_p leave out. */
static void cut(float *weights, const lp_sample *s, const float *logits, size_t n, uint64_t *entries) {
    for (size_t id = 0; id < n; id++) entries[id] = entry_of(logits[id], id);
    const uint64_t *rank = sort(entries, entries + n, n);
    size_t n_kept = s->top_k ? lp_size_min(s->top_k, n) : n, j = 0;
    if (s->top_p != 0) { /* 1 too: what adds nothing to the sum is left out */
        double total = 0, sum = 0;
        for (size_t i = 0; i < n_kept; i++) total += (double)weights[(uint32_t)rank[i]];
        double least = s->top_p * total;
        do sum += (double)weights[(uint32_t)rank[j++]];
        while (sum < least && j < n_kept);
        n_kept = j;
    }
    for (size_t i = n_kept; i < n; i++) weights[(uint32_t)rank[i]] = 0;
}

/* ---- the draw ---- */

/* The first id with c_j > u * S; the last with a weight where rounding leaves none. */
static size_t pick(const float *weights, size_t n, double u) {
    double total = 0, sum = 0;
    size_t last = 0;
    for (size_t id = 0; id < n; id++) total += (double)weights[id];
    for (size_t id = 0; id < n; id++) {
        sum += (double)weights[id];
        if (sum > u * total) return id;
        if (weights[id] > 0) last = id;
    }
    return last;
}

static int check_numbers(const lp_sample *s, lp_error *err) {
    if (!(s->temperature >= 0) || isinf(s->temperature))
        return lp_fail(err, LP_EARG, "temperature is %g, not a finite float32 from 0 up", (double)s->temperature);
    if (!(s->top_p >= 0 && s->top_p <= 1)) return lp_fail(err, LP_EARG, "top_p is %g, not in (0, 1]", s->top_p);
    return 0;
}

/* The first id of the largest logit. */
static int find_largest(size_t *largest, const float *logits, size_t n, uint64_t position, lp_error *err) {
    float max = -INFINITY;
    int found = 0;
    for (size_t id = 0; id < n; id++) {
        if (isnan(logits[id]) || logits[id] == INFINITY)
            return lp_fail(err, LP_EARG, "the logits that choose the token at position %llu have %s, at id %zu",
                           (unsigned long long)position, isnan(logits[id]) ? "a NaN" : "+inf", id);
        if (logits[id] > max) {
            max = logits[id];
            *largest = id;
            found = 1;
        }
    }
    if (found) return 0;
    return lp_fail(err, LP_EARG, "the logits that choose the token at position %llu are all -inf",
                   (unsigned long long)position);
}

static double logprob(const float *logits, size_t n, float max, size_t id) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)max);
    return (double)logits[id] - (double)max - log(sum);
}

static size_t draw_id(const lp_sample *s, const lp_kernels *kernels, const float *logits, size_t n, float max,
                      uint64_t position, void *scratch) {
    float *weights = scratch;
    for (size_t id = 0; id < n; id++) weights[id] = (logits[id] - max) / s->temperature;
    kernels->exp(weights, weights, n);
    if (needs_rank(s)) cut(weights, s, logits, n, (uint64_t *)(void *)(weights + n + (n & 1)));
    return pick(weights, n, (double)(lp_philox(s->seed, s->number, position) >> 11) * 0x1p-53);
}

int lp_sample_draw(lp_draw *draw, const lp_sample *s, const lp_kernels *kernels, const float *logits, size_t n,
                   uint64_t position, void *scratch, lp_error *err) {
    size_t largest = 0;
    lp_fpenv old = lp_fpenv_set();
    int failed = check_numbers(s, err) || find_largest(&largest, logits, n, position, err);
    if (!failed) {
        float max = logits[largest];
        draw->id = s->temperature == 0 ? largest : draw_id(s, kernels, logits, n, max, position, scratch);
        draw->logprob = logprob(logits, n, max, draw->id);
    }
    lp_fpenv_restore(old);
    return failed ? -1 : 0;
}
