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

/* T(field, name, rows, columns, present, POINT): the member of lp_layer or lp_model, two widths of config.h (ONE row: a
 * vector), and the value it is read for. A matrix or gain of a layer is "weight" or "bias" of the module that
 * lp_architecture names for its point; without a module, or if not `present`, the model lacks it. Points that share a
 * module have consecutive ranges of its rows, in this order. A gain of q or k is of one head unless c->qk_norm_whole. A
 * bias follows its weight and has the same element type, unless that is packed. Vectors are not packed.
 */
#define LP_LAYER_PREFIX "model.layers.%zu."
#define LP_LAYER_TENSORS(T)                                  \
    T(input_norm, "weight", ONE, D_MODEL, 1, X_NORM)         \
    T(q, "weight", HEADS, D_MODEL, 1, Q)                     \
    T(q_bias, "bias", ONE, HEADS, c->qkv_bias, Q)            \
    T(k, "weight", KV, D_MODEL, 1, K)                        \
    T(k_bias, "bias", ONE, KV, c->qkv_bias, K)               \
    T(v, "weight", KV, D_MODEL, 1, V)                        \
    T(v_bias, "bias", ONE, KV, c->qkv_bias, V)               \
    T(q_norm, "weight", ONE, HEADS, 1, Q_NORM)               \
    T(k_norm, "weight", ONE, KV, 1, K_NORM)                  \
    T(o, "weight", D_MODEL, HEADS, 1, ATTN_OUT)              \
    T(o_bias, "bias", ONE, D_MODEL, c->o_bias, ATTN_OUT)     \
    T(attn_norm, "weight", ONE, D_MODEL, 1, ATTN_NORM)       \
    T(mid_norm, "weight", ONE, D_MODEL, 1, X_MID_NORM)       \
    T(gate, "weight", D_FF, D_MODEL, 1, GATE)                \
    T(gate_bias, "bias", ONE, D_FF, c->mlp_bias, GATE)       \
    T(up, "weight", D_FF, D_MODEL, 1, UP)                    \
    T(up_bias, "bias", ONE, D_FF, c->mlp_bias, UP)           \
    T(down, "weight", D_MODEL, D_FF, 1, MLP_OUT)             \
    T(down_bias, "bias", ONE, D_MODEL, c->mlp_bias, MLP_OUT) \
    T(mlp_norm, "weight", ONE, D_MODEL, 1, MLP_NORM)
#define LP_MODEL_TENSORS(T)                                         \
    T(embed, "model.embed_tokens.weight", VOCAB, D_MODEL, 1, X)     \
    T(final_norm, "model.norm.weight", ONE, D_MODEL, 1, FINAL_NORM) \
    T(head, "lm_head.weight", VOCAB, D_MODEL, !c->tied_head, LOGITS_RAW)

#define LP_TENSOR_COUNT(field, name, rows, columns, present, point) +1
#define LP_TENSOR_MEMBER(field, name, rows, columns, present, point) lp_weight field;
enum {
    LP_N_MODEL_TENSORS = LP_MODEL_TENSORS(LP_TENSOR_COUNT),
    LP_N_LAYER_TENSORS = LP_LAYER_TENSORS(LP_TENSOR_COUNT),
    LP_N_TENSORS = LP_N_MODEL_TENSORS + LP_N_LAYER_TENSORS
};

/* How layers turn q and k: a table of angles. */
typedef struct {
    const float *inv_freq;      /* [rotary_dim / 2] */
    const float *long_inv_freq; /* the same for sequences of more than `original` tokens; NULL: none */
    size_t original;
    float factor; /* of cos and sin */
} lp_rope_spec;

#define LP_MOST_ROPES 4 /* in one model */

/* All that a model is besides its tensors. lp_model_open copies what it keeps. */
typedef struct {
    lp_config config;
    const char *prefix; /* of the names of all tensors */
    const char
        *modules[LP_N_POINTS]; /* of a layer, without its prefix: what computes the point; NULL: the model lacks it */
    const size_t *windows;     /* [n_layers]: keys that a query sees, its own counted; 0: all before it */
    const int *rope_of;        /* [n_layers]: number of the table; -1: q and k are not turned */
    const lp_rope_spec *ropes; /* [n_ropes] */
    size_t n_ropes;
} lp_architecture;

typedef struct {
    LP_LAYER_TENSORS(LP_TENSOR_MEMBER)
    size_t window;
    int rope;
} lp_layer;

/* An entry of the lists, for one architecture. */
typedef struct {
    const char *name;
    size_t at; /* offset in lp_model, or in lp_layer */
    size_t n_rows, n_cols;
    size_t first, n_all; /* of its module: the first row, or number of a vector, and how many in all */
    int per_layer, is_vector, present;
    lp_point point;
} lp_tensor_spec;

typedef struct {
    lp_point point[LP_MOST_READS];
    size_t n;
} lp_reads;

typedef struct {
    lp_config config;
    lp_points present;           /* the points that it has */
    lp_reads reads[LP_N_POINTS]; /* the present points that each point, or what stands for it, is computed from */
    lp_tensor_spec specs[LP_N_TENSORS];
    LP_MODEL_TENSORS(LP_TENSOR_MEMBER) /* head is embed when it is tied */
    lp_layer *layers;                  /* [n_layers]; owned */
    lp_rope_spec *ropes;               /* [n_ropes]; owned, with their numbers */
    size_t n_ropes;
    lp_tensors *tensors; /* that they were found in; owned */
    lp_arena *arena;     /* memory reused from run to run; owned, shared with its arrays */
} lp_model;

/* Those of the model, then those of a layer. */
void lp_model_specs(const lp_architecture *a, lp_tensor_spec specs[LP_N_TENSORS]);
/* The weight of an entry; `layer` is ignored unless it is per layer. */
const lp_weight *lp_model_weight(const lp_model *model, const lp_tensor_spec *spec, size_t layer);

static inline int lp_model_has(const lp_model *model, lp_point p) { return lp_points_has(&model->present, p); }
/* The point itself, or of an absent norm or cap its input. */
static inline lp_point lp_model_source(const lp_model *model, lp_point p) {
    return lp_model_has(model, p) ? p : model->reads[p].point[0];
}

/* Takes `tensors`, also on failure; when they are NULL, making them failed and err is left as it is. LP_EARG: a number
 * is out of range; LP_EFORMAT: a tensor is missing or has another shape; LP_EUNSUPPORTED: a dtype that cannot be
 * computed with. */
int lp_model_open(lp_model **out, const lp_architecture *a, lp_tensors *tensors, lp_error *err);
void lp_model_close(lp_model *model); /* NULL is legal */

int lp_model_is_mapped(const lp_model *model); /* its weights are pages of files */

/* LP_ECHANGED when a file of the model is not what it was at open. */
int lp_model_check_unchanged(const lp_model *model, lp_error *err);

#endif
