/* rows.h - what is done to one row of tokens: norm, rotary embedding. Every row of kernels has this body; the loops
 * are written so that a compiler turns them to vectors without changing a bit. */

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

static void scale_row(float *unit, float *out, const float *x, float scale, const lp_weight *gain, size_t d) {
    float g[64];
    for (size_t i = 0, n; i < d && (unit || out); i += n) {
        n = lp_size_min(d - i, 64);
        if (out) widen(g, lp_weight_at(gain, 0, i), gain->word, n);
        for (size_t j = 0; j < n; j++) {
            float u = x[i + j] * scale;
            if (unit) unit[i + j] = u;
            if (out) out[i + j] = g[j] * u;
        }
    }
}

static void rms_norm(float *rms, float *inverse, float *unit, float *out, const float *x, const lp_weight *gain,
                     double eps, size_t d) {
    double root = sqrt(sum_squares(x, d) / (double)d + eps);
    float scale = (float)(1.0 / root);
    if (rms) *rms = (float)root;
    if (inverse) *inverse = scale;
    scale_row(unit, out, x, scale, gain, d);
}

/* Pairs (i, i + head_dim / 2) turned by the angle of the position, every product rounded. */
static void rope(float *out, const float *x, const float *cos, const float *sin, size_t n_heads, size_t head_dim) {
    size_t half = head_dim / 2;
    for (size_t h = 0; h < n_heads; h++, x += head_dim, out += head_dim)
        for (size_t i = 0; i < half; i++) {
            float a = x[i], b = x[half + i];
            out[i] = a * cos[i] - b * sin[i];
            out[half + i] = b * cos[i] + a * sin[i];
        }
}

/* A vector at a time, the last one filled up with zeros. */
#define EACH(name, function)                                 \
    static void name(float *out, const float *x, size_t n) { \
        for (size_t i = 0; i < n; i += LP_N) {               \
            size_t have = lp_size_min(n - i, LP_N);          \
            float part[LP_N] = {0};                          \
            memcpy(part, x + i, have * sizeof *part);        \
            V(store)(part, V(function)(V(load)(part)));      \
            memcpy(out + i, part, have * sizeof *part);      \
        }                                                    \
    }
EACH(exp_row, exp)
EACH(silu_row, silu)

/* Blocks of keys, counted from key 0, each a chain of its own. */
static void mix(float *z, const float *pattern, const float *v, size_t v_stride, size_t n_keys, size_t head_dim) {
    for (size_t d = 0, n; d < head_dim; d += n) {
        float part[LP_N] = {0};
        VEC sum = V(zero)();
        n = lp_size_min(head_dim - d, LP_N);
        for (size_t key = 0, end; key < n_keys; key = end) {
            VEC acc = V(zero)();
            end = lp_size_min(key + LP_K_BLOCK, n_keys);
            for (size_t k = key; k < end; k++) {
                memcpy(part, v + k * v_stride + d, n * sizeof *part);
                VEC p = V(set1)(pattern[k]), x = V(load)(part);
                FMA_INTO(acc, p, x);
            }
            sum = key ? V(add)(sum, acc) : acc;
        }
        V(store)(part, sum);
        memcpy(z + d, part, n * sizeof *part);
    }
}
