/* model_object.c - the type Model: made from the numbers of a config and open files.
 *
 * Nothing closes a model: it is freed with the last reference, and a run holds one. */
#include "module.h"

static const lp_module_state *state_of(PyTypeObject *type) { return PyType_GetModuleState(type); }

/* Format, names and places of all numbers, for PyArg_ParseTupleAndKeywords. A size is parsed as a signed number: a
 * negative one is then larger than lp_config_check allows. */
#define FORMAT_SIZE(name, most) "n"
#define FORMAT_REAL(name) "d"
#define FORMAT_FLAG(name) "p"
#define CONFIG_FORMAT LP_CONFIG(FORMAT_SIZE, FORMAT_REAL, FORMAT_FLAG)
#define NAME(name, ...) #name,
#define CONFIG_NAMES LP_CONFIG(NAME, NAME, NAME)
#define PLACE_SIZE(name, most) (Py_ssize_t *)&config.name,
#define PLACE_OTHER(name) &config.name,
#define CONFIG_PLACES LP_CONFIG(PLACE_SIZE, PLACE_OTHER, PLACE_OTHER)

/* The files of a tuple of Safetensors, for PyMem_Free; NULL with an exception set. */
static lp_safetensors **files_of(const lp_module_state *state, PyObject *tuple) {
    Py_ssize_t n = PyTuple_Size(tuple);
    lp_safetensors **files = PyMem_Calloc(n ? (size_t)n : 1, sizeof *files);
    if (!files) return (lp_safetensors **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *file = PyTuple_GetItem(tuple, i);
        if (Py_TYPE(file) != state->safetensors_type) {
            PyMem_Free(files);
            return (lp_safetensors **)lp_raise_new(state, LP_EARG, "item %zd of files is not a Safetensors", i);
        }
        files[i] = lp_safetensors_of(file);
    }
    return files;
}

/* The objects behind an architecture, and the numbers that were made of them. */
typedef struct {
    lp_architecture a;
    lp_rope_spec ropes[LP_MOST_ROPES];
    size_t *windows;
    int *rope_of;
    PyObject *arrays[2 * LP_MOST_ROPES]; /* float32: of the tables */
    size_t n_arrays;
} description;

static void description_free(description *d) {
    PyMem_Free(d->windows);
    PyMem_Free(d->rope_of);
    for (size_t i = 0; i < d->n_arrays; i++) Py_DECREF(d->arrays[i]);
}

/* A float32 copy of one table, kept in d; NULL with an exception set. */
static const float *table_from(const lp_module_state *state, description *d, PyObject *object) {
    PyObject *array = PyArray_FROMANY(object, NPY_FLOAT32, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!array) return NULL;
    d->arrays[d->n_arrays++] = array;
    size_t n = (size_t)PyArray_SIZE((PyArrayObject *)array), rotary_dim = d->a.config.rotary_dim;
    if (n == rotary_dim / 2) return PyArray_DATA((PyArrayObject *)array);
    lp_raise_new(state, LP_EARG, "inv_freq has %zu numbers, rotary_dim %zu needs %zu", n, rotary_dim, rotary_dim / 2);
    return NULL;
}

/* (inv_freq, factor, long inv_freq or None, original positions) of each table. */
static int take_ropes(const lp_module_state *state, description *d, PyObject *ropes) {
    Py_ssize_t n = PyTuple_Size(ropes);
    if (n > LP_MOST_ROPES) return lp_refuse(state, LP_EARG, "%zd tables of RoPE, the most are %d", n, LP_MOST_ROPES);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *rope = PyTuple_GetItem(ropes, i), *inv_freq, *long_inv_freq;
        double factor;
        Py_ssize_t original;
        if (!PyTuple_Check(rope) || !PyArg_ParseTuple(rope, "OdOn", &inv_freq, &factor, &long_inv_freq, &original)) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a table of RoPE is a tuple of four");
            return -1;
        }
        lp_rope_spec *spec = &d->ropes[i];
        *spec = (lp_rope_spec){.original = (size_t)original, .factor = (float)factor};
        if (!(spec->inv_freq = table_from(state, d, inv_freq))) return -1;
        if (long_inv_freq != Py_None && !(spec->long_inv_freq = table_from(state, d, long_inv_freq))) return -1;
    }
    d->a.ropes = d->ropes, d->a.n_ropes = (size_t)n;
    return 0;
}

