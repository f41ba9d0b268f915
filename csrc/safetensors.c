/* safetensors.c - proves the header of a safetensors file and finds its tensors; see safetensors.h.
 *
 * The header is copied first, so that nobody can change it under the proof, and walked twice by the same code:
 * the first walk proves it and counts, then one block is made, and the second walk fills it:
 *     lp_tensor[n_tensors]  lp_tensor *[n_tensors]  lp_pair[n_pairs]  uint64_t[n_dims]  char[n_chars]
 * So no number that stands in a file becomes the size of an allocation; the block is what the entries take, at most
 * some four times the header. Tensors are sorted by place, which proves that they tile the data, and the pointers
 * by name, which shows duplicates and finds names in O(log n).
 *
 * Stricter than the format's own reader: duplicate keys, NUL in names and metadata, an entry written as an array,
 * integers of 2^63 and more, rank above 32, more than a million tensors or metadata keys, and more than 32 unknown
 * keys in an entry are refused. */
#include "safetensors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h" /* lp_json */
#include "map.h"  /* lp_map */
#include "size.h" /* lp_size_add, lp_size_mul */

_Static_assert(sizeof(size_t) == 8, "llamaprobe needs a 64-bit system: places in a file are sizes here");

#define LENGTH_BYTES ((size_t)8) /* the file begins with the length of its header */
#define MAX_HEADER ((size_t)100000000)
#define MAX_KEYS ((size_t)1000000)
#define MAX_IGNORED ((size_t)32)

typedef struct {
    const char *key, *value;
    size_t key_len, value_len;
} lp_pair;

struct lp_safetensors {
    lp_map map;
    void *block;         /* holds all that the next three point to */
    lp_tensor *tensors;  /* [n_tensors], in the order of the data */
    lp_tensor **by_name; /* [n_tensors] */
    lp_pair *pairs;      /* [n_pairs], in the order of the keys */
    size_t n_tensors, n_pairs, n_ignored;
    char path[];
};

