/* generic.c - any CPU: plain C, four lanes, fused multiply-adds by soft_fma.h. */
#include "kernels.h" /* lp_kernels */

/* Unrolled loops took gcc 50 s instead of 7 and ran 1.3 times slower at 8 and 16 tokens: there are too few registers
 * for the sums and the steps of soft_fma.h. */
#define LP_NO_UNROLL
#include "headers.h"

#define LP_N 4
#include "verbs_plain.h"
#define V4_FMA_INTO(c, a, b) ((c) = v4_fma(a, b, c))

#define FAR_TOKENS 32
#define GATED_ROWS 24
#define LP_N 4
#include "tile.h"
#include "pieces.h"
#include "stream.h"
#include "exp.h"
#include "softmax.h"
#include "direct.h"

#define ROWS_2 6
#define ROWS_1 6
#define DIRECT_TOKENS 4
#define ATTEND_ROWS 4
#define BAND_MACS 50000000
#include "gemm.h"
#include "attend.h"
#include "rows.h"

#define LP_ROW generic
#include "row.h"
