/* stats.h - statistics of the values of many runs, added up while a run has them at hand.
 *
 * A target is one point of one layer, with a channel for each float of a row; of a map [n_heads, T, T] with a channel
 * for each head and each of the first n_keys keys, and a row for each query that sees the key. Each token belongs to
 * one group, or is left out, and each (target, group) has a state: integers, largest and smallest, or exact sums. So
 * the state of all runs does not depend on how they were batched, threads or order.
 *
 * Values that are not finite are counted and otherwise left out. When a run is stopped, or memory runs out, in the
 * middle of it, the statistics have a fault and stay so. */
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
    /* Digits: of values whose bits above `high` are a prefix, how many have each value of the `n_bits` below. */
    size_t n_prefixes;
    unsigned high, n_bits;
} lp_stats_spec;

typedef struct {
    int64_t *counts;          /* [n_channels, LP_N_COUNTS] */
    int32_t *range;           /* [n_channels, 2]: lp_float_key of the smallest and the largest */
    uint64_t *sums;           /* [n_channels, LP_SUM_LIMBS]; NULL: not requested, here and below */
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
    const size_t *seq_start;         /* [n_seqs + 1]; borrowed, as all of them */
    const int32_t *group;            /* [n_tokens]; negative: left out */
    const int64_t *document, *start; /* [n_seqs]: of the sequence's first token */
} lp_stats_batch;

typedef struct lp_stats lp_stats;

typedef enum { LP_STATS_WHOLE, LP_STATS_STOPPED, LP_STATS_NO_MEMORY } lp_stats_fault;

/* Copies the targets and thetas. LP_ENOMEM, LP_EARG. */
int lp_stats_new(lp_stats **stats, const lp_stats_spec *spec, const lp_stats_target *targets, size_t n_targets,
                 size_t n_groups, lp_error *err);
void lp_stats_free(lp_stats *stats); /* NULL is legal */

size_t lp_stats_n_targets(const lp_stats *stats);
size_t lp_stats_n_groups(const lp_stats *stats);
const lp_stats_target *lp_stats_at(const lp_stats *stats, size_t target);
const lp_stats_spec *lp_stats_spec_of(const lp_stats *stats);
lp_stats_fault lp_stats_fault_of(const lp_stats *stats);
/* The state of a target and a group, made of zeros if it has seen nothing. NULL: out of memory. */
lp_stats_state *lp_stats_state_of(lp_stats *stats, size_t target, size_t group);

/* Before a run: its tokens, and that the targets are values of this model. LP_EARG, LP_ENOMEM. */
int lp_stats_begin(lp_stats *stats, const lp_model *model, const lp_stats_batch *batch, lp_error *err);
/* During it: a value of a layer, all rows. Not 0: the run must stop. */
int lp_stats_see(void *stats, const lp_ops *ops, lp_point point, size_t layer, const float *values);
/* After a run that was not stopped. Without it the statistics are of no use once a value was seen. */
void lp_stats_end(lp_stats *stats);

#endif
