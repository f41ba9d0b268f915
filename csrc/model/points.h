/* points.h - the one list of capture points: the named values of the forward pass, and what each is computed from.
 *
 * P(NAME, name, WIDTH, PER_LAYER, STAGE, READS): the enum LP_<NAME>, the name in Python, a width of config.h, whether
 * every layer has one (others follow the last layer), the stage of profile.h for its time, and the values it is
 * computed from, in the order of its formula. Points are in order of computation: a value reads values before it, or
 * one after it in the layer before.
 *
 * No model has all of them. READS is that of a model that had: a point that a model lacks stands for what it reads
 * itself (lp_model.reads). */
#ifndef LP_POINTS_H
#define LP_POINTS_H

#include <stddef.h>
#include <stdint.h>

#include "config.h"         /* lp_width */
#include "../sys/profile.h" /* lp_stage */

#define LP_POINTS(P)                                                                                                   \
    P(X, x, D_MODEL, 1, EMBED, R1(X_OUT))             /* the layer's input: the residual stream; layer 0: embedding */ \
    P(X_RMS, x_rms, ONE, 1, NORM, R1(X))              /* sqrt(mean(x^2) + eps) */                                      \
    P(X_UNIT, x_unit, D_MODEL, 1, NORM, R2(X, X_RMS)) /* x / x_rms, before the gain */                                 \
    P(X_NORM, x_norm, D_MODEL, 1, NORM, R1(X_UNIT))   /* gain * x_unit */                                              \
    P(Q, q, HEADS, 1, QKV, R1(X_NORM))                /* before RoPE */                                                \
    P(K, k, KV, 1, QKV, R1(X_NORM))                   /* before RoPE */                                                \
    P(V, v, KV, 1, QKV, R1(X_NORM))                                                                                    \
    P(Q_RMS, q_rms, Q_NORMS, 1, NORM, R1(Q)) /* of each head, or of all heads of a token */                            \
    P(Q_UNIT, q_unit, HEADS, 1, NORM, R2(Q, Q_RMS))                                                                    \
    P(Q_NORM, q_norm, HEADS, 1, NORM, R1(Q_UNIT))                                                                      \
    P(K_RMS, k_rms, K_NORMS, 1, NORM, R1(K))                                                                           \
    P(K_UNIT, k_unit, KV, 1, NORM, R2(K, K_RMS))                                                                       \
    P(K_NORM, k_norm, KV, 1, NORM, R1(K_UNIT))                                                                         \
    P(Q_ROPE, q_rope, HEADS, 1, ROPE, R1(Q_NORM))                    /* after RoPE; a copy in a layer without */       \
    P(K_ROPE, k_rope, KV, 1, ROPE, R1(K_NORM))                       /* the same */                                    \
    P(SCORES_RAW, scores_raw, MAP, 1, ATTENTION, R2(Q_ROPE, K_ROPE)) /* q_rope . k_rope * scale; -inf where hidden */  \
    P(SCORES, scores, MAP, 1, ATTENTION, R1(SCORES_RAW))             /* cap(scores_raw) */                             \
    P(PATTERN, pattern, MAP, 1, ATTENTION, R1(SCORES))               /* softmax(scores); 0 where hidden */             \
    P(Z, z, HEADS, 1, ATTENTION, R2(PATTERN, V))                     /* pattern . v, the input of o_proj */            \
    P(ATTN_OUT, attn_out, D_MODEL, 1, O_PROJ, R1(Z))                 /* o_proj(z) */                                   \
    P(ATTN_RMS, attn_rms, ONE, 1, NORM, R1(ATTN_OUT))                                                                  \
    P(ATTN_UNIT, attn_unit, D_MODEL, 1, NORM, R2(ATTN_OUT, ATTN_RMS))                                                  \
    P(ATTN_NORM, attn_norm, D_MODEL, 1, NORM, R1(ATTN_UNIT))                                                           \
    P(X_MID, x_mid, D_MODEL, 1, O_PROJ, R2(X, ATTN_NORM)) /* x + residual_scale * attn_norm */                         \
    P(X_MID_RMS, x_mid_rms, ONE, 1, NORM, R1(X_MID))                                                                   \
    P(X_MID_UNIT, x_mid_unit, D_MODEL, 1, NORM, R2(X_MID, X_MID_RMS))                                                  \
    P(X_MID_NORM, x_mid_norm, D_MODEL, 1, NORM, R1(X_MID_UNIT)) /* gain * x_mid_unit */                                \
    P(GATE, gate, D_FF, 1, GATE_UP, R1(X_MID_NORM))             /* gate_proj(x_mid_norm) */                            \
    P(UP, up, D_FF, 1, GATE_UP, R1(X_MID_NORM))                 /* up_proj(x_mid_norm) */                              \
    P(ACT, act, D_FF, 1, GATE_UP, R1(GATE))                     /* activation(gate) */                                 \
    P(HIDDEN, hidden, D_FF, 1, GATE_UP, R2(ACT, UP))            /* act * up, the input of down_proj */                 \
    P(MLP_OUT, mlp_out, D_MODEL, 1, DOWN, R1(HIDDEN))           /* down_proj(hidden) */                                \
    P(MLP_RMS, mlp_rms, ONE, 1, NORM, R1(MLP_OUT))                                                                     \
    P(MLP_UNIT, mlp_unit, D_MODEL, 1, NORM, R2(MLP_OUT, MLP_RMS))                                                      \
    P(MLP_NORM, mlp_norm, D_MODEL, 1, NORM, R1(MLP_UNIT))                                                              \
    P(X_OUT, x_out, D_MODEL, 1, DOWN,                                                                                  \
      R2(X_MID, MLP_NORM)) /* x_mid + residual_scale * mlp_norm: x of the next layer */                                \
    P(FINAL_RMS, final_rms, ONE, 0, NORM, R1(X_OUT))                                                                   \
    P(FINAL_UNIT, final_unit, D_MODEL, 0, NORM, R2(X_OUT, FINAL_RMS))                                                  \
    P(FINAL_NORM, final_norm, D_MODEL, 0, NORM, R1(FINAL_UNIT)) /* norm(x_out of the last layer) */                    \
    P(LOGITS_RAW, logits_raw, VOCAB, 0, HEAD, R1(FINAL_NORM))   /* head(final_norm) */                                 \
    P(LOGITS, logits, VOCAB, 0, HEAD, R1(LOGITS_RAW))           /* cap(logits_raw / logits_divisor) */

