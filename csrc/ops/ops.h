/* ops.h - the operations of a Llama on rows of tokens, cut into jobs for the pool.
 *
 * Each returns 0, or -1 when the poll of the crew said stop. Results that are NULL are not wanted. Shapes: m rows
 * (tokens of all sequences, one sequence after the other), row-major. */
#ifndef LP_OPS_H
#define LP_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "../kernels/kernels.h" /* lp_kernels, lp_product, lp_weight */
#include "../sys/pool.h"        /* lp_crew */
#include "../sys/profile.h"     /* lp_profile */

/* One sequence: its rows, and where its part of a map [n_heads, T, T] begins. */
typedef struct {
    size_t start, n_tokens;
    size_t first_tile; /* how many tiles of queries the sequences before it have */
    size_t map_at;     /* floats of the maps of the sequences before it */
} lp_sequence;

/* What the operations of a run share. */
typedef struct {
    const lp_kernels *kernels;
    lp_crew crew;
    float *scratch;        /* [n_threads][scratch_stride], 64-byte aligned */
    size_t scratch_stride; /* floats; a multiple of 16 */
    float *packed;         /* room for the packed x of the largest product, or k and v of all heads */
    lp_profile *profile;   /* NULL disables it */
} lp_ops;

/* out[m, d] = rows ids[m] of the table [.., d] */
int lp_embed(const lp_ops *ops, float *out, const int32_t *ids, const lp_weight *table, size_t m);

/* out = gain * unit, unit = x / rms, rms = sqrt(mean(x^2) + eps); inverse[m] is what x is multiplied by for unit: the
 * inverse of rms before it was rounded. */
int lp_rms_norm(const lp_ops *ops, float *rms, float *inverse, float *unit, float *out, const float *x,
                const lp_weight *gain, double eps, size_t m, size_t d);
/* Its parts: unit = x * inverse of the row (NULL: 1), out = gain * unit. */
int lp_scale_rows(const lp_ops *ops, float *unit, float *out, const float *x, const float *inverse,
                  const lp_weight *gain, size_t m, size_t d);

/* out[n], of numbers at the same place */
int lp_add(const lp_ops *ops, float *out, const float *a, const float *b, size_t n);
int lp_multiply(const lp_ops *ops, float *out, const float *a, const float *b, size_t n);
int lp_silu(const lp_ops *ops, float *out, const float *x, size_t n); /* x / (1 + e^-x) */
int lp_copy(const lp_ops *ops, float *out, const float *x, size_t n);
int lp_zero(const lp_ops *ops, float *out, size_t n);

/* Every factor of the product; p->x_packed is set here. */
int lp_linear(const lp_ops *ops, const lp_product *p);

/* out = all numbers of w, as float32 */
int lp_widen(const lp_ops *ops, float *out, const lp_weight *w);

#endif
