/* safetensors_header.c - reads and checks the entries of a header one by one.
 *
 * The same code walks the JSON twice: first it checks and counts, then it fills one block
 *     lp_tensor[n_tensors]  lp_tensor *[n_tensors]  lp_pair[n_pairs]  uint64_t[n_dims]  char[n_chars]
 * So no number in a file sizes an allocation; the block is at most about four times the header.
 *
 * Stricter than the format's own reader, it refuses duplicate keys, NUL in names and metadata, an entry written as an
 * array, a dtype written as an object, integers from 2^63, rank above 32, more than a million tensors or metadata keys,
 * and more than 32 unknown keys in an entry. Duplicate tensors are found by safetensors.c. */
#include "safetensors_header.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"         /* lp_json */
#include "../base/size.h" /* lp_size_add, lp_size_mul */

#define MAX_KEYS ((size_t)1000000)
#define MAX_IGNORED ((size_t)32)
#define FILE_BYTES 200 /* of the file's name, in messages */

/* One walk over the header. */
typedef struct {
    lp_json json;
    const char *file;
    lp_error *err;
    size_t data_start;
    size_t n_tensors, n_pairs, n_dims, n_chars, n_ignored;
    lp_tensor *tensors; /* this and the next three: NULL in the first walk */
    lp_pair *pairs;
    uint64_t *dims;
    char *chars;
} walk;

/* One entry of the header, as read. */
typedef struct {
    lp_tensor tensor;
    uint64_t shape[LP_MAX_RANK];
    uint64_t offsets[2]; /* begin and end in the data */
} entry;

/* ---------------------------------------------------------------- one entry */

/* "model.safetensors: tensor "a": ..." for the current entry. */
LP_PRINTF(2, 3) static int fail_entry(const walk *w, const char *fmt, ...) {
    char name[100], problem[250];
    va_list args;
    va_start(args, fmt);
    vsnprintf(problem, sizeof problem, fmt, args);
    va_end(args);
    lp_show(name, sizeof name, (const char *)w->json.within->raw, w->json.within->n_raw);
    return lp_fail(w->err, LP_EFORMAT, "%s: tensor \"%s\": %s", w->file, name, problem);
}

static int read_dtype(walk *w, entry *e) {
    lp_json_text text;
    char shown[40];
    if (lp_json_string(&w->json, &text)) return -1;
    for (int i = 0; i < LP_N_DTYPES; i++) {
        e->tensor.dtype = (lp_dtype)i;
        if (lp_json_is(&text, lp_dtype_name(e->tensor.dtype))) return 0;
    }
    return fail_entry(w, "unknown dtype \"%s\"", lp_show(shown, sizeof shown, (const char *)text.raw, text.n_raw));
}

static int read_shape(walk *w, entry *e) {
    size_t *rank = &e->tensor.rank;
    int more;
    if (lp_json_enter(&w->json, '[')) return -1;
    for (*rank = 0; (more = lp_json_next_item(&w->json)) > 0; (*rank)++) {
        if (*rank == LP_MAX_RANK) return fail_entry(w, "more than %d dimensions", LP_MAX_RANK);
        if (lp_json_uint(&w->json, &e->shape[*rank])) return -1;
    }
    return more;
}

static int read_offsets(walk *w, entry *e) {
    size_t n = 0;
    int more;
    if (lp_json_enter(&w->json, '[')) return -1;
    for (; (more = lp_json_next_item(&w->json)) > 0; n++) {
        if (n == 2) break;
        if (lp_json_uint(&w->json, &e->offsets[n])) return -1;
    }
    if (more < 0) return -1;
    return n == 2 && !more ? 0 : fail_entry(w, "data_offsets must be two numbers, [begin, end]");
}

