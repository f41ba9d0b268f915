/* avx2.c - Intel Haswell (2013) and AMD Zen (2017) on: 16 registers of 8 lanes. */
#include "kernels.h" /* lp_kernels */

#include "headers.h"

#if defined(__x86_64__)
LP_TARGET_BEGIN("avx2,fma,f16c")

#include "verbs_avx2.h"

#define FAR_TOKENS 32
#define GATED_ROWS 24
#define LP_N 8
#include "tile.h"
#include "pieces.h"
#include "stream.h"
#include "exp.h"
#include "softmax.h"
#define V_COLUMNS_BF16 v8_columns_bf16
#include "direct.h"

#define ROWS_2 6
#define ROWS_1 12
#define DIRECT_TOKENS 4
#define ATTEND_ROWS 4
#define BAND_MACS 1000000000
#include "gemm.h"
#include "attend.h"
#include "rows.h"

#define LP_ROW avx2
#include "row.h"

LP_TARGET_END
#endif
