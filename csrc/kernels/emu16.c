/* emu16.c - a row for tests: the body of avx512 (tiles, tails, order) in plain C. */
#include "kernels.h" /* lp_kernels */

#ifdef LP_EMULATED
#include "emulated.h"

#define DIRECT_WIDE
#define SPREAD_BF16
#define ROWS_4 6
#define FAR_TOKENS 32
#define GATED_ROWS 48
#define LP_ROW emu16
#include "lanes16.h"
#endif
