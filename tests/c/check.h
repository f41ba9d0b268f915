/* check.h - the whole test harness of the C core: two macros.
 *
 *     CHECK(condition);      counts it; on failure prints where and what, and goes on
 *     return CHECK_REPORT(); last line of main: prints "test_name: N passed, N failed", gives the exit code
 *
 * One test is one program with one .c file of tests, so the two counters may live here. */
#ifndef LP_CHECK_H
#define LP_CHECK_H

#include <stdio.h>
#include <string.h>

static unsigned long check_n_passed, check_n_failed;

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (condition) {                                                            \
            check_n_passed++;                                                       \
        } else {                                                                    \
            check_n_failed++;                                                       \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                           \
    } while (0)

#define CHECK_REPORT() check_report(__FILE__)

static inline int check_report(const char *file) {
    const char *slash = strrchr(file, '/');
    const char *base = slash ? slash + 1 : file;
    printf("%.*s: %lu passed, %lu failed\n", (int)strcspn(base, "."), base, check_n_passed, check_n_failed);
    return check_n_failed || !check_n_passed ? 1 : 0;
}

#endif
