/* steps.c - each verb finds its step and places, and the last one of a step runs the operation. */
#include "steps.h"

#include <string.h>

#include "../ops/linear.h" /* lp_linear */
#include "../ops/rows.h"   /* lp_add, lp_rms_norm ... */
#include "branch.h"        /* lp_branch_layer */

/* ---- places -------------------------------------------------------------------------------------------------- */

static size_t width_of(const lp_pass *p, lp_point point) { return lp_config_width(p->config, lp_point_width(point)); }

/* Where a value of the current layer goes; NULL: nowhere. */
static float *place(const lp_pass *p, lp_point point) {
    const lp_value *v = lp_plan_value(p->plan, p->layer, point);
    if (v->where == LP_IN_ARRAY) return p->run->places[v->at];
    return v->where == LP_IN_SCRATCH ? (float *)((char *)p->scratch.data + v->at) : NULL;
}

static size_t first_row(const lp_pass *p, lp_point point) { return lp_plan_value(p->plan, p->layer, point)->first_row; }

static int last_rows(const lp_pass *p, lp_point point) { return lp_plan_value(p->plan, p->layer, point)->last_rows; }

static size_t n_rows(const lp_pass *p, lp_point out) {
    return lp_plan_rows(p->plan, lp_plan_value(p->plan, p->layer, out));
}

static size_t n_floats(const lp_pass *p, lp_point out) { return n_rows(p, out) * width_of(p, out); }

/* Of x [n_tokens, width] the last row of each sequence. Of the values that are read so, one step reads z and one more.
 */
static const float *gather(const lp_pass *p, lp_point point, const float *x) {
    size_t n = p->run->n_seqs, width = width_of(p, point);
    if (n == p->run->n_tokens) return x;
    if (n == 1) return x + (p->run->n_tokens - 1) * width;
    float *to = (float *)((char *)p->scratch.data + p->plan->gathered_at);
    if (point != LP_Z) to += n * width_of(p, LP_Z);
    for (size_t s = 0; s < n; s++)
        memcpy(to + s * width, x + (p->run->seq_start[s + 1] - 1) * width, width * sizeof *x);
    return to;
}

/* The rows of a value that `out` has. */
static const float *rows_for(const lp_pass *p, lp_point out, lp_point point) {
    const float *x = place(p, point);
    if (!x || last_rows(p, out) == last_rows(p, point))
        return x ? x + (first_row(p, out) - first_row(p, point)) * width_of(p, point) : NULL;
    return gather(p, point, x);
}

/* ---- steps --------------------------------------------------------------------------------------------------- */

/* The step that computes a value; NULL when there is none, or after a failure. */
static const lp_step *step_of(const lp_pass *p, lp_point out) {
    size_t step = lp_plan_value(p->plan, p->layer, out)->step;
    return p->failed || step == LP_NO_STEP ? NULL : &p->plan->steps[step];
}

static int observe(lp_pass *p, size_t layer, lp_point point, const float *values) {
    const lp_observer *o = p->run->observer;
    if (!lp_points_has(&o->points[layer], point)) return 0;
    return o->see(o->arg, &p->ops, point, lp_point_per_layer(point) ? layer : 0, values);
}

/* The values of a step; x_out is also x of the next layer, if that has no step of its own. */
static int observe_step(lp_pass *p, const lp_step *s) {
    size_t next = s->layer + 1;
    int failed = 0;
    for (lp_point point = s->first; !failed && point <= s->last && point < LP_N_POINTS; point++) {
        if (!lp_points_has(&s->points, point)) continue;
        failed = observe(p, s->layer, point, place(p, point));
        if (!failed && point == LP_X_OUT && next < p->plan->n_layers &&
            lp_plan_value(p->plan, next, LP_X)->step == LP_NO_STEP)
            failed = observe(p, next, LP_X, place(p, point));
    }
    return failed;
}

static int is_rms(lp_point point) {
    return point == LP_X_RMS || point == LP_Q_RMS || point == LP_K_RMS || point == LP_ATTN_RMS ||
           point == LP_X_MID_RMS || point == LP_MLP_RMS || point == LP_FINAL_RMS;
}

/* Copies the value to the place of what is kept before its edits. */
static int keep(const lp_pass *p, const lp_edit_target *t, float *to) {
    int map = lp_point_width(t->point) == LP_WIDTH_MAP;
    return lp_copy(&p->ops, to, t->data, map ? p->attention.n_map : n_floats(p, t->point));
}

