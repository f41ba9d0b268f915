/* limits.h - how much of the machine this process may use: affinity, cgroup quotas and rlimits counted in. */
#ifndef LP_LIMITS_H
#define LP_LIMITS_H

#include <stddef.h>

/* Cores: the affinity mask, cut by the cgroup's CPU quota rounded up. At least 1. */
size_t lp_limits_cores(void);

/* Bytes that can be had without swapping: MemAvailable, what is left of the cgroup's limit and of RLIMIT_AS, the
 * smallest of them. (size_t)-1 when the system says nothing. */
size_t lp_limits_memory(void);

/* Whether n_bytes can be had. Small sizes are not worth reading /proc for at every run: the allocation tells. */
int lp_limits_fit(size_t n_bytes);

#endif
