/* parameters.h - how the variants differ, besides the verbs of their instruction set.
 *
 * A variant's .c includes its verbs (simd/), sets in one block whatever differs from the defaults here, and includes
 * variants/variant.h. The defaults are those of generic, so that every header compiles alone.
 *
 *   LP_VARIANT        its name
 *   LP_TARGET         set by the verbs: what the compiler may use
 *   LANES             floats in a vector
 *   NARROW_LANES      floats in the vector for few tokens; LANES: there is no narrower one
 *   TILE_ROWS_1 _2 _4 rows of w in a tile of one, two and four vectors of tokens: as many sums as there are registers.
 *                     _4 is 0 where no tile of four vectors serves the last tokens
 *   SPLIT_VECTORS     1: a wide instruction is executed as two halves, so that a tile of LANES tokens is two narrow
 *                     vectors; with one wide vector every product would wait for a broadcast (Zen 4: 75 % of the peak)
 *   BF16_RING         1: bf16 are broadcast as they lie in the file, see microkernel_prefetch.h
 *   SPREAD_BF16       1: a masked store costs less than a shift and a mask
 *   GEMV_WIDE         1: gemv of bf16 has vectors of LANES rows as well
 *   ATTENTION_ROWS    keys, or columns of v, in a tile of attention
 *   GATED_ROWS        rows of gate and of up in a band; BAND_ROWS (partition.h) where L2 holds two such bands
 *   BAND_MACS         most multiply-adds of one job, so that a run can be stopped
 *   NONTEMPORAL_TOKENS  from this many tokens on, results are stored past the caches
 *
 * Templates: what depends on a vector's width is written once for LP_N lanes, under names made by V() and T() of
 * simd/vector.h. variant.h includes those headers with LP_N = NARROW_LANES, undefines their guards and includes them
 * again with LP_N = LANES; nothing else sets LP_N or undefines a guard. */
#ifndef LP_PARAMETERS_H
#define LP_PARAMETERS_H

#ifndef LP_VARIANT
#define LP_VARIANT generic
#endif
#ifndef LANES
#define LANES 4
#endif
#ifndef NARROW_LANES
#define NARROW_LANES LANES
#endif
#ifndef TILE_ROWS_1
#define TILE_ROWS_1 6
#endif
#ifndef TILE_ROWS_2
#define TILE_ROWS_2 6
#endif
#ifndef TILE_ROWS_4
#define TILE_ROWS_4 0
#endif
#ifndef SPLIT_VECTORS
#define SPLIT_VECTORS 0
#endif
#ifndef BF16_RING
#define BF16_RING 0
#endif
#ifndef SPREAD_BF16
#define SPREAD_BF16 0
#endif
#ifndef GEMV_WIDE
#define GEMV_WIDE 0
#endif
#ifndef ATTENTION_ROWS
#define ATTENTION_ROWS 4
#endif
#ifndef GATED_ROWS
#define GATED_ROWS 24
#endif
#ifndef BAND_MACS
#define BAND_MACS 50000000
#endif
#ifndef NONTEMPORAL_TOKENS
#define NONTEMPORAL_TOKENS 32
#endif

#endif
