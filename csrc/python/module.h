/* module.h - shared by the files of this folder: Python.h, NumPy, the module's state and types, raising, arrays.
 *
 * Only this folder includes Python.h and NumPy, and raises. All arguments are checked here or by the core: the Python
 * side is trusted with no pointer and no size. */
#ifndef LP_PYTHON_MODULE_H
#define LP_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL lp_numpy_api
#ifndef LP_IMPORTS_NUMPY /* only module.c defines it: it owns NumPy's table of functions */
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "../base/error.h"     /* lp_error, lp_status */
#include "../sys/memory.h"     /* lp_block */
#include "../io/gguf.h"        /* lp_gguf */
#include "../io/safetensors.h" /* lp_safetensors */
#include "../model/model.h"    /* lp_model */
#include "../run/cache.h"      /* lp_cache */

typedef struct {
    PyTypeObject *safetensors_type, *gguf_type, *packed_type, *model_type, *cache_type, *stats_type;
    PyObject *classes[LP_ECHANGED + 1]; /* the exception class of each lp_status */
    struct lp_batch *dropped;           /* arrays with parts to be released: see split.c */
    int is_release_pending;             /* the interpreter will call for that */
} lp_module_state;

/* Sets the exception of err->status with its message; an exception already set by the poll that stopped the run stays.
 * Returns NULL. */
PyObject *lp_raise(const lp_module_state *state, const lp_error *err);
/* The same from a format, for checks of this folder. */
PyObject *lp_raise_new(const lp_module_state *state, lp_status status, const char *fmt, ...) LP_PRINTF(3, 4);

/* The same for functions that return an int: -1. */
#define lp_refuse(...) (lp_raise_new(__VA_ARGS__), -1)

/* A new array over `data`, which `base` owns. Takes the reference to it, also on failure. */
PyObject *lp_array_over(void *data, int type, int rank, const npy_intp *shape, const npy_intp *strides, int flags,
                        PyObject *base);
/* A new C-contiguous float32 array of that shape that owns the block; on failure the block is freed. */
PyObject *lp_array_from_block(lp_block *block, int rank, const npy_intp *shape);
/* The block that such an array owns, borrowed; NULL for any other array. */
lp_block *lp_array_block(PyObject *array);
/* split(array, sizes): see split.c. */
PyObject *lp_split(PyObject *module, PyObject *args);
/* A new read-only array of bytes at `data`, which `owner` keeps alive. */
PyObject *lp_array_of_bytes(const unsigned char *data, size_t n_bytes, PyObject *owner);

/* Frees an object of a heap type, and then its type. */
void lp_object_free(PyObject *self);

PyTypeObject *lp_safetensors_type_new(PyObject *module);
PyTypeObject *lp_packed_type_new(PyObject *module);
PyTypeObject *lp_gguf_type_new(PyObject *module);
PyTypeObject *lp_model_type_new(PyObject *module);
PyTypeObject *lp_stats_type_new(PyObject *module);
PyTypeObject *lp_cache_type_new(PyObject *module);

/* ---- types ---- */

typedef struct lp_file_kind lp_file_kind;

/* Safetensors and Gguf: see file_object.h. */
typedef struct {
    PyObject ob_base; /* as PyObject_HEAD */
    const lp_file_kind *kind;
    void *file;     /* lp_safetensors or lp_gguf */
    PyObject *path; /* str, as it was given */
} lp_file_object;

static inline lp_safetensors *lp_safetensors_of(PyObject *object) { return ((lp_file_object *)object)->file; }
static inline lp_gguf *lp_gguf_of(PyObject *object) { return ((lp_file_object *)object)->file; }

/* Never changes: runs on several threads share it. */
typedef struct {
    PyObject ob_base;
    lp_model *model;
    PyObject *files;   /* tuple of Safetensors, whose maps the model points into */
    PyObject *tensors; /* dict: name -> Packed, or (file, name) */
} lp_model_object;

/* Model.run(token_ids, seq_start, points, *, n_threads, progress=None, observer=None) */
PyObject *lp_model_object_run(PyObject *self, PyObject *args, PyObject *kwargs);
/* The same with its time by stages: (arrays, [(stage, seconds, laps, FLOP, bytes of weights, bytes of values)]) */
PyObject *lp_model_object_profile(PyObject *self, PyObject *args, PyObject *kwargs);
/* What Model.run would do: ([(layer, stage, [(point, where, bytes)], bytes of weights)], bytes of values in scratch,
 * bytes of all scratch). */
PyObject *lp_model_object_plan(PyObject *self, PyObject *args, PyObject *kwargs);
/* Model.head(x, token_ids, *, n_threads): logits of rows of the residual stream */
PyObject *lp_model_object_head(PyObject *self, PyObject *args, PyObject *kwargs);

typedef struct {
    PyObject ob_base;
    PyObject *model; /* a Model */
    lp_cache cache;
} lp_cache_object;

/* The caches of a call, None for NULL, each held; *n of them, for PyMem_Free. NULL with an exception set. */
lp_cache **lp_caches_hold(const lp_module_state *state, PyObject *tuple, size_t *n);
void lp_caches_release(lp_cache **caches, size_t n);

/* ---- functions ---- */

/* sample(logits, position, temperature, top_k, top_p, seed, number) -> (id, logprob) */
PyObject *lp_sample_row(PyObject *module, PyObject *args, PyObject *kwargs);

extern PyMethodDef lp_functions[];    /* functions.c */
extern PyMethodDef lp_text_methods[]; /* text_functions.c */

#endif
