/* limits.c - reads /proc and the cgroup files; what is missing or unreadable limits nothing. */
#define _GNU_SOURCE
#include "limits.h"

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "size.h" /* lp_size_min */

#define PATH_BYTES 4096
#define NONE ((size_t)-1)
#define WORTH_ASKING ((size_t)64 << 20) /* bytes */

/* The first line of a file; 0 when it could be read. */
static int read_line(const char *path, char *line, int size) {
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    char *got = fgets(line, size, f);
    fclose(f);
    return got ? 0 : -1;
}

/* "Key:  123 kB" of a /proc file, in bytes. */
static size_t read_kib(const char *path, const char *key) {
    char line[256];
    size_t found = NONE, n = strlen(key);
    FILE *f = fopen(path, "re");
    if (!f) return NONE;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, n)) found = (size_t)strtoull(line + n, NULL, 10) * 1024;
    fclose(f);
    return found;
}

/* The cgroup v2 folder of this process below /sys/fs/cgroup, "" when it is the root or unknown. */
static void own_cgroup(char *path, size_t size) {
    char line[PATH_BYTES];
    path[0] = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4)) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, size, "%s", line + 3);
    }
    fclose(f);
    if (!strcmp(path, "/")) path[0] = 0;
}

/* cpu.max is "quota period" or "max period". */
static size_t quota_cores(const char *folder) {
    char file[PATH_BYTES + 64], line[128];
    unsigned long long quota, period;
    snprintf(file, sizeof file, "/sys/fs/cgroup%s/cpu.max", folder);
    if (read_line(file, line, sizeof line) || sscanf(line, "%llu %llu", &quota, &period) != 2 || !period) return NONE;
    return (size_t)((quota + period - 1) / period);
}

static size_t cgroup_number(const char *folder, const char *name) {
    char file[PATH_BYTES + 64], line[128];
    unsigned long long value;
    snprintf(file, sizeof file, "/sys/fs/cgroup%s/%s", folder, name);
    return read_line(file, line, sizeof line) || sscanf(line, "%llu", &value) != 1 ? NONE : (size_t)value;
}

/* "key 123" of a cgroup's memory.stat; 0 when it is not there. */
static size_t memory_stat(const char *folder, const char *key) {
    char file[PATH_BYTES + 64], line[128];
    size_t found = 0, n = strlen(key);
    snprintf(file, sizeof file, "/sys/fs/cgroup%s/memory.stat", folder);
    FILE *f = fopen(file, "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, n)) found = (size_t)strtoull(line + n, NULL, 10);
    fclose(f);
    return found;
}

/* The cache of files counts as used, a mapped model with it, but is given back when memory is asked for. */
static size_t memory_left(const char *folder) {
    size_t max = cgroup_number(folder, "memory.max"), used = cgroup_number(folder, "memory.current");
    if (max == NONE || used == NONE) return NONE;
    size_t cache = memory_stat(folder, "inactive_file ") + memory_stat(folder, "active_file ");
    used -= lp_size_min(used, cache);
    return max > used ? max - used : 0;
}

/* The smallest value of `limit` over this process's cgroup and all above it: each may have its own. */
static size_t smallest_above(size_t (*limit)(const char *folder)) {
    char folder[PATH_BYTES];
    size_t least = NONE;
    own_cgroup(folder, sizeof folder);
    for (;;) {
        least = lp_size_min(least, limit(folder));
        char *slash = strrchr(folder, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

static size_t affinity_cores(void) {
    for (int n_cpus = 1024; n_cpus <= 1 << 20; n_cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpus);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE((size_t)n_cpus);
        int failed = sched_getaffinity(0, size, set), n = failed ? 0 : CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (!failed && n > 0) return (size_t)n;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

size_t lp_limits_cores(void) {
    size_t n = lp_size_min(affinity_cores(), smallest_above(quota_cores));
    return n ? n : 1;
}

static size_t address_space_left(void) {
    struct rlimit limit;
    unsigned long long pages;
    char line[128];
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return NONE;
    if (read_line("/proc/self/statm", line, sizeof line) || sscanf(line, "%llu", &pages) != 1) return NONE;
    size_t used = (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
    return limit.rlim_cur > used ? (size_t)limit.rlim_cur - used : 0;
}

size_t lp_limits_memory(void) {
    size_t least = read_kib("/proc/meminfo", "MemAvailable:");
    least = lp_size_min(least, smallest_above(memory_left));
    return lp_size_min(least, address_space_left());
}

int lp_limits_fit(size_t n_bytes) { return n_bytes <= WORTH_ASKING || n_bytes <= lp_limits_memory(); }
