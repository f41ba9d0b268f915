/* emu16_zen4.c - the body of zen4 in plain C, as emu16.c. */
#include "../kernels.h" /* lp_kernels */

#ifdef LP_EMULATED
#define FOR_TESTS
#define LP_VARIANT emu16_zen4
#include "zen4.c"
#endif
