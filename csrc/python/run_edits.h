/* run_edits.h - the argument `edits` of Model.run: tuples to lp_edit, functions that are called with the GIL. */
#ifndef LP_PYTHON_RUN_EDITS_H
#define LP_PYTHON_RUN_EDITS_H

#include "module.h"
#include "poll.h"

#include "../run/edit.h" /* lp_edit */

/* What belongs to an edit that came from Python. */
typedef struct {
    const lp_module_state *state;
    lp_poll *poll;               /* of the run */
    PyObject *index[3], *values; /* arrays that the edit borrows from */
    PyObject *function;          /* borrowed from the tuple of edits */
} lp_edit_source;

typedef struct {
    PyObject *tuple; /* of the argument, frozen */
    size_t n;
    lp_edit *edits; /* [n + n_more] */
    lp_edit_source *sources;
    PyObject *changed; /* int64 [n] */
} lp_edit_list;

/* Takes (op, point, layer, sequence, rows, heads, channels, values or function), and an array to which the number of
 * changed elements is added (-1 is written for the edit that an error is about), or None. Room for n_more edits of the
 * caller is left at the end. -1: an exception is set. Call lp_edit_list_free in any case. */
int lp_edit_list_take(lp_edit_list *list, const lp_module_state *state, PyObject *edits, PyObject *changed,
                      size_t n_more);
/* Bytes of the largest array that a function is given, the copy that it may return included. */
size_t lp_edit_list_bytes(const lp_edit_list *list);
/* Functions are called while this poll holds no GIL. */
void lp_edit_list_begin(lp_edit_list *list, lp_poll *poll);
void lp_edit_list_count(const lp_edit_list *list);
void lp_edit_list_free(lp_edit_list *list);

#endif
