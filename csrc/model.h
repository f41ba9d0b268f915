/* model.h - one open model: the numbers of its config and pointers into the mapped files.
 *
 * Opening finds every tensor that a Llama needs by its Hugging Face name and proves its dtype and shape against
 * the config. Nothing is copied; the files must outlive the model. A model is read-only: any number of runs may
 * use it at once. */
#ifndef LP_MODEL_H
#define LP_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"           /* lp_error */
#include "kernels/kernels.h" /* lp_word */
#include "safetensors.h"     /* lp_safetensors */

typedef struct {
    size_t n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size;
    size_t max_positions; /* longest sequence that a run accepts */
    double rms_norm_eps;
    int attention_bias; /* q, k, v and o have a bias */
    int mlp_bias;       /* gate, up and down have a bias */
    int tied_head;      /* logits use the embedding matrix */
} lp_config;

/* A matrix or vector in a map: row-major [n_rows, n_cols], any alignment. data is NULL for an absent bias. */
typedef struct {
    const void *data;
    lp_word word;
    size_t n_rows, n_cols;
} lp_weight;

typedef struct {
    lp_weight input_norm;             /* [d_model] */
    lp_weight q, k, v;                /* [n_heads or n_kv_heads * head_dim, d_model] */
    lp_weight o;                      /* [d_model, n_heads * head_dim] */
    lp_weight post_norm;              /* [d_model] */
    lp_weight gate, up;               /* [d_ff, d_model] */
    lp_weight down;                   /* [d_model, d_ff] */
    lp_weight q_bias, k_bias, v_bias; /* [n_heads or n_kv_heads * head_dim] */
    lp_weight o_bias, gate_bias, up_bias, down_bias;
} lp_layer;

typedef struct {
    lp_config config;
    float *inv_freq; /* [head_dim / 2]; owned */
    lp_weight embed; /* [vocab_size, d_model] */
    lp_weight head;  /* [vocab_size, d_model]; the same as embed when tied */
    lp_weight final_norm;
    lp_layer *layers;             /* [n_layers]; owned */
    const lp_safetensors **files; /* [n_files]; the array is owned, the files are not */
    size_t n_files;
} lp_model;

/* How the kernels call a dtype; -1 for one that cannot be computed with. */
int lp_model_word(lp_dtype dtype, lp_word *word);

/* inv_freq has head_dim / 2 floats and is copied. LP_EARG: a number of the config is out of range; LP_EFORMAT: a
 * tensor is missing or has another shape; LP_EUNSUPPORTED: a dtype that cannot be computed with. */
int lp_model_open(lp_model **out, const lp_config *config, const float *inv_freq, lp_safetensors *const *files,
                  size_t n_files, lp_error *err);
void lp_model_close(lp_model *model); /* NULL is legal */

int lp_model_is_mapped(const lp_model *model); /* its weights are pages of files */

/* LP_ECHANGED when a file of the model is not what it was at open. */
int lp_model_check_unchanged(const lp_model *model, lp_error *err);

#endif
