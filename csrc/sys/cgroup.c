/* cgroup.c - the cgroups of this process, version 1 and 2; a missing file sets no limit. */
#include "cgroup.h"

#include <stdio.h>
#include <string.h>

#include "proc.h"         /* lp_proc_line, lp_proc_number */
#include "../base/size.h" /* lp_size_min */

#define PATH_BYTES 4096
#define FILE_BYTES (PATH_BYTES + 128)
#define NO_LIMIT (1LL << 62) /* version 1 writes a number near 2^63 */
#define NONE LP_PROC_NONE

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

/* The number in a file of a cgroup; NONE for "max", -1 and the like, which mean no limit. */
static size_t cgroup_number(const char *folder, const char *name) {
    char file[FILE_BYTES], line[128];
    long long value;
    snprintf(file, sizeof file, "%s/%s", folder, name);
    if (lp_proc_line(file, line, sizeof line) || sscanf(line, "%lld", &value) != 1) return NONE;
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
    if (lp_proc_line(file, line, sizeof line) || sscanf(line, "%llu %llu", &quota, &period) != 2) return NONE;
    return cores_of((size_t)quota, (size_t)period);
}

static size_t quota_v1(const char *folder) {
    return cores_of(cgroup_number(folder, "cpu.cfs_quota_us"), cgroup_number(folder, "cpu.cfs_period_us"));
}

/* "key 123" of a cgroup's memory.stat; 0 when it is not there. */
static size_t memory_stat(const char *folder, const char *key) {
    char file[FILE_BYTES];
    snprintf(file, sizeof file, "%s/memory.stat", folder);
    size_t n = lp_proc_number(file, key);
    return n == NONE ? 0 : n;
}

/* The page cache, with a mapped model, counts as used but is reclaimed on demand. */
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

/* The smallest limit of this process's cgroup and its ancestors. A container may see its part of the tree as the root:
 * folders that do not exist set no limit. */
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

size_t lp_cgroup_cores(void) { return smallest(quotas); }
size_t lp_cgroup_memory(void) { return smallest(memories); }
