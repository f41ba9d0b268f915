/* error.c - error messages, cut to fit and safe to print. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* n, or less where cutting at n would split a UTF-8 character. */
static size_t whole_characters(const char *text, size_t n) {
    size_t lead = n;
    while (lead > 0 && n - lead < 3 && ((unsigned char)text[lead - 1] & 0xC0) == 0x80) lead--;
    if (lead == 0) return n;
    unsigned char byte = (unsigned char)text[lead - 1];
    size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return lead - 1 + length > n ? lead - 1 : n;
}

int lp_fail(lp_error *err, lp_status status, const char *fmt, ...) {
    if (!err) return -1;
    err->status = status;
    err->number = 0;
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    if (length < 0) err->msg[0] = 0;
    size_t room = sizeof err->msg - 1;
    if (length > 0 && (size_t)length > room) {
        size_t end = whole_characters(err->msg, room - 3);
        memcpy(err->msg + end, "...", 4);
    }
    return -1;
}

/* Writes one byte as itself or as \xNN; returns how many characters that took, 1 or 4. */
static size_t show_byte(char shown[4], unsigned char byte) {
    static const char hex[] = "0123456789abcdef";
    if (byte >= 0x20 && byte < 0x7F) {
        shown[0] = (char)byte;
        return 1;
    }
    shown[0] = '\\';
    shown[1] = 'x';
    shown[2] = hex[byte >> 4];
    shown[3] = hex[byte & 15];
    return 4;
}

const char *lp_show(char *dst, size_t size, const char *bytes, size_t n_bytes) {
    if (size == 0) return dst;
    size_t used = 0, cut = 0; /* cut: the most bytes that leave room for "..." */
    for (size_t i = 0; i < n_bytes; i++) {
        char shown[4];
        size_t n = show_byte(shown, (unsigned char)bytes[i]);
        if (used + n >= size) {
            size_t n_dots = size - 1 - cut < 3 ? size - 1 - cut : 3;
            memcpy(dst + cut, "...", n_dots);
            used = cut + n_dots;
            break;
        }
        memcpy(dst + used, shown, n);
        used += n;
        if (used + 3 < size) cut = used;
    }
    dst[used] = 0;
    return dst;
}
