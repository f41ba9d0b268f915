/* forward.c - the forward pass of a decoder: one line per value of docs/points.md, in order of computation.
 *
 * The plan decides what a line does: nothing when the model lacks the value or no requested value depends on it, its
 * part of a fused operation, or an operation of its own. in(p, LP_X_NORM) is x itself in a model without that norm;
 * scores_raw and logits_raw are scores and logits where nothing follows. */
#include "forward.h"

#include "steps.h" /* lp_pass, lp_pass_linear ... */

static lp_point in(const lp_pass *p, lp_point point) { return lp_model_source(p->run->model, point); }

static void attention(lp_pass *p, const lp_layer *l) {
    lp_pass_rms(p, LP_X_RMS, LP_X);                               /* x_rms = sqrt(mean(x^2) + eps) */
    lp_pass_unit(p, LP_X_UNIT, LP_X, LP_X_RMS);                   /* x_unit = x / x_rms */
    lp_pass_gain(p, LP_X_NORM, LP_X_UNIT, &l->input_norm);        /* x_norm = gain * x_unit */
    lp_pass_linear(p, LP_Q, in(p, LP_X_NORM), &l->q, &l->q_bias); /* q = x_norm Wq^T + b */
    lp_pass_linear(p, LP_K, in(p, LP_X_NORM), &l->k, &l->k_bias); /* k = x_norm Wk^T + b */
    lp_pass_linear(p, LP_V, in(p, LP_X_NORM), &l->v, &l->v_bias); /* v = x_norm Wv^T + b */
    lp_pass_rms(p, LP_Q_RMS, LP_Q);                               /* q_rms = sqrt(mean(q^2) + eps) */
    lp_pass_unit(p, LP_Q_UNIT, LP_Q, LP_Q_RMS);                   /* q_unit = q / q_rms */
    lp_pass_gain(p, LP_Q_NORM, LP_Q_UNIT, &l->q_norm);            /* q_norm = gain * q_unit */
    lp_pass_rms(p, LP_K_RMS, LP_K);                               /* k_rms = sqrt(mean(k^2) + eps) */
    lp_pass_unit(p, LP_K_UNIT, LP_K, LP_K_RMS);                   /* k_unit = k / k_rms */
    lp_pass_gain(p, LP_K_NORM, LP_K_UNIT, &l->k_norm);            /* k_norm = gain * k_unit */
    lp_pass_rope(p, LP_Q_ROPE, in(p, LP_Q_NORM), l->rope);        /* q_rope = q_norm turned by its position */
    lp_pass_rope(p, LP_K_ROPE, in(p, LP_K_NORM), l->rope);        /* k_rope = k_norm turned by its position */
    lp_pass_append(p);                                            /* k_rope and v to the caches */
    lp_pass_scores(p, LP_SCORES_RAW, LP_Q_ROPE, LP_K_ROPE);       /* scores_raw = q_rope k_rope^T * scale */
    lp_pass_cap(p, LP_SCORES, LP_SCORES_RAW);                     /* scores = cap tanh(scores_raw / cap) */
    lp_pass_softmax(p, LP_PATTERN, LP_SCORES);                    /* pattern = softmax(scores) */
    lp_pass_mix(p, LP_Z, LP_PATTERN, LP_V);                       /* z = pattern v */
    lp_pass_linear(p, LP_ATTN_OUT, LP_Z, &l->o, &l->o_bias);      /* attn_out = z Wo^T + b */
    lp_pass_rms(p, LP_ATTN_RMS, LP_ATTN_OUT);                     /* attn_rms = sqrt(mean(attn_out^2) + eps) */
    lp_pass_unit(p, LP_ATTN_UNIT, LP_ATTN_OUT, LP_ATTN_RMS);      /* attn_unit = attn_out / attn_rms */
    lp_pass_gain(p, LP_ATTN_NORM, LP_ATTN_UNIT, &l->attn_norm);   /* attn_norm = gain * attn_unit */
    lp_pass_add(p, LP_X_MID, LP_X, in(p, LP_ATTN_NORM));          /* x_mid = x + residual_scale * attn_norm */
}

