/* headers.h - what the bodies need of the library and of the house, before any target is chosen. */
#ifndef LP_HEADERS_H
#define LP_HEADERS_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../size.h"  /* lp_size_min */
#include "isa.h"      /* INLINE, UNROLL, LP_TARGET_BEGIN */
#include "kernels.h"  /* lp_kernels, lp_product, lp_head */
#include "words.h"    /* lp_bf16_float, lp_f16_float */

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "llamaprobe needs a little-endian CPU: weights are used as they lie in the file"
#endif
#if UINTPTR_MAX < UINT64_MAX
#error "llamaprobe needs a 64-bit CPU: checkpoints are mapped whole"
#endif
#if FLT_EVAL_METHOD != 0
#error "llamaprobe needs float arithmetic in float: its results are defined to the bit"
#endif
#ifdef __FAST_MATH__
#error "llamaprobe cannot be built with -ffast-math: its results are defined to the bit"
#endif

#endif
