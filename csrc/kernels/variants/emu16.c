/* emu16.c - the body of avx512 (tiles, tails, order) in plain C: it proves its bits on any CPU. */
#include "../kernels.h" /* lp_kernels */

#ifdef LP_EMULATED /* builds for tests alone have it */
#define FOR_TESTS
#define LP_VARIANT emu16
#include "avx512.c"
#endif
