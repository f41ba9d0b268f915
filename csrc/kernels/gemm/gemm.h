/* gemm.h - y = x w^T for a band of rows of w and all tokens.
 *
 * For each panel of K_PANEL columns the band's rows are widened to float32 in scratch, once, and serve all tiles of
 * tokens. Sums of a band stay in scratch as [tile][row][token of the tile] until the last panel; then bias, silu
 * and the residual are applied there and the result is transposed to rows of tokens. w is read exactly once. Of a
 * packed weight the rows are dequantised instead, and go through the same microkernels as float32. */
#ifndef LP_GEMM_H
#define LP_GEMM_H

#include <string.h>

#include "epilogue.h"
#include "gemv.h" /* gemv_band */
#include "microkernel.h"
#include "microkernel_prefetch.h"
#include "packed_panel.h" /* dequantise, prefetch_packed */
#include "packing.h"      /* packed_size, pack_units, pack */
#include "partition.h"
#include "prefetch.h"

/* ---- the microkernels, one of each kind for each shape of tile and each element type ---- */

typedef void gemm_tile(float *c, const float *x, const float *w, size_t kc, int is_first_block,
                       const prefetch_lines *lines);
typedef void widening_tile(float *c, const float *x, const float *w, size_t kc, int is_first_block,
                           const next_panel *next);
typedef void stream_tile(float *c, const float *x, row_stream *s);

#define MULTIPLY(name, shape, paired, n_vec, n_rows)                                                       \
    NOINLINE void multiply_##name(float *c, const float *x, const float *w, size_t kc, int is_first_block, \
                                  const prefetch_lines *lines) {                                           \
        shape(multiply)(c, x, w, kc, is_first_block, *lines, paired, n_vec, n_rows);                       \
    }
#define FIRST(name, shape, element, n_vec, n_rows)                                                      \
    NOINLINE void first_##name(float *c, const float *x, const float *w, size_t kc, int is_first_block, \
                               const next_panel *next) {                                                \
        shape(multiply_widening)(c, x, w, kc, is_first_block, *next, element, n_vec, n_rows);           \
    }
#define STREAM(name, shape, element, n_vec, n_rows)                        \
    NOINLINE void stream_##name(float *c, const float *x, row_stream *s) { \
        shape(stream)(c, x, s, element, n_vec, n_rows);                    \
    }
#define RING(name, shape, n_vec, n_rows) \
    NOINLINE void ring_##name(float *c, const float *x, row_stream *s) { shape(ring_stream)(c, x, s, n_vec, n_rows); }
