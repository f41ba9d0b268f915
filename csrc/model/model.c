/* model.c - finds every tensor of the list and checks it against the config. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPEC(type, layer, field, name, rows, columns, present, point) \
    {name,                                                            \
     offsetof(type, field),                                           \
     lp_config_width(c, LP_WIDTH_##rows),                             \
     lp_config_width(c, LP_WIDTH_##columns),                          \
     0,                                                               \
     0,                                                               \
     layer,                                                           \
     LP_WIDTH_##rows == LP_WIDTH_ONE,                                 \
     present,                                                         \
     LP_##point},
#define MODEL_SPEC(...) SPEC(lp_model, 0, __VA_ARGS__)
#define LAYER_SPEC(...) SPEC(lp_layer, 1, __VA_ARGS__)

/* ---- points -------------------------------------------------------------------------------------------------- */

static int has_raw_logits(const lp_config *c) { return c->logits_divisor != 1 || c->logits_cap > 0; }

static void find_present(lp_points *present, const lp_architecture *a) {
    static const struct {
        lp_point rms, unit, norm;
    } norms[] = {{LP_X_RMS, LP_X_UNIT, LP_X_NORM},
                 {LP_Q_RMS, LP_Q_UNIT, LP_Q_NORM},
                 {LP_K_RMS, LP_K_UNIT, LP_K_NORM},
                 {LP_ATTN_RMS, LP_ATTN_UNIT, LP_ATTN_NORM},
                 {LP_X_MID_RMS, LP_X_MID_UNIT, LP_X_MID_NORM},
                 {LP_MLP_RMS, LP_MLP_UNIT, LP_MLP_NORM}};
    lp_points absent = {{0}};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        if (a->modules[norms[i].norm]) continue;
        lp_points_add(&absent, norms[i].rms);
        lp_points_add(&absent, norms[i].unit);
        lp_points_add(&absent, norms[i].norm);
    }
    if (!(a->config.score_cap > 0)) lp_points_add(&absent, LP_SCORES_RAW);
    if (!has_raw_logits(&a->config)) lp_points_add(&absent, LP_LOGITS_RAW);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        if (!lp_points_has(&absent, p)) lp_points_add(present, p);
}

/* Without repeats; no more than LP_MOST_READS are left, whatever is absent. */
static void add_read(lp_reads *reads, lp_point p) {
    for (size_t i = 0; i < reads->n; i++)
        if (reads->point[i] == p) return;
    if (reads->n < LP_MOST_READS) reads->point[reads->n++] = p;
}

/* An absent point stands for what it reads itself. */
static void find_reads(lp_model *m) {
    const lp_point *reads;
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t n = lp_point_reads(p, &reads), r = 0; r < n; r++) {
            const lp_reads *instead = &m->reads[reads[r]]; /* found already: only x reads a later point */
            if (lp_model_has(m, reads[r])) add_read(&m->reads[p], reads[r]);
            for (size_t i = 0; !lp_model_has(m, reads[r]) && i < instead->n; i++)
                add_read(&m->reads[p], instead->point[i]);
        }
}

/* ---- tensors ------------------------------------------------------------------------------------------------- */

/* Whether two entries are parts of one tensor of a layer. */
static int same_tensor(const lp_architecture *a, const lp_tensor_spec *x, const lp_tensor_spec *y) {
    return x->per_layer && y->per_layer && x->present && y->present && !strcmp(x->name, y->name) &&
           !strcmp(a->modules[x->point], a->modules[y->point]);
}

void lp_model_specs(const lp_architecture *a, lp_tensor_spec specs[LP_N_TENSORS]) {
    const lp_config *c = &a->config;
    const lp_tensor_spec all[] = {LP_MODEL_TENSORS(MODEL_SPEC) LP_LAYER_TENSORS(LAYER_SPEC)};
    memcpy(specs, all, sizeof all);
    for (size_t i = 0; i < LP_N_TENSORS; i++) {
        lp_tensor_spec *s = &specs[i];
        if (s->per_layer) s->present = s->present && a->modules[s->point];
        if (s->point == LP_Q_NORM) s->n_cols /= lp_config_width(c, LP_WIDTH_Q_NORMS);
        if (s->point == LP_K_NORM) s->n_cols /= lp_config_width(c, LP_WIDTH_K_NORMS);
        if (s->point == LP_LOGITS_RAW && !has_raw_logits(c)) s->point = LP_LOGITS;
    }
    for (size_t i = 0; i < LP_N_TENSORS; i++)
        for (size_t j = 0; j < LP_N_TENSORS; j++) {
            size_t n = specs[j].is_vector ? specs[j].n_cols : specs[j].n_rows;
            if (i != j && !same_tensor(a, &specs[i], &specs[j])) continue;
            specs[i].n_all += n;
            if (j < i) specs[i].first += n;
        }
}

