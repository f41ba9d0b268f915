/* tensors.c - looks up a name: first among the named tensors, by binary search, then file by file. */
#include "tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lp_tensors {
    lp_container *files;    /* [n_files], behind the struct */
    lp_named_tensor *named; /* [n_named], sorted by name, behind the files */
    size_t n_files, n_named;
};

int lp_element_of(const char *dtype, lp_element *element) {
    static const char *const dtypes[] = {
        [LP_ELEMENT_BF16] = "BF16", [LP_ELEMENT_F16] = "F16", [LP_ELEMENT_F32] = "F32"};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtype, dtypes[i])) {
            *element = (lp_element)i;
            return 0;
        }
    return -1;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const lp_named_tensor *)a)->name, ((const lp_named_tensor *)b)->name);
}

lp_tensors *lp_tensors_open(const lp_container *files, size_t n_files, const lp_named_tensor *named, size_t n_named,
                            lp_error *err) {
    lp_tensors *t = n_files ? malloc(sizeof *t + n_files * sizeof *files + n_named * sizeof *named) : NULL;
    if (!t) {
        lp_fail(err, n_files ? LP_ENOMEM : LP_EARG,
                n_files ? "no memory for a model of %zu files" : "a model needs at least one file of weights", n_files);
        return NULL;
    }
    lp_container *all = (lp_container *)(t + 1);
    *t = (lp_tensors){all, (lp_named_tensor *)(all + n_files), n_files, n_named};
    memcpy(t->files, files, n_files * sizeof *files);
    if (n_named) memcpy(t->named, named, n_named * sizeof *named);
    qsort(t->named, n_named, sizeof *named, compare_names);
    return t;
}

void lp_tensors_close(lp_tensors *tensors) { free(tensors); }

const char *lp_tensors_path(const lp_tensors *tensors) { return tensors->files[0].path; }

static void write_shape(lp_found_tensor *out, const uint64_t *shape, size_t rank) {
    size_t n = 1;
    out->rank = rank, out->shape[0] = '[';
    for (size_t i = 0; i < rank && n + 24 < sizeof out->shape; i++)
        n += (size_t)snprintf(out->shape + n, sizeof out->shape - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)shape[i]);
    snprintf(out->shape + n, sizeof out->shape - n, "]");
}

static void describe(lp_found_tensor *out, const char *path, const lp_part *part) {
    lp_weight w = {.data = part->data};
    *out = (lp_found_tensor){.path = path};
    if (lp_element_of(part->dtype, &w.element)) out->format = part->dtype;
    if (part->rank == 1 || part->rank == 2) w.n_rows = part->rank == 1 ? 1 : (size_t)part->shape[0];
    if (part->rank == 1 || part->rank == 2) w.n_cols = (size_t)part->shape[part->rank - 1];
    out->weight = w;
    write_shape(out, part->shape, part->rank);
}

static void describe_packed(lp_found_tensor *out, const char *path, const lp_packed *p) {
    uint64_t shape[] = {p->n_rows, p->n_cols};
    *out = (lp_found_tensor){.weight = {.data = p->codes,
                                        .element = LP_ELEMENT_PACKED,
                                        .n_rows = p->n_rows,
                                        .n_cols = p->n_cols,
                                        .packed = p},
                             .path = path};
    write_shape(out, shape, 2);
}

static int find_in(const lp_container *c, const char *name, lp_found_tensor *out) {
    lp_part part;
    if (!c->find(c->file, name, strlen(name), &part)) return 0;
    describe(out, c->path, &part);
    return 1;
}

int lp_tensors_find(const lp_tensors *t, const char *name, lp_found_tensor *out) {
    lp_named_tensor key = {.name = name}, *named = bsearch(&key, t->named, t->n_named, sizeof key, compare_names);
    if (named && named->packed) {
        describe_packed(out, named->file.path, named->packed);
        return 1;
    }
    if (named) return find_in(&named->file, named->stored, out);
    for (size_t i = 0; i < t->n_files; i++)
        if (find_in(&t->files[i], name, out)) return 1;
    return 0;
}

int lp_tensors_are_mapped(const lp_tensors *t) {
    for (size_t i = 0; i < t->n_files; i++)
        if (!t->files[i].is_mapped(t->files[i].file)) return 0;
    return 1;
}

int lp_tensors_check_unchanged(const lp_tensors *t, lp_error *err) {
    for (size_t i = 0; i < t->n_files; i++)
        if (t->files[i].check_unchanged(t->files[i].file, err)) return -1;
    return 0;
}
