/* emulated.h - the verbs of 16 and of 8 lanes in plain C, for rows that prove the bodies of AVX-512 elsewhere.
 *
 * They are only in builds for tests, which define LP_EMULATED. */
#define LP_NO_UNROLL /* a row that proves bits need not be fast */
#include "headers.h"

/* At -O3 gcc 12 takes two minutes over such a row. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")
#endif

#define LP_N 8
#include "verbs_plain.h"
#define LP_N 16
#include "verbs_plain.h"
#define V8_FMA_INTO(c, a, b) ((c) = v8_fma(a, b, c))
#define V16_FMA_INTO(c, a, b) ((c) = v16_fma(a, b, c))
#define BAND_MACS 50000000
