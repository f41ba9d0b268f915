/* tensors.h - the weights of a checkpoint by name, in any container format: those of open files, and names that stand
 * for something else, a packed weight or a tensor that its file calls differently. */
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

/* A tensor as it is in its file. */
typedef struct {
    lp_weight weight;   /* rank 1 is one row; other ranks than 1 and 2 have no rows */
    const char *path;   /* of its file */
    const char *format; /* name of a dtype that cannot be computed with; else NULL */
    size_t rank;
    char shape[LP_SHAPE_TEXT]; /* "[2048, 512]", for messages */
} lp_found_tensor;

/* A name of the model, and what it stands for: a packed weight, or the tensor `stored` of a file. All borrowed. */
typedef struct {
    const char *name;
    const lp_packed *packed; /* NULL: the tensor */
    const char *stored;      /* terminated */
    lp_container file;       /* of the tensor, or of the codes */
} lp_named_tensor;

typedef struct lp_tensors lp_tensors;

/* The tensors of at least one file; of two with one name, the first file's. Names of `named` come before those of the
 * files. What is borrowed must outlive it. NULL: LP_ENOMEM, or LP_EARG for no files. */
lp_tensors *lp_tensors_open(const lp_container *files, size_t n_files, const lp_named_tensor *named, size_t n_named,
                            lp_error *err);
void lp_tensors_close(lp_tensors *tensors); /* the files stay open; NULL is legal */

const char *lp_tensors_path(const lp_tensors *tensors); /* of the first file, for messages */
/* 1 with *out filled, or 0: there is no such tensor. */
int lp_tensors_find(const lp_tensors *tensors, const char *name, lp_found_tensor *out);
int lp_tensors_are_mapped(const lp_tensors *tensors); /* weights are pages of files */
/* LP_ECHANGED: a file changed. Named tensors lie in the files too. */
int lp_tensors_check_unchanged(const lp_tensors *tensors, lp_error *err);

/* The element type of a dtype; -1 for one that cannot be computed with. */
int lp_element_of(const char *dtype, lp_element *element);

#endif
