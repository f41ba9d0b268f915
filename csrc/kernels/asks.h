/* asks.h - what comes next from memory, asked for while a panel of k is multiplied with all tokens. */

/* What the tiles of a panel ask for: some rows each of a later panel, and the x of the next tile. */
typedef struct {
    asked now;           /* by the tile that comes next */
    const char *x_end;   /* of what is asked for of x */
    size_t k, n;         /* first column of the later block; rows at a time, 0: none */
    size_t stripe, left; /* rows of the stripe that come still */
} block_asks;

/* The block of columns k .. k + kc at work. Its first tile widens n_next columns of the block that follows, the others
 * ask for the one after that. */
typedef struct {
    size_t k, kc, n_next;
    block_asks asks;
} k_block;

/* How many rows of weights each of n_calls tiles asks for, so that they ask for all of them, evenly: weights that came
 * all at once would keep the core waiting, and everything else that comes from a cache. 0: too few tiles. */
static size_t rows_asked(size_t height, size_t n_calls, lp_word word) {
    size_t n = word == LP_WORD_F32 ? 4 : 8; /* a line for every four columns, at most */
    if (height > BAND_ROWS) n /= 2;         /* of gate and up 8 at a time are 13 % slower at 96 tokens */
    if (n * n_calls < height) return 0;
    while (n > 1 && n / 2 * n_calls >= height) n /= 2;
    return n;
}

static void ask_stripe(block_asks *a, const lp_band *b, size_t stripe) {
    size_t g = stripe * b->pitch;
    a->stripe = stripe;
    a->left = a->n && g < b->height ? b->pitch : 0;
    size_t bytes = a->left ? lp_word_bytes(factor_of(b, g)->w->word) : 0;
    a->now.w = a->left ? weights_at(b, g, a->k) : NULL;
    a->now.w_step = 4 * a->n * bytes;
    a->now.n_pieces = a->left ? K_PANEL / PIECE / a->n : 0;
    a->now.pitch = b->p->k * bytes;
}

/* The x of the tile after the one at m0, or after the last of the first one of the next block: it comes from L3, and
 * later than wanted. */
static void ask_x(k_block *at, const lp_product *p, size_t m0, size_t width) {
    size_t next = m0 + width < p->m ? m0 + width : 0, k = next ? at->k : at->k + at->kc;
    if (k == p->k) k = 0;
    width = tile_width(p->m - next);
    const float *x = p->x_packed + next * p->k + k * width;
    at->asks.now.x = (const char *)x;
    at->asks.x_end = (const char *)(x + width * lp_size_min(at->kc, p->k - k));
}

/* On to what the next tile asks for. */
static void ask_on(block_asks *a, const lp_band *b) {
    if (a->now.x && (a->now.x += X_ASKED) >= a->x_end) a->now.x = NULL;
    if (!a->left) return;
    a->now.w += a->n * a->now.pitch;
    a->left -= lp_size_min(a->left, a->n);
    if (!a->left) ask_stripe(a, b, a->stripe + 1);
}

static k_block begin_block(const lp_band *b, size_t k, size_t kc, size_t n_next) {
    size_t n_wide = b->p->m > WIDEST ? b->p->m / WIDE : 0;
    k_block at = {.k = k, .kc = kc, .n_next = n_next, .asks = {.k = k + kc + n_next}};
    if (n_next == K_PANEL && n_wide)
        at.asks.n = rows_asked(b->height, (n_wide - 1) * (b->height / ROWS_2), b->factor->w->word);
    ask_stripe(&at.asks, b, 0);
    return at;
}
