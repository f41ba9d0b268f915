/* tiles.h - the functions that compute a tile of so many tokens, and which tiles some tokens are cut into.
 *
 * The including file sets LP_N, ROWS_2 and ROWS_1 (rows of w in a tile of two vectors and of one: as many sums as
 * the registers hold), ROWS_4 where a tile of four vectors serves the last tokens, LP_HALF where a narrower vector
 * serves a few tokens faster, HALVES where it also serves more, BF16_LINES where lines.h is included for both,
 * DIRECT_WIDE where direct.h is, SPREAD_BF16 where a masked store costs less than a shift and a mask, and FAR_TOKENS:
 * the results of so many tokens leave the caches. */
#define ROW_UNIT 12 /* a multiple of every tile's rows */
#define WIDE (2 * LP_N)
#ifdef ROWS_4
#define WIDEST (4 * LP_N)
#else
#define WIDEST WIDE
#endif

#ifdef LP_HALF
#define HALF_T(name) V_CAT(name, _, LP_HALF)
#define NARROW LP_HALF
#define NARROW_T(name) HALF_T(name)
#else
#define NARROW LP_N
#define NARROW_T(name) T(name)
#endif

/* Where a wide vector is one multiply-add, idle lanes cost less than a second tile does. */
#ifdef HALVES
#define LEAST_WIDE (WIDE - NARROW + 1)
#else
#define LEAST_WIDE (LP_N + 1)
#endif

/* Tokens in the tile that begins where `left` tokens are still to do: little is idle, nothing is narrow, and the last
 * ones share what is widened. */
static size_t tile_width(size_t left) {
    if (left > WIDE + LP_N && left <= WIDEST) return WIDEST;
    if (left >= LEAST_WIDE) return WIDE;
    return left > NARROW ? LP_N : NARROW;
}

enum tile_kind { HALF_TILE, ONE_TILE, WIDE_TILE, WIDEST_TILE };

static enum tile_kind kind_of(size_t width) {
    if (width > WIDE) return WIDEST_TILE;
    return width == WIDE ? WIDE_TILE : width == LP_N ? ONE_TILE : HALF_TILE;
}
static size_t tile_rows(size_t width) {
#ifdef ROWS_4
    if (width > WIDE) return ROWS_4;
#endif
    return width == WIDE ? ROWS_2 : ROWS_1;
}

/* The tiles before the last WIDEST tokens are all WIDE. */
static size_t n_leading(size_t m) { return m > WIDEST ? (m - WIDEST + WIDE - 1) / WIDE : 0; }

static size_t tile_start(size_t m, size_t tile) {
    size_t n = lp_size_min(tile, n_leading(m)), start = n * WIDE;
    for (; n < tile; n++) start += tile_width(m - start);
    return start;
}

static size_t n_tiles(size_t m) {
    size_t n = n_leading(m), start = n * WIDE;
    for (; start < m; n++) start += tile_width(m - start);
    return n;
}

static int is_streamed(size_t m) { return m <= WIDE && n_tiles(m) == 1; }

static size_t padded_tokens(size_t m) { return tile_start(m, n_tiles(m)); }

/* Over widened rows; see pieces.h. */
typedef void gemm_tile(float *c, const float *x, const float *w, size_t kc, int first, const asked *a);
#define GEMM(name, call, paired, n_vec, n_rows)                                                          \
    NOINLINE void name(float *c, const float *x, const float *w, size_t kc, int first, const asked *a) { \
        call(c, x, w, kc, first, *a, paired, n_vec, n_rows);                                             \
    }
