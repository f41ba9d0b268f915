/* stats.c - adds the values of a run to the states. A job is 16 channels: it gathers their values group by group, up to
 * 2048 rows at a time; only one thread writes a channel's state. */
#include "stats.h"

#include <stdlib.h>
#include <string.h>

#include "../base/size.h" /* lp_size_min */

#define LANES 16
#define ROWS_AHEAD 16
#define MOST_ROWS LP_TALLY_VALUES
#define SLICE_JOBS 64 /* jobs of MOST_ROWS tokens between two polls, about 10 ms of a thread */

struct lp_stats {
    lp_stats_spec spec; /* its thetas are owned */
    size_t n_targets, n_groups;
    lp_stats_target *targets;
    lp_stats_state **states; /* [n_targets, n_groups], each allocated on first use */
    lp_stats_fault fault;
    const lp_model *model; /* of the batch; borrowed until lp_stats_end */
    lp_stats_batch batch;
    /* The rows of the batch, sorted by group in the order of `present`. */
    size_t n_present;
    size_t *present;       /* [n_present]: groups that have rows */
    size_t *present_start; /* [n_present + 1]: into rows */
    uint32_t *rows;        /* [n_tokens] */
    uint32_t *sequence;    /* [n_tokens]: of each row */
    size_t *map_at;        /* [n_seqs]: tokens^2 of the sequences before it */
    uint8_t *kept;         /* [LP_GRAM_TOKENS] */
    struct work *work;     /* [n_work], one per worker */
    size_t n_work;
    lp_gram_work gram;
};

/* The scratch of one worker. */
typedef struct work {
    lp_tally tally;
    uint32_t x[LANES][MOST_ROWS + 16]; /* padded: a power of two apart, lanes would share cache sets */
    size_t n[LANES];
    uint32_t finite[MOST_ROWS], finite_row[MOST_ROWS];
} work;

/* ---- states -------------------------------------------------------------------------------------------------- */

static void *zeros(size_t a, size_t b, size_t c, size_t item) {
    size_t n;
    if (lp_size_mul3(&n, a, b, c)) return NULL;
    return calloc(n ? n : 1, item);
}

static void state_free(lp_stats_state *s, size_t n_channels) {
    if (!s) return;
    for (size_t i = 0; s->histograms && i < n_channels; i++) free(s->histograms[i].pages);
    void *const parts[] = {s->counts, s->range, s->sums,     s->histograms, s->fires,
                           s->top,    s->top_n, s->prefixes, s->digits,     s};
    lp_gram_free(&s->gram);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) free(parts[i]);
}

static lp_stats_state *state_new(const lp_stats_spec *q, size_t n) {
    lp_stats_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    int failed =
        !(s->counts = zeros(n, LP_N_COUNTS, 1, sizeof *s->counts)) || !(s->range = zeros(n, 2, 1, sizeof *s->range)) ||
        (q->moments && !(s->sums = zeros(n, LP_SUM_LIMBS, 1, sizeof *s->sums))) ||
        (q->histogram && !(s->histograms = zeros(n, 1, 1, sizeof *s->histograms))) ||
        (q->n_thetas && !(s->fires = zeros(n, q->n_thetas, 1, sizeof *s->fires))) ||
        (q->n_top &&
         (!(s->top = zeros(n, q->n_top, 1, sizeof *s->top)) || !(s->top_n = zeros(n, 1, 1, sizeof *s->top_n)))) ||
        (q->n_prefixes && (!(s->prefixes = zeros(n, q->n_prefixes, 1, sizeof *s->prefixes)) ||
                           !(s->digits = zeros(n, q->n_prefixes, (size_t)1 << q->n_bits, sizeof *s->digits)))) ||
        (q->gram && lp_gram_init(&s->gram, n));
    if (failed) {
        state_free(s, n);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) s->range[2 * i] = INT32_MAX, s->range[2 * i + 1] = INT32_MIN;
    return s;
}

lp_stats_state *lp_stats_state_of(lp_stats *s, size_t target, size_t group) {
    lp_stats_state **state = &s->states[target * s->n_groups + group];
    if (!*state) *state = state_new(&s->spec, s->targets[target].n_channels);
    return *state;
}

/* ---- statistics --------------------------------------------------------------------------------------------- */

