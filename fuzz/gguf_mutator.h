/* gguf_mutator.h - changes a GGUF file so that most of it still holds.
 *
 * It finds the fields of the header as a careless reader would; numbers, strings, keys and tensors change, counts and
 * lengths are mostly kept true, and so is the padding before the data, since nearly all blind changes end at the first
 * check. It works without libFuzzer too. */
#ifndef LP_GGUF_MUTATOR_H
#define LP_GGUF_MUTATOR_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak)); /* libFuzzer's, if here */

enum { COUNTS = 24, MOST_FIELDS = 4096, MOST_RECORDS = 512, ALIGNMENT = 32 };

/* A number of `width` bytes, or a string of `width` bytes whose length stands before it. */
typedef struct {
    size_t at, width;
    int is_text;
} field;

/* A file that is being changed, in room for `most` bytes; where its fields, keys and tensors are. */
typedef struct {
    uint8_t *bytes;
    size_t n, most, pos, end; /* pos: of the scan; end: of the header */
    uint64_t state;
    field fields[MOST_FIELDS];
    size_t n_fields;
    size_t records[MOST_RECORDS + 1], n_records, n_keys; /* keys, then tensors; where each begins, and the last ends */
} draft;

static size_t pick(draft *d, size_t n) {
    d->state = d->state * 6364136223846793005u + 1442695040888963407u;
    return n ? (size_t)(d->state >> 33) % n : 0;
}

static uint64_t number_at(const draft *d, size_t at, size_t width) {
    uint64_t value = 0;
    memcpy(&value, d->bytes + at, width);
    return value;
}

/* ---------------------------------------------------------------- the scan */

static int add_field(draft *d, size_t width, int is_text) {
    if (width > d->n - d->pos) return -1;
    if (d->n_fields < MOST_FIELDS && (width <= 8 || is_text))
        d->fields[d->n_fields++] = (field){d->pos, width, is_text};
    d->pos += width;
    return 0;
}

/* A number, which is stored in *value; not 0 at the end of the bytes. */
static int scan_number(draft *d, size_t width, uint64_t *value) {
    size_t at = d->pos;
    if (add_field(d, width, 0)) return -1;
    *value = number_at(d, at, width);
    return 0;
}

static int scan_text(draft *d) {
    uint64_t n;
    return scan_number(d, 8, &n) || n > d->n - d->pos || add_field(d, (size_t)n, 1);
}

static int scan_value(draft *d, uint64_t type, int depth) {
    static const uint8_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t inner, n, ignored;
    if (type >= sizeof widths || depth > 5) return -1;
    if (widths[type]) return scan_number(d, widths[type], &ignored);
    if (type == 8) return scan_text(d);
    if (scan_number(d, 4, &inner) || scan_number(d, 8, &n)) return -1;
    for (uint64_t i = 0; i < n; i++)
        if (d->pos == d->n || scan_value(d, inner, depth + 1)) return -1;
    return 0;
}

static int scan_record(draft *d, int is_key) {
    uint64_t type, rank, ignored;
    if (scan_text(d) || scan_number(d, 4, is_key ? &type : &rank)) return -1;
    if (is_key) return scan_value(d, type, 0);
    for (uint64_t i = 0; i < rank; i++)
        if (scan_number(d, 8, &ignored)) return -1;
    return scan_number(d, 4, &ignored) || scan_number(d, 8, &ignored);
}

/* Finds what it can; not 0 when the header does not end where it should. */
static int scan(draft *d) {
    uint64_t version, n_tensors, n_keys;
    d->n_fields = d->n_records = d->n_keys = 0;
    d->pos = 4;
    if (scan_number(d, 4, &version) || scan_number(d, 8, &n_tensors) || scan_number(d, 8, &n_keys)) return -1;
    for (d->records[0] = d->pos; d->n_records < MOST_RECORDS && d->n_records < n_keys + n_tensors;) {
        if (scan_record(d, d->n_records < n_keys)) return -1;
        d->records[++d->n_records] = d->pos;
        d->n_keys += d->n_records <= n_keys;
    }
    d->end = d->pos;
    return d->n_records != n_keys + n_tensors;
}

/* ---------------------------------------------------------------- the changes */

/* Puts n bytes in the place of the bytes from .. to, when there is room; not 0 when there is none. */
static int replace(draft *d, size_t from, size_t to, const void *bytes, size_t n) {
    if (d->n - (to - from) + n > d->most) return -1;
    memmove(d->bytes + from + n, d->bytes + to, d->n - to);
    memcpy(d->bytes + from, bytes, n);
    d->n += n - (to - from);
    return 0;
}

static void set_number(draft *d, size_t at, size_t width, uint64_t value) { memcpy(d->bytes + at, &value, width); }

