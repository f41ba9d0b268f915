/* stats.h - statistics of the values of many runs, accumulated while each run computes them.
 *
 * A target is one point of one layer, with one channel per float of a row. A map [n_heads, T, T] has one channel per
 * head and each of the first n_keys keys, and one row per query that sees the key. Each token belongs to one group or
 * is left out, and each (target, group) has a state of counts, extremes and exact sums, which therefore does not depend
 * on batching, threads or order.
 *
 * Values that are not finite are counted and otherwise left out. If a run stops or memory runs out midway, the
 * statistics have a fault, which is permanent. */
#ifndef LP_STATS_H
#define LP_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"  /* lp_error */
#include "../model/model.h" /* lp_model, lp_point */
#include "../ops/ops.h"     /* lp_ops */
#include "gram.h"           /* lp_gram */
#include "tally.h"          /* lp_histogram */
#include "top.h"            /* lp_top_entry */

enum { LP_COUNT_FINITE, LP_COUNT_ZERO, LP_COUNT_NAN, LP_COUNT_INF, LP_N_COUNTS };

typedef struct {
    lp_point point;
    size_t layer;
    size_t n_channels;
    size_t n_keys; /* of a map; 0: rows of tokens */
} lp_stats_target;

typedef struct {
    int moments, histogram, gram;
    size_t n_top;
    size_t n_thetas;
    const float *thetas; /* fires: x > theta */
    /* Digits: per prefix, a histogram of the n_bits below bit `high`, over values whose higher bits equal it. */
    size_t n_prefixes;
    unsigned high, n_bits;
} lp_stats_spec;

typedef struct {
    int64_t *counts;          /* [n_channels, LP_N_COUNTS] */
    int32_t *range;           /* [n_channels, 2]: lp_float_key of the smallest and the largest */
    uint64_t *sums;           /* [n_channels, LP_SUM_LIMBS]; this and those below: NULL if not requested */
    lp_histogram *histograms; /* [n_channels] */
    int64_t *fires;           /* [n_channels, n_thetas] */
    lp_top_entry *top;        /* [n_channels, n_top] */
    size_t *top_n;            /* [n_channels] */
    uint32_t *prefixes;       /* [n_channels, n_prefixes] */
    uint32_t *digits;         /* [n_channels, n_prefixes, 1 << n_bits] */
    lp_gram gram;
} lp_stats_state;

/* The tokens of the next run. */
typedef struct {
    size_t n_seqs, n_tokens;
    const size_t *seq_start;         /* [n_seqs + 1]; borrowed until lp_stats_end, as all of these */
    const int32_t *group;            /* [n_tokens]; negative: left out */
    const int64_t *document, *start; /* [n_seqs]: where the sequence's first token is */
} lp_stats_batch;

typedef struct lp_stats lp_stats;

typedef enum { LP_STATS_WHOLE, LP_STATS_STOPPED, LP_STATS_NO_MEMORY } lp_stats_fault;

/* Copies targets [n_targets] and the thetas. LP_ENOMEM, LP_EARG. */
int lp_stats_new(lp_stats **stats, const lp_stats_spec *spec, const lp_stats_target *targets, size_t n_targets,
                 size_t n_groups, lp_error *err);
void lp_stats_free(lp_stats *stats); /* NULL is legal */

size_t lp_stats_n_targets(const lp_stats *stats);
size_t lp_stats_n_groups(const lp_stats *stats);
const lp_stats_target *lp_stats_at(const lp_stats *stats, size_t target);
const lp_stats_spec *lp_stats_spec_of(const lp_stats *stats);
lp_stats_fault lp_stats_fault_of(const lp_stats *stats);
/* The state of a target and a group, owned by stats; allocated empty if it has seen nothing. NULL: out of memory. */
lp_stats_state *lp_stats_state_of(lp_stats *stats, size_t target, size_t group);

/* Before a run: sets its tokens, and checks that the model has the targets. LP_EARG, LP_ENOMEM. */
int lp_stats_begin(lp_stats *stats, const lp_model *model, const lp_stats_batch *batch, lp_error *err);
/* During it: `values`, all rows of a point in a layer. Not 0: the run must stop. */
int lp_stats_see(void *stats, const lp_ops *ops, lp_point point, size_t layer, const float *values);
/* After a run that was not stopped. Without it, values seen in the run leave a fault. */
void lp_stats_end(lp_stats *stats);

#endif
