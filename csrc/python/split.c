/* split.c - the array of a batch as one array per sequence, each of which holds its own part of the memory.
 *
 * The core writes a value of all sequences into one array [n_rows, row]; a sequence's part is a band of columns, a
 * piece of every row. A part that is dropped while others live gives its pages back to the system; the last one frees
 * the block. Copies would do the same at a fifth more time.
 *
 * A list of runs is mostly dropped as a whole, and its block is then of use to the next run (memory.h). So pages are
 * not given back at once but at the interpreter's next pending call, or at the next split where the main thread is
 * held up: by then the whole batch is gone, or what is left of it stays. */
#define _GNU_SOURCE
#include "module.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CAPSULE_NAME "llamaprobe.part"

enum { LIVE, DROPPED, RELEASED };

typedef struct whole whole;

typedef struct {
    whole *of;
    size_t number;
} part;

struct whole {
    PyObject *array; /* [n_rows, row], which owns the block */
    char *data;
    size_t n_rows, row; /* bytes of a row */
    size_t n_parts, n_live, n_dropped;
    size_t *starts;       /* [n_parts + 1], bytes from the start of a row */
    unsigned char *state; /* [n_parts] */
    whole *next;          /* of those with dropped parts */
};

/* The lock is for builds without a GIL. */
static struct {
    pthread_mutex_t lock;
    whole *first;
    int is_pending;
} dropped = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void whole_free(whole *w) {
    Py_XDECREF(w->array);
    PyMem_Free(w->starts);
    PyMem_Free(w->state);
    PyMem_Free(w);
}

/* Gives the pages of parts i to n - 1 back in every row, also those that they share with others that are not live. */
static void release_parts(whole *w, size_t i, size_t n, size_t page) {
    for (size_t r = 0; r < w->n_rows; r++) {
        uintptr_t row = (uintptr_t)w->data + r * w->row;
        size_t first = i, end = n; /* the parts whose bytes lie in the same pages */
        while (first > 0 && w->state[first - 1] != LIVE &&
               (row + w->starts[first]) / page == (row + w->starts[i]) / page)
            first--;
        while (end < w->n_parts && w->state[end] != LIVE &&
               (row + w->starts[end] - 1) / page == (row + w->starts[n] - 1) / page)
            end++;
        uintptr_t from = (row + w->starts[first] + page - 1) / page * page, to = (row + w->starts[end]) / page * page;
        if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
    }
    memset(w->state + i, RELEASED, n - i);
}

/* What a huge page has behind the last element, and the huge pages themselves. */
static void release_tail(const lp_block *block, size_t page) {
    size_t used = (block->n_bytes + page - 1) / page * page;
    if (!block->mapped) return;
    madvise(block->data, block->mapped, MADV_NOHUGEPAGE);
    if (used < block->mapped) madvise((char *)block->data + used, block->mapped - used, MADV_DONTNEED);
}

static void release_dropped(whole *w) {
    long size = sysconf(_SC_PAGESIZE);
    if (size <= 0) return;
    lp_block *block = lp_array_block(w->array);
    if (block->arena) { /* a block with holes is of no use to the next run, and huge pages would fill them again */
        lp_block_detach(block);
        release_tail(block, (size_t)size);
    }
    for (size_t i = 0, n; i < w->n_parts; i = n + 1) {
        for (n = i; n < w->n_parts && w->state[n] == DROPPED; n++) continue;
        if (n > i) release_parts(w, i, n, (size_t)size);
    }
    w->n_dropped = 0;
}

/* With the lock. */
static void release_all(void) {
    while (dropped.first) {
        whole *w = dropped.first;
        dropped.first = w->next;
        release_dropped(w);
    }
}

static int pending(void *arg) {
    (void)arg;
    pthread_mutex_lock(&dropped.lock);
    dropped.is_pending = 0;
    release_all();
    pthread_mutex_unlock(&dropped.lock);
    return 0;
}

static void unlist(whole *w) {
    whole **at = &dropped.first;
    while (*at && *at != w) at = &(*at)->next;
    if (*at) *at = w->next;
}

static void drop_part(part *p) {
    whole *w = p->of;
    pthread_mutex_lock(&dropped.lock);
    w->state[p->number] = DROPPED;
    int is_last = !--w->n_live;
    if (is_last) {
        unlist(w); /* it may be listed for parts dropped before */
    } else {
        if (!w->n_dropped++) {
            w->next = dropped.first;
            dropped.first = w;
        }
        if (!dropped.is_pending) {
            dropped.is_pending = !Py_AddPendingCall(pending, NULL);
            if (!dropped.is_pending) release_all(); /* the interpreter's list is full */
        }
    }
    pthread_mutex_unlock(&dropped.lock);
    if (is_last) whole_free(w);
}

