/* limits.c - the smallest of all limits; one that is missing or unreadable does not count. */
#define _POSIX_C_SOURCE 200809L
#include "limits.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cgroup.h"       /* lp_cgroup_cores, lp_cgroup_memory */
#include "proc.h"         /* lp_proc_line */
#include "system.h"       /* lp_system_cores, lp_system_memory */
#include "../base/size.h" /* lp_size_min */

#define NONE LP_PROC_NONE
#define SMALL ((size_t)64 << 20) /* bytes that are not checked */

size_t lp_limits_affinity(void) {
    size_t n = lp_system_cores();
    return n ? n : 1;
}

size_t lp_limits_cores(void) {
    size_t n = lp_size_min(lp_limits_affinity(), lp_cgroup_cores());
    return n ? n : 1;
}

static size_t address_space_left(void) {
    struct rlimit limit;
    unsigned long long pages;
    char line[128];
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return NONE;
    if (lp_proc_line("/proc/self/statm", line, sizeof line) || sscanf(line, "%llu", &pages) != 1) return NONE;
    size_t used = (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
    return limit.rlim_cur > used ? (size_t)limit.rlim_cur - used : 0;
}

size_t lp_limits_memory(void) {
    size_t least = lp_size_min(lp_system_memory(), lp_cgroup_memory());
    return lp_size_min(least, address_space_left());
}

int lp_limits_fit(size_t n_bytes) { return n_bytes <= SMALL || n_bytes <= lp_limits_memory(); }

int lp_limits_is_capped(void) {
    struct rlimit space, data;
    return getrlimit(RLIMIT_AS, &space) || space.rlim_cur != RLIM_INFINITY || getrlimit(RLIMIT_DATA, &data) ||
           data.rlim_cur != RLIM_INFINITY;
}

size_t lp_limits_cache(void) { return lp_system_cache(); }
