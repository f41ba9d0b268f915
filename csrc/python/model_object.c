/* model_object.c - the type Model: numbers of a config and open files in, what lp_model_open proved out.
 *
 * Nothing closes a model: it goes with the last reference, and a run holds one. */
#include "model_object.h"

static const lp_module_state *state_of(PyTypeObject *type) { return PyType_GetModuleState(type); }

/* The numbers as Python gave them: their signs are looked at before they become sizes. */
typedef struct {
    Py_ssize_t n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size, max_positions;
    double rms_norm_eps;
    int attention_bias, mlp_bias, tied_head;
} config_args;

static int config_from(const lp_module_state *state, const config_args *a, lp_config *config) {
    const Py_ssize_t sizes[] = {a->n_layers, a->n_heads, a->n_kv_heads, a->head_dim,
                                a->d_model,  a->d_ff,    a->vocab_size, a->max_positions};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i] >= 1) continue;
        lp_raise_new(state, LP_EARG, "a model of size %zd makes no sense: sizes are at least 1", sizes[i]);
        return -1;
    }
    *config = (lp_config){.n_layers = (size_t)a->n_layers,
                          .n_heads = (size_t)a->n_heads,
                          .n_kv_heads = (size_t)a->n_kv_heads,
                          .head_dim = (size_t)a->head_dim,
                          .d_model = (size_t)a->d_model,
                          .d_ff = (size_t)a->d_ff,
                          .vocab_size = (size_t)a->vocab_size,
                          .max_positions = (size_t)a->max_positions,
                          .rms_norm_eps = a->rms_norm_eps,
                          .attention_bias = a->attention_bias,
                          .mlp_bias = a->mlp_bias,
                          .tied_head = a->tied_head};
    return 0;
}

/* The files inside a tuple of Safetensors, for PyMem_Free; NULL with an exception set. */
static lp_safetensors **files_of(const lp_module_state *state, PyObject *tuple) {
    Py_ssize_t n = PyTuple_Size(tuple);
    lp_safetensors **files = PyMem_Calloc(n ? (size_t)n : 1, sizeof *files);
    if (!files) return (lp_safetensors **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *file = PyTuple_GetItem(tuple, i);
        if (Py_TYPE(file) != state->safetensors_type) {
            PyMem_Free(files);
            return (lp_safetensors **)lp_raise_new(state, LP_EARG, "item %zd of files is no Safetensors", i);
        }
        files[i] = lp_safetensors_of(file);
    }
    return files;
}

/* The float32 numbers of inv_freq in memory of ours; NULL with an exception set. */
static PyObject *inv_freq_from(const lp_module_state *state, PyObject *object, size_t head_dim) {
    PyObject *array = PyArray_FROMANY(object, NPY_FLOAT32, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!array) return NULL;
    size_t n = (size_t)PyArray_SIZE((PyArrayObject *)array);
    if (n == head_dim / 2) return array;
    Py_DECREF(array);
    return lp_raise_new(state, LP_EARG, "inv_freq has %zu numbers, head_dim %zu needs %zu", n, head_dim, head_dim / 2);
}

static PyObject *model_object_new(PyTypeObject *type, lp_model *model, PyObject *files) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self) {
        lp_model_close(model);
        return NULL;
    }
    Py_INCREF(files);
    lp_memory_keep_begin(); /* for its runs */
    ((lp_model_object *)self)->model = model;
    ((lp_model_object *)self)->files = files;
    return self;
}

static PyObject *open_model(PyTypeObject *type, const lp_config *config, PyObject *tuple, PyObject *inv_freq_object) {
    const lp_module_state *state = state_of(type);
    lp_error err;
    lp_model *model;
    PyObject *self = NULL;
    lp_safetensors **files = files_of(state, tuple);
    PyObject *inv_freq = files ? inv_freq_from(state, inv_freq_object, config->head_dim) : NULL;
    if (!inv_freq) goto done;
    const float *numbers = PyArray_DATA((PyArrayObject *)inv_freq);
    if (lp_model_open(&model, config, numbers, files, (size_t)PyTuple_Size(tuple), &err))
        lp_raise(state, &err);
    else
        self = model_object_new(type, model, tuple);
done:
    Py_XDECREF(inv_freq);
    PyMem_Free(files);
    return self;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"files",          "n_layers", "n_heads",    "n_kv_heads",    "head_dim",
                           "d_model",        "d_ff",     "vocab_size", "max_positions", "rms_norm_eps",
                           "attention_bias", "mlp_bias", "tied_head",  "inv_freq",      NULL};
    PyObject *files, *inv_freq;
    config_args a;
    lp_config config;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$nnnnnnnndpppO:Model", keys, &files, &a.n_layers, &a.n_heads,
                                     &a.n_kv_heads, &a.head_dim, &a.d_model, &a.d_ff, &a.vocab_size, &a.max_positions,
                                     &a.rms_norm_eps, &a.attention_bias, &a.mlp_bias, &a.tied_head, &inv_freq))
        return NULL;
    if (config_from(state_of(type), &a, &config)) return NULL;
    PyObject *tuple = PySequence_Tuple(files);
    PyObject *self = tuple ? open_model(type, &config, tuple, inv_freq) : NULL;
    Py_XDECREF(tuple);
    return self;
}

static void model_dealloc(PyObject *self) {
    lp_model_object *object = (lp_model_object *)self;
    lp_model_close(object->model); /* before the files that it points into */
    lp_memory_keep_end();
    Py_XDECREF(object->files);
    lp_object_free(self);
}

/* A function pointer of another shape goes through void (*)(void), which warnings leave alone. */
static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))lp_model_object_run, METH_VARARGS | METH_KEYWORDS,
     "run(token_ids, seq_start, points, *, n_threads, progress=None): one array per (point, layers)."},
    {"profile", (PyCFunction)(void (*)(void))lp_model_object_profile, METH_VARARGS | METH_KEYWORDS,
     "profile(...): as run, but a pair: the arrays, and (stage, seconds, laps, FLOP, bytes of weights, bytes of\n"
     "values) for each stage."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "An open model: what lp_model_open proved. Keeps its files alive."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Model",
    .basicsize = sizeof(lp_model_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_model_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
