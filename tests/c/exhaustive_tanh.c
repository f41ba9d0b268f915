/* exhaustive_tanh.c - tanh of every float32, both signs, against the C library in float64: at most 1 ulp off, odd and
 * monotone. The kernels' tanh is cap with 1; the scalar definition must give the same bits. Half a minute on one core.
 */
#include "check.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "canonical.h"

enum { CHUNK = 4096 };

static double ulps(float got, double want) {
    int exponent = ilogb(want);
    if (exponent < -126) exponent = -126;
    if (exponent > -1) exponent = -1; /* no float lies between the last ones below 1 and 1 */
    return fabs((double)got - want) / ldexp(1, exponent - 23);
}

int main(void) {
    static float x[CHUNK], minus[CHUNK], y[CHUNK], minus_y[CHUNK];
    const lp_kernels *k = lp_kernels_get(NULL);
    double most = 0;
    float last = 0;
    unsigned long different = 0, falling = 0, not_odd = 0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += CHUNK) {
        for (size_t i = 0; i < CHUNK; i++) x[i] = lp_f32_from_bits((uint32_t)(bits + i)), minus[i] = -x[i];
        k->cap(y, x, 1, CHUNK), k->cap(minus_y, minus, 1, CHUNK);
        for (size_t i = 0; i < CHUNK; i++) {
            float want = canonical_tanh(x[i]);
            different += !same_floats(&want, y + i, 1);
            falling += y[i] < last;
            not_odd += lp_f32_bits(minus_y[i]) != (lp_f32_bits(y[i]) | 0x80000000u);
            last = y[i];
            if (x[i] >= 0x1p-13f && x[i] <= 11) { /* the library is slow; below, tanh(x) is x to half an ulp */
                double off = ulps(y[i], tanh((double)x[i]));
                if (off > most) most = off;
            } else {
                different += y[i] != (x[i] < 1 ? x[i] : 1);
            }
        }
    }
    printf("largest error: %.4f ulp\n", most);
    CHECK(most <= 1);
    CHECK(different == 0 && falling == 0 && not_odd == 0);
    return CHECK_REPORT();
}
