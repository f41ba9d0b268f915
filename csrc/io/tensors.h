/* tensors.h - the door to the weights of a checkpoint: by name, whatever container they lie in.
 *
 * A reader of a container format embeds an lp_tensors as the first member of what it keeps; lp_safetensors_tensors
 * makes the one of safetensors files. */
#ifndef LP_TENSORS_H
#define LP_TENSORS_H

#include "../base/error.h"  /* lp_error */
#include "../base/weight.h" /* lp_weight */

#define LP_SHAPE_TEXT 96

/* A tensor as its file has it. */
typedef struct {
    lp_weight weight;   /* of rank 1 one row; of another rank than 1 and 2 it has no rows */
    const char *path;   /* of its file */
    const char *format; /* the name of its dtype when that cannot be computed with, else NULL */
    size_t rank;
    char shape[LP_SHAPE_TEXT]; /* "[2048, 512]", for messages */
} lp_found_tensor;

typedef struct lp_tensors lp_tensors;
struct lp_tensors {
    const char *path; /* what messages call the checkpoint */
    /* 1 when it is there, and then *out is filled. */
    int (*find)(const lp_tensors *tensors, const char *name, lp_found_tensor *out);
    int (*is_mapped)(const lp_tensors *tensors);                      /* weights are pages of files */
    int (*check_unchanged)(const lp_tensors *tensors, lp_error *err); /* LP_ECHANGED: not what was opened */
    void (*close)(lp_tensors *tensors);                               /* of the door, not of the files behind it */
};

#endif
