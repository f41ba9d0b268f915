/* format.h - numbers to decimal text: one block of rows into one buffer.
 *
 * The caller splits the work over threads and writes the buffers in order; the functions here are pure. Two
 * spellings: the shortest decimal that reads back to the same float32 (the digits and layout of str() of a NumPy
 * float32, as NumPy writes them since 2.3: an exponent below 1e-4 and from 1e6 on), and C's "%.Ne". nan, inf, -inf,
 * -0.0 and denormals as NumPy spells them; neither the locale nor the state of the FPU matters. parse.h is the
 * way back, docs/text.md has the maths. */
#ifndef LP_FORMAT_H
#define LP_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "../base/platform.h"

#define LP_SHORTEST (-1)   /* digits: the shortest that reads back */
#define LP_MAX_DIGITS 25   /* digits: 0 .. 25 means %.Ne; below is taken as LP_SHORTEST, above as 25 */
#define LP_NUMBER_BYTES 40 /* no number is longer, whatever the digits */

/* Writes one number, returns its length. Not terminated. dst must hold LP_NUMBER_BYTES: bytes after the number may
 * be written too. */
size_t lp_text_f32(char *dst, float value, int digits);

/* Rows of n_cols numbers with `sep` between and '\n' after each row. dst must hold n_rows * n_cols *
 * (LP_NUMBER_BYTES + 1) + n_rows bytes. Returns the bytes written. */
size_t lp_text_rows_f32(char *dst, const float *values, size_t n_rows, size_t n_cols, char sep, int digits);

/* The text of all 65,536 16-bit words of bf16 or f16: 1 to 2.5 MB, made in a few milliseconds, of which the words
 * of a typical tensor use a hundred kilobytes. Made once per export, then read by any number of threads. */
typedef struct lp_text_table lp_text_table;
lp_text_table *lp_text_table_make(int is_bf16, int digits); /* NULL when memory ran out */
void lp_text_table_free(lp_text_table *table);              /* NULL is legal */

/* Like lp_text_rows_f32, for little-endian 16-bit words at any address, row after row. */
size_t lp_text_rows_u16(char *dst, const void *words, size_t n_rows, size_t n_cols, char sep,
                        const lp_text_table *table);

#endif
