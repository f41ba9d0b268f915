/* plan.c - finds the needed values, then makes the steps, then assigns places. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "../ops/attention.h" /* lp_sequence, lp_ops_packed_heads */
#include "../ops/jobs.h"      /* LP_JOB_FLOATS */
#include "../base/size.h"     /* lp_size_add, lp_size_mul */
#include "branch.h"           /* lp_branch_lay_out */

/* Groups of values that one operation can compute together. A step that begins with a value that reads another of its
 * group is a part of the operation, and computes that value alone. */
#define GROUP_END LP_X /* is of no group */
static const lp_point fusions[][5] = {{LP_X_RMS, LP_X_UNIT, LP_X_NORM},
                                      {LP_Q, LP_K, LP_V},
                                      {LP_Q_RMS, LP_Q_UNIT, LP_Q_NORM},
                                      {LP_K_RMS, LP_K_UNIT, LP_K_NORM},
                                      {LP_SCORES_RAW, LP_SCORES, LP_PATTERN, LP_Z},
                                      {LP_ATTN_OUT, LP_X_MID},
                                      {LP_ATTN_RMS, LP_ATTN_UNIT, LP_ATTN_NORM},
                                      {LP_X_MID_RMS, LP_X_MID_UNIT, LP_X_MID_NORM},
                                      {LP_GATE, LP_UP, LP_ACT, LP_HIDDEN},
                                      {LP_MLP_OUT, LP_X_OUT},
                                      {LP_MLP_RMS, LP_MLP_UNIT, LP_MLP_NORM},
                                      {LP_FINAL_RMS, LP_FINAL_UNIT, LP_FINAL_NORM}};

#define MAX_LIVE (2 * LP_N_POINTS) /* values in scratch at once: of a layer and the one before */

typedef struct {
    size_t at, n_bytes, last;
} slot;

/* A plan in the making. */
typedef struct {
    lp_plan *plan;
    lp_points *needed;           /* [n_layers of the model] */
    int group[LP_N_POINTS];      /* of fusions, from 1 on; 0: none */
    size_t n_bytes[LP_N_POINTS]; /* of a value with all rows; SIZE_MAX: overflow */
    int layer_last_rows;         /* of the last layer after attention only the last row of each sequence */
    slot live[MAX_LIVE];         /* by offset */
    size_t n_live;
} draft;

static int has(const lp_points *sets, size_t layer, lp_point p) { return lp_points_has(&sets[layer], p); }

/* The values it is computed from in this model, in order; returns how many. */
static size_t reads_of(const lp_plan *plan, lp_point p, const lp_point **reads) {
    *reads = plan->request.model->reads[p].point;
    return plan->request.model->reads[p].n;
}

size_t lp_plan_array(const lp_model *model, lp_point point, size_t layer) {
    return (size_t)point * model->config.n_layers + (lp_point_per_layer(point) ? layer : 0);
}

/* ---- what is needed ------------------------------------------------------------------------------------------ */

static void find_needed(draft *d) {
    lp_plan *plan = d->plan;
    for (size_t i = plan->request.model->config.n_layers; i-- > plan->request.first_layer;) {
        for (int w = 0; w < LP_SET_WORDS; w++)
            d->needed[i].word[w] |= (plan->request.requested[i].word[w] | plan->request.materialised[i].word[w]) &
                                    plan->request.model->present.word[w];
        if (plan->request.is_branch ? plan->n_layers > 0 || lp_points_any(&d->needed[i]) : plan->request.n_past != NULL)
            lp_points_add(&d->needed[i], LP_K_ROPE), lp_points_add(&d->needed[i], LP_V);
        if (!plan->n_layers && lp_points_any(&d->needed[i])) plan->n_layers = i + 1;
        for (lp_point p = LP_N_POINTS; p--;) {
            const lp_point *reads;
            size_t n = has(d->needed, i, p) ? reads_of(plan, p, &reads) : 0;
            for (size_t r = 0; r < n; r++) {
                if (reads[r] < p)
                    lp_points_add(&d->needed[i], reads[r]);
                else if (i > plan->request.first_layer)
                    lp_points_add(&d->needed[i - 1], reads[r]);
            }
        }
    }
}

