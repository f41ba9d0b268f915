/* words.h - one weight of a file to float32: words may start at any address. */
#ifndef LP_WORDS_H
#define LP_WORDS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../base/half.h" /* lp_bf16_to_f32, lp_f16_to_f32 */
#include "isa.h"          /* INLINE */
#include "kernels.h"      /* lp_word */

INLINE uint16_t lp_word_at(const void *words, size_t i) {
    uint16_t w;
    memcpy(&w, (const char *)words + 2 * i, 2);
    return w;
}
INLINE float lp_bf16_float(const void *words, size_t i) { return lp_bf16_to_f32(lp_word_at(words, i)); }
INLINE float lp_f16_float(const void *words, size_t i) { return lp_f16_to_f32(lp_word_at(words, i)); }

INLINE float lp_weight_float(const void *p, lp_word word) {
    float x;
    if (word != LP_WORD_F32) return word == LP_WORD_BF16 ? lp_bf16_float(p, 0) : lp_f16_float(p, 0);
    memcpy(&x, p, sizeof x);
    return x;
}

#endif
