/* test_safetensors.c - which files are accepted, and which are refused with what message. Headers that are huge,
 * lengths that lie and allocations that fail are in test_safetensors_memory.c, the file itself is in test_map.c. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE /* mkdtemp */
#include "../../csrc/io/safetensors.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "image.h"

static lp_error err;

/* NULL and err set, or the open file; the proof of a refusal is a message of one printable line. */
static lp_safetensors *open_image(image file) {
    lp_safetensors *opened = (lp_safetensors *)&err; /* must be set to NULL by a failure */
    err = (lp_error){0};
    int status = lp_safetensors_from_bytes(&opened, "f", file.bytes, file.n_bytes, &err);
    CHECK((status == 0) == (opened != NULL));
    if (status) CHECK(err.status != LP_OK && strncmp(err.msg, "f: ", 3) == 0);
    for (const char *c = err.msg; *c; c++)
        if (*c < 0x20 || *c > 0x7E) CHECK(!"a message holds only printable ASCII");
    return opened;
}

static int is_refused(image file, const char *expected) {
    lp_safetensors *opened = open_image(file);
    int good = !opened && err.status == LP_EFORMAT && strstr(err.msg, expected) != NULL;
    if (!good) printf("expected \"%s\", got: %s\n", expected, opened ? "accepted" : err.msg);
    lp_safetensors_close(opened);
    free(file.bytes);
    return good;
}

static int is_accepted(image file) {
    lp_safetensors *opened = open_image(file);
    int good = opened != NULL;
    if (!good) printf("refused: %s\n", err.msg);
    lp_safetensors_close(opened);
    free(file.bytes);
    return good;
}

/* ---------------------------------------------------------------- what is in a good file */

static void test_tensors_in_the_order_of_the_data(void) {
    image file =
        make_image(" {\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
                   "\"__metadata__\":{\"format\":\"pt\",\"\":\"x\\ny\",\"a\\u00e9\":\"\"},"
                   "\"a\":{\"data_offsets\":[0,3],\"note\":[1,{\"a\":null}],\"shape\":[3],\"dtype\":\"I8\"},"
                   "\"z\\/\\u00e9\":{\"shape\":[],\"dtype\":\"F64\",\"data_offsets\":[11,19],\"x\":1,\"y\":2}}\n",
                   19);
    lp_safetensors *f = open_image(file);
    CHECK(f && lp_safetensors_count(f) == 3);
    static const struct {
        const char *name;
        lp_dtype dtype;
        size_t rank, n_elements, n_bytes, begin;
        uint64_t shape[2];
    } expected[] = {{"a", LP_I8, 1, 3, 3, 0, {3, 0}},
                    {"b", LP_F32, 2, 2, 8, 3, {2, 1}},
                    {"z/\xC3\xA9", LP_F64, 0, 1, 8, 11, {0, 0}}};
    for (size_t i = 0; i < 3; i++) {
        const lp_tensor *t = lp_safetensors_at(f, i);
        CHECK(strcmp(t->name, expected[i].name) == 0 && t->name_len == strlen(t->name));
        CHECK(t->dtype == expected[i].dtype && t->rank == expected[i].rank);
        CHECK(memcmp(t->shape, expected[i].shape, t->rank * sizeof *t->shape) == 0);
        CHECK(t->n_elements == expected[i].n_elements && t->n_bytes == expected[i].n_bytes);
        CHECK(t->offset == file.n_bytes - 19 + expected[i].begin && t->data == file.bytes + t->offset);
        CHECK(t->data[0] == expected[i].begin);
        CHECK(lp_safetensors_find(f, t->name, t->name_len) == t);
    }
    CHECK(!lp_safetensors_find(f, "", 0) && !lp_safetensors_find(f, "aa", 2) && !lp_safetensors_find(f, "zz", 2));
    CHECK(lp_safetensors_n_ignored(f) == 3);
    CHECK(lp_safetensors_n_bytes(f) == file.n_bytes && strcmp(lp_safetensors_path(f), "f") == 0);
    CHECK(lp_safetensors_check_unchanged(f, &err) == 0);
    static const char *const pairs[][2] = {{"", "x\ny"}, {"a\xC3\xA9", ""}, {"format", "pt"}};
    CHECK(lp_safetensors_n_metadata(f) == 3);
    for (size_t i = 0; i < 3; i++) {
        const char *key, *value;
        size_t key_len, value_len;
        lp_safetensors_metadata(f, i, &key, &key_len, &value, &value_len);
        CHECK(strcmp(key, pairs[i][0]) == 0 && key_len == strlen(key));
        CHECK(strcmp(value, pairs[i][1]) == 0 && value_len == strlen(value));
    }
    lp_safetensors_close(f);
    free(file.bytes);
}

