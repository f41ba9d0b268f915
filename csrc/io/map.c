/* map.c - opens one regular file and gives its bytes; see map.h. */
#define _POSIX_C_SOURCE 200809L /* strerror_r is the standard one */
#define _DARWIN_C_SOURCE        /* st_mtimespec */
#include "map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/size.h" /* lp_size_min */

#define PIECE_BYTES ((size_t)16 << 20) /* of one call: a slow disk reads them within a moment */

static const lp_map_reading no_limits = {.max_bytes = (size_t)-1};

void lp_map_borrow(lp_map *map, const char *name, const unsigned char *bytes, size_t n_bytes) {
    *map = (lp_map){.bytes = bytes, .n_bytes = n_bytes, .kind = LP_MAP_BORROWED, .fd = -1};
    size_t n = strlen(name), room = sizeof map->name - 1;
    size_t cut = n > room ? n - room + 3 : 0; /* the end of a long path says more than its beginning */
    if (cut) memcpy(map->name, "...", 3);
    lp_show(map->name + (cut ? 3 : 0), sizeof map->name - (cut ? 3 : 0), name + cut, n - cut);
}

void lp_map_close(lp_map *map) {
    if (map->kind == LP_MAP_MAPPED && map->bytes) munmap((void *)map->bytes, map->n_bytes);
    if (map->kind == LP_MAP_READ) free((void *)map->bytes);
    if (map->fd >= 0) close(map->fd);
    map->bytes = NULL;
    map->n_bytes = 0;
    map->fd = -1;
}

/* strerror is not thread-safe. */
static int fail_system(const lp_map *map, const char *what, lp_error *err) {
    char reason[128];
    int number = errno;
    if (strerror_r(number, reason, sizeof reason)) snprintf(reason, sizeof reason, "error %d", number);
    lp_fail(err, number == ENOMEM ? LP_ENOMEM : LP_EIO, "%s: cannot %s: %s", map->name, what, reason);
    if (err) err->number = number;
    return -1;
}

static const char *kind_of_file(mode_t mode) {
    return S_ISDIR(mode)    ? "a folder"
           : S_ISFIFO(mode) ? "a named pipe"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
                            : "something else";
}

static lp_file_id file_id(const struct stat *st) {
#if defined(__APPLE__)
    struct timespec written = st->st_mtimespec;
#else
    struct timespec written = st->st_mtim;
#endif
    return (lp_file_id){.device = (uint64_t)st->st_dev,
                        .inode = st->st_ino,
                        .size = st->st_size,
                        .seconds = written.tv_sec,
                        .nanoseconds = written.tv_nsec};
}

static int read_pieces(const lp_map *map, void *dst, size_t offset, size_t n, const lp_map_reading *reading,
                       lp_error *err) {
    for (size_t done = 0; done < n;) {
        size_t want = lp_size_min(n - done, PIECE_BYTES);
        if (reading->poll && reading->poll(reading->poll_arg))
            return lp_fail(err, LP_ECANCELED, "%s: stopped after %zu of %zu bytes", map->name, done, n);
        ssize_t got = pread(map->fd, (char *)dst + done, want, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_system(map, "read", err);
        if (got == 0)
            return lp_fail(err, LP_ECHANGED, "%s: the file became shorter while it was read: %zu bytes, now %zu",
                           map->name, map->n_bytes, offset + done);
        done += (size_t)got;
    }
    return 0;
}

int lp_map_read(const lp_map *map, void *dst, size_t offset, size_t n, lp_error *err) {
    if (map->fd >= 0) return read_pieces(map, dst, offset, n, &no_limits, err);
    memcpy(dst, map->bytes + offset, n);
    return 0;
}

int lp_map_is_lfs_pointer(const lp_map *map) {
    static const char first[] = "version https://git-lfs";
    char bytes[sizeof first - 1];
    return map->n_bytes >= sizeof bytes && !lp_map_read(map, bytes, 0, sizeof bytes, NULL) &&
           !memcmp(bytes, first, sizeof bytes);
}

int lp_map_check_unchanged(const lp_map *map, lp_error *err) {
    struct stat st;
    const lp_file_id *then = &map->opened;
    if (map->fd < 0) return 0;
    if (fstat(map->fd, &st)) return fail_system(map, "look at the file", err);
    lp_file_id now = file_id(&st);
    if (now.device == then->device && now.inode == then->inode && now.size == then->size &&
        now.seconds == then->seconds && now.nanoseconds == then->nanoseconds)
        return 0;
    return lp_fail(err, LP_ECHANGED, "%s: written to since it was opened (%lld bytes then, %lld now); load it again",
                   map->name, (long long)then->size, (long long)now.size);
}

static int map_file(lp_map *map, lp_error *err) {
    if (map->n_bytes == 0) return 0; /* an empty map is an error of mmap */
    void *bytes = mmap(NULL, map->n_bytes, PROT_READ, MAP_PRIVATE, map->fd, 0);
    if (bytes == MAP_FAILED) return fail_system(map, "map (reading with mmap=False may work)", err);
    map->bytes = bytes;
    return 0;
}

static int read_file(lp_map *map, const lp_map_reading *reading, lp_error *err) {
    if (map->n_bytes > reading->max_bytes)
        return lp_fail(err, LP_ENOMEM, "%s: has %zu bytes and %zu are free; mapped (mmap=True) it takes none",
                       map->name, map->n_bytes, reading->max_bytes);
    unsigned char *bytes = malloc(map->n_bytes + 1);
    if (!bytes) return lp_fail(err, LP_ENOMEM, "%s: no memory to read its %zu bytes", map->name, map->n_bytes);
    map->bytes = bytes;
    if (read_pieces(map, bytes, 0, map->n_bytes, reading, err) || lp_map_check_unchanged(map, err)) return -1;
    close(map->fd);
    map->fd = -1;
    return 0;
}

int lp_map_open(lp_map *map, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err) {
    struct stat st;
    lp_map_borrow(map, path, NULL, 0);
    map->kind = reading ? LP_MAP_READ : LP_MAP_MAPPED;
    do map->fd = openat(dir_fd < 0 ? AT_FDCWD : dir_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    while (map->fd < 0 && errno == EINTR);
    if (map->fd < 0) return fail_system(map, "open", err);
    if (fstat(map->fd, &st)) {
        fail_system(map, "look at the file", err);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        lp_fail(err, LP_EIO, "%s: is %s, not a regular file", map->name, kind_of_file(st.st_mode));
        if (err) err->number = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
        goto fail;
    }
    map->n_bytes = (size_t)st.st_size;
    map->opened = file_id(&st);
    if (reading ? read_file(map, reading, err) : map_file(map, err)) goto fail;
    return 0;
fail:
    lp_map_close(map);
    return -1;
}