const lp_weight *lp_model_weight(const lp_model *model, const lp_tensor_spec *spec, size_t layer) {
    const void *base = spec->per_layer ? (const void *)&model->layers[layer] : model;
    return (const lp_weight *)((const char *)base + spec->at);
}

static void name_tensor(const lp_architecture *a, const lp_tensor_spec *spec, size_t layer, char *name, size_t size) {
    char in_layer[48] = "";
    if (spec->per_layer) snprintf(in_layer, sizeof in_layer, LP_LAYER_PREFIX, layer);
    snprintf(name, size, "%s%s%s%s%s", a->prefix, in_layer, spec->per_layer ? a->modules[spec->point] : "",
             spec->per_layer ? "." : "", spec->name);
}

/* The tensor of an entry; `weight`: that of a bias, else NULL. */
static int get(const lp_model *m, const lp_architecture *a, const lp_tensor_spec *spec, size_t layer,
               const lp_weight *weight, lp_error *err) {
    lp_weight *out = (lp_weight *)lp_model_weight(m, spec, layer);
    size_t n_rows = spec->is_vector ? 1 : spec->n_all, n_cols = spec->is_vector ? spec->n_all : spec->n_cols;
    lp_found_tensor found;
    char name[256], expected[64];
    name_tensor(a, spec, layer, name, sizeof name);
    snprintf(expected, sizeof expected, spec->is_vector ? "[%zu]" : "[%zu, %zu]", spec->n_all, n_cols);
    if (!lp_tensors_find(m->tensors, name, &found))
        return lp_fail(err, LP_EFORMAT, "%s: tensor %s is missing; the checkpoint is incomplete or not a Llama",
                       lp_tensors_path(m->tensors), name);
    *out = found.weight;
    if (found.rank != (spec->is_vector ? 1 : 2) || out->n_rows != n_rows || out->n_cols != n_cols)
        return lp_fail(err, LP_EFORMAT, "%s: tensor %s has shape %s, the config requires %s", found.path, name,
                       found.shape, expected);
    if (found.format)
        return lp_fail(err, LP_EUNSUPPORTED, "%s: tensor %s has dtype %s; only BF16, F16 and F32 can be run exactly",
                       found.path, name, found.format);
    if (spec->is_vector && out->packed)
        return lp_fail(err, LP_EUNSUPPORTED, "%s: tensor %s is packed; a vector must be BF16, F16 or F32", found.path,
                       name);
    if (weight && !weight->packed && weight->element != out->element)
        return lp_fail(err, LP_EUNSUPPORTED, "%s: tensor %s has another dtype than its weight", found.path, name);
    if (spec->is_vector)
        out->data = lp_weight_at(out, 0, spec->first);
    else
        out->first_row += spec->first;
    out->n_rows = spec->n_rows, out->n_cols = spec->n_cols;
    return 0;
}

static int get_layer(const lp_model *m, const lp_architecture *a, const lp_tensor_spec *specs, size_t n, size_t layer,
                     lp_error *err) {
    for (size_t i = 0; i < n; i++) {
        int is_bias = i && specs[i].point == specs[i - 1].point;
        const lp_weight *weight = is_bias ? lp_model_weight(m, &specs[i - 1], layer) : NULL;
        if (specs[i].present && get(m, a, &specs[i], layer, weight, err)) return -1;
    }
    return 0;
}

static int get_tensors(lp_model *m, const lp_architecture *a, lp_error *err) {
    if (get_layer(m, a, m->specs, LP_N_MODEL_TENSORS, 0, err)) return -1;
    for (size_t i = 0; i < m->config.n_layers; i++)
        if (get_layer(m, a, m->specs + LP_N_MODEL_TENSORS, LP_N_LAYER_TENSORS, i, err)) return -1;
    if (!m->head.data) m->head = m->embed;
    return 0;
}

