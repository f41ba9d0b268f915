/* sincos.h - sine and cosine of a float32 angle in float64, by our own code: a C library's differ in the last bit
 * from machine to machine, and RoPE's angles must not. */
#ifndef LP_SINCOS_H
#define LP_SINCOS_H

#include "platform.h"

/* Finite angles up to 2^26 (positions up to 67 million at the fastest frequency, 1 radian a position); the error
 * before the one rounding to float32 is below 2^-45. NaN for what is beyond. */
void lp_sincos(float angle, float *sine, float *cosine);

#endif
