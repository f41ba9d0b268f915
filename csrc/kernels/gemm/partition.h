/* partition.h - how a product is cut: tokens into tiles, rows of w into bands, columns into panels and chunks.
 *
 *   tile    one call of a microkernel: up to 12 rows of w and one, two or four vectors of tokens
 *   band    rows of w whose sums are in scratch together: of one factor, or a stripe of gate and one of up
 *   panel   K_PANEL columns of a band, widened to float32 together; LP_K_BLOCK columns of it are one sum
 *   chunk   CHUNK columns of a row, widened at once
 *
 * docs/kernels.md draws it. */
#ifndef LP_PARTITION_H
#define LP_PARTITION_H

#include <stddef.h>
#include <string.h>

#include "../../base/size.h" /* lp_size_min */
#include "../kernels.h"      /* lp_product, lp_factor, LP_K_BLOCK */
#include "../parameters.h"   /* LANES, TILE_ROWS_1, BAND_ROWS */
#include "../simd/isa.h"     /* INLINE */

#define BAND_ROWS 48 /* not gated: the widened panels of a band and its sums stay in L2 */
#define MAX_ROWS 12  /* of a tile */
#define MAX_VECS 4
#define ROW_UNIT 12 /* a multiple of every tile's rows */
#define K_PANEL 256 /* several blocks, for fewer calls */
#define CHUNK 32    /* bf16 are a cache line: a part of one would be evicted by rows 4 KB apart */
_Static_assert(K_PANEL % LP_K_BLOCK == 0 && LP_K_BLOCK % CHUNK == 0, "a block lies in one panel, a chunk in one block");

/* ---- tokens ---- */

#define WIDE (2 * LANES)
#define WIDEST (TILE_ROWS_4 ? 4 * LANES : WIDE)
/* Where a wide vector is one multiply-add, idle lanes cost less than a second tile does. */
#define LEAST_WIDE (SPLIT_VECTORS ? WIDE - NARROW_LANES + 1 : LANES + 1)

/* Tokens in the tile that begins where `left` tokens are still to do: few idle lanes, no narrow tile among several, and
 * the last tokens share what is widened. */
static inline size_t tile_width(size_t left) {
    if (left > WIDE + LANES && left <= WIDEST) return WIDEST;
    if (left >= LEAST_WIDE) return WIDE;
    return left > NARROW_LANES ? LANES : NARROW_LANES;
}

enum tile_kind { NARROW_TILE, ONE_TILE, WIDE_TILE, WIDEST_TILE };

static inline enum tile_kind kind_of(size_t width) {
    if (width > WIDE) return WIDEST_TILE;
    return width == WIDE ? WIDE_TILE : width == LANES ? ONE_TILE : NARROW_TILE;
}
static inline size_t tile_rows(size_t width) {
    if (TILE_ROWS_4 && width > WIDE) return TILE_ROWS_4;
    return width == WIDE ? TILE_ROWS_2 : TILE_ROWS_1;
}

/* The tiles before the last WIDEST tokens are all WIDE. */
static inline size_t n_leading(size_t m) { return m > WIDEST ? (m - WIDEST + WIDE - 1) / WIDE : 0; }

static inline size_t tile_start(size_t m, size_t tile) {
    size_t n = lp_size_min(tile, n_leading(m)), start = n * WIDE;
    for (; n < tile; n++) start += tile_width(m - start);
    return start;
}

static inline size_t n_tiles(size_t m) {
    size_t n = n_leading(m), start = n * WIDE;
    for (; start < m; n++) start += tile_width(m - start);
    return n;
}

static inline int is_streamed(size_t m) { return m <= WIDE && n_tiles(m) == 1; }

static inline size_t padded_tokens(size_t m) { return tile_start(m, n_tiles(m)); }

/* ---- results ---- */

/* Rows of results, `stride` floats apart: y = c and sum = add + c; NULL: not requested. */
typedef struct {
    float *y;
    const float *add;
    float *sum;
    size_t stride;
} results;

/* A part of a row, `at` floats from the beginning: c [n]. */
static inline void store_row(const results *to, size_t at, const float *c, size_t n) {
    if (to->y) memcpy(to->y + at, c, n * sizeof *c);
    for (size_t i = 0; to->sum && i < n; i++) to->sum[at + i] = to->add[at + i] + c[i];
}

/* ---- rows of w ---- */

/* Rows of w for the one tile of a streamed product, and those that follow them. */
typedef struct {
    float *ring; /* two halves, each [MAX_ROWS][LP_K_BLOCK]; with BF16_RING bf16, see microkernel_prefetch.h */
    int half;    /* the one at work */
    size_t k;    /* columns */
    const char *rows, *next;
    const char *ready; /* the rows whose first block the ring holds; NULL: none */
} row_stream;

