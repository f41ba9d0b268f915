/* utf8.h - whether bytes are UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
#ifndef LP_UTF8_H
#define LP_UTF8_H

#include <stddef.h>

/* Bytes of the UTF-8 character at p, 1 to 4; 0: overlong, surrogate, too large or cut off. */
static inline size_t lp_utf8_length(const unsigned char *p, size_t left) {
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || left < n) return 0;
    unsigned lowest = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;  /* below it: overlong */
    unsigned highest = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF; /* above it: surrogates; U+110000 and up */
    if (p[1] < lowest || p[1] > highest) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return n;
}

static inline int lp_utf8_is_valid(const unsigned char *bytes, size_t n_bytes) {
    for (size_t i = 0, n; i < n_bytes; i += n)
        if (!(n = lp_utf8_length(bytes + i, n_bytes - i))) return 0;
    return 1;
}

#endif
