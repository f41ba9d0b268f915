/* model.c - finds every tensor of the list and checks it against the config. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(type, layer, field, name, rows, columns, present, point) \
    {name,                                                           \
     offsetof(type, field),                                          \
     lp_config_width(c, LP_WIDTH_##rows),                            \
     lp_config_width(c, LP_WIDTH_##columns),                         \
     layer,                                                          \
     LP_WIDTH_##rows == LP_WIDTH_ONE,                                \
     present,                                                        \
     LP_##point},
#define MODEL_ROW(...) ROW(lp_model, 0, __VA_ARGS__)
#define LAYER_ROW(...) ROW(lp_layer, 1, __VA_ARGS__)

void lp_model_specs(const lp_config *c, lp_tensor_spec specs[LP_N_TENSORS]) {
    const lp_tensor_spec rows[] = {LP_MODEL_TENSORS(MODEL_ROW) LP_LAYER_TENSORS(LAYER_ROW)};
    memcpy(specs, rows, sizeof rows);
}

const lp_weight *lp_model_weight(const lp_model *model, const lp_tensor_spec *spec, size_t layer) {
    const void *base = spec->per_layer ? (const void *)&model->layers[layer] : model;
    return (const lp_weight *)((const char *)base + spec->at);
}

/* The tensor of an entry; `weight`: that of a bias, else NULL. */
static int get(const lp_model *m, const lp_tensor_spec *spec, size_t layer, const lp_weight *weight, lp_error *err) {
    lp_weight *out = (lp_weight *)lp_model_weight(m, spec, layer);
    lp_found_tensor found;
    char name[128], expected[64];
    size_t n = spec->per_layer ? (size_t)snprintf(name, sizeof name, LP_LAYER_PREFIX, layer) : 0;
    snprintf(name + n, sizeof name - n, "%s", spec->name);
    snprintf(expected, sizeof expected, spec->is_vector ? "[%zu]" : "[%zu, %zu]",
             spec->is_vector ? spec->n_cols : spec->n_rows, spec->n_cols);
    if (!m->tensors->find(m->tensors, name, &found))
        return lp_fail(err, LP_EFORMAT, "%s: tensor %s is missing; the checkpoint is incomplete or not a Llama",
                       m->tensors->path, name);
    *out = found.weight;
    if (found.rank != (spec->is_vector ? 1 : 2) || out->n_rows != spec->n_rows || out->n_cols != spec->n_cols)
        return lp_fail(err, LP_EFORMAT, "%s: tensor %s has shape %s, the config requires %s", found.path, name,
                       found.shape, expected);
    if (found.format)
        return lp_fail(err, LP_EUNSUPPORTED, "%s: tensor %s has dtype %s; only BF16, F16 and F32 can be run exactly",
                       found.path, name, found.format);
    if (weight && weight->element != out->element)
        return lp_fail(err, LP_EUNSUPPORTED, "%s: tensor %s has another dtype than its weight", found.path, name);
    return 0;
}

static int get_layer(const lp_model *m, const lp_tensor_spec *specs, size_t n, size_t layer, lp_error *err) {
    for (size_t i = 0; i < n; i++) {
        int is_bias = i && specs[i].point == specs[i - 1].point;
        const lp_weight *weight = is_bias ? lp_model_weight(m, &specs[i - 1], layer) : NULL;
        if (specs[i].present && get(m, &specs[i], layer, weight, err)) return -1;
    }
    return 0;
}

static int get_tensors(lp_model *m, lp_error *err) {
    lp_tensor_spec specs[LP_N_TENSORS];
    lp_model_specs(&m->config, specs);
    if (get_layer(m, specs, LP_N_MODEL_TENSORS, 0, err)) return -1;
    for (size_t i = 0; i < m->config.n_layers; i++)
        if (get_layer(m, specs + LP_N_MODEL_TENSORS, LP_N_LAYER_TENSORS, i, err)) return -1;
    if (!m->head.data) m->head = m->embed;
    return 0;
}

static int alloc_model(lp_model *m, const lp_config *config, const float *inv_freq) {
    size_t half = config->head_dim / 2;
    m->config = *config;
    m->inv_freq = malloc(half * sizeof *m->inv_freq);
    m->layers = calloc(config->n_layers, sizeof *m->layers);
    m->arena = lp_arena_new();
    if (!m->inv_freq || !m->layers || !m->arena) return -1;
    memcpy(m->inv_freq, inv_freq, half * sizeof *inv_freq);
    return 0;
}

int lp_model_open(lp_model **out, const lp_config *config, const float *inv_freq, lp_tensors *tensors, lp_error *err) {
    *out = NULL;
    if (!tensors) return -1;
    lp_model *m = calloc(1, sizeof *m);
    if (!m) {
        tensors->close(tensors);
        return lp_fail(err, LP_ENOMEM, "no memory for a model of %zu layers", config->n_layers);
    }
    m->tensors = tensors;
    int failed = lp_config_check(config, err);
    if (!failed && alloc_model(m, config, inv_freq))
        failed = lp_fail(err, LP_ENOMEM, "%s: no memory for a model of %zu layers", tensors->path, config->n_layers);
    if (!failed) failed = get_tensors(m, err);
    if (failed)
        lp_model_close(m);
    else
        *out = m;
    return failed;
}

void lp_model_close(lp_model *model) {
    if (!model) return;
    model->tensors->close(model->tensors);
    free(model->inv_freq);
    free(model->layers);
    lp_arena_close(model->arena);
    free(model);
}

int lp_model_is_mapped(const lp_model *model) { return model->tensors->is_mapped(model->tensors); }

int lp_model_check_unchanged(const lp_model *model, lp_error *err) {
    return model->tensors->check_unchanged(model->tensors, err);
}
