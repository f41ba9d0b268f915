/* variant.h - the body of every variant and its table of functions: the last include of a variant's .c, which has set
 * its parameters. */
#ifdef FOR_TESTS /* proves bits and need not be fast; at -O3 gcc 12 takes two minutes over it */
#define LP_NO_UNROLL
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")
#endif
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../../base/half.h" /* these and the library's headers before any target is chosen */
#include "../../base/size.h"
#include "../kernels.h"
#include "../parameters.h"
#include "../simd/isa.h" /* LP_TARGET_BEGIN */

#ifdef LP_TARGET
LP_TARGET_BEGIN(LP_TARGET)
#endif

#if NARROW_LANES < LANES
#define LP_N NARROW_LANES
#include "../gemm/gemv.h"
#include "../gemm/microkernel.h"
#include "../gemm/microkernel_prefetch.h"
#include "../gemm/packing.h"
#include "../simd/exp.h"
#include "../simd/tanh.h"
#include "../softmax.h"
#undef LP_GEMV_H
#undef LP_MICROKERNEL_H
#undef LP_MICROKERNEL_PREFETCH_H
#undef LP_PACKING_H
#undef LP_EXP_H
#undef LP_TANH_H
#undef LP_SOFTMAX_H
#undef LP_N
#define LP_N LANES
#endif
#include "../attention.h"
#include "../dequant/dequantise.h"
#include "../elementwise.h"
#include "../gemm/gemm.h"

const lp_kernels LP_CAT(lp_kernels_, LP_VARIANT, ) = {
    .name = LP_STRING_OF(LP_VARIANT),
    .row_unit = ROW_UNIT,
    .band_rows = {BAND_ROWS, GATED_ROWS},
    .band_macs = BAND_MACS,
    .packed_size = packed_size,
    .pack_units = pack_units,
    .pack = pack,
    .band_scratch = band_scratch,
    .bands = bands,
    .q_tile = WIDE,
    .attend_scratch = attend_scratch,
    .attend = attend,
    .rms_norm = rms_norm,
    .scale_row = scale_row,
    .rope = rope,
    .widen = widen,
    .dequantise = dequantise,
    .exp = exp_row,
    .activate = activate,
    .cap = cap_row,
    .mix = mix,
    .peak_sums = PEAK_SUMS,
    .multiply_add = multiply_add,
    .read_all = read_all,
};

#ifdef LP_TARGET
LP_TARGET_END
#endif
