/* head.h - the last norm and the head on given rows: what the model would say after any of its layers (a logit lens).
 *
 * The operations are those of a run, so the rows of the last layer's x_out give the bits of its logits. A row does not
 * depend on the others, nor a token on the others. */
#ifndef LP_HEAD_H
#define LP_HEAD_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"      /* lp_error */
#include "../kernels/kernels.h" /* lp_kernels */
#include "../model/model.h"     /* lp_model */
#include "../sys/memory.h"      /* lp_block, lp_parallel */

typedef struct {
    const lp_model *model;
    const lp_kernels *kernels;
    lp_parallel parallel;
    const float *x; /* [n_rows, d_model]: the residual stream */
    size_t n_rows;
    const int32_t *token_ids; /* [n_tokens]: the rows of the head that are computed; NULL: all vocab_size */
    size_t n_tokens;          /* of the logits */
    float *logits;            /* [n_rows, n_tokens] */
} lp_head_request;

/* Checks the ids (LP_EARG), and how many bytes of scratch the request needs (LP_ENOMEM: more than there are addresses).
 */
int lp_head_check(const lp_head_request *q, size_t *scratch_bytes, lp_error *err);
/* logits = cap(head norm(x) / logits_divisor). LP_ENOMEM, LP_ECHANGED, LP_ECANCELED. */
int lp_head_logits(const lp_head_request *q, lp_error *err);

#endif
