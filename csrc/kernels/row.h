/* row.h - the last include of a row's file: its table of functions. LP_ROW names it. */
#include "peak.h"

const lp_kernels V_CAT(lp_kernels_, LP_ROW, ) = {
    .name = LP_STRING_OF(LP_ROW),
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
    .exp = exp_row,
    .silu = silu_row,
    .mix = mix,
    .peak_sums = PEAK_SUMS,
    .multiply_add = multiply_add,
    .read_all = read_all,
};
