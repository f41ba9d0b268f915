/* avx512.c - AVX-512 where multiply-adds are 512 bits wide: Intel Skylake-SP (2017) and AMD Zen 5 (2024) on. 32
 * registers of 16 lanes; for up to 8 tokens vectors of 8, so that no lane is idle. */
#include "../kernels.h" /* lp_kernels */

#if defined(__x86_64__) || defined(FOR_TESTS)
#ifndef FOR_TESTS /* emu16.c */
#include "../simd/avx512.h"
#define LP_VARIANT avx512
#define BAND_MACS 1000000000
#endif

#define LANES 16
#define NARROW_LANES 8
#define TILE_ROWS_1 12
#define TILE_ROWS_2 12
#define TILE_ROWS_4 6
#define SPREAD_BF16 1
#define GEMV_WIDE 1
#define ATTENTION_ROWS 8
#define GATED_ROWS 48
#include "variant.h"
#endif
