/* attention.h - operations on positions and sequences: rotary embedding, attention and its parts. */
#ifndef LP_ATTENTION_H
#define LP_ATTENTION_H

#include "ops.h" /* lp_ops, lp_sequence */

typedef struct {
    size_t n_heads, n_kv_heads, head_dim;
    size_t n_map; /* floats of a map of all sequences */
    const lp_sequence *sequences;
    size_t n_sequences;
    const float *q, *k, *v;  /* [m, n_heads or n_kv_heads, head_dim], q and k after RoPE */
    float *scores, *pattern; /* [n_heads, T, T] per sequence, or NULL; the pattern must hold zeros */
    float *z;                /* [m, n_heads, head_dim]; v and z are NULL: only the maps */
} lp_attention;

/* cos and sin [n_positions, head_dim / 2] of inv_freq * position. */
int lp_rope_table(const lp_ops *ops, float *cos, float *sin, const float *inv_freq, size_t n_positions, size_t half);

/* out[m, n_heads, head_dim]: row i turned by the angles of its position in its sequence. */
int lp_rope(const lp_ops *ops, float *out, const float *x, const float *cos, const float *sin,
            const lp_sequence *sequences, size_t n_sequences, size_t n_heads, size_t head_dim);

/* scores = q k^T / sqrt(head_dim), pattern = softmax(scores), z = pattern v */
int lp_attend(const lp_ops *ops, const lp_attention *a);
/* Its parts, from values in memory: pattern of scores, and z of pattern and v. */
int lp_softmax(const lp_ops *ops, const lp_attention *a);
int lp_mix(const lp_ops *ops, const lp_attention *a);

/* Floats of lp_ops.packed that attention needs. */
size_t lp_ops_packed_heads(size_t n_tokens, size_t n_sequences, size_t n_kv_heads, size_t head_dim);

#endif
