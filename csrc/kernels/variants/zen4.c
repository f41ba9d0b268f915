/* zen4.c - AVX-512 where an instruction of 512 bits is two of 256: AMD Zen 4 (2022). Twice as many instructions of
 * 256 bits find more loads for their broadcasts, and a mask is not at the expense of a multiply-add. */
#include "../kernels.h" /* lp_kernels */

#if defined(__x86_64__) || defined(FOR_TESTS)
#ifndef FOR_TESTS /* emu16_zen4.c */
#include "../simd/avx512.h"
#define LP_VARIANT zen4
#define BAND_MACS 1000000000
#endif

#define LANES 16
#define NARROW_LANES 8
#define TILE_ROWS_1 12
#define TILE_ROWS_2 12
#define SPLIT_VECTORS 1
#define BF16_RING 1
#define ATTENTION_ROWS 8
#define NONTEMPORAL_TOKENS 33
#include "variant.h"
#endif
