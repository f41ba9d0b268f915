/* profile.h - the time of a run by stages, and what was computed and moved in each.
 *
 * The clock is read once at the end of each step, and the time since the step before is added to the step's stage, so
 * the stages add up to the whole. Operations count their work as they do it; it is added to the same stage. A NULL
 * profile disables all this at the cost of a comparison. The stages are those of the forward pass; their list stands
 * here because operations, points and runs all name them. */
#ifndef LP_PROFILE_H
#define LP_PROFILE_H

#include <stddef.h>
#include <stdint.h>

#include "../base/platform.h"

/* S(NAME, name): the enum LP_STAGE_<NAME> and the name in Python, in order of computation. SwiGLU and the residual adds
 * are computed on tiles of a product: their time is that of gate_up, o_proj and down. */
#define LP_STAGES(S)                                                                  \
    S(PLAN, plan)           /* arguments, sizes, the plan */                          \
    S(MEMORY, memory)       /* allocating and touching captured arrays and scratch */ \
    S(EMBED, embed)         /* rows of the embedding */                               \
    S(ROPE, rope)           /* the table of angles, and q and k rotated */            \
    S(NORM, norm)           /* the three norms */                                     \
    S(PACK, pack)           /* x of every product into tiles of tokens */             \
    S(QKV, qkv)             /* x_norm by q, k, v */                                   \
    S(ATTENTION, attention) /* scores, softmax, pattern by v */                       \
    S(O_PROJ, o_proj)       /* z by o, added to x */                                  \
    S(GATE_UP, gate_up)     /* x_mid_norm by gate and up, silu(gate) * up */          \
    S(DOWN, down)           /* hidden by down, added to x_mid */                      \
    S(COPY, copy)           /* a value requested under both its names */              \
    S(HEAD, head)           /* final_norm by the head */

typedef enum {
#define LP_STAGE_ENUM(NAME, name) LP_STAGE_##NAME,
    LP_STAGES(LP_STAGE_ENUM)
#undef LP_STAGE_ENUM
        LP_N_STAGES
} lp_stage;

typedef struct {
    int64_t ns;
    size_t n_laps;
    double flops;        /* of products: a multiply-add is two; what causal attention skips is not counted */
    double weight_bytes; /* read from the files, each weight once per product */
    double value_bytes;  /* activations read and written, each once */
} lp_stage_work;

typedef struct {
    int64_t last_ns;     /* when the last lap ended */
    lp_stage_work since; /* counted since then */
    lp_stage_work stages[LP_N_STAGES];
} lp_profile;

const char *lp_stage_name(lp_stage stage);

/* Resets it, and starts the clock. */
void lp_profile_start(lp_profile *p);
/* Adds work of the current step. */
void lp_profile_count(lp_profile *p, double flops, double weight_bytes, double value_bytes);
/* Adds the time and work since the last lap to `stage`. */
void lp_profile_lap(lp_profile *p, lp_stage stage);

#endif
