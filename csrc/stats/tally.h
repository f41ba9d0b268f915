/* tally.h - exact sums of powers and a histogram of up to LP_TALLY_VALUES values of one channel.
 *
 * A float32 is +-m * 2^(e - 149) with an integer m < 2^24, so the sums of m, m^2, m^3 and m^4 over values of the same
 * sign and exponent fit 64 and 128 bits. lp_tally_add adds values to such a table; lp_tally_flush adds the table to the
 * channel's state, integers so wide that nothing is ever rounded. Neither order nor threads matter. */
#ifndef LP_TALLY_H
#define LP_TALLY_H

#include <stddef.h>
#include <stdint.h>

#include "../base/platform.h"

#define LP_TALLY_VALUES 2048 /* the most between two flushes; the sum of m^2 would overflow after 2^16 */

/* Sums of |x|, x, x^2, x^3, x^4 in units of 2^-149, 2^-149, 2^-298, 2^-447, 2^-596: two's complement, lowest limb
 * first, wide enough for 2^63 values. */
#define LP_N_SUMS 5
#define LP_SUM_LIMBS 55
extern const size_t lp_sum_limbs[LP_N_SUMS]; /* limbs of each sum */

/* A bucket is the sign, the exponent and 4 bits of mantissa of a float; a page is the 16 buckets of a binade. */
#define LP_PAGE 16
#define LP_N_PAGES 512
typedef struct {
    uint64_t count[LP_PAGE];
    uint32_t id; /* sign and exponent */
} lp_page;
typedef struct {
    lp_page *pages; /* [n], sorted by id; owned */
    uint32_t n, capacity;
} lp_histogram;

__extension__ typedef unsigned __int128 lp_u128;

typedef struct {
    lp_u128 m3, m4;
    uint64_t m1, m2, unused[2];
} lp_binade;

typedef struct {
    lp_binade binade[2][LP_N_PAGES]; /* alternating: two successive values of a binade are independent */
    uint32_t count[LP_N_PAGES * LP_PAGE];
    uint8_t used[LP_N_PAGES];
} lp_tally; /* all zeros when empty */

/* x [n]: the bits of finite floats. n values at most LP_TALLY_VALUES in all between two flushes. */
void lp_tally_add(lp_tally *t, const uint32_t *x, size_t n, int moments, int histogram);
/* Adds it to sums [LP_SUM_LIMBS] and the histogram (each NULL: not requested) and empties it. -1: out of memory. */
int lp_tally_flush(lp_tally *t, uint64_t *sums, lp_histogram *histogram);

/* limbs [n] += +-value * 2^shift */
void lp_limbs_add(uint64_t *limbs, size_t n, lp_u128 value, size_t shift, int negative);

#endif
