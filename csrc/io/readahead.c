/* readahead.c - a thread that populates the map, group by group.
 *
 * A cold group is read by MADV_POPULATE_READ: it waits for the disk instead of a worker, maps what it read, and
 * fails where a touch would raise SIGBUS. With MADV_HUGEPAGE the page cache is filled by huge pages where the file
 * system can: they are read twice as fast, and mapped at once in this process and the next. */
#define _GNU_SOURCE
#include "readahead.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../base/size.h" /* lp_size_min */

#define PIECE ((size_t)2 << 20) /* bytes: what is looked at by two pages, and read by one call */
#define LOOK ((size_t)16 << 20)

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* since Linux 5.14; an older one says EINVAL */
#endif

struct lp_readahead {
    const lp_weight *const *weights;
    const size_t *end; /* of each group among them */
    size_t n_groups;
    atomic_int stop;
    sem_t turns; /* one for each group that may be read */
    pthread_t thread;
    pid_t process; /* a forked child has no thread to wait for */
};

typedef struct {
    char *data;
    size_t n_bytes;
} range;

static uintptr_t page_bytes(void) { return (uintptr_t)sysconf(_SC_PAGESIZE); }

/* The pages that hold these bytes. */
static range pages_of(const void *data, size_t n_bytes) {
    uintptr_t page = page_bytes(), start = (uintptr_t)data / page * page;
    return (range){(char *)start, n_bytes + ((uintptr_t)data - start)};
}

static range pages_of_weight(const lp_weight *w) { return pages_of(lp_weight_at(w, 0, 0), lp_weight_bytes(w)); }

/* Where the system does not tell (a file of somebody else's) it says that all is resident. */
static int is_cold_page(const char *page) {
    unsigned char resident = 1;
    return mincore((void *)page, 1, &resident) == 0 && !(resident & 1);
}

/* By its first page and its last. */
static int is_cold(range r) {
    uintptr_t page = page_bytes();
    return is_cold_page(r.data) || is_cold_page(r.data + (r.n_bytes - 1) / page * page);
}

static range piece(range r, size_t at) { return (range){r.data + at, lp_size_min(PIECE, r.n_bytes - at)}; }

/* Whether a piece of the range is cold: the first from *at, which is moved there. */
static int find_cold(range r, size_t *at) {
    for (; *at < r.n_bytes; *at += PIECE)
        if (is_cold(piece(r, *at))) return 1;
    return 0;
}

static void populate(lp_readahead *a, range r) {
    for (size_t at = 0; !atomic_load(&a->stop) && find_cold(r, &at); at += PIECE) {
        range p = piece(r, at);
        if (madvise(p.data, p.n_bytes, MADV_POPULATE_READ)) madvise(p.data, p.n_bytes, MADV_WILLNEED);
    }
}

static void *read_groups(void *arg) {
    lp_readahead *a = arg;
    for (size_t group = 0, i = 0; group < a->n_groups && !atomic_load(&a->stop); group++) {
        while (sem_wait(&a->turns)) continue; /* interrupted */
        for (; i < a->end[group]; i++) populate(a, pages_of_weight(a->weights[i]));
    }
    return NULL;
}

static size_t n_weights(const lp_readahead *a) { return a->n_groups ? a->end[a->n_groups - 1] : 0; }

/* One look in LOOK bytes: a piece that is missed is read when it is touched. */
static int any_cold(const lp_readahead *a) {
    for (size_t i = 0; i < n_weights(a); i++) {
        range todo = pages_of_weight(a->weights[i]);
        for (size_t at = 0; at < todo.n_bytes; at += LOOK)
            if (is_cold_page(todo.data + at)) return 1;
    }
    return 0;
}

/* Before the pass begins: it may overtake the thread, and what it touches first is read by huge pages, too. Advice
 * makes what it is for a mapping of its own, of which a process has some 65,000: it is given for a matrix. */
static void advise_huge(const lp_readahead *a) {
    for (size_t i = 0; i < n_weights(a); i++) {
        range todo = pages_of_weight(a->weights[i]);
        madvise(todo.data, todo.n_bytes, MADV_HUGEPAGE);
    }
}

/* Signals are for the caller's threads. */
static int start_thread(lp_readahead *a) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&a->thread, NULL, read_groups, a);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return failed;
}

lp_readahead *lp_readahead_start(const lp_weight *const *weights, const size_t *end, size_t n_groups) {
    lp_readahead what = {.weights = weights, .end = end, .n_groups = n_groups, .process = getpid()};
    if (!any_cold(&what)) return NULL;
    advise_huge(&what);
    lp_readahead *a = malloc(sizeof *a);
    if (!a) return NULL;
    *a = what;
    sem_init(&a->turns, 0, 1); /* the first group; the pass allows the second when it begins with the first */
    if (!start_thread(a)) return a;
    sem_destroy(&a->turns);
    free(a);
    return NULL;
}

void lp_readahead_advance(lp_readahead *a) {
    if (a) sem_post(&a->turns);
}

void lp_readahead_stop(lp_readahead *a) {
    if (!a) return;
    atomic_store(&a->stop, 1);
    if (a->process == getpid()) {
        sem_post(&a->turns);
        pthread_join(a->thread, NULL);
        sem_destroy(&a->turns);
    }
    free(a);
}

void lp_readahead_rows(const lp_weight *embed, const int32_t *token_ids, size_t n_tokens) {
    for (size_t i = 0; i < n_tokens; i++) {
        range r =
            pages_of(lp_weight_at(embed, (size_t)token_ids[i], 0), embed->n_cols * lp_element_bytes(embed->element));
        if (is_cold(r)) madvise(r.data, r.n_bytes, MADV_WILLNEED);
    }
}
