/* test_gguf_memory.c - no number in a GGUF file sizes an allocation, allocations stay in proportion to the file, and
 * each of them may fail. */
#define _POSIX_C_SOURCE 200809L
#include "../../csrc/io/gguf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "faults.h"
#include "gguf_image.h"
#include "systems.h"

#define WINDOW ((size_t)1 << 17)

static lp_error err;

/* Opens the image and frees it: accepted if `expected` is NULL, else refused with it; no large allocations. */
static void check_image(image file, const char *expected) {
    lp_gguf *f;
    long n_live = faults.n_live;
    faults.n_bytes = 0;
    err = (lp_error){0};
    int status = lp_gguf_from_bytes(&f, "f", file.bytes, file.n_bytes, &err);
    CHECK(faults.n_bytes <= WINDOW + 20000 + 6 * file.n_bytes);
    CHECK(expected ? status == -1 && !f && err.status == LP_EFORMAT && strstr(err.msg, expected) : status == 0 && f);
    if (expected && !strstr(err.msg, expected)) printf("expected \"%s\", got: %s\n", expected, err.msg);
    lp_gguf_close(f);
    CHECK(faults.n_live == n_live);
    free(file.bytes);
}

static void test_false_counts(void) {
    static const struct {
        const char *recipe, *expected;
    } cases[] = {{GGUF(4294967296, 0), "truncated: 4294967296 tensors"},
                 {GGUF(0, 1000000), "truncated: 1000000 keys"},
                 {GGUF(0, 1) "8:1099511627776 z:20", "needs 1099511627776 bytes"},
                 {GGUF(0, 1) KEY("k", 8, "8:1099511627776"), "needs 1099511627776 bytes"},
                 {GGUF(0, 1) KEY("k", 9, "4:0 8:1099511627776"), "1099511627776 items"},
                 {GGUF(1, 0) TENSOR1("w", 1099511627776, 0, 0), "the tensors end at byte 4398046511168"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_image(make_gguf(cases[i].recipe), cases[i].expected);
}

/* n keys or tensors, as short as they can be. */
static image make_many(size_t n, int are_keys) {
    image file = {malloc(64 + n * 40), 0};
    uint64_t counts[] = {are_keys ? 0 : n, are_keys ? n : 0};
    memcpy(file.bytes, "GGUF\3\0\0\0", 8);
    memcpy(file.bytes + 8, counts, 16);
    file.n_bytes = 24;
    for (size_t i = 0; i < n; i++) {
        char name[24];
        unsigned char *at = file.bytes + file.n_bytes;
        size_t n_name = (size_t)sprintf(name, "%zu", i);
        memset(at, 0, 40);
        at[0] = (unsigned char)n_name;
        memcpy(at + 8, name, n_name);
        if (!are_keys) at[8 + n_name] = 1;                /* rank */
        file.n_bytes += 8 + n_name + (are_keys ? 5 : 24); /* type 0 and value 0; dimension, type and offset 0 */
    }
    for (; file.n_bytes % 32; file.n_bytes++) file.bytes[file.n_bytes] = 0;
    return file;
}

static void test_too_many(void) {
    check_image(make_many(1000000, 1), NULL);
    check_image(make_many(1000001, 1), "has 1000001 keys, the limit is 1000000");
    check_image(make_many(1000000, 0), NULL);
    check_image(make_many(1000001, 0), "has 1000001 tensors, the limit is 1000000");
}

/* Arrays and headers at their limits are too large to store: sparse files stand in for them. */
static void test_sparse_files(void) {
    static const struct {
        const char *recipe, *expected;
    } cases[] = {{GGUF(0, 1) KEY("k", 9, "4:0 8:16777217"), "an array has 16777217 items, the limit is 16777216"},
                 {GGUF(0, 1) KEY("k", 8, "8:600000000"), "more than 536870912 bytes, which is the limit"},
                 {GGUF(0, 1) KEY("k", 9, "4:8 8:100000000"), "more than 536870912 bytes, which is the limit"}};
    char path[] = "/tmp/llamaprobe_test_XXXXXX";
    int fd = mkstemp(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image file = make_gguf(cases[i].recipe);
        lp_gguf *f;
        CHECK(ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)1 << 32) == 0);
        CHECK(pwrite(fd, file.bytes, file.n_bytes, 0) == (ssize_t)file.n_bytes);
        faults.n_bytes = 0;
        CHECK(lp_gguf_open(&f, -1, path, NULL, &err) == -1 && strstr(err.msg, cases[i].expected));
        CHECK(faults.n_bytes <= ((size_t)1 << 32) + WINDOW + 20000); /* the map counts with its size */
        if (!strstr(err.msg, cases[i].expected)) printf("expected \"%s\", got: %s\n", cases[i].expected, err.msg);
        free(file.bytes);
    }
    close(fd);
    unlink(path);
}

static void test_every_allocation_can_fail(void) {
    image file = make_gguf(GGUF(1, 2) KEY("a", 0, "1:0") KEY("b", 8, "s:c") TENSOR1("w", 4, 0, 0) "p:32 z:16");
    long n = 0;
    for (int status = -1; status != 0 && n < 20; n++) {
        lp_gguf *f = (lp_gguf *)&err;
        long n_live = faults.n_live;
        err = (lp_error){0};
        faults.after = n;
        status = lp_gguf_from_bytes(&f, "f", file.bytes, file.n_bytes, &err);
        faults.after = -1;
        CHECK(status ? !f && err.status == LP_ENOMEM : f && lp_gguf_contents_of(f)->n_keys == 2);
        lp_gguf_close(f);
        CHECK(faults.n_live == n_live);
    }
    CHECK(n == 8); /* the file, the window, tensors, keys, names, two orders; then it opens */
    free(file.bytes);
}

int main(void) {
    if (!HAS_WRAP) return not_run("the linker cannot replace functions");
    test_false_counts();
    test_too_many();
    test_sparse_files();
    test_every_allocation_can_fail();
    return CHECK_REPORT();
}