int lp_stats_new(lp_stats **stats, const lp_stats_spec *spec, const lp_stats_target *targets, size_t n_targets,
                 size_t n_groups, lp_error *err) {
    if (spec->n_prefixes && (spec->high > 31 || !spec->n_bits || spec->n_bits > spec->high || spec->n_bits > 16))
        return lp_fail(err, LP_EARG, "digits of %u bits below bit %u", spec->n_bits, spec->high);
    for (size_t i = 0; i < n_targets; i++)
        if (targets[i].n_keys && (spec->n_top || spec->gram))
            return lp_fail(err, LP_EARG, "top and gram need one row per token, which a map does not have");
    lp_stats *s = calloc(1, sizeof *s);
    int failed = !s;
    if (s) {
        s->spec = *spec, s->n_targets = n_targets, s->n_groups = n_groups;
        float *thetas = zeros(spec->n_thetas, 1, 1, sizeof *thetas);
        s->spec.thetas = thetas;
        failed = !thetas || !(s->targets = zeros(n_targets, 1, 1, sizeof *targets)) ||
                 !(s->states = zeros(n_targets, n_groups, 1, sizeof *s->states)) ||
                 !(s->present = zeros(n_groups, 1, 1, sizeof *s->present)) ||
                 !(s->present_start = zeros(n_groups + 1, 1, 1, sizeof *s->present_start)) ||
                 !(s->kept = zeros(LP_GRAM_TOKENS, 1, 1, 1));
        if (!failed && spec->n_thetas) memcpy(thetas, spec->thetas, spec->n_thetas * sizeof *thetas);
        if (!failed && n_targets) memcpy(s->targets, targets, n_targets * sizeof *targets);
    }
    if (failed) {
        lp_stats_free(s);
        return lp_fail(err, LP_ENOMEM, "no memory for the statistics of %zu targets in %zu groups", n_targets,
                       n_groups);
    }
    *stats = s;
    return 0;
}

void lp_stats_free(lp_stats *s) {
    if (!s) return;
    for (size_t i = 0; s->states && i < s->n_targets * s->n_groups; i++)
        state_free(s->states[i], s->targets[i / s->n_groups].n_channels);
    lp_gram_work_free(&s->gram);
    void *const parts[] = {(void *)(uintptr_t)s->spec.thetas,
                           s->targets,
                           s->states,
                           s->present,
                           s->present_start,
                           s->rows,
                           s->sequence,
                           s->map_at,
                           s->kept,
                           s->work};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) free(parts[i]);
    free(s);
}

size_t lp_stats_n_targets(const lp_stats *s) { return s->n_targets; }
size_t lp_stats_n_groups(const lp_stats *s) { return s->n_groups; }
const lp_stats_target *lp_stats_at(const lp_stats *s, size_t target) { return &s->targets[target]; }
const lp_stats_spec *lp_stats_spec_of(const lp_stats *s) { return &s->spec; }
lp_stats_fault lp_stats_fault_of(const lp_stats *s) { return s->fault; }

/* ---- the tokens of a run ------------------------------------------------------------------------------------- */

static int check_targets(const lp_stats *s, const lp_model *model, lp_error *err) {
    for (size_t i = 0; i < s->n_targets; i++) {
        const lp_stats_target *t = &s->targets[i];
        const char *name = lp_point_name(t->point);
        if (!lp_model_has(model, t->point)) return lp_fail(err, LP_EARG, "the model has no %s", name);
        size_t n_layers = lp_point_per_layer(t->point) ? model->config.n_layers : 1;
        if (t->layer >= n_layers)
            return lp_fail(err, LP_EARG, "%s has no layer %zu: there are %zu", name, t->layer, n_layers);
        lp_width width = lp_point_width(t->point);
        size_t floats = lp_config_width(&model->config, width);
        int is_map = width == LP_WIDTH_MAP;
        if (is_map != (t->n_keys > 0) || t->n_channels % (is_map ? t->n_keys : 1) ||
            t->n_channels / (is_map ? t->n_keys : 1) != floats)
            return lp_fail(err, LP_EARG, "%s is declared with %zu channels, the model has %zu", name, t->n_channels,
                           floats);
    }
    return 0;
}

/* Sorts the rows by group. */
static int sort_rows(lp_stats *s, lp_error *err) {
    const lp_stats_batch *b = &s->batch;
    size_t *count = calloc(s->n_groups + 1, sizeof *count);
    if (!count) return lp_fail(err, LP_ENOMEM, "no memory for %zu groups", s->n_groups);
    for (size_t t = 0; t < b->n_tokens; t++)
        if (b->group[t] >= 0) count[b->group[t]]++;
    size_t at = 0;
    s->n_present = 0;
    for (size_t g = 0; g < s->n_groups; g++) {
        size_t n = count[g];
        count[g] = at;
        if (n) s->present[s->n_present] = g, s->present_start[s->n_present++] = at;
        at += n;
    }
    s->present_start[s->n_present] = at;
    for (size_t t = 0; t < b->n_tokens; t++)
        if (b->group[t] >= 0) s->rows[count[b->group[t]]++] = (uint32_t)t;
    free(count);
    return 0;
}

