/* model.c - the only file that knows the names of tensors. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "size.h" /* lp_size_mul */

#define MOST_LAYERS 1024
#define MOST_HEADS 4096
#define MOST_WIDTH ((size_t)1 << 20)
#define MOST_VOCAB ((size_t)1 << 24)
#define MOST_POSITIONS ((size_t)1 << 26) /* sincos.h */

static int check_number(const char *name, size_t value, size_t most, lp_error *err) {
    if (value >= 1 && value <= most) return 0;
    return lp_fail(err, LP_EARG, "config: %s is %zu, must be 1 to %zu", name, value, most);
}

static int check_config(const lp_config *c, lp_error *err) {
    if (check_number("n_layers", c->n_layers, MOST_LAYERS, err) ||
        check_number("n_heads", c->n_heads, MOST_HEADS, err) ||
        check_number("n_kv_heads", c->n_kv_heads, c->n_heads, err) ||
        check_number("head_dim", c->head_dim, MOST_WIDTH, err) ||
        check_number("d_model", c->d_model, MOST_WIDTH, err) || check_number("d_ff", c->d_ff, MOST_WIDTH, err) ||
        check_number("vocab_size", c->vocab_size, MOST_VOCAB, err) ||
        check_number("max_positions", c->max_positions, MOST_POSITIONS, err) ||
        check_number("n_heads * head_dim", c->n_heads * c->head_dim, MOST_WIDTH, err))
        return -1;
    if (c->n_heads % c->n_kv_heads)
        return lp_fail(err, LP_EARG, "config: n_heads %zu is not a multiple of n_kv_heads %zu", c->n_heads,
                       c->n_kv_heads);
    if (c->head_dim % 2) return lp_fail(err, LP_EARG, "config: head_dim %zu is odd; RoPE turns pairs", c->head_dim);
    if (!(c->rms_norm_eps >= 0) || isinf(c->rms_norm_eps))
        return lp_fail(err, LP_EARG, "config: rms_norm_eps is %g, must be finite and not negative", c->rms_norm_eps);
    return 0;
}

/* ---- tensors ------------------------------------------------------------------------------------------------- */

typedef struct {
    lp_model *model;
    lp_error *err;
    char prefix[64]; /* "model.layers.3." */
} finder;

static const lp_tensor *find_tensor(const lp_model *model, const char *name, const lp_safetensors **file) {
    for (size_t i = 0; i < model->n_files; i++) {
        const lp_tensor *t = lp_safetensors_find(model->files[i], name, strlen(name));
        if (t) {
            *file = model->files[i];
            return t;
        }
    }
    return NULL;
}

int lp_model_word(lp_dtype dtype, lp_word *word) {
    switch (dtype) {
    case LP_BF16:
        *word = LP_WORD_BF16;
        return 0;
    case LP_F16:
        *word = LP_WORD_F16;
        return 0;
    case LP_F32:
        *word = LP_WORD_F32;
        return 0;
    default:
        return -1;
    }
}

static void show_shape(char *dst, size_t size, const lp_tensor *t) {
    size_t n = (size_t)snprintf(dst, size, "[");
    for (size_t i = 0; i < t->rank && n + 24 < size; i++)
        n += (size_t)snprintf(dst + n, size - n, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    snprintf(dst + n, size - n, "]");
}

static int has_shape(const lp_tensor *t, size_t n_rows, size_t n_cols) {
    if (t->rank == 1) return n_rows == 1 && t->shape[0] == n_cols;
    return t->rank == 2 && t->shape[0] == n_rows && t->shape[1] == n_cols;
}

/* A matrix [n_rows, n_cols], or a vector [n_cols] when `is_vector`. */
static int get(finder *f, lp_weight *out, const char *name, int is_vector, size_t n_rows, size_t n_cols) {
    const lp_safetensors *file = NULL;
    char full[128], shape[96];
    snprintf(full, sizeof full, "%s%s", f->prefix, name);
    const lp_tensor *t = find_tensor(f->model, full, &file);
    if (!t)
        return lp_fail(f->err, LP_EFORMAT, "%s: tensor %s is missing; the checkpoint is incomplete or not a Llama",
                       lp_safetensors_path(f->model->files[0]), full);
    if ((t->rank == 1) != is_vector || !has_shape(t, n_rows, n_cols)) {
        show_shape(shape, sizeof shape, t);
        return is_vector ? lp_fail(f->err, LP_EFORMAT, "%s: tensor %s has shape %s, the config asks for [%zu]",
                                   lp_safetensors_path(file), full, shape, n_cols)
                         : lp_fail(f->err, LP_EFORMAT, "%s: tensor %s has shape %s, the config asks for [%zu, %zu]",
                                   lp_safetensors_path(file), full, shape, n_rows, n_cols);
    }
    if (lp_model_word(t->dtype, &out->word))
        return lp_fail(f->err, LP_EUNSUPPORTED, "%s: tensor %s has dtype %s; only BF16, F16 and F32 can be run exactly",
                       lp_safetensors_path(file), full, lp_dtype_name(t->dtype));
    out->data = t->data;
    out->n_rows = n_rows;
    out->n_cols = n_cols;
    return 0;
}

static int get_matrix(finder *f, lp_weight *out, const char *name, size_t n_rows, size_t n_cols) {
    return get(f, out, name, 0, n_rows, n_cols);
}
static int get_vector(finder *f, lp_weight *out, const char *name, size_t n) { return get(f, out, name, 1, 1, n); }

/* A linear layer and, when the config has biases, its bias, which must be of the same dtype. */
static int get_linear(finder *f, lp_weight *out, lp_weight *bias, const char *name, int has_bias, size_t n_rows,
                      size_t n_cols) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    if (get_matrix(f, out, full, n_rows, n_cols)) return -1;
    if (!has_bias) return 0;
    snprintf(full, sizeof full, "%s.bias", name);
    if (get_vector(f, bias, full, n_rows)) return -1;
    if (bias->word != out->word)
        return lp_fail(f->err, LP_EUNSUPPORTED, "%s: tensor %s%s has another dtype than its weight",
                       lp_safetensors_path(f->model->files[0]), f->prefix, full);
    return 0;
}

