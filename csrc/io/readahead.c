/* readahead.c - a thread that reads the pages of a mapping, group by group.
 *
 * lp_pages_read waits for the disk instead of a worker, maps what it read, and fails where a touch would raise SIGBUS.
 * With huge pages, where the file system has them, cold files are read twice as fast, and mapped at once in this
 * process and the next. */
#include "readahead.h"

#include <stdlib.h>

#include "../base/size.h"  /* lp_size_min */
#include "../sys/pages.h"  /* lp_page_is_cold, lp_pages_read */
#include "../sys/thread.h" /* lp_thread */

#define PIECE ((size_t)2 << 20) /* bytes checked by two pages, and read by one call */
#define PROBE ((size_t)16 << 20)

struct lp_readahead {
    const lp_weight *const *weights;
    const size_t *end; /* of each group among them */
    size_t n_groups;
    atomic_int stop;
    atomic_uint n_allowed; /* groups that may be read */
    lp_thread thread;
};

/* By its first page and its last. */
static int is_cold(const char *data, size_t n_bytes) {
    return lp_page_is_cold(data) || lp_page_is_cold(data + n_bytes - 1);
}

static void read_weight(lp_readahead *a, const lp_weight *w) {
    lp_range ranges[LP_N_ROLES];
    for (size_t n_ranges = lp_weight_ranges(w, 0, w->n_rows, ranges), i = 0; i < n_ranges; i++)
        for (size_t at = 0; at < ranges[i].n_bytes && !atomic_load(&a->stop); at += PIECE) {
            size_t n = lp_size_min(PIECE, ranges[i].n_bytes - at);
            if (is_cold(ranges[i].data + at, n)) lp_pages_read(ranges[i].data + at, n);
        }
}

static void *read_groups(void *arg) {
    lp_readahead *a = arg;
    for (size_t group = 0, i = 0; group < a->n_groups && !atomic_load(&a->stop); group++) {
        for (unsigned n; (n = atomic_load(&a->n_allowed)) <= group;) lp_thread_sleep(&a->n_allowed, n);
        for (; i < a->end[group]; i++) read_weight(a, a->weights[i]);
    }
    return NULL;
}

/* The largest part of a weight: its values or codes. */
static lp_range codes_of(const lp_weight *w) {
    lp_range ranges[LP_N_ROLES];
    lp_weight_ranges(w, 0, w->n_rows, ranges);
    return ranges[0];
}

/* One page in PROBE bytes: a piece that is missed is read when it is touched. */
static int any_cold(const lp_weight *const *weights, size_t n) {
    for (size_t i = 0; i < n; i++) {
        lp_range codes = codes_of(weights[i]);
        for (size_t at = 0; at < codes.n_bytes; at += PROBE)
            if (lp_page_is_cold(codes.data + at)) return 1;
    }
    return 0;
}

lp_readahead *lp_readahead_start(const lp_weight *const *weights, const size_t *end, size_t n_groups) {
    size_t n_weights = n_groups ? end[n_groups - 1] : 0;
    if (!any_cold(weights, n_weights)) return NULL;
    /* Before the pass begins: it may overtake the thread. Each range becomes a mapping of its own, of which a process
     * may have some 65,000: one per matrix. */
    for (size_t i = 0; i < n_weights; i++) {
        lp_range codes = codes_of(weights[i]);
        lp_pages_use_huge(codes.data, codes.n_bytes);
    }
    lp_readahead *a = malloc(sizeof *a);
    if (!a) return NULL;
    *a =
        (lp_readahead){.weights = weights, .end = end, .n_groups = n_groups, .n_allowed = 1}; /* the pass allows more */
    if (!lp_thread_start(&a->thread, read_groups, a)) return a;
    free(a);
    return NULL;
}

void lp_readahead_advance(lp_readahead *a) {
    if (!a) return;
    atomic_fetch_add(&a->n_allowed, 1);
    lp_thread_wake(&a->n_allowed);
}

void lp_readahead_stop(lp_readahead *a) {
    if (!a) return;
    atomic_store(&a->stop, 1);
    lp_readahead_advance(a);
    lp_thread_join(&a->thread);
    free(a);
}

void lp_readahead_rows(const lp_weight *embed, const int32_t *token_ids, size_t n_tokens) {
    lp_range ranges[LP_N_ROLES];
    for (size_t i = 0; i < n_tokens; i++) {
        lp_weight_ranges(embed, (size_t)token_ids[i], 1, ranges);
        if (is_cold(ranges[0].data, ranges[0].n_bytes)) lp_pages_prefetch(ranges[0].data, ranges[0].n_bytes);
    }
}
