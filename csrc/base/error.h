/* error.h - why a call failed.
 *
 * Every function of the core that can fail takes an lp_error last and returns 0 or -1. On -1 the error holds
 * a status, which Python turns into an exception class, and one sentence that names the file, the tensor and both
 * numbers. The core never prints, exits or asserts on input. */
#ifndef LP_ERROR_H
#define LP_ERROR_H

#include <stddef.h>

#include "platform.h"

typedef enum {
    LP_OK,
    LP_ENOMEM,       /* out of memory */
    LP_EIO,          /* the operating system refused: open, read, map */
    LP_EFORMAT,      /* the bytes break the rules of their format, or contradict the config */
    LP_EUNSUPPORTED, /* well formed, but not something that can be run exactly */
    LP_EARG,         /* an argument is out of range or names something that does not exist */
    LP_EEDIT,        /* an edit that cannot be made, found while the run computes */
    LP_ECANCELED,    /* the poll said stop */
    LP_ECHANGED      /* the file changed since it was opened */
} lp_status;

typedef struct {
    lp_status status;
    int number;    /* the system's errno behind LP_EIO; 0 when there is none */
    char msg[512]; /* always terminated; cut at the end when it would be longer */
} lp_error;

#define LP_PRINTF(fmt_arg, first_arg) __attribute__((format(printf, fmt_arg, first_arg)))

/* Fills err (which may be NULL) and returns -1, so that `return lp_fail(...)` is the whole error path. */
int lp_fail(lp_error *err, lp_status status, const char *fmt, ...) LP_PRINTF(3, 4);

/* Untrusted bytes, made safe to print: printable ASCII stays, all else becomes \xNN, and a long name is cut and ends in
 * "...". Writes at most `size` bytes with the terminator, and returns dst. */
const char *lp_show(char *dst, size_t size, const char *bytes, size_t n_bytes);

#endif
