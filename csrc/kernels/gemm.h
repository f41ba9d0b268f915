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

NOINLINE void gemm_2(float *c, const float *x, const float *w, size_t kc, int first, const char *soon) {
    T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, soon, 2, ROWS_2);
}
NOINLINE void gemm_1(float *c, const float *x, const float *w, size_t kc, int first) {
#ifdef LP_HALF /* two halves: with one wide vector every product waits for a broadcast (Zen 4: 75 % of the peak) */
    HALF_T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, NULL, 2, ROWS_1);
#else
    T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, NULL, 1, ROWS_1);
#endif
}
NOINLINE void pack_2(float *out, const float *x, size_t stride, size_t m, size_t k) {
    T(pack)(out, x, stride, m, k, 2);
}
NOINLINE void pack_1(float *out, const float *x, size_t stride, size_t m, size_t k) {
    T(pack)(out, x, stride, m, k, 1);
}
NOINLINE void unpack_1(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width, size_t m,
                       size_t n) {
    T(unpack)(y, add, sum, stride, c, width, m, n);
}
#ifdef LP_HALF
NOINLINE void gemm_half(float *c, const float *x, const float *w, size_t kc, int first) {
    HALF_T(tile)(c, x, w, LP_K_BLOCK, 1, kc, 0, first, NULL, 1, ROWS_1);
}
NOINLINE void pack_half(float *out, const float *x, size_t stride, size_t m, size_t k) {
    HALF_T(pack)(out, x, stride, m, k, 1);
}
NOINLINE void unpack_half(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width, size_t m,
                          size_t n) {
    HALF_T(unpack)(y, add, sum, stride, c, width, m, n);
}
#else
#define gemm_half gemm_1
#define pack_half pack_1
#define unpack_half unpack_1
#endif

/* See stream.h. A product with one tile streams; the first tile of more widens the next block for them all. */
typedef void stream_tile(float *c, const float *x, float *ring, int *half, const char *rows, const char *next, size_t k,
                         size_t k0, size_t kc);
typedef void block_tile(float *c, const float *x, const float *w, size_t kc, int first, coming next);

#define STREAM(name, call, word, n_vec, n_rows)                                                                        \
    NOINLINE void name(float *c, const float *x, float *ring, int *half, const char *rows, const char *next, size_t k, \
                       size_t k0, size_t kc) {                                                                         \
        call(c, x, ring, half, rows, next, k, k0, kc, word, n_vec, n_rows);                                            \
    }
#define BLOCK(name, call, word, n_vec, n_rows)                                                        \
    NOINLINE void name(float *c, const float *x, const float *w, size_t kc, int first, coming next) { \
        call(c, x, w, kc, first, next, word, n_vec, n_rows);                                          \
    }
