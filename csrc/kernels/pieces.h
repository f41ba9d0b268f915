/* pieces.h - a panel of k of some rows of w, widened to float32, and its products.
 *
 * Included once per vector width, after tile.h. A row is pieces of 32 columns; the columns after the last whole piece
 * lie in their order. A piece of bf16 has its even columns first and then the odd ones, because 32 bits of the file
 * become the two with a shift and a mask, one instruction each for as many numbers as a vector has; in their order
 * they would take two, and twice the loads. Sums go through the columns in their order all the same. */
#ifndef LP_PIECES
#define LP_PIECES
#define PIECE 32    /* columns: a line of the cache, which rows 4 KB apart would not leave there for long */
#define K_PANEL 256 /* columns that are widened together: several blocks, for fewer calls */
_Static_assert(K_PANEL % LP_K_BLOCK == 0, "a block lies in one panel");

static inline int is_paired(lp_word word) { return word == LP_WORD_BF16; }
/* Where column u of the next four lies: steps of four columns begin with an even one. */
#define COLUMN(u) (paired ? (size_t)((u) / 2 + (u) % 2 * (PIECE / 2)) : (size_t)(u))

#define X_STEP 256 /* bytes of x that are asked for with every eight columns */
#define X_ASKED (K_PANEL / 8 * X_STEP)

/* What is asked for while a panel is multiplied: x, and of weights as many bytes as w_step says for every four
 * columns; after n_pieces pieces they go on `pitch` bytes from where they began. NULL: nothing. */
typedef struct {
    const char *x, *w;
    size_t w_step, n_pieces, pitch;
} asked;
#endif

/* Four columns of x and w, and on to the next ones. */
#undef FOUR_COLUMNS
#define FOUR_COLUMNS                                              \
    do {                                                          \
        UNROLL for (int u = 0; u < 4; u++) STEP_AT(u, COLUMN(u)); \
        x += 4 * (size_t)n_vec * LP_N;                            \
        w += paired ? 2 : 4;                                      \
    } while (0)
#undef END_OF_PIECE
#define END_OF_PIECE (w += paired ? PIECE / 2 : 0)

INLINE void T(widen_piece)(float *out, const char *w, lp_word word) {
    UNROLL for (size_t i = 0; i < PIECE; i += is_paired(word) ? 2 * LP_N : LP_N) {
        const char *from = w + i * lp_word_bytes(word);
        if (is_paired(word)) {
            VEC even, odd;
            V(split_bf16)(&even, &odd, from);
            V(store)(out + i / 2, even);
            V(store)(out + i / 2 + PIECE / 2, odd);
        } else {
            V(store)(out + i, T(widen_words)(from, word));
        }
    }
}

/* The same to where only such pieces went before, and zeros before them. */
INLINE void T(spread_piece)(float *out, const char *w, lp_word word) {
#ifdef SPREAD_BF16
    if (is_paired(word)) {
        UNROLL for (size_t i = 0; i < PIECE / 2; i += LP_N) V(spread_bf16)(out + i, out + PIECE / 2 + i, w + 4 * i);
        return;
    }
#endif
    T(widen_piece)(out, w, word);
}

/* A row of a panel. */
INLINE void T(widen_block)(float *out, const char *w, lp_word word, size_t n) {
    size_t i = 0, bytes = lp_word_bytes(word);
    for (; i + PIECE <= n; i += PIECE) T(widen_piece)(out + i, w + i * bytes, word);
    for (; i < n; i++) out[i] = lp_weight_float(w + i * bytes, word);
}

/* As T(tile) block after block, of kc columns of rows that were widened, while lines are asked for. */
INLINE void T(multiply)(float *c, const float *x, const float *w, size_t kc, int first, asked a, const int paired,
                        const int n_vec, const int n_rows) {
    const size_t row_stride = K_PANEL, k_stride = 1;
    const char *soon_x = a.x ? a.x : (const char *)x, *soon_w = a.w ? a.w : (const char *)x;
    size_t x_step = a.x ? X_STEP : 0, k = 0, piece = 0;
    do {
        size_t end = lp_size_min(k + LP_K_BLOCK, kc);
        VEC acc[MAX_ROWS][MAX_VECS];
        UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
        for (; k + PIECE <= end; k += PIECE) {
            for (size_t i = 0; i < PIECE / 8; i++, soon_w += 2 * a.w_step, soon_x += x_step) {
                __builtin_prefetch(soon_w, 0, 2);
                __builtin_prefetch(soon_x, 0, 2);
                __builtin_prefetch(soon_x + 64, 0, 2);
                FOUR_COLUMNS;
                __builtin_prefetch(soon_w + a.w_step, 0, 2);
                __builtin_prefetch(soon_x + 128, 0, 2);
                __builtin_prefetch(soon_x + 192, 0, 2);
                FOUR_COLUMNS;
            }
            END_OF_PIECE;
            if (++piece == a.n_pieces) piece = 0, a.w += a.pitch, soon_w = a.w;
        }
        for (; k < end; k++) {
            STEP(0);
            x += (size_t)n_vec * LP_N;
            w++;
        }
        T(keep)(c, acc, first, n_vec, n_rows);
        first = 0;
    } while (k < kc);
}