static void free_capsule(PyObject *capsule) {
    part *p = PyCapsule_GetPointer(capsule, CAPSULE_NAME);
    if (!p) return;
    drop_part(p);
    PyMem_Free(p);
}

static PyObject *part_array(whole *w, size_t i) {
    npy_intp shape[2] = {(npy_intp)w->n_rows, (npy_intp)((w->starts[i + 1] - w->starts[i]) / sizeof(float))};
    npy_intp strides[2] = {(npy_intp)w->row, sizeof(float)};
    part *p = PyMem_Malloc(sizeof *p);
    PyObject *capsule = p ? PyCapsule_New(p, CAPSULE_NAME, free_capsule) : PyErr_NoMemory();
    if (!capsule) {
        PyMem_Free(p);
        return NULL;
    }
    *p = (part){.of = w, .number = i};
    w->state[i] = LIVE;
    w->n_live++;
    PyObject *array = PyArray_New(&PyArray_Type, 2, shape, NPY_FLOAT32, strides, w->data + w->starts[i], 0,
                                  NPY_ARRAY_WRITEABLE | NPY_ARRAY_ALIGNED, NULL);
    if (!array) {
        Py_DECREF(capsule);
    } else if (PyArray_SetBaseObject((PyArrayObject *)array, capsule) < 0) { /* steals it when it fails too */
        Py_CLEAR(array);
    }
    return array;
}

/* The starts of the parts; -1 with an exception set unless the sizes, in floats, fill a row. */
static int take_sizes(const lp_module_state *state, whole *w, PyObject *tuple) {
    size_t at = 0;
    for (size_t i = 0; i < w->n_parts; i++) {
        size_t n = PyLong_AsSize_t(PyTuple_GetItem(tuple, (Py_ssize_t)i));
        if (n == (size_t)-1 && PyErr_Occurred()) return -1;
        if (n > (w->row - at) / sizeof(float)) break;
        at += n * sizeof(float);
        w->starts[i + 1] = at;
    }
    if (w->n_parts && w->starts[w->n_parts] == w->row) return 0;
    lp_raise_new(state, LP_EARG, "the sizes of the parts do not add up to a row of %zu", w->row / sizeof(float));
    return -1;
}

static whole *whole_new(const lp_module_state *state, PyArrayObject *array, PyObject *tuple) {
    whole *w = PyMem_Calloc(1, sizeof *w);
    if (!w) return (whole *)PyErr_NoMemory();
    w->n_parts = (size_t)PyTuple_Size(tuple);
    w->starts = PyMem_Calloc(w->n_parts + 1, sizeof *w->starts);
    w->state = PyMem_Malloc(w->n_parts + 1);
    w->data = PyArray_DATA(array);
    w->n_rows = (size_t)PyArray_DIM(array, 0);
    w->row = (size_t)PyArray_DIM(array, 1) * sizeof(float);
    if (!w->starts || !w->state) PyErr_NoMemory();
    if (!w->starts || !w->state || take_sizes(state, w, tuple)) {
        whole_free(w);
        return NULL;
    }
    memset(w->state, LIVE, w->n_parts);
    w->array = (PyObject *)array;
    Py_INCREF(w->array);
    return w;
}

PyObject *lp_split(PyObject *module, PyObject *args) {
    const lp_module_state *state = PyModule_GetState(module);
    PyObject *array, *sizes;
    if (!PyArg_ParseTuple(args, "O!O:split", &PyArray_Type, &array, &sizes)) return NULL;
    PyArrayObject *values = (PyArrayObject *)array;
    if (PyArray_NDIM(values) != 2 || PyArray_TYPE(values) != NPY_FLOAT32 || !PyArray_IS_C_CONTIGUOUS(values) ||
        !lp_array_block(array))
        return lp_raise_new(state, LP_EARG, "only an array of Model.run can be split");
    PyObject *tuple = PySequence_Tuple(sizes);
    whole *w = tuple ? whole_new(state, values, tuple) : NULL;
    Py_XDECREF(tuple);
    if (!w) return NULL;
    pthread_mutex_lock(&dropped.lock);
    release_all();
    pthread_mutex_unlock(&dropped.lock);
    w->n_live = 1; /* this function's own: the parts that are made may go before the others are */
    PyObject *list = PyList_New((Py_ssize_t)w->n_parts);
    for (size_t i = 0; list && i < w->n_parts; i++) {
        PyObject *one = part_array(w, i);
        if (!one || PyList_SetItem(list, (Py_ssize_t)i, one)) Py_CLEAR(list);
    }
    pthread_mutex_lock(&dropped.lock);
    int is_last = !--w->n_live;
    if (is_last) unlist(w);
    pthread_mutex_unlock(&dropped.lock);
    if (is_last) whole_free(w);
    return list;
}
