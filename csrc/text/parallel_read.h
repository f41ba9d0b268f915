/* parallel_read.h - a text of numbers to float32 on all threads, a piece at a time: the text is never in memory as a
 * whole. What a number and a row are is parse.h's business. */
#ifndef LP_PARALLEL_READ_H
#define LP_PARALLEL_READ_H

#include <stddef.h>

#include "../sys/pool.h" /* lp_parallel */
#include "parse.h"       /* lp_text_fault */

typedef struct {
    /* Reads n bytes at an offset, on any thread; returns how many it got, with an errno in *number after an error. */
    size_t (*read)(void *arg, void *dst, size_t offset, size_t n, int *number);
    void *arg;
    size_t start, end; /* the text in the source */
    char sep;
    int is_spreadsheet; /* quotes, and empty cells at the ends of lines, are left out */
    size_t piece_bytes; /* read at a time; 0: the default. A thread has a buffer of so many bytes and an eighth. */
} lp_number_text;

typedef struct {
    size_t n_rows, n_cols; /* of the text; n_cols is that of the first row, 0 without rows */
    size_t n_numbers;      /* n_rows * n_cols, (size_t)-1 when that overflows */
    lp_text_fault fault;   /* the first one; lines count from the start of the text, the offset is one of the source */
    int number;            /* errno of LP_TEXT_UNREADABLE */
} lp_text_report;

/* Reads the text, which must hold exactly n_numbers numbers in rows of one length, into dst [n_numbers]. Returns 0; 1
 * when the poll said stop; or -1 with the reason in the report: fault.problem, or, when that is LP_TEXT_WHOLE, the
 * wrong number of numbers. A text that changes meanwhile may give any of these, and numbers from before and after; 0
 * means that each number of dst was read. */
int lp_read_text(float *dst, size_t n_numbers, const lp_number_text *source, const lp_parallel *parallel,
                 lp_text_report *report);

#endif
