/* fuzz_safetensors.c - whatever the bytes are, the header is refused in one printable line, or every promise holds.
 *
 * tests/test_safetensors_reference.py calls its mutator, to feed this reader and the format's own the same bytes. */
#include "../csrc/io/safetensors.h"

#include <string.h>

#include "promise.h"             /* must */
#include "safetensors_mutator.h" /* mutate_safetensors */

#define LENGTH_BYTES 8

static unsigned read_all(const unsigned char *bytes, size_t n) {
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) sum += bytes[i];
    return sum;
}

static void check_tensor(const lp_safetensors *file, const lp_tensor *t, const uint8_t *data, size_t end) {
    size_t n_elements = 1;
    for (size_t k = 0; k < t->rank; k++) n_elements *= (size_t)t->shape[k];
    must(t->rank <= LP_MAX_RANK && t->dtype < LP_N_DTYPES, "rank and dtype are in range");
    must(n_elements == t->n_elements, "elements are the product of the shape");
    must(n_elements * lp_dtype_bits(t->dtype) == 8 * t->n_bytes, "bytes are elements x dtype");
    must(t->offset == end && t->data == data + t->offset, "tensors tile the data");
    must(strlen(t->name) == t->name_len && lp_safetensors_find(file, t->name, t->name_len) == t,
         "a name finds its own");
    read_all(t->data, t->n_bytes);
}

static void check_metadata(const lp_safetensors *file) {
    const char *key, *value, *before = NULL;
    size_t key_len, value_len;
    for (size_t i = 0; i < lp_safetensors_n_metadata(file); i++, before = key) {
        lp_safetensors_metadata(file, i, &key, &key_len, &value, &value_len);
        must(strlen(key) == key_len && strlen(value) == value_len, "metadata has no NUL");
        must(!before || strcmp(before, key) < 0, "metadata keys are sorted and stand once");
    }
}

static void check_file(const lp_safetensors *file, const uint8_t *data, size_t size) {
    size_t end = LENGTH_BYTES, n = lp_safetensors_count(file);
    for (int i = 0; i < LENGTH_BYTES; i++) end += (size_t)data[i] << (8 * i);
    for (size_t i = 0; i < n; i++) {
        const lp_tensor *t = lp_safetensors_at(file, i);
        check_tensor(file, t, data, end);
        end += t->n_bytes;
    }
    must(end == size && lp_safetensors_n_bytes(file) == size, "tensors end with the file");
    must(lp_safetensors_check_unchanged(file, NULL) == 0, "bytes never change");
    check_metadata(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_error err = {0};
    lp_safetensors *file, *shorter;
    int status = lp_safetensors_from_bytes(&file, "f", data, size, &err);
    must((status == 0) == (file != NULL) && (status == 0) == (err.status == LP_OK), "status, file and error agree");
    must(status == 0 || err.status == LP_EFORMAT, "bad bytes are a fault of the format");
    must(status == 0 || strncmp(err.msg, "f: ", 3) == 0, "a message names the file");
    must_be_a_line(err.msg);
    if (file) {
        check_file(file, data, size);
        must(lp_safetensors_from_bytes(&shorter, "f", data, size - 1, NULL) == -1, "a file without its end is refused");
    }
    lp_safetensors_close(file);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return mutate_safetensors(data, size, max_size, seed);
}
