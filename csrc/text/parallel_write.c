/* parallel_write.c - cuts a stretch into pieces for the pool, and a piece at the ends of rows. */
#include "parallel_write.h"

#include "../sys/pool.h"  /* lp_pool_run */
#include "../base/size.h" /* lp_size_min */

typedef struct {
    char *out;
    size_t *lengths;
    const lp_stretch *stretch;
} lp_piece_job;

size_t lp_write_pieces(size_t count) { return count / LP_PIECE_NUMBERS + (count % LP_PIECE_NUMBERS != 0); }

/* Rows of n_cols numbers from number `at` of the stretch on. */
static size_t format_rows(char *dst, const lp_stretch *s, size_t at, size_t n_rows, size_t n_cols) {
    if (s->table) {
        const unsigned char *words = (const unsigned char *)s->values + 2 * at;
        return lp_text_rows_u16(dst, words, n_rows, n_cols, s->sep, s->table);
    }
    return lp_text_rows_f32(dst, (const float *)s->values + at, n_rows, n_cols, s->sep, s->digits);
}

/* A part of one row: what ends it is '\n' only where the row ends. */
static size_t format_part(char *dst, const lp_stretch *s, size_t at, size_t n) {
    size_t length = format_rows(dst, s, at, 1, n);
    if ((s->first + at + n) % s->n_cols != 0) dst[length - 1] = s->sep;
    return length;
}

static void format_piece(void *arg, size_t i, size_t worker) {
    const lp_piece_job *job = arg;
    const lp_stretch *s = job->stretch;
    char *out = job->out + i * LP_PIECE_BYTES, *dst = out;
    size_t at = i * LP_PIECE_NUMBERS;
    size_t left = lp_size_min(LP_PIECE_NUMBERS, s->count - at);
    size_t column = (s->first + at) % s->n_cols;
    (void)worker;

    if (column) { /* the rest of a row that an earlier piece began */
        size_t n = lp_size_min(left, s->n_cols - column);
        dst += format_part(dst, s, at, n);
        at += n, left -= n;
    }
    if (left >= s->n_cols) {
        size_t n_rows = left / s->n_cols;
        dst += format_rows(dst, s, at, n_rows, s->n_cols);
        at += n_rows * s->n_cols, left -= n_rows * s->n_cols;
    }
    if (left) dst += format_part(dst, s, at, left);
    job->lengths[i] = (size_t)(dst - out);
}

void lp_write_stretch(char *out, size_t *lengths, const lp_stretch *stretch, size_t n_threads) {
    lp_piece_job job = {out, lengths, stretch};
    lp_parallel parallel = {n_threads, NULL, NULL};
    lp_pool_run(&parallel, lp_write_pieces(stretch->count), format_piece, &job);
}
