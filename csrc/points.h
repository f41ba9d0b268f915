/* points.h - the one list of capture points: every value of the forward pass that has a name.
 *
 * P(NAME, name, WIDTH, PER_LAYER): the enum LP_<NAME>, the name that Python sees, how many floats a token has
 * (or, for the two maps of attention, that the value is [n_heads, T, T] per sequence), and whether every layer
 * has one. The order is the order of computation; what comes after the last value asked for is not computed. */
#ifndef LP_POINTS_H
#define LP_POINTS_H

typedef enum {
    LP_WIDTH_ONE,     /* [T] */
    LP_WIDTH_D_MODEL, /* [T, d_model] */
    LP_WIDTH_HEADS,   /* [T, n_heads, head_dim] */
    LP_WIDTH_KV,      /* [T, n_kv_heads, head_dim] */
    LP_WIDTH_MAP,     /* [n_heads, T, T] */
    LP_WIDTH_D_FF,    /* [T, d_ff] */
    LP_WIDTH_VOCAB    /* [T, vocab_size] */
} lp_width;

#define LP_POINTS(P)                                                                      \
    P(X, x, D_MODEL, 1)           /* the layer's input: the residual stream */            \
    P(X_RMS, x_rms, ONE, 1)       /* sqrt(mean(x^2) + eps) */                             \
    P(X_UNIT, x_unit, D_MODEL, 1) /* x / x_rms, before the gain */                        \
    P(X_NORM, x_norm, D_MODEL, 1) /* input_layernorm(x) */                                \
    P(Q, q, HEADS, 1)             /* before RoPE */                                       \
    P(K, k, KV, 1)                /* before RoPE */                                       \
    P(V, v, KV, 1)                                                                        \
    P(Q_ROPE, q_rope, HEADS, 1)       /* after RoPE */                                    \
    P(K_ROPE, k_rope, KV, 1)          /* after RoPE */                                    \
    P(SCORES, scores, MAP, 1)         /* q_rope . k_rope * scale; -inf after the query */ \
    P(PATTERN, pattern, MAP, 1)       /* softmax(scores); 0 after the query */            \
    P(Z, z, HEADS, 1)                 /* pattern . v, the input of o_proj */              \
    P(ATTN_OUT, attn_out, D_MODEL, 1) /* o_proj(z) */                                     \
    P(X_MID, x_mid, D_MODEL, 1)       /* x + attn_out */                                  \
    P(X_MID_RMS, x_mid_rms, ONE, 1)                                                       \
    P(X_MID_UNIT, x_mid_unit, D_MODEL, 1)                                                 \
    P(X_MID_NORM, x_mid_norm, D_MODEL, 1) /* post_attention_layernorm(x_mid) */           \
    P(GATE, gate, D_FF, 1)                /* gate_proj(x_mid_norm) */                     \
    P(UP, up, D_FF, 1)                    /* up_proj(x_mid_norm) */                       \
    P(ACT, act, D_FF, 1)                  /* silu(gate) */                                \
    P(HIDDEN, hidden, D_FF, 1)            /* act * up, the input of down_proj */          \
    P(MLP_OUT, mlp_out, D_MODEL, 1)       /* down_proj(hidden) */                         \
    P(X_OUT, x_out, D_MODEL, 1)           /* x_mid + mlp_out: x of the next layer */      \
    P(FINAL_RMS, final_rms, ONE, 0)                                                       \
    P(FINAL_UNIT, final_unit, D_MODEL, 0)                                                 \
    P(FINAL_NORM, final_norm, D_MODEL, 0) /* norm(x_out of the last layer) */             \
    P(LOGITS, logits, VOCAB, 0)           /* lm_head(final_norm) */

typedef enum {
#define LP_POINT_ENUM(NAME, name, width, per_layer) LP_##NAME,
    LP_POINTS(LP_POINT_ENUM)
#undef LP_POINT_ENUM
        LP_N_POINTS
} lp_point;

#endif
