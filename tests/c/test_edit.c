/* test_edit.c - edits of any value of any model: what they write, what they leave alone, and what they refuse. */
#define _GNU_SOURCE
#include "check.h"

#include <math.h>

#include "../../csrc/run/edit.h"
#include "canonical.h"
#include "subject.h"
#include "variants.h"

enum { MOST_EDITS = 600 };

/* All numbers below n, in random order; the first `some` of them are a list. */
static uint32_t *shuffled(size_t n) {
    uint32_t *list = malloc((n ? n : 1) * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        size_t j = pick(i + 1);
        list[i] = list[j], list[j] = (uint32_t)i;
    }
    return list;
}

/* Lengths of the axes of a value, as edit.h has them. */
static void axes_of(const lp_run *run, lp_point p, size_t sequence, size_t length[3]) {
    const lp_config *c = &run->model->config;
    size_t n = run->seq_start[sequence + 1] - run->seq_start[sequence], width = lp_config_width(c, lp_point_width(p));
    int heads = lp_point_width(p) == LP_WIDTH_HEADS || lp_point_width(p) == LP_WIDTH_KV;
    length[0] = n, length[1] = heads ? width / c->head_dim : 1, length[2] = heads ? c->head_dim : width;
    if (lp_point_width(p) == LP_WIDTH_MAP) length[0] = c->n_heads, length[1] = length[2] = n;
}

/* Edits with their lists and values, and a copy of all values before edits. */
typedef struct {
    lp_edit edits[MOST_EDITS];
    size_t n;
} table;

static void free_table(table *t) {
    for (size_t i = 0; i < t->n; i++) {
        for (size_t axis = 0; axis < 3; axis++) free((void *)t->edits[i].index[axis]);
        free((void *)t->edits[i].values);
        free(t->edits[i].keep);
    }
}

/* Part of a value, or all of it. */
static lp_edit *add_edit(table *t, const lp_run *run, lp_point p, size_t layer, size_t sequence, int whole) {
    lp_edit *e = &t->edits[t->n++];
    size_t length[3];
    *e = (lp_edit){.point = p, .layer = layer, .sequence = sequence};
    axes_of(run, p, sequence, length);
    for (size_t axis = 0; axis < 3; axis++) {
        e->index[axis] = shuffled(length[axis]);
        e->n[axis] = whole ? length[axis] : 1 + pick(length[axis]);
    }
    return e;
}

static void add_keep(table *t, const lp_run *run, lp_point p, size_t layer) {
    lp_edit *e = &t->edits[t->n++];
    *e = (lp_edit){.point = p, .layer = layer, .op = LP_EDIT_KEEP, .keep = malloc(floats_of(run, p) * sizeof(float))};
}

/* Offset of a selected element in the array of its value; -1: a key that the query does not see. */
static ptrdiff_t offset_of(const lp_run *run, const lp_edit *e, size_t i, size_t j, size_t k) {
    size_t start = run->seq_start[e->sequence], length[3];
    size_t a = e->index[0][i], b = e->index[1][j], c = e->index[2][k];
    axes_of(run, e->point, e->sequence, length);
    if (lp_point_width(e->point) != LP_WIDTH_MAP) return (ptrdiff_t)(((start + a) * length[1] + b) * length[2] + c);
    size_t at = 0, window = run->model->layers[e->layer].window;
    for (size_t s = 0; s < e->sequence; s++) {
        size_t n = run->seq_start[s + 1] - run->seq_start[s];
        at += run->model->config.n_heads * n * n;
    }
    return c > b || (window && b >= window && c <= b - window) ? -1
                                                               : (ptrdiff_t)(at + (a * length[1] + b) * length[2] + c);
}

static size_t last_layer_of(const lp_run *run, lp_point p) {
    return lp_point_per_layer(p) ? run->model->config.n_layers - 1 : 0;
}

/* ---- identity ------------------------------------------------------------------------------------------------ */

