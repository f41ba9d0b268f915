/* memory.c - anonymous maps for the big, aligned heap for the small. */
#define _GNU_SOURCE
#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "size.h" /* lp_size_add, lp_size_min */

#define HUGE_PAGE ((size_t)2 << 20)
#define TOUCH ((size_t)8 << 20) /* bytes that one job touches */
#define SMALL_PAGE 4096

static void touch(void *arg, size_t i, size_t worker) {
    const lp_block *block = arg;
    size_t end = lp_size_min((i + 1) * TOUCH, block->n_bytes);
    (void)worker;
    for (size_t at = i * TOUCH; at < end; at += SMALL_PAGE) ((volatile char *)block->data)[at] = 0;
}

static int reserve_small(lp_block *block, size_t n_bytes) {
    block->data = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    if (!block->data) return -1;
    block->n_bytes = n_bytes;
    return 0;
}

int lp_block_reserve(lp_block *block, size_t n_bytes) {
    memset(block, 0, sizeof *block);
    if (!n_bytes) return 0;
    if (n_bytes < HUGE_PAGE) return reserve_small(block, n_bytes);
    size_t mapped;
    if (lp_size_add(&mapped, n_bytes, HUGE_PAGE)) return -1;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return -1;
    /* unmap what lies before the first huge page: the block is freed from its own start */
    size_t before = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
    if (before) munmap(base, before);
    *block = (lp_block){base + before, n_bytes, mapped - before};
    madvise(block->data, block->mapped, MADV_HUGEPAGE); /* advice: without huge pages it is only slower */
    return 0;
}

int lp_block_make(lp_block *block, size_t n_bytes, const lp_crew *crew) {
    if (lp_block_reserve(block, n_bytes)) return -1;
    if (!block->mapped) {
        if (n_bytes) memset(block->data, 0, n_bytes);
        return 0;
    }
    if (!lp_pool_run(crew, (n_bytes + TOUCH - 1) / TOUCH, touch, block)) return 0;
    lp_block_free(block);
    return 1;
}

void lp_block_free(lp_block *block) {
    if (block->mapped)
        munmap(block->data, block->mapped);
    else
        free(block->data);
    memset(block, 0, sizeof *block);
}
