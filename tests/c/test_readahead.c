/* test_readahead.c - cold pages are read one layer ahead, and no further. */
#define _GNU_SOURCE
#include "../../csrc/io/readahead.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../csrc/io/map.h"
#include "check.h"

#define ROW 1024 /* bf16 words */
#define ROWS 2048
#define MATRIX ((size_t)ROW * ROWS * 2) /* 4 MiB */
#define LAYER (7 * MATRIX)
#define N_LAYERS 3
#define FILE_BYTES (N_LAYERS * LAYER + 4 * MATRIX) /* the head, which is the embedding too, comes last */

static lp_map map;
static lp_weight matrices[7 * N_LAYERS + 1];
static const lp_weight *weights[7 * N_LAYERS + 1];
static const size_t ends[] = {7, 14, 21, 22}; /* the layers, and the head */
static const lp_weight *const head = &matrices[7 * N_LAYERS];

static lp_weight matrix_at(size_t offset, size_t n) {
    return (lp_weight){map.bytes + offset, LP_ELEMENT_BF16, n * ROWS, ROW, 0, NULL};
}

#if defined(__linux__)
#define ADVISE(fd, advice) posix_fadvise(fd, 0, 0, advice)
#else
#define ADVISE(fd, advice) (void)(fd)
#endif
#if !defined(MADV_HUGEPAGE)
#define MADV_HUGEPAGE (-1) /* unknown advice fails */
#endif

static void set_weights(void) {
    for (size_t i = 0; i < 7 * N_LAYERS; i++) matrices[i] = matrix_at(i * MATRIX, 1);
    matrices[7 * N_LAYERS] = matrix_at(N_LAYERS * LAYER, 4);
    for (size_t i = 0; i <= 7 * N_LAYERS; i++) weights[i] = &matrices[i];
}

/* A file of real blocks, out of the page cache, mapped. -1 when it stays there. */
static int make_cold_file(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    char *bytes = malloc(MATRIX);
    lp_error err;
    CHECK(fd >= 0 && bytes != NULL);
    memset(bytes, 7, MATRIX);
    for (size_t at = 0; at < FILE_BYTES; at += MATRIX) CHECK(write(fd, bytes, MATRIX) == (ssize_t)MATRIX);
    free(bytes);
    CHECK(fsync(fd) == 0);
    ADVISE(fd, POSIX_FADV_DONTNEED);
    close(fd);
    CHECK(lp_map_open(&map, AT_FDCWD, path, NULL, &err) == 0);
    set_weights();
    unsigned char first = 1;
    mincore((void *)map.bytes, 1, (void *)&first);
    return first & 1 ? -1 : 0;
}

static size_t resident_pages(size_t offset, size_t n_bytes) {
    static unsigned char page[FILE_BYTES / 4096];
    size_t n = n_bytes / (size_t)sysconf(_SC_PAGESIZE), count = 0;
    if (mincore((void *)(map.bytes + offset), n_bytes, (void *)page)) return 0;
    for (size_t i = 0; i < n; i++) count += page[i] & 1;
    return count;
}

static int becomes_resident(size_t offset, size_t n_bytes) {
    struct timespec pause = {0, 5000000};
    for (int i = 0; i < 4000; i++, nanosleep(&pause, NULL))
        if (resident_pages(offset, n_bytes) == n_bytes / (size_t)sysconf(_SC_PAGESIZE)) return 1;
    return 0;
}

static void test_layer_by_layer(void) {
    lp_readahead *ahead = lp_readahead_start(weights, ends, N_LAYERS);
    struct timespec pause = {0, 50000000};
    CHECK(ahead != NULL);
    CHECK(becomes_resident(0, LAYER)); /* without touching the map */
    nanosleep(&pause, NULL);
    CHECK(resident_pages(2 * LAYER - MATRIX, MATRIX) == 0);
    lp_readahead_advance(ahead); /* the pass is in the first layer */
    CHECK(becomes_resident(LAYER, LAYER));
    nanosleep(&pause, NULL);
    CHECK(resident_pages(3 * LAYER - MATRIX, MATRIX) == 0);
    lp_readahead_stop(ahead);
    CHECK(lp_readahead_start(weights, ends, 2) == NULL); /* nothing of these is cold */
}

