/* softmax.h - N softmaxes at once, one query per lane, down a column of keys: lane i of the vector is query m0 + v + i
 * of the tile. What has an argument `windowed` is compiled twice, so that without a window no key is tested for it.
 *
 * A template, see parameters.h. */
#ifndef LP_SOFTMAX_H
#define LP_SOFTMAX_H

#include <math.h> /* INFINITY */

#include "queries.h"     /* lp_queries, edge_end */
#include "simd/exp.h"    /* V(exp) */
#include "simd/tanh.h"   /* V(cap) */
#include "simd/vector.h" /* V, VD, T, VEC, VECD */

/* The first lane that may see `key`. */
INLINE size_t T(first_lane)(size_t key, size_t query) { return key > query ? lp_size_min(key - query, LP_N) : 0; }

/* x where the query sees the key, else `hidden`. Keys before `edge` may lie before the window. */
INLINE VEC T(seen)(VEC x, VEC hidden, size_t key, size_t query, size_t edge, size_t window) {
    if (key > query) x = V(keep_from)(T(first_lane)(key, query), x, hidden);
    if (key < edge) x = V(keep_from)(T(first_lane)(key + window, query), hidden, x);
    return x;
}

INLINE void T(scale_column)(const lp_queries *t, size_t v, float *most, const int windowed) {
    size_t width = t->width, n_keys = t->n_keys, query = t->m0 + v;
    size_t first = windowed ? t->first : 0, edge = windowed ? edge_end(t, query, LP_N) : 0;
    float *s = t->s + v;
    VEC by = V(set1)(t->head->scale), least = V(set1)(-INFINITY), max = least;
    for (size_t key = first; key < n_keys; key++) {
        VEC x = T(seen)(V(mul)(V(load)(s + key * width), by), least, key, query, edge, t->window);
        V(store)(s + key * width, x);
        max = V(max)(x, max);
    }
    V(store)(most, max);
}

/* s *= scale, -inf where the key is hidden; most [N] gets each query's maximum. */
NOINLINE void T(scale_scores)(const lp_queries *t, size_t v, float *most) {
    if (t->window)
        T(scale_column)(t, v, most, 1);
    else
        T(scale_column)(t, v, most, 0);
}

/* s = cap(s), -inf where the key is hidden, and the maxima again. */
NOINLINE void T(cap_scores)(const lp_queries *t, size_t v, float *most) {
    size_t query = t->m0 + v, edge = edge_end(t, query, LP_N);
    VEC cap = V(set1)(t->head->cap), least = V(set1)(-INFINITY), max = least;
    for (size_t key = t->first; key < t->n_keys; key++) {
        float *s = t->s + key * t->width + v;
        VEC x = T(seen)(V(cap)(V(load)(s), cap), least, key, query, edge, t->window);
        V(store)(s, x);
        max = V(max)(x, max);
    }
    V(store)(most, max);
}

/* s = exp(s - most), 0 where the key is hidden: set outright, because Intel takes 150 cycles to find that e^-inf is
 * less than the least denormal. The sums: float64, key by key into 16 lanes, then the lanes 8 apart, 4, 2, 1. */
INLINE VEC T(exp_sum)(const lp_queries *t, size_t v, VEC most, const int windowed) {
    size_t width = t->width, n_keys = t->n_keys, query = t->m0 + v;
    size_t first = windowed ? t->first : 0, edge = windowed ? edge_end(t, query, LP_N) : 0;
    float *s = t->s + v;
    VECD sum[SUM_LANES];
    for (size_t lane = 0; lane < SUM_LANES; lane++) {
        sum[lane] = VD(zero)();
        for (size_t key = first + lane; key < n_keys; key += SUM_LANES) {
            VEC x = T(seen)(V(sub)(V(load)(s + key * width), most), V(zero)(), key, query, edge, t->window);
            VEC e = T(seen)(V(exp)(x), V(zero)(), key, query, edge, t->window);
            V(store)(s + key * width, e);
            sum[lane] = VD(add)(sum[lane], VD(from)(e));
        }
    }
    for (size_t apart = SUM_LANES / 2; apart; apart /= 2)
        for (size_t lane = 0; lane < apart; lane++) sum[lane] = VD(add)(sum[lane], sum[lane + apart]);
    return VD(round)(sum[0]);
}

INLINE void T(softmax_column)(const lp_queries *t, size_t v, const float *most, const int windowed) {
    size_t width = t->width, n_keys = t->n_keys, query = t->m0 + v;
    size_t first = windowed ? t->first : 0, edge = windowed ? edge_end(t, query, LP_N) : 0;
    float *s = t->s + v;
    VEC sum = T(exp_sum)(t, v, V(load)(most), windowed);
    for (size_t key = first; key < n_keys; key++) {
        VEC p = V(div)(V(load)(s + key * width), sum);
        V(store)(s + key * width, T(seen)(p, V(zero)(), key, query, edge, t->window));
    }
}

/* s to the pattern; 0 where the key is hidden. */
NOINLINE void T(softmax)(const lp_queries *t, size_t v, const float *most) {
    if (t->window)
        T(softmax_column)(t, v, most, 1);
    else
        T(softmax_column)(t, v, most, 0);
}

#endif
