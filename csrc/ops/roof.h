/* roof.h - how fast this machine can be at most, measured now and on so many threads: multiply-adds in registers, and
 * reading memory that no cache holds. A run is compared with the roof of its own process and minute: a shared machine's
 * is not the same a moment later. */
#ifndef LP_ROOF_H
#define LP_ROOF_H

#include "../base/error.h"      /* lp_error */
#include "../kernels/kernels.h" /* lp_kernels */
#include "../sys/pool.h"        /* lp_crew */

typedef struct {
    double flops; /* per second, of the row of kernels; a multiply-add is two */
    double bytes; /* read per second */
} lp_roof;

/* Takes about a quarter of a second. LP_ENOMEM: no room for a stretch of memory that is larger than the caches;
 * LP_ECANCELED: poll said stop. */
int lp_roof_measure(lp_roof *roof, const lp_kernels *kernels, const lp_crew *crew, lp_error *err);

#endif
