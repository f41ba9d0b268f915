/* faults.h - allocations that fail when a test says so, and a count of what is live.
 *
 * The linker turns the core's calls into the wrappers below (-Wl,--wrap=...; the Makefile finds their names here).
 * What libc allocates for itself is not seen. A thread that cannot be made counts as an allocation too. */
#ifndef LP_FAULTS_H
#define LP_FAULTS_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#include "systems.h" /* REAL */

typedef struct {
    long after;       /* so many allocations still succeed; -1: all of them */
    int lasting;      /* whether those after the one that failed fail as well */
    int n_failed;     /* allocations that failed since it was last set to 0 */
    size_t n_bytes;   /* bytes requested since it was last set to 0 */
    long n_live;      /* blocks that were allocated and not freed */
    long live_mapped; /* bytes that were mapped and not unmapped */
} fault_state;

static fault_state faults = {.after = -1};

static int allocation_fails(size_t n_bytes) {
    faults.n_bytes += n_bytes;
    if (faults.after < 0 || faults.after-- > 0) return 0;
    faults.after = faults.lasting ? 0 : -1;
    faults.n_failed++;
    return 1;
}

static void *counted(void *block) {
    if (block) faults.n_live++;
    return block;
}

static long whole_pages(size_t n_bytes) { return (long)((n_bytes + 4095) / 4096 * 4096); }

typedef void *(*thread_main)(void *);

void *__real_malloc(size_t n) REAL(malloc);
void *__real_calloc(size_t n, size_t size) REAL(calloc);
void *__real_aligned_alloc(size_t alignment, size_t n) REAL(aligned_alloc);
void __real_free(void *block) REAL(free);
void *__real_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) REAL(mmap);
int __real_munmap(void *at, size_t n) REAL(munmap);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, thread_main fn, void *arg)
    REAL(pthread_create);

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
void __wrap_free(void *block);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t n);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, thread_main fn, void *arg);

void *__wrap_malloc(size_t n) { return allocation_fails(n) ? NULL : counted(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) {
    return allocation_fails(n * size) ? NULL : counted(__real_calloc(n, size));
}
void *__wrap_aligned_alloc(size_t alignment, size_t n) {
    return allocation_fails(n) ? NULL : counted(__real_aligned_alloc(alignment, n));
}
void __wrap_free(void *block) {
    if (block) faults.n_live--;
    __real_free(block);
}

void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
    if (allocation_fails(n)) return errno = ENOMEM, MAP_FAILED;
    void *mapped = __real_mmap(at, n, protection, flags, fd, offset);
    if (mapped != MAP_FAILED) faults.live_mapped += whole_pages(n);
    return mapped;
}
int __wrap_munmap(void *at, size_t n) {
    faults.live_mapped -= whole_pages(n);
    return __real_munmap(at, n);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, thread_main fn, void *arg) {
    return allocation_fails(0) ? EAGAIN : __real_pthread_create(thread, attributes, fn, arg);
}

#endif
