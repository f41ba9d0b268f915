/* module.c - the module llamaprobe._core: its state, its types, and the one table of statuses and exceptions. */
#define LP_IMPORTS_NUMPY
#include "module.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../kernels/kernels.h" /* LP_ARITHMETIC_VERSION */

/* The exception class of each status, by its name in llamaprobe.errors. LP_ECANCELED has none: a stopped run raises the
 * exception set by its poll, KeyboardInterrupt for Ctrl-C. */
static const char *const class_names[LP_ECHANGED + 1] = {
    [LP_OK] = "Error",
    [LP_ENOMEM] = "OutOfMemory",
    [LP_EIO] = "FileError",
    [LP_EFORMAT] = "FormatError",
    [LP_EUNSUPPORTED] = "UnsupportedError",
    [LP_EARG] = "ArgumentError",
    [LP_EEDIT] = "EditError",
    [LP_ECANCELED] = "Error",
    [LP_ECHANGED] = "FileChangedError",
};

PyObject *lp_raise(const lp_module_state *state, const lp_error *err) {
    if (PyErr_Occurred()) return NULL;
    if (err->status == LP_ECANCELED) {
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        return NULL;
    }
    size_t status = (size_t)err->status <= LP_ECHANGED ? (size_t)err->status : LP_OK;
    /* a path may hold bytes that are not UTF-8, and so may a message cut in the middle of a character */
    PyObject *text = PyUnicode_DecodeUTF8(err->msg, (Py_ssize_t)strlen(err->msg), "backslashreplace");
    if (!text) return NULL;
    PyObject *args =
        err->status == LP_EIO && err->number ? Py_BuildValue("(Oi)", text, err->number) : Py_BuildValue("(O)", text);
    if (args) PyErr_SetObject(state->classes[status], args); /* FileError takes the errno too */
    Py_XDECREF(args);
    Py_DECREF(text);
    return NULL;
}

PyObject *lp_raise_new(const lp_module_state *state, lp_status status, const char *fmt, ...) {
    lp_error err = {.status = status};
    va_list args;
    va_start(args, fmt);
    vsnprintf(err.msg, sizeof err.msg, fmt, args);
    va_end(args);
    return lp_raise(state, &err);
}

void lp_object_free(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int import_classes(lp_module_state *state) {
    PyObject *errors = PyImport_ImportModule("llamaprobe.errors");
    if (!errors) return -1;
    int failed = 0;
    for (size_t i = 0; i <= LP_ECHANGED && !failed; i++) {
        state->classes[i] = PyObject_GetAttrString(errors, class_names[i]);
        failed = !state->classes[i];
    }
    Py_DECREF(errors);
    return failed ? -1 : 0;
}

static int module_exec(PyObject *module) {
    lp_module_state *state = PyModule_GetState(module);
    if (PyArray_ImportNumPyAPI() < 0 || import_classes(state)) return -1;
    if (PyModule_AddFunctions(module, lp_text_methods)) return -1;
    if (PyModule_AddIntConstant(module, "ARITHMETIC_VERSION", LP_ARITHMETIC_VERSION)) return -1;
    state->safetensors_type = lp_safetensors_type_new(module);
    if (!state->safetensors_type || PyModule_AddType(module, state->safetensors_type)) return -1;
    state->packed_type = lp_packed_type_new(module);
    if (!state->packed_type || PyModule_AddType(module, state->packed_type)) return -1;
    state->gguf_type = lp_gguf_type_new(module);
    if (!state->gguf_type || PyModule_AddType(module, state->gguf_type)) return -1;
    state->model_type = lp_model_type_new(module);
    if (!state->model_type || PyModule_AddType(module, state->model_type)) return -1;
    state->stats_type = lp_stats_type_new(module);
    if (!state->stats_type || PyModule_AddType(module, state->stats_type)) return -1;
    state->cache_type = lp_cache_type_new(module);
    if (!state->cache_type || PyModule_AddType(module, state->cache_type)) return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    lp_module_state *state = PyModule_GetState(module);
    Py_VISIT(state->safetensors_type);
    Py_VISIT(state->packed_type);
    Py_VISIT(state->gguf_type);
    Py_VISIT(state->model_type);
    Py_VISIT(state->stats_type);
    Py_VISIT(state->cache_type);
    for (size_t i = 0; i <= LP_ECHANGED; i++) Py_VISIT(state->classes[i]);
    return 0;
}

static int module_clear(PyObject *module) {
    lp_module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->safetensors_type);
    Py_CLEAR(state->packed_type);
    Py_CLEAR(state->gguf_type);
    Py_CLEAR(state->model_type);
    Py_CLEAR(state->stats_type);
    Py_CLEAR(state->cache_type);
    for (size_t i = 0; i <= LP_ECHANGED; i++) Py_CLEAR(state->classes[i]);
    return 0;
}

static void module_free(void *module) { module_clear(module); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if defined(Py_GIL_DISABLED)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "llamaprobe._core",
    .m_doc = "The C core, as Python sees it. Private: users go through `llamaprobe`.",
    .m_size = sizeof(lp_module_state),
    .m_methods = lp_functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
