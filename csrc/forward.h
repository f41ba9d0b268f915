/* forward.h - tokens to logits: the paper, top to bottom. */
#ifndef LP_FORWARD_H
#define LP_FORWARD_H

#include "error.h" /* lp_error */
#include "run.h"   /* lp_run */

/* Computes every value whose place is set, and nothing past the last of them. LP_ENOMEM names what the scratch
 * block would have needed; LP_ECHANGED: a file of the model changed; LP_ECANCELED: poll said stop (the places
 * then hold unfinished values). The model stays usable after any failure. */
int lp_forward(lp_run *run, lp_error *err);

/* Bytes of scratch that lp_forward will ask for, for messages and checks. LP_ENOMEM when that overflows. */
int lp_forward_scratch(const lp_run *run, size_t *n_bytes, lp_error *err);

#endif
