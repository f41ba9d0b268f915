/* systems.h - what tests use and macOS lacks, so that they compile there; what cannot run there says so. */
#ifndef LP_SYSTEMS_H
#define LP_SYSTEMS_H

#include <stdio.h>

#if defined(__APPLE__)
#define HAS_WRAP 0 /* ld --wrap, by which the core's calls reach the functions of a test */
#define REAL(function) __asm("_" #function)
#else
#define HAS_WRAP 1
#define REAL(function)
#endif

static inline int not_run(const char *why) {
    printf("not run: %s\n", why);
    return 0;
}

#endif
