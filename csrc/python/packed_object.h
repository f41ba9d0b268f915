/* packed_object.h - the type Packed: one packed weight in open files. */
#ifndef LP_PYTHON_PACKED_OBJECT_H
#define LP_PYTHON_PACKED_OBJECT_H

#include "module.h"

typedef struct {
    PyObject ob_base;
    lp_packed packed;
    lp_container files[LP_N_ROLES]; /* of each part; without `find`: there is no such part */
    PyObject *parts;                /* dict: role -> (file, name), which keeps the files */
} lp_packed_object;

/* The core's view of an open file, a Safetensors or Gguf. -1 with an exception set. */
int lp_container_of(const lp_module_state *state, PyObject *file, lp_container *out);
/* The file and name of a tuple of the two, both borrowed. -1 with an exception set. */
int lp_part_place(const lp_module_state *state, PyObject *place, lp_container *file, const char **name);

#endif
