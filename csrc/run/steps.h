/* steps.h - the operations of the forward pass, one verb each, as the plan has them.
 *
 * A verb names the value that it computes and those that it reads, all of the layer at work. It does nothing where the
 * plan does not need that value; where the plan has fused it with others it only says what its part of the operation
 * is, and the last value of the step runs it. A failure is sticky: after it all verbs do nothing. */
#ifndef LP_STEPS_H
#define LP_STEPS_H

#include "../base/error.h"    /* lp_error */
#include "../sys/memory.h"    /* lp_block */
#include "../ops/attention.h" /* lp_ops, lp_attention */
#include "../io/readahead.h"  /* lp_readahead */
#include "run.h"              /* lp_run */

typedef struct {
    lp_run *run;
    const lp_plan *plan;
    const lp_config *config;
    lp_ops ops;
    lp_block scratch;
    lp_sequence *sequences;
    float *cos, *sin; /* [longest sequence, head_dim / 2] */
    float *inverse;   /* [n_tokens]: of the norm at work, 1 / rms before it was rounded */
    lp_readahead *ahead;
    size_t layer; /* at work */
    int failed;   /* sticky */
    /* Arguments of the operation at work, gathered so far. */
    lp_product product;
    lp_attention attention;
    struct {
        const float *x;
        float *rms, *unit;
    } norm;
} lp_pass;

/* Makes the scratch block. LP_ENOMEM, LP_ECANCELED. Ended in any case. */
int lp_pass_begin(lp_pass *p, lp_run *run, lp_error *err);
void lp_pass_end(lp_pass *p);
/* The verbs that follow are of this layer; its successor's weights may be read. */
void lp_pass_layer(lp_pass *p, size_t layer);

void lp_pass_angles(lp_pass *p); /* cos and sin of position * inv_freq */
void lp_pass_embed(lp_pass *p, lp_point out, const lp_weight *table);
/* The layer's input, which is x_out of the layer before, where it has a place of its own. */
void lp_pass_carry(lp_pass *p, lp_point out, lp_point x_out);
void lp_pass_rms(lp_pass *p, lp_point out, lp_point x);                /* sqrt(mean(x^2) + eps) */
void lp_pass_unit(lp_pass *p, lp_point out, lp_point x, lp_point rms); /* x / rms */
void lp_pass_gain(lp_pass *p, lp_point out, lp_point unit, const lp_weight *gain);
void lp_pass_linear(lp_pass *p, lp_point out, lp_point x, const lp_weight *w, const lp_weight *bias); /* NULL: none */
void lp_pass_rope(lp_pass *p, lp_point out, lp_point x);
void lp_pass_scores(lp_pass *p, lp_point out, lp_point q, lp_point k);
void lp_pass_softmax(lp_pass *p, lp_point out, lp_point scores);
void lp_pass_mix(lp_pass *p, lp_point out, lp_point pattern, lp_point v);
void lp_pass_add(lp_pass *p, lp_point out, lp_point a, lp_point b);
void lp_pass_silu(lp_pass *p, lp_point out, lp_point x);
void lp_pass_multiply(lp_pass *p, lp_point out, lp_point a, lp_point b);

#endif
