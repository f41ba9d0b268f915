/* test_memory.c - blocks are zeroed, aligned, and can be written to their last byte; making one can be stopped. */
#define _DEFAULT_SOURCE
#include "../../csrc/sys/memory.h"
#include "../../csrc/sys/limits.h" /* lp_limits_memory */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "check.h"

#define HUGE_PAGE ((size_t)2 << 20)

static lp_arena *arena; /* of all checks but those of arenas */

static int stop_later(void *polls_left) { return --*(int *)polls_left < 0; }

static void check_block(size_t n_bytes, size_t n_threads) {
    lp_parallel parallel = {n_threads, NULL, NULL};
    lp_block block;
    CHECK(lp_block_make(&block, n_bytes, arena, &parallel) == 0);
    unsigned char *bytes = block.data;
    CHECK(block.n_bytes == n_bytes && (uintptr_t)bytes % (n_bytes < HUGE_PAGE ? 64 : HUGE_PAGE) == 0);
    CHECK(bytes[0] == 0 && !memcmp(bytes, bytes + 1, n_bytes - 1));
    memset(bytes, 0xA5, n_bytes);
    lp_block_free(&block);
    CHECK(!block.data && !block.n_bytes);
    lp_block_free(&block);
}

/* Not even touched: the pages of a large one do not exist yet. */
static void check_reserve(size_t n_bytes) {
    lp_block block;
    unsigned char pages[8] = {0};
    CHECK(lp_block_reserve(&block, n_bytes) == 0 && block.n_bytes == n_bytes);
    CHECK((uintptr_t)block.data % (n_bytes < HUGE_PAGE ? 64 : HUGE_PAGE) == 0);
    if (n_bytes >= HUGE_PAGE)
        CHECK(mincore(block.data, 8 * 4096, (void *)pages) == 0 && !(pages[0] & 1) && !(pages[7] & 1));
    memset(block.data, 0xA5, n_bytes);
    lp_block_free(&block);
}

static int is_zero(const lp_block *block) {
    const unsigned char *bytes = block->data;
    return bytes[0] == 0 && !memcmp(bytes, bytes + 1, block->n_bytes - 1);
}

static int is_mapped(void *at) {
    unsigned char page;
    return mincore(at, 4096, (void *)&page) == 0;
}

/* A freed block serves the next that is about as large, zeroed, and no other. */
static void check_cached(void) {
    lp_parallel parallel = {2, NULL, NULL};
    lp_block a, b;
    CHECK(lp_block_make(&a, 20 * HUGE_PAGE, arena, &parallel) == 0);
    void *first = a.data;
    memset(first, 0xA5, a.n_bytes);
    lp_block_free(&a);
    CHECK(is_mapped(first));
    CHECK(lp_block_make(&b, 40 * HUGE_PAGE, arena, &parallel) == 0 && b.data != first);
    CHECK(lp_block_make(&a, 19 * HUGE_PAGE + 5, arena, &parallel) == 0 && a.data == first &&
          a.n_bytes == 19 * HUGE_PAGE + 5);
    CHECK(is_zero(&a));
    ((char *)a.data)[5] = 7, lp_block_free(&a);
    CHECK(lp_block_make_dirty(&a, 20 * HUGE_PAGE, arena, &parallel) == 0 && a.data == first &&
          ((char *)a.data)[5] == 7);
    lp_block_free(&a), lp_block_free(&b);
    CHECK(lp_block_make(&a, 8 * HUGE_PAGE, arena, &parallel) == 0); /* neither is: too much would lie idle */
    CHECK(a.mapped < 16 * HUGE_PAGE);
    lp_block_free(&a);
    lp_arena_release(arena);
    CHECK(!is_mapped(first));
    CHECK(lp_block_reserve(&a, 20 * HUGE_PAGE) == 0);
    first = a.data;
    lp_block_free(&a);
    CHECK(!is_mapped(first)); /* no later block is of this size */
}

/* The cache holds no more than memory.c says: the newest blocks. */
static void check_most_cached(int n, size_t n_bytes, size_t most) {
    enum { MOST = 36 };
    lp_parallel parallel = {2, NULL, NULL};
    lp_block block[MOST];
    void *at[MOST];
    size_t n_kept = 0;
    for (int i = 0; i < n; i++) CHECK(lp_block_make(&block[i], n_bytes, arena, &parallel) == 0);
    for (int i = 0; i < n; i++) at[i] = block[i].data;
    for (int i = 0; i < n; i++) lp_block_free(&block[i]);
    for (int i = 0; i < n; i++) n_kept += (size_t)is_mapped(at[i]);
    CHECK(n_kept >= 3 && n_kept <= 32 && n_kept * n_bytes <= most);
    CHECK(is_mapped(at[n - 1]) && !is_mapped(at[0]));
    lp_arena_release(arena);
    for (int i = 0; i < n; i++) CHECK(!is_mapped(at[i]));
}

