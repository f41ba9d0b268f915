/* file.h - reading an open file at an offset. */
#ifndef LP_FILE_H
#define LP_FILE_H

#include <stddef.h>

#include "../base/platform.h"

/* Reads n bytes at an offset; returns how many it got: fewer at the end of the file, or after an error, whose errno is
 * then in *number (else 0). */
size_t lp_file_read(int fd, void *dst, size_t offset, size_t n, int *number);

#endif
