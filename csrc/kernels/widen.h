/* widen.h - a row of weights to float32. */
static void widen(float *out, const void *w, lp_word word, size_t n) {
    const char *from = w;
    size_t i = 0, bytes = lp_word_bytes(word);
    for (; i + LP_N <= n; i += LP_N) V(store)(out + i, T(widen_words)(from + i * bytes, word));
    for (; i < n; i++) out[i] = lp_weight_float(from + i * bytes, word);
}