/* Nothing is cached without an arena, in another one, or when its owner has closed it; blocks may outlive it. */
static void check_arenas(void) {
    lp_parallel parallel = {1, NULL, NULL};
    lp_arena *own = lp_arena_new(), *other = lp_arena_new();
    lp_block a, b;
    CHECK(own && other);
    CHECK(lp_block_make(&a, 20 * HUGE_PAGE, NULL, &parallel) == 0);
    void *at = a.data;
    lp_block_free(&a);
    CHECK(!is_mapped(at));
    CHECK(lp_block_make(&a, 20 * HUGE_PAGE, own, &parallel) == 0);
    at = a.data;
    lp_block_free(&a);
    CHECK(is_mapped(at));
    CHECK(lp_block_make(&b, 20 * HUGE_PAGE, other, &parallel) == 0 && b.data != at);
    lp_arena_release(other);
    CHECK(is_mapped(at));
    CHECK(lp_block_make(&a, 20 * HUGE_PAGE, own, &parallel) == 0 && a.data == at);
    lp_block_free(&a);
    lp_arena_close(own);
    CHECK(!is_mapped(at));
    lp_arena_close(other);
    at = b.data;
    memset(at, 1, b.n_bytes);
    lp_block_free(&b);
    CHECK(!is_mapped(at));
    lp_arena_close(NULL);
    lp_arena_release(NULL);
}

static size_t mapped_bytes(void) {
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%llu", &pages) == 1);
    if (f) fclose(f);
    return (size_t)pages * 4096;
}

/* Cached blocks are freed when a larger block needs the memory, and nothing is cached under an rlimit. */
static void check_released(void) {
    lp_parallel parallel = {1, NULL, NULL};
    struct rlimit old = {0}, limit;
    lp_block a;
    for (int ask = 0; ask < 2; ask++) { /* the second time mmap itself fails at first */
        CHECK(getrlimit(RLIMIT_AS, &old) == 0 && lp_block_make(&a, 28 * HUGE_PAGE, arena, &parallel) == 0);
        lp_block_free(&a);
        limit = old;
        limit.rlim_cur = (rlim_t)(mapped_bytes() + 24 * HUGE_PAGE); /* 52 without the cache */
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        if (!ask) CHECK(lp_memory_fits(40 * HUGE_PAGE, arena) && !lp_memory_fits(60 * HUGE_PAGE, arena));
        CHECK(lp_block_make(&a, 40 * HUGE_PAGE, arena, &parallel) == 0);
        void *at = a.data;
        lp_block_free(&a);
        CHECK(!is_mapped(at));
        CHECK(setrlimit(RLIMIT_AS, &old) == 0);
    }
    CHECK(lp_memory_fits(0, NULL) && !lp_memory_fits(SIZE_MAX, NULL));
}

static void *make_and_free(void *seed) {
    lp_parallel parallel = {1, NULL, NULL};
    for (size_t i = 0; i < 40; i++) {
        lp_block a;
        int failed = lp_block_make(&a, (1 + (i * 7 + (uintptr_t)seed) % 4) * HUGE_PAGE, arena, &parallel);
        if (failed || !is_zero(&a)) return seed;
        memset(a.data, 0xA5, a.n_bytes);
        if (i % 16 == 15) lp_arena_release(arena);
        lp_block_free(&a);
    }
    return NULL;
}

/* Threads share the cache, but no block in use. */
static void check_threads(void) {
    enum { N = 4 };
    static char seeds[N];
    pthread_t thread[N];
    void *wrong;
    for (int i = 0; i < N; i++) CHECK(pthread_create(&thread[i], NULL, make_and_free, seeds + i) == 0);
    for (int i = 0; i < N; i++) CHECK(pthread_join(thread[i], &wrong) == 0 && !wrong);
    lp_arena_release(arena);
}

int main(void) {
    static const size_t sizes[] = {1, 64, 65, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 20 * HUGE_PAGE + 4097};
    lp_parallel parallel = {2, NULL, NULL};
    lp_block block;
    check_arenas();
    arena = lp_arena_new();
    check_cached();
    size_t share = lp_limits_memory() / 16, most = (size_t)64 << 20;
    if (share > most) most = share < (size_t)1 << 30 ? share : (size_t)1 << 30;
    check_most_cached(36, HUGE_PAGE, most);                       /* 32 blocks */
    check_most_cached(5, most / 4 / HUGE_PAGE * HUGE_PAGE, most); /* so many bytes */
    check_threads();
    if (!getenv("EMULATED")) check_released(); /* under QEMU /proc describes another process */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t n_threads = 1; n_threads < 4; n_threads++) check_block(sizes[i], n_threads);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_reserve(sizes[i]);
    CHECK(lp_block_make(&block, 0, arena, &parallel) == 0 && !block.data);
    CHECK(lp_block_reserve(&block, 0) == 0 && !block.data);
    CHECK(lp_block_reserve(&block, SIZE_MAX) == -1 && !block.data);
    CHECK(lp_block_make(&block, SIZE_MAX, arena, &parallel) == -1 &&
          !block.data); /* with the page before it, it overflows */
    CHECK(lp_block_make(&block, SIZE_MAX / 4, arena, &parallel) == -1 && !block.data); /* the system refuses */
    for (parallel.n_threads = 1; parallel.n_threads < 3; parallel.n_threads++) {
        int polls_left = 0;
        parallel.poll = stop_later;
        parallel.poll_arg = &polls_left;
        CHECK(lp_block_make(&block, 20 * HUGE_PAGE, arena, &parallel) == 1 && !block.data);
    }
    lp_arena_close(arena);
    return CHECK_REPORT();
}
