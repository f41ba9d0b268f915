/* safetensors_object.h - the object behind the type Safetensors, for the two files that know it. */
#ifndef LP_PYTHON_SAFETENSORS_OBJECT_H
#define LP_PYTHON_SAFETENSORS_OBJECT_H

#include "module.h"

typedef struct {
    PyObject ob_base; /* what PyObject_HEAD stands for */
    lp_safetensors *file;
    PyObject *path; /* str: as it was given */
} lp_safetensors_object;

/* Safetensors.read(name): a float32 copy */
PyObject *lp_safetensors_object_read(PyObject *self, PyObject *name);
/* Safetensors.raw(name): the bytes in place */
PyObject *lp_safetensors_object_raw(PyObject *self, PyObject *name);

#endif
