/* file_object.h - what the types of open files, Safetensors and Gguf, share: opening, and tensors as arrays.
 *
 * There is no close: the map is freed with the last reference, and arrays over the map hold one. */
#ifndef LP_PYTHON_FILE_OBJECT_H
#define LP_PYTHON_FILE_OBJECT_H

#include "module.h"

#include "../base/part.h" /* lp_part */
#include "../io/map.h"    /* lp_map_reading */

/* The operations of a container format. */
struct lp_file_kind {
    const char *arguments; /* "O&|$pO:NAME", for messages */
    int (*open)(void **out, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err);
    void (*close)(void *file); /* NULL is legal */
    const char *(*path)(const void *file);
    size_t (*count)(const void *file);
    void (*at)(const void *file, size_t i, lp_part *part);                           /* in the order of the data */
    int (*find)(const void *file, const char *name, size_t name_len, lp_part *part); /* 1: found */
    int (*check_unchanged)(const void *file, lp_error *err);
};

/* type(path, *, mmap=True, dir_fd=None). `kind` is static. */
PyObject *lp_file_object_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, const lp_file_kind *kind);
void lp_file_object_dealloc(PyObject *self);

/* Finds a tensor, and checks that the file has not changed since it was opened. -1 with an exception set. */
int lp_file_object_find(PyObject *self, const char *name, size_t name_len, lp_part *part);

/* Methods and attributes. */
PyObject *lp_file_object_tensors(PyObject *self, PyObject *unused);
PyObject *lp_file_object_read(PyObject *self, PyObject *name);
PyObject *lp_file_object_raw(PyObject *self, PyObject *name);
PyObject *lp_file_object_check_unchanged(PyObject *self, PyObject *unused);
PyObject *lp_file_object_get_path(PyObject *self, void *unused);

#endif
