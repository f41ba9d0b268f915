/* memory.c - anonymous maps for the big, aligned heap for the small.
 *
 * An arena caches freed blocks: at most KEPT_BYTES and 1 / KEPT_SHARE of available memory, but never less than
 * FREELY_KEPT. A virtual machine gives free memory back to its host, and to have it again costs up to 5 ms for each
 * huge page (docs/speed.md). They count as used memory. MADV_FREE would let the system take them, but what is written
 * again counts as free ever after. */
#define _GNU_SOURCE
#include "memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "limits.h"       /* lp_limits_fit, lp_limits_memory */
#include "../base/size.h" /* lp_size_add, lp_size_min */

#define HUGE_PAGE ((size_t)2 << 20)
#define TOUCH ((size_t)8 << 20) /* bytes that one job touches */
#define SMALL_PAGE 4096
#define KEPT_BYTES ((size_t)1 << 30)
#define KEPT_BLOCKS 32
#define KEPT_SHARE 16
#define FREELY_KEPT ((size_t)64 << 20)

/* Oldest first. The lock is only tried: in a forked child nobody may be left to open it. */
struct lp_arena {
    pthread_mutex_t lock;
    lp_block blocks[KEPT_BLOCKS];
    size_t n;
    atomic_size_t n_bytes;
    atomic_size_t n_users; /* the owner, and every mapped block that is at work */
    atomic_int closed;
};

lp_arena *lp_arena_new(void) {
    lp_arena *arena = calloc(1, sizeof *arena);
    if (!arena) return NULL;
    pthread_mutex_init(&arena->lock, NULL);
    arena->n_users = 1;
    return arena;
}

static lp_block remove_kept(lp_arena *a, size_t i) {
    lp_block block = a->blocks[i];
    memmove(a->blocks + i, a->blocks + i + 1, (--a->n - i) * sizeof block);
    a->n_bytes -= block.mapped;
    return block;
}

/* Removes the oldest blocks until, with a new one of n_bytes, at most `most` bytes are kept: how many they were. */
static size_t make_room(lp_arena *a, lp_block *out, size_t n_bytes, size_t most) {
    size_t n = 0;
    while (a->n && (a->n == KEPT_BLOCKS || a->n_bytes + n_bytes > most)) out[n++] = remove_kept(a, 0);
    return n;
}

static void unmap(const lp_block *blocks, size_t n) {
    for (size_t i = 0; i < n; i++) munmap(blocks[i].data, blocks[i].mapped);
}

/* Where a process may have so much and no more, others could want what is kept. */
static int is_limited(void) {
    struct rlimit space, data;
    return getrlimit(RLIMIT_AS, &space) || space.rlim_cur != RLIM_INFINITY || getrlimit(RLIMIT_DATA, &data) ||
           data.rlim_cur != RLIM_INFINITY;
}

/* How much may be kept, of so much that is wanted: little is not worth asking the system how much it has. */
static size_t most_kept(size_t wanted) {
    if (wanted <= FREELY_KEPT) return FREELY_KEPT;
    size_t share = lp_limits_memory() / KEPT_SHARE;
    return share < FREELY_KEPT ? FREELY_KEPT : lp_size_min(KEPT_BYTES, share);
}

/* 1 when the block is kept. */
static int keep(lp_arena *a, lp_block block) {
    lp_block old[KEPT_BLOCKS];
    if (a->closed || is_limited()) return 0;
    size_t most = most_kept(a->n_bytes + block.mapped); /* before the lock: it takes long */
    if (block.mapped > most || pthread_mutex_trylock(&a->lock)) return 0;
    size_t n_old = make_room(a, old, block.mapped, most);
    a->blocks[a->n++] = block;
    a->n_bytes += block.mapped;
    pthread_mutex_unlock(&a->lock);
    unmap(old, n_old);
    return 1;
}

