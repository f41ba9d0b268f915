/* functions.c - the functions of the module: its lists, and the machine. */
#include "module.h"

#include "../base/fpenv.h"      /* lp_fpenv_set, lp_fpenv_restore */
#include "../kernels/kernels.h" /* lp_kernels_count, lp_kernels_get */
#include "../sys/limits.h"      /* lp_limits_cores, lp_limits_memory */
#include "../model/points.h"    /* LP_POINTS */
#include "../ops/roof.h"        /* lp_roof_measure */
#include "poll.h"               /* lp_poll_python */

static PyObject *list_points(PyObject *module, PyObject *unused) {
    static const char *const widths[] = {
#define WIDTH_NAME(NAME, name, axes, width) #name,
        LP_WIDTHS(WIDTH_NAME)};
    (void)module, (void)unused;
#define POINT_ROW(NAME, name, width, per_layer, stage, reads) \
    #name, widths[LP_WIDTH_##width], per_layer ? Py_True : Py_False,
#define POINT_FORMAT(...) "(ssO)"
    return Py_BuildValue("[" LP_POINTS(POINT_FORMAT) "]", LP_POINTS(POINT_ROW) NULL);
}

static PyObject *list_reads(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
#define R1(a) #a
#define R2(a, b) #a " " #b
#define READS_ROW(NAME, name, width, per_layer, stage, reads) #name, reads,
#define READS_FORMAT(...) "ss"
    return Py_BuildValue("{" LP_POINTS(READS_FORMAT) "}", LP_POINTS(READS_ROW) NULL);
}

static PyObject *list_widths(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
#define WIDTH_ROW(NAME, name, axes, width) #name, axes,
#define WIDTH_FORMAT(...) "ss"
    return Py_BuildValue("{" LP_WIDTHS(WIDTH_FORMAT) "}", LP_WIDTHS(WIDTH_ROW) NULL);
}

static PyObject *list_config(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
#define CONFIG_SIZE(name, most) #name, "size",
#define CONFIG_REAL(name) #name, "real",
#define CONFIG_FLAG(name) #name, "flag",
#define CONFIG_ROW(...) "(ss)"
    return Py_BuildValue("[" LP_CONFIG(CONFIG_ROW, CONFIG_ROW, CONFIG_ROW) "]",
                         LP_CONFIG(CONFIG_SIZE, CONFIG_REAL, CONFIG_FLAG) NULL);
}

static PyObject *list_kernels(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    size_t n = lp_kernels_count();
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *row = Py_BuildValue("(sO)", lp_kernels_at(i)->name, lp_kernels_supported(i) ? Py_True : Py_False);
        if (!row || PyList_SetItem(list, (Py_ssize_t)i, row)) Py_CLEAR(list);
    }
    return list;
}

static PyObject *kernel_in_use(PyObject *module, PyObject *unused) {
    (void)unused;
    lp_error err;
    const lp_kernels *variant = lp_kernels_get(&err);
    return variant ? PyUnicode_FromString(variant->name) : lp_raise(PyModule_GetState(module), &err);
}

static PyObject *cores(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromSize_t(lp_limits_cores());
}

static PyObject *memory(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    size_t n_bytes = lp_limits_memory();
    if (n_bytes == (size_t)-1) Py_RETURN_NONE;
    return PyLong_FromSize_t(n_bytes);
}

static PyObject *roof(PyObject *module, PyObject *args) {
    Py_ssize_t n_threads;
    lp_roof measured;
    lp_error err;
    int failed;
    if (!PyArg_ParseTuple(args, "n:roof", &n_threads)) return NULL;
    if (n_threads < 1)
        return lp_raise_new(PyModule_GetState(module), LP_EARG, "n_threads is %zd, must be at least 1", n_threads);
    lp_poll poll;
    lp_parallel parallel = {(size_t)n_threads, lp_poll_python, &poll};
    const lp_kernels *variant = lp_kernels_get(&err);
    if (!variant) return lp_raise(PyModule_GetState(module), &err);
    lp_poll_begin(&poll, NULL, NULL);
    failed = lp_roof_measure(&measured, variant, &parallel, &err);
    lp_poll_end(&poll);
    return failed ? lp_raise(PyModule_GetState(module), &err) : Py_BuildValue("(dd)", measured.flops, measured.bytes);
}

/* For arithmetic in Python: NumPy and float() round as set for the thread. */
static PyObject *call_rounded(PyObject *module, PyObject *args) {
    PyObject *function, *arg;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO:call_rounded", &function, &arg)) return NULL;
    lp_fpenv old = lp_fpenv_set();
    PyObject *value = PyObject_CallFunctionObjArgs(function, arg, NULL);
    lp_fpenv_restore(old);
    return value;
}

PyMethodDef lp_functions[] = {
    {"points", list_points, METH_NOARGS, "(name, width, per layer) of every capture point, in order of computation."},
    {"reads", list_reads, METH_NOARGS, "Point -> the points it is computed from, as text in capitals."},
    {"widths", list_widths, METH_NOARGS, "Width -> its axes, as text: T, and numbers of the config."},
    {"config", list_config, METH_NOARGS, "(name, kind) of every number of a model: size, real or flag."},
    {"kernels", list_kernels, METH_NOARGS, "(name, can this CPU run it) of every kernel variant, best last."},
    {"kernel_in_use", kernel_in_use, METH_NOARGS, "Name of the kernel variant in use."},
    {"cores", cores, METH_NOARGS, "Cores that this process may use: affinity and cgroup quota."},
    {"memory", memory, METH_NOARGS, "Bytes available without swapping; None when the system does not say."},
    {"roof", roof, METH_VARARGS,
     "roof(n_threads): the machine's peak at this moment: (FLOP, bytes read from memory) per second."},
    {"sample", (PyCFunction)(void (*)(void))lp_sample_row, METH_VARARGS | METH_KEYWORDS,
     "sample(logits, position, temperature, top_k, top_p, seed, number): (id, logprob) by the rule lp-sample-1; a\n"
     "temperature of 0 is greedy, a top_k or top_p of 0 keeps all."},
    {"call_rounded", call_rounded, METH_VARARGS,
     "call_rounded(function, arg): function(arg), rounding to nearest even and keeping denormals, in any mode of the\n"
     "calling thread, which is then restored."},
    {"split", lp_split, METH_VARARGS,
     "split(array, sizes): an array of Model.run cut into one per size; each owns its memory."},
    {NULL, NULL, 0, NULL},
};
