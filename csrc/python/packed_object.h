/* packed_object.h - the type Packed: one packed weight in open files. */
#ifndef LP_PYTHON_PACKED_OBJECT_H
#define LP_PYTHON_PACKED_OBJECT_H

#include "module.h"

typedef struct {
    PyObject ob_base;
    lp_packed packed;
    lp_container files[LP_N_ROLES]; /* by role; `find` is NULL if the part is absent */
    PyObject *parts;                /* owned dict, role -> (file, name): keeps the files alive */
} lp_packed_object;

/* The core's view of an open file, a Safetensors or Gguf; borrows from it. -1 with an exception set. */
int lp_container_of(const lp_module_state *state, PyObject *file, lp_container *out);
/* The file and name in a tuple (file, name); both borrow from it. -1 with an exception set. */
int lp_part_place(const lp_module_state *state, PyObject *place, lp_container *file, const char **name);

#endif
