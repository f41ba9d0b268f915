/* parallel_read.c - cuts a text into parts for the pool; finds the first fault of a text that does not fit. */
#include "parallel_read.h"

#include <stdlib.h>
#include <string.h>

#include "../base/size.h" /* lp_size_mul */

#define MAX_PARTS 256
#define MIN_PART ((size_t)1 << 16) /* bytes: below this a part costs more than it brings */
#define LONG_ROW ((size_t)4 << 20) /* bytes: too much to be read between two polls */

typedef struct {
    size_t start, end;     /* in the text; a part of many rows ends behind a line feed, or where the text does */
    size_t n_rows, n_cols; /* what was counted in it; of a part of a row, one row */
    size_t first;          /* the number of its first number */
    lp_text_fault fault;
} part;

typedef struct {
    const lp_number_text *source;
    float *dst;    /* where part->first counts from */
    size_t n_cols; /* of each row */
    const lp_crew *crew;
    int stopped; /* the poll said stop: what was counted and read is of no use */
    part parts[MAX_PARTS];
} reading;

static const lp_text_fault no_fault = {.problem = LP_TEXT_WHOLE};

static size_t line_end(const lp_number_text *s, size_t from) {
    const char *feed = memchr(s->text + from, '\n', s->n_bytes - from);
    return feed ? (size_t)(feed - s->text) + 1 : s->n_bytes;
}

/* Enough to keep all threads busy, and to poll between them. */
static size_t parts_of(size_t n_bytes) { return lp_size_min(n_bytes / MIN_PART + 1, MAX_PARTS); }

/* Numbers the contents of the parts from 0 on; returns how many numbers there are in all. */
static size_t number_parts(reading *r, size_t n_parts) {
    size_t sum = 0;
    for (size_t i = 0; i < n_parts; i++) {
        r->parts[i].first = sum;
        sum += r->parts[i].n_rows * r->parts[i].n_cols;
    }
    return sum;
}

static void do_parts(reading *r, size_t n_parts, lp_job job) {
    if (!r->stopped && lp_pool_run(r->crew, n_parts, job, r)) r->stopped = 1;
}

/* Reads one part, or one row, as it was counted: other rows than these are a text that changed. */
static void read_counted(float *dst, const lp_number_text *s, part *p) {
    size_t n = lp_text_read_rows(dst, s->text + p->start, p->end - p->start, p->n_rows, p->n_cols, s->sep, &p->fault);
    int whole = p->fault.problem == LP_TEXT_WHOLE;
    if ((whole && n != p->n_rows) || p->fault.problem == LP_TEXT_EXTRA_ROW) p->fault.problem = LP_TEXT_CHANGED;
}

static void read_part(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    (void)worker;
    read_counted(r->dst + r->parts[i].first, r->source, &r->parts[i]);
}

/* The first part that has a fault, or NULL. */
static const part *faulty_part(const reading *r, size_t n_parts) {
    for (size_t i = 0; i < n_parts; i++)
        if (r->parts[i].fault.problem != LP_TEXT_WHOLE) return &r->parts[i];
    return NULL;
}

/* ---- many rows ----------------------------------------------------------------------------------------------- */

