/* proc.c - reads a line, or finds one. */
#include "proc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int lp_proc_line(const char *path, char *line, int size) {
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    char *got = fgets(line, size, f);
    fclose(f);
    return got ? 0 : -1;
}

size_t lp_proc_number(const char *path, const char *key) {
    char line[256];
    size_t found = LP_PROC_NONE, n = strlen(key);
    FILE *f = fopen(path, "re");
    if (!f) return LP_PROC_NONE;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, n)) found = (size_t)strtoull(line + n, NULL, 10);
    fclose(f);
    return found;
}
