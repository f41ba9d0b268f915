/* neon.c - every AArch64: 32 registers of four lanes, in pairs. */
#include "../kernels.h" /* lp_kernels */

#if defined(__aarch64__)
#include "../simd/neon.h"

#define LP_VARIANT neon
#define LANES 8
#define TILE_ROWS_1 12 /* 24 registers of sums; a pair serves two products for every weight that is read */
#define BAND_MACS 1000000000
#include "variant.h"
#endif
