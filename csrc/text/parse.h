/* parse.h - rows of decimal text to float32, correctly rounded.
 *
 * Reads what Python, NumPy, R, C and MATLAB write: sign, digits, point, exponent; nan, inf and infinity in any case,
 * with a sign or with C's nan(...). A number becomes the float32 that strtof would give in round to nearest, whatever
 * the locale, the rounding mode or the number of digits; too large is infinity, too small is zero. Hexadecimal floats,
 * digit groups, quotes and empty fields are faults.
 *
 * Lines end in LF or CRLF; the last one may lack it. Between two numbers stands `sep` with any blanks (space, tab)
 * around it; when sep is ' ', blanks alone. Lines that hold nothing but blanks, or that begin with '#', are
 * skipped. No byte beyond the text is read, and no terminator is needed. To read with several threads, cut the text
 * behind line feeds and count the rows of each part first. */
#ifndef LP_PARSE_H
#define LP_PARSE_H

#include <stddef.h>

#include "../base/platform.h"

typedef enum {
    LP_TEXT_WHOLE,     /* no fault */
    LP_TEXT_NO_NUMBER, /* something that is not a number, or nothing, stands where a number should */
    LP_TEXT_FEW,       /* a row ends before its n_cols-th number */
    LP_TEXT_MANY,      /* a row goes on after its n_cols-th number */
    LP_TEXT_EXTRA_ROW, /* there are more rows than n_rows */
    /* of parallel_read.h alone: the source is shorter than it was, cannot be read, or has too long a line */
    LP_TEXT_CHANGED,
    LP_TEXT_UNREADABLE,
    LP_TEXT_NO_MEMORY
} lp_text_problem;

/* Where reading stopped. */
typedef struct {
    lp_text_problem problem;
    size_t line, column;    /* 1-based, counted from the start of the text; a column is a byte */
    size_t offset, n_bytes; /* the field at fault in the text; n_bytes is 0 when it is empty or missing */
    size_t n_found;         /* numbers of that row before the fault */
} lp_text_fault;

/* The rows of a text: its lines that are not skipped. */
size_t lp_text_count_rows(const char *text, size_t n_bytes);

/* The fields of the first row; 0 when there is none. */
size_t lp_text_count_cols(const char *text, size_t n_bytes, char sep);

/* Reads at most n_rows rows of n_cols numbers into dst [n_rows, n_cols] and returns how many rows were read. Fewer
 * than n_rows is a fault only when fault->problem says so: the text may just be short. */
size_t lp_text_read_rows(float *dst, const char *text, size_t n_bytes, size_t n_rows, size_t n_cols, char sep,
                         lp_text_fault *fault);

/* Reads one number that starts at text[0]; returns the bytes it takes, 0 when there is none. */
size_t lp_text_read_f32(float *value, const char *text, size_t n_bytes);

#endif
