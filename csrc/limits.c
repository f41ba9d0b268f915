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
#define FILE_BYTES (PATH_BYTES + 128)
#define NO_LIMIT (1LL << 62) /* version 1 says so with a number near 2^63 */
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

/* Version 2 of cgroups has one tree of folders, version 1 one for each controller. */
typedef struct {
    const char *controllers, *mount;
    size_t (*limit)(const char *folder);
} tree;

static int has_word(const char *list, size_t n, const char *word) {
    size_t length = strlen(word);
    for (const char *end = list + n; list <= end; list += strcspn(list, ",:") + 1)
        if (strcspn(list, ",:") == length && !strncmp(list, word, length)) return 1;
    return 0;
}

/* This process's folder below the mount, from the line "7:cpu,cpuacct:/path"; "" when it is the root or unknown. */
static void own_cgroup(const char *controller, char *path, size_t size) {
    char line[PATH_BYTES];
    path[0] = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        char *list = strchr(line, ':'), *own = list ? strchr(list + 1, ':') : NULL;
        if (!own || !has_word(list + 1, (size_t)(own - list - 1), controller)) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, size, "%s", own + 1);
    }
    fclose(f);
    if (!strcmp(path, "/")) path[0] = 0;
}

/* The number in a file of a cgroup; NONE for "max", and for -1 and the like, which say the same. */
static size_t cgroup_number(const char *folder, const char *name) {
    char file[FILE_BYTES], line[128];
    long long value;
    snprintf(file, sizeof file, "%s/%s", folder, name);
    if (read_line(file, line, sizeof line) || sscanf(line, "%lld", &value) != 1) return NONE;
    return value < 0 || value >= NO_LIMIT ? NONE : (size_t)value;
}

static size_t cores_of(size_t quota, size_t period) {
    return quota == NONE || period == NONE || !period ? NONE : quota / period + (quota % period > 0);
}

/* cpu.max is "quota period" or "max period". */
static size_t quota_v2(const char *folder) {
    char file[FILE_BYTES], line[128];
    unsigned long long quota, period;
    snprintf(file, sizeof file, "%s/cpu.max", folder);
    if (read_line(file, line, sizeof line) || sscanf(line, "%llu %llu", &quota, &period) != 2) return NONE;
    return cores_of((size_t)quota, (size_t)period);
}

static size_t quota_v1(const char *folder) {
    return cores_of(cgroup_number(folder, "cpu.cfs_quota_us"), cgroup_number(folder, "cpu.cfs_period_us"));
}

/* "key 123" of a cgroup's memory.stat; 0 when it is not there. */
static size_t memory_stat(const char *folder, const char *key) {
    char file[FILE_BYTES], line[128];
    size_t found = 0, n = strlen(key);
    snprintf(file, sizeof file, "%s/memory.stat", folder);
    FILE *f = fopen(file, "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, n)) found = (size_t)strtoull(line + n, NULL, 10);
    fclose(f);
    return found;
}

/* The cache of files counts as used, a mapped model with it, but is given back when memory is asked for. */
static size_t memory_left(size_t max, size_t used, size_t cache) {
    if (max == NONE || used == NONE) return NONE;
    used -= lp_size_min(used, cache);
    return max > used ? max - used : 0;
}

static size_t memory_v2(const char *folder) {
    return memory_left(cgroup_number(folder, "memory.max"), cgroup_number(folder, "memory.current"),
                       memory_stat(folder, "inactive_file ") + memory_stat(folder, "active_file "));
}

static size_t memory_v1(const char *folder) {
    return memory_left(cgroup_number(folder, "memory.limit_in_bytes"), cgroup_number(folder, "memory.usage_in_bytes"),
                       memory_stat(folder, "total_inactive_file ") + memory_stat(folder, "total_active_file "));
}

/* The smallest limit of this process's cgroup and of all above it: each may have its own. A container may see only
 * its part of the tree, and that as the root: folders that are not there limit nothing. */
static size_t smallest_above(const tree *t) {
    char own[PATH_BYTES], folder[PATH_BYTES + 64];
    size_t least = NONE;
    own_cgroup(t->controllers, own, sizeof own);
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", t->mount, own);
        least = lp_size_min(least, t->limit(folder));
        char *slash = strrchr(own, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

static size_t smallest(const tree trees[2]) {
    return lp_size_min(smallest_above(&trees[0]), smallest_above(&trees[1]));
}

static const tree quotas[2] = {{"", "/sys/fs/cgroup", quota_v2}, {"cpu", "/sys/fs/cgroup/cpu", quota_v1}};
static const tree memories[2] = {{"", "/sys/fs/cgroup", memory_v2}, {"memory", "/sys/fs/cgroup/memory", memory_v1}};

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
    size_t n = lp_size_min(affinity_cores(), smallest(quotas));
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
    least = lp_size_min(least, smallest(memories));
    return lp_size_min(least, address_space_left());
}

int lp_limits_fit(size_t n_bytes) { return n_bytes <= WORTH_ASKING || n_bytes <= lp_limits_memory(); }
