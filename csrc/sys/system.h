/* system.h - what the operating system says about the machine. Each system has a file with these functions. */
#ifndef LP_SYSTEM_H
#define LP_SYSTEM_H

#include <stddef.h>

#include "../base/platform.h"

size_t lp_system_cores(void);  /* that this process may run on; 0 when the system does not say */
size_t lp_system_memory(void); /* bytes that can be used without swapping; (size_t)-1 when the system does not say */
size_t lp_system_cache(void);  /* bytes of the last-level cache; 0 when the system does not say */

#endif