lp_sequence lp_request_sequence(const lp_request *q, size_t s) {
    return (lp_sequence){
        .start = q->seq_start[s], .n_tokens = q->seq_start[s + 1] - q->seq_start[s], .n_past = lp_request_past(q, s)};
}

int lp_request_floats(const lp_request *q, lp_point point, size_t n_rows, size_t *n_floats) {
    size_t width = lp_config_width(&q->model->config, lp_point_width(point)), map;
    if (lp_point_width(point) != LP_WIDTH_MAP) return lp_size_mul(n_floats, n_rows, width);
    *n_floats = 0;
    for (size_t s = 0; s < q->n_seqs; s++) {
        size_t t = q->seq_start[s + 1] - q->seq_start[s];
        if (lp_size_mul3(&map, t, lp_request_past(q, s) + t, width) || lp_size_add(n_floats, *n_floats, map)) return -1;
    }
    return 0;
}

/* ---- steps --------------------------------------------------------------------------------------------------- */

/* Whether a value reads another of its group. */
static int reads_its_group(const draft *d, lp_point p) {
    const lp_point *reads;
    for (size_t n = reads_of(d->plan, p, &reads), r = 0; r < n; r++)
        if (d->group[reads[r]] == d->group[p]) return 1;
    return 0;
}

/* Whether the step can compute p as well. */
static int joins(const draft *d, const lp_step *s, size_t layer, lp_point p) {
    const lp_point *reads;
    if (s->layer != layer || !d->group[p] || d->group[s->first] != d->group[p] || reads_its_group(d, s->first))
        return 0;
    for (size_t n = reads_of(d->plan, p, &reads), r = 0; r < n; r++)
        if (d->group[reads[r]] == d->group[p] &&
            (!lp_points_has(&s->points, reads[r]) || has(d->plan->request.materialised, layer, reads[r])))
            return 0;
    if (p != LP_ACT) return 1;
    /* the gated product computes act and hidden, or neither */
    return has(d->needed, layer, LP_HIDDEN) && !has(d->plan->request.materialised, layer, LP_ACT) &&
           !has(d->plan->request.materialised, layer, LP_UP);
}

static void add_step(draft *d, size_t layer, lp_point p, lp_stage stage) {
    lp_plan *plan = d->plan;
    lp_step *s = plan->n_steps ? &plan->steps[plan->n_steps - 1] : NULL;
    if (!s || !joins(d, s, layer, p)) {
        s = &plan->steps[plan->n_steps++];
        *s = (lp_step){.layer = layer, .stage = stage, .first = p};
    }
    lp_points_add(&s->points, p);
    s->last = p;
    lp_plan_value(plan, layer, p)->step = plan->n_steps - 1;
}

/* Whether x is an alias of x_out of the layer before; if both are requested it is a copy. */
static int is_alias(const draft *d, size_t layer, lp_point p) {
    return p == LP_X && layer > d->plan->request.first_layer &&
           !(has(d->plan->request.requested, layer, LP_X) && has(d->plan->request.requested, layer - 1, LP_X_OUT));
}

/* Whether a layer turns q or k. */
static int turns(const draft *d, size_t layer) {
    return d->plan->request.model->layers[layer].rope >= 0 &&
           (has(d->needed, layer, LP_Q_ROPE) || has(d->needed, layer, LP_K_ROPE));
}

static void make_steps(draft *d) {
    lp_plan *plan = d->plan;
    for (size_t i = 0; i < plan->request.model->config.n_layers * LP_N_POINTS; i++) plan->values[i].step = LP_NO_STEP;
    for (size_t i = 0; i < plan->n_layers && !plan->n_steps; i++)
        if (turns(d, i))
            plan->steps[plan->n_steps++] = (lp_step){.stage = LP_STAGE_ROPE, .first = LP_N_POINTS, .last = LP_N_POINTS};
    for (size_t i = 0; i < plan->n_layers; i++)
        for (lp_point p = 0; p < LP_N_POINTS; p++)
            if (has(d->needed, i, p) && !is_alias(d, i, p))
                add_step(d, i, p, p == LP_X && (i || plan->request.is_branch) ? LP_STAGE_COPY : lp_point_stage(p));
}

