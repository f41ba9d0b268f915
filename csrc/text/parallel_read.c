/* parallel_read.c - pieces of a plain text on all threads; any other text line by line, which finds its first fault.
 *
 * A plain text is read twice: its pieces are first counted, so that each knows where its numbers go, and then parsed.
 * Pieces are cut behind line ends, and their rows counted, or, where lines are long, behind any separator, and their
 * fields counted. Counting looks at single bytes; parsing proves that each piece holds what was counted. */
#include "parallel_read.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../base/size.h" /* lp_size_mul, lp_size_min */

#define PIECE_BYTES ((size_t)1 << 20) /* stays in a core's caches; a system call and a job for it cost little */
#define MIN_PIECES 4                  /* fewer are not worth the threads */

typedef struct {
    size_t n;       /* numbers in the piece */
    size_t first;   /* numbers before it */
    size_t n_first; /* numbers up to its first line end; 0: there is none */
} piece;

typedef struct {
    const lp_number_text *source;
    const lp_parallel *parallel;
    float *dst;
    size_t n_numbers, n_cols;
    size_t piece_bytes, n_pieces;
    piece *pieces;       /* [n_pieces] */
    char *buffers;       /* [n_threads, buffer_bytes] */
    size_t buffer_bytes; /* a byte, a piece, and what the last row or field of a piece may reach beyond it */
    int cut_rows;        /* pieces are cut behind line ends only */
    int stopped;         /* by the poll */
    atomic_int is_plain;
} reading;

static size_t count_feeds(const char *text, size_t n) {
    size_t count = 0;
    for (const char *p = text, *end = text + n; (p = memchr(p, '\n', (size_t)(end - p))); p++) count++;
    return count;
}

/* Bytes up to the last line end. */
static size_t whole_lines(const char *text, size_t n) {
    while (n && text[n - 1] != '\n') n--;
    return n;
}

/* ---- pieces of a plain text ---------------------------------------------------------------------------------- */

/* The first place after `at` where the text may be cut, or n. Not after "\r,": a carriage return before a separator is
 * a fault, but at the end of a piece it would be part of a line end. */
static size_t next_cut(const reading *r, const char *text, size_t at, size_t n) {
    for (; at < n; at++) {
        if (text[at] == '\n') return at + 1;
        if (!r->cut_rows && text[at] == r->source->sep && !(at && text[at - 1] == '\r')) return at + 1;
    }
    return n;
}

/* Piece i, from the first cut at or behind its place to the first cut at or behind its successor's; NULL when that is
 * not a plain text. */
static const char *load_piece(reading *r, size_t i, size_t worker, size_t *n) {
    const lp_number_text *s = r->source;
    char *buffer = r->buffers + worker * r->buffer_bytes;
    size_t before = i > 0, from = s->start + i * r->piece_bytes - before; /* a cut may lie right before the place */
    size_t n_read = lp_size_min(r->buffer_bytes - 1 + before, s->end - from), start = 0, stop = n_read;
    int number;
    if (!atomic_load_explicit(&r->is_plain, memory_order_relaxed)) return NULL;
    int is_whole = s->read(s->arg, buffer, from, n_read, &number) == n_read, is_last = from + n_read == s->end;
    if (before) start = next_cut(r, buffer, 0, n_read);
    if (i + 1 < r->n_pieces) stop = next_cut(r, buffer, r->piece_bytes + before - 1, n_read);
    *n = stop - start;
    if (is_whole && (is_last || stop < n_read)) return buffer + start;
    atomic_store(&r->is_plain, 0);
    return NULL;
}

/* Rows of whole lines. Counts line ends, 128 bytes at a time in bytes, which compilers turn into vector code; a line
 * that begins with a blank, a line end or '#' may be no row. */
static size_t count_rows(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    size_t count = n > 0, at = 0;
    uint8_t odd = n && p[0] <= '#';
    while (at + 1 < n) {
        size_t end = lp_size_min(n - 1, at + 128);
        uint8_t feeds = 0;
        for (; at < end; at++) {
            uint8_t feed = p[at] == '\n';
            feeds += feed, odd |= feed & (p[at + 1] <= '#');
        }
        count += feeds;
    }
    return odd ? lp_text_count_rows(text, n) : count;
}

/* Fields that a separator or a line end follows. */
static size_t count_fields(const char *text, size_t n, char sep) {
    size_t count = 0, at = 0;
    while (at < n) {
        size_t end = lp_size_min(n, at + 128);
        uint8_t fields = 0;
        for (; at < end; at++) fields += (text[at] == sep) | (text[at] == '\n');
        count += fields;
    }
    return count;
}

