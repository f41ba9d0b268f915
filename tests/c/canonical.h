/* canonical.h - the canonical arithmetic in scalar C, with the library's fmaf: what every variant is held to.
 * Slow and short on purpose; docs/arithmetic.md is its text. */
#ifndef LP_CANONICAL_H
#define LP_CANONICAL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../csrc/base/half.h"
#include "../../csrc/kernels/kernels.h"

static inline float canonical_element(const void *w, lp_element element, size_t i) {
    float x;
    uint16_t half;
    if (element == LP_ELEMENT_F32) {
        memcpy(&x, (const char *)w + 4 * i, 4);
        return x;
    }
    memcpy(&half, (const char *)w + 2 * i, 2);
    return element == LP_ELEMENT_BF16 ? lp_bf16_to_f32(half) : lp_f16_to_f32(half);
}

/* Blocks of 64, counted from number 0; inside one chain of fused multiply-adds from +0; the first block is not added to
 * a zero. Numbers first .. n of x and w, `x_step` and `w_step` apart. */
static inline float canonical_sum(const float *x, size_t x_step, const float *w, size_t w_step, size_t first,
                                  size_t n) {
    float y = 0;
    for (size_t k = first; k < n;) {
        size_t begin = k, end = (k / LP_K_BLOCK + 1) * LP_K_BLOCK;
        float s = 0;
        for (; k < n && k < end; k++) s = fmaf(x[k * x_step], w[k * w_step], s);
        y = begin > first ? y + s : s;
    }
    return y;
}

static inline float canonical_dot(const float *x, size_t x_step, const float *w, size_t w_step, size_t n) {
    return canonical_sum(x, x_step, w, w_step, 0, n);
}

/* The first key that a query sees: the window counts its own. */
static inline size_t canonical_first_key(size_t query, size_t window) {
    return window && query >= window ? query - window + 1 : 0;
}

static inline float canonical_exp(float x) {
    if (x < -104.0f) x = -104.0f;
    if (x > 89.0f) x = 89.0f;
    float biased = fmaf(x, 0x1.715476p+0f, 0x1.8p+23f), n = biased - 0x1.8p+23f;
    float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, x));
    static const float c[] = {0x1.6a528p-10f, 0x1.123b1ap-7f, 0x1.5558aep-5f, 0x1.55549p-3f, 0x1.fffffcp-2f, 1, 1};
    float p = c[0];
    for (int i = 1; i < 7; i++) p = fmaf(p, r, c[i]);
    if (isnan(x)) return x;
    int whole = (int)n, a = whole >> 1;
    return p * lp_f32_from_bits((uint32_t)(a + 127) << 23) * lp_f32_from_bits((uint32_t)(whole - a + 127) << 23);
}

static inline float canonical_silu(float x) { return x / (1.0f + canonical_exp(-x)); }

static inline float canonical_tanh(float x) {
    float a = x < 0 ? 0 - x : x, z = x * x;
    float p = fmaf(-0x1.9cf7c6p-8f, z, 0x1.5991d6p-6f);
    p = fmaf(fmaf(fmaf(p, z, -0x1.b93380p-5f), z, 0x1.110d70p-3f), z, -0x1.55554cp-2f);
    float small = fmaf(x * z, p, x);
    if (isnan(x) || a < 0x1p-12f) return x;
    if (a < 0x1.18p-1f) return small;
    float b = a > 10.0f ? 20.0f : a + a; /* e^b = high + low */
    float n = fmaf(b, 0x1.715476p+0f, 0x1.8p+23f) - 0x1.8p+23f;
    float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, b));
    float q = fmaf(0x1.6d5cf2p-10f, r, 0x1.123bdep-7f);
    q = fmaf(fmaf(fmaf(q, r, 0x1.5554dap-5f), r, 0x1.55548ep-3f), r, 0.5f);
    float t = fmaf(q * r, r, r), high = 1 + t, low = ldexpf(t - (high - 1), (int)n);
    high = ldexpf(high, (int)n);
    float d = high + 1, d_low = (1 - (d - high)) + low, w = 2 / d; /* 2 / (e^b + 1) = w + w_low */
    float w_low = fmaf(0 - w, d_low, fmaf(0 - w, d, 2)) * (w * 0.5f);
    float s = 1 - w, large = s + (((1 - s) - w) - w_low);
    return x < 0 ? 0 - large : large;
}

static inline float canonical_gelu_tanh(float x) {
    float cube = x * x * x, u = 0x1.988454p-1f * (x + 0x1.6e4e26p-5f * cube);
    return 0.5f * x * (1 + canonical_tanh(u));
}

static inline float canonical_activation(lp_activation activation, float x) {
    return activation == LP_SILU ? canonical_silu(x) : canonical_gelu_tanh(x);
}

static inline float canonical_cap(float x, float cap) { return canonical_tanh(x / cap) * cap; }

static inline double canonical_lanes(double *lane) {
    for (size_t apart = 8; apart; apart /= 2)
        for (size_t j = 0; j < apart; j++) lane[j] += lane[j + apart];
    return lane[0];
}

/* scores (of n keys: raw, then capped if there is a cap) and pattern of a query, from the dots of the keys that it sees
 * in `raw`. */
static inline void canonical_softmax(float *raw, float *scores, float *pattern, size_t query, size_t n, size_t window,
                                     float scale, float cap) {
    size_t first = canonical_first_key(query, window);
    double lane[16] = {0};
    float most = -INFINITY;
    for (size_t t = 0; t < n; t++) {
        int seen = t >= first && t <= query;
        raw[t] = seen ? raw[t] * scale : -INFINITY;
        scores[t] = seen && cap != 0 ? canonical_cap(raw[t], cap) : raw[t];
        if (scores[t] > most) most = scores[t];
    }
    for (size_t t = first; t <= query; t++) lane[t % 16] += (double)(pattern[t] = canonical_exp(scores[t] - most));
    float sum = (float)canonical_lanes(lane);
    for (size_t t = 0; t < n; t++) pattern[t] = t < first || t > query ? 0 : pattern[t] / sum;
}

/* Any NaN equals any NaN; all else bit for bit. */
static inline int same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, 4) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

#endif