static int grow(void *array, size_t n, size_t item) {
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    size_t n_bytes;
    if (lp_size_mul(&n_bytes, n ? n : 1, item) || !(grown = realloc(old, n_bytes))) return -1;
    memcpy(array, &grown, sizeof grown);
    return 0;
}

int lp_stats_begin(lp_stats *s, const lp_model *model, const lp_stats_batch *batch, lp_error *err) {
    if (s->fault) return lp_fail(err, LP_EARG, "these statistics stopped in the middle of a run; collect them again");
    if (check_targets(s, model, err)) return -1;
    for (size_t t = 0; t < batch->n_tokens; t++)
        if (batch->group[t] >= 0 && (size_t)batch->group[t] >= s->n_groups)
            return lp_fail(err, LP_EARG, "token %zu is of group %d; there are %zu groups", t, (int)batch->group[t],
                           s->n_groups);
    s->batch = *batch;
    s->model = model;
    if (grow(&s->rows, batch->n_tokens, sizeof *s->rows) || grow(&s->sequence, batch->n_tokens, sizeof *s->sequence) ||
        grow(&s->map_at, batch->n_seqs, sizeof *s->map_at))
        return lp_fail(err, LP_ENOMEM, "no memory for the groups of %zu tokens", batch->n_tokens);
    size_t map_at = 0;
    for (size_t q = 0; q < batch->n_seqs; q++) {
        size_t n = batch->seq_start[q + 1] - batch->seq_start[q];
        for (size_t t = batch->seq_start[q]; t < batch->seq_start[q + 1]; t++) s->sequence[t] = (uint32_t)q;
        s->map_at[q] = map_at;
        map_at += n * n;
    }
    return sort_rows(s, err);
}

/* ---- values -------------------------------------------------------------------------------------------------- */

typedef struct {
    lp_stats *s;
    const lp_stats_target *target;
    lp_stats_state **states; /* [n_groups] */
    const float *values;
    size_t n_heads;   /* of a map */
    size_t first_job; /* of a slice */
    int failed;
} pass;

/* Gathers up to LANES channels, from `channel` on, of n rows. */
static void gather_rows(work *w, const float *values, size_t d, size_t channel, const uint32_t *rows, size_t n) {
    size_t n_lanes = lp_size_min(LANES, d - channel);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits[LANES];
        /* the stride is too large for hardware prefetchers */
        if (i + ROWS_AHEAD < n) __builtin_prefetch(values + rows[i + ROWS_AHEAD] * d + channel);
        memcpy(bits, values + rows[i] * d + channel, n_lanes * sizeof *bits);
        if (n_lanes == LANES)
            for (size_t j = 0; j < LANES; j++) w->x[j][i] = bits[j];
        else
            for (size_t j = 0; j < n_lanes; j++) w->x[j][i] = bits[j];
    }
    for (size_t j = 0; j < LANES; j++) w->n[j] = j < n_lanes ? n : 0;
}

/* The same for a map, whose channels are [head, key]: only queries that see the key. */
static void gather_map(work *w, const pass *p, size_t head, size_t key, const uint32_t *rows, size_t n) {
    const lp_stats_batch *b = &p->s->batch;
    memset(w->n, 0, sizeof w->n);
    for (size_t i = 0; i < n; i++) {
        size_t q = p->s->sequence[rows[i]], start = b->seq_start[q], length = b->seq_start[q + 1] - start;
        size_t query = rows[i] - start, end = lp_size_min(lp_size_min(query + 1, p->target->n_keys), key + LANES);
        size_t window = p->s->model->layers[p->target->layer].window,
               first = window && query >= window ? query + 1 - window : 0;
        const float *map = p->values + p->s->map_at[q] * p->n_heads + (head * length + query) * length;
        for (size_t k = key > first ? key : first; k < end; k++)
            memcpy(&w->x[k - key][w->n[k - key]++], map + k, sizeof(uint32_t));
    }
}

typedef struct {
    size_t n_special, n_zeros;
    int32_t least, most;
} facts;

static facts find_facts(const uint32_t *x, size_t n) {
    uint32_t special = 0, n_zeros = 0;
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (size_t i = 0; i < n; i++) {
        int32_t key = lp_float_key(x[i]);
        special += (x[i] & 0x7f800000) == 0x7f800000;
        n_zeros += x[i] << 1 == 0;
        least = key < least ? key : least;
        most = key > most ? key : most;
    }
    return (facts){special, n_zeros, least, most};
}

