/* dispatch.c - the table of variants, and which of them runs here. Nothing else asks the CPU.
 *
 * The variant is the last of the table that is the CPU's default, or the one that LLAMAPROBE_KERNELS names: never a
 * silent fallback. */
#include "kernels.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int always(void) { return 1; }

#if defined(__x86_64__)
#include <cpuid.h>

/* __builtin_cpu_supports also asks whether the system saves the registers. F16C came before AVX2 on every chip. */
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static int is_made_by(const char ebx[4]) {
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && memcmp(&b, ebx, 4) == 0;
}

/* AMD's family 25 has AVX-512 in Zen 4 only, where an instruction of 512 bits is two of 256. */
static int is_zen4(void) {
    unsigned a, b, c, d;
    if (!has_avx512() || !is_made_by("Auth")) return 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (a >> 8 & 15) + (a >> 20 & 255) == 25;
}

static int is_intel(void) { return is_made_by("Genu"); }
#else
static int is_intel(void) { return 0; }
#endif

extern const lp_kernels lp_kernels_generic, lp_kernels_avx2, lp_kernels_avx512, lp_kernels_zen4, lp_kernels_neon,
    lp_kernels_emu16, lp_kernels_emu16_zen4;

/* Best last. is_default: eligible for automatic choice, NULL for variants that only tests run. */
static const struct {
    const lp_kernels *kernels;
    int (*supported)(void), (*is_default)(void);
} variants[] = {
#ifdef LP_EMULATED
    {&lp_kernels_emu16_zen4, always, NULL},  {&lp_kernels_emu16, always, NULL},
#endif
    {&lp_kernels_generic, always, always},
#if defined(__x86_64__)
    {&lp_kernels_avx2, has_avx2, has_avx2},  {&lp_kernels_avx512, has_avx512, has_avx512},
    {&lp_kernels_zen4, has_avx512, is_zen4},
#elif defined(__aarch64__)
    {&lp_kernels_neon, always, always},
#endif
};

#define N_VARIANTS (sizeof variants / sizeof *variants)

size_t lp_kernels_count(void) { return N_VARIANTS; }
const lp_kernels *lp_kernels_at(size_t i) { return variants[i].kernels; }
int lp_kernels_supported(size_t i) { return variants[i].supported(); }

static atomic_int pattern; /* 1: sequential, 2: per row; a virtual machine takes microseconds to ask the CPU */

int lp_kernels_prefetch_sequential(void) {
    int answer = atomic_load_explicit(&pattern, memory_order_relaxed);
    if (!answer) atomic_store_explicit(&pattern, answer = is_intel() ? 2 : 1, memory_order_relaxed);
    return answer == 1;
}

void lp_kernels_set_prefetch_sequential(int sequential) { atomic_store(&pattern, sequential ? 1 : 2); }

const lp_kernels *lp_kernels_get(lp_error *err) {
    const char *wanted = getenv("LLAMAPROBE_KERNELS");
    char shown[64], names[128];
    size_t used = 0, i = N_VARIANTS - 1;
    if (!wanted || !*wanted) {
        while (!variants[i].is_default || !variants[i].is_default()) i--;
        return variants[i].kernels;
    }
    for (i = 0; i < N_VARIANTS; i++) {
        const char *name = variants[i].kernels->name;
        if (!strcmp(wanted, name)) {
            if (variants[i].supported()) return variants[i].kernels;
            lp_fail(err, LP_EUNSUPPORTED, "LLAMAPROBE_KERNELS=%s: this CPU cannot run these kernels", wanted);
            return NULL;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", name);
    }
    lp_fail(err, LP_EARG, "LLAMAPROBE_KERNELS=%s: no such kernels in this build, which has %s",
            lp_show(shown, sizeof shown, wanted, strlen(wanted)), names);
    return NULL;
}
