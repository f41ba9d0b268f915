/* model.h - an open model: its config, and its weights in place, from the one list of tensors.
 *
 * Opening finds every tensor of the list by its Hugging Face name and checks its element type and shape against the
 * config. No weight is copied: the files must outlive the model. A model is read-only: any number of runs may share it.
 */
#ifndef LP_MODEL_H
#define LP_MODEL_H

#include <stddef.h>

#include "config.h"        /* lp_config */
#include "../base/error.h" /* lp_error */
#include "../sys/memory.h" /* lp_arena */
#include "points.h"        /* lp_point */
#include "../io/tensors.h" /* lp_tensors, lp_weight */

/* T(field, name, rows, columns, present, POINT): the member of lp_layer or lp_model, the name in the checkpoint (of a
 * layer, after LP_LAYER_PREFIX), two widths of config.h (ONE row: a vector), when the model has it, and the value it is
 * read for. A bias follows its weight and has the same element type. */
#define LP_LAYER_PREFIX "model.layers.%zu."
#define LP_LAYER_TENSORS(T)                                                       \
    T(input_norm, "input_layernorm.weight", ONE, D_MODEL, 1, X_NORM)              \
    T(q, "self_attn.q_proj.weight", HEADS, D_MODEL, 1, Q)                         \
    T(q_bias, "self_attn.q_proj.bias", ONE, HEADS, c->attention_bias, Q)          \
    T(k, "self_attn.k_proj.weight", KV, D_MODEL, 1, K)                            \
    T(k_bias, "self_attn.k_proj.bias", ONE, KV, c->attention_bias, K)             \
    T(v, "self_attn.v_proj.weight", KV, D_MODEL, 1, V)                            \
    T(v_bias, "self_attn.v_proj.bias", ONE, KV, c->attention_bias, V)             \
    T(o, "self_attn.o_proj.weight", D_MODEL, HEADS, 1, ATTN_OUT)                  \
    T(o_bias, "self_attn.o_proj.bias", ONE, D_MODEL, c->attention_bias, ATTN_OUT) \
    T(post_norm, "post_attention_layernorm.weight", ONE, D_MODEL, 1, X_MID_NORM)  \
    T(gate, "mlp.gate_proj.weight", D_FF, D_MODEL, 1, GATE)                       \
    T(gate_bias, "mlp.gate_proj.bias", ONE, D_FF, c->mlp_bias, GATE)              \
    T(up, "mlp.up_proj.weight", D_FF, D_MODEL, 1, UP)                             \
    T(up_bias, "mlp.up_proj.bias", ONE, D_FF, c->mlp_bias, UP)                    \
    T(down, "mlp.down_proj.weight", D_MODEL, D_FF, 1, MLP_OUT)                    \
    T(down_bias, "mlp.down_proj.bias", ONE, D_MODEL, c->mlp_bias, MLP_OUT)
#define LP_MODEL_TENSORS(T)                                         \
    T(embed, "model.embed_tokens.weight", VOCAB, D_MODEL, 1, X)     \
    T(final_norm, "model.norm.weight", ONE, D_MODEL, 1, FINAL_NORM) \
    T(head, "lm_head.weight", VOCAB, D_MODEL, !c->tied_head, LOGITS)

#define LP_TENSOR_COUNT(field, name, rows, columns, present, point) +1
#define LP_TENSOR_MEMBER(field, name, rows, columns, present, point) lp_weight field;
enum {
    LP_N_MODEL_TENSORS = LP_MODEL_TENSORS(LP_TENSOR_COUNT),
    LP_N_LAYER_TENSORS = LP_LAYER_TENSORS(LP_TENSOR_COUNT),
    LP_N_TENSORS = LP_N_MODEL_TENSORS + LP_N_LAYER_TENSORS
};

typedef struct {
    LP_LAYER_TENSORS(LP_TENSOR_MEMBER)
} lp_layer;

typedef struct {
    lp_config config;
    float *inv_freq;                   /* [head_dim / 2]; owned */
    LP_MODEL_TENSORS(LP_TENSOR_MEMBER) /* head is embed when it is tied */
    lp_layer *layers;                  /* [n_layers]; owned */
    lp_tensors *tensors;               /* that they were found in; owned */
    lp_arena *arena;                   /* memory reused from run to run; owned, shared with its arrays */
} lp_model;

/* An entry of the lists, for one config. */
typedef struct {
    const char *name;
    size_t at; /* offset in lp_model, or in lp_layer */
    size_t n_rows, n_cols;
    int per_layer, is_vector, present;
    lp_point point;
} lp_tensor_spec;

/* Those of the model, then those of a layer. */
void lp_model_specs(const lp_config *c, lp_tensor_spec specs[LP_N_TENSORS]);
/* The weight of an entry; `layer` is ignored unless it is per layer. */
const lp_weight *lp_model_weight(const lp_model *model, const lp_tensor_spec *spec, size_t layer);

/* inv_freq has head_dim / 2 floats and is copied. Takes `tensors`, also on failure; when they are NULL, making them
 * failed and err is left as it is. LP_EARG: a number of the config is out of range; LP_EFORMAT: a tensor is
 * missing or has another shape; LP_EUNSUPPORTED: a dtype that
 * cannot be computed with. */
int lp_model_open(lp_model **out, const lp_config *config, const float *inv_freq, lp_tensors *tensors, lp_error *err);
void lp_model_close(lp_model *model); /* NULL is legal */

int lp_model_is_mapped(const lp_model *model); /* its weights are pages of files */

/* LP_ECHANGED when a file of the model is not what it was at open. */
int lp_model_check_unchanged(const lp_model *model, lp_error *err);

#endif
