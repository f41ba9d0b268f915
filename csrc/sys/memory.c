/* memory.c - anonymous mappings for big blocks, the aligned heap for small ones.
 *
 * An arena caches freed blocks: at most CACHE_BYTES and 1 / CACHE_SHARE of available memory, but never less than
 * CACHE_MIN_BYTES. A virtual machine returns free memory to its host, and taking it again costs up to 5 ms per huge
 * page (docs/speed-log.md). Cached blocks count as used memory: MADV_FREE would let the system take them, but pages
 * written again after it are counted as free from then on. */
#include "memory.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>

#include "limits.h"       /* lp_limits_fit, lp_limits_memory */
#include "pages.h"        /* lp_pages_map, lp_pages_unmap */
#include "../base/size.h" /* lp_size_add, lp_size_min */

#define HUGE_PAGE ((size_t)2 << 20)
#define TOUCH_BYTES ((size_t)8 << 20) /* of one job */
#define SMALL_PAGE 4096
#define CACHE_BYTES ((size_t)1 << 30)
#define CACHE_BLOCKS 32
#define CACHE_SHARE 16
#define CACHE_MIN_BYTES ((size_t)64 << 20)

/* Oldest block first. The lock is only tried: in a forked child its holder may not exist. */
struct lp_arena {
    pthread_mutex_t lock;
    lp_block blocks[CACHE_BLOCKS];
    size_t n;
    atomic_size_t n_bytes;
    atomic_size_t n_users; /* the owner, and every mapped block in use */
    atomic_int closed;
};

lp_arena *lp_arena_new(void) {
    lp_arena *arena = calloc(1, sizeof *arena);
    if (!arena) return NULL;
    pthread_mutex_init(&arena->lock, NULL);
    arena->n_users = 1;
    return arena;
}

static lp_block remove_cached(lp_arena *a, size_t i) {
    lp_block block = a->blocks[i];
    memmove(a->blocks + i, a->blocks + i + 1, (--a->n - i) * sizeof block);
    a->n_bytes -= block.mapped;
    return block;
}

/* Evicts the oldest blocks until, with a new one of n_bytes, the cache has at most max_bytes; returns how many. */
static size_t evict(lp_arena *a, lp_block *out, size_t n_bytes, size_t max_bytes) {
    size_t n = 0;
    while (a->n && (a->n == CACHE_BLOCKS || a->n_bytes + n_bytes > max_bytes)) out[n++] = remove_cached(a, 0);
    return n;
}

static void unmap(const lp_block *blocks, size_t n) {
    for (size_t i = 0; i < n; i++) lp_pages_unmap(blocks[i].data, blocks[i].mapped);
}

/* Most bytes the cache may hold. Small caches skip reading how much memory is available. */
static size_t max_cached(size_t n_bytes) {
    if (n_bytes <= CACHE_MIN_BYTES) return CACHE_MIN_BYTES;
    size_t share = lp_limits_memory() / CACHE_SHARE;
    return share < CACHE_MIN_BYTES ? CACHE_MIN_BYTES : lp_size_min(CACHE_BYTES, share);
}

/* 1 when the block is cached. Under an rlimit the rest of the process may need the memory: nothing is. */
static int cache(lp_arena *a, lp_block block) {
    lp_block old[CACHE_BLOCKS];
    if (a->closed || lp_limits_is_capped()) return 0;
    size_t max_bytes = max_cached(a->n_bytes + block.mapped); /* before the lock: it takes long */
    if (block.mapped > max_bytes || pthread_mutex_trylock(&a->lock)) return 0;
    size_t n_old = evict(a, old, block.mapped, max_bytes);
    a->blocks[a->n++] = block;
    a->n_bytes += block.mapped;
    pthread_mutex_unlock(&a->lock);
    unmap(old, n_old);
    return 1;
}

/* 1 when a cached block has about so many bytes; its contents are those of its last use. */
static int take_cached(lp_arena *a, lp_block *block, size_t n_bytes) {
    size_t best = CACHE_BLOCKS;
    if (n_bytes > CACHE_BYTES || pthread_mutex_trylock(&a->lock)) return 0;
    for (size_t i = 0; i < a->n; i++) {
        size_t mapped = a->blocks[i].mapped;
        if (mapped < n_bytes || mapped > n_bytes + n_bytes / 4 + HUGE_PAGE) continue;
        if (best == CACHE_BLOCKS || mapped < a->blocks[best].mapped) best = i;
    }
    if (best < CACHE_BLOCKS) *block = remove_cached(a, best), block->n_bytes = n_bytes;
    pthread_mutex_unlock(&a->lock);
    return best < CACHE_BLOCKS;
}

