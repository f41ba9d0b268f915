/* stats_object.c - the type Stats: statistics that runs add up, and their state as arrays.
 *
 * A run borrows the object without the GIL; meanwhile it is busy, and nothing else may use it. */
#include "stats_object.h"

#include <string.h>

typedef struct {
    PyObject ob_base;
    lp_stats *stats;
    int busy;
} stats_object;

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

lp_stats *lp_stats_object_take(PyObject *self) {
    stats_object *object = (stats_object *)self;
    if (!__atomic_exchange_n(&object->busy, 1, __ATOMIC_ACQUIRE)) return object->stats;
    lp_raise_new(state_of(self), LP_EARG, "these statistics are in use by another run");
    return NULL;
}

void lp_stats_object_release(PyObject *self) { __atomic_store_n(&((stats_object *)self)->busy, 0, __ATOMIC_RELEASE); }

/* ---- making one ---------------------------------------------------------------------------------------------- */

static int take_target(const lp_module_state *state, lp_stats_target *to, PyObject *item) {
    Py_ssize_t point, layer, n_channels, n_keys;
    if (!PyTuple_Check(item) || !PyArg_ParseTuple(item, "nnnn", &point, &layer, &n_channels, &n_keys)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a target is a tuple (point number, layer, channels, keys)");
        return -1;
    }
    if (point < 0 || point >= LP_N_POINTS || layer < 0 || n_channels < 1 || n_keys < 0)
        return lp_refuse(state, LP_EARG, "(%zd, %zd, %zd, %zd) is not a target", point, layer, n_channels, n_keys);
    *to = (lp_stats_target){(lp_point)point, (size_t)layer, (size_t)n_channels, (size_t)n_keys};
    return 0;
}

/* The targets of a tuple, for PyMem_Free; NULL with an exception set. */
static lp_stats_target *targets_of(const lp_module_state *state, PyObject *tuple) {
    Py_ssize_t n = PyTuple_Size(tuple);
    lp_stats_target *targets = PyMem_Calloc(n ? (size_t)n : 1, sizeof *targets);
    if (!targets) return (lp_stats_target *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++)
        if (take_target(state, &targets[i], PyTuple_GetItem(tuple, i))) {
            PyMem_Free(targets);
            return NULL;
        }
    return targets;
}

static PyObject *stats_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"targets", "n_groups", "moments",    "histogram", "gram", "top",
                           "thetas",  "high",     "n_prefixes", "n_bits",    NULL};
    const lp_module_state *state = PyType_GetModuleState(type);
    lp_stats_spec spec = {0};
    PyObject *targets, *thetas = NULL, *self = NULL;
    Py_ssize_t n_groups, top = 0, n_prefixes = 0;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!n|$pppnOInI:Stats", keys, &PyTuple_Type, &targets, &n_groups,
                                     &spec.moments, &spec.histogram, &spec.gram, &top, &thetas, &spec.high, &n_prefixes,
                                     &spec.n_bits))
        return NULL;
    if (n_groups < 1 || top < 0 || n_prefixes < 0)
        return lp_raise_new(state, LP_EARG, "%zd groups, top %zd, %zd prefixes", n_groups, top, n_prefixes);
    spec.n_top = (size_t)top, spec.n_prefixes = (size_t)n_prefixes;
    lp_stats_target *list = targets_of(state, targets);
    PyObject *array = thetas ? PyArray_FROMANY(thetas, NPY_FLOAT32, 1, 1, NPY_ARRAY_CARRAY_RO) : NULL;
    if (array) {
        spec.thetas = PyArray_DATA((PyArrayObject *)array);
        spec.n_thetas = (size_t)PyArray_SIZE((PyArrayObject *)array);
    }
    if (list && !PyErr_Occurred() && (self = PyType_GenericAlloc(type, 0)) &&
        lp_stats_new(&((stats_object *)self)->stats, &spec, list, (size_t)PyTuple_Size(targets), (size_t)n_groups,
                     &err)) {
        lp_raise(state, &err);
        Py_CLEAR(self);
    }
    Py_XDECREF(array);
    PyMem_Free(list);
    return self;
}

static void stats_dealloc(PyObject *self) {
    lp_stats_free(((stats_object *)self)->stats);
    lp_object_free(self);
}

/* ---- its state as arrays ------------------------------------------------------------------------------------- */

/* A new array [a, b, c] under a name; b or c 0: fewer dimensions. Its data, NULL with an exception set. */
static void *put(PyObject *dict, const char *name, int type, size_t a, size_t b, size_t c) {
    npy_intp shape[3] = {(npy_intp)a, (npy_intp)b, (npy_intp)c};
    PyObject *array = PyArray_SimpleNew(c ? 3 : b ? 2 : 1, shape, type);
    void *data = array && !PyDict_SetItemString(dict, name, array) ? PyArray_DATA((PyArrayObject *)array) : NULL;
    Py_XDECREF(array); /* the dict holds it */
    return data;
}