/* A job is bands one after the other. */
typedef struct {
    const lp_product *p;
    const lp_factor *factor; /* of the first stripe */
    size_t row, end;         /* of the band, and of the job */
    size_t n_rows;
    size_t pitch;      /* rows of a stripe in scratch: n_rows rounded up to ROW_UNIT */
    size_t height;     /* rows of all stripes in scratch */
    float *wide[2];    /* [height][K_PANEL]: the panel at work, and the next */
    int now;           /* which of them is at work */
    const char *ready; /* the weights that it holds; NULL: none yet */
    row_stream stream; /* instead of panels, where is_streamed() */
    float *sums;       /* [tile][height][tokens of the tile] */
} lp_band;

#define MOST_ROWS (2 * GATED_ROWS > BAND_ROWS ? 2 * GATED_ROWS : BAND_ROWS)

static inline size_t round_rows(size_t n) { return (n + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT; }

#define GEMV_TOKENS 4    /* up to so many, gemv.h */
#define STRIP_BAND 128   /* rows of a band of transposed weights for them: whole cache lines */
#define STRIP_TOKENS 128 /* up to so many, the same bands of AWQ, each of whose lines is then read once */

/* Rows of both panels together; a packed product has one, of a strip of each factor. */
#define PANEL_ROWS ((size_t)(STRIP_BAND + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT * 2)
_Static_assert(PANEL_ROWS >= 2 * MOST_ROWS, "the panel at work and the next");

/* Also enough for fewer tokens. */
static inline size_t band_scratch(size_t m) {
    size_t sums = MOST_ROWS * padded_tokens(m), strips = PANEL_ROWS * padded_tokens(lp_size_min(m, STRIP_TOKENS));
    return PANEL_ROWS * K_PANEL + (sums < strips ? strips : sums);
}

/* Vectors run along rows of w, gemv.h. */
static inline int is_gemv(const lp_product *p) {
    for (size_t f = 0; f < p->n_factors; f++)
        if (p->factor[f].w->n_rows < NARROW_LANES) return 0;
    return p->m <= GEMV_TOKENS;
}

static inline void set_rows(lp_band *b, size_t row) {
    const lp_packed *packed = b->factor->w->packed;
    size_t most = b->p->gated ? GATED_ROWS : BAND_ROWS;
    if (packed && lp_packed_is_transposed(packed->kind) && is_gemv(b->p))
        most = STRIP_BAND;
    else if (packed && packed->kind == LP_PACKED_AWQ && b->p->m <= STRIP_TOKENS)
        most = STRIP_BAND - (b->factor->w->first_row + row) % STRIP_BAND; /* to the end of a cache line */
    b->row = row;
    b->n_rows = lp_size_min(b->end - row, most);
    b->pitch = round_rows(b->n_rows);
    b->height = b->pitch * (b->p->gated ? 2 : 1);
}

static inline const lp_factor *factor_of(const lp_band *b, size_t g) { return b->factor + g / b->pitch; }

/* Where row g of the scratch has its weights from column k on. Columns past the last are those of the next band. */
static inline const char *weights_at(const lp_band *b, size_t g, size_t k) {
    const lp_factor *f = factor_of(b, g);
    size_t row = b->row + g % b->pitch + (k < b->p->k ? 0 : b->n_rows), column = k < b->p->k ? k : k - b->p->k;
    return lp_weight_at(f->w, row, column);
}

/* A stripe has a packed weight, whose panels are not made ahead. */
static inline int is_packed(const lp_band *b) {
    return b->factor[0].w->packed || (b->p->gated && b->factor[1].w->packed);
}

/* All rows of the scratch are rows of the matrix, and their columns are whole blocks. */
static inline int is_whole(const lp_band *b) { return b->pitch == b->n_rows && b->p->k % LP_K_BLOCK == 0; }

/* The job has a band of as many rows after this one. */
static inline int has_next(const lp_band *b) { return b->row + 2 * b->n_rows <= b->end; }

/* ---- columns ---- */

/* A widened chunk of bf16 has its even columns first and then the odd ones: 32 bits of the file become the two with a
 * shift and a mask, one instruction each for as many numbers as a vector has; in their order they would take two, and
 * twice the loads. Sums go through the columns in their order all the same. */
static inline int is_paired(lp_element element) { return element == LP_ELEMENT_BF16; }

/* Where column u of the next four lies: steps of four columns begin with an even one. */
INLINE size_t column_in_chunk(int u, const int paired) {
    return paired ? (size_t)(u / 2 + u % 2 * (CHUNK / 2)) : (size_t)u;
}

#endif