void lp_arena_release(lp_arena *a) {
    lp_block old[CACHE_BLOCKS];
    if (!a || pthread_mutex_trylock(&a->lock)) return;
    size_t n = evict(a, old, 1, 0);
    pthread_mutex_unlock(&a->lock);
    unmap(old, n);
}

/* The last user frees the arena, with any block cached while it was being closed. */
static void drop_user(lp_arena *a) {
    if (!a || atomic_fetch_sub(&a->n_users, 1) != 1) return;
    unmap(a->blocks, a->n);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void lp_arena_close(lp_arena *a) {
    if (!a) return;
    a->closed = 1;
    lp_arena_release(a);
    drop_user(a);
}

int lp_memory_fits(size_t n_bytes, lp_arena *arena) {
    if (lp_limits_fit(n_bytes)) return 1;
    lp_arena_release(arena);
    return lp_limits_fit(n_bytes);
}

static void touch_job(void *arg, size_t i, size_t worker) {
    const lp_block *block = arg;
    size_t end = lp_size_min((i + 1) * TOUCH_BYTES, block->n_bytes);
    (void)worker;
    for (size_t at = i * TOUCH_BYTES; at < end; at += SMALL_PAGE) ((volatile char *)block->data)[at] = 0;
}

static void clear_job(void *arg, size_t i, size_t worker) {
    const lp_block *block = arg;
    (void)worker;
    memset((char *)block->data + i * TOUCH_BYTES, 0, lp_size_min(TOUCH_BYTES, block->n_bytes - i * TOUCH_BYTES));
}

int lp_block_reserve(lp_block *block, size_t n_bytes) {
    size_t mapped;
    memset(block, 0, sizeof *block);
    if (!n_bytes) return 0;
    if (n_bytes < HUGE_PAGE) {
        block->data = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
        if (block->data) block->n_bytes = n_bytes;
        return block->data ? 0 : -1;
    }
    if (lp_size_add(&mapped, n_bytes, HUGE_PAGE)) return -1;
    char *base = lp_pages_map(mapped);
    if (!base) return -1;
    /* unmap what lies before the first huge page: the block is freed from its own start */
    size_t before = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
    if (before) lp_pages_unmap(base, before);
    *block = (lp_block){.data = base + before, .n_bytes = n_bytes, .mapped = mapped - before};
    lp_pages_use_huge(block->data, block->mapped);
    return 0;
}

static int make_block(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_parallel *parallel, int dirty) {
    int reused = arena && n_bytes >= HUGE_PAGE && take_cached(arena, block, n_bytes);
    if (!reused && lp_block_reserve(block, n_bytes)) {
        lp_arena_release(arena);
        if (n_bytes < HUGE_PAGE || lp_block_reserve(block, n_bytes)) return -1;
    }
    if (!block->mapped) {
        if (n_bytes) memset(block->data, 0, n_bytes);
        return 0;
    }
    block->arena = arena;
    if (arena) arena->n_users++;
    if (dirty) return 0;
    size_t n_jobs = (n_bytes + TOUCH_BYTES - 1) / TOUCH_BYTES;
    if (!lp_pool_run(parallel, n_jobs, reused ? clear_job : touch_job, block)) return 0;
    lp_block_free(block);
    return 1;
}

int lp_block_make(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_parallel *parallel) {
    return make_block(block, n_bytes, arena, parallel, 0);
}

int lp_block_make_dirty(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_parallel *parallel) {
    return make_block(block, n_bytes, arena, parallel, 1);
}

void lp_block_discard(lp_block *block, size_t from, size_t to) {
    if (block->arena) { /* huge pages would fill the holes again */
        drop_user(block->arena);
        block->arena = NULL;
        lp_pages_use_small(block->data, block->mapped);
        lp_pages_discard((char *)block->data + block->n_bytes, block->mapped - block->n_bytes);
    }
    lp_pages_discard((char *)block->data + from, to - from);
}

void lp_block_free(lp_block *block) {
    lp_arena *arena = block->arena;
    if (!block->mapped)
        free(block->data);
    else if (!arena || !cache(arena, *block))
        lp_pages_unmap(block->data, block->mapped);
    memset(block, 0, sizeof *block);
    drop_user(arena);
}
