/* platform.h - requirements on the machine and its compiler, checked at compile time. */
#ifndef LP_PLATFORM_H
#define LP_PLATFORM_H

#include <float.h> /* FLT_EVAL_METHOD */

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "llamaprobe needs a little-endian CPU: weights are used as they lie in the file"
#endif
#if !defined(__SIZEOF_POINTER__) || __SIZEOF_POINTER__ < 8
#error "llamaprobe needs a 64-bit CPU: checkpoints are mapped whole"
#endif
#if FLT_EVAL_METHOD != 0
#error "llamaprobe needs float arithmetic in float: its results are defined to the bit"
#endif
#ifdef __FAST_MATH__
#error "llamaprobe cannot be built with -ffast-math: its results are defined to the bit"
#endif

#endif
