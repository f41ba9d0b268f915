/* sincos.h - sine and cosine of a float32 angle, the same bits on every machine: those of C libraries differ. */
#ifndef LP_SINCOS_H
#define LP_SINCOS_H

#include "platform.h"

/* For angles up to 2^26 (67 million positions at the fastest frequency, 1 radian per position), else NaN. The error
 * before the one rounding to float32 is below 2^-45. */
void lp_sincos(float angle, float *sine, float *cosine);

#endif