/* The matrices that are read: a group per layer, and one for the head. */
static void list_weights(draft *d) {
    lp_plan *plan = d->plan;
    size_t n = 0, head = plan->n_layers;
    for (size_t group = 0; group <= head; group++) {
        for (size_t i = 0; i < LP_N_TENSORS; i++) {
            const lp_tensor_spec *spec = &plan->request.model->specs[i];
            size_t layer = group < head ? group : head - 1;
            if (spec->per_layer != (group < head) || spec->is_vector || spec->point == LP_X || !head) continue;
            if (has(d->needed, layer, spec->point))
                plan->weights[n++] = lp_model_weight(plan->request.model, spec, layer);
        }
        plan->weight_end[group] = n;
    }
}

size_t lp_plan_weight_bytes(const lp_plan *plan, const lp_step *step) {
    const lp_tensor_spec *specs = plan->request.model->specs;
    size_t n_bytes = 0;
    for (size_t i = 0; i < LP_N_TENSORS; i++) {
        const lp_weight *w = lp_model_weight(plan->request.model, &specs[i], step->layer);
        if (!w->data || step->first == LP_N_POINTS || !lp_points_has(&step->points, specs[i].point)) continue;
        if (specs[i].point != LP_X)
            n_bytes += lp_weight_bytes(w);
        else if (step->stage != LP_STAGE_COPY)
            n_bytes += lp_weight_row_bytes(w, plan->request.n_tokens);
    }
    return n_bytes;
}

/* ---- places -------------------------------------------------------------------------------------------------- */

/* The value of a point, aliases resolved. */
static lp_value *value_of(const draft *d, size_t layer, lp_point p) {
    return is_alias(d, layer, p) ? lp_plan_value(d->plan, layer - 1, LP_X_OUT) : lp_plan_value(d->plan, layer, p);
}

/* Finds the last reader of each value; a value read by another step needs scratch. */
static void find_readers(draft *d) {
    lp_plan *plan = d->plan;
    const lp_point *reads;
    for (size_t i = 0; i < plan->n_steps; i++) {
        const lp_step *s = &plan->steps[i];
        for (lp_point p = s->first; p <= s->last && p < LP_N_POINTS; p++) {
            size_t n = lp_points_has(&s->points, p) ? reads_of(plan, p, &reads) : 0;
            for (size_t r = 0; r < n; r++) {
                if (reads[r] > p && s->layer == plan->request.first_layer) continue; /* embedded, or given */
                lp_value *v = reads[r] < p ? value_of(d, s->layer, reads[r]) : value_of(d, s->layer - 1, reads[r]);
                if (v->step != i) v->last = i, v->where = LP_IN_SCRATCH;
            }
        }
    }
    for (size_t i = plan->request.first_layer; plan->request.n_past && i < plan->n_layers; i++) {
        lp_value *k = lp_plan_value(plan, i, LP_K_ROPE), *v = lp_plan_value(plan, i, LP_V);
        k->where = v->where = LP_IN_SCRATCH; /* they are appended to the caches after the step of k_rope */
        if (v->last < k->step) v->last = k->step;
    }
}

