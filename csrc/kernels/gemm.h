/* gemm.h - y = x w^T for a band of rows of w and all tokens; every row of kernels has this body.
 *
 * For each block of 256 columns the band's rows are widened to float32 in scratch, once, and serve all tiles of
 * tokens. Sums of a band stay in scratch as [tile][row][token of the tile] until the last block; then bias, silu
 * and the residual are applied there and the result is turned to rows of tokens. w is read exactly once.
 *
 * The including file sets LP_N, ROWS_2 and ROWS_1 (rows of w in a tile of two vectors and of one: as many sums as
 * the registers hold), and LP_HALF where a narrower vector serves a few tokens faster. */
#define ROW_UNIT 12 /* a multiple of every tile's rows */
#define WIDE (2 * LP_N)

#ifdef LP_HALF
#define HALF_T(name) V_CAT(name, _, LP_HALF)
#define NARROW LP_HALF
#define NARROW_T(name) HALF_T(name)
#else
#define NARROW LP_N
#define NARROW_T(name) T(name)
#endif

/* Tokens in the tile that begins where `left` tokens are still to do: little is idle, nothing is narrow. */
static size_t tile_width(size_t left) {
    if (left > WIDE - NARROW) return WIDE;
    return left > NARROW ? LP_N : NARROW;
}

NOINLINE void gemm_2(float *c, const float *x, const float *w, size_t kc, int first, const char *ahead, size_t stride) {
    T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, ahead, stride, 2, ROWS_2);
}
NOINLINE void gemm_1(float *c, const float *x, const float *w, size_t kc, int first, const char *ahead, size_t stride) {
#ifdef LP_HALF /* two halves: with one wide vector every product waits for a broadcast (Zen 4: 75 % of the peak) */
    HALF_T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, ahead, stride, 2, ROWS_1);
#else
    T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, ahead, stride, 1, ROWS_1);
#endif
}
NOINLINE void pack_2(float *out, const float *x, size_t stride, size_t m, size_t k) { T(pack)(out, x, stride, m, k, 2); }
NOINLINE void pack_1(float *out, const float *x, size_t stride, size_t m, size_t k) { T(pack)(out, x, stride, m, k, 1); }
NOINLINE void unpack_1(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width, size_t m,
                       size_t n) {
    T(unpack)(y, add, sum, stride, c, width, m, n);
}
#ifdef LP_HALF
NOINLINE void gemm_half(float *c, const float *x, const float *w, size_t kc, int first, const char *ahead,
                        size_t stride) {
    HALF_T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, ahead, stride, 1, ROWS_1);
}
NOINLINE void pack_half(float *out, const float *x, size_t stride, size_t m, size_t k) {
    HALF_T(pack)(out, x, stride, m, k, 1);
}
NOINLINE void unpack_half(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width,
                          size_t m, size_t n) {
    HALF_T(unpack)(y, add, sum, stride, c, width, m, n);
}
#else
#define gemm_half gemm_1
#define pack_half pack_1
#define unpack_half unpack_1
#endif

/* One block of k for one tile of tokens; see stream.h. */
typedef void stream_tile(float *c, const float *x, float *ring, int *half, const char *rows, const char *next, size_t k,
                         size_t k0, size_t kc);
#define STREAM(name, call, word, n_vec, n_rows)                                                                        \
    NOINLINE void name(float *c, const float *x, float *ring, int *half, const char *rows, const char *next, size_t k, \
                       size_t k0, size_t kc) {                                                                         \
        call(c, x, ring, half, rows, next, k, k0, kc, word, n_vec, n_rows);                                            \
    }
