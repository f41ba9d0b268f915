/* headers.h - what the bodies need of the library and of the house, before any target is chosen. */
#ifndef LP_HEADERS_H
#define LP_HEADERS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../base/size.h" /* lp_size_min */
#include "isa.h"          /* INLINE, UNROLL, LP_TARGET_BEGIN */
#include "kernels.h"      /* lp_kernels, lp_product, lp_head */
#include "words.h"        /* lp_bf16_float, lp_f16_float */

#endif
