/* band.h - some rows of w that are summed together: where their weights and their sums lie. */
#define BAND_ROWS 48 /* the widened panels of a band and its sums stay in L2 */
/* A band of gate and up has GATED_ROWS of each: BAND_ROWS where L2 has room for twice as much, and whole lines of
 * results past the caches are worth it. */
#define MOST_ROWS (2 * GATED_ROWS > BAND_ROWS ? 2 * GATED_ROWS : BAND_ROWS)

/* A band: `n_rows` rows of one factor, or of gate and of up, one stripe below the other in scratch. A job is bands
 * one after the other. */
typedef struct {
    const lp_product *p;
    const lp_factor *factor; /* of the first stripe */
    size_t row, end;         /* of the band, and of the job */
    size_t n_rows;
    size_t pitch;      /* rows of a stripe in scratch: n_rows rounded up to ROW_UNIT */
    size_t height;     /* rows of all stripes in scratch */
    float *wide[2];    /* [height][K_PANEL]: the panel at work, and the next */
    int now;           /* which of them is at work */
    const char *ready; /* the weights that it holds; NULL: none yet */
    row_stream stream; /* instead of blocks, where is_streamed() */
    float *sums;       /* [tile][height][tokens of the tile] */
} lp_band;

static size_t round_rows(size_t n) { return (n + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT; }

static size_t band_scratch(size_t m) { return MOST_ROWS * (2 * K_PANEL + padded_tokens(m)); }

static void set_rows(lp_band *b, size_t row) {
    size_t n_stripes = b->p->gated ? 2 : 1;
    b->row = row;
    b->n_rows = lp_size_min(b->end - row, b->p->gated ? GATED_ROWS : BAND_ROWS);
    b->pitch = round_rows(b->n_rows);
    b->height = b->pitch * n_stripes;
}

static const lp_factor *factor_of(const lp_band *b, size_t g) { return b->factor + g / b->pitch; }

/* Where row g of the scratch has its weights from column k on. Columns past the last are those of the next band. */
static const char *weights_at(const lp_band *b, size_t g, size_t k) {
    const lp_factor *f = factor_of(b, g);
    size_t row = b->row + g % b->pitch + (k < b->p->k ? 0 : b->n_rows), column = k < b->p->k ? k : k - b->p->k;
    return lp_weight_at(f->w, row, column);
}

/* How rows g .. g + n are streamed, of this band (k = 0) or of the next one. */
static stream_tile *band_tile(const lp_band *b, size_t g, size_t n, size_t k) {
    size_t row = b->row + g % b->pitch + (k ? b->n_rows : 0);
    return stream_tile_of(kind_of(tile_width(b->p->m)), factor_of(b, g), row, n, b->p->k);
}

/* All rows of the scratch are rows of the matrix, and their columns come in whole strips. */
static int is_whole(const lp_band *b) { return b->pitch == b->n_rows && b->p->k % STRIP == 0; }

/* The job has a band of as many rows after this one. */
static int has_next(const lp_band *b) { return b->row + 2 * b->n_rows <= b->end; }
