/* gemm.h - y = x w^T for a band of rows of w and all tokens; every row of kernels has this body.
 *
 * For each panel of K_PANEL columns the band's rows are widened to float32 in scratch, once, and serve all tiles of
 * tokens. Sums of a band stay in scratch as [tile][row][token of the tile] until the last panel; then bias, silu
 * and the residual are applied there and the result is turned to rows of tokens. w is read exactly once. */
#include "tiles.h"
#include "widen.h"
#include "packing.h"
#include "band.h"
#include "asks.h"
#include "finish.h"

/* Rows g .. g + n and columns k .. k + kc. */
static void widen_rows(const lp_band *b, size_t g, size_t n, size_t k, size_t kc) {
    for (size_t end = g + n; g < end; g++) {
        float *out = b->wide[b->now] + g * K_PANEL;
        if (g % b->pitch < b->n_rows)
            T(widen_block)(out, weights_at(b, g, k), factor_of(b, g)->w->word, kc);
        else if (k == 0) /* rows past the end are computed too, and never read */
            memset(out, 0, K_PANEL * sizeof *out);
    }
}

/* Rows g .. g + n of a stripe for the first tokens, while the same rows of the next panel are widened; the panel after
 * that is asked for here where the other tiles are too few. */
static void first_rows(const lp_band *b, const k_block *at, size_t g, size_t n, size_t width) {
    lp_word word = factor_of(b, g)->w->word;
    block_tile *tile = block_tiles[kind_of(width)][word];
    const float *x = b->p->x_packed + at->k * width;
    size_t k = at->k + at->kc;
    for (size_t i = g; i < g + n; i += tile_rows(width)) {
        const char *from = weights_at(b, i, k);
        next_block next = {.to = b->wide[!b->now] + i * K_PANEL,
                           .from = from,
                           .stride = b->p->k * lp_word_bytes(word),
                           .n = at->n_next,
                           .after = at->asks.n ? 0 : (size_t)(weights_at(b, i, k + at->n_next) - from)};
        tile(b->sums + i * width, x, b->wide[b->now] + i * K_PANEL, at->kc, at->k == 0, &next);
    }
}

/* Rows g .. g + n of a stripe for the tokens from m0 on. */
static void rows_of_tile(const lp_band *b, k_block *at, size_t g, size_t n, size_t m0, size_t width) {
    gemm_tile *tile = gemm_tiles[kind_of(width)][is_paired(factor_of(b, g)->w->word)];
    const float *x = b->p->x_packed + m0 * b->p->k + at->k * width;
    for (size_t i = g; i < g + n; i += tile_rows(width)) {
        float *c = b->sums + m0 * b->height + i * width;
        tile(c, x, b->wide[b->now] + i * K_PANEL, at->kc, at->k == 0, &at->asks.now);
        ask_on(&at->asks, b);
    }
}

/* Rows g .. g + n of a panel for all tokens. */
static void add_block(const lp_band *b, k_block at, size_t g, size_t n) {
    const lp_product *p = b->p;
    for (size_t m0 = 0, width; m0 < p->m; m0 += width) {
        width = tile_width(p->m - m0);
        ask_x(&at, p, m0, width);
        for (size_t i = g, end; i < g + n; i = end) {
            end = lp_size_min(g + n, (i / b->pitch + 1) * b->pitch); /* of the stripe */
            if (m0 == 0 && at.n_next)
                first_rows(b, &at, i, end - i, width);
            else
                rows_of_tile(b, &at, i, end - i, m0, width);
        }
    }
}

/* All rows together, so that a panel of x is fetched once for them. */
static void block_band(lp_band *b) {
    size_t k_end = b->p->k;
    for (size_t k = 0, kc; k < k_end; k += kc) {
        kc = lp_size_min(k_end - k, K_PANEL);
        size_t n_next = lp_size_min(k + kc < k_end ? k_end - k - kc : k_end, K_PANEL);
        if (!is_whole(b) || n_next > kc || (k + kc == k_end && !has_next(b))) n_next = 0;
        if (b->ready != weights_at(b, 0, k)) widen_rows(b, 0, b->height, k, kc);
        add_block(b, begin_block(b, k, kc, n_next), 0, b->height);
        b->ready = n_next ? weights_at(b, 0, k + kc) : NULL;
        b->now = n_next ? !b->now : b->now;
    }
}

/* Rows g .. g + n for the one tile of a streamed product, and beforehand the first weights of the rows that follow,
 * where those are in the band or in the next one and are streamed in the same way. */
static void stream_rows(lp_band *b, size_t g, size_t n) {
    const lp_product *p = b->p;
    size_t width = tile_width(p->m), next_g = (g + n) % b->height, k = next_g ? 0 : p->k;
    int follows = next_g || has_next(b);
    stream_tile *tile = band_tile(b, g, n, 0);
    row_stream *s = &b->stream;
    s->k = p->k;
    s->rows = weights_at(b, g, 0);
    s->next = follows && band_tile(b, next_g, n, k) == tile ? weights_at(b, next_g, k) : s->rows;
    tile(b->sums + g * width, p->x_packed, s);
}

/* For the one tile of a streamed product, as many rows at a time as it takes. */
static void stream_band(lp_band *b) {
    size_t n = tile_rows(tile_width(b->p->m)), k_end = b->p->k;
    for (size_t g = 0; g < b->height; g += n) {
        if (is_whole(b)) {
            stream_rows(b, g, n);
            continue;
        }
        for (size_t k = 0, kc; k < k_end; k += kc) {
            kc = lp_size_min(k_end - k, K_PANEL);
            widen_rows(b, g, n, k, kc);
            add_block(b, begin_block(b, k, kc, 0), g, n);
        }
    }
}

/* Rows of all stripes for few tokens: sums [token][height], from which the results are made row by row. */
static void direct_band(const lp_band *b) {
    const lp_product *p = b->p;
    int in_order = lp_kernels_in_order();
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_factor *f = b->factor + s;
        for (size_t r = 0, lanes; r < b->n_rows; r += lanes) {
            lanes = direct_lanes(b->n_rows - r, p->m, f->w->word);
            /* the last vector of a matrix begins earlier: rows that were done are done again */
            size_t row = lp_size_min(b->row + r, f->w->n_rows - lanes);
            float *out = b->sums + s * b->pitch + r, part[MAX_TOKENS * LP_N];
            direct_of(lanes, p->m, f->w->word)(part, lanes, p->x, lp_weight_at(f->w, row, 0), p->k, in_order);
            size_t skip = b->row + r - row, n = lp_size_min(lanes - skip, b->n_rows - r);
            for (size_t t = 0; t < p->m; t++) memcpy(out + t * b->height, part + t * lanes + skip, n * sizeof *out);
        }
    }
}

static void bands(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch) {
    size_t block = MOST_ROWS * K_PANEL;
    lp_band b = {.p = p,
                 .factor = p->factor + factor,
                 .end = row + n_rows,
                 .wide = {scratch, scratch + block},
                 .stream = {.ring = scratch},
                 .sums = scratch + 2 * block};
    for (; row < b.end; row += b.n_rows) {
        set_rows(&b, row);
        if (is_direct(p)) {
            direct_band(&b);
            finish_direct(&b);
            continue;
        }
        (is_streamed(p->m) ? stream_band : block_band)(&b);
        finish_tiles(&b);
    }
    V(stream_end)();
}
