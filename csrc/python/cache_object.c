/* cache_object.c - the type Cache: the keys and values of a sequence, that Model.run goes on from.
 *
 * A run, a copy or a rewind holds its cache; another thread that wants it meanwhile gets an ArgumentError. */
#include "module.h"

#include "../sys/limits.h" /* lp_limits_memory */
#include "../sys/pool.h"   /* LP_MAX_THREADS */
#include "poll.h"          /* lp_poll_python */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static lp_cache *cache_of(PyObject *self) { return &((lp_cache_object *)self)->cache; }

static PyObject *cache_object_new(PyTypeObject *type, PyObject *model) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(model);
    ((lp_cache_object *)self)->model = model;
    lp_cache_init(cache_of(self), ((lp_model_object *)model)->model);
    return self;
}

static int hold(PyObject *self) {
    if (!lp_cache_hold(cache_of(self))) return 0;
    return lp_refuse(state_of(self), LP_EARG, "the cache is in use by another thread");
}

/* Room for n_tokens in the cache, and a copy of those of `from` if it is not NULL. */
static int fill(PyObject *self, size_t n_tokens, const lp_cache *from, size_t n_threads) {
    const lp_module_state *state = state_of(self);
    lp_cache *cache = cache_of(self);
    size_t capacity, n_bytes, most = cache->model->config.max_positions;
    lp_error err;
    lp_poll poll;
    if (n_tokens > most)
        return lp_refuse(state, LP_EARG, "a cache of %zu tokens, the model takes at most %zu", n_tokens, most);
    if (lp_cache_growth(cache, n_tokens, &capacity, &n_bytes))
        return lp_refuse(state, LP_ENOMEM, "a cache of %zu tokens has more bytes than there are addresses", n_tokens);
    if (!lp_memory_fits(n_bytes, cache->model->arena))
        return lp_refuse(state, LP_ENOMEM, "a cache of %zu tokens needs %zu bytes and %zu are free", n_tokens, n_bytes,
                         lp_limits_memory());
    lp_parallel parallel = {n_threads < LP_MAX_THREADS ? n_threads : LP_MAX_THREADS, lp_poll_python, &poll};
    lp_poll_begin(&poll, NULL, NULL);
    int failed =
        lp_cache_reserve(cache, n_tokens, &parallel, &err) || (from && lp_cache_copy(cache, from, &parallel, &err));
    lp_poll_end(&poll);
    if (failed) lp_raise(state, &err);
    return failed ? -1 : 0;
}

static PyObject *cache_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"model", "capacity", "n_threads", NULL};
    const lp_module_state *state = PyType_GetModuleState(type);
    PyObject *model;
    Py_ssize_t capacity = 0, n_threads = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|n$n:Cache", keys, state->model_type, &model, &capacity,
                                     &n_threads))
        return NULL;
    if (capacity < 0 || n_threads < 1)
        return lp_raise_new(state, LP_EARG, "a cache of %zd tokens, made by %zd threads", capacity, n_threads);
    PyObject *self = cache_object_new(type, model);
    if (self && fill(self, (size_t)capacity, NULL, (size_t)n_threads)) Py_CLEAR(self);
    return self;
}

static void cache_dealloc(PyObject *self) {
    lp_cache_free(cache_of(self));
    Py_XDECREF(((lp_cache_object *)self)->model); /* whose arena the memory returned to */
    lp_object_free(self);
}

static PyObject *cache_rewind(PyObject *self, PyObject *n_tokens) {
    lp_error err;
    size_t n = PyLong_AsSize_t(n_tokens);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return NULL;
        PyErr_Clear();
        return lp_raise_new(state_of(self), LP_EARG,
                            "the cache has %zu tokens, it cannot go back to fewer than 0 or "
                            "to more",
                            (size_t)cache_of(self)->n_tokens);
    }
    if (hold(self)) return NULL;
    int failed = lp_cache_rewind(cache_of(self), n, &err);
    lp_cache_release(cache_of(self));
    if (failed) return lp_raise(state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *cache_copy(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"capacity", "n_threads", NULL};
    Py_ssize_t capacity = 0, n_threads = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n$n:copy", keys, &capacity, &n_threads)) return NULL;
    if (capacity < 0 || n_threads < 1)
        return lp_raise_new(state_of(self), LP_EARG, "a cache of %zd tokens, made by %zd threads", capacity, n_threads);
    PyObject *copy = cache_object_new(Py_TYPE(self), ((lp_cache_object *)self)->model);
    if (!copy || hold(self)) {
        Py_XDECREF(copy);
        return NULL;
    }
    size_t n_tokens = cache_of(self)->n_tokens;
    if ((size_t)capacity > n_tokens) n_tokens = (size_t)capacity;
    int failed = fill(copy, n_tokens, cache_of(self), (size_t)n_threads);
    lp_cache_release(cache_of(self));
    if (failed) Py_CLEAR(copy);
    return copy;
}

static PyObject *get_n_tokens(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(cache_of(self)->n_tokens);
}

static PyObject *get_capacity(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(cache_of(self)->capacity);
}

static PyObject *get_n_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(lp_cache_bytes(cache_of(self)));
}

static PyObject *get_model(PyObject *self, void *unused) {
    (void)unused;
    PyObject *model = ((lp_cache_object *)self)->model;
    Py_INCREF(model);
    return model;
}

/* ---- the caches of a call ---- */

lp_cache **lp_caches_hold(const lp_module_state *state, PyObject *tuple, size_t *n) {
    size_t n_caches = (size_t)PyTuple_Size(tuple);
    lp_cache **caches = PyMem_Calloc(n_caches ? n_caches : 1, sizeof *caches);
    if (!caches) return (lp_cache **)PyErr_NoMemory();
    for (size_t i = 0; i < n_caches; i++) {
        PyObject *object = PyTuple_GetItem(tuple, (Py_ssize_t)i);
        if (object == Py_None) continue;
        if (Py_TYPE(object) != state->cache_type)
            lp_raise_new(state, LP_EARG, "item %zu of caches is neither a Cache nor None", i);
        else if (lp_cache_hold(cache_of(object)))
            lp_raise_new(state, LP_EARG, "the cache of sequence %zu is in use: by another thread, or twice in this run",
                         i);
        else
            caches[i] = cache_of(object);
        if (!caches[i]) {
            lp_caches_release(caches, i);
            return NULL;
        }
    }
    *n = n_caches;
    return caches;
}

void lp_caches_release(lp_cache **caches, size_t n) {
    for (size_t i = 0; caches && i < n; i++)
        if (caches[i]) lp_cache_release(caches[i]);
    PyMem_Free(caches);
}

/* ---- the type ---- */

static PyMethodDef methods[] = {
    {"rewind", cache_rewind, METH_O, "rewind(n_tokens): drops all tokens but the first n_tokens."},
    {"copy", (PyCFunction)(void (*)(void))cache_copy, METH_VARARGS | METH_KEYWORDS,
     "copy(capacity=0, *, n_threads=1): another cache with the same tokens, and room for so many or more."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"n_tokens", get_n_tokens, NULL, "Tokens whose keys and values it has.", NULL},
    {"capacity", get_capacity, NULL, "Tokens that it has room for; it grows when a run needs more.", NULL},
    {"n_bytes", get_n_bytes, NULL, "Bytes of its memory.", NULL},
    {"model", get_model, NULL, "The Model that it belongs to.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The keys and values of a sequence. Keeps its model alive."},
    {Py_tp_new, cache_new},
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Cache",
    .basicsize = sizeof(lp_cache_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_cache_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