/* The edits of one value from number p->next_edit on. */
static int edit_value(lp_pass *p, size_t key) {
    const lp_run *run = p->run;
    int is_given = key / LP_N_POINTS < p->layer; /* x of the first layer of a branch */
    lp_point point = is_given ? LP_X : (lp_point)(key % LP_N_POINTS);
    size_t first = p->next_edit, end = first;
    lp_edit_target t = {run->model,
                        point,
                        p->layer,
                        place(p, point),
                        is_rms(point) ? p->inverse : NULL,
                        first_row(p, point),
                        last_rows(p, point),
                        p->sequences};
    int failed = 0;
    for (; end < run->n_edits && lp_edit_key(run->model, run->edits[end]->point, run->edits[end]->layer) == key;
         end++) {
        lp_edit *e = run->edits[end];
        if (!failed) failed = e->op == LP_EDIT_KEEP ? keep(p, &t, e->keep) : lp_edit_apply(&t, e, &p->why);
    }
    for (size_t i = first; point == LP_SCORES && i < end && !failed; i++)
        failed = lp_edit_check_keys(&t, run->edits[i], &p->why);
    p->next_edit = end;
    return failed;
}

/* The edits of what the step computed. */
static int edit_values(lp_pass *p, const lp_step *s) {
    const lp_run *run = p->run;
    size_t last = s->layer * LP_N_POINTS + s->last, key;
    int failed = 0;
    while (!failed && s->first < LP_N_POINTS && p->next_edit < run->n_edits &&
           (key = lp_edit_key(run->model, run->edits[p->next_edit]->point, run->edits[p->next_edit]->layer)) <= last)
        failed = edit_value(p, key);
    return failed;
}

static void end_step(lp_pass *p, const lp_step *s, int failed) {
    if (!failed && p->run->n_edits) failed = edit_values(p, s);
    p->failed |= failed;
    if (p->run->observer && !p->failed) p->failed |= observe_step(p, s);
    p->run->steps_done++;
    lp_profile_lap(p->run->profile, s->stage);
}

static void end_product(lp_pass *p, const lp_step *s, lp_point out) {
    if (s->last == out) end_step(p, s, lp_linear(&p->ops, &p->product));
}

/* The fused norm of m rows of d floats, or a part of it as a step of its own. */
static void end_norm(lp_pass *p, const lp_step *s, lp_point point, size_t m, size_t d, const float *x,
                     const float *inverse, float *out, const lp_weight *gain) {
    float offset = (float)p->config->gain_offset;
    if (s->last != point) return;
    end_step(p, s,
             p->norm.x ? lp_rms_norm(&p->ops, p->norm.rms, p->inverse, p->norm.unit, out, p->norm.x, gain, offset,
                                     p->config->rms_norm_eps, m, d)
                       : lp_scale_rows(&p->ops, p->norm.unit, out, x, inverse, gain, offset, m, d));
    p->norm.x = NULL;
}

/* The point itself, or what it is in a model that lacks it. */
static lp_point computed(const lp_pass *p, lp_point raw, lp_point instead) {
    return lp_model_has(p->run->model, raw) ? raw : instead;
}

static void end_attention(lp_pass *p, const lp_step *s, lp_point out,
                          int (*part)(const lp_ops *ops, const lp_attention *a)) {
    /* the fused kernel writes no pattern where a key is hidden: arrays hold zeros, scratch anything */
    int fused = s->first == computed(p, LP_SCORES_RAW, LP_SCORES), failed = 0;
    if (s->last != out) return;
    if (fused && p->attention.pattern && lp_plan_value(p->plan, p->layer, LP_PATTERN)->where == LP_IN_SCRATCH)
        failed = lp_zero(&p->ops, p->attention.pattern, p->attention.n_map);
    end_step(p, s, failed || (fused ? lp_attend : part)(&p->ops, &p->attention));
}

/* cos of a table of angles, sin behind it; NULL: not used. */
static float *angles(const lp_pass *p, size_t rope, int is_long) {
    size_t at = p->plan->table_at[rope][is_long];
    return at == LP_NO_TABLE ? NULL : (float *)((char *)p->scratch.data + at);
}

/* ---- verbs --------------------------------------------------------------------------------------------------- */