/* Unknown keys are ignored, as by the format's reader, but may not repeat. */
static int ignore_key(walk *w, lp_json_text *ignored, size_t *n_ignored, const lp_json_text *key) {
    char shown[60];
    for (size_t i = 0; i < *n_ignored; i++)
        if (lp_json_same(&ignored[i], key))
            return fail_entry(w, "duplicate key \"%s\"",
                              lp_show(shown, sizeof shown, (const char *)key->raw, key->n_raw));
    if (*n_ignored == MAX_IGNORED) return fail_entry(w, "more than %zu unknown keys", MAX_IGNORED);
    ignored[(*n_ignored)++] = *key;
    w->n_ignored++;
    return lp_json_skip(&w->json);
}

static int read_fields(walk *w, entry *e) {
    static const char *const names[] = {"dtype", "shape", "data_offsets"};
    static int (*const readers[])(walk *, entry *) = {read_dtype, read_shape, read_offsets};
    lp_json_text key, ignored[MAX_IGNORED];
    size_t n_ignored = 0;
    int seen[3] = {0}, more;
    if (lp_json_enter(&w->json, '{')) return -1;
    while ((more = lp_json_next_key(&w->json, &key)) > 0) {
        int i = 0;
        while (i < 3 && !lp_json_is(&key, names[i])) i++;
        if (i < 3 && seen[i]++) return fail_entry(w, "duplicate key \"%s\"", names[i]);
        if (i < 3 ? readers[i](w, e) : ignore_key(w, ignored, &n_ignored, &key)) return -1;
    }
    for (int i = 0; i < 3 && more == 0; i++)
        if (!seen[i]) return fail_entry(w, "%s is missing", names[i]);
    return more;
}

/* size = shape x dtype, every product checked. */
static int measure(const walk *w, entry *e) {
    lp_tensor *t = &e->tensor;
    size_t n_bits, begin = e->offsets[0], end = e->offsets[1];
    int overflow = 0;
    t->n_elements = 1;
    for (size_t i = 0; i < t->rank; i++) overflow |= lp_size_mul(&t->n_elements, t->n_elements, e->shape[i]);
    if (overflow || lp_size_mul(&n_bits, t->n_elements, lp_dtype_bits(t->dtype)))
        return fail_entry(w, "overflow: the product of its shape and dtype does not fit 64 bits");
    if (n_bits % 8) return fail_entry(w, "misaligned: %zu bits are not a whole number of bytes", n_bits);
    if (begin > end) return fail_entry(w, "data_offsets [%zu, %zu] end before they begin", begin, end);
    if (end - begin != n_bits / 8)
        return fail_entry(w, "%zu elements of %s are %zu bytes, but data_offsets [%zu, %zu] hold %zu", t->n_elements,
                          lp_dtype_name(t->dtype), n_bits / 8, begin, end, end - begin);
    t->n_bytes = n_bits / 8;
    t->offset = w->data_start + begin;
    return 0;
}

/* ---------------------------------------------------------------- the walk */

/* Counts a string, and copies it in the second walk. */
static const char *add_text(walk *w, const lp_json_text *text) {
    char *dst = w->chars ? w->chars + w->n_chars : NULL;
    if (dst) lp_json_copy(dst, text);
    w->n_chars += text->len + 1;
    return dst;
}

static int read_tensor(walk *w, const lp_json_text *name) {
    entry e = {0};
    if (name->has_nul) return fail_entry(w, "its name holds a NUL");
    if (w->n_tensors == MAX_KEYS) return fail_entry(w, "too many tensors, the limit is %zu", MAX_KEYS);
    if (read_fields(w, &e) || measure(w, &e)) return -1;
    e.tensor.name = add_text(w, name);
    e.tensor.name_len = name->len;
    if (w->tensors) {
        e.tensor.shape = memcpy(w->dims + w->n_dims, e.shape, e.tensor.rank * sizeof *e.shape);
        w->tensors[w->n_tensors] = e.tensor;
    }
    w->n_dims += e.tensor.rank;
    w->n_tensors++;
    return 0;
}