static void check_dtype(const char *name, size_t n_name, size_t bits) {
    static const char form[] = "{\"t\":{\"dtype\":\"%.*s\",\"shape\":[%d,%d],\"data_offsets\":[0,%zu]}}";
    char header[200];
    sprintf(header, form, (int)n_name, name, 2, 4, bits);
    image file = make_image(header, bits);
    lp_safetensors *f = open_image(file);
    const lp_tensor *t = f ? lp_safetensors_at(f, 0) : NULL;
    CHECK(t && t->n_elements == 8 && t->n_bytes == bits && lp_dtype_bits(t->dtype) == bits);
    CHECK(t && strncmp(lp_dtype_name(t->dtype), name, n_name) == 0 && strlen(lp_dtype_name(t->dtype)) == n_name);
    lp_safetensors_close(f);
    free(file.bytes);
    sprintf(header, form, (int)n_name, name, 3, 5, bits * 15 / 8);
    file = make_image(header, bits * 15 / 8);
    CHECK(bits % 8 ? is_refused(file, "misaligned") : is_accepted(file));
}

static void test_every_dtype(void) {
    static const struct {
        const char *names;
        size_t bits;
    } groups[] = {{"F4 ", 4},
                  {"F6_E2M3 F6_E3M2 ", 6},
                  {"I16 U16 F16 BF16 ", 16},
                  {"I32 U32 F32 ", 32},
                  {"C64 F64 I64 U64 ", 64},
                  {"BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ ", 8}};
    int n_dtypes = 0;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const char *name = groups[g].names; *name; name = strchr(name, ' ') + 1, n_dtypes++)
            check_dtype(name, strcspn(name, " "), groups[g].bits);
    CHECK(n_dtypes == LP_N_DTYPES);
}

/* Names that differ late, in length only, or by a prefix: each is found, and no other. */
static void test_find_among_many(void) {
    enum { N = 500 };
    static char header[N * 200] = "{";
    for (int i = 0; i < N; i++) {
        char entry[200];
        sprintf(entry, "%s\"%.*s%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i ? "," : "", i % 7,
                "model.", i, N - 1 - i, N - i);
        strcat(header, entry);
    }
    strcat(header, "}");
    image file = make_image(header, N);
    lp_safetensors *f = open_image(file);
    CHECK(f && lp_safetensors_count(f) == N);
    for (int i = 0; i < N; i++) {
        char name[32];
        sprintf(name, "%.*s%d", i % 7, "model.", i);
        const lp_tensor *t = lp_safetensors_find(f, name, strlen(name));
        CHECK(t && t->offset == file.n_bytes - 1 - (size_t)i && strcmp(t->name, name) == 0);
        CHECK(t == lp_safetensors_at(f, (size_t)(N - 1 - i)));
        CHECK(!lp_safetensors_find(f, name, strlen(name) + 1));
    }
    lp_safetensors_close(f);
    free(file.bytes);
}

/* ---------------------------------------------------------------- the table */

#define FIELDS(dtype, shape, offsets) "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define EXTRA(fields) "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]," fields "}}"
#define METADATA(value) "{\"__metadata__\":" value "}"

