/* proc.h - numbers in the small text files of /proc and of cgroups. */
#ifndef LP_PROC_H
#define LP_PROC_H

#include <stddef.h>

#include "../base/platform.h"

#define LP_PROC_NONE ((size_t)-1)

/* The first line of a file, cut to fit; 0, or -1 when it cannot be read. */
int lp_proc_line(const char *path, char *line, int size);

/* The number after a key at the start of a line ("MemAvailable:  123 kB"); LP_PROC_NONE when it is missing. */
size_t lp_proc_number(const char *path, const char *key);

#endif
