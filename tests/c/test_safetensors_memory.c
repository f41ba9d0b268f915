/* test_safetensors_memory.c - no number in a file becomes the size of an allocation, what is allocated stays in
 * proportion to the file, and each allocation may fail. */
#define _POSIX_C_SOURCE 200809L
#include "../../csrc/io/safetensors.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "systems.h"
#include "faults.h"
#include "image.h"

static lp_error err;

/* Opens the image and frees it. Accepted if `expected` is NULL, else refused with this message; and cheap. */
static void check_image(image file, const char *expected, size_t most_allocated) {
    lp_safetensors *f;
    faults.n_bytes = 0;
    err = (lp_error){0};
    int status = lp_safetensors_from_bytes(&f, "f", file.bytes, file.n_bytes, &err);
    CHECK(faults.n_bytes <= most_allocated);
    CHECK(expected ? status == -1 && !f && err.status == LP_EFORMAT && strstr(err.msg, expected) : status == 0 && f);
    if (expected && !strstr(err.msg, expected)) printf("expected \"%s\", got: %s\n", expected, err.msg);
    lp_safetensors_close(f);
    free(file.bytes);
}

/* ---------------------------------------------------------------- lengths that lie */

static void test_header_lengths(void) {
    static const struct {
        uint64_t n;
        const char *expected;
    } cases[] = {{100000001, "too large: 100000001 bytes, the limit is 100000000"},
                 {UINT64_MAX, "too large: 18446744073709551615"},
                 {(uint64_t)1 << 63, "too large"},
                 {UINT64_MAX - 7, "too large"}, /* 8 + n wraps to 0 */
                 {100000000, "longer than the file of 12"},
                 {5, "longer than the file of 12"},
                 {4, "nothing more"},
                 {3, "trailing bytes"},
                 {2, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image file = make_image("{} {", 0);
        if (!cases[i].expected) file.n_bytes = 10;
        for (int k = 0; k < 8; k++) file.bytes[k] = (unsigned char)(cases[i].n >> (8 * k));
        check_image(file, cases[i].expected, 2000);
    }
    for (size_t n = 0; n < 8; n++) {
        image file = make_image("{}", 0);
        file.n_bytes = n;
        check_image(file, "a length of 8 bytes", 1000);
    }
}

/* ---------------------------------------------------------------- headers that are large */

/* `before`, then n copies of a piece that holds the number i where it says %zu, then `after`. */
static char *make_many(const char *before, const char *piece, size_t n, const char *after) {
    char *header = malloc(strlen(before) + n * (strlen(piece) + 24) + strlen(after) + 1);
    char *c = header + sprintf(header, "%s", before);
    const char *hole = strstr(piece, "%zu");
    for (size_t i = 0; i < n; i++)
        c += sprintf(c, "%s%.*s%zu%s", i ? "," : "", (int)(hole - piece), piece, i, hole + 3);
    strcpy(c, after);
    return header;
}

#define ZEROS "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"
#define EXTRA_IN "{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],"

static void test_too_many(void) {
    static const struct {
        const char *before, *piece;
        size_t n;
        const char *after, *expected;
    } cases[] = {
        {"{", EMPTY("%zu", 0), 1000000, "}", NULL},
        {"{", EMPTY("%zu", 0), 1000001, "}", "too many tensors, the limit is 1000000"},
        {"{\"__metadata__\":{", "\"%zu\":\"\"", 1000000, "}}", NULL},
        {"{\"__metadata__\":{", "\"%zu\":\"\"", 1000001, "}}", "too many keys in __metadata__, the limit is 1000000"},
        {"{", "\"%zu\":{\"dtype\":\"U8\",\"shape\":[" ZEROS "],\"data_offsets\":[0,0]}", 10000, "}", NULL},
        {EXTRA_IN "\"x\":[", "[%zu]", 1000000, "]}}", NULL},
        {EXTRA_IN, "\"%zu\":0", 32, "}}", NULL},
        {EXTRA_IN, "\"%zu\":0", 33, "}}", "more than 32 unknown keys"},
        {"{\"t\":{\"shape\":[", "%zu", 10000, "]}}", "more than 32 dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *header = make_many(cases[i].before, cases[i].piece, cases[i].n, cases[i].after);
        image file = make_image(header, 0);
        free(header);
        check_image(file, cases[i].expected, 5 * file.n_bytes + 2000);
    }
}

/* ---------------------------------------------------------------- failures from below */

static void test_every_allocation_can_fail(void) {
    static const char header[] = "{" ENTRY("a", 0, 1) "," ENTRY("b", 1, 2) ",\"__metadata__\":{\"a\":\"b\"}}";
    char path[] = "/tmp/llamaprobe_test_XXXXXX";
    int fd = mkstemp(path);
    image file = make_image(header, 2);
    CHECK(fd >= 0 && write(fd, file.bytes, file.n_bytes) == (ssize_t)file.n_bytes);
    for (int how = 0; how < 3; how++) { /* bytes, read, mapped */
        long n = 0;
        for (int status = -1; status != 0 && n < 20; n++) {
            lp_safetensors *f = (lp_safetensors *)&err;
            err = (lp_error){0};
            faults.after = n;
            status = how ? lp_safetensors_open(&f, AT_FDCWD, path,
                                               how == 2 ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1}, &err)
                         : lp_safetensors_from_bytes(&f, "f", file.bytes, file.n_bytes, &err);
            faults.after = -1;
            CHECK(status ? !f && err.status == LP_ENOMEM : f && lp_safetensors_count(f) == 2);
            lp_safetensors_close(f);
        }
        CHECK(n == (how ? 5 : 4)); /* the file, (its bytes or map,) its header, its block; then it opens */
    }
    free(file.bytes);
    close(fd);
    unlink(path);
}

int main(void) {
    if (!HAS_WRAP) return not_run("the linker cannot replace functions");
    test_header_lengths();
    test_too_many();
    test_every_allocation_can_fail();
    return CHECK_REPORT();
}
