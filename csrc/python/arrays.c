/* arrays.c - NumPy arrays over memory of the core.
 *
 * The array's base owns the memory: a capsule with a block, or the open file that is mapped. It is freed with the last
 * view, which may outlive the model. */
#include "module.h"

#define CAPSULE_NAME "llamaprobe.block"

static void free_capsule(PyObject *capsule) {
    lp_block *block = PyCapsule_GetPointer(capsule, CAPSULE_NAME);
    if (!block) return;
    lp_block_free(block);
    PyMem_Free(block);
}

/* A capsule that owns the block; NULL, with the block freed. */
static PyObject *capsule_new(lp_block *block) {
    PyObject *capsule = NULL;
    lp_block *owned = PyMem_Malloc(sizeof *owned);
    if (owned) {
        *owned = *block;
        capsule = PyCapsule_New(owned, CAPSULE_NAME, free_capsule);
    } else {
        PyErr_NoMemory();
    }
    if (!capsule) {
        lp_block_free(block);
        PyMem_Free(owned);
    }
    *block = (lp_block){0};
    return capsule;
}

PyObject *lp_array_over(void *data, int type, int rank, const npy_intp *shape, const npy_intp *strides, int flags,
                        PyObject *base) {
    PyObject *array = PyArray_New(&PyArray_Type, rank, shape, type, strides, data, 0, flags, NULL);
    if (!array) {
        Py_DECREF(base);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, base) < 0) { /* steals `base` when it fails too */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

PyObject *lp_array_from_block(lp_block *block, int rank, const npy_intp *shape) {
    if (!block->data) return PyArray_SimpleNew(rank, shape, NPY_FLOAT32); /* no elements */
    void *data = block->data;
    PyObject *capsule = capsule_new(block);
    return capsule ? lp_array_over(data, NPY_FLOAT32, rank, shape, NULL, NPY_ARRAY_CARRAY, capsule) : NULL;
}

lp_block *lp_array_block(PyObject *array) {
    PyObject *base = PyArray_BASE((PyArrayObject *)array);
    return base && PyCapsule_IsValid(base, CAPSULE_NAME) ? PyCapsule_GetPointer(base, CAPSULE_NAME) : NULL;
}

PyObject *lp_array_of_bytes(const unsigned char *data, size_t n_bytes, PyObject *owner) {
    npy_intp shape[1] = {(npy_intp)n_bytes};
    if (!n_bytes) return PyArray_SimpleNew(1, shape, NPY_UINT8);
    /* NumPy's data pointer is not const; without NPY_ARRAY_WRITEABLE it is only read */
    return lp_array_over((void *)(uintptr_t)data, NPY_UINT8, 1, shape, NULL, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED,
                         Py_NewRef(owner));
}