static int put_copy(PyObject *dict, const char *name, int type, size_t a, size_t b, size_t c, const void *from,
                    size_t item) {
    void *data = put(dict, name, type, a, b, c);
    if (data && from) memcpy(data, from, a * (b ? b : 1) * (c ? c : 1) * item);
    return data ? 0 : -1;
}

static int put_range(PyObject *dict, const lp_stats_state *s, size_t n) {
    uint32_t *range = put(dict, "range", NPY_FLOAT32, n, 2, 0);
    if (!range) return -1;
    for (size_t i = 0; i < 2 * n; i++) range[i] = lp_float_of_key(s->range[i]);
    for (size_t i = 0; i < n; i++)
        if (s->range[2 * i] > s->range[2 * i + 1]) range[2 * i] = 0x7f800000, range[2 * i + 1] = 0xff800000; /* none */
    return 0;
}

/* Buckets with a count, channel after channel. */
static int put_histogram(PyObject *dict, const lp_stats_state *s, size_t n_channels) {
    size_t n = 0;
    int64_t *first = put(dict, "first", NPY_INT64, n_channels + 1, 0, 0);
    if (!first) return -1;
    for (size_t i = 0; i < n_channels; i++) {
        const lp_histogram *h = &s->histograms[i];
        first[i] = (int64_t)n;
        for (size_t j = 0; j < h->n; j++)
            for (size_t k = 0; k < LP_PAGE; k++) n += h->pages[j].count[k] != 0;
    }
    first[n_channels] = (int64_t)n;
    int32_t *bucket = put(dict, "bucket", NPY_INT32, n, 0, 0);
    int64_t *total = bucket ? put(dict, "total", NPY_INT64, n, 0, 0) : NULL;
    for (size_t i = 0, at = 0; total && i < n_channels; i++)
        for (size_t j = 0; j < s->histograms[i].n; j++)
            for (size_t k = 0; k < LP_PAGE; k++) {
                const lp_page *page = &s->histograms[i].pages[j];
                if (!page->count[k]) continue;
                bucket[at] = (int32_t)(page->id * LP_PAGE + k);
                total[at++] = (int64_t)page->count[k];
            }
    return total ? 0 : -1;
}

static int put_top(PyObject *dict, const lp_stats_state *s, size_t n_channels, size_t k) {
    uint32_t *value = put(dict, "top.value", NPY_FLOAT32, n_channels, k, 0);
    int64_t *document = value ? put(dict, "top.document", NPY_INT64, n_channels, k, 0) : NULL;
    int64_t *start = document ? put(dict, "top.start", NPY_INT64, n_channels, k, 0) : NULL;
    int64_t *position = start ? put(dict, "top.position", NPY_INT64, n_channels, k, 0) : NULL;
    lp_top_entry *sorted = position ? PyMem_Calloc(k, sizeof *sorted) : NULL;
    if (position && !sorted) PyErr_NoMemory();
    if (!sorted) return -1;
    for (size_t i = 0; i < n_channels; i++) {
        size_t n = s->top_n[i];
        memcpy(sorted, s->top + i * k, n * sizeof *sorted);
        lp_top_sort(sorted, n);
        for (size_t j = 0; j < k; j++) {
            lp_top_entry none = {0, -1, -1, -1}, *e = j < n ? &sorted[j] : &none;
            value[i * k + j] = lp_float_of_key(e->key), document[i * k + j] = e->document;
            start[i * k + j] = e->start, position[i * k + j] = e->position;
        }
    }
    PyMem_Free(sorted);
    return 0;
}

static int put_gram(PyObject *dict, const lp_gram *g) {
    size_t n = g->d * (g->d + 1) / 2, at = 0;
    const int64_t rows[3] = {g->n_rows, g->n_left_out, g->n_overflows};
    if (put_copy(dict, "gram", NPY_INT64, n, 2, 0, g->sums, 8) ||
        put_copy(dict, "gram.rows", NPY_INT64, 3, 0, 0, rows, 8))
        return -1;
    int64_t *entry = put(dict, "gram.entry", NPY_INT64, g->n_wide, 0, 0);
    uint64_t *wide = entry ? put(dict, "gram.wide", NPY_INT64, g->n_wide, LP_WIDE_LIMBS, 0) : NULL;
    for (size_t i = 0; wide && i < g->n_slots; i++) {
        if (!g->wide[i].at) continue;
        entry[at] = (int64_t)g->wide[i].at - 1;
        memcpy(wide + LP_WIDE_LIMBS * at++, g->wide[i].limbs, sizeof g->wide[i].limbs);
    }
    return wide ? 0 : -1;
}