/* A table: positions from 0 on, then those of the sequences with a past. */
static int table_of(const lp_pass *p, float *cos, const float *inv_freq, float factor) {
    size_t half = p->config->rotary_dim / 2, n_angles = p->plan->n_angles, n_shared = n_angles;
    float *sin = cos + n_angles * half;
    int failed = 0;
    for (size_t i = p->run->n_seqs; i-- && !failed;) {
        const lp_sequence *s = &p->sequences[i];
        if (!s->n_past || p->run->base) continue;
        failed = lp_rope_table(&p->ops, cos + s->angles_at * half, sin + s->angles_at * half, inv_freq, factor,
                               s->n_past, s->n_tokens, half);
        n_shared = s->angles_at;
    }
    return failed || (n_shared && lp_rope_table(&p->ops, cos, sin, inv_freq, factor, 0, n_shared, half));
}

void lp_pass_angles(lp_pass *p) {
    const lp_step *s = p->plan->steps;
    const lp_model *model = p->run->model;
    int failed = 0;
    if (s->first != LP_N_POINTS || p->failed) return;
    for (size_t i = 0; i < model->n_ropes; i++)
        for (int is_long = 0; is_long < 2; is_long++) {
            const lp_rope_spec *rope = &model->ropes[i];
            float *cos = angles(p, i, is_long);
            if (cos) failed = failed || table_of(p, cos, is_long ? rope->long_inv_freq : rope->inv_freq, rope->factor);
        }
    end_step(p, s, failed);
}

void lp_pass_embed(lp_pass *p, lp_point out, const lp_weight *table) {
    const lp_step *s = step_of(p, out);
    float *x = place(p, out), scale = (float)p->config->embedding_scale;
    if (!s || p->run->base) return;
    int failed = lp_embed(&p->ops, x, p->run->token_ids, table, p->run->n_tokens);
    if (scale != 1) failed = failed || lp_scale(&p->ops, x, x, scale, n_floats(p, out));
    end_step(p, s, failed);
}

void lp_pass_carry(lp_pass *p, lp_point out, lp_point x_out) {
    const lp_step *s = step_of(p, out);
    const float *from = p->run->x;
    if (!s || (!p->layer && !from)) return;
    if (p->layer > p->run->first_layer) /* an array, as is x */
        from = p->run->places[lp_plan_value(p->plan, p->layer - 1, x_out)->at];
    end_step(p, s, lp_copy(&p->ops, place(p, out), from, n_floats(p, out)));
}

void lp_pass_rms(lp_pass *p, lp_point out, lp_point x) {
    const lp_step *s = step_of(p, out);
    size_t d = width_of(p, x) / width_of(p, out);
    if (!s) return;
    p->norm.x = rows_for(p, out, x), p->norm.rms = place(p, out), p->norm.unit = NULL;
    end_norm(p, s, out, n_floats(p, out), d, NULL, NULL, NULL, NULL);
}

void lp_pass_unit(lp_pass *p, lp_point out, lp_point x, lp_point rms) {
    const lp_step *s = step_of(p, out);
    size_t d = width_of(p, x) / width_of(p, rms); /* 1 / rms is in p->inverse */
    if (!s) return;
    p->norm.unit = place(p, out);
    end_norm(p, s, out, n_floats(p, out) / d, d, rows_for(p, out, x), p->inverse, NULL, NULL);
}

void lp_pass_gain(lp_pass *p, lp_point out, lp_point unit, const lp_weight *gain) {
    const lp_step *s = step_of(p, out);
    if (!s) return;
    if (s->first == out) p->norm.unit = NULL;
    end_norm(p, s, out, n_floats(p, out) / gain->n_cols, gain->n_cols, rows_for(p, out, unit), NULL, place(p, out),
             gain);
}

void lp_pass_linear(lp_pass *p, lp_point out, lp_point x, const lp_weight *w, const lp_weight *bias) {
    const lp_step *s = step_of(p, out);
    if (!s) return;
    if (s->first == out) p->product = (lp_product){.m = n_rows(p, out), .k = w->n_cols, .x = rows_for(p, out, x)};
    p->product.factor[p->product.n_factors++] = (lp_factor){.w = w, .bias = bias, .y = place(p, out)};
    end_product(p, s, out);
}

