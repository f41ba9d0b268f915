/* clock.h - a monotonic clock. */
#ifndef LP_CLOCK_H
#define LP_CLOCK_H

#include <stdint.h>

#include "../base/platform.h"

int64_t lp_clock_ns(void);

#endif
