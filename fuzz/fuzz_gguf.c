/* fuzz_gguf.c - whatever the bytes are, the header is refused in one printable line, or every promise holds. */
#include "../csrc/io/gguf.h"

#include <string.h>

#include "gguf_mutator.h" /* mutate_gguf */
#include "promise.h"      /* must */

static unsigned read_all(const unsigned char *bytes, size_t n) {
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) sum += bytes[i];
    return sum;
}

/* ---------------------------------------------------------------- tensors */

static void check_tensor(const lp_gguf *file, const lp_gguf_tensor *t, const uint8_t *data, size_t end) {
    const lp_gguf_contents *c = lp_gguf_contents_of(file);
    size_t n_elements = 1;
    must(t->rank <= LP_GGUF_MAX_RANK, "the rank is in range");
    for (size_t k = 0; k < t->rank; k++) n_elements *= (size_t)t->shape[k];
    must(n_elements == t->n_elements, "elements are the product of the shape");
    must(n_elements % t->type->n_elements == 0, "blocks are whole");
    must(n_elements / t->type->n_elements * t->type->n_bytes == t->n_bytes, "bytes are blocks x their size");
    must(t->offset % c->alignment == 0 && t->offset >= end && t->offset - end < c->alignment,
         "nothing but padding lies between tensors");
    must(t->data == data + t->offset, "data is in its place");
    must(strlen(t->name) == t->name_len && lp_gguf_find(file, t->name, t->name_len) == t, "a name finds its own");
    read_all(t->data, t->n_bytes);
}

/* ---------------------------------------------------------------- values */

typedef struct {
    const unsigned char *at;
    size_t left;
} items;

static void take(items *in, void *dst, size_t n) {
    must(n <= in->left, "a value ends with its bytes");
    if (dst) memcpy(dst, in->at, n);
    in->at += n;
    in->left -= n;
}

static void walk(items *in, lp_gguf_type type, uint64_t n, int depth) {
    must(type < LP_N_GGUF_TYPES && depth <= 4, "types are known, and arrays not too deep");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t n_inner;
        uint32_t inner = 0;
        unsigned char value;
        if (type == LP_GGUF_ARRAY) take(in, &inner, sizeof inner);
        if (type == LP_GGUF_ARRAY || type == LP_GGUF_STRING) take(in, &n_inner, sizeof n_inner);
        if (type == LP_GGUF_ARRAY) walk(in, (lp_gguf_type)inner, n_inner, depth + 1);
        if (type == LP_GGUF_STRING) take(in, NULL, n_inner);
        if (type == LP_GGUF_BOOL) take(in, &value, 1), must(value < 2, "a bool is 0 or 1");
        if (type != LP_GGUF_BOOL) take(in, NULL, lp_gguf_type_bytes(type));
    }
}

static void check_key(const lp_gguf *file, const lp_gguf_key *key, const uint8_t *data, size_t size) {
    must(key->type < LP_N_GGUF_TYPES && key->name_len > 0, "a key has a known type and a name");
    must(strlen(key->name) == key->name_len && lp_gguf_find_key(file, key->name, key->name_len) == key,
         "a name finds its own");
    must(key->offset <= size && key->n_bytes <= size - key->offset, "a value lies in the file");
    unsigned char *value = malloc(key->n_bytes + 1);
    must(lp_gguf_read_value(file, value, key, NULL) == 0 && !memcmp(value, data + key->offset, key->n_bytes),
         "a value is read from its place");
    items in = {value, key->n_bytes};
    if (key->type == LP_GGUF_ARRAY) walk(&in, key->item_type, key->n_items, 1);
    must(key->type != LP_GGUF_ARRAY || in.left == 0, "an array is its items");
    if (lp_gguf_type_bytes(key->type)) {
        must(key->n_bytes == lp_gguf_type_bytes(key->type), "a number has the bytes of its type");
        must(!memcmp(&key->bits, value, key->n_bytes), "a number is kept");
    }
    free(value);
}

/* ---------------------------------------------------------------- files */

static void check_file(const lp_gguf *file, const uint8_t *data, size_t size) {
    const lp_gguf_contents *c = lp_gguf_contents_of(file);
    must(c->version == 2 || c->version == 3, "the version is known");
    must(c->alignment >= 8 && c->alignment <= 65536 && !(c->alignment & (c->alignment - 1)), "a power of two");
    for (size_t i = 0; i < c->n_keys; i++) check_key(file, &c->keys[i], data, size);
    size_t end = c->n_tensors ? c->tensors[0].offset : 0;
    for (size_t i = 0; i < c->n_tensors; i++) {
        check_tensor(file, &c->tensors[i], data, end);
        end = c->tensors[i].offset + c->tensors[i].n_bytes;
    }
    must(lp_gguf_n_bytes(file) == size && end <= size, "tensors lie in the file");
    must(!c->n_tensors || size - end < c->alignment, "tensors end with the file, but for padding");
    must(lp_gguf_check_unchanged(file, NULL) == 0, "bytes never change");
    lp_gguf *shorter;
    if (c->n_tensors && end)
        must(lp_gguf_from_bytes(&shorter, "f", data, end - 1, NULL) == -1, "a file without its end is refused");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_error err = {0};
    lp_gguf *file;
    int status = lp_gguf_from_bytes(&file, "f", data, size, &err);
    must((status == 0) == (file != NULL) && (status == 0) == (err.status == LP_OK), "status, file and error agree");
    must(status == 0 || err.status == LP_EFORMAT || err.status == LP_EUNSUPPORTED, "bad bytes are a fault of the file");
    must(status == 0 || strncmp(err.msg, "f: ", 3) == 0, "a message names the file");
    must_be_a_line(err.msg);
    if (file) check_file(file, data, size);
    lp_gguf_close(file);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return mutate_gguf(data, size, max_size, seed);
}
