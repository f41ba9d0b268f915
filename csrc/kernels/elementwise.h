/* elementwise.h - what is done to a row of numbers: widening, norm, rotary embedding, exp, activations and caps, the
 * sum of pattern and v for one query; and what a core can do at most. Loops without verbs are written so that a
 * compiler turns them to vectors without changing a bit. */
#ifndef LP_ELEMENTWISE_H
#define LP_ELEMENTWISE_H

#include <math.h>
#include <string.h>

#include "../base/size.h"  /* lp_size_min */
#include "kernels.h"       /* lp_weight, LP_K_BLOCK, LP_MOST_PEAK_SUMS */
#include "parameters.h"    /* TILE_ROWS_2 */
#include "simd/elements.h" /* lp_element_to_f32 */
#include "simd/exp.h"      /* V(exp), V(silu) */
#include "simd/tanh.h"     /* V(gelu_tanh), V(cap) */
#include "simd/vector.h"   /* V, VEC, V_WIDEN */

/* n elements at w to float32. */
static void widen(float *out, const void *w, lp_element element, size_t n) {
    const char *from = w;
    size_t i = 0, bytes = lp_element_bytes(element);
    for (; i + LP_N <= n; i += LP_N) V(store)(out + i, V_WIDEN(from + i * bytes, element));
    for (; i < n; i++) out[i] = lp_element_to_f32(from + i * bytes, element);
}

/* Sum of squares: products of two float32 are exact in float64; 16 lanes, then the lanes 8 apart, 4, 2, 1. */
static double sum_squares(const float *x, size_t d) {
    double lane[16] = {0};
    size_t i = 0;
    for (; i + 16 <= d; i += 16)
        for (size_t j = 0; j < 16; j++) lane[j] += (double)x[i + j] * x[i + j];
    for (; i < d; i++) lane[i % 16] += (double)x[i] * x[i];
    for (size_t apart = 8; apart; apart /= 2)
        for (size_t j = 0; j < apart; j++) lane[j] += lane[j + apart];
    return lane[0];
}

static void scale_row(float *unit, float *out, const float *x, float scale, const lp_weight *gain, float offset,
                      size_t d) {
    float g[64];
    for (size_t i = 0, n; i < d && (unit || out); i += n) {
        n = lp_size_min(d - i, 64);
        if (out) widen(g, lp_weight_at(gain, 0, i), gain->element, n);
        for (size_t j = 0; out && offset != 0 && j < n; j++) g[j] += offset; /* + 0 would turn a gain of -0 to +0 */
        for (size_t j = 0; j < n; j++) {
            float u = x[i + j] * scale;
            if (unit) unit[i + j] = u;
            if (out) out[i + j] = g[j] * u;
        }
    }
}

static void rms_norm(float *rms, float *inverse, float *unit, float *out, const float *x, const lp_weight *gain,
                     float offset, double eps, size_t d) {
    double root = sqrt(sum_squares(x, d) / (double)d + eps);
    float scale = (float)(1.0 / root);
    if (rms) *rms = (float)root;
    if (inverse) *inverse = scale;
    scale_row(unit, out, x, scale, gain, offset, d);
}

/* Pairs (i, i + half) turned by the angle of the position, every product rounded. */
static void turn_halves(float *out, const float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        out[i] = a * cos[i] - b * sin[i];
        out[half + i] = b * cos[i] + a * sin[i];
    }
}

