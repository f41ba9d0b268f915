/* ggml_types.c - the table of element types, in the order of their ids. */
#include "ggml_types.h"

#define REMOVED "which llama.cpp no longer reads; make the file again with a current type"
#define NOT_STORED "which is for intermediate results and never in a file; make the file again"

static const lp_ggml_type types[] = {
    [0] = {"F32", 1, 4, NULL},
    [1] = {"F16", 1, 2, NULL},
    [2] = {"Q4_0", 32, 18, NULL},
    [3] = {"Q4_1", 32, 20, NULL},
    [4] = {"Q4_2", 0, 0, REMOVED},
    [5] = {"Q4_3", 0, 0, REMOVED},
    [6] = {"Q5_0", 32, 22, NULL},
    [7] = {"Q5_1", 32, 24, NULL},
    [8] = {"Q8_0", 32, 34, NULL},
    [9] = {"Q8_1", 0, 0, NOT_STORED}, /* 40 bytes once, 36 now */
    [10] = {"Q2_K", 256, 84, NULL},
    [11] = {"Q3_K", 256, 110, NULL},
    [12] = {"Q4_K", 256, 144, NULL},
    [13] = {"Q5_K", 256, 176, NULL},
    [14] = {"Q6_K", 256, 210, NULL},
    [15] = {"Q8_K", 0, 0, NOT_STORED},
    [16] = {"IQ2_XXS", 256, 66, NULL},
    [17] = {"IQ2_XS", 256, 74, NULL},
    [18] = {"IQ3_XXS", 256, 98, NULL},
    [19] = {"IQ1_S", 256, 50, NULL},
    [20] = {"IQ4_NL", 32, 18, NULL},
    [21] = {"IQ3_S", 256, 110, NULL},
    [22] = {"IQ2_S", 256, 82, NULL},
    [23] = {"IQ4_XS", 256, 136, NULL},
    [24] = {"I8", 1, 1, NULL},
    [25] = {"I16", 1, 2, NULL},
    [26] = {"I32", 1, 4, NULL},
    [27] = {"I64", 1, 8, NULL},
    [28] = {"F64", 1, 8, NULL},
    [29] = {"IQ1_M", 256, 56, NULL},
    [30] = {"BF16", 1, 2, NULL},
    [31] = {"Q4_0_4_4", 0, 0, REMOVED},
    [32] = {"Q4_0_4_8", 0, 0, REMOVED},
    [33] = {"Q4_0_8_8", 0, 0, REMOVED},
    [34] = {"TQ1_0", 256, 54, NULL},
    [35] = {"TQ2_0", 256, 66, NULL},
    [36] = {"IQ4_NL_4_4", 0, 0, REMOVED},
    [37] = {"IQ4_NL_4_8", 0, 0, REMOVED},
    [38] = {"IQ4_NL_8_8", 0, 0, REMOVED},
    [39] = {"MXFP4", 32, 17, NULL},
    [40] = {"NVFP4", 64, 36, NULL},
    [41] = {"Q1_0", 128, 18, NULL},
};

const lp_ggml_type *lp_ggml_type_of(uint32_t id) { return id < sizeof types / sizeof *types ? &types[id] : NULL; }
