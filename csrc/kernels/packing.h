/* packing.h - x of a product, packed for its tiles, and the way back: a unit is some columns of one tile. */
static void pack_tokens(float *out, const float *x, size_t stride, size_t width, size_t m, size_t k) {
    (width < LP_N ? NARROW_T(pack) : T(pack))(out, x, stride, width, m, k);
}

/* Columns 0 .. width of c [n][width], m of them tokens. */
static void unpack_tokens(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width, size_t m,
                          size_t n) {
    for (size_t v = 0; v < m; v += LP_N) {
        size_t at = v * stride;
        (width < LP_N ? NARROW_T(unpack) : T(unpack))(y ? y + at : NULL, add ? add + at : NULL, sum ? sum + at : NULL,
                                                      stride, c + v, width, lp_size_min(m - v, LP_N), n);
    }
}

/* The same past the caches, where all rows of y and sum begin and end with lines. */
static int on_lines(const float *y, const float *sum, size_t stride, size_t n, size_t width) {
    return (((uintptr_t)y | (uintptr_t)sum) / sizeof *y | stride | n) % LINE == 0 && width >= LP_N;
}

NOINLINE void unpack_to_memory(float *y, const float *add, float *sum, size_t stride, const float *c, size_t width,
                               size_t m, size_t n) {
    for (size_t v = 0; v < m; v += LP_N) {
        size_t at = v * stride;
        T(unpack_lines)(y ? y + at : NULL, add ? add + at : NULL, sum ? sum + at : NULL, stride, c + v, width,
                        lp_size_min(m - v, LP_N), n);
    }
}

/* Results of n_tokens, m of them in this tile: those of many are out of the caches before anybody reads them. */
static void put_tokens(size_t n_tokens, float *y, const float *add, float *sum, size_t stride, const float *c,
                       size_t width, size_t m, size_t n) {
    int far = n_tokens >= FAR_TOKENS && on_lines(y, sum, stride, n, width);
    (far ? unpack_to_memory : unpack_tokens)(y, add, sum, stride, c, width, m, n);
}

#define PACK_COLUMNS 1024

static size_t packed_size(size_t m, size_t k) { return padded_tokens(m) * k; }

/* Few tokens and rows enough for a vector of them. */
static int is_direct(const lp_product *p) {
    for (size_t f = 0; f < p->n_factors; f++)
        if (p->factor[f].w->n_rows < NARROW) return 0;
    return p->m <= DIRECT_TOKENS;
}

static size_t pack_units(const lp_product *p) {
    return is_direct(p) ? 0 : n_tiles(p->m) * ((p->k + PACK_COLUMNS - 1) / PACK_COLUMNS);
}

static void pack(const lp_product *p, size_t unit) {
    size_t n = n_tiles(p->m), m0 = tile_start(p->m, unit % n), width = tile_width(p->m - m0);
    size_t k0 = unit / n * PACK_COLUMNS, kc = lp_size_min(p->k - k0, PACK_COLUMNS);
    pack_tokens(p->x_packed + m0 * p->k + k0 * width, p->x + m0 * p->k + k0, p->k, width, lp_size_min(p->m - m0, width),
                kc);
}
