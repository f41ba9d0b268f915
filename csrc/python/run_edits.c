/* run_edits.c - edits from Python. Lists of indices and values are copied: they are read without the GIL after they
 * were checked, and a function or another thread may resize the caller's arrays. */
#include "run_edits.h"

#include "../base/size.h" /* lp_size_mul */

static int take_index(lp_edit_list *list, size_t i, size_t axis, PyObject *indices) {
    PyObject *array = PyArray_FROMANY(indices, NPY_UINT32, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!array) return -1;
    list->sources[i].index[axis] = array;
    list->edits[i].index[axis] = PyArray_DATA((PyArrayObject *)array);
    list->edits[i].n[axis] = (size_t)PyArray_SIZE((PyArrayObject *)array);
    return 0;
}

/* An array of three axes, each as long as its list of indices or 1. */
static int take_values(lp_edit_list *list, size_t i, const lp_module_state *state, PyObject *values) {
    lp_edit *e = &list->edits[i];
    size_t stride = 1;
    PyObject *array = PyArray_FROMANY(values, NPY_FLOAT32, 3, 3, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!array) return -1;
    list->sources[i].values = array;
    e->values = PyArray_DATA((PyArrayObject *)array);
    for (size_t axis = 3; axis--;) {
        size_t n = (size_t)PyArray_DIM((PyArrayObject *)array, (int)axis);
        if (n != 1 && n != e->n[axis])
            return lp_refuse(state, LP_EARG, "the values of edit %zu have length %zu along axis %zu, which selects %zu",
                             i, n, axis, e->n[axis]);
        e->stride[axis] = n == 1 ? 0 : stride;
        stride *= n;
    }
    return 0;
}

/* With the GIL. */
static int call_function(lp_edit *edit, const lp_edit_target *target, lp_error *err) {
    const lp_edit_source *source = edit->arg;
    npy_intp shape[3] = {(npy_intp)edit->n[0], (npy_intp)edit->n[1], (npy_intp)edit->n[2]};
    PyObject *array = PyArray_SimpleNew(3, shape, NPY_FLOAT32), *result, *values = NULL;
    if (!array) return -1;
    lp_edit_load(target, edit, PyArray_DATA((PyArrayObject *)array));
    result = PyObject_CallFunctionObjArgs(source->function, array, NULL);
    if (result) values = PyArray_FROMANY(result == Py_None ? array : result, NPY_FLOAT32, 3, 3, NPY_ARRAY_CARRAY_RO);
    int failed = !values;
    if (values && (size_t)PyArray_SIZE((PyArrayObject *)values) != lp_edit_size(edit))
        failed = lp_refuse(source->state, LP_EARG, "a function returned another shape than it was given");
    failed = failed || lp_edit_store(target, edit, PyArray_DATA((PyArrayObject *)values), err);
    Py_XDECREF(values);
    Py_XDECREF(result);
    Py_DECREF(array);
    return failed ? -1 : 0;
}

static int call(lp_edit *edit, const lp_edit_target *target, lp_error *err) {
    lp_poll *poll = ((lp_edit_source *)edit->arg)->poll;
    PyEval_RestoreThread(poll->thread);
    int failed = call_function(edit, target, err);
    poll->thread = PyEval_SaveThread();
    return failed;
}

static int take_edit(lp_edit_list *list, size_t i, const lp_module_state *state, PyObject *item) {
    lp_edit *e = &list->edits[i];
    Py_ssize_t op, point, layer, sequence;
    PyObject *index[3], *values;
    if (!PyTuple_Check(item) ||
        !PyArg_ParseTuple(item, "nnnnOOOO", &op, &point, &layer, &sequence, &index[0], &index[1], &index[2], &values)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "an edit is a tuple (op, point, layer, sequence, 3 indices, values)");
        return -1;
    }
    if (op < 0 || op >= LP_EDIT_KEEP || point < 0 || point >= LP_N_POINTS || layer < 0 || sequence < 0)
        return lp_refuse(state, LP_EARG, "edit %zu has op %zd, point %zd, layer %zd, sequence %zd", i, op, point, layer,
                         sequence);
    *e =
        (lp_edit){.op = (lp_edit_op)op, .point = (lp_point)point, .layer = (size_t)layer, .sequence = (size_t)sequence};
    for (size_t axis = 0; axis < 3; axis++)
        if (take_index(list, i, axis, index[axis])) return -1;
    if (op != LP_EDIT_CALL) return take_values(list, i, state, values);
    list->sources[i].function = values;
    list->sources[i].state = state;
    e->call = call, e->arg = &list->sources[i];
    return 0;
}

/* int64 [n], to be written in place. */
static int is_counter(PyArrayObject *array, size_t n) {
    return PyArray_TYPE(array) == NPY_INT64 && PyArray_ISCARRAY(array) && (size_t)PyArray_SIZE(array) == n;
}

static int take_changed(lp_edit_list *list, const lp_module_state *state, PyObject *changed) {
    if (changed == Py_None) return 0;
    if (!PyArray_Check(changed) || !is_counter((PyArrayObject *)changed, list->n))
        return lp_refuse(state, LP_EARG, "changed must be an int64 array with a number for each of %zu edits", list->n);
    Py_INCREF(changed);
    list->changed = changed;
    return 0;
}

int lp_edit_list_take(lp_edit_list *list, const lp_module_state *state, PyObject *edits, PyObject *changed,
                      size_t n_more) {
    list->tuple = edits == Py_None ? PyTuple_New(0) : PySequence_Tuple(edits);
    if (!list->tuple) return -1;
    size_t n = (size_t)PyTuple_Size(list->tuple), n_all = n + n_more;
    list->edits = PyMem_Calloc(n_all ? n_all : 1, sizeof *list->edits);
    list->sources = PyMem_Calloc(n ? n : 1, sizeof *list->sources);
    if (!list->edits || !list->sources) {
        PyErr_NoMemory();
        return -1;
    }
    list->n = n;
    for (size_t i = 0; i < n; i++)
        if (take_edit(list, i, state, PyTuple_GetItem(list->tuple, (Py_ssize_t)i))) return -1;
    return take_changed(list, state, changed);
}

size_t lp_edit_list_bytes(const lp_edit_list *list) {
    size_t most = 0;
    for (size_t i = 0; i < list->n; i++) {
        size_t n;
        if (list->edits[i].op != LP_EDIT_CALL) continue;
        if (lp_size_mul(&n, lp_edit_size(&list->edits[i]), 2 * sizeof(float))) n = (size_t)-1;
        if (n > most) most = n;
    }
    return most;
}

void lp_edit_list_begin(lp_edit_list *list, lp_poll *poll) {
    for (size_t i = 0; i < list->n; i++) list->sources[i].poll = poll;
}

void lp_edit_list_count(const lp_edit_list *list) {
    PyArrayObject *array = (PyArrayObject *)list->changed;
    if (!array || !is_counter(array, list->n)) return; /* a function resized it */
    int64_t *changed = PyArray_DATA(array);
    for (size_t i = 0; i < list->n; i++)
        changed[i] = list->edits[i].failed ? -1 : changed[i] + (int64_t)list->edits[i].n_changed;
}

void lp_edit_list_free(lp_edit_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        for (size_t axis = 0; axis < 3; axis++) Py_XDECREF(list->sources[i].index[axis]);
        Py_XDECREF(list->sources[i].values);
    }
    PyMem_Free(list->edits);
    PyMem_Free(list->sources);
    Py_XDECREF(list->changed);
    Py_XDECREF(list->tuple);
}
