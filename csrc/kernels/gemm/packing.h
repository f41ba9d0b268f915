/* packing.h - x of a product packed for its tiles, and sums of tiles back to rows of tokens.
 *
 * A template, see parameters.h; what the widths share stands at the end. */
#ifndef LP_PACKING_H
#define LP_PACKING_H

#include <stdint.h>

#include "../simd/vector.h" /* V, T, VEC */
#include "partition.h"      /* is_gemv, tile_width */

/* Packs `m` (<= width) rows of x, `stride` floats apart, into [k][width], a multiple of N; lanes past m are 0. */
NOINLINE void T(pack)(float *out, const float *x, size_t stride, size_t width, size_t m, size_t k) {
    for (size_t v = 0; v < width; v += LP_N) {
        size_t have = m > v ? lp_size_min(m - v, LP_N) : 0, i = 0;
        for (; i + LP_N <= k; i += LP_N) {
            VEC r[LP_N];
            UNROLL for (size_t j = 0; j < LP_N; j++) r[j] = j < have ? V(load)(x + (v + j) * stride + i) : V(zero)();
            V(transpose)(r);
            UNROLL for (size_t j = 0; j < LP_N; j++) V(store)(out + (i + j) * width + v, r[j]);
        }
        for (; i < k; i++)
            for (size_t j = 0; j < LP_N; j++) out[i * width + v + j] = j < have ? x[(v + j) * stride + i] : 0;
    }
}

/* The way back: c [n][width], of which columns v .. v + N are `m` tokens, to rows that begin `at` floats into `to`. */
NOINLINE void T(unpack)(const results *to, size_t at, const float *c, size_t width, size_t m, size_t n) {
    const results r = *to;
    for (size_t i = 0; i < n; i += LP_N) {
        VEC rows[LP_N];
        size_t have = lp_size_min(n - i, LP_N);
        UNROLL for (size_t j = 0; j < LP_N; j++) rows[j] = j < have ? V(load)(c + (i + j) * width) : V(zero)();
        V(transpose)(rows);
        for (size_t t = 0, to_row = at + i; t < m; t++, to_row += r.stride) {
            if (have == LP_N) {
                if (r.y) V(store)(r.y + to_row, rows[t]);
                if (r.sum) V(store)(r.sum + to_row, V(add)(V(load)(r.add + to_row), rows[t]));
                continue;
            }
            float part[LP_N];
            V(store)(part, rows[t]);
            store_row(to, to_row, part, have);
        }
    }
}

#if LP_N == LANES

#define LINE_FLOATS 16
#define SPAN 64 /* floats of a token's row that are stored at once: memory takes two neighbouring lines together */

/* As T(unpack), past the caches, which halves the traffic of results that are not read soon. Rows of y and sum begin
 * on cache lines, n is a multiple of LINE_FLOATS; V(nontemporal_end) comes before the first read. */
NOINLINE void unpack_nontemporal(const results *to, size_t at, const float *c, size_t width, size_t m, size_t n) {
    _Alignas(64) float rows[LP_N * SPAN];
    const results r = *to;
    for (size_t begin = 0, span; begin < n; begin += span) {
        span = lp_size_min(n - begin, SPAN);
        for (size_t j = 0; j < span; j += LP_N) {
            VEC square[LP_N];
            UNROLL for (size_t l = 0; l < LP_N; l++) square[l] = V(load)(c + (begin + j + l) * width);
            V(transpose)(square);
            UNROLL for (size_t l = 0; l < LP_N; l++) V(store)(rows + l * SPAN + j, square[l]);
        }
        const float *from = rows;
        for (size_t t = 0, to_row = at + begin; t < m; t++, from += SPAN, to_row += r.stride) {
            for (size_t i = 0; r.y && i < span; i += LP_N) V(store_nontemporal)(r.y + to_row + i, V(load)(from + i));
            for (size_t i = to_row, j = 0; r.sum && j < span; i += LP_N, j += LP_N)
                V(store_nontemporal)(r.sum + i, V(add)(V(load)(r.add + i), V(load)(from + j)));
        }
    }
}

/* All rows of y and sum begin and end with cache lines. */
static int on_lines(const results *to, size_t at, size_t n, size_t width) {
    size_t y = to->y ? (uintptr_t)to->y / sizeof *to->y + at : 0;
    size_t sum = to->sum ? (uintptr_t)to->sum / sizeof *to->sum + at : 0;
    return (y | sum | to->stride | n) % LINE_FLOATS == 0 && width >= LANES;
}

/* Columns 0 .. width of c [n][width], m of them tokens; `soon`: they are read again soon. */
static void unpack_tokens(const results *to, size_t at, const float *c, size_t width, size_t m, size_t n, int soon) {
    int nontemporal = !soon && on_lines(to, at, n, width);
    for (size_t v = 0; v < m; v += LANES, at += LANES * to->stride)
        (nontemporal     ? unpack_nontemporal
         : width < LANES ? NARROW_T(unpack)
                         : T(unpack))(to, at, c + v, width, lp_size_min(m - v, LANES), n);
}

static void pack_tokens(float *out, const float *x, size_t stride, size_t width, size_t m, size_t k) {
    (width < LANES ? NARROW_T(pack) : T(pack))(out, x, stride, width, m, k);
}

/* A unit is PACK_COLUMNS columns of one tile. */
#define PACK_COLUMNS 1024

static size_t packed_size(size_t m, size_t k) { return padded_tokens(m) * k; }

static size_t pack_units(const lp_product *p) {
    return is_gemv(p) ? 0 : n_tiles(p->m) * ((p->k + PACK_COLUMNS - 1) / PACK_COLUMNS);
}

static void pack(const lp_product *p, size_t unit) {
    size_t n = n_tiles(p->m), m0 = tile_start(p->m, unit % n), width = tile_width(p->m - m0);
    size_t k0 = unit / n * PACK_COLUMNS, kc = lp_size_min(p->k - k0, PACK_COLUMNS);
    pack_tokens(p->x_packed + m0 * p->k + k0 * width, p->x + m0 * p->k + k0, p->k, width, lp_size_min(p->m - m0, width),
                kc);
}

#endif

#endif
