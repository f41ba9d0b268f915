/* test_map.c - only regular files are opened, without waiting, and changes of a file are noticed.
 *
 * Link with -Wl,--wrap=fstat,--wrap=pread,--wrap=mmap,--wrap=malloc: the wrappers below let a call fail once. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE /* mkdtemp */
#include "../../csrc/io/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "systems.h"

static lp_error err;
static char dir[] = "/tmp/llamaprobe_test_XXXXXX";
static int dir_fd;

/* ---------------------------------------------------------------- calls that fail */

int __real_fstat(int fd, struct stat *st) REAL(fstat);
ssize_t __real_pread(int fd, void *dst, size_t n, off_t offset) REAL(pread);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) REAL(mmap);
void *__real_malloc(size_t n) REAL(malloc);
int __wrap_fstat(int fd, struct stat *st);
ssize_t __wrap_pread(int fd, void *dst, size_t n, off_t offset);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);

static int fstat_errno, pread_errno, mmap_errno, malloc_fails; /* 0: the call does its work; else it fails once */
static size_t pread_most = (size_t)-1;                         /* so much in one call */
static int n_preads;

static int fails_once(int *how) {
    errno = *how;
    *how = 0;
    return errno != 0;
}

int __wrap_fstat(int fd, struct stat *st) { return fails_once(&fstat_errno) ? -1 : __real_fstat(fd, st); }

ssize_t __wrap_pread(int fd, void *dst, size_t n, off_t offset) {
    n_preads++;
    return fails_once(&pread_errno) ? -1 : __real_pread(fd, dst, n < pread_most ? n : pread_most, offset);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
    CHECK(prot == PROT_READ && flags == MAP_PRIVATE);
    return fails_once(&mmap_errno) ? MAP_FAILED : __real_mmap(at, n, prot, flags, fd, offset);
}

void *__wrap_malloc(size_t n) { return malloc_fails && malloc_fails-- ? NULL : __real_malloc(n); }

/* ---------------------------------------------------------------- files */

static void write_file(const char *name, const char *text) {
    int fd = openat(dir_fd, name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static int open_map(lp_map *map, const char *name, int use_mmap) {
    err = (lp_error){0};
    return lp_map_open(map, dir_fd, name, use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1}, &err);
}

/* Refused as the system's fault, in a message that begins with the name and says what it is. */
static int is_refused(const char *name, lp_status status, const char *expected) {
    int good = 1;
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        lp_map map;
        good &= open_map(&map, name, use_mmap) == -1 && err.status == status && strstr(err.msg, expected) != NULL &&
                strncmp(err.msg, name, strlen(name)) == 0 && !map.bytes && map.fd == -1;
        lp_map_close(&map);
    }
    if (!good) printf("%s: expected \"%s\", got: %s\n", name, expected, err.msg);
    return good;
}

static int n_open_files(void) {
    int n = 0;
    for (int fd = 0; fd < 200; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_bytes_of_a_file(void) {
    write_file("f", "hello");
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        lp_map map;
        char part[4] = "";
        CHECK(open_map(&map, "f", use_mmap) == 0);
        CHECK(map.n_bytes == 5 && memcmp(map.bytes, "hello", 5) == 0 && strcmp(map.name, "f") == 0);
        CHECK((map.fd >= 0) == use_mmap && map.kind == (use_mmap ? LP_MAP_MAPPED : LP_MAP_READ));
        CHECK(lp_map_read(&map, part, 1, 3, &err) == 0 && strcmp(part, "ell") == 0);
        CHECK(lp_map_read(&map, part, 5, 0, &err) == 0);
        CHECK(lp_map_check_unchanged(&map, &err) == 0);
        lp_map_close(&map);
        lp_map_close(&map);
        CHECK(!map.bytes && map.n_bytes == 0 && map.fd == -1);
    }
}

static void test_an_empty_file(void) {
    write_file("empty", "");
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        lp_map map;
        CHECK(open_map(&map, "empty", use_mmap) == 0 && map.n_bytes == 0);
        CHECK(lp_map_check_unchanged(&map, &err) == 0);
        lp_map_close(&map);
    }
}

static void test_borrowed_bytes(void) {
    lp_map map;
    char part[3] = "";
    lp_map_borrow(&map, "m\nemory", (const unsigned char *)"hello", 5);
    CHECK(map.n_bytes == 5 && strcmp(map.name, "m\\x0aemory") == 0);
    CHECK(lp_map_read(&map, part, 3, 2, NULL) == 0 && strcmp(part, "lo") == 0);
    CHECK(lp_map_check_unchanged(&map, NULL) == 0);
    lp_map_close(&map);
}

