/* avx512.c - AVX-512 where multiply-adds are 512 bits wide: Intel Skylake-SP (2017) and AMD Zen 5 (2024) on. */
#include "kernels.h" /* lp_kernels */

#include "headers.h"

#if defined(__x86_64__)
LP_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

#define V8_REGISTERS "v"
#include "verbs_avx2.h"
#include "verbs_avx512.h"

#define V8_COLUMNS_BF16 v8_columns_bf16
#define V16_COLUMNS_BF16 v16_columns_bf16
#define DIRECT_WIDE
#define SPREAD_BF16
#define ROWS_4 6
#define FAR_TOKENS 32
#define GATED_ROWS 48
#define BAND_MACS 1000000000
#define LP_ROW avx512
#include "lanes16.h"

LP_TARGET_END
#endif
