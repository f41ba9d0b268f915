/* format.c - loops over rows, and the table of all 16-bit words.
 *
 * How one number is spelled stands in format_shortest.h and format_exact.h. Numbers are written one behind the other
 * with stores of a fixed width that reach past their end, which the next number overwrites. */
#include "format.h"

#include <stdlib.h>
#include <string.h>

#include "../base/half.h"    /* lp_bf16_to_f32, lp_f16_to_f32, lp_f32_bits */
#include "format_exact.h"    /* text_put_exact */
#include "format_shortest.h" /* text_put_shortest */

/* What follows the last number of a row is '\n', not the separator that was written there. */
static inline char *end_row(char *dst, size_t n_cols) {
    if (n_cols) dst--;
    *dst++ = '\n';
    return dst;
}

static char *put_row(char *dst, const float *values, size_t n, char sep, int digits) {
    for (size_t i = 0; i < n; i += TEXT_BLOCK) {
        size_t count = n - i < TEXT_BLOCK ? n - i : TEXT_BLOCK;
        if (digits < 0)
            dst = text_put_shortest(dst, values + i, count, sep);
        else
            dst = text_put_exact(dst, values + i, count, sep, digits > LP_MAX_DIGITS ? LP_MAX_DIGITS : digits);
    }
    return dst;
}

size_t lp_text_f32(char *dst, float value, int digits) {
    char text[LP_NUMBER_BYTES + 1];
    size_t length = (size_t)(put_row(text, &value, 1, ' ', digits) - text) - 1;
    memcpy(dst, text, length);
    return length;
}

size_t lp_text_rows_f32(char *dst, const float *values, size_t n_rows, size_t n_cols, char sep, int digits) {
    char *start = dst;
    for (size_t i = 0; i < n_rows; i++, values += n_cols) {
        dst = put_row(dst, values, n_cols, sep, digits);
        dst = end_row(dst, n_cols);
    }
    return (size_t)(dst - start);
}

/* One slot per word: the text, and its length in the last byte. A slot is copied whole, so its width is a
 * constant of the loop: 16 bytes hold every shortest text and %.Ne up to N = 8, 32 bytes up to N = 24. */
struct lp_text_table {
    size_t width;                       /* of a slot: 16, 32 or 40 */
    _Alignas(64) unsigned char slots[]; /* [65536, width] */
};

lp_text_table *lp_text_table_make(int is_bf16, int digits) {
    size_t width = digits <= 8 ? 16 : digits <= 24 ? 32 : 40;
    lp_text_table *table = aligned_alloc(64, sizeof *table + 65536 * width);
    if (!table) return NULL;
    table->width = width;
    for (uint32_t word = 0; word < 65536; word++) {
        char text[LP_NUMBER_BYTES] = {0};
        float value = is_bf16 ? lp_bf16_to_f32((uint16_t)word) : lp_f16_to_f32((uint16_t)word);
        size_t length = lp_text_f32(text, value, digits);
        unsigned char *slot = table->slots + word * width;
        memcpy(slot, text, width - 1);
        slot[width - 1] = (unsigned char)length;
    }
    return table;
}

void lp_text_table_free(lp_text_table *table) { free(table); }

static inline char *copy_row(char *dst, const unsigned char *words, size_t n, char sep, const unsigned char *slots,
                             size_t width) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char *slot = slots + (words[2 * i] | (size_t)words[2 * i + 1] << 8) * width;
        memcpy(dst, slot, width);
        dst += slot[width - 1];
        *dst++ = sep;
    }
    return dst;
}

size_t lp_text_rows_u16(char *dst, const void *words, size_t n_rows, size_t n_cols, char sep,
                        const lp_text_table *table) {
    const unsigned char *row = words, *slots = table->slots;
    char *start = dst;
    for (size_t i = 0; i < n_rows; i++, row += 2 * n_cols) {
        if (table->width == 16)
            dst = copy_row(dst, row, n_cols, sep, slots, 16);
        else if (table->width == 32)
            dst = copy_row(dst, row, n_cols, sep, slots, 32);
        else
            dst = copy_row(dst, row, n_cols, sep, slots, 40);
        dst = end_row(dst, n_cols);
    }
    return (size_t)(dst - start);
}
