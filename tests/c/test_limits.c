/* test_limits.c - cores and memory as affinity, cgroups and rlimits give them, on simulated machines.
 *
 * The wrappers give the core the files and limits of a test instead of those of this machine. */
#define _GNU_SOURCE
#include "check.h"
#include "systems.h"

#if defined(__linux__)

#include "../../csrc/sys/limits.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---------------------------------------------------------------- a machine */

typedef struct {
    const char *path, *text;
} machine_file;

typedef struct {
    machine_file files[16]; /* what is not here cannot be opened */
    int n_cpus;             /* in the affinity mask; 0: the system refuses */
    int mask_bits;          /* smaller masks are refused */
    rlim_t address_space;
} machine;

static const machine *here;

FILE *__wrap_fopen(const char *path, const char *mode);
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
int __wrap_getrlimit(int resource, struct rlimit *limit);
long __wrap_sysconf(int name);
long __real_sysconf(int name);

FILE *__wrap_fopen(const char *path, const char *mode) {
    (void)mode;
    for (const machine_file *f = here->files; f->path; f++)
        if (!strcmp(f->path, path)) return fmemopen((void *)(uintptr_t)f->text, strlen(f->text), "r");
    errno = ENOENT;
    return NULL;
}

int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    (void)pid;
    if (!here->n_cpus || size * 8 < (size_t)here->mask_bits) return errno = EINVAL, -1;
    CPU_ZERO_S(size, set);
    for (int i = 0; i < here->n_cpus; i++) CPU_SET_S((size_t)(2 * i), size, set);
    return 0;
}

int __wrap_getrlimit(int resource, struct rlimit *limit) {
    if (resource != RLIMIT_AS) return errno = EINVAL, -1;
    limit->rlim_cur = here->address_space;
    return 0;
}

long __wrap_sysconf(int name) { return name == _SC_NPROCESSORS_ONLN ? 3 : __real_sysconf(name); }

/* ---------------------------------------------------------------- the tests */

#define CGROUP "/sys/fs/cgroup"
#define NOT_SAID ((size_t)-1)
#define MIB ((size_t)1 << 20)

static const struct {
    const char *what;
    size_t cores, memory;
    machine machine;
} cases[] = {
    {"nothing is said", 3, NOT_SAID, {.address_space = RLIM_INFINITY}},
    {"affinity alone", 5, NOT_SAID, {.n_cpus = 5, .address_space = RLIM_INFINITY}},
    {"more CPUs than a small mask holds",
     7,
     NOT_SAID,
     {.n_cpus = 7, .mask_bits = 5000, .address_space = RLIM_INFINITY}},
    {"free memory",
     1,
     300 * MIB,
     {{{"/proc/meminfo", "MemTotal:  999999 kB\nMemAvailable:  307200 kB\nBuffers:  1 kB\n"}},
      .n_cpus = 1,
      .address_space = RLIM_INFINITY}},
    {"a quota at the root of the hierarchy is rounded up",
     2,
     NOT_SAID,
     {{{"/proc/self/cgroup", "0::/\n"}, {CGROUP "/cpu.max", "150000 100000\n"}},
      .n_cpus = 8,
      .address_space = RLIM_INFINITY}},
    {"no quota",
     8,
     NOT_SAID,
     {{{"/proc/self/cgroup", "0::/\n"}, {CGROUP "/cpu.max", "max 100000\n"}},
      .n_cpus = 8,
      .address_space = RLIM_INFINITY}},
    {"the smallest quota of all cgroups above",
     4,
     NOT_SAID,
     {{{"/proc/self/cgroup", "12:cpu:/old\n0::/a/b/c\n"},
       {CGROUP "/a/b/c/cpu.max", "max 100000\n"},
       {CGROUP "/a/b/cpu.max", "400000 100000\n"},
       {CGROUP "/a/cpu.max", "600000 100000\n"}},
      .n_cpus = 8,
      .address_space = RLIM_INFINITY}},
    {"numbers that make no sense limit nothing",
     8,
     NOT_SAID,
     {{{"/proc/self/cgroup", "0::/a\n"},
       {CGROUP "/a/cpu.max", "100000 0\n"},
       {CGROUP "/cpu.max", "\n"},
       {CGROUP "/a/memory.max", "max\n"},
       {CGROUP "/a/memory.current", "5\n"}},
      .n_cpus = 8,
      .address_space = RLIM_INFINITY}},
    {"what a cgroup has left, its file cache given back",
     1,
     60 * MIB,
     {{{"/proc/self/cgroup", "0::/a\n"},
       {"/proc/meminfo", "MemAvailable: 1048576 kB\n"},
       {CGROUP "/a/memory.max", "104857600\n"},
       {CGROUP "/a/memory.current", "52428800\n"},
       {CGROUP "/a/memory.stat", "anon 5\ninactive_file 6291456\nactive_file 4194304\n"}},
      .n_cpus = 1,
      .address_space = RLIM_INFINITY}},
    {"a cgroup that is full",
     1,
     0,
     {{{"/proc/self/cgroup", "0::/a\n"}, {CGROUP "/a/memory.max", "4096\n"}, {CGROUP "/a/memory.current", "8192\n"}},
      .n_cpus = 1,
      .address_space = RLIM_INFINITY}},
    {"what is left of the address space",
     1,
     90 * MIB,
     {{{"/proc/self/statm", "2560 1 1 1 0 1 0\n"}}, .n_cpus = 1, .address_space = 100 * MIB}},
    {"an address space that is used up",
     1,
     0,
     {{{"/proc/self/statm", "2560 1 1 1 0 1 0\n"}}, .n_cpus = 1, .address_space = MIB}},
    {"an address space of unknown use", 1, NOT_SAID, {.n_cpus = 1, .address_space = MIB}},
};

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        here = &cases[i].machine;
        size_t cores = lp_limits_cores(), memory = lp_limits_memory();
        int good = cores == cases[i].cores && memory == cases[i].memory;
        CHECK(good);
        if (!good) fprintf(stderr, "  %s: %zu cores, %zu bytes\n", cases[i].what, cores, memory);
        CHECK(lp_limits_fit(64 * MIB)); /* small enough to try without asking */
        CHECK(lp_limits_fit(64 * MIB + 1) == (memory > 64 * MIB));
    }
    return CHECK_REPORT();
}

#else
int main(void) { return not_run("the simulated machines have /proc and cgroups"); }
#endif
