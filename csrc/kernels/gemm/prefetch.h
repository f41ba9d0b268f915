/* prefetch.h - schedules the prefetches of a panel: x of the next tile, weights of a later panel, and the weights that
 * are widened meanwhile.
 *
 * Prefetched all at once by the first tile, weights would keep the core waiting, and what comes from a cache would wait
 * behind them: each tile prefetches an equal part. */
#ifndef LP_PREFETCH_H
#define LP_PREFETCH_H

#include "partition.h" /* lp_band, K_PANEL */

#define X_STEP 256 /* bytes of x that are prefetched with every eight columns */
#define X_BYTES_A_PANEL (K_PANEL / 8 * X_STEP)

/* What one tile prefetches: x, and w_step bytes of weights for every four columns; after n_chunks chunks they go on
 * `pitch` bytes from where they began. NULL: nothing. */
typedef struct {
    const char *x, *w;
    size_t w_step, n_chunks, pitch;
} prefetch_lines;

/* The panel that is widened meanwhile: n columns (a multiple of CHUNK) of as many rows as are multiplied. */
typedef struct {
    float *to;        /* rows of K_PANEL */
    const char *from; /* the weights; rows are `stride` bytes apart */
    size_t stride, n;
    size_t after;  /* how far behind a weight lies what is prefetched with it; 0: nothing is */
    size_t column; /* of the chunk that is widened now */
} next_panel;

/* The block that is widened meanwhile, of as many rows as are multiplied. */
typedef struct {
    float *to;                      /* rows of LP_K_BLOCK */
    const char *from;               /* the weights; rows are `stride` bytes apart */
    const char *after;              /* what is prefetched with them, as many bytes */
    size_t stride;                  /* of `from` */
    size_t after_row, after_column; /* strides of `after`: of rows, and of chunks */
} next_block;

/* Columns k .. k + kc at work. The first tile widens n_next columns of the panel that follows, the others prefetch the
 * one after that, from column k_later on. */
typedef struct {
    size_t k, kc, n_next;
    prefetch_lines lines; /* of the next tile */
    const char *x_end;    /* where x to prefetch ends */
    size_t k_later, n;    /* n rows of w at a time; 0: none */
    size_t stripe, left;  /* rows of the stripe still to prefetch */
} panel;

/* How many rows of weights each of n_calls tiles prefetches, so that together they prefetch all. 0: too few tiles. */
static inline size_t rows_a_tile(size_t height, size_t n_calls, lp_element element) {
    size_t n = element == LP_ELEMENT_F32 ? 4 : 8; /* a line for every four columns, at most */
    if (height > BAND_ROWS) n /= 2;               /* of gate and up 8 at a time are 13 % slower at 96 tokens */
    if (n * n_calls < height) return 0;
    while (n > 1 && n / 2 * n_calls >= height) n /= 2;
    return n;
}

static inline void prefetch_stripe(panel *at, const lp_band *b, size_t stripe) {
    size_t g = stripe * b->pitch;
    at->stripe = stripe;
    at->left = at->n && g < b->height ? b->pitch : 0;
    size_t bytes = at->left ? lp_element_bytes(factor_of(b, g)->w->element) : 0;
    at->lines.w = at->left ? weights_at(b, g, at->k_later) : NULL;
    at->lines.w_step = 4 * at->n * bytes;
    at->lines.n_chunks = at->left ? K_PANEL / CHUNK / at->n : 0;
    at->lines.pitch = b->p->k * bytes;
}

/* The x of the tile after the one at m0, or of the next panel's first tile after the last: it comes from L3. */
static inline void prefetch_x(panel *at, const lp_product *p, size_t m0, size_t width) {
    size_t next = m0 + width < p->m ? m0 + width : 0, k = next ? at->k : at->k + at->kc;
    if (k == p->k) k = 0;
    width = tile_width(p->m - next);
    const float *x = p->x_packed + next * p->k + k * width;
    at->lines.x = (const char *)x;
    at->x_end = (const char *)(x + width * lp_size_min(at->kc, p->k - k));
}

/* On to what the next tile prefetches. */
static inline void prefetch_next(panel *at, const lp_band *b) {
    if (at->lines.x && (at->lines.x += X_BYTES_A_PANEL) >= at->x_end) at->lines.x = NULL;
    if (!at->left) return;
    at->lines.w += at->n * at->lines.pitch;
    at->left -= lp_size_min(at->left, at->n);
    if (!at->left) prefetch_stripe(at, b, at->stripe + 1);
}

static inline panel begin_panel(const lp_band *b, size_t k, size_t kc, size_t n_next) {
    size_t n_wide = b->p->m > WIDEST ? b->p->m / WIDE : 0;
    panel at = {.k = k, .kc = kc, .n_next = n_next, .k_later = k + kc + n_next};
    if (n_next == K_PANEL && n_wide)
        at.n = rows_a_tile(b->height, (n_wide - 1) * (b->height / TILE_ROWS_2), b->factor->w->element);
    prefetch_stripe(&at, b, 0);
    return at;
}

#endif
