/* finish.h - what is done to sums when all of k is in them: bias, the residual, silu, and out to where the values are
 * asked for. */
static void add_bias(float *c, const lp_factor *f, size_t row, size_t n, size_t width) {
    if (!f->bias || !f->bias->data) return;
    for (size_t r = 0; r < n; r++, c += width) {
        float bias;
        widen(&bias, lp_weight_at(f->bias, 0, row + r), f->bias->word, 1);
        for (size_t i = 0; i < width; i++) c[i] += bias;
    }
}

INLINE VEC activated(const float *a, const float *by) {
    return by ? V(mul)(V(load)(a), V(load)(by)) : V(silu)(V(load)(a));
}

/* out = silu(out), or out *= by where `by` is given. */
NOINLINE void activate(float *out, const float *by, size_t n) {
    size_t i = 0, rest = n % LP_N;
    for (; i + LP_N <= n; i += LP_N) V(store)(out + i, activated(out + i, by ? by + i : NULL));
    if (!rest) return;
    float a[LP_N] = {0}, b[LP_N] = {0};
    memcpy(a, out + i, rest * sizeof *a);
    if (by) memcpy(b, by + i, rest * sizeof *b);
    V(store)(a, activated(a, by ? b : NULL));
    memcpy(out + i, a, rest * sizeof *a);
}

/* Rows of the band for the tokens of one tile, from c [n_rows][width] to y [m, n_rows of the matrix]. */
static void put(const lp_band *b, float *y, const float *add, float *sum, const float *c, size_t m0, size_t width) {
    size_t stride = b->factor->w->n_rows, at = m0 * stride + b->row;
    if (!y && !sum) return;
    y = y ? y + at : NULL, add = add ? add + at : NULL, sum = sum ? sum + at : NULL;
    put_tokens(b->p->m, y, add, sum, stride, c, width, lp_size_min(b->p->m - m0, width), b->n_rows);
}

static void finish_tile(const lp_band *b, size_t m0, size_t width) {
    const lp_product *p = b->p;
    float *c = b->sums + m0 * b->height, *up = c + b->pitch * width;
    for (size_t s = 0; s * b->pitch < b->height; s++) {
        const lp_factor *f = b->factor + s;
        add_bias(c + s * b->pitch * width, f, b->row, b->n_rows, width);
        put(b, f->y, f->add, f->sum, c + s * b->pitch * width, m0, width);
    }
    if (!p->gated || (!p->act && !p->hidden)) return;
    activate(c, NULL, b->n_rows * width);
    put(b, p->act, NULL, NULL, c, m0, width);
    if (!p->hidden) return;
    activate(c, up, b->n_rows * width);
    put(b, p->hidden, NULL, NULL, c, m0, width);
}

/* One row of results: y = c + bias, sum = add + y. */
static void put_row(float *c, const lp_factor *f, size_t row, size_t n, size_t token) {
    size_t at = token * f->w->n_rows + row;
    add_bias(c, f, row, n, 1);
    if (f->y) memcpy(f->y + at, c, n * sizeof *c);
    for (size_t i = 0; f->sum && i < n; i++) f->sum[at + i] = f->add[at + i] + c[i];
}

static void finish_direct(const lp_band *b) {
    const lp_product *p = b->p;
    for (size_t t = 0; t < p->m; t++) {
        float *c = b->sums + t * b->height, *up = c + b->pitch;
        size_t at = t * b->factor->w->n_rows + b->row, n_bytes = b->n_rows * sizeof *c;
        for (size_t s = 0; s * b->pitch < b->height; s++)
            put_row(c + s * b->pitch, b->factor + s, b->row, b->n_rows, t);
        if (!p->gated || (!p->act && !p->hidden)) continue;
        activate(c, NULL, b->n_rows);
        if (p->act) memcpy(p->act + at, c, n_bytes);
        activate(c, up, b->n_rows);
        if (p->hidden) memcpy(p->hidden + at, c, n_bytes);
    }
}

static void finish_tiles(const lp_band *b) {
    for (size_t m0 = 0, width; m0 < b->p->m; m0 += width) {
        width = tile_width(b->p->m - m0);
        finish_tile(b, m0, width);
    }
}