typedef enum {
#define LP_POINT_ENUM(NAME, name, width, per_layer, stage, reads) LP_##NAME,
    LP_POINTS(LP_POINT_ENUM)
#undef LP_POINT_ENUM
        LP_N_POINTS
} lp_point;

#define LP_MOST_READS 2

const char *lp_point_name(lp_point point);
lp_width lp_point_width(lp_point point);
int lp_point_per_layer(lp_point point);
lp_stage lp_point_stage(lp_point point);
/* The values it is computed from in a model that has all points, in order; returns how many. */
size_t lp_point_reads(lp_point point, const lp_point **reads);

/* ---- sets of points ---- */

#define LP_SET_WORDS 2

typedef struct {
    uint64_t word[LP_SET_WORDS];
} lp_points;

_Static_assert(LP_N_POINTS <= 64 * LP_SET_WORDS, "a set has a bit per point");

static inline void lp_points_add(lp_points *set, lp_point p) { set->word[p / 64] |= (uint64_t)1 << p % 64; }
static inline int lp_points_has(const lp_points *set, lp_point p) { return (int)(set->word[p / 64] >> p % 64 & 1); }
static inline int lp_points_any(const lp_points *set) {
    uint64_t all = 0;
    for (int i = 0; i < LP_SET_WORDS; i++) all |= set->word[i];
    return all != 0;
}

#endif