/* The place of a value; x_out may also be x of the next layer. */
static void choose_place(draft *d, size_t layer, lp_point p) {
    lp_plan *plan = d->plan;
    lp_value *v = lp_plan_value(plan, layer, p);
    size_t next = layer + 1;
    int has_next = p == LP_X_OUT && next < plan->n_layers && is_alias(d, next, LP_X);
    if (has(d->plan->request.materialised, layer, p) || (has_next && has(d->plan->request.materialised, next, LP_X)))
        v->where = LP_IN_SCRATCH;
    if (has_next && has(d->plan->request.requested, next, LP_X))
        v->where = LP_IN_ARRAY, v->at = lp_plan_array(plan->request.model, LP_X, next);
    if (has(d->plan->request.requested, layer, p))
        v->where = LP_IN_ARRAY, v->at = lp_plan_array(plan->request.model, p, layer);
    if (v->last < v->step) v->last = v->step;
    if (layer + 1 == plan->request.model->config.n_layers && p >= LP_ATTN_OUT)
        v->first_row = plan->request.layer_row, v->last_rows = d->layer_last_rows;
    if (p >= LP_FINAL_RMS) v->first_row = plan->request.head_row, v->last_rows = plan->request.last_rows;
}

/* First fit between the live slots. */
static int take_slot(draft *d, lp_value *v, size_t n_bytes) {
    size_t i = 0, at = 0, end;
    if (lp_size_add(&n_bytes, n_bytes, 63)) return -1;
    n_bytes &= ~(size_t)63;
    for (; i < d->n_live && d->live[i].at - at < n_bytes; i++) at = d->live[i].at + d->live[i].n_bytes;
    if (d->n_live == MAX_LIVE || lp_size_add(&end, at, n_bytes)) return -1;
    memmove(d->live + i + 1, d->live + i, (d->n_live++ - i) * sizeof *d->live);
    d->live[i] = (slot){at, n_bytes, v->last};
    v->at = at;
    if (end > d->plan->value_bytes) d->plan->value_bytes = end;
    return 0;
}

static void free_slots(draft *d, size_t step) {
    size_t n = 0;
    for (size_t i = 0; i < d->n_live; i++)
        if (d->live[i].last > step) d->live[n++] = d->live[i];
    d->n_live = n;
}

static int place_values(draft *d) {
    lp_plan *plan = d->plan;
    find_readers(d);
    for (size_t i = 0; i < plan->n_steps; i++) {
        const lp_step *s = &plan->steps[i];
        for (lp_point p = s->first; p <= s->last && p < LP_N_POINTS; p++) {
            if (!lp_points_has(&s->points, p)) continue;
            lp_value *v = lp_plan_value(plan, s->layer, p);
            choose_place(d, s->layer, p);
            if (v->where == LP_IN_SCRATCH && (d->n_bytes[p] == (size_t)-1 || take_slot(d, v, d->n_bytes[p]))) return -1;
        }
        free_slots(d, i);
    }
    for (size_t i = 1; i < plan->n_layers; i++) { /* aliases have no step */
        lp_value *x = lp_plan_value(plan, i, LP_X);
        if (is_alias(d, i, LP_X)) *x = *lp_plan_value(plan, i - 1, LP_X_OUT), x->step = LP_NO_STEP;
    }
    return 0;
}

/* ---- what the kernels need ----------------------------------------------------------------------------------- */

/* Appends n items to the scratch block, on a cache line of their own; *at is their offset. */
static int lay(lp_plan *plan, size_t n, size_t item_bytes, size_t *at) {
    size_t n_bytes, *total = &plan->scratch_bytes;
    *at = *total;
    if (lp_size_mul(&n_bytes, n, item_bytes) || lp_size_add(total, *total, n_bytes) || lp_size_add(total, *total, 63))
        return -1;
    *total &= ~(size_t)63;
    return 0;
}

/* The most that an operation of the run needs. */
typedef struct {
    size_t packed, worker, jobs;
} most;

static void grow(most *m, size_t packed, size_t worker, size_t jobs) {
    if (packed > m->packed) m->packed = packed;
    if (worker > m->worker) m->worker = worker;
    if (jobs > m->jobs) m->jobs = jobs;
}

