/* packed_weight.h - packed weights of any kind with random codes, for tests. */
#ifndef LP_TEST_PACKED_WEIGHT_H
#define LP_TEST_PACKED_WEIGHT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/base/half.h"
#include "../../csrc/base/packed.h"
#include "check.h"

static uint64_t seed = 88172645463325252u;
static inline uint32_t random_bits(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

enum { MOST_HELD = 4 };

/* The allocations of a weight's parts; each part ends its block, so that a sanitizer sees overreads. */
typedef struct {
    void *block[MOST_HELD];
    size_t n;
} held;

static inline unsigned char *random_part(held *hold, size_t n_bytes) {
    size_t offset = random_bits() % 64;
    void *block = NULL;
    CHECK(posix_memalign(&block, 64, offset + n_bytes) == 0);
    unsigned char *part = (unsigned char *)block + offset;
    for (size_t i = 0; i < n_bytes; i++) part[i] = (unsigned char)random_bits();
    hold->block[hold->n++] = block;
    return part;
}

/* Mostly of ordinary magnitude, so that few results are infinite; one in 16 is random bits. */
static inline unsigned char *random_scales(held *hold, size_t n, lp_element element) {
    unsigned char *scales = random_part(hold, n * lp_element_bytes(element));
    for (size_t i = 0; i < n; i++) {
        float scale = (float)((int32_t)random_bits() * 0x1p-40);
        uint16_t half = element == LP_ELEMENT_BF16 ? lp_f32_to_bf16(scale) : lp_f32_to_f16(scale);
        if (random_bits() % 16 == 0) continue;
        if (element == LP_ELEMENT_F32)
            memcpy(scales + 4 * i, &scale, 4);
        else
            memcpy(scales + 2 * i, &half, 2);
    }
    return scales;
}

static inline void free_held(held *hold, lp_packed *p) {
    for (size_t i = 0; i < hold->n; i++) free(hold->block[i]);
    lp_packed_close(p);
}

/* Codes, scales, zeros and groups for the numbers in p. */
static inline void fill(lp_packed *p, held *hold, lp_element element, int has_zeros, int has_groups) {
    size_t rows = p->kind == LP_PACKED_AWQ    ? p->n_cols
                  : p->kind == LP_PACKED_GPTQ ? p->n_cols * p->bits / 32
                                              : p->n_rows;
    unsigned char *codes = random_part(hold, rows * lp_packed_row_bytes(p));
    p->codes = codes;
    for (size_t i = 0; p->kind == LP_PACKED_FP8 && i < rows * p->n_cols; i++) /* half of the rows without NaN */
        if (i / p->n_cols / 16 % 2 == 0 && (codes[i] & 0x7f) == 0x7f) codes[i] = 1;
    if (lp_packed_is_block(p->kind)) return;
    size_t bands = lp_packed_bands(p), groups = lp_packed_groups(p), per_word = p->bits ? 32 / p->bits : 1;
    p->scale = element;
    p->scales = random_scales(hold, bands * groups, element);
    size_t words = (bands + per_word - 1) / per_word * groups;
    if (has_zeros) p->zeros = random_part(hold, p->kind == LP_PACKED_INT8 ? bands * groups : words * 4);
    if (!has_groups) return;
    p->group_of = malloc(p->n_cols * sizeof *p->group_of);
    for (size_t i = 0; i < p->n_cols; i++) /* random, in long runs column / scale_cols, at the end the last group */
        p->group_of[i] = (uint32_t)(i + 64 >= p->n_cols ? groups - 1
                                    : i / 256 % 2       ? i / p->scale_cols
                                                        : random_bits() % groups);
}

#endif
