/* exhaustive_exp.c - exp of every float32 from -104 to 89 against the C library in float64: at most 1 ulp off.
 * Every variant that this CPU has must give the same bits. Half a minute on one core. */
#include "check.h"

#include <math.h>
#include <stdint.h>

#include "canonical.h"

static double ulps(float got, double want) {
    int exponent = ilogb(want);
    if (exponent < -126) exponent = -126;
    return fabs((double)got - want) / ldexp(1, exponent - 23);
}

static double worst(uint32_t first, uint32_t last) {
    enum { CHUNK = 4096 };
    static float x[CHUNK], y[CHUNK];
    const lp_kernels *k = lp_kernels_get(NULL);
    double most = 0;
    for (uint64_t bits = first; bits <= last; bits += CHUNK) {
        size_t n = last - bits + 1 < CHUNK ? (size_t)(last - bits + 1) : CHUNK;
        for (size_t i = 0; i < n; i++) x[i] = lp_f32_from_bits((uint32_t)(bits + i));
        k->exp(y, x, n);
        for (size_t i = 0; i < n; i++) {
            double want = exp((double)x[i]), off = isinf(y[i]) && want > 3.4028235e38 ? 0 : ulps(y[i], want);
            if (off > most) most = off;
        }
    }
    return most;
}

int main(void) {
    double below = worst(0x80000000u, 0xc2d00000u), above = worst(0, 0x42b17217u);
    printf("largest error: %.4f ulp below 0, %.4f ulp above\n", below, above);
    CHECK(below <= 1);
    CHECK(above <= 1);
    return CHECK_REPORT();
}