static void change_number(draft *d, const field *f) {
    static const uint64_t numbers[] = {0,
                                       1,
                                       2,
                                       3,
                                       4,
                                       6,
                                       8,
                                       9,
                                       12,
                                       13,
                                       30,
                                       31,
                                       32,
                                       33,
                                       39,
                                       41,
                                       42,
                                       64,
                                       65535,
                                       65536,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       (uint64_t)1 << 32,
                                       INT64_MAX,
                                       (uint64_t)1 << 63,
                                       UINT64_MAX - 31,
                                       UINT64_MAX};
    const field *other = &d->fields[pick(d, d->n_fields)];
    uint64_t value = number_at(d, f->at, f->width);
    switch (pick(d, 4)) {
    case 0:
        value = numbers[pick(d, sizeof numbers / sizeof *numbers)];
        break;
    case 1:
        value = other->is_text ? other->width : number_at(d, other->at, other->width);
        break;
    case 2:
        value += (uint64_t)(pick(d, 3) - 1) * (pick(d, 2) ? 1 : ALIGNMENT);
        break;
    default:
        value ^= (uint64_t)1 << pick(d, 8 * f->width);
    }
    set_number(d, f->at, f->width, value);
}

/* Another string, or a changed one; its length is kept true, mostly. */
static void change_text(draft *d, const field *f) {
    static const char *const texts[] = {"general.alignment", "", "a", "\xC3\xA9", "\xED\xA0\x80", "\xFF", "a\0b"};
    const char *text = texts[pick(d, 7)];
    size_t n = text == texts[6] ? 3 : strlen(text);
    const field *other = &d->fields[pick(d, d->n_fields)];
    char copy[256];
    if (pick(d, 2) && other->is_text && other->width <= sizeof copy)
        text = memcpy(copy, d->bytes + other->at, n = other->width);
    if (pick(d, 4) == 0 && f->width) {
        d->bytes[f->at + pick(d, f->width)] ^= (uint8_t)(1 << pick(d, 8));
        return;
    }
    if (!replace(d, f->at, f->at + f->width, text, n) && pick(d, 16)) set_number(d, f->at - 8, 8, n);
}

/* Copies a key or tensor to the place of another of its kind, or drops it; the count is kept true. */
static void change_record(draft *d) {
    size_t i = pick(d, d->n_records), is_key = i < d->n_keys;
    size_t at = d->records[i], n = d->records[i + 1] - at, count = is_key ? 16 : 8;
    size_t to = is_key ? pick(d, d->n_keys + 1) : d->n_keys + pick(d, d->n_records - d->n_keys + 1);
    uint64_t n_now = number_at(d, count, 8);
    if (pick(d, 2)) {
        replace(d, at, at + n, "", 0);
        set_number(d, count, 8, n_now - 1);
        return;
    }
    uint8_t *copy = malloc(n + 1);
    memcpy(copy, d->bytes + at, n);
    if (!replace(d, d->records[to], d->records[to], copy, n)) set_number(d, count, 8, n_now + 1);
    free(copy);
}

/* Zeros before the data up to the next multiple of the usual alignment. */
static void repair_padding(draft *d, size_t old_end) {
    static const uint8_t zeros[ALIGNMENT] = {0};
    size_t was = (ALIGNMENT - old_end % ALIGNMENT) % ALIGNMENT;
    if (scan(d)) return;
    size_t now = (ALIGNMENT - d->end % ALIGNMENT) % ALIGNMENT;
    if (was <= d->n - d->end) replace(d, d->end, d->end + was, zeros, now);
}

static void change_data(draft *d) {
    static const uint8_t zeros[ALIGNMENT] = {0};
    if (pick(d, 2))
        replace(d, d->n, d->n, zeros, 1 + pick(d, ALIGNMENT));
    else
        d->n -= d->n > COUNTS ? pick(d, d->n - COUNTS < 40 ? d->n - COUNTS : 40) : 0;
}

static void change_header(draft *d) {
    size_t old_end = d->end, what = pick(d, 8);
    const field *f = &d->fields[pick(d, d->n_fields)];
    if (what == 0 && d->n_records)
        change_record(d);
    else if (what == 1)
        change_data(d);
    else if (f->is_text)
        change_text(d, f);
    else
        change_number(d, f);
    if (pick(d, 8)) repair_padding(d, old_end);
}

/* Changes a file of `size` bytes in a buffer of max_size; returns its new size. */
static size_t mutate_gguf(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    draft *d = calloc(1, sizeof *d);
    *d = (draft){.bytes = data, .n = size, .most = max_size, .state = seed * 2654435761u + 1};
    pick(d, 1);
    if (size < COUNTS || max_size < COUNTS || pick(d, 16) == 0) {
        size = LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max_size) : size;
    } else {
        do {
            scan(d);
            change_header(d);
        } while (pick(d, 2));
        size = d->n;
    }
    free(d);
    return size;
}

#endif
