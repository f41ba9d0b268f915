/* gemm.h - y = x w^T for a band of rows of w and all tokens; every row of kernels has this body.
 *
 * For each block of 256 columns the band's rows are widened to float32 in scratch, once, and serve all tiles of
 * tokens. Sums of a band stay in scratch as [tile][row][token of the tile] until the last block; then bias, silu
 * and the residual are applied there and the result is turned to rows of tokens. w is read exactly once. */
#include "tiles.h"
#include "widen.h"
#include "packing.h"
#include "band.h"
#include "finish.h"

/* Rows g .. g + n and columns k .. k + kc. */
static void widen_rows(const lp_band *b, size_t g, size_t n, size_t k, size_t kc) {
    for (size_t end = g + n; g < end; g++) {
        float *out = b->wide[b->now] + g * LP_K_BLOCK;
        if (g % b->pitch < b->n_rows)
            T(widen_block)(out, weights_at(b, g, k), factor_of(b, g)->word, kc);
        else if (k == 0) /* rows past the end are computed too, and never read */
            memset(out, 0, LP_K_BLOCK * sizeof *out);
    }
}

/* What the tile of rows i .. i + rows widens meanwhile: n columns of the next block. */
static coming next_block(const lp_band *b, size_t i, size_t k, size_t n, int asks) {
    lp_word word = factor_of(b, i)->word;
    return (coming){.to = b->wide[!b->now] + i * LP_K_BLOCK,
                    .to_stride = LP_K_BLOCK,
                    .n = n,
                    .from = weights_at(b, i, k),
                    .from_stride = b->p->k * lp_word_bytes(word),
                    .after = asks ? weights_at(b, i, k + n) : NULL,
                    .after_row = b->p->k * lp_word_bytes(word),
                    .after_piece = PIECE * lp_word_bytes(word)};
}

/* How many rows of weights each of n_calls tiles asks for, so that they ask for all of them, evenly: weights that came
 * all at once would keep the core waiting, and everything else that comes from a cache. 0: too few tiles. */
static size_t rows_asked(size_t height, size_t n_calls, lp_word word) {
    size_t n = word == LP_WORD_F32 ? 4 : 8; /* a line for every four columns, at most */
    if (n * n_calls < height) return 0;
    while (n > 1 && n / 2 * n_calls >= height) n /= 2;
    return n;
}

/* A block of k of n rows from row g on. */
static asked block_asked(const lp_band *b, size_t g, size_t n, size_t k) {
    size_t bytes = lp_word_bytes(factor_of(b, g)->word);
    return (asked){.w = weights_at(b, g, k),
                   .w_step = 4 * n * bytes,
                   .n_pieces = LP_K_BLOCK / PIECE / n,
                   .pitch = b->p->k * bytes};
}

/* Rows g .. g + n of the block at column k for all tokens; meanwhile the first tile widens `n_next` columns of the
 * block that follows it, and the others ask for the weights of the one after that, and for the x of the next tile
 * (after the last, of the first one of the next block): it comes from L3, and later than wanted. */
