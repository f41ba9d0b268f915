/* parallel_write.h - a stretch of a matrix as text, made by all threads.
 *
 * The matrix is row-major with n_cols numbers in a row; a stretch is `count` numbers from number `first` on, and
 * may begin and end in the middle of a row, so that a vector of a billion numbers needs no more memory than a
 * small one. It is cut into pieces of LP_PIECE_NUMBERS; piece i is written from out + i * LP_PIECE_BYTES on, and
 * the caller sends the pieces to the file in order. A number is followed by '\n' when it is the last of its row,
 * else by `sep`. Nothing here allocates or can fail. */
#ifndef LP_PARALLEL_WRITE_H
#define LP_PARALLEL_WRITE_H

#include <stddef.h>

#include "format.h" /* lp_text_table, LP_NUMBER_BYTES */

#define LP_PIECE_NUMBERS ((size_t)16384)
#define LP_PIECE_BYTES (LP_PIECE_NUMBERS * (LP_NUMBER_BYTES + 2)) /* a row of one number: number, separator, '\n' */

typedef struct {
    const void *values;         /* [count]: number `first` of the matrix and the ones after it */
    const lp_text_table *table; /* values are unaligned 16-bit words; NULL: aligned float32 */
    size_t first, count, n_cols;
    char sep;
    int digits; /* of float32: LP_SHORTEST or 0 .. LP_MAX_DIGITS */
} lp_stretch;

/* Pieces of `count` numbers: `out` needs n_pieces * LP_PIECE_BYTES bytes, `lengths` n_pieces places. */
size_t lp_write_pieces(size_t count);

/* Formats the stretch on at most n_threads threads; lengths[i] is how many bytes piece i has. */
void lp_write_stretch(char *out, size_t *lengths, const lp_stretch *stretch, size_t n_threads);

#endif
