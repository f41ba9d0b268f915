/* test_gguf.c - which GGUF files are accepted, and which are refused with which message. False counts and failing
 * allocations are in test_gguf_memory.c; tests/test_gguf_reader.py has the longer table. */
#define _POSIX_C_SOURCE 200809L
#include "../../csrc/io/gguf.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "gguf_image.h"

static lp_error err;

#define WHOLE                                             \
    GGUF(3, 5)                                            \
    KEY("n", 5, "4:4294967289")                           \
    KEY("s", 8, "s:value")                                \
    KEY("a", 9, "4:8 8:2 s:x s:")                         \
    KEY("d", 9, "4:9 8:1 4:7 8:2 1:0 1:1")                \
    KEY("general.alignment", 4, "4:16")                   \
    TENSOR2("q", 32, 2, 2, 16)                            \
    TENSOR2("f", 2, 1, 0, 0)                              \
    "s:scalar 4:0 4:0 8:64 p:16 x:0102030405060708 p:16 " \
    "z:36 p:16 x:0000803f"

/* The open file, or NULL with err set: its message is one printable line that begins with the file. */
static lp_gguf *open_image(image file) {
    lp_gguf *opened = (lp_gguf *)&err; /* must be set to NULL by a failure */
    err = (lp_error){0};
    int status = lp_gguf_from_bytes(&opened, "f", file.bytes, file.n_bytes, &err);
    CHECK((status == 0) == (opened != NULL));
    if (status) CHECK(err.status != LP_OK && strncmp(err.msg, "f: ", 3) == 0);
    for (const char *c = err.msg; *c; c++)
        if (*c < 0x20 || *c > 0x7E) CHECK(!"a message holds only printable ASCII");
    return opened;
}

static int is_refused(image file, lp_status status, const char *expected) {
    lp_gguf *opened = open_image(file);
    int good = !opened && err.status == status && strstr(err.msg, expected) != NULL;
    if (!good) printf("expected \"%s\", got: %s\n", expected, opened ? "accepted" : err.msg);
    lp_gguf_close(opened);
    free(file.bytes);
    return good;
}

/* ---------------------------------------------------------------- valid files */

static void check_tensor(const lp_gguf *f, size_t i, const char *name, const char *type, size_t n_bytes) {
    const lp_gguf_tensor *t = &lp_gguf_contents_of(f)->tensors[i];
    lp_part part = lp_gguf_part(t);
    CHECK(strcmp(t->name, name) == 0 && t->name_len == strlen(name) && lp_gguf_find(f, name, strlen(name)) == t);
    CHECK(strcmp(part.dtype, type) == 0 && part.n_bytes == n_bytes && part.data == t->data);
    CHECK(part.rank == t->rank && part.shape == t->shape && part.offset == t->offset && part.name == t->name);
}

static void check_key(const lp_gguf *f, const char *name, lp_gguf_type type, size_t n_items, const char *bytes,
                      size_t n_bytes) {
    const lp_gguf_key *key = lp_gguf_find_key(f, name, strlen(name));
    char value[100] = "";
    CHECK(key && key->type == type && key->n_items == n_items && key->n_bytes == n_bytes);
    CHECK(key && lp_gguf_read_value(f, value, key, &err) == 0 && !memcmp(value, bytes, n_bytes));
}

