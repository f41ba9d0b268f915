/* test_memory.c - blocks are zeroed, aligned, and can be written to their last byte; making one can be stopped. */
#define _DEFAULT_SOURCE
#include "../../csrc/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "check.h"

#define HUGE_PAGE ((size_t)2 << 20)

static int stop_later(void *polls_left) { return --*(int *)polls_left < 0; }

static void check_block(size_t n_bytes, size_t n_threads) {
    lp_crew crew = {n_threads, NULL, NULL};
    lp_block block;
    CHECK(lp_block_make(&block, n_bytes, &crew) == 0);
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
    if (n_bytes >= HUGE_PAGE) CHECK(mincore(block.data, 8 * 4096, pages) == 0 && !(pages[0] & 1) && !(pages[7] & 1));
    memset(block.data, 0xA5, n_bytes);
    lp_block_free(&block);
}

/* A freed block serves the next that is about as large, zeroed; no others, and not more than is said in memory.c. */
static void check_kept(void) {
    lp_crew crew = {2, NULL, NULL};
    lp_block a, b, many[12];
    CHECK(lp_block_make(&a, 20 * HUGE_PAGE, &crew) == 0);
    void *first = a.data;
    memset(first, 0xA5, a.n_bytes);
    lp_block_free(&a);
    CHECK(lp_block_make(&b, 40 * HUGE_PAGE, &crew) == 0 && b.data != first);
    CHECK(lp_block_make(&a, 19 * HUGE_PAGE + 5, &crew) == 0 && a.data == first && a.n_bytes == 19 * HUGE_PAGE + 5);
    unsigned char *bytes = a.data;
    CHECK(bytes[0] == 0 && !memcmp(bytes, bytes + 1, a.n_bytes - 1));
    lp_block_free(&a), lp_block_free(&b);
    CHECK(lp_block_make(&a, 8 * HUGE_PAGE, &crew) == 0); /* neither is: too much would lie idle */
    CHECK(a.mapped < 16 * HUGE_PAGE);
    lp_block_free(&a);
    for (int i = 0; i < 12; i++) CHECK(lp_block_make(&many[i], 30 * HUGE_PAGE, &crew) == 0);
    for (int i = 0; i < 12; i++) memset(many[i].data, 0xA5, many[i].n_bytes), lp_block_free(&many[i]);
    for (int i = 0; i < 12; i++) {
        CHECK(lp_block_make(&many[i], 30 * HUGE_PAGE, &crew) == 0);
        bytes = many[i].data;
        CHECK(bytes[0] == 0 && !memcmp(bytes, bytes + 1, many[i].n_bytes - 1));
    }
    for (int i = 0; i < 12; i++) lp_block_free(&many[i]);
    CHECK(lp_memory_fits(0) && !lp_memory_fits(SIZE_MAX));
}

/* What is kept is given back before it stands in the way of a larger block. */
static void check_given_back(void) {
    lp_crew crew = {1, NULL, NULL};
    struct rlimit old, limit;
    lp_block a;
    unsigned long long pages = 0;
    CHECK(lp_block_make(&a, 100 * HUGE_PAGE, &crew) == 0);
    lp_block_free(&a);
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%llu", &pages) == 1 && getrlimit(RLIMIT_AS, &old) == 0);
    if (f) fclose(f);
    limit = old;
    limit.rlim_cur = (rlim_t)pages * 4096 + 60 * HUGE_PAGE; /* 60 without the 100 that are kept, 160 with them */
    if (setrlimit(RLIMIT_AS, &limit)) return;
    CHECK(lp_memory_fits(140 * HUGE_PAGE));
    CHECK(!lp_memory_fits(200 * HUGE_PAGE));
    CHECK(lp_block_make(&a, 140 * HUGE_PAGE, &crew) == 0);
    lp_block_free(&a);
    CHECK(lp_block_make(&a, 110 * HUGE_PAGE, &crew) == 0);
    lp_block_free(&a);
    CHECK(lp_block_make(&a, 150 * HUGE_PAGE, &crew) == 0); /* mmap fails at first */
    lp_block_free(&a);
    setrlimit(RLIMIT_AS, &old);
}

int main(void) {
    static const size_t sizes[] = {1, 64, 65, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 20 * HUGE_PAGE + 4097};
    lp_crew crew = {2, NULL, NULL};
    lp_block block;
    check_kept();
    if (!getenv("EMULATED")) check_given_back(); /* under QEMU /proc tells of another process */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t n_threads = 1; n_threads < 4; n_threads++) check_block(sizes[i], n_threads);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_reserve(sizes[i]);
    CHECK(lp_block_make(&block, 0, &crew) == 0 && !block.data);
    CHECK(lp_block_reserve(&block, 0) == 0 && !block.data);
    CHECK(lp_block_reserve(&block, SIZE_MAX) == -1 && !block.data);
    CHECK(lp_block_make(&block, SIZE_MAX, &crew) == -1 && !block.data);     /* with the page before it, it overflows */
    CHECK(lp_block_make(&block, SIZE_MAX / 4, &crew) == -1 && !block.data); /* the system refuses */
    for (crew.n_threads = 1; crew.n_threads < 3; crew.n_threads++) {
        int polls_left = 0;
        crew.poll = stop_later;
        crew.poll_arg = &polls_left;
        CHECK(lp_block_make(&block, 20 * HUGE_PAGE, &crew) == 1 && !block.data);
    }
    return CHECK_REPORT();
}