static void count_job(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    piece *p = &r->pieces[i];
    size_t n;
    const char *text = load_piece(r, i, worker, &n);
    if (!text) return;
    if (r->cut_rows) {
        p->n = count_rows(text, n) * r->n_cols;
        return;
    }
    const char *feed = memchr(text, '\n', n);
    int is_open = i + 1 == r->n_pieces && n && text[n - 1] != '\n'; /* the text ends without a line end */
    p->n = count_fields(text, n, r->source->sep) + (size_t)is_open;
    p->n_first = feed ? count_fields(text, (size_t)(feed - text) + 1, r->source->sep) : 0;
}

/* Whether the text is exactly so many rows, read into dst. */
static int parse_rows(const reading *r, float *dst, const char *text, size_t n, size_t n_rows, size_t n_cols) {
    lp_text_fault fault;
    return lp_text_read_rows(dst, text, n, n_rows, n_cols, r->source->sep, &fault) == n_rows &&
           fault.problem == LP_TEXT_WHOLE;
}

/* The rest of a row, whole rows, and the beginning of a row; without what separates it from its rest each of these is a
 * text in itself. */
static int parse_piece(const reading *r, const piece *p, const char *text, size_t n, int is_last) {
    size_t left = p->n, column = p->first % r->n_cols, tail = (column + left) % r->n_cols;
    float *dst = r->dst + p->first;
    int ends_line = text[n - 1] == '\n';
    if (tail ? ends_line : !ends_line && !is_last) return 0;
    n -= tail > 0;
    if (column) {
        size_t rest = lp_size_min(left, r->n_cols - column), end = n;
        if (rest < left) {
            const char *feed = memchr(text, '\n', n);
            if (!feed) return 0;
            end = (size_t)(feed - text) + 1;
        }
        if (!parse_rows(r, dst, text, end, 1, rest)) return 0;
        dst += rest, left -= rest, text += end, n -= end;
        if (!left) return 1;
    }
    size_t end = tail ? whole_lines(text, n) : n, n_rows = left / r->n_cols;
    return parse_rows(r, dst, text, end, n_rows, r->n_cols) &&
           (!tail || parse_rows(r, dst + n_rows * r->n_cols, text + end, n - end, 1, tail));
}

static void parse_job(void *arg, size_t i, size_t worker) {
    reading *r = arg;
    size_t n;
    const char *text = load_piece(r, i, worker, &n);
    if (text && n && !parse_piece(r, &r->pieces[i], text, n, i + 1 == r->n_pieces)) atomic_store(&r->is_plain, 0);
}

/* Numbers in a row: of the first one when that lies in the first piece and is short, or, of long lines, as counted. */
static size_t first_row(reading *r) {
    size_t n;
    const char *text = load_piece(r, 0, 0, &n);
    size_t lines = text ? whole_lines(text, lp_size_min(n, r->piece_bytes / 8)) : 0;
    return lines ? lp_text_count_cols(text, lines, r->source->sep) : 0;
}

/* Where the numbers of each piece go; 0: not as many numbers as expected. */
static int number_pieces(reading *r) {
    size_t sum = 0, is_first_row = !r->cut_rows;
    for (piece *p = r->pieces; p < r->pieces + r->n_pieces; p++) {
        p->first = sum;
        sum += p->n;
        if (is_first_row) r->n_cols += p->n_first ? p->n_first : p->n;
        is_first_row &= !p->n_first;
    }
    return sum == r->n_numbers && r->n_cols;
}

static int run_jobs(reading *r, lp_job job) {
    r->stopped = lp_pool_run(r->parallel, r->n_pieces, job, r) != 0;
    return !r->stopped && r->is_plain;
}

/* 1 when dst is filled; 0: not a plain text of so many numbers, or stopped. */
static int read_pieces(reading *r) {
    size_t n_threads = lp_size_min(lp_size_min(r->parallel->n_threads, LP_MAX_THREADS), r->n_pieces);
    r->pieces = calloc(r->n_pieces, sizeof *r->pieces);
    r->buffers = malloc(n_threads * r->buffer_bytes);
    r->cut_rows = 1;
    int is_read = 0;
    if (r->pieces && r->buffers) {
        r->n_cols = first_row(r);
        r->cut_rows = r->n_cols > 0;
        r->is_plain = 1;
        is_read = run_jobs(r, count_job) && number_pieces(r) && run_jobs(r, parse_job);
    }
    free(r->pieces);
    free(r->buffers);
    return is_read;
}

/* ---- any text, line by line ---------------------------------------------------------------------------------- */

static int fail(lp_text_report *report, lp_text_problem problem) {
    report->fault.problem = problem;
    return -1;
}

