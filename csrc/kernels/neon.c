/* neon.c - every AArch64: 32 registers of four lanes, in pairs. */
#include "kernels.h" /* lp_kernels */

#include "headers.h"

#if defined(__aarch64__)
#include "verbs_neon.h"

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

/* 24 registers of sums; a pair serves two products for every weight that is read */
#define ROWS_2 6
#define ROWS_1 12
#define DIRECT_TOKENS 4
#define ATTEND_ROWS 4
#define BAND_MACS 1000000000
#include "gemm.h"
#include "attend.h"
#include "rows.h"

#define LP_ROW neon
#include "row.h"
#endif
