/* rows.h - one check for each row of kernels that this CPU can run.
 *
 *     test_x          every row
 *     test_x ROW      this row alone, which must be the one that this CPU gets when nobody names one */
#ifndef LP_TEST_ROWS_H
#define LP_TEST_ROWS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/kernels/kernels.h"
#include "check.h"

static inline void for_each_row(int argc, char **argv, void (*check)(const lp_kernels *row)) {
    const char *only = argc > 1 ? argv[1] : NULL;
    unsetenv("LLAMAPROBE_KERNELS");
    const lp_kernels *best = lp_kernels_get(NULL);
    CHECK(!only || !strcmp(only, best->name));
    for (size_t i = 0; i < lp_kernels_count(); i++) {
        const lp_kernels *row = lp_kernels_at(i);
        unsigned long before = check_n_passed;
        const char *note = row == best ? ", and this CPU's choice" : "";
        if (only && strcmp(only, row->name)) continue;
        if (!lp_kernels_supported(i)) {
            printf("row %-8s not run: this CPU lacks it\n", row->name);
            continue;
        }
        check(row);
        printf("row %-8s %lu checks passed%s\n", row->name, check_n_passed - before, note);
        fflush(stdout);
    }
}

#endif
