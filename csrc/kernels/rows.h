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

static void rms_norm(float *rms, float *unit, float *out, const float *x, const void *w, lp_word word, double eps,
                     size_t d) {
    double mean = sum_squares(x, d) / (double)d;
    float scale = (float)(1.0 / sqrt(mean + eps));
    float gain[64];
    if (rms) *rms = (float)sqrt(mean + eps);
    for (size_t i = 0, n; i < d && (unit || out); i += n) {
        n = lp_size_min(d - i, 64);
        if (out) widen(gain, (const char *)w + i * lp_word_bytes(word), word, n);
        for (size_t j = 0; j < n; j++) {
            float u = x[i + j] * scale;
            if (unit) unit[i + j] = u;
            if (out) out[i + j] = gain[j] * u;
        }
    }
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

static void exp_row(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += LP_N) {
        size_t have = lp_size_min(n - i, LP_N);
        float part[LP_N] = {0};
        memcpy(part, x + i, have * sizeof *part);
        V(store)(part, V(exp)(V(load)(part)));
        memcpy(out + i, part, have * sizeof *part);
    }
}
