/* elements.h - one element of a weight to float32, at any alignment. */
#ifndef LP_ELEMENTS_H
#define LP_ELEMENTS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../base/half.h"   /* lp_bf16_to_f32, lp_f16_to_f32 */
#include "../../base/weight.h" /* lp_element */
#include "isa.h"               /* INLINE */

INLINE uint16_t lp_half_at(const void *halves, size_t i) {
    uint16_t half;
    memcpy(&half, (const char *)halves + 2 * i, 2);
    return half;
}
INLINE float lp_bf16_at(const void *p, size_t i) { return lp_bf16_to_f32(lp_half_at(p, i)); }
INLINE float lp_f16_at(const void *p, size_t i) { return lp_f16_to_f32(lp_half_at(p, i)); }

INLINE float lp_element_to_f32(const void *p, lp_element element) {
    float x;
    if (element != LP_ELEMENT_F32) return element == LP_ELEMENT_BF16 ? lp_bf16_at(p, 0) : lp_f16_at(p, 0);
    memcpy(&x, p, sizeof x);
    return x;
}

#endif
