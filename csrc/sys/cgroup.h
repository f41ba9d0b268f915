/* cgroup.h - the limits of this process's cgroups. (size_t)-1: no limit, or none that can be read. */
#ifndef LP_CGROUP_H
#define LP_CGROUP_H

#include <stddef.h>

size_t lp_cgroup_cores(void);  /* the quota of CPU time, rounded up */
size_t lp_cgroup_memory(void); /* bytes that are left of the limit */

#endif