#define STREAM_WORDS(name, call, n_vec, n_rows)                                                                        \
    STREAM(name##_bf16, call, LP_WORD_BF16, n_vec, n_rows)                                                             \
    STREAM(name##_f16, call, LP_WORD_F16, n_vec, n_rows)                                                               \
    STREAM(name##_f32, call, LP_WORD_F32, n_vec, n_rows)

STREAM_WORDS(stream_2, T(stream), 2, ROWS_2)
#ifdef LP_HALF
STREAM_WORDS(stream_1, HALF_T(stream), 2, ROWS_1)
STREAM_WORDS(stream_half, HALF_T(stream), 1, ROWS_1)
#else
STREAM_WORDS(stream_1, T(stream), 1, ROWS_1)
#define stream_half_bf16 stream_1_bf16
#define stream_half_f16 stream_1_f16
#define stream_half_f32 stream_1_f32
#endif

static void pack_tokens(float *out, const float *x, size_t stride, size_t width, size_t m, size_t k) {
    (width == WIDE ? pack_2 : width == LP_N ? pack_1 : pack_half)(out, x, stride, m, k);
}

/* Columns 0 .. width of c [n][width], m of them tokens. */
static void unpack_tokens(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width, size_t m,
                          size_t n) {
    for (size_t v = 0; v < m; v += LP_N) {
        size_t at = v * stride;
        (width < LP_N ? unpack_half : unpack_1)(y ? y + at : NULL, add ? add + at : NULL, sum ? sum + at : NULL, stride,
                                                c + v, width, lp_size_min(m - v, LP_N), n);
    }
}

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

/* ---- packing: a unit is some columns of one tile ------------------------------------------------------------- */

#define PACK_COLUMNS 2048

static size_t n_tiles(size_t m) {
    size_t left = m % WIDE, n = m / WIDE;
    for (; left; n++) left -= lp_size_min(left, tile_width(left));
    return n;
}

/* Only the tiles that end a product are not WIDE, and there are at most two of them. */
static size_t tile_start(size_t m, size_t tile) {
    size_t n_wide = m / WIDE;
    return tile <= n_wide ? tile * WIDE : n_wide * WIDE + tile_width(m % WIDE);
}

static size_t padded_tokens(size_t m) {
    size_t start = tile_start(m, n_tiles(m) - 1);
    return start + tile_width(m - start);
}

static size_t packed_size(size_t m, size_t k) { return padded_tokens(m) * k; }

/* Few tokens and rows enough for a vector of them. */
static int is_direct(const lp_product *p) {
    for (size_t f = 0; f < p->n_factors; f++)
        if (p->factor[f].n_rows < NARROW) return 0;
    return p->m <= DIRECT_TOKENS;
}

static size_t pack_units(const lp_product *p) {
    return is_direct(p) ? 0 : n_tiles(p->m) * ((p->k + PACK_COLUMNS - 1) / PACK_COLUMNS);
}

static void pack(const lp_product *p, size_t unit) {
    size_t n = n_tiles(p->m), m0 = tile_start(p->m, unit % n), width = tile_width(p->m - m0);
    size_t k0 = unit / n * PACK_COLUMNS, kc = lp_size_min(p->k - k0, PACK_COLUMNS);
    pack_tokens(p->x_packed + m0 * p->k + k0 * width, p->x + m0 * p->k + k0, p->k, width, lp_size_min(p->m - m0, width),
                kc);
}

/* ---- the band ------------------------------------------------------------------------------------------------ */

/* A band: `n_rows` rows of one factor, or of gate and of up, one stripe below the other in scratch. */
typedef struct {
    const lp_product *p;
    const lp_factor *factor; /* of the first stripe */
    size_t row, n_rows;
    size_t pitch;  /* rows of a stripe in scratch: n_rows rounded up to ROW_UNIT */
    size_t height; /* rows of all stripes in scratch */
    float *wide;   /* [height][LP_K_BLOCK] */
    float *sums;   /* [tile][height][tokens of the tile] */
} lp_band;

static size_t round_rows(size_t n) { return (n + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT; }

static size_t band_scratch(size_t m, size_t n_rows, int gated) {
    return round_rows(n_rows) * (gated ? 2 : 1) * (LP_K_BLOCK + padded_tokens(m));
}

/* Where row g of the scratch has its weights from column k on; NULL past the end of the matrix. */
static const char *weights_at(const lp_band *b, size_t g, size_t k) {
    const lp_factor *f = b->factor + g / b->pitch;
    size_t row = b->row + g % b->pitch;
    return row < f->n_rows ? (const char *)f->w + (row * b->p->k + k) * lp_word_bytes(f->word) : NULL;
}

static void widen_rows(const lp_band *b, size_t g, size_t n, size_t k, size_t kc) {
    for (size_t end = g + n; g < end; g++) {
        float *out = b->wide + g * LP_K_BLOCK;
        if (g % b->pitch < b->n_rows)
            widen(out, weights_at(b, g, k), b->factor[g / b->pitch].word, kc);
        else if (k == 0) /* rows past the end are computed too, and never read */
            memset(out, 0, LP_K_BLOCK * sizeof *out);
    }
}

/* The weights that will be wanted when row g is done with columns k .. k + 256. */
static const char *weights_after(const lp_band *b, size_t g, size_t k, size_t n_at_once) {
    if (k + LP_K_BLOCK < b->p->k) return weights_at(b, g, k + LP_K_BLOCK);
    if (g + n_at_once < b->height) return weights_at(b, g + n_at_once, 0);
    return weights_at(b, g, 0);
}

/* Rows g .. g + n and columns k .. k + kc for all tokens. */
static void add_block(const lp_band *b, size_t g, size_t n, size_t k, size_t kc) {
    const lp_product *p = b->p;
    widen_rows(b, g, n, k, kc);
    for (size_t m0 = 0, width; m0 < p->m; m0 += width) {
        width = tile_width(p->m - m0);
        size_t rows = width == WIDE ? ROWS_2 : ROWS_1;
        const float *x = p->x_packed + m0 * p->k + k * width;
        float *c = b->sums + m0 * b->height;
        for (size_t i = g; i < g + n; i += rows) {
            size_t stride = p->k * lp_word_bytes(b->factor[i / b->pitch].word);
            (width == WIDE ? gemm_2 : width == LP_N ? gemm_1 : gemm_half)(
                c + i * width, x, b->wide + i * LP_K_BLOCK, kc, k == 0, m0 ? NULL : weights_after(b, i, k, n), stride);
        }
    }
}

/* Rows g .. g + n are all of the matrix, and their columns come in whole strips. */
static int can_stream(const lp_band *b, size_t g, size_t n) {
    return g < b->height && g % b->pitch + n <= b->n_rows && b->p->k % STRIP == 0;
}

/* All rows for the one tile of tokens, as many at a time as a tile takes. */
static void stream_band(const lp_band *b) {
    const lp_product *p = b->p;
    size_t width = tile_width(p->m), n = width == WIDE ? ROWS_2 : ROWS_1;
    static stream_tile *const tiles[3][3] = {{stream_2_bf16, stream_2_f16, stream_2_f32},
                                             {stream_1_bf16, stream_1_f16, stream_1_f32},
                                             {stream_half_bf16, stream_half_f16, stream_half_f32}};
    const char *in_ring = NULL; /* the rows whose first strip is in the ring */
    int half = 0;
    for (size_t g = 0; g < b->height; g += n) {
        float *c = b->sums + g * width;
        lp_word word = b->factor[g / b->pitch].word; /* gate and up may differ */
        size_t stride = p->k * lp_word_bytes(word);
        if (!can_stream(b, g, n)) {
            for (size_t k = 0; k < p->k; k += LP_K_BLOCK) add_block(b, g, n, k, lp_size_min(p->k - k, LP_K_BLOCK));
            in_ring = NULL;
            continue;
        }
        const char *rows = weights_at(b, g, 0), *next = rows;
        if (can_stream(b, g + n, n) && b->factor[(g + n) / b->pitch].word == word) next = weights_at(b, g + n, 0);
        for (size_t i = 0; rows != in_ring && i < n * STRIP; i += PIECE)
            T(widen_piece)(b->wide + (size_t)half * MAX_ROWS * STRIP + i,
                           rows + i / STRIP * stride + i % STRIP * lp_word_bytes(word), word);
        for (size_t k = 0; k < p->k; k += LP_K_BLOCK)
            tiles[width == WIDE ? 0 : width == LP_N ? 1 : 2][word](c, p->x_packed + k * width, b->wide, &half, rows, next,
                                                                   p->k, k, lp_size_min(p->k - k, LP_K_BLOCK));
        in_ring = next;
    }
}

static void add_bias(float *c, const lp_factor *f, size_t row, size_t n, size_t width) {
    if (!f->bias) return;
    for (size_t r = 0; r < n; r++, c += width) {
        float bias;
        widen(&bias, (const char *)f->bias + (row + r) * lp_word_bytes(f->word), f->word, 1);
        for (size_t i = 0; i < width; i++) c[i] += bias;
    }
}

/* out = silu(out), or out *= by where `by` is given; n is a multiple of NARROW. */
NOINLINE void activate(float *out, const float *by, size_t n) {
    for (size_t i = 0; i < n; i += LP_N) {
        size_t have = lp_size_min(n - i, LP_N);
        float a[LP_N] = {0}, b[LP_N] = {0};
        memcpy(a, out + i, have * sizeof *a);
        if (by) memcpy(b, by + i, have * sizeof *b);
        V(store)(a, by ? V(mul)(V(load)(a), V(load)(b)) : V(silu)(V(load)(a)));
        memcpy(out + i, a, have * sizeof *a);
    }
}

/* Rows of the band for the tokens of one tile, from c [n_rows][width] to y [m, n_rows of the matrix]. */
static void put(const lp_band *b, float *y, const float *add, float *sum, const float *c, size_t m0, size_t width) {
    size_t stride = b->factor->n_rows, at = m0 * stride + b->row;
    if (!y && !sum) return;
    unpack_tokens(y ? y + at : NULL, add ? add + at : NULL, sum ? sum + at : NULL, stride, c, width,
                  lp_size_min(b->p->m - m0, width), b->n_rows);
}

/* All of k is summed: bias, the residual, silu, and out to where the values are asked for. */
static void finish_tile(const lp_band *b, size_t m0, size_t width) {
    const lp_product *p = b->p;
    float *c = b->sums + m0 * b->height, *up = c + b->pitch * width;
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_factor *f = b->factor + s;
        add_bias(c + s * b->pitch * width, f, b->row, b->n_rows, width);
        put(b, f->y, f->add, f->sum, c + s * b->pitch * width, m0, width);
    }
    if (!p->gated || (!p->act && !p->hidden)) return;
    activate(c, NULL, b->n_rows * width);
    put(b, p->act, NULL, NULL, c, m0, width);
    if (!p->hidden) return;
    activate(c, up, b->n_rows * width);
    put(b, p->hidden, NULL, NULL, c, m0, width);
}

/* Rows of all stripes for few tokens: sums [token][height], from which the results are made row by row. */
static void direct_band(const lp_band *b) {
    const lp_product *p = b->p;
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_factor *f = b->factor + s;
        NARROW_T(direct_fn) *direct = NARROW_T(direct_table)[p->m - 1][f->word];
        for (size_t r = 0; r < b->n_rows; r += NARROW) {
            /* the last vector of a matrix begins earlier: rows that were done are done again */
            size_t row = lp_size_min(b->row + r, f->n_rows - NARROW);
            float *out = b->sums + s * b->pitch + r, part[MAX_TOKENS * NARROW];
            direct(part, NARROW, p->x, (const char *)f->w + row * p->k * lp_word_bytes(f->word), p->k);
            size_t skip = b->row + r - row, n = lp_size_min(NARROW - skip, b->n_rows - r);
            for (size_t t = 0; t < p->m; t++) memcpy(out + t * b->height, part + t * NARROW + skip, n * sizeof *out);
        }
    }
}

/* One row of results: y = c + bias, sum = add + y. */
static void put_row(float *c, const lp_factor *f, size_t row, size_t n, size_t token) {
    size_t at = token * f->n_rows + row;
    add_bias(c, f, row, n, 1);
    if (f->y) memcpy(f->y + at, c, n * sizeof *c);
    for (size_t i = 0; f->sum && i < n; i++) f->sum[at + i] = f->add[at + i] + c[i];
}

static void finish_direct(const lp_band *b) {
    const lp_product *p = b->p;
    for (size_t t = 0; t < p->m; t++) {
        float *c = b->sums + t * b->height, *up = c + b->pitch;
        size_t at = t * b->factor->n_rows + b->row, n_bytes = b->n_rows * sizeof *c;
        for (size_t s = 0; s * b->pitch < b->height; s++) put_row(c + s * b->pitch, b->factor + s, b->row, b->n_rows, t);
        if (!p->gated || (!p->act && !p->hidden)) continue;
        activate(c, NULL, b->n_rows);
        if (p->act) memcpy(p->act + at, c, n_bytes);
        activate(c, up, b->n_rows);
        if (p->hidden) memcpy(p->hidden + at, c, n_bytes);
    }
}

static void band(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch) {
    size_t pitch = round_rows(n_rows), height = pitch * (p->gated ? 2 : 1);
    lp_band b = {p, p->factor + factor, row, n_rows, pitch, height, scratch, scratch + height * LP_K_BLOCK};
    if (is_direct(p)) {
        direct_band(&b);
        finish_direct(&b);
        return;
    }
    if (n_tiles(p->m) == 1) {
        stream_band(&b);
    } else { /* all rows go together, so that a block of x is fetched once for them */
        for (size_t k = 0; k < p->k; k += LP_K_BLOCK) add_block(&b, 0, height, k, lp_size_min(p->k - k, LP_K_BLOCK));
    }
    for (size_t m0 = 0, width; m0 < p->m; m0 += width) {
        width = tile_width(p->m - m0);
        finish_tile(&b, m0, width);
    }
}
