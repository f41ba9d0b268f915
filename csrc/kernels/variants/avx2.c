/* avx2.c - Intel Haswell (2013) and AMD Zen (2017) on: 16 registers of 8 lanes. */
#include "../kernels.h" /* lp_kernels */

#if defined(__x86_64__)
#include "../simd/avx2.h"

#define LP_VARIANT avx2
#define LANES 8
#define TILE_ROWS_1 12
#define BAND_MACS 1000000000
#include "variant.h"
#endif