/* Every value written back, before and after edits: no bit changes. */
static void check_identity(const subject *s, const lp_run *all) {
    lp_run run;
    lp_error err = {0};
    table *t = calloc(1, sizeof *t);
    start_run(&run, s, 1 + pick(3));
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(&run, p); i++) {
            const float *value = all->places[lp_plan_array(all->model, p, i)];
            if (pick(2)) set_place(&run, p, i);
            add_keep(t, &run, p, i);
            for (size_t q = 0; q < s->n_seqs; q++) {
                lp_edit *e = add_edit(t, &run, p, i, q, (int)pick(2));
                float *values = calloc(lp_edit_size(e), sizeof *values);
                size_t n = 0;
                for (size_t x = 0; x < e->n[0]; x++)
                    for (size_t y = 0; y < e->n[1]; y++)
                        for (size_t z = 0; z < e->n[2]; z++, n++) {
                            ptrdiff_t at = offset_of(&run, e, x, y, z);
                            values[n] = at < 0 ? NAN : value[at]; /* hidden keys are passed over */
                        }
                e->values = values, e->stride[0] = e->n[1] * e->n[2], e->stride[1] = e->n[2], e->stride[2] = 1;
            }
        }
    CHECK(t->n < MOST_EDITS && lp_run_edit(&run, t->edits, t->n, &err) == 0 && lp_forward(&run, &err) == 0);
    if (err.status) fprintf(stderr, "  %s\n", err.msg);
    for (size_t i = 0; i < t->n; i++) {
        lp_edit *e = &t->edits[i];
        const float *value = all->places[lp_plan_array(all->model, e->point, e->layer)];
        CHECK(e->n_changed == 0);
        if (e->keep) CHECK(same_floats(e->keep, value, floats_of(&run, e->point)));
    }
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(&run, p); i++) {
            size_t array = lp_plan_array(run.model, p, i);
            if (run.places[array]) CHECK(same_floats(run.places[array], all->places[array], floats_of(&run, p)));
        }
    free_run(&run);
    free_table(t);
    free(t);
}

/* ---- what an edit writes ------------------------------------------------------------------------------------- */

static int double_it(lp_edit *edit, const lp_edit_target *target, lp_error *err) {
    size_t n = lp_edit_size(edit);
    float *values = malloc(n * sizeof *values);
    lp_edit_load(target, edit, values);
    for (size_t i = 0; i < n; i++) values[i] = isfinite(values[i]) ? 2 * values[i] : values[i];
    int failed = lp_edit_store(target, edit, values, err);
    free(values);
    return failed;
}

static float expected(const lp_edit *e, float x, float value) {
    if (e->op == LP_EDIT_CALL) return 2 * x;
    return e->op == LP_EDIT_ADD ? x + value : e->op == LP_EDIT_MULTIPLY ? x * value : value;
}

/* Where x_rms was changed, x_unit is x times its inverse, rounded once. */
static void check_unit(const lp_run *run, const lp_run *all, size_t layer) {
    size_t d = run->model->config.d_model;
    const float *rms = run->places[lp_plan_array(run->model, LP_X_RMS, layer)];
    const float *before = all->places[lp_plan_array(run->model, LP_X_RMS, layer)];
    const float *x = run->places[lp_plan_array(run->model, LP_X, layer)];
    const float *unit = run->places[lp_plan_array(run->model, LP_X_UNIT, layer)];
    for (size_t i = 0; i < run->n_tokens * d; i++) {
        float inverse = 1 / rms[i / d], expected_unit = x[i] * inverse;
        if (rms[i / d] != before[i / d]) CHECK(same_floats(&unit[i], &expected_unit, 1));
    }
}