static void test_accepted(void) {
    static const struct {
        const char *header;
        size_t n_data;
    } cases[] = {
        {"{}", 0},
        {" \t\r\n{ } \n", 0},
        {"{" ENTRY("t", 0, 1) "}", 1},
        {"{" ENTRY("", 0, 1) "}", 1},
        {"{" ENTRY("../x\\n", 0, 1) "}", 1},
        {"{" ENTRY("\\ud83d\\ude00", 0, 1) "}", 1},
        {"{" ENTRY("b", 1, 2) "," ENTRY("a", 0, 1) "}", 2},
        {FIELDS("\"F32\"", "[]", "[0,4]"), 4},
        {FIELDS("\"F32\"", "[2,0]", "[0,0]"), 0},
        {FIELDS("\"F32\"", "[0,9223372036854775807]", "[0,0]"), 0},
        {FIELDS("\"F32\"", "[9223372036854775807,0,7]", "[0,0]"), 0},
        {FIELDS("\"\\u00558\"", "[1]", "[0,1]"), 1},
        {FIELDS("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]"), 1},
        {"{\"t\":{\"\\u0064type\":\"U8\",\"sh\\u0061pe\":[1],\"data_offsets\":[0,1]}}", 1},
        {METADATA("{}"), 0},
        {METADATA("null"), 0},
        {METADATA("{\"a\":\"b\"}"), 0},
        {"{\"\\u005f_metadata__\":{\"a\":\"b\"}}", 0},
        {EXTRA("\"x\":{\"a\":1,\"a\":2},\"y\":\"\\u0000\",\"z\":[0e999,-1.5]"), 1},
        {EXTRA("\"\":0,\"Dtype\":0,\"\\u0000\":0"), 1},
        {"{" EMPTY("a", 0) "," ENTRY("t", 0, 1) "," EMPTY("b", 0) "," EMPTY("c", 1) "}", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int accepted = is_accepted(make_image(cases[i].header, cases[i].n_data));
        if (!accepted) printf("%s\n", cases[i].header);
        CHECK(accepted);
    }
}

static void test_refused(void) {
    static const struct {
        const char *header;
        size_t n_data;
        const char *expected;
    } cases[] = {
        {"", 0, "expected an object"},
        {"\xFF", 0, "UTF-8"},
        {"{", 0, "the end"},
        {"[]", 0, "expected an object"},
        {"null", 0, "expected an object"},
        {"\"x\"", 0, "expected an object"},
        {"\xEF\xBB\xBF{}", 0, "byte order mark"},
        {"{} x", 0, "nothing more"},
        {"{}{}", 0, "nothing more"},
        {"{" ENTRY("t", 0, 1) ",}", 1, "expected a string"},
        {"{" ENTRY("t", 0, 1) "}", 2, "trailing bytes: the header accounts for 62 bytes, the file has 63"},
        {"{}", 1, "trailing bytes"},
        {"{" ENTRY("a", 0, 1) "," ENTRY("b", 1, 2) "}", 1,
         "truncated: the header accounts for 115 bytes, the file has 114"},
        {"{" ENTRY("a", 0, 1) "," ENTRY("b", 1, 2) "}", 0, "truncated"},
        {"{" ENTRY("a", 0, 1) "," ENTRY("b", 2, 3) "}", 3,
         "hole between \"a\", which ends at byte 1, and \"b\", which"},
        {"{" ENTRY("a", 1, 2) "}", 2, "hole between \"the start of the data\", which ends at byte 0, and \"a\", which"},
        {"{" ENTRY("a", 0, 1) "," ENTRY("b", 0, 1) "}", 1, "overlap between \"a\""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}," ENTRY("b", 1, 2) "}", 2, "overlap"},
        {FIELDS("\"U8\"", "[1]", "[1,0]"), 1, "end before they begin"},
        {FIELDS("\"U8\"", "[1]", "[0.0,1.0]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1]", "[\"0\",\"1\"]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1]", "[false,true]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1]", "[null,1]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1]", "[-1,0]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1]", "[0,1e0]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1]", "[0]"), 1, "tensor \"t\": data_offsets must be two numbers"},
        {FIELDS("\"U8\"", "[1]", "[]"), 1, "tensor \"t\": data_offsets must be two numbers"},
        {FIELDS("\"U8\"", "[1]", "[0,1,2]"), 1, "tensor \"t\": data_offsets must be two numbers"},
        {FIELDS("\"U8\"", "[1]", "[0,1"), 1, "in \"t\": expected ',' or ']'"},
        {FIELDS("\"U8\"", "[1]", "{}"), 1, "in \"t\": expected an array"},
        {FIELDS("\"U8\"", "[2,18446744073709551614]", "[0,1]"), 1, "overflow"},
        {FIELDS("\"U8\"", "[0,9223372036854775808]", "[0,0]"), 0, "overflow"},
        {FIELDS("\"U8\"", "[2,9223372036854775807]", "[0,1]"), 1, "overflow"},
        {FIELDS("\"U8\"", "[2305843009213693952]", "[0,0]"), 0, "overflow"},
        {FIELDS("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "overflow"},
        {FIELDS("\"F64\"", "[288230376151711744]", "[0,0]"), 0, "overflow"},
        {FIELDS("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflow"},
        {FIELDS("\"U8\"", "[-1]", "[0,1]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[1.5]", "[0,1]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "[true]", "[0,1]"), 1, "in \"t\": expected a whole number"},
        {FIELDS("\"U8\"", "1", "[0,1]"), 1, "in \"t\": expected an array"},
        {FIELDS("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]"), 1,
         "more than 32 dimensions"},
        {FIELDS("\"F99\"", "[1]", "[0,1]"), 1, "tensor \"t\": unknown dtype \"F99\""},
        {FIELDS("\"f32\"", "[1]", "[0,1]"), 1, "unknown dtype \"f32\""},
        {FIELDS("\"F3\"", "[1]", "[0,1]"), 1, "unknown dtype \"F3\""},
        {FIELDS("\"\"", "[1]", "[0,1]"), 1, "unknown dtype \"\""},
        {FIELDS("32", "[1]", "[0,1]"), 1, "in \"t\": expected a string"},
        {FIELDS("{\"U8\":null}", "[1]", "[0,1]"), 1, "in \"t\": expected a string"},
        {FIELDS("\"F4\"", "[1]", "[0,1]"), 1, "misaligned"},
        {FIELDS("\"F32\"", "[2]", "[0,4]"), 4, "2 elements of F32 are 8 bytes, but data_offsets [0, 4] hold 4"},
        {FIELDS("\"U8\"", "[0]", "[0,1]"), 1, "0 elements of U8 are 0 bytes, but data_offsets [0, 1] hold 1"},
        {"{\"t\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor \"t\": dtype is missing"},
        {"{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "tensor \"t\": shape is missing"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor \"t\": data_offsets is missing"},
        {"{\"t\":{}}", 0, "tensor \"t\": dtype is missing"},
        {"{\"t\":null}", 0, "in \"t\": expected an object"},
        {"{\"t\":[\"U8\",[1],[0,1]]}", 1, "in \"t\": expected an object"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]", 1, "the end"},
        {EXTRA("\"dtype\":\"U8\""), 1, "tensor \"t\": duplicate key \"dtype\""},
        {EXTRA("\"shap\\u0065\":[1]"), 1, "tensor \"t\": duplicate key \"shape\""},
        {EXTRA("\"data_offsets\":[0,1]"), 1, "tensor \"t\": duplicate key \"data_offsets\""},
        {EXTRA("\"x\":1,\"y\":2,\"\\u0078\":3"), 1, "tensor \"t\": duplicate key \"\\u0078\""},
        {EXTRA("\"x\":1e999"), 1, "too large for float64"},
        {EXTRA("\"x\":[NaN]"), 1, "expected a value"},
        {EXTRA("\"x\":\"\\ud800\""), 1, "surrogate"},
        {"{" ENTRY("t", 0, 1) "," ENTRY("t", 0, 1) "}", 1, "duplicate key \"t\""},
        {"{" ENTRY("t", 0, 1) "," ENTRY("t", 1, 2) "}", 2, "duplicate key \"t\""},
        {"{" ENTRY("t", 0, 1) "," ENTRY("\\u0074", 1, 2) "}", 2, "duplicate key \"t\""},
        {"{" ENTRY("t\\u0000", 0, 1) "}", 1, "tensor \"t\\u0000\": its name holds a NUL"},
        {"{" ENTRY("\\udc00", 0, 1) "}", 1, "surrogate"},
        {"{" ENTRY("\n", 0, 1) "}", 1, "control character"},
        {METADATA("[]"), 0, "expected an object"},
        {METADATA("1"), 0, "expected an object"},
        {METADATA("nul"), 0, "expected a value"},
        {METADATA("{\"a\":1}"), 0, "in \"a\": expected a string"},
        {METADATA("{\"a\":[]}"), 0, "in \"a\": expected a string"},
        {METADATA("{\"a\":null}"), 0, "in \"a\": expected a string"},
        {METADATA("{\"a\":\"1\",\"b\":\"2\",\"\\u0061\":\"3\"}"), 0, "duplicate key \"a\" in __metadata__"},
        {METADATA("{\"a\":\"\\u0000\"}"), 0, "NUL in __metadata__"},
        {METADATA("{\"\\u0000\":\"a\"}"), 0, "NUL in __metadata__"},
        {METADATA("{\"a\":\"b\""), 0, "expected ',' or '}'"},
        {"{\"__metadata__\":{},\"_\\u005fmetadata__\":{}}", 0, "duplicate key \"__metadata__\""},
        {"{\"__metadata__\":null,\"__metadata__\":null}", 0, "duplicate key \"__metadata__\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int refused = is_refused(make_image(cases[i].header, cases[i].n_data), cases[i].expected);
        if (!refused) printf("%s\n", cases[i].header);
        CHECK(refused);
    }
    CHECK(is_refused(make_image_n("{}\0\0", 4, 0), "nothing more"));
    CHECK(is_refused(make_image_n("{\0}\0", 4, 0), "expected a string"));
    CHECK(is_refused(make_image_n("\xFF\xFE{\0}\0", 6, 0), "UTF-8"));
    CHECK(lp_safetensors_from_bytes(&(lp_safetensors *){NULL}, "f", (const unsigned char *)"", 0, NULL) == -1);
}

/* Every prefix of a good file is refused; none is read past its end. */
static void test_every_prefix(void) {
    image whole = make_image("{" ENTRY("a", 0, 1) "," ENTRY("b", 1, 2) "}", 2);
    for (size_t n = 0; n < whole.n_bytes; n++) {
        image file = {malloc(n + 1), n};
        memcpy(file.bytes, whole.bytes, n);
        CHECK(is_refused(file, n < 8 ? "8 bytes" : "truncated"));
    }
    free(whole.bytes);
}

static void test_long_names(void) {
    enum { N = 1 << 20 };
    char *header = malloc(N + 200), *c = header + 2;
    memcpy(header, "{\"", 2);
    for (size_t i = 0; i < N; i++) *c++ = "abc"[i % 3];
    strcpy(c, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    image file = make_image(header, 1);
    lp_safetensors *f = open_image(file);
    CHECK(f && lp_safetensors_at(f, 0)->name_len == N && lp_safetensors_find(f, header + 2, N));
    lp_safetensors_close(f);
    free(file.bytes);
    CHECK(is_refused(make_image(header, 0), "truncated"));
    strcpy(c, "\":{\"dtype\":\"U9\"}}");
    CHECK(is_refused(make_image(header, 0), "...\": unknown dtype \"U9\""));
    free(header);
}

static void test_too_deep(void) {
    char *header = malloc(100100);
    size_t n = (size_t)sprintf(header, "{\"t\":{\"x\":");
    memset(header + n, '[', 100000);
    CHECK(is_refused(make_image_n(header, n + 100000, 0), "in \"t\": nested deeper than 127 levels"));
    free(header);
}

static void test_open(void) {
    char dir[] = "/tmp/llamaprobe_test_XXXXXX", path[100];
    CHECK(mkdtemp(dir) != NULL);
    sprintf(path, "%s/m.safetensors", dir);
    image file = make_image("{" ENTRY("a", 0, 1) "," ENTRY("b", 1, 2) "}", 2);
    int fd = open(path, O_CREAT | O_WRONLY, 0600), dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    CHECK(write(fd, file.bytes, file.n_bytes) == (ssize_t)file.n_bytes);
    lp_safetensors *f = NULL;
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        CHECK(lp_safetensors_open(&f, dir_fd, "m.safetensors",
                                  use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1}, &err) == 0);
        CHECK(f && strcmp(lp_safetensors_path(f), "m.safetensors") == 0);
        CHECK(lp_safetensors_at(f, 1)->data[0] == 1 && lp_safetensors_n_bytes(f) == file.n_bytes);
        lp_safetensors_close(f);
        CHECK(lp_safetensors_open(&f, dir_fd, "n.safetensors",
                                  use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1}, &err) == -1);
        CHECK(!f && err.status == LP_EIO && strncmp(err.msg, "n.safetensors: cannot open: ", 28) == 0);
        CHECK(lp_safetensors_open(&f, AT_FDCWD, path, use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1},
                                  &err) == 0);
        CHECK(lp_safetensors_check_unchanged(f, &err) == 0);
        CHECK(write(fd, "x", 1) == 1);
        CHECK(lp_safetensors_check_unchanged(f, &err) == (use_mmap ? -1 : 0));
        CHECK(lp_safetensors_at(f, 1)->data[0] == 1);
        lp_safetensors_close(f);
        CHECK(lp_safetensors_open(&f, AT_FDCWD, path, use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1},
                                  &err) == -1 &&
              err.status == LP_EFORMAT);
        CHECK(strncmp(err.msg, path, strlen(path)) == 0 && strstr(err.msg, "trailing bytes"));
        CHECK(ftruncate(fd, (off_t)file.n_bytes) == 0 && lseek(fd, 0, SEEK_END) == (off_t)file.n_bytes);
    }
    lp_safetensors_close(NULL);
    close(fd);
    close(dir_fd);
    unlink(path);
    rmdir(dir);
    free(file.bytes);
}

int main(void) {
    test_tensors_in_the_order_of_the_data();
    test_every_dtype();
    test_find_among_many();
    test_accepted();
    test_refused();
    test_every_prefix();
    test_long_names();
    test_too_deep();
    test_open();
    return CHECK_REPORT();
}
