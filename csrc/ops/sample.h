/* sample.h - a token from a row of logits: the greedy choice, and the rule lp-sample-1 (docs/generation.md) to the bit.
 *
 * A draw depends on the logits, on the numbers of lp_sample and on the token's position, on nothing else: there is no
 * state. The random number is the first word of Philox4x64-10 with key (seed, number) and counter (position, 0, 0, 0).
 * The mode of the FPU is set for the call. */
#ifndef LP_SAMPLE_H
#define LP_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"      /* lp_error */
#include "../kernels/kernels.h" /* lp_kernels */

typedef struct {
    float temperature; /* 0: greedy, whatever else is set */
    size_t top_k;      /* 0: all */
    double top_p;      /* 0: all */
    uint64_t seed, number;
} lp_sample;

typedef struct {
    size_t id;
    double logprob; /* (l - max) - log(sum of exp(l - max)) in float64, before temperature, top_k and top_p */
} lp_draw;

/* Bytes of scratch for n logits. 0, or -1: more than there are addresses. */
int lp_sample_scratch(size_t *n_bytes, const lp_sample *s, size_t n);

/* The token at `position`, from the logits [n] of the position before; scratch is 8-byte aligned. LP_EARG, which names
 * the position: a NaN, +inf, or no finite logit; numbers of `s` out of range. */
int lp_sample_draw(lp_draw *draw, const lp_sample *s, const lp_kernels *kernels, const float *logits, size_t n,
                   uint64_t position, void *scratch, lp_error *err);

/* The first word of Philox4x64-10 (Salmon et al. 2011). */
uint64_t lp_philox(uint64_t seed, uint64_t number, uint64_t position);

#endif
