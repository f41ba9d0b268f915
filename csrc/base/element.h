/* element.h - the element types that kernels can read. */
#ifndef LP_ELEMENT_H
#define LP_ELEMENT_H

#include <stddef.h>

typedef enum {
    LP_ELEMENT_BF16,
    LP_ELEMENT_F16,
    LP_ELEMENT_F32,
    LP_ELEMENT_PACKED, /* codes and scales, see packed.h: no fixed size per element */
} lp_element;

/* Not of LP_ELEMENT_PACKED. */
static inline size_t lp_element_bytes(lp_element element) { return element == LP_ELEMENT_F32 ? 4 : 2; }

#endif
