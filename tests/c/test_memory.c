/* test_memory.c - blocks are zeroed, aligned, and can be written to their last byte; making one can be stopped. */
#define _DEFAULT_SOURCE
#include "../../csrc/memory.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

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

int main(void) {
    static const size_t sizes[] = {1, 64, 65, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 20 * HUGE_PAGE + 4097};
    lp_crew crew = {2, NULL, NULL};
    lp_block block;
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
