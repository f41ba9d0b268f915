/* safetensors.c - one safetensors file: opening, the check that its tensors cover the data, and lookup by name.
 *
 * The header is copied first, so that it cannot change while it is checked and opening never touches the map. Sorted by
 * offset, the tensors must follow one another from the first byte of the data to the last of the file. Pointers sorted
 * by name reveal duplicates and find a name in O(log n). */
#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"              /* lp_names_compare */
#include "safetensors_header.h" /* lp_header */

#define LENGTH_BYTES ((size_t)8) /* the file begins with the length of its header */
#define MAX_HEADER ((size_t)100000000)

struct lp_safetensors {
    lp_map map;
    lp_header header; /* tensors sorted by offset, pairs by key */
    char path[];
};

static const struct {
    const char *name;
    size_t bits;
} dtypes[] = {
#define DTYPE_ENTRY(name, bits) {#name, bits},
    LP_DTYPES(DTYPE_ENTRY)
#undef DTYPE_ENTRY
};

const char *lp_dtype_name(lp_dtype dtype) { return dtypes[dtype].name; }
size_t lp_dtype_bits(lp_dtype dtype) { return dtypes[dtype].bits; }

/* ---------------------------------------------------------------- order */

static int compare_names(const void *a, const void *b) {
    const lp_tensor *x = *(lp_tensor *const *)a, *y = *(lp_tensor *const *)b;
    return lp_names_compare(x->name, x->name_len, y->name, y->name_len);
}

static int compare_keys(const void *a, const void *b) {
    const lp_pair *x = a, *y = b;
    return lp_names_compare(x->key, x->key_len, y->key, y->key_len);
}

/* Empty tensors at one offset stay in header order, in which their names were copied. */
static int compare_offsets(const void *a, const void *b) {
    const lp_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
    return (x->name > y->name) - (x->name < y->name);
}

static int fail_duplicate(const char *file, const char *key, size_t len, const char *where, lp_error *err) {
    char shown[100];
    return lp_fail(err, LP_EFORMAT, "%s: duplicate key \"%s\"%s", file, lp_show(shown, sizeof shown, key, len), where);
}

static int sort_and_find_duplicates(lp_header *h, const char *file, lp_error *err) {
    qsort(h->tensors, h->n_tensors, sizeof *h->tensors, compare_offsets);
    for (size_t i = 0; i < h->n_tensors; i++) h->by_name[i] = &h->tensors[i];
    qsort(h->by_name, h->n_tensors, sizeof *h->by_name, compare_names);
    qsort(h->pairs, h->n_pairs, sizeof *h->pairs, compare_keys);
    for (size_t i = 1; i < h->n_tensors; i++)
        if (compare_names(&h->by_name[i - 1], &h->by_name[i]) == 0)
            return fail_duplicate(file, h->by_name[i]->name, h->by_name[i]->name_len, ": two tensors", err);
    for (size_t i = 1; i < h->n_pairs; i++)
        if (compare_keys(&h->pairs[i - 1], &h->pairs[i]) == 0)
            return fail_duplicate(file, h->pairs[i].key, h->pairs[i].key_len, " in __metadata__", err);
    return 0;
}

/* Tensors follow one another from the start of the data to the end of the file, without hole or overlap. */
static int check_places(lp_header *h, const lp_map *map, size_t data_start, lp_error *err) {
    size_t end = data_start;
    for (lp_tensor *t = h->tensors; t < h->tensors + h->n_tensors; t++) {
        if (t->offset != end) {
            char name[100], before[100] = "the start of the data";
            lp_show(name, sizeof name, t->name, t->name_len);
            if (t > h->tensors) lp_show(before, sizeof before, t[-1].name, t[-1].name_len);
            return lp_fail(err, LP_EFORMAT,
                           "%s: %s between \"%s\", which ends at byte %zu, and \"%s\", which begins at %zu", map->name,
                           t->offset > end ? "hole" : "overlap", before, end - data_start, name,
                           t->offset - data_start);
        }
        end += t->n_bytes;
    }
    if (end > map->n_bytes)
        return lp_fail(err, LP_EFORMAT,
                       "%s: truncated: the header accounts for %zu bytes, the file has %zu; download it again",
                       map->name, end, map->n_bytes);
    if (end < map->n_bytes)
        return lp_fail(err, LP_EFORMAT, "%s: trailing bytes: the header accounts for %zu bytes, the file has %zu",
                       map->name, end, map->n_bytes);
    for (size_t i = 0; i < h->n_tensors; i++) h->tensors[i].data = map->bytes + h->tensors[i].offset;
    return 0;
}

/* ---------------------------------------------------------------- the proof */

static int read_length(const lp_map *map, size_t *n_header, lp_error *err) {
    unsigned char bytes[LENGTH_BYTES];
    uint64_t n = 0;
    if (map->n_bytes < LENGTH_BYTES)
        return lp_fail(err, LP_EFORMAT, "%s: %zu bytes are too few: a safetensors file begins with a length of 8 bytes",
                       map->name, map->n_bytes);
    if (lp_map_read(map, bytes, 0, LENGTH_BYTES, err)) return -1;
    for (size_t i = LENGTH_BYTES; i-- > 0;) n = n << 8 | bytes[i];
    if (lp_map_is_lfs_pointer(map))
        return lp_fail(
            err, LP_EFORMAT,
            "%s: is a Git LFS pointer of %zu bytes, not the weights; fetch them with `git lfs pull` in its folder",
            map->name, map->n_bytes);
    if (n > MAX_HEADER)
        return lp_fail(err, LP_EFORMAT, "%s: header too large: %llu bytes, the limit is %zu; is it a safetensors file?",
                       map->name, (unsigned long long)n, MAX_HEADER);
    if (n > map->n_bytes - LENGTH_BYTES)
        return lp_fail(err, LP_EFORMAT,
                       "%s: truncated: the header is said to be %zu bytes long, longer than the file of "
                       "%zu; download it again",
                       map->name, (size_t)n, map->n_bytes);
    *n_header = n;
    return 0;
}

