/* edit.h - edits of a value, after it was computed and before anything reads it.
 *
 * An edit selects elements by the product of three index lists, in the order of the point's axes: [rows, heads or 1,
 * channels], or [heads, rows, keys] of a map. Rows are those of this run in one sequence; keys count from the
 * sequence's first token. Keys that a query does not see are skipped.
 *
 * An element whose bits stay the same is not counted as changed, and nothing that depends on it changes. Edits of a
 * value are applied in list order, on the calling thread. */
#ifndef LP_EDIT_H
#define LP_EDIT_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"  /* lp_error */
#include "../model/model.h" /* lp_model, lp_point */
#include "../ops/ops.h"     /* lp_sequence */

typedef enum {
    LP_EDIT_SET,      /* x = value */
    LP_EDIT_ADD,      /* x + value, one rounding */
    LP_EDIT_MULTIPLY, /* x * value, one rounding */
    LP_EDIT_CALL,     /* the caller's function */
    LP_EDIT_KEEP,     /* no edit: copies the whole value, of all sequences, before it is edited */
    LP_N_EDIT_OPS
} lp_edit_op;

/* The value that is edited. */
typedef struct {
    const lp_model *model;
    lp_point point;
    size_t layer;
    float *data;      /* rows from first_row on; of a map, all rows of all sequences */
    float *inverse;   /* of an rms: 1 / rms of each element, before rounding; NULL for others */
    size_t first_row; /* earlier rows are not computed */
    int last_rows;    /* there is one row per sequence, that of its last token */
    const lp_sequence *sequences;
} lp_edit_target;

typedef struct lp_edit lp_edit;

struct lp_edit {
    lp_point point;
    size_t layer; /* 0 for a point that is not per layer */
    lp_edit_op op;
    size_t sequence;
    const uint32_t *index[3]; /* [n[axis]] each, without duplicates; borrowed, as all pointers here */
    size_t n[3];
    const float *values; /* element [i, j, k] is at i stride[0] + j stride[1] + k stride[2] */
    size_t stride[3];    /* 0: broadcast along this axis */
    /* LP_EDIT_CALL: may read with lp_edit_load and write with lp_edit_store, at most once each. -1 stops the run, with
     * err set or not. */
    int (*call)(lp_edit *edit, const lp_edit_target *target, lp_error *err);
    void *arg;
    float *keep;         /* LP_EDIT_KEEP: where the copy goes */
    size_t n_changed;    /* elements changed so far; zeroed by the caller */
    size_t order;        /* set by lp_run_edit */
    int wrote_minus_inf; /* in this run */
    int is_refused;      /* a result could not be written, */
    float refused;       /* the last of them */
    int failed;          /* the run's error is due to this edit */
};

/* A value's position in the order of computation. x has the key of the previous layer's x_out. */
size_t lp_edit_key(const lp_model *model, lp_point point, size_t layer);

/* Checks point, layer, sequence and indices: LP_EARG. seq_start: [n_seqs + 1]. n_past: [n_seqs], tokens in the caches;
 * NULL: no caches. */
int lp_edit_check(const lp_edit *edit, const lp_model *model, const size_t *seq_start, const size_t *n_past,
                  size_t n_seqs, lp_error *err);
/* The number of selected elements. */
size_t lp_edit_size(const lp_edit *edit);

/* out [n[0], n[1], n[2]] = the selected elements; 0 for rows that are not computed */
void lp_edit_load(const lp_edit_target *target, const lp_edit *edit, float *out);
/* LP_EDIT_SET with values [n[0], n[1], n[2]]. LP_EEDIT: an element would become NaN or infinite; -inf is legal in
 * scores and logits. */
int lp_edit_store(const lp_edit_target *target, lp_edit *edit, const float *values, lp_error *err);
/* Applies any edit but LP_EDIT_KEEP. LP_EEDIT, or the error of the call; edit->failed is set, here and below. */
int lp_edit_apply(const lp_edit_target *target, lp_edit *edit, lp_error *err);
/* After all edits of scores. LP_EEDIT: a query of this edit has no key left, all its scores are -inf. */
int lp_edit_check_keys(const lp_edit_target *target, lp_edit *edit, lp_error *err);

#endif
