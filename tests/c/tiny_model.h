/* tiny_model.h - the bytes of a safetensors file that holds exactly the tensors of a config. */
#ifndef LP_TINY_MODEL_H
#define LP_TINY_MODEL_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/model/model.h"    /* lp_config */
#include "../../csrc/io/safetensors.h" /* lp_dtype, lp_safetensors_tensors */
#include "image.h"                     /* make_image */

/* The numbers of a Llama, for an initialiser. */
#define LLAMA(layers, heads, kv_heads, dim, model, ff, vocab, most, eps, bias, bias_of_mlp, tied) \
    {.n_layers = layers,                                                                          \
     .n_heads = heads,                                                                            \
     .n_kv_heads = kv_heads,                                                                      \
     .head_dim = dim,                                                                             \
     .d_model = model,                                                                            \
     .d_ff = ff,                                                                                  \
     .vocab_size = vocab,                                                                         \
     .max_positions = most,                                                                       \
     .rms_norm_eps = eps,                                                                         \
     .qkv_bias = bias,                                                                            \
     .o_bias = bias,                                                                              \
     .mlp_bias = bias_of_mlp,                                                                     \
     .tied_head = tied,                                                                           \
     .rotary_dim = dim,                                                                           \
     .embedding_scale = 1,                                                                        \
     .residual_scale = 1,                                                                         \
     .logits_divisor = 1}

enum { TINY_MOST_LAYERS = 1024 }; /* as many as a config may have */

/* A Llama with these numbers; the score scale is 1 / sqrt(head_dim). */
static inline lp_architecture tiny_llama(const lp_config *c) {
    static const size_t windows[TINY_MOST_LAYERS];
    static const int rope_of[TINY_MOST_LAYERS];
    lp_architecture a = {.config = *c,
                         .prefix = "",
                         .modules = {[LP_X_NORM] = "input_layernorm",
                                     [LP_Q] = "self_attn.q_proj",
                                     [LP_K] = "self_attn.k_proj",
                                     [LP_V] = "self_attn.v_proj",
                                     [LP_ATTN_OUT] = "self_attn.o_proj",
                                     [LP_X_MID_NORM] = "post_attention_layernorm",
                                     [LP_GATE] = "mlp.gate_proj",
                                     [LP_UP] = "mlp.up_proj",
                                     [LP_MLP_OUT] = "mlp.down_proj"},
                         .windows = windows,
                         .rope_of = rope_of};
    if (c->head_dim) a.config.attention_scale = (float)(1 / sqrt((double)c->head_dim));
    return a;
}

static inline size_t tiny_pick(uint64_t *state, size_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(*state >> 33) % n;
}

/* Any model that has more than a Llama, or less, by its seed. The caller adds two tables of RoPE; until the next call.
 */
static inline lp_architecture tiny_any(const lp_config *config, uint64_t seed) {
    static int rope_of[TINY_MOST_LAYERS];
    static size_t windows[TINY_MOST_LAYERS];
    lp_architecture a = tiny_llama(config);
    lp_config *c = &a.config;
    uint64_t *s = &seed;
    memset(rope_of, 0, sizeof rope_of), memset(windows, 0, sizeof windows);
    for (size_t i = 0; i < c->n_layers; i++)
        rope_of[i] = (int)tiny_pick(s, 3) - 1, windows[i] = tiny_pick(s, 2) ? tiny_pick(s, 20) : 0;
    if (!tiny_pick(s, 8)) windows[0] = SIZE_MAX - tiny_pick(s, 2);
    a.n_ropes = 2, a.rope_of = rope_of, a.windows = windows;
    if (tiny_pick(s, 2)) a.modules[LP_Q_NORM] = "q_norm", a.modules[LP_K_NORM] = "k_norm";
    if (tiny_pick(s, 2)) a.modules[LP_ATTN_NORM] = "attn_norm", a.modules[LP_MLP_NORM] = "mlp_norm";
    if (!tiny_pick(s, 3)) a.modules[LP_X_NORM] = a.modules[LP_X_MID_NORM] = NULL;
    if (tiny_pick(s, 2)) a.modules[LP_Q] = a.modules[LP_K] = a.modules[LP_V] = "qkv";
    if (tiny_pick(s, 2)) a.modules[LP_GATE] = a.modules[LP_UP] = "gate_up";
    c->qk_norm_whole = (int)tiny_pick(s, 2), c->interleaved = (int)tiny_pick(s, 2), c->o_bias = (int)tiny_pick(s, 2);
    c->rotary_dim = 2 + 2 * tiny_pick(s, c->head_dim / 2);
    c->attention_scale = 0.5;
    if (tiny_pick(s, 2)) c->embedding_scale = 3;
    if (tiny_pick(s, 2)) c->residual_scale = 0.75;
    if (tiny_pick(s, 2)) c->logits_divisor = 7;
    if (tiny_pick(s, 2)) c->score_cap = 0.5;
    if (tiny_pick(s, 2)) c->logits_cap = 2;
    c->gelu_tanh = (int)tiny_pick(s, 2), c->gain_offset = (double)tiny_pick(s, 2);
    return a;
}

