/* widen.h - weights to float32. */
static void widen(float *out, const void *w, lp_word word, size_t n) {
    const char *from = w;
    size_t i = 0;
    if (word == LP_WORD_F32) {
        memcpy(out, w, n * sizeof *out);
        return;
    }
    if (word == LP_WORD_BF16) {
        for (; i + LP_N <= n; i += LP_N) V(store)(out + i, V(widen_bf16)(from + 2 * i));
        for (; i < n; i++) out[i] = lp_bf16_float(w, i);
    } else {
        for (; i + LP_N <= n; i += LP_N) V(store)(out + i, V(widen_f16)(from + 2 * i));
        for (; i < n; i++) out[i] = lp_f16_float(w, i);
    }
}