static void find_most(const draft *d, most *m) {
    const lp_request *q = &d->plan->request;
    const lp_config *c = &q->model->config;
    lp_points used = {{0}};
    size_t n_rows = 0, n_jobs = 0;
    for (size_t i = 0; i < d->plan->n_layers; i++)
        for (int w = 0; w < LP_SET_WORDS; w++) used.word[w] |= d->needed[i].word[w];
    for (const lp_tensor_spec *s = q->model->specs; s < q->model->specs + LP_N_TENSORS; s++) {
        if (s->is_vector || s->point == LP_X || !lp_points_has(&used, s->point)) continue;
        n_rows += s->n_rows;
        grow(m, q->kernels->packed_size(q->n_tokens, s->n_cols), q->kernels->band_scratch(q->n_tokens),
             n_rows / q->kernels->row_unit + 1);
    }
    for (size_t s = 0; s < q->n_seqs; s++) {
        lp_sequence sequence = lp_request_sequence(q, s);
        n_jobs += lp_attention_jobs(&sequence, q->kernels->q_tile, c->n_heads, c->n_kv_heads);
    }
    if (lp_points_has(&used, LP_SCORES_RAW) || lp_points_has(&used, LP_SCORES))
        grow(m, lp_ops_packed_heads(q->n_tokens, q->n_seqs, c->n_kv_heads, c->head_dim),
             q->kernels->attend_scratch(d->plan->longest, c->head_dim), n_jobs);
}

/* Norms of a token in one step. */
static size_t per_head_norms(const lp_model *m) {
    return lp_model_has(m, LP_Q_NORM) && !m->config.qk_norm_whole ? m->config.n_heads : 1;
}

/* The tables of angles that some layer and some sequence use. */
static int lay_out_tables(const draft *d) {
    lp_plan *plan = d->plan;
    const lp_request *q = &plan->request;
    int used[LP_MOST_ROPES][2] = {{0}};
    size_t n;
    for (size_t i = 0; i < plan->n_layers; i++)
        if (turns(d, i)) used[q->model->layers[i].rope][0] = 1;
    for (size_t i = 0; i < q->model->n_ropes; i++) {
        size_t short_until = lp_plan_short_until(&q->model->ropes[i], q->rope_length), n_long = 0;
        for (size_t s = 0; s < q->n_seqs; s++)
            n_long += lp_request_past(q, s) + q->seq_start[s + 1] - q->seq_start[s] > short_until;
        used[i][1] = used[i][0] && n_long, used[i][0] = used[i][0] && n_long < q->n_seqs;
    }
    for (size_t i = 0; i < LP_MOST_ROPES; i++)
        for (size_t is_long = 0; is_long < 2; is_long++) {
            size_t *at = &plan->table_at[i][is_long];
            *at = LP_NO_TABLE;
            if (used[i][is_long] &&
                (lp_size_mul(&n, plan->n_angles, q->model->config.rotary_dim) || lay(plan, n, sizeof(float), at)))
                return -1;
        }
    return 0;
}

/* Rows that are read where values with one row per sequence begin: of z and x, or of x_out. */
static int lay_out_gathered(const draft *d) {
    const lp_request *q = &d->plan->request;
    const lp_config *c = &q->model->config;
    size_t n, width = lp_config_width(c, LP_WIDTH_HEADS) + lp_config_width(c, LP_WIDTH_D_MODEL);
    if (!q->last_rows || q->n_seqs == 1 || q->n_seqs == q->n_tokens) return 0; /* they follow each other */
    return lp_size_mul(&n, q->n_seqs, width) || lay(d->plan, n, sizeof(float), &d->plan->gathered_at);
}

/* Threads without a job get no scratch. */
static int lay_out_work(draft *d) {
    lp_plan *plan = d->plan;
    const lp_request *q = &plan->request;
    size_t n, n_norms = per_head_norms(q->model);
    most m = {0, 0, 1 + q->n_tokens * q->model->config.d_model / LP_JOB_FLOATS};
    find_most(d, &m);
    plan->n_threads = lp_size_min(q->n_threads, m.jobs);
    plan->worker_stride = (m.worker + 15) / 16 * 16;
    plan->scratch_bytes = plan->value_bytes;
    return lp_size_mul(&n, plan->worker_stride, plan->n_threads) || lay(plan, n, sizeof(float), &plan->worker_at) ||
           lay(plan, m.packed, sizeof(float), &plan->packed_at) || lay_out_tables(d) ||
           lp_size_mul(&n, q->n_tokens, n_norms) || lay(plan, n, sizeof(float), &plan->inverse_at) ||
           lay(plan, q->n_seqs, sizeof(lp_sequence), &plan->sequences_at) || lay_out_gathered(d) ||
           (q->is_branch && lp_branch_lay_out(plan));
}