/* A walk over the header. */
typedef struct {
    lp_json json;
    const lp_map *map;
    lp_error *err;
    size_t data_start; /* of the data in the file */
    size_t n_tensors, n_pairs, n_dims, n_chars, n_ignored;
    lp_tensor *tensors; /* NULL in the first walk, as are the next three */
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

/* ---------------------------------------------------------------- dtypes */

static const struct {
    const char *name;
    size_t bits;
} dtypes[] = {
#define DTYPE_ROW(name, bits) {#name, bits},
    LP_DTYPES(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *lp_dtype_name(lp_dtype dtype) { return dtypes[dtype].name; }
size_t lp_dtype_bits(lp_dtype dtype) { return dtypes[dtype].bits; }

/* ---------------------------------------------------------------- one entry */

/* "model.safetensors: tensor "a": ..." for the entry that is being read. */
LP_PRINTF(2, 3) static int fail_entry(const walk *w, const char *fmt, ...) {
    char name[100], problem[250];
    va_list args;
    va_start(args, fmt);
    vsnprintf(problem, sizeof problem, fmt, args);
    va_end(args);
    lp_show(name, sizeof name, (const char *)w->json.within->raw, w->json.within->n_raw);
    return lp_fail(w->err, LP_EFORMAT, "%s: tensor \"%s\": %s", w->map->name, name, problem);
}

static int read_dtype(walk *w, entry *e) {
    lp_json_text text;
    char shown[40];
    if (lp_json_string(&w->json, &text)) return -1;
    for (int i = 0; i < LP_N_DTYPES; i++) {
        e->tensor.dtype = (lp_dtype)i;
        if (lp_json_is(&text, dtypes[i].name)) return 0;
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

/* Unknown keys are passed over, as the format's reader does, but each may stand only once. */
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
    if (n_bits % 8) return fail_entry(w, "misaligned: %zu bits are no whole number of bytes", n_bits);
    if (begin > end) return fail_entry(w, "data_offsets [%zu, %zu] end before they begin", begin, end);
    if (end - begin != n_bits / 8)
        return fail_entry(w, "%zu elements of %s are %zu bytes, but data_offsets [%zu, %zu] hold %zu", t->n_elements,
                          lp_dtype_name(t->dtype), n_bits / 8, begin, end, end - begin);
    t->n_bytes = n_bits / 8;
    t->offset = w->data_start + begin;
    return 0;
}

/* ---------------------------------------------------------------- the walk */

/* Counts a string, and in the second walk keeps it. */
static const char *keep_text(walk *w, const lp_json_text *text) {
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
    e.tensor.name = keep_text(w, name);
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
    if (lp_json_peek(&w->json) == 'n') return lp_json_skip(&w->json); /* null is none */
    if (lp_json_enter(&w->json, '{')) return -1;
    while ((more = lp_json_next_key(&w->json, &key)) > 0) {
        w->json.within = &key;
        if (lp_json_string(&w->json, &value)) return -1;
        if (key.has_nul || value.has_nul) return lp_fail(w->err, LP_EFORMAT, "%s: NUL in __metadata__", w->map->name);
        if (w->n_pairs == MAX_KEYS)
            return lp_fail(w->err, LP_EFORMAT, "%s: too many keys in __metadata__, the limit is %zu", w->map->name,
                           MAX_KEYS);
        lp_pair pair = {keep_text(w, &key), keep_text(w, &value), key.len, value.len};
        if (w->pairs) w->pairs[w->n_pairs] = pair;
        w->n_pairs++;
    }
    return more;
}

static int read_header(walk *w, const unsigned char *header, size_t n_header) {
    char source[sizeof w->map->name + 10];
    lp_json_text key;
    int more, n_metadata = 0;
    snprintf(source, sizeof source, "%s: header", w->map->name);
    lp_json_init(&w->json, source, header, n_header, w->err);
    w->n_tensors = w->n_pairs = w->n_dims = w->n_chars = w->n_ignored = 0;
    if (lp_json_enter(&w->json, '{')) return -1;
    while ((more = lp_json_next_key(&w->json, &key)) > 0) {
        int is_metadata = lp_json_is(&key, "__metadata__");
        w->json.within = &key;
        if (is_metadata && n_metadata++)
            return lp_fail(w->err, LP_EFORMAT, "%s: duplicate key \"__metadata__\"", w->map->name);
        if (is_metadata ? read_metadata(w) : read_tensor(w, &key)) return -1;
        w->json.within = NULL;
    }
    return more ? -1 : lp_json_end(&w->json);
}

/* ---------------------------------------------------------------- order */

static int compare_text(const char *a, size_t a_len, const char *b, size_t b_len) {
    int order = memcmp(a, b, lp_size_min(a_len, b_len));
    return order ? order : (a_len > b_len) - (a_len < b_len);
}

static int compare_names(const void *a, const void *b) {
    const lp_tensor *x = *(lp_tensor *const *)a, *y = *(lp_tensor *const *)b;
    return compare_text(x->name, x->name_len, y->name, y->name_len);
}

static int compare_keys(const void *a, const void *b) {
    const lp_pair *x = a, *y = b;
    return compare_text(x->key, x->key_len, y->key, y->key_len);
}

/* Empty tensors that share a place stay in the order of the header, which is that of the kept names. */
static int compare_places(const void *a, const void *b) {
    const lp_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
    return (x->name > y->name) - (x->name < y->name);
}

static int fail_duplicate(const lp_safetensors *file, const char *key, size_t len, const char *where, lp_error *err) {
    char shown[100];
    return lp_fail(err, LP_EFORMAT, "%s: duplicate key \"%s\"%s", file->map.name,
                   lp_show(shown, sizeof shown, key, len), where);
}

static int sort_and_find_duplicates(lp_safetensors *file, lp_error *err) {
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_places);
    for (size_t i = 0; i < file->n_tensors; i++) file->by_name[i] = &file->tensors[i];
    qsort(file->by_name, file->n_tensors, sizeof *file->by_name, compare_names);
    qsort(file->pairs, file->n_pairs, sizeof *file->pairs, compare_keys);
    for (size_t i = 1; i < file->n_tensors; i++)
        if (compare_names(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return fail_duplicate(file, file->by_name[i]->name, file->by_name[i]->name_len, ": two tensors", err);
    for (size_t i = 1; i < file->n_pairs; i++)
        if (compare_keys(&file->pairs[i - 1], &file->pairs[i]) == 0)
            return fail_duplicate(file, file->pairs[i].key, file->pairs[i].key_len, " in __metadata__", err);
    return 0;
}

/* One after the other from the start of the data to the end of the file, without hole or overlap. */
static int check_places(lp_safetensors *file, size_t data_start, lp_error *err) {
    size_t end = data_start;
    for (size_t i = 0; i < file->n_tensors; i++) {
        lp_tensor *t = &file->tensors[i];
        if (t->offset != end) {
            char name[100], before[100] = "the start of the data";
            lp_show(name, sizeof name, t->name, t->name_len);
            if (i) lp_show(before, sizeof before, t[-1].name, t[-1].name_len);
            return lp_fail(err, LP_EFORMAT,
                           "%s: %s between \"%s\", which ends at byte %zu, and \"%s\", which begins at %zu",
                           file->map.name, t->offset > end ? "hole" : "overlap", before, end - data_start, name,
                           t->offset - data_start);
        }
        end += t->n_bytes;
    }
    if (end > file->map.n_bytes)
        return lp_fail(err, LP_EFORMAT,
                       "%s: truncated: the header promises %zu bytes, the file has %zu; download it again",
                       file->map.name, end, file->map.n_bytes);
    if (end < file->map.n_bytes)
        return lp_fail(err, LP_EFORMAT, "%s: trailing bytes: the header accounts for %zu bytes, the file has %zu",
                       file->map.name, end, file->map.n_bytes);
    for (size_t i = 0; i < file->n_tensors; i++) file->tensors[i].data = file->map.bytes + file->tensors[i].offset;
    return 0;
}

/* ---------------------------------------------------------------- the proof */

static int add_array(size_t *total, size_t n, size_t size) {
    size_t n_bytes;
    return lp_size_mul(&n_bytes, n, size) || lp_size_add(total, *total, n_bytes) ? -1 : 0;
}

/* Makes the block for what the first walk counted, and points the second walk and the file into it. */
static int make_block(lp_safetensors *file, walk *w) {
    size_t total = 1; /* no block is empty: malloc(0) may be NULL */
    if (add_array(&total, w->n_tensors, sizeof *w->tensors) || add_array(&total, w->n_tensors, sizeof(lp_tensor *)) ||
        add_array(&total, w->n_pairs, sizeof *w->pairs) || add_array(&total, w->n_dims, sizeof *w->dims) ||
        add_array(&total, w->n_chars, 1) || !(file->block = malloc(total)))
        return lp_fail(w->err, LP_ENOMEM, "%s: no memory for the names of %zu tensors", w->map->name, w->n_tensors);
    w->tensors = file->tensors = file->block;
    file->by_name = (lp_tensor **)(file->tensors + w->n_tensors);
    w->pairs = file->pairs = (lp_pair *)(file->by_name + w->n_tensors);
    w->dims = (uint64_t *)(file->pairs + w->n_pairs);
    w->chars = (char *)(w->dims + w->n_dims);
    return 0;
}

static int read_header_length(const lp_map *map, size_t *n_header, lp_error *err) {
    unsigned char bytes[LENGTH_BYTES];
    uint64_t n = 0;
    if (map->n_bytes < LENGTH_BYTES)
        return lp_fail(err, LP_EFORMAT, "%s: %zu bytes are too few: a safetensors file begins with a length of 8 bytes",
                       map->name, map->n_bytes);
    if (lp_map_read(map, bytes, 0, LENGTH_BYTES, err)) return -1;
    for (size_t i = LENGTH_BYTES; i-- > 0;) n = n << 8 | bytes[i];
    if (n > MAX_HEADER)
        return lp_fail(err, LP_EFORMAT, "%s: header too large: %llu bytes, the limit is %zu; is it a safetensors file?",
                       map->name, (unsigned long long)n, MAX_HEADER);
    if (n > map->n_bytes - LENGTH_BYTES)
        return lp_fail(err, LP_EFORMAT,
                       "%s: truncated: the header promises to be %zu bytes long, longer than the file of "
                       "%zu; download it again",
                       map->name, (size_t)n, map->n_bytes);
    *n_header = n;
    return 0;
}

static int prove(lp_safetensors *file, lp_error *err) {
    size_t n_header = 0;
    walk w = {.map = &file->map, .err = err};
    if (read_header_length(&file->map, &n_header, err)) return -1;
    w.data_start = LENGTH_BYTES + n_header;
    unsigned char *header = malloc(n_header + 1); /* never empty: malloc(0) may be NULL */
    if (!header) return lp_fail(err, LP_ENOMEM, "%s: no memory for its header of %zu bytes", file->map.name, n_header);
    int failed = lp_map_read(&file->map, header, LENGTH_BYTES, n_header, err) || read_header(&w, header, n_header) ||
                 make_block(file, &w) || read_header(&w, header, n_header);
    free(header);
    if (failed) return -1;
    file->n_tensors = w.n_tensors;
    file->n_pairs = w.n_pairs;
    file->n_ignored = w.n_ignored;
    return sort_and_find_duplicates(file, err) || check_places(file, w.data_start, err) ? -1 : 0;
}

/* ---------------------------------------------------------------- the file */

static lp_safetensors *make_file(const char *path, lp_error *err) {
    size_t n_path = strlen(path);
    lp_safetensors *file = calloc(1, sizeof *file + n_path + 1);
    if (!file) {
        lp_fail(err, LP_ENOMEM, "no memory to open a file");
        return NULL;
    }
    memcpy(file->path, path, n_path);
    file->map.fd = -1;
    return file;
}

int lp_safetensors_open(lp_safetensors **out, int dir_fd, const char *path, int use_mmap, lp_error *err) {
    lp_safetensors *file = *out = make_file(path, err);
    if (!file) return -1;
    if (lp_map_open(&file->map, dir_fd, path, use_mmap, err) || prove(file, err)) goto fail;
    return 0;
fail:
    lp_safetensors_close(file);
    *out = NULL;
    return -1;
}

int lp_safetensors_from_bytes(lp_safetensors **out, const char *name, const unsigned char *bytes, size_t n_bytes,
                              lp_error *err) {
    lp_safetensors *file = *out = make_file(name, err);
    if (!file) return -1;
    lp_map_borrow(&file->map, name, bytes, n_bytes);
    if (prove(file, err) == 0) return 0;
    lp_safetensors_close(file);
    *out = NULL;
    return -1;
}

void lp_safetensors_close(lp_safetensors *file) {
    if (!file) return;
    lp_map_close(&file->map);
    free(file->block);
    free(file);
}

size_t lp_safetensors_count(const lp_safetensors *file) { return file->n_tensors; }
const lp_tensor *lp_safetensors_at(const lp_safetensors *file, size_t i) { return &file->tensors[i]; }
const char *lp_safetensors_path(const lp_safetensors *file) { return file->path; }
size_t lp_safetensors_n_bytes(const lp_safetensors *file) { return file->map.n_bytes; }
size_t lp_safetensors_n_metadata(const lp_safetensors *file) { return file->n_pairs; }
size_t lp_safetensors_n_ignored(const lp_safetensors *file) { return file->n_ignored; }

const lp_tensor *lp_safetensors_find(const lp_safetensors *file, const char *name, size_t name_len) {
    size_t low = 0, high = file->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const lp_tensor *t = file->by_name[middle];
        int order = compare_text(name, name_len, t->name, t->name_len);
        if (order == 0) return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void lp_safetensors_metadata(const lp_safetensors *file, size_t i, const char **key, size_t *key_len,
                             const char **value, size_t *value_len) {
    const lp_pair *pair = &file->pairs[i];
    *key = pair->key;
    *key_len = pair->key_len;
    *value = pair->value;
    *value_len = pair->value_len;
}

int lp_safetensors_check_unchanged(const lp_safetensors *file, lp_error *err) {
    return lp_map_check_unchanged(&file->map, err);
}
