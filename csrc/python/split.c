/* split.c - the array of a batch as one array per sequence, each of which owns its part of the memory.
 *
 * The core writes a value of all sequences into one array [n_rows, row_bytes]; a sequence's part is a band of columns,
 * a piece of every row. A part dropped while others live returns its pages to the system; the last one frees the block.
 * Copies would do the same and take a fifth more time.
 *
 * A list of runs is mostly dropped as a whole, and then its block serves the next run (memory.h). So pages are not
 * returned at once but at the interpreter's next pending call, or at the next split if the main thread is busy: by then
 * the whole batch has been dropped, or the rest lives on. */
#include "module.h"

#include <string.h>

#include "../sys/pages.h" /* lp_page_bytes */

#define CAPSULE_NAME "llamaprobe.part"

#if !defined(Py_BEGIN_CRITICAL_SECTION) /* builds with a GIL */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

typedef enum { LIVE, DROPPED, RELEASED } part_state;

typedef struct lp_batch batch;

typedef struct {
    batch *of;
    size_t number;
} part;

struct lp_batch {
    PyObject *module; /* whose state lists the batches with dropped parts */
    PyObject *array;  /* [n_rows, row_bytes], which owns the block */
    size_t n_rows, row_bytes;
    size_t n_parts, n_live, n_dropped;
    size_t *starts;       /* [n_parts + 1], bytes from the start of a row */
    unsigned char *state; /* [n_parts], part_state */
    batch *next;
};

static lp_module_state *state_of(const batch *b) { return PyModule_GetState(b->module); }

static void batch_free(batch *b) {
    Py_XDECREF(b->array);
    Py_XDECREF(b->module);
    PyMem_Free(b->starts);
    PyMem_Free(b->state);
    PyMem_Free(b);
}

/* Returns the pages of parts i to n - 1 in every row, also those that they share with others that are not live. */
static void release_parts(batch *b, lp_block *block, size_t i, size_t n) {
    size_t page = lp_page_bytes(), first = i, end = n;
    while (first > 0 && b->state[first - 1] != LIVE && b->starts[i] - b->starts[first] < page) first--;
    while (end < b->n_parts && b->state[end] != LIVE && b->starts[end] - b->starts[n] < page) end++;
    for (size_t row = 0; row < b->n_rows; row++)
        lp_block_discard(block, row * b->row_bytes + b->starts[first], row * b->row_bytes + b->starts[end]);
    memset(b->state + i, RELEASED, n - i);
}

static void release_batch(batch *b) {
    lp_block *block = lp_array_block(b->array);
    for (size_t i = 0, n; i < b->n_parts; i = n + 1) {
        for (n = i; n < b->n_parts && b->state[n] == DROPPED; n++) continue;
        if (n > i) release_parts(b, block, i, n);
    }
    b->n_dropped = 0;
}

/* In the critical section, as the next two. */
static void release_all(lp_module_state *state) {
    for (; state->dropped; state->dropped = state->dropped->next) release_batch(state->dropped);
}

static void unlist(batch *b) {
    batch **at = &state_of(b)->dropped;
    while (*at && *at != b) at = &(*at)->next;
    if (*at) *at = b->next;
}

static int release_pending(void *module) {
    lp_module_state *state = PyModule_GetState(module);
    Py_BEGIN_CRITICAL_SECTION((PyObject *)module);
    state->is_release_pending = 0;
    release_all(state);
    Py_END_CRITICAL_SECTION();
    Py_DECREF((PyObject *)module);
    return 0;
}

static void list_dropped(batch *b) {
    lp_module_state *state = state_of(b);
    if (!b->n_dropped++) {
        b->next = state->dropped;
        state->dropped = b;
    }
    if (state->is_release_pending) return;
    state->is_release_pending = !Py_AddPendingCall(release_pending, Py_NewRef(b->module));
    if (state->is_release_pending) return;
    Py_DECREF(b->module);
    release_all(state); /* the interpreter's list is full */
}

/* One user less: a live part, or the function that makes them. The last one frees the batch. */
static void drop_user(batch *b, const part *dropped) {
    int is_last;
    Py_BEGIN_CRITICAL_SECTION(b->module);
    if (dropped) b->state[dropped->number] = DROPPED;
    is_last = !--b->n_live;
    if (is_last)
        unlist(b); /* it may be listed for parts dropped before */
    else if (dropped)
        list_dropped(b);
    Py_END_CRITICAL_SECTION();
    if (is_last) batch_free(b);
}

