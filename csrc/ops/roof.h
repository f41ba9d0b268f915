/* roof.h - the peak of this machine, measured now, with the given number of threads: multiply-adds in registers, and
 * reading memory that no cache holds. Compare a run with the roof of its own process and minute: on a shared machine it
 * changes from one moment to the next. */
#ifndef LP_ROOF_H
#define LP_ROOF_H

#include "../base/error.h"      /* lp_error */
#include "../kernels/kernels.h" /* lp_kernels */
#include "../sys/pool.h"        /* lp_parallel */

typedef struct {
    double flops; /* per second, of the kernel variant; a multiply-add is two */
    double bytes; /* read per second */
} lp_roof;

/* Takes about a quarter of a second. LP_ENOMEM: no memory for an array larger than the caches; LP_ECANCELED: the poll
 * said stop. */
int lp_roof_measure(lp_roof *roof, const lp_kernels *kernels, const lp_parallel *parallel, lp_error *err);

#endif
