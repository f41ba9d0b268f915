/* ops.h - the operations of a Llama on rows of tokens, cut into jobs for the pool.
 *
 * Each returns 0, or -1 when the poll of the crew said stop. Results that are NULL are not wanted. Shapes: m rows
 * (tokens of all sequences, one sequence after the other), row-major. */
#ifndef LP_OPS_H
#define LP_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h" /* lp_kernels, lp_product, lp_word */
#include "pool.h"            /* lp_crew */
#include "profile.h"         /* lp_profile */

/* One sequence: its rows, and where its part of a map [n_heads, T, T] begins. */
typedef struct {
    size_t start, n_tokens;
    size_t first_tile; /* how many tiles of queries the sequences before it have */
    size_t map_at;     /* floats of the maps of the sequences before it */
} lp_sequence;

/* What the operations of a run share. */
typedef struct {
    const lp_kernels *kernels;
    lp_crew crew;
    float *scratch;        /* [n_threads][scratch_stride], 64-byte aligned */
    size_t scratch_stride; /* floats; a multiple of 16 */
    float *packed;         /* room for the packed x of the largest product, or k and v of all heads */
    lp_profile *profile;   /* NULL: nobody wants one */
} lp_ops;

/* A vector or matrix as it lies in the file. */
typedef struct {
    const void *data;
    lp_word word;
} lp_words;

typedef struct {
    size_t n_tokens, n_heads, n_kv_heads, head_dim;
    const lp_sequence *sequences;
    size_t n_sequences;
    const float *q, *k, *v;  /* [m, n_heads or n_kv_heads, head_dim], q and k after RoPE */
    float *scores, *pattern; /* [n_heads, T, T] for each sequence, or NULL; the pattern is zeros before */
    float *z;                /* [m, n_heads, head_dim]; v and z are NULL when only the maps are wanted */
} lp_attention;

/* out[m, d] = rows ids[m] of table */
int lp_embed(const lp_ops *ops, float *out, const int32_t *ids, lp_words table, size_t m, size_t d);

/* out = gain * unit, unit = x / rms, rms = sqrt(mean(x^2) + eps) */
int lp_rms_norm(const lp_ops *ops, float *rms, float *unit, float *out, const float *x, lp_words gain, double eps,
                size_t m, size_t d);

/* Every factor of the product; p->x_packed is set here. */
int lp_linear(const lp_ops *ops, const lp_product *p);

/* cos and sin [n_positions, head_dim / 2] of inv_freq * position. */
int lp_rope_table(const lp_ops *ops, float *cos, float *sin, const float *inv_freq, size_t n_positions, size_t half);

/* out[m, n_heads, head_dim]: row i turned by the angles of its position in its sequence. */
int lp_rope(const lp_ops *ops, float *out, const float *x, const float *cos, const float *sin,
            const lp_sequence *sequences, size_t n_sequences, size_t n_heads, size_t head_dim);

/* scores = q k^T / sqrt(head_dim), pattern = softmax(scores), z = pattern v */
int lp_attend(const lp_ops *ops, const lp_attention *a);

/* out[n] = the numbers of w, as float32 */
int lp_widen(const lp_ops *ops, float *out, lp_words w, size_t n);

/* A value that has two names and two places. */
int lp_copy(const lp_ops *ops, float *out, const float *x, size_t n);

/* Floats of `packed` that attention needs. */
size_t lp_ops_packed_heads(size_t n_tokens, size_t n_sequences, size_t n_kv_heads, size_t head_dim);

/* Floats of scratch that one thread needs for any operation on m rows of sequences of at most max_tokens. */
size_t lp_ops_scratch(const lp_kernels *kernels, size_t m, size_t max_tokens, size_t head_dim);

#endif
