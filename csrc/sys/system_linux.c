/* system_linux.c - the affinity mask, /proc/meminfo, and sysconf, which serves other POSIX systems too. */
#define _GNU_SOURCE
#include "system.h"

#if !defined(__APPLE__)

#include <sched.h>
#include <unistd.h>

#include "proc.h" /* lp_proc_number */

size_t lp_system_cores(void) {
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
    return online > 0 ? (size_t)online : 0;
}

size_t lp_system_memory(void) {
    size_t kib = lp_proc_number("/proc/meminfo", "MemAvailable:");
    return kib == LP_PROC_NONE ? LP_PROC_NONE : kib * 1024;
}

size_t lp_system_cache(void) {
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return cache > 0 ? (size_t)cache : 0;
#else
    return 0;
#endif
}

#endif