static int read_metadata(walk *w) {
    lp_json_text key, value;
    int more;
    if (lp_json_peek(&w->json) == 'n') return lp_json_skip(&w->json); /* null: no metadata */
    if (lp_json_enter(&w->json, '{')) return -1;
    while ((more = lp_json_next_key(&w->json, &key)) > 0) {
        w->json.within = &key;
        if (lp_json_string(&w->json, &value)) return -1;
        if (key.has_nul || value.has_nul) return lp_fail(w->err, LP_EFORMAT, "%s: NUL in __metadata__", w->file);
        if (w->n_pairs == MAX_KEYS)
            return lp_fail(w->err, LP_EFORMAT, "%s: too many keys in __metadata__, the limit is %zu", w->file,
                           MAX_KEYS);
        lp_pair pair = {add_text(w, &key), add_text(w, &value), key.len, value.len};
        if (w->pairs) w->pairs[w->n_pairs] = pair;
        w->n_pairs++;
    }
    return more;
}

static int read_header(walk *w, const unsigned char *bytes, size_t n_bytes) {
    char source[FILE_BYTES + 10];
    lp_json_text key;
    int more, n_metadata = 0;
    snprintf(source, sizeof source, "%s: header", w->file);
    lp_json_init(&w->json, source, bytes, n_bytes, w->err);
    w->n_tensors = w->n_pairs = w->n_dims = w->n_chars = w->n_ignored = 0;
    if (lp_json_enter(&w->json, '{')) return -1;
    while ((more = lp_json_next_key(&w->json, &key)) > 0) {
        int is_metadata = lp_json_is(&key, "__metadata__");
        w->json.within = &key;
        if (is_metadata && n_metadata++)
            return lp_fail(w->err, LP_EFORMAT, "%s: duplicate key \"__metadata__\"", w->file);
        if (is_metadata ? read_metadata(w) : read_tensor(w, &key)) return -1;
        w->json.within = NULL;
    }
    return more ? -1 : lp_json_end(&w->json);
}

/* ---------------------------------------------------------------- the block */

static int add_array(size_t *total, size_t n, size_t size) {
    size_t n_bytes;
    return lp_size_mul(&n_bytes, n, size) || lp_size_add(total, *total, n_bytes) ? -1 : 0;
}

/* Allocates the block from the counts of the first walk; the second walk fills it. */
static int make_block(lp_header *header, walk *w) {
    size_t total = 1; /* never empty: malloc(0) may be NULL */
    if (add_array(&total, w->n_tensors, sizeof *w->tensors) || add_array(&total, w->n_tensors, sizeof(lp_tensor *)) ||
        add_array(&total, w->n_pairs, sizeof *w->pairs) || add_array(&total, w->n_dims, sizeof *w->dims) ||
        add_array(&total, w->n_chars, 1) || !(header->block = malloc(total)))
        return lp_fail(w->err, LP_ENOMEM, "%s: no memory for the names of %zu tensors", w->file, w->n_tensors);
    w->tensors = header->tensors = header->block;
    header->by_name = (lp_tensor **)(header->tensors + w->n_tensors);
    w->pairs = header->pairs = (lp_pair *)(header->by_name + w->n_tensors);
    w->dims = (uint64_t *)(header->pairs + w->n_pairs);
    w->chars = (char *)(w->dims + w->n_dims);
    return 0;
}

int lp_header_read(lp_header *header, const char *file, const unsigned char *bytes, size_t n_bytes, size_t data_start,
                   lp_error *err) {
    walk w = {.file = file, .err = err, .data_start = data_start};
    *header = (lp_header){0};
    if (read_header(&w, bytes, n_bytes) || make_block(header, &w) || read_header(&w, bytes, n_bytes)) return -1;
    header->n_tensors = w.n_tensors;
    header->n_pairs = w.n_pairs;
    header->n_ignored = w.n_ignored;
    return 0;
}

void lp_header_free(lp_header *header) {
    free(header->block);
    *header = (lp_header){0};
}
