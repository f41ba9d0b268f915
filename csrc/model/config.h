/* config.h - the one list of a model's numbers, and the one list of the widths that follow from them. */
#ifndef LP_CONFIG_H
#define LP_CONFIG_H

#include <stddef.h>

#include "../base/error.h" /* lp_error */

/* SIZE(name, most): 1 to `most`, which may depend on numbers before it; REAL(name): finite, not negative, and but for
 * rms_norm_eps exact as a float32; FLAG(name).
 * The struct, the checks and the keyword arguments of _core.Model come from this list. */
#define LP_CONFIG(SIZE, REAL, FLAG)                                                               \
    SIZE(n_layers, 1024)                                                                          \
    SIZE(n_heads, 4096)                                                                           \
    SIZE(n_kv_heads, c->n_heads) /* divides n_heads */                                            \
    SIZE(head_dim, 1 << 20)      /* even: RoPE turns pairs */                                     \
    SIZE(d_model, 1 << 20)                                                                        \
    SIZE(d_ff, 1 << 20)                                                                           \
    SIZE(vocab_size, 1 << 24)                                                                     \
    SIZE(max_positions, 1 << 26)  /* longest sequence */                                          \
    SIZE(rotary_dim, c->head_dim) /* even: floats of a head that RoPE turns, from the first on */ \
    REAL(rms_norm_eps)                                                                            \
    REAL(gain_offset)     /* added to the gains of all norms */                                   \
    REAL(attention_scale) /* of q . k */                                                          \
    REAL(embedding_scale)                                                                         \
    REAL(residual_scale) /* of what is added to the residual stream */                            \
    REAL(logits_divisor) /* more than 0 */                                                        \
    REAL(score_cap)      /* 0: none */                                                            \
    REAL(logits_cap)     /* 0: none */                                                            \
    FLAG(qkv_bias)       /* q, k and v have a bias */                                             \
    FLAG(o_bias)                                                                                  \
    FLAG(mlp_bias)      /* gate, up and down have a bias */                                       \
    FLAG(tied_head)     /* logits use the embedding matrix */                                     \
    FLAG(qk_norm_whole) /* norms of q and k go over all heads of a token, not over each head */   \
    FLAG(gelu_tanh)     /* the activation, instead of SiLU */                                     \
    FLAG(interleaved)   /* RoPE turns floats 2i and 2i + 1 together, not i and i + rotary_dim / 2 */

typedef struct {
#define LP_CONFIG_SIZE(name, most) size_t name;
#define LP_CONFIG_REAL(name) double name;
#define LP_CONFIG_FLAG(name) int name;
    LP_CONFIG(LP_CONFIG_SIZE, LP_CONFIG_REAL, LP_CONFIG_FLAG)
#undef LP_CONFIG_SIZE
#undef LP_CONFIG_REAL
#undef LP_CONFIG_FLAG
} lp_config;

/* W(NAME, name, axes, width): the enum LP_WIDTH_<NAME>, name and axes in Python (T: tokens; others: numbers of the
 * config), and the floats per token or, of an attention map, per query and key. The two gains are widths of weights
 * only. */
#define LP_WIDTHS(W)                                                          \
    W(ONE, one, "T", 1)                                                       \
    W(D_MODEL, d_model, "T d_model", c->d_model)                              \
    W(HEADS, heads, "T n_heads head_dim", c->n_heads * c->head_dim)           \
    W(KV, kv, "T n_kv_heads head_dim", c->n_kv_heads * c->head_dim)           \
    W(Q_NORMS, q_norms, "T n_heads", c->qk_norm_whole ? 1 : c->n_heads)       \
    W(K_NORMS, k_norms, "T n_kv_heads", c->qk_norm_whole ? 1 : c->n_kv_heads) \
    W(MAP, map, "n_heads T T", c->n_heads)                                    \
    W(D_FF, d_ff, "T d_ff", c->d_ff)                                          \
    W(VOCAB, vocab, "T vocab_size", c->vocab_size)

typedef enum {
#define LP_WIDTH_ENUM(NAME, name, axes, width) LP_WIDTH_##NAME,
    LP_WIDTHS(LP_WIDTH_ENUM)
#undef LP_WIDTH_ENUM
        LP_N_WIDTHS
} lp_width;

/* LP_EARG names the number and its range. */
int lp_config_check(const lp_config *c, lp_error *err);
size_t lp_config_width(const lp_config *c, lp_width width);

#endif
