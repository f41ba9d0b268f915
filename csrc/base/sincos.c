/* sincos.c - reduces to [-pi/4, pi/4], then two Taylor polynomials. Float64 sums and products only, no fused
 * operation, so that every machine gives the same bits. */
#include "sincos.h"

#include <math.h>

/* pi/2 as three parts of 26 bits and the rest: n * part is exact for n < 2^26. */
static const double part[] = {0x1.921fb5p+0, 0x1.110b46p-26, 0x1.1a6263p-54, 0x1.8a2e03707344ap-81};
#define TWO_OVER_PI 0x1.45f306dc9c883p-1

/* 1/3!, 1/5!, ... and 1/2!, 1/4!, ...: the first term left out is below 2^-57 at pi/4. */
static const double sine_terms[] = {1 / 6.0,        1 / 120.0,        1 / 5040.0,         1 / 362880.0,
                                    1 / 39916800.0, 1 / 6227020800.0, 1 / 1307674368000.0};
static const double cosine_terms[] = {1 / 2.0,       1 / 24.0,        1 / 720.0,         1 / 40320.0,
                                      1 / 3628800.0, 1 / 479001600.0, 1 / 87178291200.0, 1 / 20922789888000.0};

/* 1 - z (t0 - z (t1 - ...)) */
static double alternating(const double *terms, int n, double z) {
    double sum = terms[n - 1];
    for (int i = n - 2; i >= 0; i--) sum = terms[i] - z * sum;
    return 1 - z * sum;
}

void lp_sincos(float angle, float *sine, float *cosine) {
    double x = angle, n = x * TWO_OVER_PI;
    if (!(fabs(x) <= 0x1p26)) {
        *sine = *cosine = NAN;
        return;
    }
    n = (n + 0x1.8p52) - 0x1.8p52; /* to the nearest integer */
    double r = ((x - n * part[0]) - n * part[1]) - n * part[2];
    r -= n * part[3];
    double z = r * r, s = r * alternating(sine_terms, 7, z), c = alternating(cosine_terms, 8, z);
    double turned[] = {s, c, -s, -c, s};
    int quarter = (int)((long)n & 3);
    *sine = (float)turned[quarter];
    *cosine = (float)turned[quarter + 1];
}