static void free_capsule(PyObject *capsule) {
    part *p = PyCapsule_GetPointer(capsule, CAPSULE_NAME);
    if (!p) return;
    drop_user(p->of, p);
    PyMem_Free(p);
}

static PyObject *part_array(batch *b, size_t i) {
    npy_intp shape[2] = {(npy_intp)b->n_rows, (npy_intp)((b->starts[i + 1] - b->starts[i]) / sizeof(float))};
    npy_intp strides[2] = {(npy_intp)b->row_bytes, sizeof(float)};
    part *p = PyMem_Malloc(sizeof *p);
    PyObject *capsule = p ? PyCapsule_New(p, CAPSULE_NAME, free_capsule) : PyErr_NoMemory();
    if (!capsule) {
        PyMem_Free(p);
        return NULL;
    }
    *p = (part){.of = b, .number = i};
    b->n_live++;
    char *data = (char *)PyArray_DATA((PyArrayObject *)b->array) + b->starts[i];
    return lp_array_over(data, NPY_FLOAT32, 2, shape, strides, NPY_ARRAY_WRITEABLE | NPY_ARRAY_ALIGNED, capsule);
}

/* The starts of the parts; -1 with an exception set unless the sizes, in floats, fill a row. */
static int take_sizes(const lp_module_state *state, batch *b, PyObject *tuple) {
    size_t at = 0;
    for (size_t i = 0; i < b->n_parts; i++) {
        size_t n = PyLong_AsSize_t(PyTuple_GetItem(tuple, (Py_ssize_t)i));
        if (n == (size_t)-1 && PyErr_Occurred()) return -1;
        if (n > (b->row_bytes - at) / sizeof(float)) break;
        at += n * sizeof(float);
        b->starts[i + 1] = at;
    }
    if (b->n_parts && b->starts[b->n_parts] == b->row_bytes) return 0;
    return lp_refuse(state, LP_EARG, "the sizes of the parts do not add up to a row of %zu",
                     b->row_bytes / sizeof(float));
}

static batch *batch_new(PyObject *module, PyArrayObject *array, PyObject *tuple) {
    batch *b = PyMem_Calloc(1, sizeof *b);
    if (!b) return (batch *)PyErr_NoMemory();
    b->n_parts = (size_t)PyTuple_Size(tuple);
    b->starts = PyMem_Calloc(b->n_parts + 1, sizeof *b->starts);
    b->state = PyMem_Calloc(b->n_parts + 1, 1); /* all LIVE */
    b->n_rows = (size_t)PyArray_DIM(array, 0);
    b->row_bytes = (size_t)PyArray_DIM(array, 1) * sizeof(float);
    b->n_live = 1; /* the caller: parts may be dropped before all are made */
    if (!b->starts || !b->state) PyErr_NoMemory();
    if (!b->starts || !b->state || take_sizes(PyModule_GetState(module), b, tuple)) {
        batch_free(b);
        return NULL;
    }
    b->module = Py_NewRef(module);
    b->array = Py_NewRef((PyObject *)array);
    return b;
}

PyObject *lp_split(PyObject *module, PyObject *args) {
    lp_module_state *state = PyModule_GetState(module);
    PyObject *array, *sizes;
    if (!PyArg_ParseTuple(args, "O!O:split", &PyArray_Type, &array, &sizes)) return NULL;
    PyArrayObject *values = (PyArrayObject *)array;
    if (PyArray_NDIM(values) != 2 || PyArray_TYPE(values) != NPY_FLOAT32 || !PyArray_IS_C_CONTIGUOUS(values) ||
        !lp_array_block(array))
        return lp_raise_new(state, LP_EARG, "only an array of Model.run can be split");
    PyObject *tuple = PySequence_Tuple(sizes);
    batch *b = tuple ? batch_new(module, values, tuple) : NULL;
    Py_XDECREF(tuple);
    if (!b) return NULL;
    Py_BEGIN_CRITICAL_SECTION(module);
    release_all(state);
    Py_END_CRITICAL_SECTION();
    PyObject *list = PyList_New((Py_ssize_t)b->n_parts);
    for (size_t i = 0; list && i < b->n_parts; i++) {
        PyObject *one = part_array(b, i);
        if (!one || PyList_SetItem(list, (Py_ssize_t)i, one)) Py_CLEAR(list);
    }
    drop_user(b, NULL);
    return list;
}
