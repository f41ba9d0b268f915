/* gguf_header.c - reads and checks the keys and tensors of a header one by one, in one pass.
 *
 * The two counts are checked against the limit and the file's size, then size two arrays: about four times the bytes
 * of the header that they describe. Names are copied into blocks of their own, so that they never move.
 *
 * Stricter than ggml, it refuses keys and names that are not UTF-8 or hold a NUL, bools other than 0 and 1, more than a
 * million keys or tensors, and headers over LP_GGUF_MAX_HEADER; more lenient, it accepts nested arrays and names of
 * more than 63 bytes. */
#include "gguf_header.h"

#include <stdlib.h>
#include <string.h>

#include "gguf_value.h"   /* lp_gguf_pass_value */
#include "../base/size.h" /* lp_size_mul */
#include "../base/utf8.h" /* lp_utf8_is_valid */

#define MAX_COUNT ((uint64_t)1000000) /* of keys, and of tensors */
#define MAX_NAME ((uint64_t)65535)    /* the format's limit for keys */
#define NAMES_BYTES ((size_t)8192)    /* per block of names */
#define MIN_KEY ((size_t)14)          /* bytes: length, a character, type, value */
#define MIN_TENSOR ((size_t)24)       /* length, rank, type, offset */

#define DEFAULT_ALIGNMENT ((size_t)32)
#define MIN_ALIGNMENT ((uint64_t)8)
#define MAX_ALIGNMENT ((uint64_t)65536)

typedef struct lp_gguf_names lp_gguf_names;
struct lp_gguf_names {
    lp_gguf_names *next;
    size_t used, room;
    char chars[];
};

/* ---------------------------------------------------------------- names */

/* Space for n characters in the current block of names, or in a new one; NULL: LP_ENOMEM. */
static char *reserve(lp_gguf_header *h, lp_gguf_bytes *b, size_t n) {
    lp_gguf_names *names = h->names;
    if (!names || n > names->room - names->used) {
        size_t room = n > NAMES_BYTES ? n : NAMES_BYTES;
        names = malloc(sizeof *names + room);
        if (!names) {
            lp_gguf_fail(b, LP_ENOMEM, "no memory for its name");
            return NULL;
        }
        *names = (lp_gguf_names){.next = h->names, .room = room};
        h->names = names;
    }
    names->used += n;
    return names->chars + names->used - n;
}

static int read_name(lp_gguf_header *h, lp_gguf_bytes *b, const char **name, size_t *name_len) {
    uint64_t n;
    b->name = NULL;
    if (lp_gguf_take_u64(b, &n)) return -1;
    if (n > lp_gguf_left(b)) return lp_gguf_fail_short(b, n);
    if (n > MAX_NAME)
        return lp_gguf_fail(b, LP_EFORMAT, "its name has %llu bytes, the limit is %llu", (unsigned long long)n,
                            (unsigned long long)MAX_NAME);
    const unsigned char *bytes = lp_gguf_take(b, (size_t)n);
    if (!bytes) return -1;
    b->name = (const char *)bytes;
    b->name_len = (size_t)n;
    if (memchr(bytes, 0, (size_t)n)) return lp_gguf_fail(b, LP_EFORMAT, "its name holds a NUL");
    if (!lp_utf8_is_valid(bytes, (size_t)n)) return lp_gguf_fail(b, LP_EFORMAT, "its name is not UTF-8");
    char *copy = reserve(h, b, (size_t)n + 1);
    if (!copy) return -1;
    memcpy(copy, bytes, (size_t)n);
    copy[n] = 0;
    *name = b->name = copy;
    *name_len = (size_t)n;
    return 0;
}

/* ---------------------------------------------------------------- keys */

