/* tally.c - sums and counts per sign and exponent, and their addition to wide integers. */
#include "tally.h"

#include <stdlib.h>
#include <string.h>

const size_t lp_sum_limbs[LP_N_SUMS] = {6, 6, 10, 14, 19};

static inline void add_one(lp_tally *t, lp_binade *binades, uint32_t x, const int moments, const int histogram) {
    uint32_t page = x >> 23;
    t->used[page] = 1;
    if (histogram) t->count[x >> 19]++;
    if (!moments) return;
    uint64_t m = (x & 0x7fffff) | (uint64_t)((page & 255) != 0) << 23, m2 = m * m;
    lp_binade *b = &binades[page];
    b->m1 += m;
    b->m2 += m2;
    b->m3 += (lp_u128)m2 * m;
    b->m4 += (lp_u128)m2 * m2;
}

static inline void add(lp_tally *t, const uint32_t *x, size_t n, const int moments, const int histogram) {
    size_t i = 0;
    for (; i + 1 < n; i += 2) {
        add_one(t, t->binade[0], x[i], moments, histogram);
        add_one(t, t->binade[1], x[i + 1], moments, histogram);
    }
    if (i < n) add_one(t, t->binade[0], x[i], moments, histogram);
}

void lp_tally_add(lp_tally *t, const uint32_t *x, size_t n, int moments, int histogram) {
    if (moments && histogram)
        add(t, x, n, 1, 1);
    else if (moments)
        add(t, x, n, 1, 0);
    else if (histogram)
        add(t, x, n, 0, 1);
}

void lp_limbs_add(uint64_t *limbs, size_t n, lp_u128 value, size_t shift, int negative) {
    size_t at = shift / 64, bits = shift % 64;
    lp_u128 low = value << bits;
    uint64_t part[3] = {(uint64_t)low, (uint64_t)(low >> 64), bits ? (uint64_t)(value >> (128 - bits)) : 0};
    unsigned carry = 0;
    for (size_t i = at; i < n && (i < at + 3 || carry); i++) {
        uint64_t p = i < at + 3 ? part[i - at] : 0, old = limbs[i];
        uint64_t sum = negative ? old - p : old + p;
        unsigned over = negative ? sum > old : sum < old;
        limbs[i] = negative ? sum - carry : sum + carry;
        over |= negative ? limbs[i] > sum : limbs[i] < sum;
        carry = over;
    }
}

static void flush_binade(const lp_tally *t, uint32_t page, uint64_t *sums) {
    const lp_binade *a = &t->binade[0][page], *b = &t->binade[1][page];
    size_t exponent = page & 255, e = exponent ? exponent - 1 : 0;
    int negative = page >> 8;
    const lp_u128 values[LP_N_SUMS] = {a->m1 + b->m1, a->m1 + b->m1, a->m2 + b->m2, a->m3 + b->m3, a->m4 + b->m4};
    static const size_t powers[LP_N_SUMS] = {1, 1, 2, 3, 4};
    static const int is_signed[LP_N_SUMS] = {0, 1, 0, 1, 0};
    for (size_t i = 0; i < LP_N_SUMS; sums += lp_sum_limbs[i++])
        lp_limbs_add(sums, lp_sum_limbs[i], values[i], powers[i] * e, negative && is_signed[i]);
}

/* Inserts an empty page at index `at`. NULL: out of memory. */
static lp_page *insert_page(lp_histogram *h, uint32_t at, uint32_t id) {
    if (h->n == h->capacity) {
        uint32_t capacity = h->capacity + h->capacity / 2 + 8;
        lp_page *pages = realloc(h->pages, capacity * sizeof *pages);
        if (!pages) return NULL;
        h->pages = pages, h->capacity = capacity;
    }
    memmove(h->pages + at + 1, h->pages + at, (h->n++ - at) * sizeof *h->pages);
    h->pages[at] = (lp_page){.id = id};
    return &h->pages[at];
}

int lp_tally_flush(lp_tally *t, uint64_t *sums, lp_histogram *histogram) {
    uint32_t at = 0;
    int failed = 0;
    for (uint32_t eight = 0; eight < LP_N_PAGES; eight += 8) {
        uint64_t used;
        memcpy(&used, &t->used[eight], sizeof used);
        for (uint32_t page = eight; used && page < eight + 8; page++) {
            if (!t->used[page]) continue;
            t->used[page] = 0;
            if (sums) flush_binade(t, page, sums);
            t->binade[0][page] = t->binade[1][page] = (lp_binade){0};
            if (!histogram) continue;
            uint32_t *count = &t->count[page * LP_PAGE];
            while (at < histogram->n && histogram->pages[at].id < page) at++;
            lp_page *to = at < histogram->n && histogram->pages[at].id == page ? &histogram->pages[at]
                                                                               : insert_page(histogram, at, page);
            failed |= !to;
            for (size_t i = 0; i < LP_PAGE; i++) {
                if (to) to->count[i] += count[i];
                count[i] = 0;
            }
        }
    }
    return failed ? -1 : 0;
}