#define FOR_WORDS(define, name, call, n_vec, n_rows)                                                            \
    define(name##_bf16, call, LP_WORD_BF16, n_vec, n_rows) define(name##_f16, call, LP_WORD_F16, n_vec, n_rows) \
        define(name##_f32, call, LP_WORD_F32, n_vec, n_rows)
#define WORDS_OF(name) \
    { name##_bf16, name##_f16, name##_f32 }

FOR_WORDS(STREAM, stream_2, T(stream), 2, ROWS_2)
FOR_WORDS(BLOCK, block_2, T(block), 2, ROWS_2)
#ifdef LP_HALF
FOR_WORDS(STREAM, stream_1, HALF_T(stream), 2, ROWS_1)
FOR_WORDS(STREAM, stream_half, HALF_T(stream), 1, ROWS_1)
FOR_WORDS(BLOCK, block_1, HALF_T(block), 2, ROWS_1)
static stream_tile *const stream_half[] = WORDS_OF(stream_half);
static block_tile *const block_1[] = WORDS_OF(block_1);
#else
FOR_WORDS(STREAM, stream_1, T(stream), 1, ROWS_1)
#define stream_half stream_1
#define block_1 block_2 /* never the first of several */
#endif
static stream_tile *const stream_2[] = WORDS_OF(stream_2), *const stream_1[] = WORDS_OF(stream_1);
static block_tile *const block_2[] = WORDS_OF(block_2);

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

#define BAND_ROWS 48 /* the widened blocks of a band and its sums stay in L2 */

/* A band: `n_rows` rows of one factor, or of gate and of up, one stripe below the other in scratch. A job is bands
 * one after the other. */
typedef struct {
    const lp_product *p;
    const lp_factor *factor; /* of the first stripe */
    size_t row, end;         /* of the band, and of the job */
    size_t n_rows;
    size_t pitch;      /* rows of a stripe in scratch: n_rows rounded up to ROW_UNIT */
    size_t height;     /* rows of all stripes in scratch */
    float *wide[2];    /* [height][LP_K_BLOCK]: the block at work, and the next; with one tile of tokens, strips */
    float *sums;       /* [tile][height][tokens of the tile] */
    int now;           /* which of `wide`, or which strip, is at work */
    const char *ready; /* the weights that it holds; NULL: none yet */
} lp_band;

static size_t round_rows(size_t n) { return (n + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT; }

static size_t band_scratch(size_t m) { return BAND_ROWS * (2 * LP_K_BLOCK + padded_tokens(m)); }

static void set_rows(lp_band *b, size_t row) {
    size_t n_stripes = b->p->gated ? 2 : 1;
    b->row = row;
    b->n_rows = lp_size_min(b->end - row, BAND_ROWS / n_stripes);
    b->pitch = round_rows(b->n_rows);
    b->height = b->pitch * n_stripes;
}

static const lp_factor *factor_of(const lp_band *b, size_t g) { return b->factor + g / b->pitch; }

/* Where row g of the scratch has its weights from column k on. Columns past the last are those of the next band. */
static const char *weights_at(const lp_band *b, size_t g, size_t k) {
    const lp_factor *f = factor_of(b, g);
    size_t row = b->row + g % b->pitch + (k < b->p->k ? 0 : b->n_rows), column = k < b->p->k ? k : k - b->p->k;
    return (const char *)f->w + (row * b->p->k + column) * lp_word_bytes(f->word);
}

/* All rows of the scratch are rows of the matrix, and their columns come in whole strips. */
static int is_whole(const lp_band *b) { return b->pitch == b->n_rows && b->p->k % STRIP == 0; }

/* The job has a band of as many rows after this one. */
static int has_next(const lp_band *b) { return b->row + 2 * b->n_rows <= b->end; }

/* Rows g .. g + n and columns k .. k + kc. */
static void widen_rows(const lp_band *b, size_t g, size_t n, size_t k, size_t kc) {
    for (size_t end = g + n; g < end; g++) {
        float *out = b->wide[b->now] + g * LP_K_BLOCK;
        if (g % b->pitch < b->n_rows)
            widen(out, weights_at(b, g, k), factor_of(b, g)->word, kc);
        else if (k == 0) /* rows past the end are computed too, and never read */
            memset(out, 0, LP_K_BLOCK * sizeof *out);
    }
}

/* Rows g .. g + n of the block at column k for all tokens; meanwhile the first tile widens `n_next` columns of the
 * block that follows it, and the others ask for the x of the next tile: it comes from L3, and later than wanted. */
static void add_block(const lp_band *b, size_t g, size_t n, size_t k, size_t kc, size_t n_next) {
    const lp_product *p = b->p;
    for (size_t m0 = 0, width; m0 < p->m; m0 += width) {
        width = tile_width(p->m - m0);
        size_t rows = width == WIDE ? ROWS_2 : ROWS_1;
        const float *x = p->x_packed + m0 * p->k + k * width, *next_x = x + width * p->k,
                    *next_end = next_x + width * kc;
        float *c = b->sums + m0 * b->height;
        for (size_t i = g; i < g + n; i += rows, next_x += SOON_LINES * 16) {
            const float *w = b->wide[b->now] + i * LP_K_BLOCK;
            lp_word word = factor_of(b, i)->word;
            if (m0 == 0 && n_next) {
                coming next = {b->wide[!b->now] + i * LP_K_BLOCK,
                               LP_K_BLOCK,
                               n_next,
                               weights_at(b, i, k + kc),
                               weights_at(b, i, k + kc + n_next),
                               p->k * lp_word_bytes(word)};
                (width == WIDE ? block_2 : block_1)[word](c + i * width, x, w, kc, k == 0, next);
            } else if (width == WIDE) {
                gemm_2(c + i * width, x, w, kc, k == 0, next_x < next_end ? (const char *)next_x : NULL);
            } else {
                (width == LP_N ? gemm_1 : gemm_half)(c + i * width, x, w, kc, k == 0);
            }
        }
    }
}

/* All rows together, so that a block of x is fetched once for them. */
static void block_band(lp_band *b) {
    size_t k_end = b->p->k;
    for (size_t k = 0, kc; k < k_end; k += kc) {
        kc = lp_size_min(k_end - k, LP_K_BLOCK);
        size_t n_next = lp_size_min(k + kc < k_end ? k_end - k - kc : k_end, LP_K_BLOCK);
        if (!is_whole(b) || n_next > kc || (k + kc == k_end && !has_next(b))) n_next = 0;
        if (b->ready != weights_at(b, 0, k)) widen_rows(b, 0, b->height, k, kc);
        add_block(b, 0, b->height, k, kc, n_next);
        b->ready = n_next ? weights_at(b, 0, k + kc) : NULL;
        b->now = n_next ? !b->now : b->now;
    }
}

/* For the one tile of tokens, as many rows at a time as it takes. */
static void stream_band(lp_band *b) {
    const lp_product *p = b->p;
    size_t width = tile_width(p->m), n = width == WIDE ? ROWS_2 : ROWS_1;
    stream_tile *const *tiles = width == WIDE ? stream_2 : width == LP_N ? stream_1 : stream_half;
    for (size_t g = 0; g < b->height; g += n) {
        lp_word word = factor_of(b, g)->word, next_word = factor_of(b, (g + n) % b->height)->word;
        float *c = b->sums + g * width;
        if (!is_whole(b)) {
            for (size_t k = 0, kc; k < p->k; k += kc) {
                kc = lp_size_min(p->k - k, LP_K_BLOCK);
                widen_rows(b, g, n, k, kc);
                add_block(b, g, n, k, kc, 0);
            }
            continue;
        }
        const char *rows = weights_at(b, g, 0), *next = rows;
        if (next_word == word && (g + n < b->height || has_next(b))) /* gate and up may differ */
            next = g + n < b->height ? weights_at(b, g + n, 0) : weights_at(b, 0, p->k);
        for (size_t i = 0; rows != b->ready && i < n * STRIP; i += PIECE) T(widen_piece)
        (b->wide[0] + (size_t)b->now * MAX_ROWS * STRIP + i,
         rows + (i / STRIP * p->k + i % STRIP) * lp_word_bytes(word), word);
        for (size_t k = 0; k < p->k; k += LP_K_BLOCK)
            tiles[word](c, p->x_packed + k * width, b->wide[0], &b->now, rows, next, p->k, k,
                        lp_size_min(p->k - k, LP_K_BLOCK));
        b->ready = next;
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
        for (size_t s = 0; s * b->pitch < b->height; s++)
            put_row(c + s * b->pitch, b->factor + s, b->row, b->n_rows, t);
        if (!p->gated || (!p->act && !p->hidden)) continue;
        activate(c, NULL, b->n_rows);
        if (p->act) memcpy(p->act + at, c, n_bytes);
        activate(c, up, b->n_rows);
        if (p->hidden) memcpy(p->hidden + at, c, n_bytes);
    }
}

static void finish_tiles(const lp_band *b) {
    for (size_t m0 = 0, width; m0 < b->p->m; m0 += width) {
        width = tile_width(b->p->m - m0);
        finish_tile(b, m0, width);
    }
}

static void bands(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch) {
    size_t block = BAND_ROWS * LP_K_BLOCK;
    lp_band b = {.p = p,
                 .factor = p->factor + factor,
                 .end = row + n_rows,
                 .wide = {scratch, scratch + block},
                 .sums = scratch + 2 * block};
    for (; row < b.end; row += b.n_rows) {
        set_rows(&b, row);
        if (is_direct(p)) {
            direct_band(&b);
            finish_direct(&b);
            continue;
        }
        (n_tiles(p->m) == 1 ? stream_band : block_band)(&b);
        finish_tiles(&b);
    }
}
