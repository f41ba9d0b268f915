/* names.h - the order of names, which may hold any bytes. */
#ifndef LP_NAMES_H
#define LP_NAMES_H

#include <string.h>

#include "../base/size.h" /* lp_size_min */

/* Negative, 0 or positive, as memcmp; a prefix comes first. */
static inline int lp_names_compare(const char *a, size_t a_len, const char *b, size_t b_len) {
    int order = memcmp(a, b, lp_size_min(a_len, b_len));
    return order ? order : (a_len > b_len) - (a_len < b_len);
}

#endif
