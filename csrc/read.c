/* read.c - cuts a text into parts for the pool; finds the first fault of a text that does not fit. */
#include "read.h"

#include <stdlib.h>
#include <string.h>

#include "pool.h" /* lp_pool_run */
#include "size.h" /* lp_size_mul */

#define MAX_PARTS 256
#define MIN_PART ((size_t)1 << 16) /* bytes: below this a thread costs more than it brings */

typedef struct {
    size_t start, end; /* in the text; a part of many rows ends behind a line feed, or where the text does */
    size_t n, first;   /* its rows and the number of the first one; of a part of a row, numbers */
    lp_text_fault fault;
} part;

typedef struct {
    const lp_number_text *source;
    float *dst; /* where part->first counts from */
    size_t n_cols;
    lp_crew crew;
    part parts[MAX_PARTS];
} reading;

static size_t line_end(const lp_number_text *s, size_t from) {
    const char *feed = memchr(s->text + from, '\n', s->n_bytes - from);
    return feed ? (size_t)(feed - s->text) + 1 : s->n_bytes;
}

/* How many parts of n_bytes keep all threads busy. */
static size_t parts_of(const reading *r, size_t n_bytes) {
    return lp_size_min(lp_size_min(n_bytes / MIN_PART + 1, r->crew.n_threads * 4), MAX_PARTS);
}

/* Numbers the contents of the parts from 0 on; returns how much there is in all. */
static size_t number_parts(reading *r, size_t n_parts) {
    size_t sum = 0;
    for (size_t i = 0; i < n_parts; i++) {
        r->parts[i].first = sum;
        sum += r->parts[i].n;
    }
    return sum;
}

/* ---- many rows ----------------------------------------------------------------------------------------------- */

static size_t cut(reading *r) {
    const lp_number_text *s = r->source;
    size_t n = parts_of(r, s->n_bytes), n_parts = 0, start = 0;
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
    p->n = lp_text_count_rows(r->source->text + p->start, p->end - p->start);
}

static void read_part(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    part *p = &r->parts[i];
    (void)worker;
    lp_text_read_rows(r->dst + p->first * r->n_cols, r->source->text + p->start, p->end - p->start, p->n, r->n_cols,
                      r->source->sep, &p->fault);
}

/* ---- one long row -------------------------------------------------------------------------------------------- */

/* The first separator in [from, end) but those behind a carriage return, which is a fault there and none at the end
 * of a text; `end` when there is none. */
static size_t find_separator(const lp_number_text *s, size_t from, size_t end) {
    const char *p = s->text + from, *stop = s->text + end;
    while ((p = memchr(p, s->sep, (size_t)(stop - p))) != NULL) {
        if (p[-1] != '\r') return (size_t)(p - s->text);
        p++;
    }
    return end;
}

/* Cuts the line [start, end) at separators, which belong to no part: what stands between two of them is a text of
 * one row in itself. */
static size_t cut_row(reading *r, size_t start, size_t end) {
    size_t n = parts_of(r, end - start), step = (end - start) / n, n_parts = 0;
    while (n_parts + 1 < n && end - start > step) {
        size_t at = find_separator(r->source, start + step, end);
        if (at == end) break;
        r->parts[n_parts++] = (part){.start = start, .end = at};
        start = at + 1;
    }
    r->parts[n_parts++] = (part){.start = start, .end = end};
    return n_parts;
}

static void count_numbers(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    part *p = &r->parts[i];
    (void)worker;
    p->n = lp_text_count_cols(r->source->text + p->start, p->end - p->start, r->source->sep);
}

static void read_numbers(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    part *p = &r->parts[i];
    (void)worker;
    lp_text_read_rows(r->dst + p->first, r->source->text + p->start, p->end - p->start, 1, p->n, r->source->sep,
                      &p->fault);
}

/* The numbers of the line [start, end), counted by all threads; its parts are left in r. 0 when a part seems empty:
 * then it is no plain row. */
static size_t count_row(reading *r, size_t start, size_t end, size_t *n_parts) {
    *n_parts = cut_row(r, start, end);
    lp_pool_run(&r->crew, *n_parts, count_numbers, r);
    for (size_t i = 0; i < *n_parts; i++)
        if (r->parts[i].n == 0) return 0;
    return number_parts(r, *n_parts);
}

/* Reads the row in [start, end) into r->dst. A row that is not plain, or has a fault, is read by one thread, which
 * says what is wrong. */
static void read_row(reading *r, size_t start, size_t end, lp_text_fault *fault) {
    size_t n_parts, n = count_row(r, start, end, &n_parts);
    int plain = n == r->n_cols;
    if (plain) lp_pool_run(&r->crew, n_parts, read_numbers, r);
    for (size_t i = 0; plain && i < n_parts; i++) plain = r->parts[i].fault.problem == LP_TEXT_WHOLE;
    *fault = (lp_text_fault){LP_TEXT_WHOLE, 0, 0, 0, 0, 0};
    if (!plain) lp_text_read_rows(r->dst, r->source->text + start, end - start, 1, r->n_cols, r->source->sep, fault);
}

static size_t first_row_cols(reading *r) {
    const lp_number_text *s = r->source;
    size_t start = 0, end, n_parts;
    while ((end = line_end(s, start)) < s->n_bytes && !lp_text_count_rows(s->text + start, end - start)) start = end;
    size_t n = count_row(r, start, end, &n_parts);
    return n ? n : lp_text_count_cols(s->text, s->n_bytes, s->sep);
}

/* ---- the whole text ------------------------------------------------------------------------------------------ */

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

/* Row after row, each by all threads. */
static int read_long_rows(reading *r, lp_text_report *report) {
    const lp_number_text *s = r->source;
    for (size_t start = 0, end; start < s->n_bytes; start = end) {
        lp_text_fault fault;
        end = line_end(s, start);
        if (!lp_text_count_rows(s->text + start, end - start)) continue;
        read_row(r, start, end, &fault);
        if (fault.problem != LP_TEXT_WHOLE) {
            take_fault(report, s, start, &fault);
            return -1;
        }
        r->dst += r->n_cols;
    }
    return 0;
}

/* The parts have their rows counted and numbered. */
static int read_many_rows(reading *r, size_t n_parts, lp_text_report *report) {
    lp_pool_run(&r->crew, n_parts, read_part, r);
    for (size_t i = 0; i < n_parts; i++) {
        if (r->parts[i].fault.problem == LP_TEXT_WHOLE) continue;
        take_fault(report, r->source, r->parts[i].start, &r->parts[i].fault);
        return -1;
    }
    return 0;
}

int lp_read_text(float *dst, size_t n_numbers, const lp_number_text *source, size_t n_threads, lp_text_report *report) {
    reading r = {.source = source, .dst = dst, .crew = {n_threads, NULL, NULL}};

    *report = (lp_text_report){.fault = {LP_TEXT_WHOLE, 0, 0, 0, 0, 0}};
    r.n_cols = report->n_cols = first_row_cols(&r);
    size_t n_parts = cut(&r);
    lp_pool_run(&r.crew, n_parts, count_rows, &r);
    report->n_rows = number_parts(&r, n_parts);
    if (lp_size_mul(&report->n_numbers, report->n_rows, report->n_cols)) report->n_numbers = (size_t)-1;
    if (report->n_numbers != n_numbers) {
        if (report->n_cols) look_for_fault(report, source);
        return -1;
    }
    if (n_numbers == 0) return 0;
    return report->n_rows < n_threads ? read_long_rows(&r, report) : read_many_rows(&r, n_parts, report);
}