static void test_long_paths_keep_their_end(void) {
    char path[1000];
    lp_map map;
    for (size_t n = sizeof map.name - 3; n < sizeof map.name + 3; n++) {
        memset(path, 'd', n);
        strcpy(path + n - 6, "/model");
        lp_map_borrow(&map, path, NULL, 0);
        size_t n_name = strlen(map.name);
        CHECK(n_name < sizeof map.name && strcmp(map.name + n_name - 6, "/model") == 0);
        CHECK(strncmp(map.name, n < sizeof map.name ? "ddd" : "...", 3) == 0);
        lp_map_close(&map);
    }
}

static void test_other_than_regular_files(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int before = n_open_files();
    CHECK(mkdirat(dir_fd, "folder", 0700) == 0 && mkfifoat(dir_fd, "pipe", 0600) == 0);
    CHECK(symlinkat("nowhere", dir_fd, "dangling") == 0 && symlinkat("loop", dir_fd, "loop") == 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(is_refused("folder", LP_EIO, "is a folder, not a regular file"));
    CHECK(is_refused("pipe", LP_EIO, "is a named pipe, not a regular file"));
    CHECK(is_refused("socket", LP_EIO, "cannot open: "));
    CHECK(is_refused("dangling", LP_EIO, "cannot open: "));
    CHECK(is_refused("loop", LP_EIO, "cannot open: "));
    CHECK(is_refused("missing", LP_EIO, "cannot open: "));
    CHECK(is_refused("", LP_EIO, "cannot open: "));
    CHECK(is_refused("/dev/zero", LP_EIO, "is a character device, not a regular file"));
    CHECK(is_refused("/dev/null", LP_EIO, "is a character device, not a regular file"));
    close(fd);
    CHECK(n_open_files() == before);
    unlinkat(dir_fd, "folder", AT_REMOVEDIR);
}

static void test_links_are_followed(void) {
    lp_map map;
    CHECK(symlinkat("f", dir_fd, "link") == 0);
    CHECK(open_map(&map, "link", 1) == 0 && map.n_bytes == 5);
    lp_map_close(&map);
}

static void test_an_unreadable_file(void) {
    write_file("secret", "hello");
    CHECK(fchmodat(dir_fd, "secret", 0, 0) == 0);
    lp_map map;
    if (geteuid() == 0) { /* root may read everything */
        CHECK(open_map(&map, "secret", 1) == 0);
        lp_map_close(&map);
    } else {
        CHECK(is_refused("secret", LP_EIO, "cannot open: "));
    }
}

/* ---------------------------------------------------------------- files that change */

static int changed(lp_map *map) {
    err = (lp_error){0};
    int status = lp_map_check_unchanged(map, &err);
    CHECK(status == 0 || (err.status == LP_ECHANGED && strncmp(err.msg, map->name, strlen(map->name)) == 0));
    return status != 0;
}

static void test_changes_are_noticed(void) {
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        lp_map map;
        struct timespec times[2] = {{0, UTIME_OMIT}, {1000, 5}};
        write_file("f", "hello");
        CHECK(open_map(&map, "f", use_mmap) == 0 && !changed(&map));
        int fd = openat(dir_fd, "f", O_WRONLY | O_APPEND);
        CHECK(write(fd, "!", 1) == 1 && changed(&map) == use_mmap);
        if (use_mmap) CHECK(strstr(err.msg, "(5 bytes then, 6 now)") != NULL);
        lp_map_close(&map);
        CHECK(open_map(&map, "f", use_mmap) == 0 && !changed(&map) && map.n_bytes == 6);
        CHECK(ftruncate(fd, 3) == 0 && changed(&map) == use_mmap);
        lp_map_close(&map);
        CHECK(open_map(&map, "f", use_mmap) == 0 && !changed(&map) && map.n_bytes == 3);
        CHECK(futimens(fd, times) == 0 && changed(&map) == use_mmap);
        lp_map_close(&map);
        CHECK(open_map(&map, "f", use_mmap) == 0 && !changed(&map));
        times[1].tv_nsec = 6;
        CHECK(futimens(fd, times) == 0 && changed(&map) == use_mmap);
        lp_map_close(&map);
        close(fd);
    }
}

static void test_a_replaced_file_stays_valid(void) {
    lp_map map;
    write_file("f", "hello");
    write_file("g", "other bytes");
    CHECK(open_map(&map, "f", 1) == 0);
    CHECK(renameat(dir_fd, "g", dir_fd, "f") == 0);
    CHECK(!changed(&map) && memcmp(map.bytes, "hello", 5) == 0);
    CHECK(unlinkat(dir_fd, "f", 0) == 0);
    CHECK(!changed(&map) && memcmp(map.bytes, "hello", 5) == 0);
    lp_map_close(&map);
}