/* n integers, each as a window and as the number of a table. */
static int take_layers(const lp_module_state *state, description *d, PyObject *windows, PyObject *rope_of) {
    size_t n = d->a.config.n_layers;
    if ((size_t)PyTuple_Size(windows) != n || (size_t)PyTuple_Size(rope_of) != n)
        return lp_refuse(state, LP_EARG, "windows and rope_of need a number for each of %zu layers", n);
    d->windows = PyMem_Calloc(n, sizeof *d->windows);
    d->rope_of = PyMem_Calloc(n, sizeof *d->rope_of);
    if (!d->windows || !d->rope_of) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < n && !PyErr_Occurred(); i++) {
        d->windows[i] = PyLong_AsSize_t(PyTuple_GetItem(windows, (Py_ssize_t)i));
        d->rope_of[i] = (int)PyLong_AsLong(PyTuple_GetItem(rope_of, (Py_ssize_t)i));
    }
    d->a.windows = d->windows, d->a.rope_of = d->rope_of;
    return PyErr_Occurred() ? -1 : 0;
}

/* Point -> module, borrowed from the dict. */
static int take_modules(description *d, PyObject *modules) {
    for (lp_point p = 0; p < LP_N_POINTS; p++) {
        PyObject *point = PyUnicode_FromString(lp_point_name(p));
        PyObject *module = point ? PyDict_GetItemWithError(modules, point) : NULL;
        Py_XDECREF(point);
        if (module) d->a.modules[p] = PyUnicode_AsUTF8AndSize(module, NULL);
        if (PyErr_Occurred()) return -1;
    }
    return 0;
}

static PyObject *model_object_new(PyTypeObject *type, lp_model *model, PyObject *files) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self) {
        lp_model_close(model);
        return NULL;
    }
    Py_INCREF(files);
    ((lp_model_object *)self)->model = model;
    ((lp_model_object *)self)->files = files;
    return self;
}

static PyObject *open_model(PyTypeObject *type, const lp_architecture *a, PyObject *tuple) {
    const lp_module_state *state = state_of(type);
    lp_error err;
    lp_model *model;
    PyObject *self = NULL;
    lp_safetensors **files = files_of(state, tuple);
    if (!files) return NULL;
    if (lp_model_open(&model, a, lp_safetensors_tensors(files, (size_t)PyTuple_Size(tuple), &err), &err))
        lp_raise(state, &err);
    else
        self = model_object_new(type, model, tuple);
    PyMem_Free(files);
    return self;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"files", CONFIG_NAMES "prefix", "modules", "windows", "ropes", "rope_of", NULL};
    const lp_module_state *state = state_of(type);
    PyObject *files, *modules, *windows, *ropes, *rope_of;
    description d = {.n_arrays = 0};
    lp_config config;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$" CONFIG_FORMAT "sO!O!O!O!:Model", keys, &files,
                                     CONFIG_PLACES & d.a.prefix, &PyDict_Type, &modules, &PyTuple_Type, &windows,
                                     &PyTuple_Type, &ropes, &PyTuple_Type, &rope_of))
        return NULL;
    if (lp_config_check(&config, &err)) return lp_raise(state, &err);
    d.a.config = config;
    PyObject *tuple = PySequence_Tuple(files), *self = NULL;
    if (tuple && !take_modules(&d, modules) && !take_layers(state, &d, windows, rope_of) &&
        !take_ropes(state, &d, ropes))
        self = open_model(type, &d.a, tuple);
    Py_XDECREF(tuple);
    description_free(&d);
    return self;
}

static void model_dealloc(PyObject *self) {
    lp_model_object *object = (lp_model_object *)self;
    lp_model_close(object->model); /* before the files that it points into */
    Py_XDECREF(object->files);
    lp_object_free(self);
}

/* Function pointers are cast by way of void (*)(void), which gives no warning. */
static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))lp_model_object_run, METH_VARARGS | METH_KEYWORDS,
     "run(token_ids, seq_start, points, *, n_threads, progress=None): one array per (point, layers)."},
    {"profile", (PyCFunction)(void (*)(void))lp_model_object_profile, METH_VARARGS | METH_KEYWORDS,
     "profile(...): as run, but a pair: the arrays, and (stage, seconds, laps, FLOP, bytes of weights, bytes of\n"
     "values) for each stage."},
    {"plan", (PyCFunction)(void (*)(void))lp_model_object_plan, METH_VARARGS | METH_KEYWORDS,
     "plan(token_ids, seq_start, points, *, n_threads): what run would do."},
    {"head", (PyCFunction)(void (*)(void))lp_model_object_head, METH_VARARGS | METH_KEYWORDS,
     "head(x, token_ids, *, n_threads): logits of rows of the residual stream, of all tokens if None."},
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
