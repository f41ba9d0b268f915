/* forward.h - tokens to logits: the paper, top to bottom. */
#ifndef LP_FORWARD_H
#define LP_FORWARD_H

#include "../base/error.h" /* lp_error */
#include "run.h"           /* lp_run */

/* Computes every requested value to its place, and nothing that none of them needs; makes the plan if there is none.
 * LP_EARG: a requested value has no place; LP_ENOMEM names the size of the scratch block; LP_ECHANGED: a file of the
 * model changed; LP_ECANCELED: the poll said stop (places then hold unfinished values). The model stays usable. */
int lp_forward(lp_run *run, lp_error *err);

#endif