static void check_whole(const lp_gguf *f) {
    const lp_gguf_contents *c = lp_gguf_contents_of(f);
    CHECK(c->version == 3 && c->alignment == 16 && c->n_keys == 5 && c->n_tensors == 3);
    check_tensor(f, 0, "f", "F32", 8);
    check_tensor(f, 1, "q", "Q4_0", 36);
    check_tensor(f, 2, "scalar", "F32", 4);
    CHECK(c->tensors[1].shape[0] == 2 && c->tensors[1].shape[1] == 32 && c->tensors[1].n_elements == 64);
    CHECK(c->tensors[1].offset == c->tensors[0].offset + 16 && c->tensors[0].offset % 16 == 0);
    CHECK(c->tensors[2].rank == 0 && c->tensors[2].n_elements == 1 && !memcmp(c->tensors[2].data, "\0\0\x80\x3f", 4));
    CHECK(!memcmp(c->tensors[0].data, "\1\2\3\4\5\6\7\10", 8));
    CHECK(!lp_gguf_find(f, "", 0) && !lp_gguf_find(f, "fq", 2) && !lp_gguf_find_key(f, "sv", 2));
    check_key(f, "n", LP_GGUF_I32, 0, "\xf9\xff\xff\xff", 4);
    check_key(f, "s", LP_GGUF_STRING, 0, "value", 5);
    check_key(f, "a", LP_GGUF_ARRAY, 2, "\1\0\0\0\0\0\0\0x\0\0\0\0\0\0\0", 17);
    check_key(f, "d", LP_GGUF_ARRAY, 1, "\7\0\0\0\2\0\0\0\0\0\0\0\0\1", 14);
    check_key(f, "general.alignment", LP_GGUF_U32, 0, "\20\0\0\0", 4);
    CHECK(lp_gguf_find_key(f, "n", 1)->bits == 4294967289u && lp_gguf_find_key(f, "d", 1)->item_type == LP_GGUF_ARRAY);
    CHECK(lp_gguf_check_unchanged(f, &err) == 0);
}

static void test_contents(void) {
    image file = make_gguf(WHOLE);
    lp_gguf *f = open_image(file);
    if (f) check_whole(f);
    CHECK(f && lp_gguf_n_bytes(f) == file.n_bytes && strcmp(lp_gguf_path(f), "f") == 0 && !lp_gguf_is_mapped(f));
    lp_gguf_close(f);
    lp_gguf_close(NULL);
    free(file.bytes);
}

/* Mapped and read, by path and relative to a folder; then a header longer than the window. */
static void test_open(void) {
    char path[] = "/tmp/llamaprobe_test_XXXXXX", *words = malloc(70000 * 16);
    int fd = mkstemp(path), dir_fd = open("/tmp", O_RDONLY | O_DIRECTORY);
    image whole = make_gguf(WHOLE);
    CHECK(fd >= 0 && write(fd, whole.bytes, whole.n_bytes) == (ssize_t)whole.n_bytes);
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        lp_map_reading limits = {.max_bytes = (size_t)-1};
        lp_gguf *f = NULL;
        CHECK(lp_gguf_open(&f, dir_fd, path + 5, use_mmap ? NULL : &limits, &err) == 0);
        if (f) check_whole(f);
        CHECK(f && lp_gguf_is_mapped(f) == use_mmap && strcmp(lp_gguf_path(f), path + 5) == 0);
        lp_gguf_close(f);
        CHECK(lp_gguf_open(&f, -1, "/tmp/llamaprobe_test_none", NULL, &err) == -1 && !f && err.status == LP_EIO);
    }
    char *c = words + sprintf(words, "%s", GGUF(1, 2) "s:a 4:9 4:8 8:70000 ");
    for (int i = 0; i < 70000; i++) c += sprintf(c, "s:%d ", i);
    strcpy(c, KEY("after", 0, "1:7") TENSOR1("w", 1, 24, 0) "p:32 1:9");
    image file = make_gguf(words);
    CHECK(file.n_bytes > 800000 && pwrite(fd, file.bytes, file.n_bytes, 0) == (ssize_t)file.n_bytes);
    lp_gguf *f = NULL;
    CHECK(lp_gguf_open(&f, -1, path, NULL, &err) == 0);
    CHECK(f && lp_gguf_find_key(f, "after", 5)->bits == 7 && lp_gguf_find(f, "w", 1)->data[0] == 9);
    CHECK(ftruncate(fd, 100) == 0 && lp_gguf_check_unchanged(f, &err) == -1 && err.status == LP_ECHANGED);
    CHECK(lp_gguf_read_value(f, words, lp_gguf_find_key(f, "a", 1), &err) == -1 && err.status == LP_ECHANGED);
    lp_gguf_close(f);
    free(words), free(file.bytes), free(whole.bytes);
    close(fd), close(dir_fd);
    unlink(path);
}

/* ---------------------------------------------------------------- the table */