#define GEMM_BOTH(name, call, n_vec, n_rows) \
    GEMM(name##_plain, call, 0, n_vec, n_rows) GEMM(name##_paired, call, 1, n_vec, n_rows)
#define BOTH_OF(name) {name##_plain, name##_paired}

/* Where the multipliers are 256 bits wide, a tile of 16 lanes is two halves: with one wide vector every product would
 * wait for a broadcast (Zen 4: 75 % of the peak). */
#if defined(LP_HALF) && defined(HALVES)
#define ONE_T HALF_T
#define ONE_VECS 2
#else
#define ONE_T T
#define ONE_VECS 1
#endif

#ifdef ROWS_4
GEMM_BOTH(gemm_widest, T(multiply), 4, ROWS_4)
#define IF_WIDEST(...) __VA_ARGS__
#else
#define IF_WIDEST(...)
#endif
GEMM_BOTH(gemm_2, T(multiply), 2, ROWS_2)
GEMM_BOTH(gemm_1, ONE_T(multiply), ONE_VECS, ROWS_1)
#ifdef LP_HALF
GEMM_BOTH(gemm_half, HALF_T(multiply), 1, ROWS_1)
static gemm_tile *const gemm_tiles[][2] = {BOTH_OF(gemm_half), BOTH_OF(gemm_1), BOTH_OF(gemm_2),
                                           IF_WIDEST(BOTH_OF(gemm_widest))};
#else
static gemm_tile *const gemm_tiles[][2] = {BOTH_OF(gemm_1), BOTH_OF(gemm_1), BOTH_OF(gemm_2),
                                           IF_WIDEST(BOTH_OF(gemm_widest))};
#endif

/* See stream.h and lines.h. A product with one tile of WIDE tokens at most streams; otherwise the first tile widens the
 * next block for all. */
typedef void stream_tile(float *c, const float *x, row_stream *s);
typedef void block_tile(float *c, const float *x, const float *w, size_t kc, int first, const next_block *next);

#define STREAM(name, call, word, n_vec, n_rows) \
    NOINLINE void name(float *c, const float *x, row_stream *s) { call(c, x, s, word, n_vec, n_rows); }
#define BLOCK(name, call, word, n_vec, n_rows)                                                                   \
    NOINLINE void name(float *c, const float *x, const float *w, size_t kc, int first, const next_block *next) { \
        call(c, x, w, kc, first, *next, word, n_vec, n_rows);                                                    \
    }
#define FOR_WORDS(define, name, call, n_vec, n_rows)                                                            \
    define(name##_bf16, call, LP_WORD_BF16, n_vec, n_rows) define(name##_f16, call, LP_WORD_F16, n_vec, n_rows) \
        define(name##_f32, call, LP_WORD_F32, n_vec, n_rows)
#define WORDS_OF(name) {name##_bf16, name##_f16, name##_f32}

FOR_WORDS(STREAM, stream_2, T(stream), 2, ROWS_2)
FOR_WORDS(STREAM, stream_1, ONE_T(stream), ONE_VECS, ROWS_1)
FOR_WORDS(BLOCK, block_2, T(block), 2, ROWS_2)
#ifdef ROWS_4
FOR_WORDS(BLOCK, block_widest, T(block), 4, ROWS_4)
#endif
#ifdef LP_HALF
FOR_WORDS(STREAM, stream_half, HALF_T(stream), 1, ROWS_1)
static stream_tile *const stream_tiles[][3] = {WORDS_OF(stream_half), WORDS_OF(stream_1), WORDS_OF(stream_2)};
#else
static stream_tile *const stream_tiles[][3] = {WORDS_OF(stream_1), WORDS_OF(stream_1), WORDS_OF(stream_2)};
#endif
/* The first of several tiles is never the narrowest. */
#if LEAST_WIDE > LP_N + 1
FOR_WORDS(BLOCK, block_1, ONE_T(block), ONE_VECS, ROWS_1)
static block_tile *const block_tiles[][3] = {
    {NULL}, WORDS_OF(block_1), WORDS_OF(block_2), IF_WIDEST(WORDS_OF(block_widest))};
#else
static block_tile *const block_tiles[][3] = {{NULL}, {NULL}, WORDS_OF(block_2), IF_WIDEST(WORDS_OF(block_widest))};
#endif

/* bf16 that are broadcast as they lie. */
#ifdef BF16_LINES
#define LINES(name, call, n_vec, n_rows) \
    NOINLINE void name(float *c, const float *x, row_stream *s) { call(c, x, s, n_vec, n_rows); }
LINES(lines_2, T(lines), 2, ROWS_2)
LINES(lines_1, ONE_T(lines), ONE_VECS, ROWS_1)
LINES(lines_half, HALF_T(lines), 1, ROWS_1)
static stream_tile *const lines_tiles[] = {lines_half, lines_1, lines_2};
#endif

/* Which tile streams n rows of w from `row` on, k columns each. */
static stream_tile *stream_tile_of(enum tile_kind kind, const lp_factor *f, size_t row, size_t n, size_t k) {
#ifdef BF16_LINES
    if (f->w->word == LP_WORD_BF16 && NARROW_T(lines_inside)(lp_weight_at(f->w, 0, 0), f->w->n_rows, row, n, k))
        return lines_tiles[kind];
#else
    (void)row, (void)n, (void)k;
#endif
    return stream_tiles[kind][f->w->word];
}

/* For few tokens: rows of w in the vector that begins where `left` rows are still to do, and what multiplies them. The
 * other words are turned to columns in more registers than there are; one token waits for RAM, and for fewer rows that
 * are read side by side a little less. */
static size_t direct_lanes(size_t left, size_t n_tokens, lp_word word) {
#ifdef DIRECT_WIDE
    if (left >= LP_N && n_tokens > 1 && word == LP_WORD_BF16) return LP_N;
#endif
    (void)left, (void)n_tokens, (void)word;
    return NARROW;
}

static direct_tile *direct_of(size_t lanes, size_t n_tokens, lp_word word) {
#ifdef DIRECT_WIDE
    if (lanes == LP_N) return T(direct_table)[n_tokens - 1][word];
#endif
    (void)lanes;
    return NARROW_T(direct_table)[n_tokens - 1][word];
}
