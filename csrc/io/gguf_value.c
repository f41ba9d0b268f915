/* gguf_value.c - checks values and skips them; see gguf_value.h. */
#include "gguf_value.h"

#include <string.h>

static const struct {
    const char *name;
    size_t n_bytes;
} types[] = {
#define TYPE_ENTRY(name, text, bytes) {text, bytes},
    LP_GGUF_TYPES(TYPE_ENTRY)
#undef TYPE_ENTRY
};

const char *lp_gguf_type_name(lp_gguf_type type) { return types[type].name; }
size_t lp_gguf_type_bytes(lp_gguf_type type) { return types[type].n_bytes; }

static int pass_items(lp_gguf_bytes *b, lp_gguf_type type, uint64_t n, int depth);

static int fail_bool(const lp_gguf_bytes *b, unsigned value) {
    return lp_gguf_fail(b, LP_EFORMAT, "a bool is %u; it must be 0 or 1", value);
}

static int pass_string(lp_gguf_bytes *b) {
    uint64_t n;
    return lp_gguf_take_u64(b, &n) || lp_gguf_skip(b, n) ? -1 : 0;
}

/* Reads an array's item type and length. */
static int begin_array(lp_gguf_bytes *b, lp_gguf_type *type, uint64_t *n) {
    uint32_t id;
    if (lp_gguf_take_u32(b, &id) || lp_gguf_take_u64(b, n)) return -1;
    *type = (lp_gguf_type)id;
    if (id < LP_N_GGUF_TYPES) return 0;
    return lp_gguf_fail(b, LP_EFORMAT, "has items of type %u; the last known type is %d", id, LP_N_GGUF_TYPES - 1);
}

static int pass_array(lp_gguf_bytes *b, int depth) {
    lp_gguf_type type;
    uint64_t n;
    return begin_array(b, &type, &n) || pass_items(b, type, n, depth) ? -1 : 0;
}

static int pass_bools(lp_gguf_bytes *b, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        const unsigned char *value = lp_gguf_take(b, 1);
        if (!value) return -1;
        if (*value > 1) return fail_bool(b, *value);
    }
    return 0;
}

/* Skips the items of an array at nesting depth `depth`; the array of a key has 1. */
static int pass_items(lp_gguf_bytes *b, lp_gguf_type type, uint64_t n, int depth) {
    size_t n_item = type == LP_GGUF_STRING ? 8 : type == LP_GGUF_ARRAY ? 12 : lp_gguf_type_bytes(type);
    if (depth > LP_GGUF_MAX_DEPTH)
        return lp_gguf_fail(b, LP_EFORMAT, "arrays in arrays are %d deep, the limit is %d", depth, LP_GGUF_MAX_DEPTH);
    if (n > lp_gguf_left(b) / n_item) return lp_gguf_fail_count(b, n, "items", n_item);
    if (n > LP_GGUF_MAX_ITEMS)
        return lp_gguf_fail(b, LP_EFORMAT, "an array has %llu items, the limit is %llu", (unsigned long long)n,
                            (unsigned long long)LP_GGUF_MAX_ITEMS);
    if (type == LP_GGUF_BOOL) return pass_bools(b, n);
    if (type != LP_GGUF_STRING && type != LP_GGUF_ARRAY) return lp_gguf_skip(b, n * n_item);
    for (uint64_t i = 0; i < n; i++)
        if (type == LP_GGUF_STRING ? pass_string(b) : pass_array(b, depth + 1)) return -1;
    return 0;
}

static int take_scalar(lp_gguf_bytes *b, lp_gguf_key *key) {
    key->n_bytes = lp_gguf_type_bytes(key->type);
    key->offset = b->pos;
    const unsigned char *value = lp_gguf_take(b, key->n_bytes);
    if (!value) return -1;
    memcpy(&key->bits, value, key->n_bytes);
    return key->type == LP_GGUF_BOOL && key->bits > 1 ? fail_bool(b, (unsigned)key->bits) : 0;
}

static int take_string(lp_gguf_bytes *b, lp_gguf_key *key) {
    uint64_t n;
    if (lp_gguf_take_u64(b, &n)) return -1;
    key->offset = b->pos;
    key->n_bytes = (size_t)n;
    return lp_gguf_skip(b, n);
}

static int take_array(lp_gguf_bytes *b, lp_gguf_key *key) {
    uint64_t n;
    if (begin_array(b, &key->item_type, &n)) return -1;
    key->offset = b->pos;
    key->n_items = (size_t)n;
    if (pass_items(b, key->item_type, n, 1)) return -1;
    key->n_bytes = b->pos - key->offset;
    return 0;
}

int lp_gguf_pass_value(lp_gguf_bytes *b, lp_gguf_key *key) {
    key->item_type = key->type;
    key->n_items = 0;
    key->bits = 0;
    if (key->type == LP_GGUF_STRING) return take_string(b, key);
    return key->type == LP_GGUF_ARRAY ? take_array(b, key) : take_scalar(b, key);
}
