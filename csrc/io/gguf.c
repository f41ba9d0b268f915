/* gguf.c - one GGUF file: opening, the check that its tensors cover the data, and lookup by name.
 *
 * Sorted by offset, the tensors must follow one another up to the end of the file, with less padding between them than
 * the alignment. ggml requires the same, in the order of the header; the padding's content is not checked. Pointers
 * sorted by name reveal duplicates and find a name in O(log n). */
#include "gguf.h"

#include <stdlib.h>
#include <string.h>

#include "gguf_header.h"  /* lp_gguf_header */
#include "names.h"        /* lp_names_compare */
#include "../base/size.h" /* lp_size_add */

#define MIN_BYTES ((size_t)24) /* magic, version and two counts */

struct lp_gguf {
    lp_map map;
    lp_gguf_header header;
    lp_gguf_key **keys;       /* sorted by name */
    lp_gguf_tensor **tensors; /* sorted by name */
    char path[];
};

/* ---------------------------------------------------------------- recognising other files */

static int begins_with(const char *bytes, const char *text) { return !memcmp(bytes, text, strlen(text)); }

/* What the file is instead of GGUF, from its first MIN_BYTES (NUL-terminated), and the way out. */
static const char *other_content(const char *first) {
    if (first[strspn(first, " \t\r\n")] == '<') return "is a web page, not the weights; download the file again";
    if (begins_with(first, "PK\3\4")) return "is a ZIP archive, like a PyTorch checkpoint; convert it to GGUF";
    if (begins_with(first + 8, "{")) return "is a safetensors file; its name should end in .safetensors";
    if (begins_with(first, "lmgg") || begins_with(first, "fmgg") || begins_with(first, "tjgg"))
        return "is a GGML file from before GGUF, which is no longer supported; convert the original weights again";
    return "is not a GGUF file: it does not begin with \"GGUF\"; if it should be one, download it again";
}

static int check_magic(const lp_map *map, lp_error *err) {
    char first[MIN_BYTES + 1] = {0};
    if (lp_map_is_lfs_pointer(map))
        return lp_fail(
            err, LP_EFORMAT,
            "%s: is a Git LFS pointer of %zu bytes, not the weights; fetch them with `git lfs pull` in its folder",
            map->name, map->n_bytes);
    if (lp_map_read(map, first, 0, lp_size_min(map->n_bytes, MIN_BYTES), err)) return -1;
    if (map->n_bytes >= 4 && !begins_with(first, "GGUF"))
        return lp_fail(err, LP_EFORMAT, "%s: %s", map->name, other_content(first));
    if (map->n_bytes < MIN_BYTES)
        return lp_fail(err, LP_EFORMAT,
                       "%s: truncated: a GGUF file has at least %zu bytes, this one has %zu; "
                       "download it again",
                       map->name, MIN_BYTES, map->n_bytes);
    return 0;
}

/* ---------------------------------------------------------------- order */

static int compare_keys(const void *a, const void *b) {
    const lp_gguf_key *x = *(lp_gguf_key *const *)a, *y = *(lp_gguf_key *const *)b;
    return lp_names_compare(x->name, x->name_len, y->name, y->name_len);
}

static int compare_names(const void *a, const void *b) {
    const lp_gguf_tensor *x = *(lp_gguf_tensor *const *)a, *y = *(lp_gguf_tensor *const *)b;
    return lp_names_compare(x->name, x->name_len, y->name, y->name_len);
}

static int compare_offsets(const void *a, const void *b) {
    const lp_gguf_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
    return lp_names_compare(x->name, x->name_len, y->name, y->name_len);
}

static int fail_duplicate(const char *file, const char *kind, const char *name, size_t len, lp_error *err) {
    char shown[100];
    return lp_fail(err, LP_EFORMAT, "%s: two %s are called \"%s\"", file, kind,
                   lp_show(shown, sizeof shown, name, len));
}

