/* test_sincos.c - against the C library in float64: after rounding to float32 at most the last bit may differ, and
 * that only where the true value lies next to a rounding border. */
#include "check.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../../csrc/base/half.h"
#include "../../csrc/base/sincos.h"

/* got is the float32 next to want, within a hair more than half a unit in the last place */
static int is_rounded(float got, double want) {
    double unit = ldexp(1, ilogb(want == 0 ? 1 : want) - 23);
    if (fabs(want) < 0x1p-126) unit = 0x1p-149;
    return fabs((double)got - want) <= 0.5000001 * unit;
}

static int check_angle(float angle) {
    float s, c;
    lp_sincos(angle, &s, &c);
    return is_rounded(s, sin((double)angle)) && is_rounded(c, cos((double)angle));
}

int main(void) {
    int near_zero = 1, everywhere = 1, whole = 1;
    float s, c;
    for (uint32_t bits = 0; bits < 0x4c800000u; bits += 997) { /* 0 to 2^26 in small steps of the bits */
        everywhere &= check_angle(lp_f32_from_bits(bits));
        everywhere &= check_angle(-lp_f32_from_bits(bits));
    }
    for (uint32_t n = 1; n < 2000000; n += 3) { /* the floats next to multiples of pi/2: the hard ones */
        float x = (float)(n * 1.5707963267948966);
        near_zero &= check_angle(x) && check_angle(nextafterf(x, 0)) && check_angle(nextafterf(x, 1e30f));
    }
    for (int n = 0; n < 200000; n++) whole &= check_angle((float)n); /* the angles of the first pair of RoPE */
    CHECK(everywhere);
    CHECK(near_zero);
    CHECK(whole);
    lp_sincos(0, &s, &c);
    CHECK(s == 0 && c == 1);
    lp_sincos(INFINITY, &s, &c);
    CHECK(isnan(s) && isnan(c));
    lp_sincos(0x1p27f, &s, &c);
    CHECK(isnan(s) && isnan(c));
    return CHECK_REPORT();
}
