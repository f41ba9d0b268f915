/* tensors.h - the weights of a checkpoint by name, in any container format: the tensors of its open files, and named
 * tensors, which map a name to a packed weight or to a tensor that its file stores under another name. */
#ifndef LP_TENSORS_H
#define LP_TENSORS_H

#include "../base/error.h"  /* lp_error */
#include "../base/part.h"   /* lp_part */
#include "../base/weight.h" /* lp_weight */

#define LP_SHAPE_TEXT 96

/* An open file; borrowed. */
typedef struct {
    const void *file;
    const char *path;
    int (*find)(const void *file, const char *name, size_t name_len, lp_part *out); /* 1 with *out filled, or 0 */
    int (*is_mapped)(const void *file);
    int (*check_unchanged)(const void *file, lp_error *err);
} lp_container;

/* A tensor as stored. Pointers are borrowed. */
typedef struct {
    lp_weight weight;   /* a vector is one row; 0 rows if the rank is not 1 or 2 */
    const char *path;   /* of its file */
    const char *format; /* the dtype, if kernels cannot read it; else NULL */
    size_t rank;
    char shape[LP_SHAPE_TEXT]; /* "[2048, 512]", for messages */
} lp_found_tensor;

/* Maps a name of the model to a packed weight, or to the tensor `stored` of a file. All borrowed. */
typedef struct {
    const char *name;
    const lp_packed *packed; /* NULL: the tensor `stored` */
    const char *stored;      /* NUL-terminated */
    lp_container file;       /* of the tensor, or of the codes */
} lp_named_tensor;

typedef struct lp_tensors lp_tensors;

/* The tensors of at least one file. `named` takes precedence over the files, and an earlier file over a later one.
 * Copies both arrays; what they borrow must outlive the result. NULL: LP_ENOMEM, or LP_EARG for no files. */
lp_tensors *lp_tensors_open(const lp_container *files, size_t n_files, const lp_named_tensor *named, size_t n_named,
                            lp_error *err);
void lp_tensors_close(lp_tensors *tensors); /* the files stay open; NULL is legal */

const char *lp_tensors_path(const lp_tensors *tensors); /* of the first file, for messages */
/* 1 with *out filled, or 0: not found. */
int lp_tensors_find(const lp_tensors *tensors, const char *name, lp_found_tensor *out);
int lp_tensors_are_mapped(const lp_tensors *tensors); /* all files are */
/* LP_ECHANGED: a file has changed since it was opened. Named tensors lie in the same files. */
int lp_tensors_check_unchanged(const lp_tensors *tensors, lp_error *err);

/* The element type of a dtype; -1: kernels cannot read it. */
int lp_element_of(const char *dtype, lp_element *element);

#endif