/* Sorts the tensors by offset, and pointers to keys and tensors by name. */
static int sort_and_find_duplicates(lp_gguf *file, lp_error *err) {
    const lp_gguf_contents *c = &file->header.contents;
    const char *name = file->map.name;
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, compare_offsets);
    file->keys = malloc((c->n_keys + 1) * sizeof *file->keys); /* never empty: malloc(0) may be NULL */
    file->tensors = malloc((c->n_tensors + 1) * sizeof *file->tensors);
    if (!file->keys || !file->tensors)
        return lp_fail(err, LP_ENOMEM, "%s: no memory for %zu keys and %zu tensors", name, c->n_keys, c->n_tensors);
    for (size_t i = 0; i < c->n_keys; i++) file->keys[i] = &c->keys[i];
    for (size_t i = 0; i < c->n_tensors; i++) file->tensors[i] = &c->tensors[i];
    qsort(file->keys, c->n_keys, sizeof *file->keys, compare_keys);
    qsort(file->tensors, c->n_tensors, sizeof *file->tensors, compare_names);
    for (size_t i = 1; i < c->n_keys; i++)
        if (!compare_keys(&file->keys[i - 1], &file->keys[i]))
            return fail_duplicate(name, "keys", file->keys[i]->name, file->keys[i]->name_len, err);
    for (size_t i = 1; i < c->n_tensors; i++)
        if (!compare_names(&file->tensors[i - 1], &file->tensors[i]))
            return fail_duplicate(name, "tensors", file->tensors[i]->name, file->tensors[i]->name_len, err);
    return 0;
}

/* ---------------------------------------------------------------- layout of the data */

/* `end`: where the tensors before t end. Relative to the data, as t->offset. */
static int fail_place(const char *file, const char *problem, const lp_gguf_tensor *t, const lp_gguf_tensor *first,
                      size_t end, lp_error *err) {
    char name[100], before[100] = "the start of the data";
    lp_show(name, sizeof name, t->name, t->name_len);
    if (t > first) lp_show(before, sizeof before, t[-1].name, t[-1].name_len);
    return lp_fail(err, LP_EFORMAT, "%s: %s between \"%s\", which ends at byte %zu, and \"%s\", which begins at %zu",
                   file, problem, before, end, name, t->offset);
}

/* *end: where the last tensor ends, relative to the data. */
static int check_order(const lp_gguf_contents *c, const char *file, size_t *end, lp_error *err) {
    *end = 0;
    for (const lp_gguf_tensor *t = c->tensors; t < c->tensors + c->n_tensors; t++) {
        if (t->offset < *end) return fail_place(file, "overlap", t, c->tensors, *end, err);
        if (t->offset - *end >= c->alignment) return fail_place(file, "hole", t, c->tensors, *end, err);
        if (lp_size_add(end, t->offset, t->n_bytes)) *end = (size_t)-1;
    }
    return 0;
}

/* The last tensor (or, without tensors, the header) ends at the end of the file, padding aside. */
static int check_end(const lp_map *map, size_t end, size_t alignment, lp_error *err) {
    if (end > map->n_bytes)
        return lp_fail(err, LP_EFORMAT,
                       "%s: truncated: the tensors end at byte %zu, the file has %zu; download it again", map->name,
                       end, map->n_bytes);
    if (map->n_bytes - end >= alignment)
        return lp_fail(err, LP_EFORMAT,
                       "%s: trailing bytes: the tensors end at byte %zu, the file has %zu; download it again",
                       map->name, end, map->n_bytes);
    return 0;
}

static int check_places(lp_gguf_header *h, const lp_map *map, lp_error *err) {
    const lp_gguf_contents *c = &h->contents;
    size_t data = (h->end + c->alignment - 1) / c->alignment * c->alignment, end; /* both small: see the limits */
    if (check_order(c, map->name, &end, err)) return -1;
    if (lp_size_add(&end, end, data)) end = (size_t)-1;
    if (check_end(map, c->n_tensors ? end : h->end, c->alignment, err)) return -1;
    for (lp_gguf_tensor *t = c->tensors; t < c->tensors + c->n_tensors; t++) {
        t->offset += data;
        t->data = map->bytes + t->offset;
    }
    return 0;
}

/* ---------------------------------------------------------------- the file */