static void test_rows_alone(void) {
    size_t row = ROW * 2, page = (size_t)sysconf(_SC_PAGESIZE), embed = N_LAYERS * LAYER;
    const int32_t ids[] = {4 * ROWS - 1, 3 * ROWS};
    lp_readahead_rows(head, ids, 2);
    CHECK(becomes_resident(embed + ids[0] * row / page * page, page));
    CHECK(becomes_resident(embed + ids[1] * row / page * page, page));
    CHECK(resident_pages(embed, MATRIX) == 0);
}

static void test_stop_at_once(void) {
    lp_readahead *ahead = lp_readahead_start(weights, ends, N_LAYERS + 1);
    CHECK(ahead != NULL);
    lp_readahead_stop(ahead);
    lp_readahead_advance(NULL);
    lp_readahead_stop(NULL);
}

static void test_head(void) {
    lp_readahead *ahead = lp_readahead_start(weights, ends, N_LAYERS + 1);
    CHECK(ahead != NULL);
    for (int i = 0; i < N_LAYERS; i++) lp_readahead_advance(ahead);
    CHECK(becomes_resident(0, FILE_BYTES));
    lp_readahead_stop(ahead);
    CHECK(lp_readahead_start(weights, ends, N_LAYERS + 1) == NULL);
}

/* Whether huge pages are advised where the byte at `at` is mapped. */
static int is_advised(const void *at) {
    char line[512], *flags;
    int inside = 0, advised = 0;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long start, end, here = (uintptr_t)at;
        if (sscanf(line, "%llx-%llx ", &start, &end) == 2) inside = start <= here && here < end;
        flags = strstr(line, "VmFlags:");
        if (inside && flags) advised = strstr(flags, " hg") != NULL;
    }
    if (f) fclose(f);
    return advised;
}

/* The pass may overtake the thread, so the last layer is advised before the first one is read. */
static void test_huge_pages(void) {
    void *any = mmap(NULL, MATRIX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int known = madvise(any, MATRIX, MADV_HUGEPAGE) == 0;
    lp_readahead *ahead = lp_readahead_start(weights, ends, N_LAYERS);
    CHECK(ahead != NULL);
    CHECK(!known || is_advised((const char *)matrices[7 * N_LAYERS - 1].data + MATRIX / 2));
    CHECK(!is_advised((const char *)head->data + MATRIX)); /* rows here and there are read */
    lp_readahead_stop(ahead);
    munmap(any, MATRIX);
}

/* Mappings of the process that the map of the file consists of. */
static size_t n_mappings(void) {
    char line[512];
    size_t n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long start, end, from = (uintptr_t)map.bytes;
        n += sscanf(line, "%llx-%llx", &start, &end) == 2 && start < from + FILE_BYTES && end > from;
    }
    if (f) fclose(f);
    return n;
}

/* Cold and warm in turn, as after others have used a part of the memory: a process has some 65,000 mappings. */
static void test_few_mappings(void) {
    char *bytes = malloc(MATRIX / 2);
    CHECK(bytes && n_mappings() == 1);
    ADVISE(map.fd, POSIX_FADV_RANDOM); /* read only what is requested */
    for (size_t at = MATRIX / 2; bytes && at < FILE_BYTES; at += MATRIX)
        CHECK(pread(map.fd, bytes, MATRIX / 2, (off_t)at) == (ssize_t)(MATRIX / 2));
    const lp_weight *const alone[] = {head};
    const size_t end = 1;
    lp_readahead *ahead = lp_readahead_start(alone, &end, 1); /* the head alone: four matrices in one */
    CHECK(ahead != NULL);
    (void)becomes_resident(N_LAYERS * LAYER, 4 * MATRIX); /* time for the thread: a busy system may drop pages again */
    CHECK(n_mappings() <= 3);
    lp_readahead_stop(ahead);
    free(bytes);
}

int main(void) {
    char path[] = "readahead.XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    int cached = make_cold_file(path) || getenv("EMULATED"); /* user-mode QEMU 7 takes no advice on memory */
    if (cached) fprintf(stderr, "not run: this system keeps the file in memory, or ignores advice\n");
    if (!cached) {
        test_layer_by_layer();
        test_rows_alone();
        test_stop_at_once();
        test_head();
        lp_map_close(&map);
        if (!make_cold_file(path)) test_few_mappings();
        lp_map_close(&map);
        if (!make_cold_file(path)) test_huge_pages();
    }
    lp_map_close(&map);
    unlink(path);
    return CHECK_REPORT();
}