static void test_a_file_cut_under_the_map(void) {
    lp_map map;
    char part[5];
    write_file("f", "hello");
    CHECK(open_map(&map, "f", 1) == 0);
    int fd = openat(dir_fd, "f", O_WRONLY);
    CHECK(ftruncate(fd, 2) == 0);
    CHECK(lp_map_read(&map, part, 0, 5, &err) == -1 && err.status == LP_ECHANGED);
    CHECK(strstr(err.msg, "shorter while it was read: 5 bytes, now 2") != NULL);
    close(fd);
    lp_map_close(&map);
}

/* ---------------------------------------------------------------- a system that fails */

static void test_failing_calls(void) {
    lp_map map;
    int before = n_open_files();
    write_file("f", "hello");
    fstat_errno = EIO;
    CHECK(open_map(&map, "f", 1) == -1 && err.status == LP_EIO && strstr(err.msg, strerror(EIO)));
    mmap_errno = ENODEV;
    CHECK(open_map(&map, "f", 1) == -1 && err.status == LP_EIO && strstr(err.msg, "mmap=False"));
    mmap_errno = ENOMEM;
    CHECK(open_map(&map, "f", 1) == -1 && err.status == LP_ENOMEM && !map.bytes);
    pread_errno = EIO;
    CHECK(open_map(&map, "f", 0) == -1 && err.status == LP_EIO && strstr(err.msg, "cannot read"));
    malloc_fails = 1;
    CHECK(open_map(&map, "f", 0) == -1 && err.status == LP_ENOMEM && strstr(err.msg, "5 bytes"));
    CHECK(n_open_files() == before);
    CHECK(open_map(&map, "f", 1) == 0);
    fstat_errno = ESTALE;
    CHECK(lp_map_check_unchanged(&map, &err) == -1 && err.status == LP_EIO);
    lp_map_close(&map);
    CHECK(n_open_files() == before);
}

static void test_interrupted_and_short_reads(void) {
    lp_map map;
    write_file("f", "hello");
    pread_errno = EINTR;
    pread_most = 2;
    n_preads = 0;
    CHECK(open_map(&map, "f", 0) == 0 && memcmp(map.bytes, "hello", 5) == 0 && n_preads == 4);
    pread_most = (size_t)-1;
    lp_map_close(&map);
}

/* Counts down; the poll that finds 1 says stop. */
static int count_down(void *left) { return --*(int *)left == 0; }

static void test_copies_within_limits(void) {
    lp_map map;
    int before = n_open_files(), left = 0;
    lp_map_reading how = {.max_bytes = 5, .poll = count_down, .poll_arg = &left};
    write_file("f", "hello");
    CHECK(lp_map_open(&map, dir_fd, "f", &how, &err) == 0 && memcmp(map.bytes, "hello", 5) == 0 && left == -1);
    lp_map_close(&map);
    how.max_bytes = 4;
    malloc_fails = 1; /* and stays so: nothing is allocated */
    CHECK(lp_map_open(&map, dir_fd, "f", &how, &err) == -1 && err.status == LP_ENOMEM);
    CHECK(strstr(err.msg, "has 5 bytes and 4 are free") && malloc_fails == 1);
    malloc_fails = 0;
    how.max_bytes = 5;
    pread_most = 2;
    left = 3;
    CHECK(lp_map_open(&map, dir_fd, "f", &how, &err) == -1 && err.status == LP_ECANCELED && !map.bytes);
    CHECK(strstr(err.msg, "stopped after 4 of 5 bytes"));
    pread_most = (size_t)-1;
    CHECK(n_open_files() == before);
}

int main(void) {
    if (!HAS_WRAP) return not_run("the linker cannot replace functions");
    CHECK(mkdtemp(dir) != NULL);
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    test_bytes_of_a_file();
    test_an_empty_file();
    test_borrowed_bytes();
    test_long_paths_keep_their_end();
    test_other_than_regular_files();
    test_links_are_followed();
    test_an_unreadable_file();
    test_changes_are_noticed();
    test_a_replaced_file_stays_valid();
    test_a_file_cut_under_the_map();
    test_failing_calls();
    test_interrupted_and_short_reads();
    test_copies_within_limits();
    static const char *const left[] = {"f", "empty", "pipe", "socket", "dangling", "loop", "link", "secret"};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) unlinkat(dir_fd, left[i], 0);
    close(dir_fd);
    CHECK(rmdir(dir) == 0);
    return CHECK_REPORT();
}
