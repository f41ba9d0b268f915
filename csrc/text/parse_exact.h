/* parse_exact.h - whether a decimal lies below, on or above the middle of two floats; a part of parse.c.
 *
 * Both are multiplied by what makes them whole numbers, and compared. A middle has at most 113 digits that are not
 * zeros around it, so digits after the first 120 only tell whether there is something there. Then no number here
 * has more than 750 bits, and the work is bounded however long the text is. */
#ifndef LP_PARSE_EXACT_H
#define LP_PARSE_EXACT_H

#include <stddef.h>
#include <stdint.h>

#define READ_LIMBS 16
#define READ_DIGITS 120

/* Digits as they stand in the text: [start, end) holds nothing else but at most one point. */
typedef struct {
    uint64_t w;       /* the first 19 digits, zeros in front not counted */
    int64_t exponent; /* the number is w * 10^exponent, and a bit more when `cut` */
    int cut;          /* there were more than 19 digits */
    const char *start, *end;
} read_decimal;

/* limb[0] is the lowest. */
typedef struct {
    uint64_t limb[READ_LIMBS];
} read_big;

static void read_multiply_add(read_big *big, uint64_t factor, uint64_t carry) {
    for (size_t i = 0; i < READ_LIMBS; i++) {
        unsigned __int128 sum = (unsigned __int128)big->limb[i] * factor + carry;
        big->limb[i] = (uint64_t)sum;
        carry = (uint64_t)(sum >> 64);
    }
}

static void read_times_power(read_big *big, uint64_t base, int64_t power) {
    for (; power > 0; power--) read_multiply_add(big, base, 0);
}

static int read_compare_big(const read_big *a, const read_big *b) {
    for (size_t i = READ_LIMBS; i-- > 0;)
        if (a->limb[i] != b->limb[i]) return a->limb[i] < b->limb[i] ? -1 : 1;
    return 0;
}

/* The first digits of a long number, and a 1 behind them if others follow that are not all zeros. Returns the
 * power of ten that goes with them. */
static int64_t read_many_digits(read_big *big, const read_decimal *d) {
    int64_t exponent = d->exponent;
    int n = 0, more = 0;
    for (const char *p = d->start; p < d->end; p++) {
        if (*p == '.' || (n == 0 && *p == '0')) continue;
        if (n == READ_DIGITS) {
            more |= *p != '0';
        } else {
            read_multiply_add(big, 10, (uint64_t)(*p - '0'));
            n++;
        }
    }
    exponent -= n - 19; /* that of d belongs to 19 digits */
    if (!more) return exponent;
    read_multiply_add(big, 10, 1);
    return exponent - 1;
}

/* The sign of d - (m + 1/2) * 2^q, for d between 2^-152 and 2^129. */
static int read_compare_half(const read_decimal *d, uint64_t m, int q) {
    read_big decimal = {{d->cut ? 0 : d->w}}, middle = {{2 * m + 1}};
    int64_t exponent = d->cut ? read_many_digits(&decimal, d) : d->exponent;
    read_times_power(&decimal, 10, exponent);
    read_times_power(&middle, 10, -exponent);
    read_times_power(&decimal, 2, 1 - q);
    read_times_power(&middle, 2, q - 1);
    return read_compare_big(&decimal, &middle);
}

#endif
