/* emu16.c - a row for tests: the body of avx512 (tiles, tails, order) in plain C,
 * so that it can be proved on CPUs without AVX-512. */
#include "kernels.h" /* lp_kernels */

#define LP_NO_UNROLL /* a row that proves bits need not be fast */
#include "headers.h"

/* At -O3 gcc 12 takes two minutes over it. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")
#endif

#define LP_N 8
#include "verbs_plain.h"
#define LP_N 16
#include "verbs_plain.h"
#define V8_FMA_INTO(c, a, b) ((c) = v8_fma(a, b, c))
#define V16_FMA_INTO(c, a, b) ((c) = v16_fma(a, b, c))

#define LP_HALF 8
#define LP_N LP_HALF
#include "tile.h"
#include "stream.h"
#include "lines.h"
#include "exp.h"
#include "softmax.h"
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
#define BAND_MACS 50000000
#include "gemm.h"
#include "attend.h"
#include "rows.h"

#define LP_ROW emu16
#include "row.h"
