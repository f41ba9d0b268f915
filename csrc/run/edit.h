/* edit.h - edits of a value: after it was computed, before anything reads it.
 *
 * An edit selects the elements at rows x columns: the product of three lists of indices, in the order of the axes of
 * the point: [rows, heads or 1, channels], of a map [heads, rows, keys]. Rows are those of this call in one sequence;
 * keys count from the sequence's first. Keys that a query does not see are passed over.
 *
 * An element whose new bits are its old ones is not edited: it does not count, and nothing that depends on it changes.
 * A list of edits is applied in its order, value by value, on the calling thread. */
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
    LP_EDIT_KEEP,     /* no edit: the whole value, of all sequences, is copied before the edits of it */
    LP_N_EDIT_OPS
} lp_edit_op;

/* The value that is edited. */
typedef struct {
    const lp_model *model;
    lp_point point;
    size_t layer;
    float *data;      /* rows from first_row on; of a map those of all sequences */
    float *inverse;   /* of an rms: 1 / rms of each element, before rounding; NULL for others */
    size_t first_row; /* earlier ones are not computed */
    int last_rows;    /* it has one row for each sequence, that of its last token */
    const lp_sequence *sequences;
} lp_edit_target;

typedef struct lp_edit lp_edit;

struct lp_edit {
    lp_point point;
    size_t layer; /* 0 for a point that is not per layer */
    lp_edit_op op;
    size_t sequence;
    const uint32_t *index[3]; /* no index twice in a list; borrowed, as all pointers here */
    size_t n[3];
    const float *values; /* element [i, j, k] is at i stride[0] + j stride[1] + k stride[2] */
    size_t stride[3];    /* 0: the same along this axis */
    /* LP_EDIT_CALL: reads with lp_edit_load, writes with lp_edit_store, at most once each. -1 stops the run; err may
     * stay as it is. */
    int (*call)(lp_edit *edit, const lp_edit_target *target, lp_error *err);
    void *arg;
    float *keep;         /* LP_EDIT_KEEP: its place */
    size_t n_changed;    /* elements, counted up; zeroed by the caller */
    size_t order;        /* set by lp_run_edit */
    int wrote_minus_inf; /* in this run */
    int is_refused;      /* a result that may not be written, */
    float refused;       /* such as this one */
    int failed;          /* the error of the run is about this edit */
};

/* Where a value is in the order of computation. x is x_out of the layer before. */
size_t lp_edit_key(const lp_model *model, lp_point point, size_t layer);

/* LP_EARG names the axis and both numbers. seq_start: [n_seqs + 1]. n_past: [n_seqs], tokens in the caches; NULL: none.
 */
int lp_edit_check(const lp_edit *edit, const lp_model *model, const size_t *seq_start, const size_t *n_past,
                  size_t n_seqs, lp_error *err);
/* Elements that are selected. */
size_t lp_edit_size(const lp_edit *edit);

/* out [n[0], n[1], n[2]] = the selected elements; 0 for rows that are not computed */
void lp_edit_load(const lp_edit_target *target, const lp_edit *edit, float *out);
/* LP_EDIT_SET with values [n[0], n[1], n[2]]. LP_EEDIT: an element would become NaN or infinite; -inf is legal in
 * scores and logits. */
int lp_edit_store(const lp_edit_target *target, lp_edit *edit, const float *values, lp_error *err);
/* Any edit but LP_EDIT_KEEP. Errors are those of the call; edit->failed says which edit, here and below. */
int lp_edit_apply(const lp_edit_target *target, lp_edit *edit, lp_error *err);
/* After all edits of scores. LP_EEDIT names a query of the edit that has no key left: all its scores are -inf. */
int lp_edit_check_keys(const lp_edit_target *target, lp_edit *edit, lp_error *err);

#endif