static int prove(lp_safetensors *file, lp_error *err) {
    const lp_map *map = &file->map;
    size_t n_header = 0;
    if (read_length(map, &n_header, err)) return -1;
    unsigned char *bytes = malloc(n_header + 1); /* never empty: malloc(0) may be NULL */
    if (!bytes) return lp_fail(err, LP_ENOMEM, "%s: no memory for its header of %zu bytes", map->name, n_header);
    size_t data_start = LENGTH_BYTES + n_header;
    int failed = lp_map_read(map, bytes, LENGTH_BYTES, n_header, err) ||
                 lp_header_read(&file->header, map->name, bytes, n_header, data_start, err) ||
                 sort_and_find_duplicates(&file->header, map->name, err) ||
                 check_places(&file->header, map, data_start, err);
    free(bytes);
    return failed ? -1 : 0;
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

/* Proves the opened file. If that or opening failed, closes it and sets *out to NULL. */
static int finish(lp_safetensors **out, int failed, lp_error *err) {
    if (!failed && !prove(*out, err)) return 0;
    lp_safetensors_close(*out);
    *out = NULL;
    return -1;
}

int lp_safetensors_open(lp_safetensors **out, int dir_fd, const char *path, const lp_map_reading *reading,
                        lp_error *err) {
    *out = make_file(path, err);
    return *out ? finish(out, lp_map_open(&(*out)->map, dir_fd, path, reading, err), err) : -1;
}

int lp_safetensors_from_bytes(lp_safetensors **out, const char *name, const unsigned char *bytes, size_t n_bytes,
                              lp_error *err) {
    *out = make_file(name, err);
    if (!*out) return -1;
    lp_map_borrow(&(*out)->map, name, bytes, n_bytes);
    return finish(out, 0, err);
}

void lp_safetensors_close(lp_safetensors *file) {
    if (!file) return;
    lp_map_close(&file->map);
    lp_header_free(&file->header);
    free(file);
}

size_t lp_safetensors_count(const lp_safetensors *file) { return file->header.n_tensors; }
const lp_tensor *lp_safetensors_at(const lp_safetensors *file, size_t i) { return &file->header.tensors[i]; }
const char *lp_safetensors_path(const lp_safetensors *file) { return file->path; }
size_t lp_safetensors_n_bytes(const lp_safetensors *file) { return file->map.n_bytes; }
size_t lp_safetensors_n_metadata(const lp_safetensors *file) { return file->header.n_pairs; }
size_t lp_safetensors_n_ignored(const lp_safetensors *file) { return file->header.n_ignored; }

const lp_tensor *lp_safetensors_find(const lp_safetensors *file, const char *name, size_t name_len) {
    size_t low = 0, high = file->header.n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const lp_tensor *t = file->header.by_name[middle];
        int order = lp_names_compare(name, name_len, t->name, t->name_len);
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
    const lp_pair *pair = &file->header.pairs[i];
    *key = pair->key;
    *key_len = pair->key_len;
    *value = pair->value;
    *value_len = pair->value_len;
}

int lp_safetensors_is_mapped(const lp_safetensors *file) { return file->map.kind == LP_MAP_MAPPED; }

int lp_safetensors_check_unchanged(const lp_safetensors *file, lp_error *err) {
    return lp_map_check_unchanged(&file->map, err);
}

lp_part lp_safetensors_part(const lp_tensor *t) {
    return (lp_part){t->name, t->name_len, lp_dtype_name(t->dtype), t->rank, t->shape, t->data, t->n_bytes, t->offset};
}

int lp_dtype_element(lp_dtype dtype, lp_element *element) { return lp_element_of(lp_dtype_name(dtype), element); }

/* ---------------------------------------------------------------- as lp_container */

static int find_part(const void *file, const char *name, size_t name_len, lp_part *out) {
    const lp_tensor *t = lp_safetensors_find(file, name, name_len);
    if (t) *out = lp_safetensors_part(t);
    return t != NULL;
}

static int is_mapped(const void *file) { return lp_safetensors_is_mapped(file); }

static int check_unchanged(const void *file, lp_error *err) { return lp_safetensors_check_unchanged(file, err); }

lp_container lp_safetensors_container(const lp_safetensors *file) {
    return (lp_container){file, file->path, find_part, is_mapped, check_unchanged};
}

lp_tensors *lp_safetensors_tensors(lp_safetensors *const *files, size_t n_files, lp_error *err) {
    lp_container *containers = malloc((n_files + 1) * sizeof *containers);
    if (!containers) {
        lp_fail(err, LP_ENOMEM, "no memory for a model of %zu files", n_files);
        return NULL;
    }
    for (size_t i = 0; i < n_files; i++) containers[i] = lp_safetensors_container(files[i]);
    lp_tensors *tensors = lp_tensors_open(containers, n_files, NULL, 0, err);
    free(containers);
    return tensors;
}
