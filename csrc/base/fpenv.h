/* fpenv.h - the canonical floating-point environment of a thread: round to nearest even, no flushing of denormals.
 *
 * Another library may have set flush-to-zero in the calling thread, and new threads inherit it. Every thread that
 * computes saves its control word, sets the canonical one and restores the old one. */
#ifndef LP_FPENV_H
#define LP_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
#include <emmintrin.h> /* _mm_getcsr, _mm_setcsr: SSE2 is part of every x86-64 */

typedef uint32_t lp_fpenv;

static inline lp_fpenv lp_fpenv_set(void) {
    lp_fpenv old = _mm_getcsr();
    _mm_setcsr(0x1f80); /* all exceptions masked, nearest even, no FTZ, no DAZ */
    return old;
}
static inline void lp_fpenv_restore(lp_fpenv old) { _mm_setcsr(old); }

#elif defined(__aarch64__)

typedef uint64_t lp_fpenv;

static inline lp_fpenv lp_fpenv_set(void) {
    lp_fpenv old, ours = 0; /* no traps, nearest even, FZ, FIZ, DN and AHP (another f16) clear */
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(ours) : "memory");
    return old;
}
static inline void lp_fpenv_restore(lp_fpenv old) { __asm__ volatile("msr fpcr, %0" : : "r"(old) : "memory"); }

#else
#include <fenv.h>

typedef fenv_t lp_fpenv;

static inline lp_fpenv lp_fpenv_set(void) {
    lp_fpenv old;
    fegetenv(&old);
    fesetenv(FE_DFL_ENV);
    return old;
}
static inline void lp_fpenv_restore(lp_fpenv old) { fesetenv(&old); }
#endif

#endif