void lp_pass_rope(lp_pass *p, lp_point out, lp_point x, int rope) {
    const lp_step *s = step_of(p, out);
    const lp_rope_spec *spec = &p->run->model->ropes[rope < 0 ? 0 : rope];
    size_t head_dim = p->config->head_dim, half = p->config->rotary_dim / 2;
    if (!s) return;
    if (rope < 0) {
        end_step(p, s, lp_copy(&p->ops, place(p, out), place(p, x), n_floats(p, out)));
        return;
    }
    lp_angles a = {.half = half, .interleaved = p->config->interleaved};
    for (int is_long = 0; is_long < 2; is_long++) {
        float *cos = angles(p, (size_t)rope, is_long);
        a.cos[is_long] = cos, a.sin[is_long] = cos ? cos + p->plan->n_angles * half : NULL;
    }
    a.short_until = lp_plan_short_until(spec, p->plan->request.rope_length);
    end_step(p, s,
             lp_rope(&p->ops, place(p, out), place(p, x), &a, p->sequences, p->run->n_seqs, width_of(p, out) / head_dim,
                     head_dim));
}

void lp_pass_append(lp_pass *p) {
    if (p->failed || (!p->run->caches && !(p->run->base && step_of(p, LP_K_ROPE)))) return;
    if (p->run->base) p->failed = lp_branch_layer(p);
    for (size_t s = 0; p->run->caches && s < p->run->n_seqs; s++)
        if (p->run->caches[s]) p->sequences[s].cache = lp_cache_panels(p->run->caches[s], p->layer);
    p->attention.k = place(p, LP_K_ROPE), p->attention.v = place(p, LP_V);
    p->failed = p->failed || lp_append(&p->ops, &p->attention);
    lp_profile_lap(p->run->profile, LP_STAGE_ATTENTION);
}

void lp_pass_scores(lp_pass *p, lp_point out, lp_point q, lp_point k) {
    int capped = lp_model_has(p->run->model, out);
    float *raw = place(p, out), *scores = place(p, LP_SCORES);
    out = capped ? out : LP_SCORES;
    const lp_step *s = step_of(p, out);
    if (!s) return;
    p->attention.q = place(p, q), p->attention.k = place(p, k);
    p->attention.window = p->run->model->layers[p->layer].window, p->attention.cap = 0;
    p->attention.scores_raw = capped ? raw : NULL, p->attention.scores = capped ? NULL : scores;
    p->attention.v = p->attention.pattern = p->attention.z = NULL;
    end_attention(p, s, out, lp_attend);
}

void lp_pass_cap(lp_pass *p, lp_point out, lp_point raw) {
    const lp_step *s = step_of(p, out);
    if (!s || !lp_model_has(p->run->model, raw)) return;
    p->attention.scores = place(p, out), p->attention.cap = (float)p->config->score_cap;
    end_attention(p, s, out, lp_cap_scores);
}

void lp_pass_softmax(lp_pass *p, lp_point out, lp_point scores) {
    const lp_step *s = step_of(p, out);
    (void)scores; /* p->attention has its place, here and below */
    if (!s) return;
    p->attention.pattern = place(p, out);
    end_attention(p, s, out, lp_softmax);
}

void lp_pass_mix(lp_pass *p, lp_point out, lp_point pattern, lp_point v) {
    const lp_step *s = step_of(p, out);
    (void)pattern;
    if (!s) return;
    p->attention.z = place(p, out), p->attention.v = place(p, v);
    end_attention(p, s, out, lp_mix);
}

void lp_pass_add(lp_pass *p, lp_point out, lp_point a, lp_point b) {
    const lp_step *s = step_of(p, out);
    if (!s) return;
    if (s->first == out) {
        const float *x = rows_for(p, out, a), *y = rows_for(p, out, b);
        float scale = (float)p->config->residual_scale;
        end_step(p, s,
                 scale == 1 ? lp_add(&p->ops, place(p, out), x, y, n_floats(p, out))
                            : lp_add_scaled(&p->ops, place(p, out), x, y, scale, n_floats(p, out)));
        return;
    }
    p->product.factor[0].add = rows_for(p, out, a), p->product.factor[0].sum = place(p, out);
    end_product(p, s, out);
}

void lp_pass_activation(lp_pass *p, lp_point out, lp_point x) {
    const lp_step *s = step_of(p, out);
    lp_activation activation = p->config->gelu_tanh ? LP_GELU_TANH : LP_SILU;
    if (s && s->first == out)
        end_step(p, s, lp_activate(&p->ops, activation, place(p, out), rows_for(p, out, x), n_floats(p, out)));
    else if (s) /* the product with up follows */
        p->product.gated = 1, p->product.activation = activation, p->product.act = place(p, out);
}