/* Leaves out quotes, and the blanks and separators at the end of each line: the bytes that remain. */
static size_t strip_cells(char *text, size_t n, char sep) {
    size_t to = 0, line = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i == n || text[i] == '\n') {
            size_t is_return = to > line && text[to - 1] == '\r', end = to - is_return;
            while (end > line && (text[end - 1] == sep || text[end - 1] == ' ' || text[end - 1] == '\t')) end--;
            if (is_return) text[end++] = '\r';
            to = end;
            line = to + 1;
        }
        if (i < n && text[i] != '"') text[to++] = text[i];
    }
    return to;
}

/* Reads whole lines that lie at an offset of the source, behind n_lines others. Rows beyond n_numbers are read into
 * *spare, to find faults. */
static int read_lines(reading *r, const char *text, size_t n, size_t offset, size_t n_lines, float **spare,
                      lp_text_report *report) {
    lp_text_fault *fault = &report->fault;
    if (!report->n_cols) report->n_cols = lp_text_count_cols(text, n, r->source->sep);
    for (size_t at = 0, n_cols = report->n_cols, n_bytes; n_cols;) {
        size_t done = report->n_rows * n_cols, n_fit = done < r->n_numbers ? (r->n_numbers - done) / n_cols : 0;
        if (!n_fit && !*spare && (lp_size_mul(&n_bytes, n_cols, sizeof **spare) || !(*spare = malloc(n_bytes))))
            return fail(report, LP_TEXT_NO_MEMORY);
        report->n_rows += lp_text_read_rows(n_fit ? r->dst + done : *spare, text + at, n - at, n_fit ? n_fit : 1,
                                            n_cols, r->source->sep, fault);
        if (fault->problem == LP_TEXT_EXTRA_ROW) {
            at += whole_lines(text + at, fault->offset);
            continue;
        }
        if (fault->problem == LP_TEXT_WHOLE) return 0;
        fault->line += n_lines + count_feeds(text, at);
        fault->offset += offset + at;
        return -1;
    }
    return 0;
}

/* A buffer of lines after the other; it grows to hold the longest line. */
static int read_all_lines(reading *r, char **buffer, float **spare, lp_text_report *report) {
    const lp_number_text *s = r->source;
    size_t room = r->piece_bytes, n = 0, offset = s->start, n_lines = 0;
    for (int is_last = 0; !is_last;) {
        if (r->parallel->poll && r->parallel->poll(r->parallel->poll_arg)) return 1;
        char *grown = n < room && *buffer ? *buffer : realloc(*buffer, room = n < room ? room : 2 * room);
        if (!grown) return fail(report, LP_TEXT_NO_MEMORY);
        *buffer = grown;
        size_t want = lp_size_min(room - n, s->end - offset - n);
        size_t got = s->read(s->arg, grown + n, offset + n, want, &report->number);
        if (report->number) return fail(report, LP_TEXT_UNREADABLE);
        if (got < want) return fail(report, LP_TEXT_CHANGED);
        n += got;
        is_last = offset + n == s->end;
        size_t whole = is_last ? n : whole_lines(grown, n), n_feeds = count_feeds(grown, whole);
        size_t n_text = s->is_spreadsheet ? strip_cells(grown, whole, s->sep) : whole;
        if (read_lines(r, grown, n_text, offset, n_lines, spare, report)) return -1;
        memmove(grown, grown + whole, n -= whole);
        offset += whole;
        n_lines += n_feeds;
    }
    if (lp_size_mul(&report->n_numbers, report->n_rows, report->n_cols)) report->n_numbers = (size_t)-1;
    return report->n_numbers == r->n_numbers ? 0 : -1;
}

int lp_read_text(float *dst, size_t n_numbers, const lp_number_text *source, const lp_parallel *parallel,
                 lp_text_report *report) {
    reading r = {.source = source, .parallel = parallel, .dst = dst, .n_numbers = n_numbers, .is_plain = 1};
    *report = (lp_text_report){.fault = {.problem = LP_TEXT_WHOLE}};
    r.piece_bytes = source->piece_bytes ? source->piece_bytes : PIECE_BYTES;
    r.buffer_bytes = 1 + r.piece_bytes + r.piece_bytes / 8;
    r.n_pieces = (source->end - source->start + r.piece_bytes - 1) / r.piece_bytes;
    if (r.n_pieces >= MIN_PIECES && !source->is_spreadsheet && read_pieces(&r)) return 0;
    char *buffer = NULL;
    float *spare = NULL;
    int status = r.stopped ? 1 : read_all_lines(&r, &buffer, &spare, report);
    free(buffer);
    free(spare);
    return status;
}