static size_t cut(reading *r) {
    const lp_number_text *s = r->source;
    size_t n = parts_of(s->n_bytes), n_parts = 0, start = 0;
    for (size_t i = 1; i <= n && start < s->n_bytes; i++) {
        size_t about = s->n_bytes / n * i;
        if (i < n && about <= start) continue;
        size_t end = i < n ? line_end(s, about) : s->n_bytes;
        r->parts[n_parts++] = (part){.start = start, .end = end, .n_cols = r->n_cols};
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
    size_t n = parts_of(end - start), step = (end - start) / n, n_parts = 0;
    while (n_parts + 1 < n && end - start > step) {
        size_t at = find_separator(r->source, start + step, end);
        if (at == end) break;
        r->parts[n_parts++] = (part){.start = start, .end = at, .n_rows = 1};
        start = at + 1;
    }
    r->parts[n_parts++] = (part){.start = start, .end = end, .n_rows = 1};
    return n_parts;
}

static void count_numbers(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    part *p = &r->parts[i];
    (void)worker;
    p->n_cols = lp_text_count_cols(r->source->text + p->start, p->end - p->start, r->source->sep);
}

/* The numbers of the line [start, end), counted by all threads; its parts are left in r. 0 when a part seems empty:
 * then it is no plain row. */
static size_t count_row(reading *r, size_t start, size_t end, size_t *n_parts) {
    *n_parts = cut_row(r, start, end);
    do_parts(r, *n_parts, count_numbers);
    for (size_t i = 0; i < *n_parts; i++)
        if (r->parts[i].n_cols == 0) return 0;
    return number_parts(r, *n_parts);
}

/* Reads the row in [start, end) into r->dst. A row that is not plain, or has a fault, is read by one thread, which
 * says what is wrong. */
static lp_text_fault read_row(reading *r, size_t start, size_t end) {
    size_t n_parts, n = count_row(r, start, end, &n_parts);
    if (n == r->n_cols) {
        do_parts(r, n_parts, read_part);
        if (!faulty_part(r, n_parts)) return no_fault;
    }
    part whole = {.start = start, .end = end, .n_rows = 1, .n_cols = r->n_cols};
    if (!r->stopped) read_counted(r->dst, r->source, &whole);
    return whole.fault;
}

static size_t first_row_cols(reading *r) {
    const lp_number_text *s = r->source;
    size_t start = 0, end, n_parts;
    while ((end = line_end(s, start)) < s->n_bytes && !lp_text_count_rows(s->text + start, end - start)) start = end;
    size_t n = count_row(r, start, end, &n_parts);
    return n || r->stopped ? n : lp_text_count_cols(s->text, s->n_bytes, s->sep);
}

/* ---- the whole text ------------------------------------------------------------------------------------------ */

static size_t count_lines(const char *text, size_t n_bytes) {
    size_t n = 0;
    for (const char *p = text, *end = text + n_bytes; (p = memchr(p, '\n', (size_t)(end - p))); p++) n++;
    return n;
}

/* A fault in the text from `start` on, as one of the whole text. */
static int take_fault(lp_text_report *report, const lp_number_text *s, size_t start, lp_text_fault fault) {
    report->fault = fault;
    report->fault.line += count_lines(s->text, start);
    report->fault.offset += start;
    return -1;
}

/* The text has another number of numbers than were asked for. Reads row after row to find out whether that is
 * because of a fault: with a row of the wrong length n_cols says nothing about the number of numbers. */
static int look_for_fault(reading *r, lp_text_report *report) {
    const lp_number_text *s = r->source;
    size_t start = 0, n_bytes;
    float *row = lp_size_mul(&n_bytes, r->n_cols, sizeof *row) ? NULL : malloc(n_bytes);
    while (row && start < s->n_bytes && !r->stopped) {
        size_t end = line_end(s, start);
        lp_text_fault fault;
        lp_text_read_rows(row, s->text + start, end - start, 1, r->n_cols, s->sep, &fault);
        if (fault.problem != LP_TEXT_WHOLE) {
            take_fault(report, s, start, fault);
            break;
        }
        start = end;
        r->stopped = r->crew->poll && r->crew->poll(r->crew->poll_arg);
    }
    free(row);
    return -1;
}

/* Row after row, each by all threads. */
static int read_long_rows(reading *r, lp_text_report *report) {
    const lp_number_text *s = r->source;
    size_t n_left = report->n_rows;
    for (size_t start = 0, end; start < s->n_bytes && !r->stopped; start = end) {
        end = line_end(s, start);
        if (!lp_text_count_rows(s->text + start, end - start)) continue;
        if (n_left-- == 0) return take_fault(report, s, start, (lp_text_fault){.problem = LP_TEXT_CHANGED, .line = 1});
        lp_text_fault fault = read_row(r, start, end);
        if (fault.problem != LP_TEXT_WHOLE) return take_fault(report, s, start, fault);
        r->dst += r->n_cols;
    }
    return n_left ? take_fault(report, s, s->n_bytes, (lp_text_fault){.problem = LP_TEXT_CHANGED}) : 0;
}

/* The parts have their rows counted and numbered. */
static int read_many_rows(reading *r, size_t n_parts, lp_text_report *report) {
    do_parts(r, n_parts, read_part);
    const part *p = faulty_part(r, n_parts);
    return p ? take_fault(report, r->source, p->start, p->fault) : 0;
}

static int read_all(reading *r, size_t n_numbers, lp_text_report *report) {
    r->n_cols = report->n_cols = first_row_cols(r);
    size_t n_parts = cut(r);
    do_parts(r, n_parts, count_rows);
    for (size_t i = 0; i < n_parts; i++) report->n_rows += r->parts[i].n_rows;
    if (lp_size_mul(&report->n_numbers, report->n_rows, report->n_cols)) report->n_numbers = (size_t)-1;
    if (report->n_numbers != n_numbers) return report->n_cols ? look_for_fault(r, report) : -1;
    if (n_numbers == 0) return 0;
    number_parts(r, n_parts);
    int long_rows = report->n_rows < r->crew->n_threads || r->source->n_bytes / report->n_rows >= LONG_ROW;
    return long_rows ? read_long_rows(r, report) : read_many_rows(r, n_parts, report);
}

int lp_read_text(float *dst, size_t n_numbers, const lp_number_text *source, const lp_crew *crew,
                 lp_text_report *report) {
    reading r = {.source = source, .dst = dst, .crew = crew};
    *report = (lp_text_report){.fault = no_fault};
    int failed = read_all(&r, n_numbers, report);
    return r.stopped ? 1 : failed;
}
