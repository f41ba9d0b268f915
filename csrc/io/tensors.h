/* tensors.h - the interface to the weights of a checkpoint: by name, in any container format.
 *
 * A reader embeds an lp_tensors as the first member of its own struct; lp_safetensors_tensors makes that of safetensors
 * files. */
#ifndef LP_TENSORS_H
#define LP_TENSORS_H

#include "../base/error.h"  /* lp_error */
#include "../base/weight.h" /* lp_weight */

#define LP_SHAPE_TEXT 96

/* A tensor as it is in its file. */
typedef struct {
    lp_weight weight;   /* rank 1 is one row; other ranks than 1 and 2 have no rows */
    const char *path;   /* of its file */
    const char *format; /* name of a dtype that cannot be computed with; else NULL */
    size_t rank;
    char shape[LP_SHAPE_TEXT]; /* "[2048, 512]", for messages */
} lp_found_tensor;

typedef struct lp_tensors lp_tensors;
struct lp_tensors {
    const char *path; /* of the checkpoint, for messages */
    /* 1 with *out filled, or 0: there is no such tensor. */
    int (*find)(const lp_tensors *tensors, const char *name, lp_found_tensor *out);
    int (*is_mapped)(const lp_tensors *tensors);                      /* weights are pages of files */
    int (*check_unchanged)(const lp_tensors *tensors, lp_error *err); /* LP_ECHANGED: a file changed */
    void (*close)(lp_tensors *tensors);                               /* the interface, not the files */
};

#endif
