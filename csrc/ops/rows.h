/* rows.h - operations that pass once over rows of tokens, over numbers at the same place, or over a weight. */
#ifndef LP_ROWS_H
#define LP_ROWS_H

#include <stdint.h>

#include "ops.h" /* lp_ops, lp_weight */

/* out[m, d] = rows ids[m] of the table [.., d] */
int lp_embed(const lp_ops *ops, float *out, const int32_t *ids, const lp_weight *table, size_t m);

/* out = (gain + offset) * unit, unit = x / rms, rms = sqrt(mean(x^2) + eps); inverse[m] is the factor of x in unit: the
 * inverse of rms before it was rounded. */
int lp_rms_norm(const lp_ops *ops, float *rms, float *inverse, float *unit, float *out, const float *x,
                const lp_weight *gain, float offset, double eps, size_t m, size_t d);
/* Its parts: unit = x * inverse of the row (NULL: 1), out = (gain + offset) * unit. */
int lp_scale_rows(const lp_ops *ops, float *unit, float *out, const float *x, const float *inverse,
                  const lp_weight *gain, float offset, size_t m, size_t d);

/* out[n], element by element */
int lp_add(const lp_ops *ops, float *out, const float *a, const float *b, size_t n);
int lp_multiply(const lp_ops *ops, float *out, const float *a, const float *b, size_t n);
int lp_add_scaled(const lp_ops *ops, float *out, const float *a, const float *b, float scale,
                  size_t n);                                                           /* a + b * scale */
int lp_scale(const lp_ops *ops, float *out, const float *x, float scale, size_t n);    /* out may be x */
int lp_divide(const lp_ops *ops, float *out, const float *x, float divisor, size_t n); /* out may be x */
int lp_activate(const lp_ops *ops, lp_activation activation, float *out, const float *x, size_t n);
int lp_cap(const lp_ops *ops, float *out, const float *x, float cap, size_t n); /* cap * tanh(x / cap) */
int lp_copy(const lp_ops *ops, float *out, const float *x, size_t n);
int lp_zero(const lp_ops *ops, float *out, size_t n);

/* out = all numbers of w, as float32 */
int lp_widen(const lp_ops *ops, float *out, const lp_weight *w);

#endif
