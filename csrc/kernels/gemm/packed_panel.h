/* packed_panel.h - dequantises a panel of a packed weight while the next one is prefetched.
 *
 * Where rows are contiguous in the file, the rows of the next band are prefetched sequentially, as many bytes as are
 * read. Transposed kinds store a band across all rows of words: there the words of the next panel are prefetched. */
#ifndef LP_PACKED_PANEL_H
#define LP_PACKED_PANEL_H

#include "../../base/size.h"       /* lp_size_min */
#include "../dequant/dequantise.h" /* dequantise */
#include "prefetch.h"              /* panel */

#define PART_ROWS 8             /* dequantised between prefetches, so that they are spread out */
#define PART_COLUMNS LP_K_BLOCK /* the same for transposed kinds, all rows */

static void prefetch_bytes(const unsigned char *from, size_t n) {
    for (size_t at = 0; at < n; at += 64) __builtin_prefetch(from + at, 0, 2);
}

static void dequantise_rows(float *out, size_t stride, const lp_weight *w, size_t row, size_t n_rows, size_t k,
                            size_t kc) {
    size_t row_bytes = lp_packed_row_bytes(w->packed), end = row + n_rows;
    size_t bytes = lp_size_min(n_rows, w->n_rows - end) * row_bytes / w->n_cols; /* of the next band, per column */
    const unsigned char *next = w->packed->codes + (w->first_row + end) * row_bytes + bytes * k;
    for (size_t r = 0, n; r < n_rows; r += n) {
        n = lp_size_min(n_rows - r, PART_ROWS);
        prefetch_bytes(next + bytes * kc * r / n_rows, bytes * kc * n / n_rows);
        dequantise(out + r * stride, stride, w, row + r, n, k, kc);
    }
}

/* Prefetches the words of columns k .. k + PART_COLUMNS of n_rows rows. */
static void prefetch_columns(const lp_weight *w, size_t row, size_t n_rows, size_t k) {
    const lp_packed *p = w->packed;
    size_t row_bytes = lp_packed_row_bytes(p), per_word = p->kind == LP_PACKED_AWQ ? 1 : 32 / p->bits;
    size_t end = lp_size_min(k + PART_COLUMNS, w->n_cols) / per_word, bytes_of_rows = row_bytes * n_rows / p->n_rows;
    const unsigned char *from = p->codes + row_bytes * (w->first_row + row) / p->n_rows;
    for (k /= per_word; k < end; k++) prefetch_bytes(from + k * row_bytes, bytes_of_rows);
}

static void dequantise_columns(float *out, size_t stride, const lp_weight *w, size_t row, size_t n_rows, size_t k,
                               size_t kc) {
    size_t next_row = row + n_rows, n_next = lp_size_min(n_rows, w->n_rows - next_row);
    for (size_t c = 0; c < kc; c += PART_COLUMNS) {
        size_t next = k + kc + c;
        if (next < w->n_cols)
            prefetch_columns(w, row, n_rows, next);
        else
            prefetch_columns(w, next_row, n_next, next - w->n_cols);
        dequantise(out + c, stride, w, row, n_rows, k + c, lp_size_min(kc - c, PART_COLUMNS));
    }
}

/* out [n_rows, kc], rows `stride` floats apart = columns k .. k + kc of rows row .. row + n_rows. */
static void dequantise_panel(float *out, size_t stride, const lp_weight *w, size_t row, size_t n_rows, size_t k,
                             size_t kc) {
    if (lp_packed_is_transposed(w->packed->kind))
        dequantise_columns(out, stride, w, row, n_rows, k, kc);
    else
        dequantise_rows(out, stride, w, row, n_rows, k, kc);
}

/* Sets what tile `tile` of the n_tiles of a stripe prefetches every four columns: its share of the next band,
 * sequentially, as many bytes as are read of this one; of transposed kinds, its columns of the next panel. */
NOINLINE void prefetch_packed(panel *at, const lp_band *b, size_t g, size_t tile, size_t n_tiles) {
    const lp_weight *w = factor_of(b, g)->w;
    const lp_packed *p = w->packed;
    if (!p) return; /* the other stripe is packed */
    size_t row = b->row, n_rows = b->n_rows, k = at->k, row_bytes = lp_packed_row_bytes(p);
    size_t n_steps = at->kc / 4, n_columns = at->kc / n_tiles;
    int transposed = lp_packed_is_transposed(p->kind);
    if (transposed) k += at->kc;
    if (!transposed || k == w->n_cols) row += n_rows, n_rows = lp_size_min(n_rows, w->n_rows - row), k %= w->n_cols;
    if (p->kind == LP_PACKED_AWQ && n_columns < n_steps) n_columns = n_steps;
    k += n_columns * tile;
    if (!n_rows || !n_steps || k >= w->n_cols) return;
    row += w->first_row;
    if (!transposed) {
        size_t bytes = n_rows * row_bytes; /* of the band */
        at->lines.w = (const char *)p->codes + row * row_bytes + bytes / w->n_cols * k;
        at->lines.w_step = bytes / w->n_cols * n_columns / n_steps;
    } else if (p->kind == LP_PACKED_AWQ) {
        at->lines.w = (const char *)p->codes + k * row_bytes + row / 8 * 4;
        at->lines.w_step = row_bytes * n_columns / n_steps;
    } else {
        size_t words = n_columns / (32 / p->bits), n_chunks = at->kc / CHUNK; /* rows of words */
        at->lines.w = (const char *)p->codes + k / (32 / p->bits) * row_bytes + row * 4;
        at->lines.n_chunks = words && words < n_chunks ? n_chunks / words : 1;
        at->lines.w_step = n_rows * 4 * words / n_steps, at->lines.pitch = row_bytes;
    }
}

#endif
