/* attention.h - operations on positions and sequences: rotary embedding, attention and its parts. */
#ifndef LP_ATTENTION_H
#define LP_ATTENTION_H

#include "ops.h" /* lp_ops, lp_sequence */

typedef struct {
    size_t n_heads, n_kv_heads, head_dim;
    size_t n_map; /* floats of a map of all sequences */
    const lp_sequence *sequences;
    size_t n_sequences;
    const float *q, *k, *v; /* [m, n_heads or n_kv_heads, head_dim], q and k after RoPE */
    float scale;            /* of q . k */
    size_t window;          /* keys that a query sees, its own the last of them; 0: all up to its own */
    float cap;              /* of scores, see lp_head; 0: none */
    float *scores_raw, *scores,
        *pattern; /* [n_heads, T, n_past + T] per sequence, or NULL; the pattern must hold zeros */
    float *z;     /* [m, n_heads, head_dim]; v and z are NULL: only the maps */
} lp_attention;

/* cos and sin [n_positions, half] of inv_freq * position, times factor, from position `first` on. */
int lp_rope_table(const lp_ops *ops, float *cos, float *sin, const float *inv_freq, float factor, size_t first,
                  size_t n_positions, size_t half);

/* Angles: of sequences of up to short_until tokens, their past included, and of longer ones. */
typedef struct {
    const float *cos[2], *sin[2]; /* [rows, half], see lp_sequence */
    size_t half, short_until;
    int interleaved;
} lp_angles;

/* out[m, n_heads, head_dim]: row i turned by the angles of its position in its sequence. */
int lp_rope(const lp_ops *ops, float *out, const float *x, const lp_angles *angles, const lp_sequence *sequences,
            size_t n_sequences, size_t n_heads, size_t head_dim);

/* Jobs of attention of one sequence, from n_tokens and n_past. */
size_t lp_attention_jobs(const lp_sequence *s, size_t q_tile, size_t n_heads, size_t n_kv_heads);
/* Fills in first_job and map_at, and returns the floats of a map of all; where a map has a place, its size has been
 * checked. */
size_t lp_number_sequences(lp_sequence *sequences, size_t n_sequences, size_t q_tile, size_t n_heads,
                           size_t n_kv_heads);

/* Appends the rows of k and v to the caches of the sequences that have one: the next ones read them there. */
int lp_append(const lp_ops *ops, const lp_attention *a);
/* The first n_keys of one kv head. The last panel of k is copied whole. */
void lp_copy_panels(lp_panels to, lp_panels from, size_t head, size_t n_keys, size_t head_dim);
/* scores_raw = q k^T * scale, scores = cap(scores_raw), pattern = softmax(scores), z = pattern v */
int lp_attend(const lp_ops *ops, const lp_attention *a);
/* Its parts, from values in memory: scores of scores_raw, pattern of scores, and z of pattern and v. */
int lp_cap_scores(const lp_ops *ops, const lp_attention *a);
int lp_softmax(const lp_ops *ops, const lp_attention *a);
int lp_mix(const lp_ops *ops, const lp_attention *a);

/* Columns of v, rounded up to whole panels. */
static inline size_t lp_v_columns(size_t head_dim) { return (head_dim + LP_PANEL - 1) / LP_PANEL * LP_PANEL; }
/* Floats of lp_ops.packed that attention needs. */
size_t lp_ops_packed_heads(size_t n_tokens, size_t n_sequences, size_t n_kv_heads, size_t head_dim);

#endif