/* ---- the model ----------------------------------------------------------------------------------------------- */

static int check_architecture(const lp_architecture *a, lp_error *err) {
    static const lp_point linear[] = {LP_Q, LP_K, LP_V, LP_ATTN_OUT, LP_GATE, LP_UP, LP_MLP_OUT};
    if (lp_config_check(&a->config, err)) return -1;
    for (size_t i = 0; i < sizeof linear / sizeof *linear; i++)
        if (!a->modules[linear[i]])
            return lp_fail(err, LP_EARG, "config: no module computes %s", lp_point_name(linear[i]));
    if (a->n_ropes > LP_MOST_ROPES)
        return lp_fail(err, LP_EARG, "config: %zu tables of RoPE, the most are %d", a->n_ropes, LP_MOST_ROPES);
    for (size_t i = 0; i < a->config.n_layers; i++)
        if (a->rope_of[i] < -1 || a->rope_of[i] >= (int)a->n_ropes)
            return lp_fail(err, LP_EARG, "config: layer %zu has table %d of RoPE, there are %zu", i, a->rope_of[i],
                           a->n_ropes);
    return 0;
}

static float *copy_floats(float **to, const float *from, size_t n) {
    float *copy = *to;
    if (!from) return NULL;
    memcpy(copy, from, n * sizeof *from);
    *to += n;
    return copy;
}

/* The tables and their numbers are one allocation. */
static int copy_ropes(lp_model *m, const lp_architecture *a) {
    size_t half = a->config.rotary_dim / 2;
    m->ropes = malloc((a->n_ropes + 1) * sizeof *m->ropes + 2 * a->n_ropes * half * sizeof(float));
    if (!m->ropes) return -1;
    float *numbers = (float *)(m->ropes + a->n_ropes + 1);
    for (size_t i = 0; i < a->n_ropes; i++) {
        m->ropes[i] = a->ropes[i];
        m->ropes[i].inv_freq = copy_floats(&numbers, a->ropes[i].inv_freq, half);
        m->ropes[i].long_inv_freq = copy_floats(&numbers, a->ropes[i].long_inv_freq, half);
    }
    m->n_ropes = a->n_ropes;
    return 0;
}

static int make_model(lp_model *m, const lp_architecture *a) {
    m->config = a->config;
    find_present(&m->present, a);
    find_reads(m);
    lp_model_specs(a, m->specs);
    m->layers = calloc(a->config.n_layers, sizeof *m->layers);
    m->arena = lp_arena_new();
    if (copy_ropes(m, a) || !m->layers || !m->arena) return -1;
    for (size_t i = 0; i < a->config.n_layers; i++)
        m->layers[i].window = a->windows[i], m->layers[i].rope = a->rope_of[i];
    return 0;
}

int lp_model_open(lp_model **out, const lp_architecture *a, lp_tensors *tensors, lp_error *err) {
    *out = NULL;
    if (!tensors) return -1;
    lp_model *m = calloc(1, sizeof *m);
    if (!m) {
        lp_tensors_close(tensors);
        return lp_fail(err, LP_ENOMEM, "no memory for a model of %zu layers", a->config.n_layers);
    }
    m->tensors = tensors;
    int failed = check_architecture(a, err);
    if (!failed && make_model(m, a))
        failed = lp_fail(err, LP_ENOMEM, "%s: no memory for a model of %zu layers", lp_tensors_path(tensors),
                         a->config.n_layers);
    if (!failed) failed = get_tensors(m, a, err);
    if (failed)
        lp_model_close(m);
    else
        *out = m;
    return failed;
}

void lp_model_close(lp_model *model) {
    if (!model) return;
    lp_tensors_close(model->tensors);
    free(model->ropes);
    free(model->layers);
    lp_arena_close(model->arena);
    free(model);
}

int lp_model_is_mapped(const lp_model *model) { return lp_tensors_are_mapped(model->tensors); }

int lp_model_check_unchanged(const lp_model *model, lp_error *err) {
    return lp_tensors_check_unchanged(model->tensors, err);
}
