/* epilogue.h - what happens to sums when all of k is in them: bias, residual, activation, and out to the results'
 * places. */
#ifndef LP_EPILOGUE_H
#define LP_EPILOGUE_H

#include "../elementwise.h"   /* activate */
#include "../simd/elements.h" /* lp_element_to_f32 */
#include "packing.h"          /* unpack_tokens */
#include "partition.h"        /* is_gemv, lp_band */

/* c [n][width], rows from `row` on. */
static void add_bias(float *c, const lp_factor *f, size_t row, size_t n, size_t width) {
    if (!f->bias || !f->bias->data) return;
    for (size_t r = 0; r < n; r++, c += width) {
        float bias = lp_element_to_f32(lp_weight_at(f->bias, 0, row + r), f->bias->element);
        for (size_t i = 0; i < width; i++) c[i] += bias;
    }
}

NOINLINE void multiply_by(float *out, const float *by, size_t n) {
    size_t i = 0;
    for (; i + LP_N <= n; i += LP_N) V(store)(out + i, V(mul)(V(load)(out + i), V(load)(by + i)));
    for (; i < n; i++) out[i] *= by[i];
}

/* Rows of the band for the tokens of one tile, from c [n_rows][width]. Results of many tokens leave the caches before
 * they are read. */
static void store_tile(const lp_band *b, results to, const float *c, size_t m0, size_t width) {
    size_t m = b->p->m;
    if (!to.y && !to.sum) return;
    to.stride = b->factor->w->n_rows;
    size_t at = m0 * to.stride + b->row;
    if (width == 1)
        store_row(&to, at, c, b->n_rows);
    else
        unpack_tokens(&to, at, c, width, lp_size_min(m - m0, width), b->n_rows, m < NONTEMPORAL_TOKENS);
}

static void epilogue_tile(const lp_band *b, size_t m0, size_t width) {
    const lp_product *p = b->p;
    float *c = b->sums + m0 * b->height, *up = c + b->pitch * width;
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_factor *f = b->factor + s;
        add_bias(c + s * b->pitch * width, f, b->row, b->n_rows, width);
        store_tile(b, (results){f->y, f->add, f->sum, 0}, c + s * b->pitch * width, m0, width);
    }
    if (!p->gated || (!p->act && !p->hidden)) return;
    activate(p->activation, c, c, b->n_rows * width);
    store_tile(b, (results){.y = p->act}, c, m0, width);
    if (!p->hidden) return;
    multiply_by(c, up, b->n_rows * width);
    store_tile(b, (results){.y = p->hidden}, c, m0, width);
}

/* The sums of gemv are tiles of one token. */
static void epilogue_band(const lp_band *b) {
    int gemv = is_gemv(b->p);
    for (size_t m0 = 0, width; m0 < b->p->m; m0 += width) {
        width = gemv ? 1 : tile_width(b->p->m - m0);
        epilogue_tile(b, m0, width);
    }
}

#endif
