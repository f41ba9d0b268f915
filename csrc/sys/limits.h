/* limits.h - how much of the machine this process may use: affinity, cgroup quotas and rlimits counted in. */
#ifndef LP_LIMITS_H
#define LP_LIMITS_H

#include <stddef.h>

/* Cores of the affinity mask, at least 1. */
size_t lp_limits_affinity(void);

/* The same, capped by the cgroup's CPU quota rounded up. */
size_t lp_limits_cores(void);

/* Bytes available without swapping: the smallest of MemAvailable and what is left of the cgroup's limit and of
 * RLIMIT_AS. (size_t)-1 when the system does not say. */
size_t lp_limits_memory(void);

/* Whether n_bytes are available. Small sizes always are: reading /proc at every run costs more than a failed malloc. */
int lp_limits_fit(size_t n_bytes);

/* Whether an rlimit caps the address space or the data of this process. */
int lp_limits_is_capped(void);

/* Bytes of the last-level cache; 0 when the system does not say. */
size_t lp_limits_cache(void);

#endif