/* One edit of one value: the elements it selects, and no other one of the value, nor any that comes before it. */
static void check_one_edit(const subject *s, const lp_run *all, lp_point p) {
    lp_run run;
    lp_error err = {0};
    table *t = calloc(1, sizeof *t);
    start_run(&run, s, 1 + pick(3));
    size_t layer = pick(last_layer_of(&run, p) + 1), n = floats_of(&run, p), n_changed = 0;
    size_t key = lp_edit_key(run.model, p, layer);
    lp_edit *e = add_edit(t, &run, p, layer, pick(s->n_seqs), 0);
    float value = 0.75f;
    for (lp_point q = 0; q < LP_N_POINTS; q++)
        for (size_t i = 0; i < n_layers_of(&run, q); i++) set_place(&run, q, i);
    e->op = (lp_edit_op)pick(LP_EDIT_KEEP);
    e->call = double_it;
    if (e->op != LP_EDIT_CALL) memcpy((float *)(e->values = malloc(sizeof value)), &value, sizeof value);
    add_keep(t, &run, p, layer);
    CHECK(lp_run_edit(&run, t->edits, t->n, &err) == 0 && lp_forward(&run, &err) == 0);
    if (err.status) fprintf(stderr, "  %s\n", err.msg);
    const float *before = all->places[lp_plan_array(all->model, p, layer)];
    float *after = malloc(n * sizeof *after);
    memcpy(after, before, n * sizeof *after);
    for (size_t i = 0; i < e->n[0]; i++)
        for (size_t j = 0; j < e->n[1]; j++)
            for (size_t k = 0; k < e->n[2]; k++) {
                ptrdiff_t at = offset_of(&run, e, i, j, k);
                if (at < 0) continue;
                after[at] = expected(e, before[at], value);
                n_changed += memcmp(&after[at], &before[at], sizeof value) != 0;
            }
    int same = same_floats(run.places[lp_plan_array(run.model, p, layer)], after, n) && e->n_changed == n_changed;
    CHECK(same && same_floats(t->edits[1].keep, before, n));
    if (!same) fprintf(stderr, "  %s of layer %zu, op %d\n", lp_point_name(p), layer, (int)e->op);
    for (lp_point q = 0; q < LP_N_POINTS; q++)
        for (size_t i = 0; i < n_layers_of(&run, q); i++) {
            size_t array = lp_plan_array(run.model, q, i);
            if (lp_edit_key(run.model, q, i) < key)
                CHECK(same_floats(run.places[array], all->places[array], floats_of(&run, q)));
        }
    if (p == LP_X_RMS) check_unit(&run, all, layer);
    free(after);
    free_run(&run);
    free_table(t);
    free(t);
}

/* Edits of one value are applied in their order. */
static void check_order(const subject *s) {
    lp_run run;
    table *t = calloc(1, sizeof *t);
    float values[] = {3, 0.5f, 2};
    static const lp_edit_op ops[] = {LP_EDIT_SET, LP_EDIT_ADD, LP_EDIT_MULTIPLY};
    start_run(&run, s, 2);
    set_place(&run, LP_X, 0);
    for (size_t i = 0; i < 3; i++) {
        lp_edit *e = add_edit(t, &run, LP_X, 0, 0, 1);
        e->op = ops[i], e->values = memcpy(malloc(sizeof(float)), &values[i], sizeof(float));
    }
    CHECK(lp_run_edit(&run, t->edits, 3, NULL) == 0 && lp_forward(&run, NULL) == 0);
    CHECK(run.places[0][0] == 7 && run.places[0][run.model->config.d_model - 1] == 7);
    free_run(&run);
    free_table(t);
    free(t);
}

/* ---- refusals ------------------------------------------------------------------------------------------------ */

static int write_nan(lp_edit *edit, const lp_edit_target *target, lp_error *err) {
    float *values = malloc(lp_edit_size(edit) * sizeof *values);
    for (size_t i = 0; i < lp_edit_size(edit); i++) values[i] = NAN;
    int failed = lp_edit_store(target, edit, values, err);
    free(values);
    return failed;
}

static int give_up(lp_edit *edit, const lp_edit_target *target, lp_error *err) {
    (void)edit, (void)target, (void)err;
    return -1;
}

