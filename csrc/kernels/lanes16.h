/* lanes16.h - the body of the rows with 32 registers of 16 lanes, once the verbs of v8 and v16 are there. For up to 8
 * tokens vectors of 8: no lane is idle.
 *
 * The row's file sets what tiles.h asks for, BAND_MACS and LP_ROW. */
#define LP_HALF 8
#define LP_N LP_HALF
#include "tile.h"
#include "pieces.h"
#include "stream.h"
#ifdef BF16_LINES
#include "lines.h"
#endif
#include "exp.h"
#include "softmax.h"
#ifdef V8_COLUMNS_BF16
#define V_COLUMNS_BF16 V8_COLUMNS_BF16
#endif
#include "direct.h"
#undef V_COLUMNS_BF16
#undef LP_N

#define LP_N 16
#include "tile.h"
#include "pieces.h"
#include "stream.h"
#ifdef BF16_LINES
#include "lines.h"
#endif
#include "exp.h"
#include "softmax.h"
#ifdef DIRECT_WIDE
#ifdef V16_COLUMNS_BF16
#define V_COLUMNS_BF16 V16_COLUMNS_BF16
#endif
#include "direct.h"
#endif

#define ROWS_2 12
#define ROWS_1 12
#define DIRECT_TOKENS 4
#define ATTEND_ROWS 8
#include "gemm.h"
#include "attend.h"
#include "rows.h"

#include "row.h"