#define F32(offset) TENSOR1("w", 4, 0, offset)
#define DATA "p:32 z:16"
#define TYPED(type) GGUF(1, 0) TENSOR1("w", 0, type, 0)

static void test_refused(void) {
    static const struct {
        const char *recipe;
        lp_status status;
        const char *expected;
    } cases[] = {
        {"", LP_EFORMAT, "truncated: a GGUF file has at least 24 bytes, this one has 0"},
        {"r:GGUG z:20", LP_EFORMAT, "is not a GGUF file"},
        {"x:3c21 z:40", LP_EFORMAT, "is a web page"},
        {"x:202020202020202020202020202020202020202020202020", LP_EFORMAT, "is not a GGUF file"},
        {"8:2 r:{} z:20", LP_EFORMAT, "is a safetensors file"},
        {"r:fmgg z:20", LP_EFORMAT, "is a GGML file from before GGUF"},
        {"r:GGUF 4:0 z:16", LP_EFORMAT, "version 0"},
        {"r:GGUF 4:1 z:16", LP_EUNSUPPORTED, "version 1"},
        {"r:GGUF 4:4 z:16", LP_EUNSUPPORTED, "version 4"},
        {"r:GGUF 4:33554432 z:16", LP_EUNSUPPORTED, "big-endian"},
        {GGUF(9223372036854775808, 0), LP_EFORMAT, "truncated: 9223372036854775808 tensors"},
        {GGUF(0, 18446744073709551615), LP_EFORMAT, "truncated: 18446744073709551615 keys"},
        {GGUF(0, 1) "8:9223372036854775808 z:20", LP_EFORMAT, "key 1 of 1: truncated: needs 9223372036854775808"},
        {GGUF(0, 1) KEY("", 10, "8:0"), LP_EFORMAT, "key 1 of 1, \"\": its name is empty"},
        {GGUF(0, 1) "8:2 x:6100 4:0 1:0", LP_EFORMAT, "\"a\\x00\": its name holds a NUL"},
        {GGUF(0, 1) "8:2 x:c0af 4:0 1:0", LP_EFORMAT, "\"\\xc0\\xaf\": its name is not UTF-8"},
        {GGUF(0, 2) KEY("k", 0, "1:0") KEY("k", 1, "1:1"), LP_EFORMAT, "two keys are called \"k\""},
        {GGUF(0, 1) KEY("k", 13, "8:0"), LP_EFORMAT, "is of type 13"},
        {GGUF(0, 1) KEY("k", 7, "1:2"), LP_EFORMAT, "a bool is 2"},
        {GGUF(0, 1) KEY("k", 9, "4:7 8:2 1:1 1:255"), LP_EFORMAT, "a bool is 255"},
        {GGUF(0, 1) KEY("k", 8, "8:18446744073709551615"), LP_EFORMAT, "needs 18446744073709551615 bytes"},
        {GGUF(0, 1) KEY("k", 9, "4:13 8:0"), LP_EFORMAT, "items of type 13"},
        {GGUF(0, 1) KEY("k", 9, "4:12 8:2305843009213693953 8:0"), LP_EFORMAT, "2305843009213693953 items"},
        {GGUF(0, 1) KEY("k", 9, "4:9 8:1 4:9 8:1 4:9 8:1 4:9 8:1 4:0 8:0"), LP_EFORMAT, "5 deep, the limit is 4"},
        {GGUF(0, 1) KEY("general.alignment", 4, "4:0"), LP_EFORMAT, "is 0; it must be a power of two from 8"},
        {GGUF(0, 1) KEY("general.alignment", 4, "4:12"), LP_EFORMAT, "is 12; it must be"},
        {GGUF(0, 1) KEY("general.alignment", 4, "4:131072"), LP_EFORMAT, "is 131072; it must be"},
        {GGUF(0, 1) KEY("general.alignment", 10, "8:32"), LP_EFORMAT, "is of type u64; it must be u32"},
        {GGUF(2, 0) F32(0) F32(32) "p:32 z:48", LP_EFORMAT, "two tensors are called \"w\""},
        {GGUF(1, 0) "s:w 4:5 z:60", LP_EFORMAT, "has 5 dimensions, the limit is 4"},
        {GGUF(1, 0) TENSOR1("w", 9223372036854775808, 0, 0), LP_EFORMAT, "dimension 0 is 9223372036854775808"},
        {GGUF(1, 0) TENSOR2("w", 4294967296, 4294967296, 0, 0), LP_EFORMAT, "dimension 1 is 4294967296"},
        {GGUF(1, 0) TENSOR1("w", 4611686018427387904, 0, 0), LP_EFORMAT, "the size of 4611686018427387904 elements"},
        {GGUF(1, 0) TENSOR1("w", 33, 8, 0), LP_EFORMAT, "rows of 33 elements, which are not whole blocks of 32"},
        {TYPED(42), LP_EUNSUPPORTED, "has type 42"},
        {TYPED(5), LP_EUNSUPPORTED, "has type Q4_3 (5)"},
        {TYPED(15), LP_EUNSUPPORTED, "has type Q8_K (15)"},
        {TYPED(38), LP_EUNSUPPORTED, "has type IQ4_NL_8_8 (38)"},
        {GGUF(1, 0) F32(4) DATA, LP_EFORMAT, "begins at byte 4 of the data, which is not a multiple of 32"},
        {GGUF(1, 0) F32(32) DATA, LP_EFORMAT, "hole between \"the start of the data\""},
        {GGUF(1, 0) F32(18446744073709551584) DATA, LP_EFORMAT, "hole between"},
        {GGUF(2, 0) F32(0) TENSOR1("v", 4, 0, 0) DATA, LP_EFORMAT, "overlap between \"v\", which ends at byte 16"},
        {GGUF(1, 0) F32(0) "p:32 z:15", LP_EFORMAT, "truncated: the tensors end at byte 80, the file has 79"},
        {GGUF(1, 0) F32(0) "p:32 z:48", LP_EFORMAT, "trailing bytes: the tensors end at byte 80, the file has 112"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int refused = is_refused(make_gguf(cases[i].recipe), cases[i].status, cases[i].expected);
        if (!refused) printf("%s\n", cases[i].recipe);
        CHECK(refused);
    }
    CHECK(is_refused(make_image_n("", 0, 0), LP_EFORMAT, "is not a GGUF file"));
}

static void test_every_type(void) {
    for (uint32_t id = 0; id < 60; id++) {
        char recipe[200];
        const lp_ggml_type *type = lp_ggml_type_of(id);
        if (!type || type->problem) continue;
        sprintf(recipe, GGUF(1, 0) "s:w 4:2 8:%zu 8:3 4:%u 8:0 p:32 z:%zu", 2 * type->n_elements, id,
                6 * type->n_bytes);
        image file = make_gguf(recipe);
        lp_gguf *f = open_image(file);
        CHECK(f && lp_gguf_find(f, "w", 1)->n_bytes == 6 * type->n_bytes);
        lp_gguf_close(f);
        free(file.bytes);
    }
    CHECK(!lp_ggml_type_of(42) && !lp_ggml_type_of(UINT32_MAX));
}

/* Every prefix is refused, and no flipped bit causes an out-of-bounds read. */
static void test_every_prefix_and_every_bit(void) {
    image whole = make_gguf(WHOLE);
    for (size_t n = 0; n < whole.n_bytes; n++) {
        image file = {malloc(n + 1), n};
        memcpy(file.bytes, whole.bytes, n);
        CHECK(is_refused(file, LP_EFORMAT, "truncated: "));
    }
    for (size_t i = 0; i < whole.n_bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            whole.bytes[i] ^= (unsigned char)(1 << bit);
            lp_gguf *f = open_image(whole);
            CHECK(!f || lp_gguf_contents_of(f)->n_tensors == 3);
            lp_gguf_close(f);
            whole.bytes[i] ^= (unsigned char)(1 << bit);
        }
    }
    free(whole.bytes);
}

int main(void) {
    test_contents();
    test_open();
    test_refused();
    test_every_type();
    test_every_prefix_and_every_bit();
    return CHECK_REPORT();
}
