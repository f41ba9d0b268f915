/* map.h - the bytes of one regular file: mapped, or read into memory.
 *
 * A mapped file keeps its descriptor, to check later that it is still the file that was opened. The map is private and
 * read-only. When another program truncates the file, touching the lost pages raises SIGBUS: lp_map_read does not touch
 * the map, and lp_map_check_unchanged notices beforehand; a file that was read is not affected. A file replaced by
 * rename stays valid, since the map holds the old one.
 *
 * Everything but a regular file is refused: folders, pipes, sockets and devices, without waiting on any. */
#ifndef LP_MAP_H
#define LP_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h" /* lp_error */

typedef enum { LP_MAP_BORROWED, LP_MAP_MAPPED, LP_MAP_READ } lp_map_kind;

/* Changes when the file is written. */
typedef struct {
    uint64_t device, inode;
    int64_t size, seconds, nanoseconds; /* the time is that of the last write */
} lp_file_id;

typedef struct {
    const unsigned char *bytes; /* [n_bytes]; NULL for an empty file */
    size_t n_bytes;
    lp_map_kind kind;
    int fd;            /* of a mapped file; else -1 */
    lp_file_id opened; /* of a mapped file: what it was when it was opened */
    char name[200];    /* the path, made safe to print */
} lp_map;

/* Limits of reading a whole file into memory. */
typedef struct {
    size_t max_bytes;       /* a larger file is LP_ENOMEM before anything is allocated */
    int (*poll)(void *arg); /* called between pieces of some MB; not 0 is LP_ECANCELED; may be NULL */
    void *poll_arg;
} lp_map_reading;

/* Maps the file, or reads it within limits if `reading` is not NULL. `path` is relative to the folder with descriptor
 * dir_fd; negative: the current one. LP_EIO, LP_ENOMEM, LP_ECANCELED; LP_ECHANGED when the file changed while it was
 * read. On failure the map is closed. */
int lp_map_open(lp_map *map, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err);
/* The caller keeps the bytes until the map is closed. */
void lp_map_borrow(lp_map *map, const char *name, const unsigned char *bytes, size_t n_bytes);
void lp_map_close(lp_map *map); /* closing twice is legal */

/* Copies bytes offset .. offset + n, which must lie in the file, by reading the file and not the map. LP_EIO;
 * LP_ECHANGED when the file has become shorter. */
int lp_map_read(const lp_map *map, void *dst, size_t offset, size_t n, lp_error *err);

/* Whether it is the text that Git checks out in place of a large file if Git LFS is not installed. */
int lp_map_is_lfs_pointer(const lp_map *map);

/* LP_ECHANGED when device, inode, size or time of the last write differ from what they were at open. Nothing to
 * check, and so always 0, for a file that was read and for borrowed bytes. */
int lp_map_check_unchanged(const lp_map *map, lp_error *err);

#endif