/* 1 when there is a kept block of about as many bytes; it holds what it held. */
static int take(lp_arena *a, lp_block *block, size_t n_bytes) {
    size_t best = KEPT_BLOCKS;
    if (n_bytes > KEPT_BYTES || pthread_mutex_trylock(&a->lock)) return 0;
    for (size_t i = 0; i < a->n; i++) {
        size_t mapped = a->blocks[i].mapped;
        if (mapped < n_bytes || mapped > n_bytes + n_bytes / 4 + HUGE_PAGE) continue;
        if (best == KEPT_BLOCKS || mapped < a->blocks[best].mapped) best = i;
    }
    if (best < KEPT_BLOCKS) *block = remove_kept(a, best), block->n_bytes = n_bytes;
    pthread_mutex_unlock(&a->lock);
    return best < KEPT_BLOCKS;
}

void lp_arena_release(lp_arena *a) {
    lp_block old[KEPT_BLOCKS];
    if (!a || pthread_mutex_trylock(&a->lock)) return;
    size_t n = make_room(a, old, 1, 0);
    pthread_mutex_unlock(&a->lock);
    unmap(old, n);
}

/* The last user sees to it that nothing is left, also of what was kept while the arena was closed. */
static void leave(lp_arena *a) {
    if (!a || atomic_fetch_sub(&a->n_users, 1) != 1) return;
    unmap(a->blocks, a->n);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void lp_arena_close(lp_arena *a) {
    if (!a) return;
    a->closed = 1;
    lp_arena_release(a);
    leave(a);
}

int lp_memory_fits(size_t n_bytes, lp_arena *arena) {
    if (lp_limits_fit(n_bytes)) return 1;
    lp_arena_release(arena);
    return lp_limits_fit(n_bytes);
}

static void touch(void *arg, size_t i, size_t worker) {
    const lp_block *block = arg;
    size_t end = lp_size_min((i + 1) * TOUCH, block->n_bytes);
    (void)worker;
    for (size_t at = i * TOUCH; at < end; at += SMALL_PAGE) ((volatile char *)block->data)[at] = 0;
}

static void clear(void *arg, size_t i, size_t worker) {
    const lp_block *block = arg;
    (void)worker;
    memset((char *)block->data + i * TOUCH, 0, lp_size_min(TOUCH, block->n_bytes - i * TOUCH));
}

static int reserve_small(lp_block *block, size_t n_bytes) {
    block->data = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    if (!block->data) return -1;
    block->n_bytes = n_bytes;
    return 0;
}

static void *map_memory(size_t n_bytes) {
    return mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int lp_block_reserve(lp_block *block, size_t n_bytes) {
    memset(block, 0, sizeof *block);
    if (!n_bytes) return 0;
    if (n_bytes < HUGE_PAGE) return reserve_small(block, n_bytes);
    size_t mapped;
    if (lp_size_add(&mapped, n_bytes, HUGE_PAGE)) return -1;
    char *base = map_memory(mapped);
    if (base == MAP_FAILED) return -1;
    /* unmap what lies before the first huge page: the block is freed from its own start */
    size_t before = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
    if (before) munmap(base, before);
    *block = (lp_block){.data = base + before, .n_bytes = n_bytes, .mapped = mapped - before};
    madvise(block->data, block->mapped, MADV_HUGEPAGE); /* advice: without huge pages it is only slower */
    return 0;
}

int lp_block_make(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_crew *crew) {
    int used = arena && n_bytes >= HUGE_PAGE && take(arena, block, n_bytes);
    if (!used && lp_block_reserve(block, n_bytes)) {
        lp_arena_release(arena);
        if (n_bytes < HUGE_PAGE || lp_block_reserve(block, n_bytes)) return -1;
    }
    if (!block->mapped) {
        if (n_bytes) memset(block->data, 0, n_bytes);
        return 0;
    }
    block->arena = arena;
    if (arena) arena->n_users++;
    if (!lp_pool_run(crew, (n_bytes + TOUCH - 1) / TOUCH, used ? clear : touch, block)) return 0;
    lp_block_free(block);
    return 1;
}

void lp_block_detach(lp_block *block) {
    leave(block->arena);
    block->arena = NULL;
}

void lp_block_free(lp_block *block) {
    lp_arena *arena = block->arena;
    if (!block->mapped)
        free(block->data);
    else if (!arena || !keep(arena, *block))
        munmap(block->data, block->mapped);
    memset(block, 0, sizeof *block);
    leave(arena);
}
