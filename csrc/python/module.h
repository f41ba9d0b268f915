/* module.h - what the files of this folder share: Python.h, NumPy, the module's state, raising and arrays.
 *
 * This is the only folder that includes Python.h and NumPy, and the only place that raises. Everything that the core
 * is given is checked here or by the core itself: the Python side is trusted with no pointer and no size. */
#ifndef LP_PYTHON_MODULE_H
#define LP_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL lp_numpy_api
#ifndef LP_IMPORTS_NUMPY /* module.c alone defines it: it owns NumPy's table of functions */
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "../base/error.h"     /* lp_error, lp_status */
#include "../sys/memory.h"     /* lp_block */
#include "../io/safetensors.h" /* lp_safetensors */

typedef struct {
    PyTypeObject *safetensors_type, *model_type;
    PyObject *classes[LP_ECHANGED + 1]; /* the exception class of each lp_status */
} lp_module_state;

/* Sets the exception of err->status with its message. An exception that is already set stays: it is the reason why a
 * poll stopped the run. Always returns NULL. */
PyObject *lp_raise(const lp_module_state *state, const lp_error *err);
/* The same from a format, for what this folder checks itself. */
PyObject *lp_raise_new(const lp_module_state *state, lp_status status, const char *fmt, ...) LP_PRINTF(3, 4);

/* A new C-contiguous float32 array of that shape over the block, which it owns from now on; on failure too (the
 * block is then freed). */
PyObject *lp_array_from_block(lp_block *block, int rank, const npy_intp *shape);
/* The block that such an array owns, still the array's; NULL for any other array. */
lp_block *lp_array_block(PyObject *array);
/* split(array, sizes): see split.c. */
PyObject *lp_split(PyObject *module, PyObject *args);
/* A new read-only array of bytes at `data`, which `owner` keeps alive. */
PyObject *lp_array_of_bytes(const unsigned char *data, size_t n_bytes, PyObject *owner);

/* What heap types have in common: freeing an object and then its type. */
void lp_object_free(PyObject *self);

PyTypeObject *lp_safetensors_type_new(PyObject *module);
PyTypeObject *lp_model_type_new(PyObject *module);

/* The file inside a Safetensors object; the object must be of that type. Never NULL. */
lp_safetensors *lp_safetensors_of(PyObject *object);

/* tensors(**numbers), in model_object.c: it reads the numbers of a config */
PyObject *lp_list_tensors(PyObject *module, PyObject *args, PyObject *kwargs);

/* points(), reads(), widths(), config(), tensors(), kernels(), kernel_in_use(), cores(), memory(), roof(), split(). */
extern PyMethodDef lp_functions[];

#endif
