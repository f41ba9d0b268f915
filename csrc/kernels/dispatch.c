/* dispatch.c - asks the CPU once, picks the row, honours LLAMAPROBE_KERNELS. Nothing else asks the CPU. */
#include "kernels.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const lp_kernels lp_kernels_generic;
#ifdef LP_EMULATED
extern const lp_kernels lp_kernels_emu16, lp_kernels_emu16_zen4;
#endif

static int always(void) { return 1; }
#ifdef LP_EMULATED
static int never(void) { return 0; }
#endif

#if defined(__x86_64__)
#include <cpuid.h>

extern const lp_kernels lp_kernels_avx2, lp_kernels_avx512, lp_kernels_zen4;

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
#elif defined(__aarch64__)
extern const lp_kernels lp_kernels_neon;
#endif
#if !defined(__x86_64__)
static int is_intel(void) { return 0; }
#endif

/* `suits`: may be chosen when none is named, as rows for tests never are. The last one that does is the best. */
static const struct {
    const lp_kernels *row;
    int (*supported)(void), (*suits)(void);
} rows[] = {
#ifdef LP_EMULATED
    {&lp_kernels_emu16_zen4, always, never}, {&lp_kernels_emu16, always, never},
#endif
    {&lp_kernels_generic, always, always},
#if defined(__x86_64__)
    {&lp_kernels_avx2, has_avx2, has_avx2},  {&lp_kernels_avx512, has_avx512, has_avx512},
    {&lp_kernels_zen4, has_avx512, is_zen4},
#elif defined(__aarch64__)
    {&lp_kernels_neon, always, always},
#endif
};

#define N_ROWS (sizeof rows / sizeof *rows)

size_t lp_kernels_count(void) { return N_ROWS; }
const lp_kernels *lp_kernels_at(size_t i) { return rows[i].row; }
const char *lp_kernels_name(size_t i) { return rows[i].row->name; }
int lp_kernels_supported(size_t i) { return rows[i].supported(); }

static atomic_int order; /* 1: in order, 2: row by row; a virtual machine takes microseconds to ask the CPU */

int lp_kernels_in_order(void) {
    int answer = atomic_load_explicit(&order, memory_order_relaxed);
    if (!answer) atomic_store_explicit(&order, answer = is_intel() ? 2 : 1, memory_order_relaxed);
    return answer == 1;
}

void lp_kernels_set_in_order(int in_order) { atomic_store(&order, in_order ? 1 : 2); }

static const lp_kernels *best_row(void) {
    size_t i = N_ROWS - 1;
    while (!rows[i].suits()) i--;
    return rows[i].row;
}

const lp_kernels *lp_kernels_get(lp_error *err) {
    const char *wanted = getenv("LLAMAPROBE_KERNELS");
    char shown[64], names[128];
    size_t used = 0;
    if (!wanted || !*wanted) return best_row();
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!strcmp(wanted, rows[i].row->name)) {
            if (rows[i].supported()) return rows[i].row;
            lp_fail(err, LP_EUNSUPPORTED, "LLAMAPROBE_KERNELS=%s: this CPU cannot run these kernels", wanted);
            return NULL;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", rows[i].row->name);
    }
    lp_fail(err, LP_EARG, "LLAMAPROBE_KERNELS=%s: no such kernels in this build, which has %s",
            lp_show(shown, sizeof shown, wanted, strlen(wanted)), names);
    return NULL;
}