void lp_pass_multiply(lp_pass *p, lp_point out, lp_point a, lp_point b) {
    const lp_step *s = step_of(p, out);
    if (!s) return;
    if (s->first == out) {
        end_step(p, s, lp_multiply(&p->ops, place(p, out), rows_for(p, out, a), rows_for(p, out, b), n_floats(p, out)));
        return;
    }
    p->product.hidden = place(p, out);
    end_product(p, s, out);
}

void lp_pass_head(lp_pass *p, lp_point out, lp_point x, const lp_weight *w) {
    lp_pass_linear(p, computed(p, out, LP_LOGITS), x, w, NULL);
}

void lp_pass_logits(lp_pass *p, lp_point out, lp_point raw) {
    const lp_step *s = step_of(p, out);
    if (!s || !lp_model_has(p->run->model, raw)) return;
    float divisor = (float)p->config->logits_divisor, cap = (float)p->config->logits_cap, *logits = place(p, out);
    const float *x = rows_for(p, out, raw);
    size_t n = n_floats(p, out);
    int failed = divisor != 1 && lp_divide(&p->ops, logits, x, divisor, n);
    if (cap != 0) failed = failed || lp_cap(&p->ops, logits, divisor != 1 ? logits : x, cap, n);
    end_step(p, s, failed);
}

/* ---- the pass ------------------------------------------------------------------------------------------------ */

static void number_sequences(lp_pass *p) {
    size_t angles_at = p->plan->n_angles;
    for (size_t i = p->run->n_seqs; i--;) {
        lp_sequence *s = &p->sequences[i];
        *s = lp_request_sequence(&p->plan->request, i);
        if (p->run->base)
            s->angles_at = s->n_past;
        else if (s->n_past)
            s->angles_at = angles_at -= s->n_tokens;
    }
    size_t n_map = lp_number_sequences(p->sequences, p->run->n_seqs, p->ops.kernels->q_tile, p->config->n_heads,
                                       p->config->n_kv_heads);
    p->attention = (lp_attention){.n_map = n_map,
                                  .n_heads = p->config->n_heads,
                                  .n_kv_heads = p->config->n_kv_heads,
                                  .head_dim = p->config->head_dim,
                                  .scale = (float)p->config->attention_scale,
                                  .sequences = p->sequences,
                                  .n_sequences = p->run->n_seqs};
}

static void read_ahead(lp_pass *p) {
    const lp_plan *plan = p->plan;
    const lp_model *model = p->run->model;
    if (!lp_model_is_mapped(model)) return;
    if (!p->run->base) lp_readahead_rows(&model->embed, p->run->token_ids, p->run->n_tokens);
    p->ahead = lp_readahead_start(plan->weights, plan->weight_end, plan->n_layers + 1);
}

int lp_pass_begin(lp_pass *p, lp_run *run, lp_error *err) {
    const lp_plan *plan = run->plan;
    *p = (lp_pass){.run = run, .plan = plan, .config = &run->model->config};
    int failed = (run->base ? lp_block_make_dirty : lp_block_make)(&p->scratch, plan->scratch_bytes, run->model->arena,
                                                                   &run->parallel);
    if (failed > 0) return lp_fail(err, LP_ECANCELED, "the run was stopped before its first step");
    if (failed)
        return lp_fail(err, LP_ENOMEM,
                       "%zu tokens need %zu MB of scratch memory; use a shorter prompt or smaller batch", run->n_tokens,
                       plan->scratch_bytes >> 20);
    char *base = p->scratch.data;
    p->ops = (lp_ops){.kernels = run->kernels,
                      .parallel = run->parallel,
                      .scratch = (float *)(base + plan->worker_at),
                      .scratch_stride = plan->worker_stride,
                      .packed = (float *)(base + plan->packed_at),
                      .profile = run->profile};
    p->ops.parallel.n_threads = plan->n_threads;
    p->inverse = (float *)(base + plan->inverse_at);
    p->sequences = (lp_sequence *)(base + plan->sequences_at);
    run->n_steps = plan->n_steps, run->steps_done = 0;
    lp_profile_lap(run->profile, LP_STAGE_MEMORY);
    number_sequences(p);
    read_ahead(p);
    return 0;
}

void lp_pass_layer(lp_pass *p, size_t layer) {
    p->layer = layer;
    lp_readahead_advance(p->ahead);
}

void lp_pass_end(lp_pass *p) {
    lp_readahead_stop(p->ahead);
    lp_block_free(&p->scratch);
}
