/* linear.h - products of activations and weights. */
#ifndef LP_LINEAR_H
#define LP_LINEAR_H

#include "ops.h" /* lp_ops, lp_product */

/* Every factor of the product; p->x_packed is set here. */
int lp_linear(const lp_ops *ops, const lp_product *p);

#endif
