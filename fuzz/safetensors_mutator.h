/* safetensors_mutator.h - changes a safetensors file so that most of it still holds.
 *
 * It knows the format: numbers, strings and whole entries of the header change, and the length in front of it is kept
 * true, since nearly all blind changes end at the first check. It works without libFuzzer too. */
#ifndef LP_SAFETENSORS_MUTATOR_H
#define LP_SAFETENSORS_MUTATOR_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak)); /* libFuzzer's, if here */

#define MUTATOR_LENGTH_BYTES 8

/* A header that is being changed; `text` has room for `most` bytes. */
typedef struct {
    char *text;
    size_t n, most;
    uint64_t state;
} draft;

static size_t pick(draft *d, size_t n) {
    d->state = d->state * 6364136223846793005u + 1442695040888963407u;
    return n ? (size_t)(d->state >> 33) % n : 0;
}

/* Puts n bytes in the place of the bytes from .. to, when there is room. */
static void replace(draft *d, size_t from, size_t to, const char *bytes, size_t n) {
    if (d->n - (to - from) + n > d->most) return;
    memmove(d->text + from + n, d->text + to, d->n - to);
    memcpy(d->text + from, bytes, n);
    d->n += n - (to - from);
}

/* The end of the token that starts at i: a number, a string, a container, or one byte. */
static size_t token_end(const draft *d, size_t i) {
    size_t end = i, depth = 0;
    if (d->text[i] >= '0' && d->text[i] <= '9') return i + strspn(d->text + i, "0123456789.eE+-");
    for (int quoted = 0; end < d->n; end++) {
        char c = d->text[end];
        if (c == '\\') end++;
        if (c == '"') quoted = !quoted;
        if (!quoted && strchr("{[", c)) depth++;
        if (!quoted && strchr("}]", c) && depth) depth--;
        if (!quoted && !depth) break;
    }
    return end + 1 < d->n ? end + 1 : d->n;
}

/* A place in the text where a byte of that kind stands, or any place when there is none after a random one. */
static size_t find_one(draft *d, const char *kind) {
    size_t from = pick(d, d->n), i = from + strcspn(d->text + from, kind);
    return i < d->n ? i : from;
}

static void change_number(draft *d) {
    static const char *const numbers[] = {"0",
                                          "1",
                                          "2",
                                          "4",
                                          "-1",
                                          "-0",
                                          "1.0",
                                          "1e0",
                                          "4294967296",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "18446744073709551615",
                                          "18446744073709551616"};
    char number[32];
    size_t i = find_one(d, "0123456789"), end = token_end(d, i), other = find_one(d, "0123456789");
    if (pick(d, 3) == 0) {
        const char *text = numbers[pick(d, sizeof numbers / sizeof *numbers)];
        replace(d, i, end, text, strlen(text));
        return;
    }
    unsigned long long value = strtoull(d->text + (pick(d, 2) ? i : other), NULL, 10) + pick(d, 3) - 1;
    replace(d, i, end, number, (size_t)snprintf(number, sizeof number, "%llu", value));
}

/* Puts a token in the place of another of its kind, or beside itself. */
static void copy_token(draft *d) {
    static const char *const kinds[] = {"{", "[", "\"", "\"", "0123456789"};
    const char *kind = kinds[pick(d, 5)];
    size_t from = find_one(d, kind), to = find_one(d, kind), n = token_end(d, from) - from;
    char *copy = malloc(n + 1);
    memcpy(copy, d->text + from, n);
    copy[n] = ',';
    if (pick(d, 4) == 0)
        replace(d, from, from, copy, n + 1);
    else
        replace(d, to, token_end(d, to), copy, n);
    free(copy);
}

static void insert_word(draft *d) {
    static const char *const words[] = {"\"__metadata__\":{\"a\":\"b\"},",
                                        "\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},",
                                        "\\u0000",
                                        "\"x\":null,",
                                        "\"dtype\":",
                                        "\"shape\":",
                                        "\"data_offsets\":",
                                        "\"F32\"",
                                        "\"F4\"",
                                        "\\u0061",
                                        "\\ud83d\\ude00",
                                        "\\ud800",
                                        "\xC3\xA9",
                                        "\xED\xA0\x80",
                                        ",",
                                        " ",
                                        "\n",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        "\"",
                                        "null",
                                        "1e400",
                                        "0,",
                                        "-"};
    const char *word = words[pick(d, sizeof words / sizeof *words)];
    size_t at = find_one(d, pick(d, 2) ? "\"" : "{[,");
    replace(d, at + (at < d->n), at + (at < d->n), word, strlen(word));
}

/* Another spelling of the same character. */
static void escape_one(draft *d) {
    char escape[8];
    size_t i = find_one(d, "abcdefghijklmnopqrstuvwxyz_0123456789");
    if (i < d->n) replace(d, i, i + 1, escape, (size_t)sprintf(escape, "\\u%04x", (unsigned char)d->text[i]));
}

static void mutate_header(draft *d) {
    switch (pick(d, 6)) {
    case 0:
        change_number(d);
        break;
    case 1:
        copy_token(d);
        break;
    case 2:
        insert_word(d);
        break;
    case 3:
        escape_one(d);
        break;
    case 4:
        if (d->n) replace(d, pick(d, d->n), d->n, "}}", pick(d, 3));
        break;
    default:
        if (LLVMFuzzerMutate)
            d->n = LLVMFuzzerMutate((uint8_t *)d->text, d->n, d->most);
        else if (d->n)
            d->text[pick(d, d->n)] ^= (char)(1 << pick(d, 7));
    }
    d->text[d->n] = 0;
}

/* Changes a file of `size` bytes in a buffer of max_size; returns its new size. */
static size_t mutate_safetensors(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    uint64_t n = 0;
    for (int i = 0; i < MUTATOR_LENGTH_BYTES && size >= MUTATOR_LENGTH_BYTES; i++) n |= (uint64_t)data[i] << (8 * i);
    draft d = {NULL, 0, max_size, seed * 2654435761u + 1};
    pick(&d, 1);
    if (size < MUTATOR_LENGTH_BYTES || n > size - MUTATOR_LENGTH_BYTES || max_size < MUTATOR_LENGTH_BYTES ||
        pick(&d, 16) == 0)
        return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max_size) : size;
    size_t n_data = size - MUTATOR_LENGTH_BYTES - (size_t)n, n_random = pick(&d, 8);
    d.most = max_size - MUTATOR_LENGTH_BYTES - n_data;
    d.n = (size_t)n;
    d.text = calloc(1, max_size + 1);
    memcpy(d.text, data + MUTATOR_LENGTH_BYTES, d.n);
    do mutate_header(&d);
    while (pick(&d, 2));
    memmove(data + MUTATOR_LENGTH_BYTES + d.n, data + MUTATOR_LENGTH_BYTES + n, n_data);
    memcpy(data + MUTATOR_LENGTH_BYTES, d.text, d.n);
    free(d.text);
    size = MUTATOR_LENGTH_BYTES + d.n + n_data;
    if (n_random == 0 && size < max_size) data[size++] = 'x';
    if (n_random == 1 && n_data) size--;
    uint64_t length = n_random == 2 ? n : d.n;
    for (int i = 0; i < MUTATOR_LENGTH_BYTES; i++) data[i] = (uint8_t)(length >> (8 * i));
    return size;
}

#endif