/* Opens one; inv_freq has rotary_dim / 2 numbers. */
static inline int open_tiny(lp_model **model, const lp_config *c, const float *inv_freq, lp_tensors *tensors,
                            lp_error *err) {
    lp_architecture a = tiny_llama(c);
    lp_rope_spec rope = {.inv_freq = inv_freq, .factor = 1};
    a.ropes = &rope, a.n_ropes = 1;
    return lp_model_open(model, &a, tensors, err);
}

/* A file that is being put together: its header, where the next tensor begins, and what its dtype hangs on. */
typedef struct {
    char *header;
    size_t n, room;
    size_t data_end;
    uint64_t seed;
    lp_dtype dtype; /* of the tensor before: a bias has that of its weight */
} tiny_draft;

/* The dtypes of a model by its seed: all BF16, all F16, all F32, or mixed. */
static inline lp_dtype tiny_dtype(tiny_draft *d, int is_bias) {
    static const lp_dtype dtypes[] = {LP_BF16, LP_F16, LP_F32};
    size_t kind = d->seed & 3, mixed = (size_t)((d->seed >> 2) % 97 + d->data_end) % 3;
    if (!is_bias) d->dtype = dtypes[kind < 3 ? kind : mixed];
    return d->dtype;
}

/* n_rows 0 is a vector. */
static inline void add_tensor(tiny_draft *d, const char *prefix, const char *name, size_t n_rows, size_t n_cols) {
    int is_bias = strstr(name, ".bias") != NULL;
    lp_dtype dtype = tiny_dtype(d, is_bias);
    size_t n_bytes = (n_rows ? n_rows : 1) * n_cols * lp_dtype_bits(dtype) / 8, begin = d->data_end;
    char shape[64];
    d->data_end += n_bytes;
    if (n_rows)
        snprintf(shape, sizeof shape, "%zu,%zu", n_rows, n_cols);
    else
        snprintf(shape, sizeof shape, "%zu", n_cols);
    d->n += (size_t)snprintf(d->header + d->n, d->room - d->n,
                             "%s\"%s%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                             d->n > 1 ? "," : "", prefix, name, lp_dtype_name(dtype), shape, begin, d->data_end);
}

/* Rows first .. end of the list of tensors. */
static inline void add_tensors(tiny_draft *d, const lp_architecture *a, size_t first, size_t end, const char *prefix) {
    lp_tensor_spec specs[LP_N_TENSORS];
    lp_model_specs(a, specs);
    for (const lp_tensor_spec *s = specs + first; s < specs + end; s++) {
        char name[128];
        if (!s->present || s->first) continue;
        snprintf(name, sizeof name, "%s%s%s", s->per_layer ? a->modules[s->point] : "", s->per_layer ? "." : "",
                 s->name);
        add_tensor(d, prefix, name, s->is_vector ? 0 : s->n_all, s->is_vector ? s->n_all : s->n_cols);
    }
}

/* Exponents near that of 1, so that values stay in range: bytes of noise, the high byte of each word set to 0x3c to
 * 0x3e or 0xbc to 0xbe. That is about 0.01 to 0.3 as BF16 and F32, and 1 to 1.5 as F16. */
static inline void fill_weights(image file, size_t data_start, uint64_t seed) {
    for (size_t i = data_start; i < file.n_bytes; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned char noise = (unsigned char)(seed >> 33);
        file.bytes[i] = (i - data_start) % 2 ? (unsigned char)(0x3c + noise % 3 + (noise & 0x80)) : noise;
    }
}

/* The caller frees the bytes. The config must be one that a model can have. */
static inline image make_tiny_file(const lp_architecture *a, uint64_t seed) {
    tiny_draft d = {.room = (a->config.n_layers + 1) * 4096, .n = 1, .seed = seed};
    d.header = malloc(d.room);
    d.header[0] = '{';
    add_tensors(&d, a, 0, 1, ""); /* the embedding */
    for (size_t i = 0; i < a->config.n_layers; i++) {
        char prefix[48];
        snprintf(prefix, sizeof prefix, LP_LAYER_PREFIX, i);
        add_tensors(&d, a, LP_N_MODEL_TENSORS, LP_N_TENSORS, prefix);
    }
    add_tensors(&d, a, 1, LP_N_MODEL_TENSORS, "");
    d.header[d.n++] = '}';
    image file = make_image_n(d.header, d.n, d.data_end);
    fill_weights(file, 8 + d.n, seed);
    free(d.header);
    return file;
}

static inline image make_tiny_model(const lp_config *c, uint64_t seed) {
    lp_architecture a = tiny_llama(c);
    return make_tiny_file(&a, seed);
}

#endif
