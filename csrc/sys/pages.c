/* pages.c - mmap, madvise and mincore. Unknown advice fails, as advice may. */
#define _GNU_SOURCE
#include "pages.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22 /* since Linux 5.14; a system that does not know it fails with EINVAL */
#endif
#if !defined(MADV_HUGEPAGE)
#define MADV_HUGEPAGE (-1)
#define MADV_NOHUGEPAGE (-1)
#endif

size_t lp_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

void *lp_pages_map(size_t n_bytes) {
    void *data = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return data == MAP_FAILED ? NULL : data;
}

void lp_pages_unmap(void *data, size_t n_bytes) { munmap(data, n_bytes); }

/* Advice for all pages that hold bytes of the range. */
static int advise(const void *data, size_t n_bytes, int advice) {
    size_t before = (uintptr_t)data % lp_page_bytes();
    return madvise((char *)(uintptr_t)data - before, n_bytes + before, advice);
}

void lp_pages_use_huge(const void *data, size_t n_bytes) { advise(data, n_bytes, MADV_HUGEPAGE); }
void lp_pages_use_small(const void *data, size_t n_bytes) { advise(data, n_bytes, MADV_NOHUGEPAGE); }

void lp_pages_discard(void *data, size_t n_bytes) {
    size_t page = lp_page_bytes(), skip = (page - (uintptr_t)data % page) % page;
    if (n_bytes < skip + page) return;
    madvise((char *)data + skip, (n_bytes - skip) / page * page, MADV_DONTNEED);
}

int lp_page_is_cold(const void *byte) {
    unsigned char resident[1] = {1};
    char *page = (char *)(uintptr_t)byte - (uintptr_t)byte % lp_page_bytes();
    return mincore(page, 1, (void *)resident) == 0 && !(resident[0] & 1);
}

void lp_pages_read(const void *data, size_t n_bytes) {
    if (advise(data, n_bytes, MADV_POPULATE_READ)) lp_pages_prefetch(data, n_bytes);
}

void lp_pages_prefetch(const void *data, size_t n_bytes) { advise(data, n_bytes, MADV_WILLNEED); }
