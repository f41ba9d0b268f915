/* variants.h - one check for each variant of the kernels that this CPU can run.
 *
 *     test_x             every variant
 *     test_x VARIANT     this one alone, which must be what this CPU gets by default */
#ifndef LP_TEST_VARIANTS_H
#define LP_TEST_VARIANTS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/kernels/kernels.h"
#include "check.h"

static inline void for_each_variant(int argc, char **argv, void (*check)(const lp_kernels *variant)) {
    const char *only = argc > 1 ? argv[1] : NULL;
    unsetenv("LLAMAPROBE_KERNELS");
    const lp_kernels *best = lp_kernels_get(NULL);
    CHECK(!only || !strcmp(only, best->name));
    for (size_t i = 0; i < lp_kernels_count(); i++) {
        const lp_kernels *variant = lp_kernels_at(i);
        unsigned long before = check_n_passed;
        const char *note = variant == best ? ", and this CPU's choice" : "";
        if (only && strcmp(only, variant->name)) continue;
        if (!lp_kernels_supported(i)) {
            printf("variant %-10s not run: this CPU lacks it\n", variant->name);
            continue;
        }
        check(variant);
        printf("variant %-10s %lu checks passed%s\n", variant->name, check_n_passed - before, note);
        fflush(stdout);
    }
}

#endif
