/* steps.h - the operations of the forward pass, one verb each, executed as planned.
 *
 * A verb names the value it computes and those it reads, all of the current layer. It does nothing if the plan does not
 * need the value; if the value is fused with others it only adds its arguments, and the step's last value runs the
 * operation. A failure is sticky: after it all verbs do nothing. */
#ifndef LP_STEPS_H
#define LP_STEPS_H

#include "../base/error.h"    /* lp_error */
#include "../sys/memory.h"    /* lp_block */
#include "../ops/attention.h" /* lp_attention, lp_ops */
#include "../io/readahead.h"  /* lp_readahead */
#include "run.h"              /* lp_run */

typedef struct {
    lp_run *run;
    const lp_plan *plan;
    const lp_config *config;
    lp_ops ops;
    lp_block scratch;
    lp_sequence *sequences;
    float *inverse; /* [n_tokens], of norms of each head [n_tokens, n_heads]: 1 / rms of the current norm, before
                       rounding */
    lp_readahead *ahead;
    size_t layer; /* the current one */
    int failed;   /* sticky */
    size_t next_edit;
    lp_error why; /* an edit failed; LP_OK: none did */
    /* Arguments of the current operation, gathered so far. */
    lp_product product;
    lp_attention attention;
    struct {
        const float *x;
        float *rms, *unit;
    } norm;
} lp_pass;

/* Allocates the scratch block. LP_ENOMEM, LP_ECANCELED. Call lp_pass_end in any case. */
int lp_pass_begin(lp_pass *p, lp_run *run, lp_error *err);
void lp_pass_end(lp_pass *p);
/* Makes this the current layer; the weights of the next may be read ahead. */
void lp_pass_layer(lp_pass *p, size_t layer);

void lp_pass_angles(lp_pass *p); /* cos and sin of position * inv_freq */
void lp_pass_embed(lp_pass *p, lp_point out, const lp_weight *table);
/* Copies x_out of the layer before to the layer's input, if that has a place of its own. */
void lp_pass_carry(lp_pass *p, lp_point out, lp_point x_out);
void lp_pass_rms(lp_pass *p, lp_point out, lp_point x);                /* sqrt(mean(x^2) + eps) */
void lp_pass_unit(lp_pass *p, lp_point out, lp_point x, lp_point rms); /* x / rms */
void lp_pass_gain(lp_pass *p, lp_point out, lp_point unit, const lp_weight *gain);
void lp_pass_linear(lp_pass *p, lp_point out, lp_point x, const lp_weight *w, const lp_weight *bias); /* NULL: none */
/* By table `rope` of the model; -1: a copy. */
void lp_pass_rope(lp_pass *p, lp_point out, lp_point x, int rope);
void lp_pass_append(lp_pass *p); /* k_rope and v to the caches of the run, if it has any */
void lp_pass_scores(lp_pass *p, lp_point out, lp_point q, lp_point k); /* `out`, or scores in a model without it */
void lp_pass_cap(lp_pass *p, lp_point out, lp_point raw);              /* if the model has raw */
void lp_pass_softmax(lp_pass *p, lp_point out, lp_point scores);
void lp_pass_mix(lp_pass *p, lp_point out, lp_point pattern, lp_point v);
void lp_pass_add(lp_pass *p, lp_point out, lp_point a, lp_point b); /* a + residual_scale * b */
void lp_pass_activation(lp_pass *p, lp_point out, lp_point x);
void lp_pass_multiply(lp_pass *p, lp_point out, lp_point a, lp_point b);
/* The head's product: `out`, or logits in a model without it. */
void lp_pass_head(lp_pass *p, lp_point out, lp_point x, const lp_weight *w);
void lp_pass_logits(lp_pass *p, lp_point out, lp_point raw); /* raw / logits_divisor, if the model has raw */

#endif