/* Copies the finite values and their rows, and counts the others. */
static size_t keep_finite(work *w, int64_t *counts, const uint32_t *x, const uint32_t *rows, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if ((x[i] & 0x7f800000) == 0x7f800000) {
            counts[x[i] & 0x7fffff ? LP_COUNT_NAN : LP_COUNT_INF]++;
            continue;
        }
        w->finite[kept] = x[i], w->finite_row[kept++] = rows[i];
    }
    return kept;
}

static void see_top(const lp_stats *s, lp_stats_state *state, size_t channel, const uint32_t *x, const uint32_t *rows,
                    size_t n, int32_t most) {
    size_t k = s->spec.n_top, *held = &state->top_n[channel];
    lp_top_entry *heap = state->top + channel * k;
    const lp_stats_batch *b = &s->batch;
    if (*held == k && most < heap[0].key) return;
    for (size_t first = 0; first < n; first += 64) {
        size_t end = lp_size_min(first + 64, n);
        int32_t best = INT32_MIN;
        for (size_t i = first; i < end; i++) {
            int32_t key = lp_float_key(x[i]);
            best = key > best ? key : best;
        }
        if (*held == k && best < heap[0].key) continue;
        for (size_t i = first; i < end; i++) {
            int32_t key = lp_float_key(x[i]);
            if (*held == k && key < heap[0].key) continue;
            size_t q = s->sequence[rows[i]];
            lp_top_entry entry = {key, (int32_t)(rows[i] - b->seq_start[q]), b->document[q], b->start[q]};
            lp_top_put(heap, held, k, &entry);
        }
    }
}

static void see_fires(const lp_stats_spec *spec, int64_t *fires, const uint32_t *x, size_t n) {
    for (size_t j = 0; j < spec->n_thetas; j++) {
        uint32_t bits, above = 0;
        memcpy(&bits, &spec->thetas[j], sizeof bits);
        int32_t theta = lp_float_key(bits << 1 ? bits : 0); /* -0 as +0, above which neither zero is */
        for (size_t i = 0; i < n; i++) above += lp_float_key(x[i]) > theta;
        fires[j] += above;
    }
}

static void see_digits(const lp_stats_spec *spec, lp_stats_state *state, size_t channel, const uint32_t *x, size_t n) {
    uint32_t mask = ((uint32_t)1 << spec->n_bits) - 1;
    for (size_t j = 0; j < spec->n_prefixes; j++) {
        size_t at = channel * spec->n_prefixes + j;
        uint32_t prefix = state->prefixes[at], *digits = state->digits + (at << spec->n_bits);
        for (size_t i = 0; i < n; i++)
            if (x[i] >> spec->high == prefix) digits[x[i] >> (spec->high - spec->n_bits) & mask]++;
    }
}

static int see_channel(const lp_stats *s, work *w, lp_stats_state *state, size_t channel, const uint32_t *x,
                       const uint32_t *rows, size_t n) {
    const lp_stats_spec *spec = &s->spec;
    int64_t *counts = state->counts + channel * LP_N_COUNTS;
    int32_t *range = state->range + 2 * channel;
    facts f = find_facts(x, n);
    if (f.n_special) {
        n = keep_finite(w, counts, x, rows, n);
        x = w->finite, rows = w->finite_row;
        f = find_facts(x, n);
    }
    if (!n) return 0;
    counts[LP_COUNT_FINITE] += (int64_t)n;
    counts[LP_COUNT_ZERO] += (int64_t)f.n_zeros;
    if (f.least < range[0]) range[0] = f.least;
    if (f.most > range[1]) range[1] = f.most;
    if (spec->n_thetas) see_fires(spec, state->fires + channel * spec->n_thetas, x, n);
    if (spec->n_top) see_top(s, state, channel, x, rows, n, f.most);
    if (spec->n_prefixes) see_digits(spec, state, channel, x, n);
    if (!spec->moments && !spec->histogram) return 0;
    lp_tally_add(&w->tally, x, n, spec->moments, spec->histogram);
    return lp_tally_flush(&w->tally, spec->moments ? state->sums + channel * LP_SUM_LIMBS : NULL,
                          spec->histogram ? state->histograms + channel : NULL);
}

/* The number of tiles of LANES channels; of a map, per head. */
static size_t tiles_of(const lp_stats_target *t) {
    return ((t->n_keys ? t->n_keys : t->n_channels) + LANES - 1) / LANES;
}