/* Fails while it runs, with this status. */
static void check_failure(const subject *s, lp_point p, int (*call)(lp_edit *, const lp_edit_target *, lp_error *),
                          lp_status status) {
    lp_run run;
    lp_error err = {0};
    table *t = calloc(1, sizeof *t);
    static const float hidden = -INFINITY;
    start_run(&run, s, 2);
    set_place(&run, LP_LOGITS, 0);
    lp_edit *e = add_edit(t, &run, p, 0, 0, 1);
    e->call = call, e->op = call ? LP_EDIT_CALL : LP_EDIT_SET;
    e->values = call ? NULL : memcpy(malloc(sizeof hidden), &hidden, sizeof hidden);
    CHECK(lp_run_edit(&run, t->edits, 1, &err) == 0 && lp_forward(&run, &err) == -1 && err.status == status);
    free_run(&run);
    free_table(t);
    free(t);
}

static void check_refused(const subject *s) {
    lp_run run;
    lp_error err = {0};
    uint32_t zero = 0, many = 1000;
    lp_edit good = {.point = LP_Z, .index = {&zero, &zero, &zero}, .n = {1, 1, 1}}, bad[6];
    start_run(&run, s, 1);
    CHECK(lp_edit_check(&good, s->model, s->starts, NULL, s->n_seqs, &err) == 0);
    for (size_t i = 0; i < 6; i++) bad[i] = good;
    bad[0].layer = s->model->config.n_layers;
    bad[1].sequence = s->n_seqs;
    bad[2].n[1] = 0;
    bad[3].index[0] = &many;
    bad[4].index[1] = &many;
    bad[5].n[0] = (size_t)-1, bad[5].n[1] = 2;
    for (size_t i = 0; i < 6; i++) {
        err.status = LP_OK;
        CHECK(lp_edit_check(&bad[i], s->model, s->starts, NULL, s->n_seqs, &err) == -1 && err.status == LP_EARG);
    }
    CHECK(lp_run_edit(&run, bad, 1, &err) == -1 && err.status == LP_EARG);
    lp_run_free(&run);
    check_failure(s, LP_SCORES, NULL, LP_EEDIT); /* no key left */
    check_failure(s, LP_HIDDEN, write_nan, LP_EEDIT);
    check_failure(s, LP_HIDDEN, give_up, LP_ECANCELED);
}

/* ---- models -------------------------------------------------------------------------------------------------- */

/* Closes the subject. */
static void check_subject(subject s) {
    lp_run all;
    lp_error err = {0};
    start_run(&all, &s, 1);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(&all, p); i++) set_place(&all, p, i);
    CHECK(lp_forward(&all, &err) == 0);
    check_identity(&s, &all);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        if (lp_model_has(s.model, p)) check_one_edit(&s, &all, p);
    check_order(&s);
    check_refused(&s);
    free_run(&all);
    close_subject(&s);
}

static void check_variant(const lp_kernels *variant) {
    setenv("LLAMAPROBE_KERNELS", variant->name, 1);
    for (int i = 0; i < 6; i++) {
        size_t kv_heads = 1 + pick(3), head_dim = 2 + 2 * pick(8);
        int bias = (int)pick(2);
        lp_config c = LLAMA(1 + pick(3), kv_heads * (1 + pick(3)), kv_heads, head_dim, 2 + pick(70), 1 + pick(90),
                            3 + pick(40), 99, 1e-5, bias, (int)pick(2), (int)pick(2));
        const size_t lengths[] = {1 + pick(20), pick(20), pick(20), 0};
        lp_architecture a = tiny_any(&c, pick(1 << 20));
        a.ropes = tables();
        subject s;
        int failed = i ? open_architecture(&s, &a, lengths) : open_subject(&s, &c, lengths);
        if (!failed) check_subject(s);
    }
    unsetenv("LLAMAPROBE_KERNELS");
}

int main(int argc, char **argv) {
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
