/* file.c - pread until all bytes are there. */
#define _POSIX_C_SOURCE 200809L
#include "file.h"

#include <errno.h>
#include <unistd.h>

size_t lp_file_read(int fd, void *dst, size_t offset, size_t n, int *number) {
    size_t done = 0;
    *number = 0;
    while (done < n) {
        ssize_t got = pread(fd, (char *)dst + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) *number = errno;
        if (got <= 0) break;
        done += (size_t)got;
    }
    return done;
}
