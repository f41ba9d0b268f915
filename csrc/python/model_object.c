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

/* A float32 copy of inv_freq; NULL with an exception set. */
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
    if (lp_model_open(&model, config, numbers, lp_safetensors_tensors(files, (size_t)PyTuple_Size(tuple), &err), &err))
        lp_raise(state, &err);
    else
        self = model_object_new(type, model, tuple);
done:
    Py_XDECREF(inv_freq);
    PyMem_Free(files);
    return self;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"files", CONFIG_NAMES "inv_freq", NULL};
    PyObject *files, *inv_freq;
    lp_config config;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$" CONFIG_FORMAT "O:Model", keys, &files,
                                     CONFIG_PLACES & inv_freq))
        return NULL;
    if (lp_config_check(&config, &err)) return lp_raise(state_of(type), &err);
    PyObject *tuple = PySequence_Tuple(files);
    PyObject *self = tuple ? open_model(type, &config, tuple, inv_freq) : NULL;
    Py_XDECREF(tuple);
    return self;
}

/* (rows, columns) of a matrix, (columns,) of a vector */
static PyObject *shape_of(const lp_tensor_spec *spec) {
    return spec->is_vector ? Py_BuildValue("(n)", (Py_ssize_t)spec->n_cols)
                           : Py_BuildValue("(nn)", (Py_ssize_t)spec->n_rows, (Py_ssize_t)spec->n_cols);
}

PyObject *lp_list_tensors(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {CONFIG_NAMES NULL};
    const lp_module_state *state = PyModule_GetState(module);
    lp_tensor_spec specs[LP_N_TENSORS];
    lp_config config;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$" CONFIG_FORMAT ":tensors", keys, CONFIG_PLACES NULL)) return NULL;
    if (lp_config_check(&config, &err)) return lp_raise(state, &err);
    lp_model_specs(&config, specs);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < LP_N_TENSORS; i++) {
        if (!specs[i].present) continue;
        PyObject *row = Py_BuildValue("(sNsO)", specs[i].name, shape_of(&specs[i]), lp_point_name(specs[i].point),
                                      specs[i].per_layer ? Py_True : Py_False);
        if (!row || PyList_Append(list, row)) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
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