static void mlp(lp_pass *p, const lp_layer *l) {
    lp_pass_rms(p, LP_X_MID_RMS, LP_X_MID);                      /* x_mid_rms = sqrt(mean(x_mid^2) + eps) */
    lp_pass_unit(p, LP_X_MID_UNIT, LP_X_MID, LP_X_MID_RMS);      /* x_mid_unit = x_mid / x_mid_rms */
    lp_pass_gain(p, LP_X_MID_NORM, LP_X_MID_UNIT, &l->mid_norm); /* x_mid_norm = gain * x_mid_unit */
    lp_pass_linear(p, LP_GATE, in(p, LP_X_MID_NORM), &l->gate, &l->gate_bias); /* gate = x_mid_norm Wg^T + b */
    lp_pass_linear(p, LP_UP, in(p, LP_X_MID_NORM), &l->up, &l->up_bias);       /* up = x_mid_norm Wu^T + b */
    lp_pass_activation(p, LP_ACT, LP_GATE);                                    /* act = silu(gate) or gelu_tanh(gate) */
    lp_pass_multiply(p, LP_HIDDEN, LP_ACT, LP_UP);                             /* hidden = act * up */
    lp_pass_linear(p, LP_MLP_OUT, LP_HIDDEN, &l->down, &l->down_bias);         /* mlp_out = hidden Wd^T + b */
    lp_pass_rms(p, LP_MLP_RMS, LP_MLP_OUT);                  /* mlp_rms = sqrt(mean(mlp_out^2) + eps) */
    lp_pass_unit(p, LP_MLP_UNIT, LP_MLP_OUT, LP_MLP_RMS);    /* mlp_unit = mlp_out / mlp_rms */
    lp_pass_gain(p, LP_MLP_NORM, LP_MLP_UNIT, &l->mlp_norm); /* mlp_norm = gain * mlp_unit */
    lp_pass_add(p, LP_X_OUT, LP_X_MID, in(p, LP_MLP_NORM));  /* x_out = x_mid + residual_scale * mlp_norm */
}

/* Of the last layer's x_out. */
static void head(lp_pass *p, const lp_model *model) {
    lp_pass_rms(p, LP_FINAL_RMS, LP_X_OUT);                            /* final_rms = sqrt(mean(x_out^2) + eps) */
    lp_pass_unit(p, LP_FINAL_UNIT, LP_X_OUT, LP_FINAL_RMS);            /* final_unit = x_out / final_rms */
    lp_pass_gain(p, LP_FINAL_NORM, LP_FINAL_UNIT, &model->final_norm); /* final_norm = gain * final_unit */
    lp_pass_head(p, LP_LOGITS_RAW, LP_FINAL_NORM, &model->head);       /* logits_raw = final_norm Wh^T */
    lp_pass_logits(p, LP_LOGITS, LP_LOGITS_RAW);                       /* logits = cap(logits_raw / logits_divisor) */
}

static void pass(lp_pass *p, const lp_model *model) {
    lp_pass_angles(p);
    lp_pass_embed(p, LP_X, &model->embed); /* x = the token's row of the embedding */
    for (size_t i = 0; i < p->plan->n_layers; i++) {
        lp_pass_layer(p, i);
        lp_pass_carry(p, LP_X, LP_X_OUT); /* x = x_out of the layer before */
        attention(p, &model->layers[i]);
        mlp(p, &model->layers[i]);
    }
    head(p, model);
}

static int check_places(const lp_run *run, lp_error *err) {
    for (size_t i = 0; i < run->plan->n_layers * LP_N_POINTS; i++) {
        const lp_value *v = &run->plan->values[i];
        if (v->where == LP_IN_ARRAY && !run->places[v->at])
            return lp_fail(err, LP_EARG, "%s of layer %zu is requested and has no place",
                           lp_point_name((lp_point)(i % LP_N_POINTS)), i / LP_N_POINTS);
    }
    return 0;
}

int lp_forward(lp_run *run, lp_error *err) {
    lp_pass p;
    if (lp_model_check_unchanged(run->model, err)) return -1;
    if (!run->plan && lp_run_plan(run, err)) return -1;
    if (!run->plan->n_steps) return 0;
    if (check_places(run, err) || lp_run_check_caches(run, err)) return -1;
    int failed = lp_pass_begin(&p, run, err);
    if (!failed) {
        pass(&p, run->model);
        failed = p.failed;
        if (p.why.status)
            lp_fail(err, p.why.status, "%s", p.why.msg);
        else if (failed)
            lp_fail(err, LP_ECANCELED, "the run was stopped at step %zu of %zu", run->steps_done, run->n_steps);
    }
    lp_pass_end(&p);
    return failed ? -1 : 0;
}
