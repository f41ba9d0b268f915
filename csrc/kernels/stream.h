/* stream.h - the sums of tile.h, while the weights that come next are widened between the products.
 *
 * Included once per vector width, after pieces.h. Widening first and multiplying then leaves the multipliers idle while
 * weights arrive: for a fifth of the time at 8 tokens, for a tenth at 128. Here a few rows at a time are widened
 * between the products of what was widened before, and lines that will be widened after them are asked for. */
#define SOON_BYTES 512   /* how far ahead in a row lines are asked for, where they are not in the order of memory */
#define STRIP LP_K_BLOCK /* columns of a strip: of a streamed product, two strips of its rows live in L1 */
#define SOON_ROWS 2      /* how many rows ahead of what a panel widens come into L1, out of L2 or further away */

#ifndef LP_STREAM
#define LP_STREAM
/* The strip that is widened meanwhile, of as many rows as are multiplied. */
typedef struct {
    float *to;        /* rows of STRIP */
    const char *from; /* the weights; rows are `stride` bytes apart */
    size_t stride;
    const char *after; /* what will be wanted after them: as many bytes, and where those of the next piece lie */
    size_t after_row, after_piece;
} next_strip;

/* The panel that is widened meanwhile: n columns (a multiple of PIECE) of as many rows as are multiplied. */
typedef struct {
    float *to;        /* rows of K_PANEL */
    const char *from; /* the weights; rows are `stride` bytes apart */
    size_t stride, n;
    size_t after;  /* how far behind a weight what will be wanted after it lies; 0: nothing will */
    size_t column; /* of the piece that is widened now */
} next_block;

/* Rows of w for the one tile of a streamed product, and those that follow them. */
typedef struct {
    float *ring; /* two strips of MAX_ROWS rows; see also lines.h */
    int half;    /* the strip at work */
    size_t k;    /* columns */
    const char *rows, *next;
    const char *ready; /* the rows whose first strip the ring holds; NULL: none */
} row_stream;
#endif

/* Products of a strip. */
INLINE void T(strip)(VEC acc[MAX_ROWS][MAX_VECS], const float *x, const float *w, next_strip next, lp_word word,
                     const int n_vec, const int n_rows) {
    const int paired = is_paired(word);
    const size_t bytes = lp_word_bytes(word), row_stride = STRIP;
    for (size_t column = 0; column < STRIP; column += PIECE) {
        for (int part = 0; part < n_rows / 3; part++) {
            UNROLL for (int r = 0; r < 3; r++) {
                size_t row = (size_t)(3 * part + r);
                T(spread_piece)(next.to + row * STRIP + column, next.from + row * next.stride + column * bytes, word);
                const char *after = next.after + row * next.after_row + column / PIECE * next.after_piece;
                for (size_t line = 0; line < PIECE * bytes; line += 64) __builtin_prefetch(after + line, 0, 2);
            }
            for (int i = 0; i < PIECE * 3 / n_rows; i += 4) FOUR_COLUMNS;
        }
        END_OF_PIECE;
    }
}

/* The next piece, row after row: a line that two pieces share is still there for the second. */
INLINE void T(widen_next)(next_block *next, lp_word word) {
    const size_t bytes = lp_word_bytes(word), piece = PIECE * bytes;
    T(widen_piece)(next->to, next->from, word);
    for (size_t line = 0; line < piece; line += 64)
        __builtin_prefetch(next->from + SOON_ROWS * next->stride + line, 0, 3);
    if (next->after)
        for (size_t line = 0; line < piece; line += 64) __builtin_prefetch(next->from + next->after + line, 0, 2);
    next->to += PIECE, next->from += piece, next->column += PIECE;
    if (next->column < next->n) return;
    next->to += K_PANEL - next->n, next->from += next->stride - next->n * bytes, next->column = 0;
}

/* A panel of k of a tile, while a panel of as many rows is widened. kc is a multiple of PIECE. */
INLINE void T(block)(float *c, const float *x, const float *w, size_t kc, int first, next_block next, lp_word word,
                     const int n_vec, const int n_rows) {
    const int paired = is_paired(word);
    const size_t row_stride = K_PANEL;
    size_t k = 0;
    do {
        size_t end = lp_size_min(k + LP_K_BLOCK, kc), end_of_next = lp_size_min(end, next.n);
        VEC acc[MAX_ROWS][MAX_VECS];
        UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
        for (; k < end_of_next; k += PIECE) {
            for (int part = 0; part < n_rows / 3; part++) {
                UNROLL for (int r = 0; r < 3; r++) T(widen_next)(&next, word);
                for (int i = 0; i < PIECE * 3 / n_rows; i += 4) FOUR_COLUMNS;
            }
            END_OF_PIECE;
        }
        for (; k < end; k += PIECE) {
            for (int i = 0; i < PIECE; i += 4) FOUR_COLUMNS;
            END_OF_PIECE;
        }
        T(keep)(c, acc, first, n_vec, n_rows);
        first = 0;
    } while (k < kc);
}

/* Where column `column` of the rows lies: past their end the next ones begin. */
INLINE const char *T(column_at)(const row_stream *s, size_t column, size_t bytes) {
    return column < s->k ? s->rows + column * bytes : s->next + (column - s->k) * bytes;
}

/* The first strip of the rows. */
INLINE void T(stream_begin)(const row_stream *s, lp_word word, const int n_rows) {
    float *to = s->ring + (size_t)s->half * MAX_ROWS * STRIP;
#ifdef SPREAD_BF16 /* the ring held something else before */
    if (is_paired(word)) memset(s->ring, 0, 2 * MAX_ROWS * STRIP * sizeof *s->ring);
#endif
    for (size_t r = 0; r < (size_t)n_rows; r++)
        for (size_t column = 0; column < STRIP; column += PIECE) {
            const char *from = s->rows + (r * s->k + column) * lp_word_bytes(word);
            T(widen_piece)(to + r * STRIP + column, from, word);
        }
}

/* All columns (a multiple of STRIP) of n_rows rows; as many bytes are asked for as are read: of the next rows in the
 * order in which they lie, or else of these rows, and of the next ones past their end. */
INLINE void T(stream)(float *c, const float *x, row_stream *s, lp_word word, const int n_vec, const int n_rows) {
    const size_t bytes = lp_word_bytes(word), half = MAX_ROWS * STRIP, piece = PIECE * bytes;
    const int in_order = lp_kernels_in_order();
    if (s->ready != s->rows) T(stream_begin)(s, word, n_rows);
    for (size_t k = 0; k < s->k; k += STRIP, s->half = !s->half) {
        VEC acc[MAX_ROWS][MAX_VECS];
        UNROLL for (int r = 0; r < n_rows; r++) UNROLL for (int v = 0; v < n_vec; v++) acc[r][v] = V(zero)();
        next_strip next = {
            .to = s->ring + (size_t)!s->half * half, .from = T(column_at)(s, k + STRIP, bytes), .stride = s->k * bytes};
        next.after =
            in_order ? s->next + k * (size_t)n_rows * bytes : T(column_at)(s, k + STRIP + SOON_BYTES / bytes, bytes);
        next.after_row = in_order ? piece : s->k * bytes;
        next.after_piece = in_order ? (size_t)n_rows * piece : piece;
        T(strip)(acc, x, s->ring + (size_t)s->half * half, next, word, n_vec, n_rows);
        T(keep)(c, acc, k == 0, n_vec, n_rows);
        x += STRIP * (size_t)n_vec * LP_N;
    }
    s->ready = s->next;
}
