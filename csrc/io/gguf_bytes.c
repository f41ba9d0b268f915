/* gguf_bytes.c - reads the header of a GGUF file through a window; see gguf_bytes.h. */
#include "gguf_bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/size.h" /* lp_size_min */

void lp_gguf_bytes_begin(lp_gguf_bytes *b, const lp_map *map, lp_error *err) {
    b->map = map;
    b->err = err;
    b->pos = b->from = b->n = 0;
    b->end = lp_size_min(map->n_bytes, LP_GGUF_MAX_HEADER);
    b->kind = b->name = NULL;
}

/* ---------------------------------------------------------------- failures */

int lp_gguf_fail(const lp_gguf_bytes *b, lp_status status, const char *fmt, ...) {
    char where[80] = "", shown[100], name[110] = "", problem[260];
    va_list args;
    va_start(args, fmt);
    vsnprintf(problem, sizeof problem, fmt, args);
    va_end(args);
    if (b->kind) snprintf(where, sizeof where, ": %s %zu of %zu", b->kind, b->number, b->count);
    if (b->kind && b->name) snprintf(name, sizeof name, ", \"%s\"", lp_show(shown, sizeof shown, b->name, b->name_len));
    return lp_fail(b->err, status, "%s%s%s: %s", b->map->name, where, name, problem);
}

/* The file could hold it, but a header may not be that long. */
static int fail_long(const lp_gguf_bytes *b) {
    return lp_gguf_fail(b, LP_EFORMAT, "keys and tensors take more than %zu bytes, which is the limit",
                        LP_GGUF_MAX_HEADER);
}

int lp_gguf_fail_short(const lp_gguf_bytes *b, uint64_t n) {
    if (b->end < b->map->n_bytes && n <= b->map->n_bytes - b->pos) return fail_long(b);
    return lp_gguf_fail(b, LP_EFORMAT,
                        "truncated: needs %llu bytes from byte %zu on, but the file has %zu; download it again",
                        (unsigned long long)n, b->pos, b->map->n_bytes);
}

int lp_gguf_fail_count(const lp_gguf_bytes *b, uint64_t n, const char *items, size_t n_item) {
    if (b->end < b->map->n_bytes && n <= (b->map->n_bytes - b->pos) / n_item) return fail_long(b);
    return lp_gguf_fail(b, LP_EFORMAT,
                        "truncated: %llu %s of at least %zu bytes follow byte %zu, but the file has %zu; download it "
                        "again",
                        (unsigned long long)n, items, n_item, b->pos, b->map->n_bytes);
}

/* ---------------------------------------------------------------- reading */

static int refill(lp_gguf_bytes *b, size_t n) {
    if (n > lp_gguf_left(b)) return lp_gguf_fail_short(b, n);
    b->from = b->pos;
    b->n = lp_size_min(LP_GGUF_WINDOW, lp_gguf_left(b));
    return lp_map_read(b->map, b->window, b->from, b->n, b->err);
}

const unsigned char *lp_gguf_take(lp_gguf_bytes *b, size_t n) {
    if (b->pos + n > b->from + b->n && refill(b, n)) return NULL;
    const unsigned char *at = b->window + (b->pos - b->from);
    b->pos += n;
    return at;
}

int lp_gguf_take_u32(lp_gguf_bytes *b, uint32_t *value) {
    const unsigned char *at = lp_gguf_take(b, sizeof *value);
    if (at) memcpy(value, at, sizeof *value);
    return at ? 0 : -1;
}

int lp_gguf_take_u64(lp_gguf_bytes *b, uint64_t *value) {
    const unsigned char *at = lp_gguf_take(b, sizeof *value);
    if (at) memcpy(value, at, sizeof *value);
    return at ? 0 : -1;
}

int lp_gguf_skip(lp_gguf_bytes *b, uint64_t n) {
    if (n > lp_gguf_left(b)) return lp_gguf_fail_short(b, n);
    b->pos += (size_t)n;
    return 0;
}
