/* system_macos.c - sysctl, and the counts of pages of the Mach kernel. There is no affinity mask and no cgroup. */
#include "system.h"

#if defined(__APPLE__)

#include <mach/mach.h>
#include <stdint.h>
#include <sys/sysctl.h>

#include "../base/size.h" /* lp_size_mul */

/* 0: unknown name. The system answers with 4 or 8 bytes; the CPU is little-endian. */
static size_t number(const char *name) {
    uint64_t value = 0;
    size_t n_bytes = sizeof value;
    return sysctlbyname(name, &value, &n_bytes, NULL, 0) ? 0 : (size_t)value;
}

size_t lp_system_cores(void) { return number("hw.activecpu"); }

/* Free pages, and those that hold what can be read again from its file. */
size_t lp_system_memory(void) {
    vm_statistics64_data_t pages;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    host_t host = mach_host_self();
    size_t n_bytes;
    int failed = host_statistics64(host, HOST_VM_INFO64, (host_info64_t)&pages, &count) != KERN_SUCCESS;
    mach_port_deallocate(mach_task_self(), host);
    if (failed) return (size_t)-1;
    size_t n = (size_t)pages.free_count + pages.inactive_count + pages.purgeable_count;
    return lp_size_mul(&n_bytes, n, number("hw.pagesize")) ? (size_t)-1 : n_bytes;
}

/* Of the fast cores, on CPUs that have two kinds; those have no third level. */
size_t lp_system_cache(void) {
    static const char *const names[] = {"hw.l3cachesize", "hw.perflevel0.l2cachesize", "hw.l2cachesize"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (number(names[i])) return number(names[i]);
    return 0;
}

#endif