#define BOTH_ORDERS(name, shape, n_vec, n_rows) \
    MULTIPLY(name##_plain, shape, 0, n_vec, n_rows) MULTIPLY(name##_paired, shape, 1, n_vec, n_rows)
#define EACH_ELEMENT(define, name, shape, n_vec, n_rows)         \
    define(name##_bf16, shape, LP_ELEMENT_BF16, n_vec, n_rows)   \
        define(name##_f16, shape, LP_ELEMENT_F16, n_vec, n_rows) \
            define(name##_f32, shape, LP_ELEMENT_F32, n_vec, n_rows)

#if SPLIT_VECTORS
#define ONE_T NARROW_T
#define ONE_VECS 2
#else
#define ONE_T T
#define ONE_VECS 1
#endif

BOTH_ORDERS(one, ONE_T, ONE_VECS, TILE_ROWS_1)
BOTH_ORDERS(wide, T, 2, TILE_ROWS_2)
EACH_ELEMENT(FIRST, wide, T, 2, TILE_ROWS_2)
EACH_ELEMENT(STREAM, one, ONE_T, ONE_VECS, TILE_ROWS_1)
EACH_ELEMENT(STREAM, wide, T, 2, TILE_ROWS_2)
#if NARROW_LANES < LANES
BOTH_ORDERS(narrow, NARROW_T, 1, TILE_ROWS_1)
EACH_ELEMENT(STREAM, narrow, NARROW_T, 1, TILE_ROWS_1)
#endif
#if SPLIT_VECTORS /* else the first of several tiles is never this narrow */
EACH_ELEMENT(FIRST, one, ONE_T, ONE_VECS, TILE_ROWS_1)
#endif
#if TILE_ROWS_4
BOTH_ORDERS(widest, T, 4, TILE_ROWS_4)
EACH_ELEMENT(FIRST, widest, T, 4, TILE_ROWS_4)
#endif
#if BF16_RING
RING(narrow, NARROW_T, 1, TILE_ROWS_1)
RING(one, ONE_T, ONE_VECS, TILE_ROWS_1)
RING(wide, T, 2, TILE_ROWS_2)
#endif

static const struct {
    gemm_tile *multiply[2];  /* by is_paired() */
    widening_tile *first[3]; /* by element type */
    stream_tile *stream[3];
    stream_tile *ring;
} tiles[] = {
#define MULTIPLY_OF(name) .multiply = {multiply_##name##_plain, multiply_##name##_paired}
#define ELEMENTS_OF(kind, name) .kind = {kind##_##name##_bf16, kind##_##name##_f16, kind##_##name##_f32}
#if BF16_RING
#define RING_OF(name) .ring = ring_##name
#else
#define RING_OF(name) .ring = NULL
#endif
#if NARROW_LANES < LANES
    [NARROW_TILE] = {MULTIPLY_OF(narrow), ELEMENTS_OF(stream, narrow), RING_OF(narrow)},
#endif
#if SPLIT_VECTORS
    [ONE_TILE] = {MULTIPLY_OF(one), ELEMENTS_OF(first, one), ELEMENTS_OF(stream, one), RING_OF(one)},
#else
    [ONE_TILE] = {MULTIPLY_OF(one), ELEMENTS_OF(stream, one), RING_OF(one)},
#endif
    [WIDE_TILE] = {MULTIPLY_OF(wide), ELEMENTS_OF(first, wide), ELEMENTS_OF(stream, wide), RING_OF(wide)},
#if TILE_ROWS_4
    [WIDEST_TILE] = {MULTIPLY_OF(widest), ELEMENTS_OF(first, widest)},
#endif
};

/* ---- several tiles: panel by panel ---- */

/* Columns k .. k + kc of all rows. */
static void widen_panel(const lp_band *b, size_t k, size_t kc) {
    for (size_t g = 0; g < b->height; g += b->pitch) {
        const lp_weight *w = factor_of(b, g)->w;
        float *out = b->wide[b->now] + g * K_PANEL, *end = out + b->n_rows * K_PANEL;
        if (w->packed) dequantise(out, K_PANEL, w, b->row, b->n_rows, k, kc);
        for (size_t r = 0; r < b->n_rows && !w->packed; r++)
            T(widen_row)(out + r * K_PANEL, weights_at(b, g + r, k), w->element, kc);
        /* rows past the end are computed too, and never read */
        if (k == 0) memset(end, 0, (b->pitch - b->n_rows) * K_PANEL * sizeof *end);
    }
}

/* The rows from g on of a stripe for the first tokens, while the same rows of the next panel are widened; the panel
 * after that is prefetched here where the other tiles are too few. */
static void multiply_first(const lp_band *b, const panel *at, size_t g, size_t width) {
    lp_element element = factor_of(b, g)->w->element;
    widening_tile *tile = tiles[kind_of(width)].first[element];
    const float *x = b->p->x_packed + at->k * width;
    size_t k = at->k + at->kc;
    for (size_t i = g; i < g + b->pitch; i += tile_rows(width)) {
        const char *from = weights_at(b, i, k);
        next_panel next = {.to = b->wide[!b->now] + i * K_PANEL,
                           .from = from,
                           .stride = b->p->k * lp_element_bytes(element),
                           .n = at->n_next,
                           .after = at->n ? 0 : (size_t)(weights_at(b, i, k + at->n_next) - from)};
        tile(b->sums + i * width, x, b->wide[b->now] + i * K_PANEL, at->kc, at->k == 0, &next);
    }
}

/* The rows from g on of a stripe for the tokens from m0 on. */
static void multiply_rows(const lp_band *b, panel *at, size_t g, size_t m0, size_t width) {
    gemm_tile *tile = tiles[kind_of(width)].multiply[is_paired(factor_of(b, g)->w->element)];
    const float *x = b->p->x_packed + m0 * b->p->k + at->k * width;
    for (size_t i = g; i < g + b->pitch; i += tile_rows(width)) {
        float *c = b->sums + m0 * b->height + i * width;
        if (m0 == 0 && is_packed(b)) prefetch_packed(at, b, g, (i - g) / tile_rows(width), b->pitch / tile_rows(width));
        tile(c, x, b->wide[b->now] + i * K_PANEL, at->kc, at->k == 0, &at->lines);
        if (m0 == 0 && is_packed(b)) at->lines.w = NULL, at->lines.w_step = at->lines.n_chunks = 0;
        prefetch_next(at, b);
    }
}

/* All rows together, so that a panel of x is fetched once for them. */
static void multiply_panel(const lp_band *b, panel at) {
    const lp_product *p = b->p;
    for (size_t m0 = 0, width; m0 < p->m; m0 += width) {
        width = tile_width(p->m - m0);
        prefetch_x(&at, p, m0, width);
        for (size_t g = 0; g < b->height; g += b->pitch)
            if (m0 == 0 && at.n_next)
                multiply_first(b, &at, g, width);
            else
                multiply_rows(b, &at, g, m0, width);
    }
}

static void panel_band(lp_band *b) {
    size_t k_end = b->p->k;
    for (size_t k = 0, kc; k < k_end; k += kc) {
        kc = lp_size_min(k_end - k, K_PANEL);
        size_t n_next = lp_size_min(k + kc < k_end ? k_end - k - kc : k_end, K_PANEL);
        if (is_packed(b) || !is_whole(b) || n_next > kc || (k + kc == k_end && !has_next(b))) n_next = 0;
        if (is_packed(b) || b->ready != weights_at(b, 0, k)) widen_panel(b, k, kc);
        multiply_panel(b, begin_panel(b, k, kc, n_next));
        b->ready = n_next ? weights_at(b, 0, k + kc) : NULL;
        b->now = n_next ? !b->now : b->now;
    }
}

/* ---- one tile: rows of w stream through it ---- */

/* How rows g .. g + n are streamed, of this band (k = 0) or of the next one. */
static stream_tile *stream_of(const lp_band *b, size_t g, size_t n, size_t k) {
    enum tile_kind kind = kind_of(tile_width(b->p->m));
    const lp_weight *w = factor_of(b, g)->w;
#if BF16_RING
    size_t row = b->row + g % b->pitch + (k ? b->n_rows : 0);
    if (w->element == LP_ELEMENT_BF16 && T(lines_inside)(lp_weight_at(w, 0, 0), w->n_rows, row, n, b->p->k))
        return tiles[kind].ring;
#else
    (void)n, (void)k;
#endif
    return tiles[kind].stream[w->element];
}

/* As many rows at a time as the tile takes, and beforehand the first weights of the rows that follow, where those are
 * in the band or in the next one and are streamed in the same way. */
static void stream_band(lp_band *b) {
    const lp_product *p = b->p;
    row_stream *s = &b->stream;
    size_t width = tile_width(p->m), n = tile_rows(width);
    s->k = p->k;
    for (size_t g = 0; g < b->height; g += n) {
        size_t next_g = (g + n) % b->height, k = next_g ? 0 : p->k;
        stream_tile *tile = stream_of(b, g, n, 0);
        int follows = (next_g || has_next(b)) && stream_of(b, next_g, n, k) == tile;
        s->rows = weights_at(b, g, 0);
        s->next = follows ? weights_at(b, next_g, k) : s->rows;
        tile(b->sums + g * width, p->x_packed, s);
    }
}

static void bands(const lp_product *p, size_t factor, size_t row, size_t n_rows, float *scratch) {
    size_t panel_floats = PANEL_ROWS / 2 * K_PANEL;
    lp_band b = {.p = p,
                 .factor = p->factor + factor,
                 .end = row + n_rows,
                 .wide = {scratch, scratch + panel_floats},
                 .stream = {.ring = scratch},
                 .sums = scratch + 2 * panel_floats};
    for (; row < b.end; row += b.n_rows) {
        set_rows(&b, row);
        int streamed = is_streamed(p->m) && is_whole(&b) && !is_packed(&b);
        (is_gemv(p) ? gemv_band : streamed ? stream_band : panel_band)(&b);
        epilogue_band(&b);
    }
    V(nontemporal_end)();
}

#endif
