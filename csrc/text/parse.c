/* parse.c - fields, rows and faults; the numbers are those of parse_number.h. */
#include "parse.h"

#include <string.h>

#include "parse_number.h" /* read_number */

typedef struct {
    const char *text, *end;
    char sep;
} reader;

/* A space or a tab that is not the separator itself; when that is ' ', blanks are what separates. */
static inline int is_blank(const reader *r, const char *p) {
    return p < r->end && (*p == ' ' || *p == '\t') && (*p != r->sep || r->sep == ' ');
}

static inline const char *skip_blanks(const reader *r, const char *p) {
    while (is_blank(r, p)) p++;
    return p;
}

/* LF, CRLF or the end of the text. */
static inline int at_line_end(const reader *r, const char *p) {
    if (p < r->end && *p == '\r') p++;
    return p == r->end || *p == '\n';
}

/* What separates two numbers; NULL when it is not there. */
static inline const char *skip_separator(const reader *r, const char *p) {
    const char *q = skip_blanks(r, p);
    if (r->sep == ' ') return q > p ? q : NULL;
    return q < r->end && *q == r->sep ? skip_blanks(r, q + 1) : NULL;
}

/* The start of the line after p; the end of the text when there is none. */
static const char *next_line(const reader *r, const char *p) {
    const char *newline = memchr(p, '\n', (size_t)(r->end - p));
    return newline ? newline + 1 : r->end;
}

/* Skips lines without numbers: returns the first field of the next row, or the end of the text. */
static const char *next_row(const reader *r, const char *line) {
    while (line < r->end) {
        const char *p = line;
        while (p < r->end && (*p == ' ' || *p == '\t')) p++; /* whatever the separator is */
        if (p < r->end && *p != '#' && !at_line_end(r, p)) return skip_blanks(r, line);
        line = next_line(r, p);
    }
    return line;
}

size_t lp_text_count_rows(const char *text, size_t n_bytes) {
    reader r = {text, text + n_bytes, ' '};
    size_t n = 0;
    for (const char *p = next_row(&r, text); p < r.end; p = next_row(&r, next_line(&r, p))) n++;
    return n;
}

size_t lp_text_count_cols(const char *text, size_t n_bytes, char sep) {
    reader r = {text, text + n_bytes, sep};
    const char *p = next_row(&r, text), *end = next_line(&r, p);
    size_t n = p < r.end;
    if (sep != ' ')
        while (p < end) n += *p++ == sep;
    while (p < end && *p != '\n') {
        if (is_blank(&r, p)) {
            p = skip_blanks(&r, p);
            n += !at_line_end(&r, p); /* blanks at the end of a line separate nothing */
        } else {
            p++;
        }
    }
    return n;
}

/* Says what is wrong and where. A field ends where a separator or the line does. */
static void find_fault(lp_text_fault *fault, const reader *r, lp_text_problem problem, const char *field,
                       size_t n_found) {
    const char *line = r->text, *end = field, *newline;
    *fault = (lp_text_fault){problem, 1, 0, (size_t)(field - r->text), 0, n_found};
    while ((newline = memchr(line, '\n', (size_t)(field - line))) != NULL) {
        line = newline + 1;
        fault->line++;
    }
    fault->column = (size_t)(field - line) + 1;
    while (end < r->end && *end != r->sep && !at_line_end(r, end) && !(r->sep == ' ' && is_blank(r, end))) end++;
    while (end > field && is_blank(r, end - 1)) end--;
    fault->n_bytes = (size_t)(end - field);
}

/* After n_found numbers, the last of them in [field, p), no further one of the row follows: returns the end of the
 * line if all n are there, else NULL. */
static const char *end_row(const reader *r, const char *field, const char *p, size_t n_found, size_t n,
                           lp_text_fault *fault) {
    const char *end = skip_blanks(r, p), *next = skip_separator(r, p);
    if (n_found == n && at_line_end(r, end)) return end;
    if (at_line_end(r, end))
        find_fault(fault, r, LP_TEXT_FEW, end, n_found);
    else if (next)
        find_fault(fault, r, LP_TEXT_MANY, next, n_found);
    else
        find_fault(fault, r, LP_TEXT_NO_NUMBER, field, n_found - 1);
    return NULL;
}

/* Reads the n numbers of a row from its first field on. Returns the end of the line, NULL at a fault. */
static inline const char *read_row(float *dst, const reader *r, const char *field, size_t n, lp_text_fault *fault) {
    for (size_t i = 0;; i++) {
        uint32_t bits;
        const char *p = read_number(field, r->end, &bits);
        if (!p) {
            find_fault(fault, r, LP_TEXT_NO_NUMBER, field, i);
            return NULL;
        }
        memcpy(dst + i, &bits, sizeof bits);
        const char *next = skip_separator(r, p);
        if (i + 1 == n || !next || (r->sep == ' ' && at_line_end(r, next)))
            return end_row(r, field, p, i + 1, n, fault);
        field = next;
    }
}

size_t lp_text_read_rows(float *dst, const char *text, size_t n_bytes, size_t n_rows, size_t n_cols, char sep,
                         lp_text_fault *fault) {
    reader r = {text, text + n_bytes, sep};
    size_t row = 0;
    *fault = (lp_text_fault){LP_TEXT_WHOLE, 0, 0, 0, 0, 0};
    if (n_cols == 0) n_rows = 0;
    for (const char *p = next_row(&r, text); p < r.end; p = next_row(&r, next_line(&r, p)), row++) {
        if (row == n_rows) {
            find_fault(fault, &r, LP_TEXT_EXTRA_ROW, p, 0);
            break;
        }
        p = read_row(dst + row * n_cols, &r, p, n_cols, fault);
        if (!p) break;
    }
    return row;
}

size_t lp_text_read_f32(float *value, const char *text, size_t n_bytes) {
    uint32_t bits;
    const char *end = read_number(text, text + n_bytes, &bits);
    if (!end) return 0;
    memcpy(value, &bits, sizeof bits);
    return (size_t)(end - text);
}
