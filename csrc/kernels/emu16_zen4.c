/* emu16_zen4.c - a row for tests: the body of zen4 in plain C. */
#include "kernels.h" /* lp_kernels */

#ifdef LP_EMULATED
#include "emulated.h"

#define HALVES
#define BF16_LINES
#define FAR_TOKENS 33
#define GATED_ROWS 24
#define LP_ROW emu16_zen4
#include "lanes16.h"
#endif
