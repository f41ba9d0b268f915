/* attend.h - causal attention of one head for a tile of queries; every row of kernels has this body.
 *
 * Vectors run along the queries, as in gemm.h, so k and v are numbers to broadcast, k by panels of keys and v by panels
 * of columns. Scores stay in scratch as [key][query of the tile]; the softmax runs down the keys with one query per
 * lane and needs no sum across lanes. ATTEND_ROWS is how many keys (or columns of v) a tile takes at once: of keys
 * after the last query only those that fill up the last tile are multiplied, and nobody reads their scores. On the
 * diagonal a lane takes part up to its own key. */

_Static_assert(LP_PANEL % ATTEND_ROWS == 0, "what a tile takes at once lies side by side");
NOINLINE void qk_2(float *c, const float *q, const float *k, size_t kc, int first) {
    T(tile)(c, q, k, 1, LP_PANEL, kc, 0, first, 2, ATTEND_ROWS);
}
NOINLINE void qk_1(float *c, const float *q, const float *k, size_t kc, int first) {
    T(tile)(c, q, k, 1, LP_PANEL, kc, 0, first, 1, ATTEND_ROWS);
}

typedef void pv_tile(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first);
NOINLINE void pv_2(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first) {
    T(tile)(c, p, v, 1, LP_PANEL, kc, n_masked, first, 2, ATTEND_ROWS);
}
NOINLINE void pv_1(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first) {
    T(tile)(c, p, v, 1, LP_PANEL, kc, n_masked, first, 1, ATTEND_ROWS);
}
/* the last columns of a head whose size is no multiple of ATTEND_ROWS */
NOINLINE void pv_2_column(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first) {
    T(tile)(c, p, v, 1, LP_PANEL, kc, n_masked, first, 2, 1);
}
NOINLINE void pv_1_column(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first) {
    T(tile)(c, p, v, 1, LP_PANEL, kc, n_masked, first, 1, 1);
}
#ifdef LP_HALF
NOINLINE void qk_half(float *c, const float *q, const float *k, size_t kc, int first) {
    HALF_T(tile)(c, q, k, 1, LP_PANEL, kc, 0, first, 1, ATTEND_ROWS);
}
NOINLINE void pv_half(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first) {
    HALF_T(tile)(c, p, v, 1, LP_PANEL, kc, n_masked, first, 1, ATTEND_ROWS);
}
NOINLINE void pv_half_column(float *c, const float *p, const float *v, size_t kc, size_t n_masked, int first) {
    HALF_T(tile)(c, p, v, 1, LP_PANEL, kc, n_masked, first, 1, 1);
}
#define scale_scores_half HALF_T(scale_scores)
#define softmax_half HALF_T(softmax)
#else
#define scale_scores_half T(scale_scores)
#define softmax_half T(softmax)
#define qk_half qk_1
#define pv_half pv_1
#define pv_half_column pv_1_column
#endif

/* One tile of queries at work. */
typedef struct {
    const lp_head *head;
    size_t m0, m, width; /* first query, queries, lanes */
    size_t n_keys;       /* m0 + m */
    float *q;            /* [head_dim][width] */
    float *s;            /* [n_keys, rounded up][width]: scores, then pattern */
    float *z;            /* [head_dim][width] */
} lp_queries;

static size_t round_keys(size_t n) { return (n + ATTEND_ROWS - 1) / ATTEND_ROWS * ATTEND_ROWS; }

static size_t attend_scratch(size_t n_tokens, size_t head_dim) { return (round_keys(n_tokens) + 2 * head_dim) * WIDE; }

static void dot_keys(const lp_queries *t) {
    const lp_head *h = t->head;
    for (size_t key = 0; key < t->n_keys; key += ATTEND_ROWS) {
        const float *k = h->k + key / LP_PANEL * h->head_dim * LP_PANEL + key % LP_PANEL;
        for (size_t d = 0; d < h->head_dim; d += LP_K_BLOCK)
            (t->width == WIDE   ? qk_2
             : t->width == LP_N ? qk_1
                                : qk_half)(t->s + key * t->width, t->q + d * t->width, k + d * LP_PANEL,
                                           lp_size_min(h->head_dim - d, LP_K_BLOCK), d == 0);
    }
}

