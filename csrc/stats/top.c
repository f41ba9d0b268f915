/* top.c - a binary heap whose root is the smallest entry, the first to be replaced. */
#include "top.h"

#include <stdlib.h>

/* Negative if a comes before b among the largest. */
static int order(const void *left, const void *right) {
    const lp_top_entry *a = left, *b = right;
    if (a->key != b->key) return a->key > b->key ? -1 : 1;
    if (a->document != b->document) return a->document < b->document ? -1 : 1;
    if (a->start != b->start) return a->start < b->start ? -1 : 1;
    return (a->position > b->position) - (a->position < b->position);
}

static void swap(lp_top_entry *a, lp_top_entry *b) {
    lp_top_entry t = *a;
    *a = *b, *b = t;
}

static void sift_up(lp_top_entry *heap, size_t i) {
    for (; i && order(&heap[i], &heap[(i - 1) / 2]) > 0; i = (i - 1) / 2) swap(&heap[i], &heap[(i - 1) / 2]);
}

static void sift_down(lp_top_entry *heap, size_t n) {
    for (size_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && order(&heap[child + 1], &heap[child]) > 0) child++;
        if (order(&heap[child], &heap[i]) <= 0) return;
        swap(&heap[child], &heap[i]);
    }
}

void lp_top_put(lp_top_entry *heap, size_t *n, size_t k, const lp_top_entry *entry) {
    if (*n < k) {
        heap[*n] = *entry;
        sift_up(heap, (*n)++);
    } else if (order(entry, &heap[0]) < 0) {
        heap[0] = *entry;
        sift_down(heap, k);
    }
}

void lp_top_sort(lp_top_entry *heap, size_t n) { qsort(heap, n, sizeof *heap, order); }
