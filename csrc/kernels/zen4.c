/* zen4.c - AVX-512 where an instruction of 512 bits is two of 256: AMD Zen 4 (2022). Twice as many instructions of
 * 256 bits find more loads for their broadcasts, and a mask is not at the expense of a multiply-add. */
#include "kernels.h" /* lp_kernels */

#include "headers.h"

#if defined(__x86_64__)
LP_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

#define V8_REGISTERS "v"
#include "verbs_avx2.h"
#include "verbs_avx512.h"

#define V8_COLUMNS_BF16 v8_columns_bf16
#define HALVES
#define BF16_LINES
#define FAR_TOKENS 33
#define GATED_ROWS 24
#define BAND_MACS 1000000000
#define LP_ROW zen4
#include "lanes16.h"

LP_TARGET_END
#endif