static int put_all(PyObject *dict, const lp_stats_spec *q, const lp_stats_state *s, size_t n) {
    return put_copy(dict, "count", NPY_INT64, n, LP_N_COUNTS, 0, s->counts, 8) || put_range(dict, s, n) ||
           (q->moments && put_copy(dict, "sums", NPY_INT64, n, LP_SUM_LIMBS, 0, s->sums, 8)) ||
           (q->histogram && put_histogram(dict, s, n)) ||
           (q->n_thetas && put_copy(dict, "fires", NPY_INT64, n, q->n_thetas, 0, s->fires, 8)) ||
           (q->n_top && put_top(dict, s, n, q->n_top)) || (q->gram && put_gram(dict, &s->gram)) ||
           (q->n_prefixes &&
            put_copy(dict, "digits", NPY_UINT32, n, q->n_prefixes, (size_t)1 << q->n_bits, s->digits, 4));
}

/* The state of (target, group); NULL with an exception set. */
static lp_stats_state *find_state(const lp_module_state *state, lp_stats *stats, Py_ssize_t target, Py_ssize_t group) {
    lp_stats_fault fault = lp_stats_fault_of(stats);
    lp_stats_state *found = NULL;
    if (fault)
        lp_raise_new(state, fault == LP_STATS_NO_MEMORY ? LP_ENOMEM : LP_EARG,
                     "these statistics stopped in the middle of a run; collect them again");
    else if (target < 0 || (size_t)target >= lp_stats_n_targets(stats) || group < 0 ||
             (size_t)group >= lp_stats_n_groups(stats))
        lp_raise_new(state, LP_EARG, "there is no target %zd of group %zd", target, group);
    else if (!(found = lp_stats_state_of(stats, (size_t)target, (size_t)group)))
        lp_raise_new(state, LP_ENOMEM, "the statistics of target %zd, group %zd need memory that the system refused",
                     target, group);
    return found;
}

static PyObject *get_arrays(PyObject *self, PyObject *args) {
    Py_ssize_t target, group;
    if (!PyArg_ParseTuple(args, "nn:arrays", &target, &group)) return NULL;
    lp_stats *stats = lp_stats_object_take(self);
    if (!stats) return NULL;
    const lp_stats_state *s = find_state(state_of(self), stats, target, group);
    PyObject *dict = s ? PyDict_New() : NULL;
    if (dict && put_all(dict, lp_stats_spec_of(stats), s, lp_stats_at(stats, (size_t)target)->n_channels))
        Py_CLEAR(dict);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) { /* also NumPy's own */
        PyErr_Clear();
        lp_raise_new(state_of(self), LP_ENOMEM, "the arrays of target %zd, group %zd do not fit the memory", target,
                     group);
    }
    lp_stats_object_release(self);
    return dict;
}

static PyObject *set_prefixes(PyObject *self, PyObject *args) {
    Py_ssize_t target, group;
    PyObject *object, *result = NULL;
    if (!PyArg_ParseTuple(args, "nnO:set_prefixes", &target, &group, &object)) return NULL;
    PyObject *array = PyArray_FROMANY(object, NPY_UINT32, 2, 2, NPY_ARRAY_CARRAY_RO);
    lp_stats *stats = array ? lp_stats_object_take(self) : NULL;
    if (stats) {
        lp_stats_state *s = find_state(state_of(self), stats, target, group);
        size_t n = s ? lp_stats_at(stats, (size_t)target)->n_channels : 0, k = lp_stats_spec_of(stats)->n_prefixes;
        if (s && (size_t)PyArray_SIZE((PyArrayObject *)array) != n * k)
            lp_raise_new(state_of(self), LP_EARG, "prefixes of %zu channels have %zu columns", n, k);
        else if (s) {
            if (k) memcpy(s->prefixes, PyArray_DATA((PyArrayObject *)array), n * k * sizeof *s->prefixes);
            result = Py_NewRef(Py_None);
        }
        lp_stats_object_release(self);
    }
    Py_XDECREF(array);
    return result;
}

/* ---- the type ------------------------------------------------------------------------------------------------ */

static PyMethodDef methods[] = {
    {"arrays", get_arrays, METH_VARARGS, "arrays(target, group): name -> array, the state."},
    {"set_prefixes", set_prefixes, METH_VARARGS, "set_prefixes(target, group, uint32 [n_channels, n_prefixes])."},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_is_whole(PyObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(lp_stats_fault_of(((stats_object *)self)->stats) == LP_STATS_WHOLE);
}

static PyGetSetDef getters[] = {
    {"is_whole", get_is_whole, NULL, "Whether no run was stopped in the middle of it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Statistics that Model.run(observer=) adds up."},
    {Py_tp_new, stats_new},
    {Py_tp_dealloc, stats_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Stats",
    .basicsize = sizeof(stats_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_stats_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