static void add_block(const lp_band *b, size_t g, size_t n, size_t k, size_t kc, size_t n_next) {
    const lp_product *p = b->p;
    size_t n_wide = p->m / WIDE, n_asked = 0, g_asked = g;
    if (n_next == LP_K_BLOCK && n_wide) n_asked = rows_asked(n, (n_wide - 1) * (n / ROWS_2), factor_of(b, g)->word);
    for (size_t m0 = 0, width; m0 < p->m; m0 += width) {
        width = tile_width(p->m - m0);
        size_t rows = tile_rows(width);
        const float *x = p->x_packed + m0 * p->k + k * width, *next_x = x + width * p->k, *next_end;
        if (m0 + width >= p->m) next_x = p->x_packed + (k + kc < p->k ? k + kc : 0) * tile_width(p->m);
        next_end = next_x + width * kc;
        float *c = b->sums + m0 * b->height;
        for (size_t i = g; i < g + n; i += rows, next_x += LP_K_BLOCK * 8) {
            const float *w = b->wide[b->now] + i * LP_K_BLOCK;
            lp_word word = factor_of(b, i)->word;
            if (m0 == 0 && n_next) {
                coming next = next_block(b, i, k + kc, n_next, !n_asked);
                block_tiles[kind_of(width)][word](c + i * width, x, w, kc, k == 0, next);
                continue;
            }
            asked a = {0};
            if (width == WIDE && n_asked && g_asked < g + n) {
                a = block_asked(b, g_asked, n_asked, k + kc + n_next);
                g_asked += n_asked;
            }
            if (width == WIDE && next_x < next_end) a.x = (const char *)next_x;
            gemm_tiles[kind_of(width)][is_paired(word)](c + i * width, x, w, kc, k == 0, a);
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

/* Rows g .. g + n for the one tile of tokens, and beforehand the first weights of the rows that follow, where those
 * are in the band or in the next one and are streamed in the same way. */
static void stream_rows(lp_band *b, size_t g, size_t n) {
    const lp_product *p = b->p;
    size_t width = tile_width(p->m), next_g = (g + n) % b->height, k = next_g ? 0 : p->k;
    int follows = next_g || has_next(b);
    stream_tile *tile = band_tile(b, g, n, 0);
    row_stream *s = &b->stream;
    s->k = p->k;
    s->rows = weights_at(b, g, 0);
    s->next = follows && band_tile(b, next_g, n, k) == tile ? weights_at(b, next_g, k) : s->rows;
    for (size_t k0 = 0; k0 < p->k; k0 += LP_K_BLOCK)
        tile(b->sums + g * width, p->x_packed + k0 * width, s, k0, lp_size_min(p->k - k0, LP_K_BLOCK));
}

/* For the one tile of tokens, as many rows at a time as it takes. */
static void stream_band(lp_band *b) {
    size_t n = tile_rows(tile_width(b->p->m)), k_end = b->p->k;
    for (size_t g = 0; g < b->height; g += n) {
        if (is_whole(b)) {
            stream_rows(b, g, n);
            continue;
        }
        for (size_t k = 0, kc; k < k_end; k += kc) {
            kc = lp_size_min(k_end - k, LP_K_BLOCK);
            widen_rows(b, g, n, k, kc);
            add_block(b, g, n, k, kc, 0);
        }
    }
}

/* Rows of all stripes for few tokens: sums [token][height], from which the results are made row by row. */
static void direct_band(const lp_band *b) {
    const lp_product *p = b->p;
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_factor *f = b->factor + s;
        for (size_t r = 0, lanes; r < b->n_rows; r += lanes) {
            lanes = direct_lanes(b->n_rows - r, p->m, f->word);
            /* the last vector of a matrix begins earlier: rows that were done are done again */
            size_t row = lp_size_min(b->row + r, f->n_rows - lanes);
            float *out = b->sums + s * b->pitch + r, part[MAX_TOKENS * LP_N];
            direct_of(lanes, p->m, f->word)(part, lanes, p->x, (const char *)f->w + row * p->k * lp_word_bytes(f->word),
                                            p->k, p->in_order);
            size_t skip = b->row + r - row, n = lp_size_min(lanes - skip, b->n_rows - r);
            for (size_t t = 0; t < p->m; t++) memcpy(out + t * b->height, part + t * lanes + skip, n * sizeof *out);
        }
    }
}

static void bands(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch) {
    size_t block = MOST_ROWS * LP_K_BLOCK;
    lp_band b = {.p = p,
                 .factor = p->factor + factor,
                 .end = row + n_rows,
                 .wide = {scratch, scratch + block},
                 .stream = {.ring = scratch, .in_order = p->in_order},
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
    V(stream_end)();
}