static int prove(lp_gguf *file, lp_error *err) {
    if (check_magic(&file->map, err)) return -1;
    lp_gguf_bytes *bytes = malloc(sizeof *bytes);
    if (!bytes) return lp_fail(err, LP_ENOMEM, "%s: no memory to read its header", file->map.name);
    lp_gguf_bytes_begin(bytes, &file->map, err);
    int failed = lp_gguf_header_read(&file->header, bytes) || sort_and_find_duplicates(file, err) ||
                 check_places(&file->header, &file->map, err);
    free(bytes);
    return failed ? -1 : 0;
}

static lp_gguf *make_file(const char *path, lp_error *err) {
    size_t n_path = strlen(path);
    lp_gguf *file = calloc(1, sizeof *file + n_path + 1);
    if (!file) {
        lp_fail(err, LP_ENOMEM, "no memory to open a file");
        return NULL;
    }
    memcpy(file->path, path, n_path);
    file->map.fd = -1;
    return file;
}

/* Proves the opened file. If that or opening failed, closes it and sets *out to NULL. */
static int finish(lp_gguf **out, int failed, lp_error *err) {
    if (!failed && !prove(*out, err)) return 0;
    lp_gguf_close(*out);
    *out = NULL;
    return -1;
}

int lp_gguf_open(lp_gguf **out, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err) {
    *out = make_file(path, err);
    return *out ? finish(out, lp_map_open(&(*out)->map, dir_fd, path, reading, err), err) : -1;
}

int lp_gguf_from_bytes(lp_gguf **out, const char *name, const unsigned char *bytes, size_t n_bytes, lp_error *err) {
    *out = make_file(name, err);
    if (!*out) return -1;
    lp_map_borrow(&(*out)->map, name, bytes, n_bytes);
    return finish(out, 0, err);
}

void lp_gguf_close(lp_gguf *file) {
    if (!file) return;
    lp_map_close(&file->map);
    lp_gguf_header_free(&file->header);
    free(file->keys);
    free(file->tensors);
    free(file);
}

/* ---------------------------------------------------------------- contents */

const lp_gguf_contents *lp_gguf_contents_of(const lp_gguf *file) { return &file->header.contents; }

const lp_gguf_key *lp_gguf_find_key(const lp_gguf *file, const char *name, size_t name_len) {
    const lp_gguf_key wanted = {.name = name, .name_len = name_len}, *key = &wanted;
    lp_gguf_key **found = bsearch(&key, file->keys, file->header.contents.n_keys, sizeof *file->keys, compare_keys);
    return found ? *found : NULL;
}

const lp_gguf_tensor *lp_gguf_find(const lp_gguf *file, const char *name, size_t name_len) {
    const lp_gguf_tensor wanted = {.name = name, .name_len = name_len}, *tensor = &wanted;
    lp_gguf_tensor **found =
        bsearch(&tensor, file->tensors, file->header.contents.n_tensors, sizeof *file->tensors, compare_names);
    return found ? *found : NULL;
}

lp_part lp_gguf_part(const lp_gguf_tensor *t) {
    return (lp_part){t->name, t->name_len, t->type->name, t->rank, t->shape, t->data, t->n_bytes, t->offset};
}

int lp_gguf_read_value(const lp_gguf *file, void *dst, const lp_gguf_key *key, lp_error *err) {
    return lp_map_read(&file->map, dst, key->offset, key->n_bytes, err);
}

const char *lp_gguf_path(const lp_gguf *file) { return file->path; }
size_t lp_gguf_n_bytes(const lp_gguf *file) { return file->map.n_bytes; }
int lp_gguf_is_mapped(const lp_gguf *file) { return file->map.kind == LP_MAP_MAPPED; }
int lp_gguf_check_unchanged(const lp_gguf *file, lp_error *err) { return lp_map_check_unchanged(&file->map, err); }

/* ---------------------------------------------------------------- as lp_container */

static int find_part(const void *file, const char *name, size_t name_len, lp_part *out) {
    const lp_gguf_tensor *t = lp_gguf_find(file, name, name_len);
    if (t) *out = lp_gguf_part(t);
    return t != NULL;
}

static int is_mapped(const void *file) { return lp_gguf_is_mapped(file); }

static int check_unchanged(const void *file, lp_error *err) { return lp_gguf_check_unchanged(file, err); }

lp_container lp_gguf_container(const lp_gguf *file) {
    return (lp_container){file, lp_gguf_path(file), find_part, is_mapped, check_unchanged};
}
