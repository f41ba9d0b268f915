/* test_memory.c - blocks are zeroed, aligned, and can be written to their last byte; making one can be stopped. */
#include "../../csrc/memory.h"

#include <stdint.h>
#include <string.h>

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

int main(void) {
    static const size_t sizes[] = {1, 64, 65, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 20 * HUGE_PAGE + 4097};
    lp_crew crew = {2, NULL, NULL};
    lp_block block;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t n_threads = 1; n_threads < 4; n_threads++) check_block(sizes[i], n_threads);
    CHECK(lp_block_make(&block, 0, &crew) == 0 && !block.data);
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