/* Keys key .. end of rows m0 .. m0 + m of a [n_tokens, n_tokens] map. */
static void put_keys(const lp_queries *t, float *map, size_t key, size_t end) {
    size_t n = t->head->n_tokens;
    if (!map || key >= end) return;
    map += t->m0 * n + key;
    int far = on_lines(map, NULL, n, end - key, t->width);
    (far ? unpack_to_memory : unpack_tokens)(map, NULL, NULL, n, t->s + key * t->width, t->width, t->m, end - key);
}

/* -inf for the keys after them; in the pattern they are 0 already. */
static void put_later_scores(const lp_queries *t) {
    size_t n = t->head->n_tokens;
    float *scores = t->head->scores + t->m0 * n;
    int far = on_lines(scores, NULL, n, t->n_keys, t->width);
    for (size_t i = 0; i < t->m; i++, scores += n) {
        size_t key = t->n_keys;
        for (; far && key < n; key += LP_N) V(stream)(scores + key, V(set1)(-INFINITY));
        for (; key < n; key++) scores[key] = -INFINITY;
    }
}

/* scores to pattern, in place */
static void normalize(const lp_queries *t) {
    float most[WIDE];
    int half = t->width < LP_N;
    for (size_t v = 0; v < t->width; v += LP_N)
        (half ? scale_scores_half : T(scale_scores))(most + v, t->s + v, t->width, t->n_keys, t->m0 + v,
                                                     t->head->scale);
    put_keys(t, t->head->scores, 0, t->n_keys);
    if (t->head->scores) put_later_scores(t);
    if (!t->head->pattern && !t->head->z) return;
    for (size_t v = 0; v < t->width; v += LP_N)
        (half ? softmax_half : T(softmax))(t->s + v, most + v, t->width, t->n_keys, t->m0 + v);
}

/* How many of n keys are put before each tile of columns, so that all are: whole lines. */
static size_t put_share(size_t n, size_t head_dim) {
    size_t n_tiles = head_dim / ATTEND_ROWS + head_dim % ATTEND_ROWS;
    return (n + n_tiles * LINE - 1) / (n_tiles * LINE) * LINE;
}

/* z = pattern x v: blocks of keys, counted from key 0, each for all of z while the pattern is in L1. The diagonal lies
 * inside the last block, because a tile's width divides LP_K_BLOCK and m0 is a multiple of it. */
_Static_assert(LP_K_BLOCK % WIDE == 0, "a tile of queries ends inside one block of keys");
static void mix_values(const lp_queries *t) {
    const lp_head *h = t->head;
    enum tile_kind kind = kind_of(t->width);
    pv_tile *const full[] = {pv_half, pv_1, pv_2}, *const column[] = {pv_half_column, pv_1_column, pv_2_column};
    for (size_t key = 0; key <= t->m0; key += LP_K_BLOCK) {
        size_t before = lp_size_min(t->m0 - key, LP_K_BLOCK), masked = before < LP_K_BLOCK ? t->m : 0;
        size_t end = key + before + masked, share = put_share(before + masked, h->head_dim), put = key;
        for (size_t d = 0, n; d < h->head_dim; d += n, put += share) {
            n = h->head_dim - d < ATTEND_ROWS ? 1 : ATTEND_ROWS;
            put_keys(t, h->pattern, put, lp_size_min(put + share, end));
            const float *v = h->v + d / LP_PANEL * h->v_stride + key * LP_PANEL + d % LP_PANEL;
            (n == 1 ? column : full)[kind](t->z + d * t->width, t->s + key * t->width, v, before, masked, key == 0);
        }
    }
}

static void attend(const lp_head *h, size_t i, float *scratch) {
    size_t end = lp_size_min((i + 1) * WIDE, h->n_tokens);
    for (size_t m0 = i * WIDE, width; m0 < end; m0 += width) {
        width = tile_width(end - m0);
        size_t m = lp_size_min(end - m0, width), n_keys = m0 + m;
        float *q = scratch, *z = q + h->head_dim * width, *s = z + h->head_dim * width;
        lp_queries t = {h, m0, m, width, n_keys, q, s, z};
        pack_tokens(q, h->q + m0 * h->q_stride, h->q_stride, width, m, h->head_dim);
        dot_keys(&t);
        normalize(&t);
        if (!h->z) {
            put_keys(&t, h->pattern, 0, n_keys);
            continue;
        }
        mix_values(&t);
        put_tokens(h->n_tokens, h->z + m0 * h->q_stride, NULL, NULL, h->q_stride, z, width, m, h->head_dim);
    }
    V(stream_end)();
}