static void channels_job(void *arg, size_t job, size_t worker) {
    pass *p = arg;
    lp_stats *s = p->s;
    work *w = &s->work[worker];
    size_t n_tiles = tiles_of(p->target), i = p->first_job + job, head = i / n_tiles, first = i % n_tiles * LANES;
    size_t channel = head * p->target->n_keys + first;
    for (size_t g = 0; g < s->n_present; g++)
        for (size_t at = s->present_start[g], end; at < s->present_start[g + 1]; at = end) {
            end = lp_size_min(at + MOST_ROWS, s->present_start[g + 1]);
            const uint32_t *rows = s->rows + at;
            if (p->target->n_keys)
                gather_map(w, p, head, first, rows, end - at);
            else
                gather_rows(w, p->values, p->target->n_channels, channel, rows, end - at);
            for (size_t j = 0; j < LANES; j++)
                if (w->n[j] && see_channel(s, w, p->states[s->present[g]], channel + j, w->x[j], rows, w->n[j]))
                    __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        }
}

/* ---- the Gram ------------------------------------------------------------------------------------------------ */

static int is_finite_row(const float *x, size_t d) {
    uint32_t bad = 0;
    for (size_t i = 0; i < d; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

/* Adds the blocks of each sequence, one group's tokens kept. As lp_gram_add. */
static int see_gram(const pass *p, const lp_ops *ops, size_t group) {
    lp_stats *s = p->s;
    const lp_stats_batch *b = &s->batch;
    lp_gram *gram = &p->states[group]->gram;
    size_t d = p->target->n_channels;
    for (size_t q = 0; q < b->n_seqs; q++)
        for (size_t at = b->seq_start[q], n; at < b->seq_start[q + 1]; at += n) {
            n = lp_size_min(LP_GRAM_TOKENS, b->seq_start[q + 1] - at);
            for (size_t t = 0; t < n; t++) {
                int is_in = b->group[at + t] == (int32_t)group;
                s->kept[t] = is_in && is_finite_row(p->values + (at + t) * d, d);
                gram->n_left_out += is_in && !s->kept[t];
            }
            int stopped = lp_gram_add(gram, &s->gram, ops, p->values + at * d, s->kept, n);
            if (stopped) return stopped;
        }
    return 0;
}

/* ---- a value ------------------------------------------------------------------------------------------------- */

static int no_memory(lp_stats *s) {
    s->fault = LP_STATS_NO_MEMORY;
    return -1;
}

/* In slices, because a poll may fork: within a slice, the child would add values twice. -1: stopped by the poll. */
static int see_channels(pass *p, const lp_ops *ops) {
    lp_parallel quiet = {.n_threads = ops->parallel.n_threads};
    size_t n = p->n_heads * tiles_of(p->target);
    size_t slice = quiet.n_threads * (1 + SLICE_JOBS * MOST_ROWS / (p->s->batch.n_tokens + 1));
    for (; p->first_job < n; p->first_job += slice) {
        if (ops->parallel.poll && ops->parallel.poll(ops->parallel.poll_arg)) return -1;
        lp_pool_run(&quiet, lp_size_min(slice, n - p->first_job), channels_job, p);
    }
    return 0;
}

static int see_target(lp_stats *s, size_t target, const lp_ops *ops, const float *values) {
    const lp_stats_target *t = &s->targets[target];
    size_t n_threads = ops->parallel.n_threads;
    pass p = {.s = s, .target = t, .states = s->states + target * s->n_groups, .values = values};
    p.n_heads = t->n_keys ? t->n_channels / t->n_keys : 1;
    for (size_t g = 0; g < s->n_present; g++)
        if (!lp_stats_state_of(s, target, s->present[g])) return no_memory(s);
    if (s->n_work < n_threads) {
        free(s->work);
        s->n_work = 0;
        if (!(s->work = zeros(n_threads, 1, 1, sizeof *s->work))) return no_memory(s);
        s->n_work = n_threads;
    }
    if (see_channels(&p, ops)) return -1;
    if (p.failed) return no_memory(s);
    for (size_t g = 0; s->spec.gram && g < s->n_present; g++) {
        int stopped = see_gram(&p, ops, s->present[g]);
        if (stopped) return stopped < 0 ? -1 : no_memory(s);
    }
    return 0;
}

int lp_stats_see(void *stats, const lp_ops *ops, lp_point point, size_t layer, const float *values) {
    lp_stats *s = stats;
    if (!s->fault) s->fault = LP_STATS_STOPPED; /* until lp_stats_end */
    for (size_t i = 0; i < s->n_targets; i++)
        if (s->targets[i].point == point && s->targets[i].layer == layer && see_target(s, i, ops, values)) return -1;
    return 0;
}

void lp_stats_end(lp_stats *s) {
    if (s->fault == LP_STATS_STOPPED) s->fault = LP_STATS_WHOLE;
}
