/* read.c - cuts a text into parts for the pool; finds the first fault of a text that does not fit. */
#include "read.h"

#include <stdlib.h>
#include <string.h>

#include "pool.h" /* lp_pool_run */
#include "size.h" /* lp_size_mul */

#define MAX_PARTS 256
#define MIN_PART ((size_t)1 << 16) /* bytes: below this a thread costs more than it brings */

typedef struct {
    size_t start, end; /* in the text; end is behind a line feed, or the end of the text */
    size_t n_rows, first_row;
    lp_text_fault fault;
} part;

typedef struct {
    const lp_number_text *source;
    float *dst;
    size_t n_cols;
    part parts[MAX_PARTS];
} reading;

static size_t line_end(const lp_number_text *s, size_t from) {
    const char *feed = memchr(s->text + from, '\n', s->n_bytes - from);
    return feed ? (size_t)(feed - s->text) + 1 : s->n_bytes;
}

static size_t cut(reading *r, size_t n_threads) {
    const lp_number_text *s = r->source;
    size_t n = lp_size_min(lp_size_min(s->n_bytes / MIN_PART + 1, n_threads * 4), MAX_PARTS), n_parts = 0, start = 0;
    for (size_t i = 1; i <= n && start < s->n_bytes; i++) {
        size_t about = s->n_bytes / n * i;
        if (i < n && about <= start) continue;
        size_t end = i < n ? line_end(s, about) : s->n_bytes;
        r->parts[n_parts++] = (part){.start = start, .end = end};
        start = end;
    }
    return n_parts;
}

static void count_rows(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    part *p = &r->parts[i];
    (void)worker;
    p->n_rows = lp_text_count_rows(r->source->text + p->start, p->end - p->start);
}

static void read_part(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    part *p = &r->parts[i];
    (void)worker;
    lp_text_read_rows(r->dst + p->first_row * r->n_cols, r->source->text + p->start, p->end - p->start, p->n_rows,
                      r->n_cols, r->source->sep, &p->fault);
}

static size_t count_lines(const char *text, size_t n_bytes) {
    size_t n = 0;
    for (const char *p = text, *end = text + n_bytes; (p = memchr(p, '\n', (size_t)(end - p))); p++) n++;
    return n;
}

/* A fault in the text from `start` on, as one of the whole text. */
static void take_fault(lp_text_report *report, const lp_number_text *s, size_t start, const lp_text_fault *fault) {
    report->fault = *fault;
    report->fault.line += count_lines(s->text, start);
    report->fault.offset += start;
}

/* The text has another number of numbers than were asked for. Reads row after row to find out whether that is
 * because of a fault: with a row of the wrong length n_cols says nothing about the number of numbers. */
static void look_for_fault(lp_text_report *report, const lp_number_text *s) {
    size_t start = 0, n_bytes;
    float *row = lp_size_mul(&n_bytes, report->n_cols, sizeof *row) ? NULL : malloc(n_bytes);
    while (row && start < s->n_bytes) {
        size_t end = line_end(s, start);
        lp_text_fault fault = {LP_TEXT_WHOLE, 0, 0, 0, 0, 0};
        lp_text_read_rows(row, s->text + start, end - start, 1, report->n_cols, s->sep, &fault);
        if (fault.problem != LP_TEXT_WHOLE) {
            take_fault(report, s, start, &fault);
            break;
        }
        start = end;
    }
    free(row);
}

int lp_read_text(float *dst, size_t n_numbers, const lp_number_text *source, size_t n_threads, lp_text_report *report) {
    reading r = {.source = source, .dst = dst};
    lp_crew crew = {n_threads, NULL, NULL};
    size_t n_parts = cut(&r, n_threads);

    *report = (lp_text_report){.fault = {LP_TEXT_WHOLE, 0, 0, 0, 0, 0}};
    r.n_cols = report->n_cols = lp_text_count_cols(source->text, source->n_bytes, source->sep);
    lp_pool_run(&crew, n_parts, count_rows, &r);
    for (size_t i = 0; i < n_parts; i++) {
        r.parts[i].first_row = report->n_rows;
        report->n_rows += r.parts[i].n_rows;
    }
    if (lp_size_mul(&report->n_numbers, report->n_rows, report->n_cols)) report->n_numbers = (size_t)-1;
    if (report->n_numbers != n_numbers) {
        if (report->n_cols) look_for_fault(report, source);
        return -1;
    }
    if (n_numbers == 0) return 0;
    lp_pool_run(&crew, n_parts, read_part, &r);
    for (size_t i = 0; i < n_parts; i++) {
        if (r.parts[i].fault.problem == LP_TEXT_WHOLE) continue;
        take_fault(report, source, r.parts[i].start, &r.parts[i].fault);
        return -1;
    }
    return 0;
}
