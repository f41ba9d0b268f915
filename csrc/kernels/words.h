/* words.h - one weight of a file to float32: words may start at any address. */
#ifndef LP_WORDS_H
#define LP_WORDS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../half.h" /* lp_bf16_to_f32, lp_f16_to_f32 */
#include "isa.h"     /* INLINE */

INLINE uint16_t lp_word_at(const void *words, size_t i) {
    uint16_t w;
    memcpy(&w, (const char *)words + 2 * i, 2);
    return w;
}
INLINE float lp_bf16_float(const void *words, size_t i) { return lp_bf16_to_f32(lp_word_at(words, i)); }
INLINE float lp_f16_float(const void *words, size_t i) { return lp_f16_to_f32(lp_word_at(words, i)); }

#endif
