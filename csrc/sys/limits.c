/* limits.c - the smallest of all limits; one that is missing or unreadable does not count. */
#define _GNU_SOURCE
#include "limits.h"

#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cgroup.h"       /* lp_cgroup_cores, lp_cgroup_memory */
#include "proc.h"         /* lp_proc_line, lp_proc_number */
#include "../base/size.h" /* lp_size_min */

#define NONE LP_PROC_NONE
#define SMALL ((size_t)64 << 20) /* bytes that are not checked */

size_t lp_limits_affinity(void) {
#if defined(__linux__)
    for (int n_cpus = 1024; n_cpus <= 1 << 20; n_cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpus);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE((size_t)n_cpus);
        int failed = sched_getaffinity(0, size, set), n = failed ? 0 : CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (!failed && n > 0) return (size_t)n;
    }
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
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
    size_t kib = lp_proc_number("/proc/meminfo", "MemAvailable:"), least = kib == NONE ? NONE : kib * 1024;
    least = lp_size_min(least, lp_cgroup_memory());
    return lp_size_min(least, address_space_left());
}

int lp_limits_fit(size_t n_bytes) { return n_bytes <= SMALL || n_bytes <= lp_limits_memory(); }

int lp_limits_is_capped(void) {
    struct rlimit space, data;
    return getrlimit(RLIMIT_AS, &space) || space.rlim_cur != RLIM_INFINITY || getrlimit(RLIMIT_DATA, &data) ||
           data.rlim_cur != RLIM_INFINITY;
}

size_t lp_limits_cache(void) {
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return cache > 0 ? (size_t)cache : 0;
#else
    return 0;
#endif
}
