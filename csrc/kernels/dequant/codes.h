/* codes.h - codes to float32: the steps that the kinds share.
 *
 * Integer operations on 64-bit words, which compilers vectorise, unpack codes to bytes. One of five formulas makes
 * floats of the bytes, each operation rounded as in scalar.h, so that every variant has the same bits. With 16 lanes,
 * the 16 values of a 4-bit code fit one vector: they are computed once per group and looked up. */
#ifndef LP_CODES_H
#define LP_CODES_H

#include <stdint.h>
#include <string.h>

#include "../simd/vector.h" /* V, WVEC */
#include "scalar.h"         /* iq4_values */

/* Vectors of LANES lanes and their verbs, whatever the width of the template that includes this. */
#define WVEC LP_CAT(v, LANES, )
#define W(verb) LP_CAT(WVEC, _, verb)

#define EACH_BYTE(x) ((uint64_t)(x) * 0x0101010101010101u)

enum formula {
    TIMES,     /* q a */
    FROM_ZERO, /* (q - b) a: the difference is exact */
    PLUS,      /* q a + b */
    LESS,      /* q a - b */
    IQ4        /* iq4_values[q] a */
};

/* The a and b of a group's formula. */
typedef struct {
    WVEC a, b;
} coefficients;

INLINE WVEC value_of(WVEC q, coefficients c, const int formula) {
    if (formula == FROM_ZERO) return W(mul)(W(sub)(q, c.b), c.a);
    q = W(mul)(q, c.a);
    return formula == PLUS ? W(add)(q, c.b) : formula == LESS ? W(sub)(q, c.b) : q;
}

/* out [n] from unquantised elements at p, any alignment. */
INLINE void from_elements(float *out, const unsigned char *p, size_t n, lp_element element) {
    size_t i = 0, bytes = lp_element_bytes(element);
    for (; i + LANES <= n; i += LANES) {
        const unsigned char *from = p + i * bytes;
        W(store)(out + i, element == LP_ELEMENT_F32    ? W(widen_f32)(from)
                          : element == LP_ELEMENT_BF16 ? W(widen_bf16)(from)
                                                       : W(widen_f16)(from));
    }
    for (; i < n; i++) out[i] = lp_element_to_f32(p + i * bytes, element);
}

/* ---- bytes ---- */

/* Vector types for bytes: gcc 12 does not vectorise the same loops over uint64_t, and loading a vector that was stored
 * in halves defeats store forwarding. */
typedef uint64_t words_16 __attribute__((vector_size(16)));
typedef uint64_t words_32 __attribute__((vector_size(32)));
typedef unsigned char bytes_16 __attribute__((vector_size(16)));
typedef unsigned char bytes_32 __attribute__((vector_size(32)));

/* out [n], n a multiple of 16: each byte is (from >> right & mask) << left, or-ed with the old byte if `add`, minus
 * `zero`. No bit may cross into another byte. */
#define MOVE_BITS(words, bytes)                                  \
    for (size_t i = 0; i < n; i += sizeof(words)) {              \
        words word, old;                                         \
        memcpy(&word, from + i, sizeof word);                    \
        word = (word >> right & EACH_BYTE(mask)) << left;        \
        if (add) memcpy(&old, out + i, sizeof old), word |= old; \
        word = (words)((bytes)word - zero);                      \
        memcpy(out + i, &word, sizeof word);                     \
    }
INLINE void move_bits(unsigned char *out, const unsigned char *from, size_t n, unsigned right, unsigned mask,
                      unsigned left, const int add, const unsigned char zero) {
    if (n % 32)
        MOVE_BITS(words_16, bytes_16)
    else
        MOVE_BITS(words_32, bytes_32)
}
INLINE void take_bits(unsigned char *out, const unsigned char *from, size_t n, unsigned right, unsigned mask) {
    move_bits(out, from, n, right, mask, 0, 0, 0);
}
INLINE void add_bits(unsigned char *out, const unsigned char *from, size_t n, unsigned right, unsigned mask,
                     unsigned left) {
    move_bits(out, from, n, right, mask, left, 1, 0);
}

/* out [n] from signed bytes, n a multiple of LANES. */
INLINE void from_bytes(float *out, const unsigned char *q, size_t n, coefficients c, const int formula) {
    UNROLL for (size_t i = 0; i < n; i += LANES) W(store)(out + i, value_of(W(from_i8)(q + i), c, formula));
}

/* ---- nibbles ---- */

#if LANES == 16
typedef WVEC nibble_values; /* lane q: the value of code q */

INLINE nibble_values nibble_values_of(coefficients c, const int formula) {
    static const signed char in_order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return value_of(W(from_i8)(formula == IQ4 ? iq4_values : in_order), c, formula);
}
#endif

/* out [n] from the low (shift 0) or high (shift 4) nibbles of n bytes; n is 16 or 32. */
INLINE void from_nibbles(float *out, const unsigned char *p, size_t n, unsigned shift, coefficients c,
                         const int formula) {
#if LANES == 16
    nibble_values values = nibble_values_of(c, formula);
    UNROLL for (size_t i = 0; i < n; i += 16) W(store)(out + i, W(lookup)(values, p + i, shift));
#else
    unsigned char codes[32];
    take_bits(codes, p, n, shift, 15);
    if (formula == IQ4) UNROLL for (size_t i = 0; i < n; i += 16) W(lookup_bytes)(codes + i, iq4_values, codes + i);
    from_bytes(out, codes, n, c, formula);
#endif
}

#endif