/* ---- the plan ------------------------------------------------------------------------------------------------ */

/* The plan and its tables are one allocation. */
static lp_plan *alloc_plan(const lp_request *q, lp_points **needed) {
    size_t n = q->model->config.n_layers, n_values = n * LP_N_POINTS, n_weights = n * LP_N_LAYER_TENSORS + 1;
    lp_plan *plan = calloc(1, sizeof *plan + n_values * sizeof *plan->values + (n_values + 1) * sizeof *plan->steps +
                                  n * sizeof **needed + n_weights * sizeof *plan->weights + (n + 1) * sizeof(size_t));
    if (!plan) return NULL;
    plan->request = *q;
    plan->values = (lp_value *)(plan + 1);
    plan->steps = (lp_step *)(plan->values + n_values);
    *needed = (lp_points *)(plan->steps + n_values + 1);
    plan->weights = (const lp_weight **)(*needed + n);
    plan->weight_end = (size_t *)(plan->weights + n_weights);
    return plan;
}

/* Sequences without a past share the rows of their angles. */
static void count_positions(lp_plan *plan) {
    size_t with_past = 0;
    for (size_t s = 0; s < plan->request.n_seqs; s++) {
        lp_sequence sequence = lp_request_sequence(&plan->request, s);
        size_t n = sequence.n_tokens, n_keys = sequence.n_past + n;
        if (sequence.n_past && !plan->request.is_branch)
            with_past += n;
        else if (n_keys > plan->n_angles)
            plan->n_angles = n_keys;
        if (n_keys > plan->longest) plan->longest = n_keys;
    }
    plan->n_angles += with_past;
}

static void find_last_rows(draft *d) {
    const lp_request *q = &d->plan->request;
    size_t last = q->model->config.n_layers - 1;
    d->layer_last_rows = q->last_rows;
    for (lp_point p = LP_ATTN_OUT; p < LP_FINAL_RMS; p++)
        if (has(q->requested, last, p) || has(q->materialised, last, p)) d->layer_last_rows = 0;
}

lp_plan *lp_plan_new(const lp_request *request, lp_error *err) {
    draft d = {.n_live = 0};
    d.plan = alloc_plan(request, &d.needed);
    if (!d.plan) {
        lp_fail(err, LP_ENOMEM, "no memory for the plan of a run of %zu layers", request->model->config.n_layers);
        return NULL;
    }
    for (size_t i = 0; i < sizeof fusions / sizeof *fusions; i++)
        for (const lp_point *p = fusions[i]; *p != GROUP_END; p++) d.group[*p] = (int)i + 1;
    if (request->model->config.residual_scale != 1) d.group[LP_X_MID] = d.group[LP_X_OUT] = 0;
    count_positions(d.plan);
    find_last_rows(&d);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        if (lp_request_floats(request, p, lp_request_rows(request, p), &d.n_bytes[p]) ||
            lp_size_mul(&d.n_bytes[p], d.n_bytes[p], sizeof(float)))
            d.n_bytes[p] = (size_t)-1;
    find_needed(&d);
    make_steps(&d);
    list_weights(&d);
    if (!place_values(&d) && !lay_out_work(&d)) return d.plan;
    lp_fail(err, LP_ENOMEM, "the scratch memory of %zu tokens has more bytes than there are addresses",
            request->n_tokens);
    lp_plan_free(d.plan);
    return NULL;
}

void lp_plan_free(lp_plan *plan) { free(plan); }