static int take_alignment(lp_gguf_header *h, const lp_gguf_bytes *b, const lp_gguf_key *key) {
    uint64_t n = key->bits;
    if (strcmp(key->name, "general.alignment")) return 0;
    if (key->type != LP_GGUF_U32)
        return lp_gguf_fail(b, LP_EFORMAT, "is of type %s; it must be u32", lp_gguf_type_name(key->type));
    if (n < MIN_ALIGNMENT || n > MAX_ALIGNMENT || (n & (n - 1)))
        return lp_gguf_fail(b, LP_EFORMAT, "is %llu; it must be a power of two from %llu to %llu",
                            (unsigned long long)n, (unsigned long long)MIN_ALIGNMENT,
                            (unsigned long long)MAX_ALIGNMENT);
    h->contents.alignment = (size_t)n;
    return 0;
}

static int read_key(lp_gguf_header *h, lp_gguf_bytes *b, lp_gguf_key *key) {
    uint32_t type;
    if (read_name(h, b, &key->name, &key->name_len)) return -1;
    if (!key->name_len) return lp_gguf_fail(b, LP_EFORMAT, "its name is empty");
    if (lp_gguf_take_u32(b, &type)) return -1;
    if (type >= LP_N_GGUF_TYPES)
        return lp_gguf_fail(b, LP_EFORMAT, "is of type %u; the last known type is %d", type, LP_N_GGUF_TYPES - 1);
    key->type = (lp_gguf_type)type;
    return lp_gguf_pass_value(b, key) || take_alignment(h, b, key) ? -1 : 0;
}

/* ---------------------------------------------------------------- tensors */

static int read_shape(lp_gguf_bytes *b, lp_gguf_tensor *t) {
    uint32_t rank;
    uint64_t dim;
    if (lp_gguf_take_u32(b, &rank)) return -1;
    if (rank > LP_GGUF_MAX_RANK)
        return lp_gguf_fail(b, LP_EFORMAT, "has %u dimensions, the limit is %d", rank, LP_GGUF_MAX_RANK);
    t->rank = rank;
    t->n_elements = 1;
    for (size_t i = rank; i-- > 0;) {
        if (lp_gguf_take_u64(b, &dim)) return -1;
        if (dim > INT64_MAX || lp_size_mul(&t->n_elements, t->n_elements, (size_t)dim) || t->n_elements > INT64_MAX)
            return lp_gguf_fail(b, LP_EFORMAT, "dimension %zu is %llu: the number of elements overflows", rank - 1 - i,
                                (unsigned long long)dim);
        t->shape[i] = dim;
    }
    return 0;
}

static int read_type(lp_gguf_bytes *b, lp_gguf_tensor *t) {
    uint32_t id;
    if (lp_gguf_take_u32(b, &id)) return -1;
    t->type = lp_ggml_type_of(id);
    if (!t->type)
        return lp_gguf_fail(b, LP_EUNSUPPORTED, "has type %u, which is unknown; a newer llamaprobe may support it", id);
    if (t->type->problem)
        return lp_gguf_fail(b, LP_EUNSUPPORTED, "has type %s (%u), %s", t->type->name, id, t->type->problem);
    return 0;
}

/* Sets n_bytes; rows must be whole blocks. */
static int measure(const lp_gguf_bytes *b, lp_gguf_tensor *t) {
    uint64_t n_row = t->rank ? t->shape[t->rank - 1] : 1;
    if (n_row % t->type->n_elements)
        return lp_gguf_fail(b, LP_EFORMAT, "has rows of %llu elements, which are not whole blocks of %zu (%s)",
                            (unsigned long long)n_row, t->type->n_elements, t->type->name);
    if (lp_size_mul(&t->n_bytes, t->n_elements / t->type->n_elements, t->type->n_bytes) || t->n_bytes > INT64_MAX)
        return lp_gguf_fail(b, LP_EFORMAT, "the size of %zu elements of %s overflows", t->n_elements, t->type->name);
    return 0;
}

