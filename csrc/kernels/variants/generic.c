/* generic.c - any CPU: plain C, four lanes, fused multiply-adds by soft_fma.h. */

/* Unrolled loops took gcc 50 s instead of 7 and ran 1.3 times slower at 8 and 16 tokens: there are too few registers
 * for the sums and the steps of soft_fma.h. */
#define LP_NO_UNROLL
#define LP_VARIANT generic
#include "variant.h"