/* The same of pairs (2i, 2i + 1). */
static void turn_neighbours(float *out, const float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        out[2 * i] = a * cos[i] - b * sin[i];
        out[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

static void rope(float *out, const float *x, const float *cos, const float *sin, size_t n_heads, size_t head_dim,
                 size_t half, int interleaved) {
    for (size_t h = 0; h < n_heads; h++, x += head_dim, out += head_dim) {
        if (interleaved)
            turn_neighbours(out, x, cos, sin, half);
        else
            turn_halves(out, x, cos, sin, half);
        if (2 * half < head_dim) memcpy(out + 2 * half, x + 2 * half, (head_dim - 2 * half) * sizeof *out);
    }
}

/* out[i] = `value` of a vector a of x; the last vector is filled up with zeros. */
#define ROW_OF(name, parameters, value)             \
    static void name parameters {                   \
        size_t i = 0, rest = n % LP_N;              \
        for (; i + LP_N <= n; i += LP_N) {          \
            VEC a = V(load)(x + i);                 \
            V(store)(out + i, value);               \
        }                                           \
        if (!rest) return;                          \
        float part[LP_N] = {0};                     \
        memcpy(part, x + i, rest * sizeof *part);   \
        VEC a = V(load)(part);                      \
        V(store)(part, value);                      \
        memcpy(out + i, part, rest * sizeof *part); \
    }
ROW_OF(exp_row, (float *out, const float *x, size_t n), V(exp)(a))
ROW_OF(silu_row, (float *out, const float *x, size_t n), V(silu)(a))
ROW_OF(gelu_tanh_row, (float *out, const float *x, size_t n), V(gelu_tanh)(a))
ROW_OF(cap_row, (float *out, const float *x, float most, size_t n), V(cap)(a, V(set1)(most)))

static void activate(lp_activation activation, float *out, const float *x, size_t n) {
    (activation == LP_GELU_TANH ? gelu_tanh_row : silu_row)(out, x, n);
}

/* Blocks of keys, counted from key 0, each a chain of its own. */
static void mix(float *z, const float *pattern, const float *v, size_t v_stride, size_t first, size_t n_keys,
                size_t head_dim) {
    for (size_t d = 0, n; d < head_dim; d += n) {
        float part[LP_N] = {0};
        VEC sum = V(zero)();
        n = lp_size_min(head_dim - d, LP_N);
        for (size_t key = first, end; key < n_keys; key = end) {
            VEC acc = V(zero)();
            end = lp_size_min(key / LP_K_BLOCK * LP_K_BLOCK + LP_K_BLOCK, n_keys);
            for (size_t k = key; k < end; k++) {
                memcpy(part, v + k * v_stride + d, n * sizeof *part);
                VEC p = V(set1)(pattern[k]), x = V(load)(part);
                V(fma_into)(&acc, p, x);
            }
            sum = key > first ? V(add)(sum, acc) : acc;
        }
        V(store)(part, sum);
        memcpy(z + d, part, n * sizeof *part);
    }
}

/* For the roof: multiply_add has as many independent sums as the widest tile, in registers, and loads nothing between.
 * read_all looks at every float of a stretch of memory, in order, as weights are read. */
#define PEAK_SUMS (TILE_ROWS_2 * 2 * LANES)

_Static_assert(PEAK_SUMS <= LP_MOST_PEAK_SUMS, "the caller's array holds the sums of every variant");

NOINLINE void multiply_add(float *sums, size_t n_rounds) {
    VEC acc[TILE_ROWS_2][2], a = V(set1)(0.5f), b = V(set1)(0.25f);
    UNROLL for (int r = 0; r < TILE_ROWS_2; r++) UNROLL for (int v = 0; v < 2; v++) acc[r][v] =
        V(load)(sums + (2 * r + v) * LP_N);
    for (size_t i = 0; i < n_rounds; i++)
        UNROLL for (int r = 0; r < TILE_ROWS_2; r++) UNROLL for (int v = 0; v < 2; v++) V(fma_into)(&acc[r][v], a, b);
    UNROLL for (int r = 0; r < TILE_ROWS_2; r++) UNROLL for (int v = 0; v < 2; v++)
        V(store)(sums + (2 * r + v) * LP_N, acc[r][v]);
}

NOINLINE float read_all(const float *x, size_t n) {
    VEC sum[4];
    float lanes[LP_N], total = 0;
    UNROLL for (int i = 0; i < 4; i++) sum[i] = V(zero)();
    for (size_t at = 0; at < n; at += 4 * LP_N)
        UNROLL for (int i = 0; i < 4; i++) sum[i] = V(add)(sum[i], V(load)(x + at + i * LP_N));
    UNROLL for (int i = 0; i < 4; i++) {
        V(store)(lanes, sum[i]);
        for (int j = 0; j < LP_N; j++) total += lanes[j];
    }
    return total;
}

#endif
