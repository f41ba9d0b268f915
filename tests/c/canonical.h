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

/* Blocks of 64; inside one chain of fused multiply-adds from +0; the first block is not added to a zero.
 * n numbers of x and w, `x_step` and `w_step` apart. */
static inline float canonical_dot(const float *x, size_t x_step, const float *w, size_t w_step, size_t n) {
    float y = 0;
    for (size_t k0 = 0; k0 < n; k0 += LP_K_BLOCK) {
        float s = 0;
        for (size_t k = k0; k < n && k < k0 + LP_K_BLOCK; k++) s = fmaf(x[k * x_step], w[k * w_step], s);
        y = k0 ? y + s : s;
    }
    return y;
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

static inline double canonical_lanes(double *lane) {
    for (size_t apart = 8; apart; apart /= 2)
        for (size_t j = 0; j < apart; j++) lane[j] += lane[j + apart];
    return lane[0];
}

/* Any NaN equals any NaN; all else bit for bit. */
static inline int same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, 4) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

#endif
