/* avx512.c - Intel Skylake-SP (2017) and AMD Zen 4 (2022) on: 32 registers of 16 lanes. For up to 8
 * tokens vectors of 8: no lane is idle, and some chips run two of them at a time. */
#include "kernels.h" /* lp_kernels */

#include "headers.h"

#if defined(__x86_64__)
LP_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

#define V8_REGISTERS "v"
#include "verbs_avx2.h"
#include "verbs_avx512.h"

#define LP_HALF 8
#define LP_N LP_HALF
#include "tile.h"
#include "stream.h"
#include "lines.h"
#include "exp.h"
#include "softmax.h"
#define V_COLUMNS_BF16 v8_columns_bf16
#include "direct.h"
#undef LP_N

#define LP_N 16
#include "tile.h"
#include "stream.h"
#include "lines.h"
#include "exp.h"
#include "softmax.h"

#define BF16_LINES
#define ROWS_2 12
#define ROWS_1 12
#define DIRECT_TOKENS 4
#define ATTEND_ROWS 8
#define BAND_MACS 1000000000
#include "gemm.h"
#include "attend.h"
#include "rows.h"

#define LP_ROW avx512
#include "row.h"

LP_TARGET_END
#endif