static int read_tensor(lp_gguf_header *h, lp_gguf_bytes *b, lp_gguf_tensor *t) {
    uint64_t offset;
    if (read_name(h, b, &t->name, &t->name_len) || read_shape(b, t) || read_type(b, t) || measure(b, t) ||
        lp_gguf_take_u64(b, &offset))
        return -1;
    if (offset % h->contents.alignment)
        return lp_gguf_fail(b, LP_EFORMAT, "begins at byte %llu of the data, which is not a multiple of %zu",
                            (unsigned long long)offset, h->contents.alignment);
    t->offset = (size_t)offset;
    t->data = NULL;
    return 0;
}

/* ---------------------------------------------------------------- the header */

static int read_version(lp_gguf_bytes *b, uint32_t *version) {
    if (lp_gguf_skip(b, 4) || lp_gguf_take_u32(b, version)) return -1;
    if (*version == 2 || *version == 3) return 0;
    if (*version && !(*version & 0xFFFF))
        return lp_gguf_fail(b, LP_EUNSUPPORTED,
                            "is a big-endian GGUF file (its version reads as %u); convert it with "
                            "`gguf-convert-endian FILE little` of the package gguf",
                            *version);
    if (*version == 1)
        return lp_gguf_fail(b, LP_EUNSUPPORTED,
                            "is a GGUF file of version 1; only versions 2 and 3 can be read; convert the original "
                            "weights again");
    return lp_gguf_fail(b, *version ? LP_EUNSUPPORTED : LP_EFORMAT,
                        "is a GGUF file of version %u; only versions 2 and 3 can be read%s", *version,
                        *version ? "; a newer llamaprobe may read it" : "; download it again");
}

/* Reads a count of items, and checks that the rest of the file can hold them at n_item bytes each. */
static int read_count(lp_gguf_bytes *b, size_t *count, const char *items, size_t n_item) {
    uint64_t n;
    if (lp_gguf_take_u64(b, &n)) return -1;
    if (n > lp_gguf_left(b) / n_item) return lp_gguf_fail_count(b, n, items, n_item);
    if (n > MAX_COUNT)
        return lp_gguf_fail(b, LP_EFORMAT, "has %llu %s, the limit is %llu", (unsigned long long)n, items,
                            (unsigned long long)MAX_COUNT);
    *count = (size_t)n;
    return 0;
}

/* Never empty: malloc(0) may be NULL. MAX_COUNT keeps the products small. */
static int make_arrays(lp_gguf_contents *c, lp_gguf_bytes *b) {
    c->tensors = malloc((c->n_tensors + 1) * sizeof *c->tensors);
    c->keys = malloc((c->n_keys + 1) * sizeof *c->keys);
    if (c->tensors && c->keys) return 0;
    return lp_gguf_fail(b, LP_ENOMEM, "no memory for %zu keys and %zu tensors", c->n_keys, c->n_tensors);
}

static void set_subject(lp_gguf_bytes *b, const char *kind, size_t number, size_t count) {
    b->kind = kind;
    b->number = number;
    b->count = count;
    b->name = NULL;
}

int lp_gguf_header_read(lp_gguf_header *h, lp_gguf_bytes *b) {
    lp_gguf_contents *c = &h->contents;
    *h = (lp_gguf_header){.contents = {.alignment = DEFAULT_ALIGNMENT}};
    if (read_version(b, &c->version) || read_count(b, &c->n_tensors, "tensors", MIN_TENSOR) ||
        read_count(b, &c->n_keys, "keys", MIN_KEY) || make_arrays(c, b))
        return -1;
    for (size_t i = 0; i < c->n_keys; i++) {
        set_subject(b, "key", i + 1, c->n_keys);
        if (read_key(h, b, &c->keys[i])) return -1;
    }
    for (size_t i = 0; i < c->n_tensors; i++) {
        set_subject(b, "tensor", i + 1, c->n_tensors);
        if (read_tensor(h, b, &c->tensors[i])) return -1;
    }
    h->end = b->pos;
    return 0;
}

void lp_gguf_header_free(lp_gguf_header *h) {
    free(h->contents.keys);
    free(h->contents.tensors);
    for (lp_gguf_names *next; h->names; h->names = next) {
        next = h->names->next;
        free(h->names);
    }
    *h = (lp_gguf_header){0};
}
