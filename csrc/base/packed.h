/* packed.h - a packed weight: a quantised matrix, stored as codes, scales and zeros.
 *
 * It is used as stored, in place. This header describes the layout of its parts and checks their sizes; what a code
 * means is defined in kernels/dequant/scalar.h. A part is one stored tensor. The matrix is [n_rows, n_cols], the table
 * of scales [ceil(n_rows / scale_rows), ceil(n_cols / scale_cols)]: one scale per rectangle; the scale_cols columns
 * that share a scale are a group. GPTQ and AWQ are transposed: they store the matrix as [in, out]. */
#ifndef LP_PACKED_H
#define LP_PACKED_H

#include <stddef.h>
#include <stdint.h>

#include "element.h" /* lp_element */
#include "error.h"   /* lp_error */
#include "part.h"    /* lp_part */

/* K(NAME, name, columns, bytes, dtype): a row is a sequence of blocks, each of `columns` columns in `bytes` bytes. */
#define LP_BLOCK_KINDS(K)               \
    K(F32, f32, 1, 4, "F32")            \
    K(F16, f16, 1, 2, "F16")            \
    K(BF16, bf16, 1, 2, "BF16")         \
    K(Q8_0, q8_0, 32, 34, "Q8_0")       \
    K(Q4_0, q4_0, 32, 18, "Q4_0")       \
    K(Q4_1, q4_1, 32, 20, "Q4_1")       \
    K(Q5_0, q5_0, 32, 22, "Q5_0")       \
    K(Q5_1, q5_1, 32, 24, "Q5_1")       \
    K(Q2_K, q2_k, 256, 84, "Q2_K")      \
    K(Q3_K, q3_k, 256, 110, "Q3_K")     \
    K(Q4_K, q4_k, 256, 144, "Q4_K")     \
    K(Q5_K, q5_k, 256, 176, "Q5_K")     \
    K(Q6_K, q6_k, 256, 210, "Q6_K")     \
    K(IQ4_NL, iq4_nl, 32, 18, "IQ4_NL") \
    K(IQ4_XS, iq4_xs, 256, 136, "IQ4_XS")
/* Kinds that store codes and scales separately. FP8, INT8: [n_rows, n_cols], one byte each. A 32-bit word holds
 * neighbouring columns of a row (INT, GPTQ) or eight neighbouring rows of a column (AWQ). */
#define LP_TABLE_KINDS(K)        \
    K(FP8, fp8, 1, 1, "F8_E4M3") \
    K(INT8, int8, 1, 1, "I8")    \
    K(INT, int, 0, 0, "I32")     \
    K(GPTQ, gptq, 0, 0, "I32")   \
    K(AWQ, awq, 0, 0, "I32")

#define LP_PACKED_ENUM(NAME, ...) LP_PACKED_##NAME,
typedef enum { LP_BLOCK_KINDS(LP_PACKED_ENUM) LP_TABLE_KINDS(LP_PACKED_ENUM) LP_N_PACKED } lp_packed_kind;

typedef struct {
    lp_packed_kind kind;
    unsigned bits; /* per code: INT and GPTQ 4 or 8, AWQ 4, other kinds 0 */
    size_t n_rows, n_cols;
    const unsigned char *codes;
    const unsigned char *scales;   /* NULL: in the blocks */
    const unsigned char *zeros;    /* NULL: symmetric */
    lp_element scale;              /* element type of the scales */
    size_t scale_rows, scale_cols; /* rows and columns that share a scale */
    uint32_t *group_of;            /* [n_cols], the group of each column, owned; NULL: column / scale_cols */
    int zero_is_less_one;          /* GPTQ version 1: a zero is (stored + 1) mod 2^bits */
    size_t turned;  /* 0, or head_dim: rows j and j + turned / 2 of a head are stored as rows 2 j and 2 j + 1 */
    int as_bf16;    /* values are rounded to bf16, nearest even */
    size_t n_bytes; /* of all parts */
} lp_packed;

typedef enum { LP_CODES, LP_SCALES, LP_ZEROS, LP_GROUP_OF, LP_N_ROLES } lp_role;

const char *lp_packed_kind_name(lp_packed_kind kind);          /* "q4_k" */
int lp_packed_kind_of(const char *name, lp_packed_kind *kind); /* -1: unknown */
const char *lp_role_name(lp_role role);                        /* "codes" */

/* Checks p and its parts, and fills in the rest of p. The caller sets kind, bits, n_rows, n_cols, scale_rows and
 * scale_cols (0: all), zero_is_less_one, turned and as_bf16. parts [LP_N_ROLES] borrow from their files, which must
 * outlive p; a part without a dtype is absent; group_of is copied. paths [LP_N_ROLES]: the files' names, for messages.
 * LP_EARG: the caller's numbers are invalid, or a part is missing or superfluous; LP_EFORMAT: a part has the wrong
 * dtype, shape or size, or a group index is out of range; LP_ENOMEM. */
int lp_packed_open(lp_packed *p, const lp_part *parts, const char *const *paths, lp_error *err);
void lp_packed_close(lp_packed *p); /* frees group_of; the parts belong to their files */

static inline int lp_packed_is_block(lp_packed_kind kind) { return kind < LP_PACKED_FP8; }
static inline int lp_packed_is_transposed(lp_packed_kind kind) { return kind >= LP_PACKED_GPTQ; }

/* Columns and bytes of a block. */
size_t lp_packed_block_columns(lp_packed_kind kind);
size_t lp_packed_block_bytes(lp_packed_kind kind);
/* Bytes of codes per stored row; of the transposed kinds, per row of words. */
size_t lp_packed_row_bytes(const lp_packed *p);
/* Stored bytes for n_rows rows: their share of all parts. */
size_t lp_packed_bytes(const lp_packed *p, size_t n_rows);

/* Rows and columns of the table of scales. */
static inline size_t lp_packed_bands(const lp_packed *p) {
    return p->n_rows / p->scale_rows + (p->n_rows % p->scale_rows != 0);
}
static inline size_t lp_packed_groups(const lp_packed *p) {
    return p->n_cols / p->scale_cols + (p->n_cols % p->scale_cols != 0);
}

/* Where a row of the matrix is stored. */
static inline size_t lp_packed_row(const lp_packed *p, size_t row) {
    if (!p->turned) return row;
    size_t in_head = row % p->turned, half = p->turned / 2;
    return row - in_head + in_head % half * 2 + in_head / half;
}

#endif
