/* parallel_read.h - a whole text of numbers to float32, by all threads.
 *
 * The text is cut behind line feeds into parts; their rows are counted first, so that every part knows where its
 * numbers go, and then read. Where there are fewer rows than threads, each row is cut at separators instead. What a
 * number and a row are is parse.h's business. */
#ifndef LP_PARALLEL_READ_H
#define LP_PARALLEL_READ_H

#include <stddef.h>

#include "../sys/pool.h" /* lp_crew */
#include "parse.h"       /* lp_text_fault */

typedef struct {
    const char *text;
    size_t n_bytes;
    char sep;
} lp_number_text;

typedef struct {
    size_t n_rows, n_cols; /* of the text; n_cols is that of the first row, 0 without rows */
    size_t n_numbers;      /* n_rows * n_cols, (size_t)-1 when that overflows */
    lp_text_fault fault;   /* the first one; lines are counted from the start of the text */
} lp_text_report;

/* Reads the text, which must hold exactly n_numbers numbers in rows of one length, into dst [n_numbers]. Returns 0; 1
 * when the poll of the crew said stop; or -1 with the reason in the report: fault.problem, or, when that is
 * LP_TEXT_WHOLE, another number of numbers. A text that somebody changes meanwhile may give any of these, and numbers
 * of before and after; 0 means that each number of dst was read. */
int lp_read_text(float *dst, size_t n_numbers, const lp_number_text *source, const lp_crew *crew,
                 lp_text_report *report);

#endif