static int get_layer(finder *f, lp_layer *l, size_t number) {
    const lp_config *c = &f->model->config;
    size_t q_width = c->n_heads * c->head_dim, kv_width = c->n_kv_heads * c->head_dim;
    int attn = c->attention_bias, mlp = c->mlp_bias;
    snprintf(f->prefix, sizeof f->prefix, "model.layers.%zu.", number);
    return get_vector(f, &l->input_norm, "input_layernorm.weight", c->d_model) ||
                   get_linear(f, &l->q, &l->q_bias, "self_attn.q_proj", attn, q_width, c->d_model) ||
                   get_linear(f, &l->k, &l->k_bias, "self_attn.k_proj", attn, kv_width, c->d_model) ||
                   get_linear(f, &l->v, &l->v_bias, "self_attn.v_proj", attn, kv_width, c->d_model) ||
                   get_linear(f, &l->o, &l->o_bias, "self_attn.o_proj", attn, c->d_model, q_width) ||
                   get_vector(f, &l->post_norm, "post_attention_layernorm.weight", c->d_model) ||
                   get_linear(f, &l->gate, &l->gate_bias, "mlp.gate_proj", mlp, c->d_ff, c->d_model) ||
                   get_linear(f, &l->up, &l->up_bias, "mlp.up_proj", mlp, c->d_ff, c->d_model) ||
                   get_linear(f, &l->down, &l->down_bias, "mlp.down_proj", mlp, c->d_model, c->d_ff)
               ? -1
               : 0;
}

static int get_tensors(finder *f) {
    lp_model *m = f->model;
    const lp_config *c = &m->config;
    if (get_matrix(f, &m->embed, "model.embed_tokens.weight", c->vocab_size, c->d_model)) return -1;
    if (get_vector(f, &m->final_norm, "model.norm.weight", c->d_model)) return -1;
    m->head = m->embed;
    if (!c->tied_head && get_matrix(f, &m->head, "lm_head.weight", c->vocab_size, c->d_model)) return -1;
    for (size_t i = 0; i < c->n_layers; i++)
        if (get_layer(f, &m->layers[i], i)) return -1;
    return 0;
}

/* ---- the model ----------------------------------------------------------------------------------------------- */

static int alloc_model(lp_model *m, const lp_config *config, const float *inv_freq, lp_safetensors *const *files,
                       size_t n_files) {
    size_t half = config->head_dim / 2;
    m->config = *config;
    m->inv_freq = malloc(half * sizeof *m->inv_freq);
    m->layers = calloc(config->n_layers, sizeof *m->layers);
    m->files = calloc(n_files, sizeof *m->files);
    if (!m->inv_freq || !m->layers || !m->files) return -1;
    memcpy(m->inv_freq, inv_freq, half * sizeof *inv_freq);
    for (size_t i = 0; i < n_files; i++) m->files[i] = files[i];
    m->n_files = n_files;
    return 0;
}

int lp_model_open(lp_model **out, const lp_config *config, const float *inv_freq, lp_safetensors *const *files,
                  size_t n_files, lp_error *err) {
    *out = NULL;
    if (!n_files) return lp_fail(err, LP_EARG, "a model needs at least one safetensors file");
    if (check_config(config, err)) return -1;
    lp_model *m = calloc(1, sizeof *m);
    if (!m || alloc_model(m, config, inv_freq, files, n_files)) {
        lp_fail(err, LP_ENOMEM, "%s: no memory for a model of %zu layers", lp_safetensors_path(files[0]),
                config->n_layers);
        goto fail;
    }
    finder f = {.model = m, .err = err};
    if (get_tensors(&f)) goto fail;
    *out = m;
    return 0;
fail:
    lp_model_close(m);
    return -1;
}

void lp_model_close(lp_model *model) {
    if (!model) return;
    free(model->inv_freq);
    free(model->layers);
    free(model->files);
    free(model);
}

int lp_model_is_mapped(const lp_model *model) {
    for (size_t i = 0; i < model->n_files; i++)
        if (!lp_safetensors_is_mapped(model->files[i])) return 0;
    return 1;
}

int lp_model_check_unchanged(const lp_model *model, lp_error *err) {
    for (size_t i = 0; i < model->n_files; i++)
        if (lp_safetensors_check_unchanged(model->files[i], err)) return -1;
    return 0;
}
