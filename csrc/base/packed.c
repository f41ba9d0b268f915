/* packed.c - the table of packed kinds, and the checks of a packed weight's parts. */
#include "packed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "size.h"   /* lp_size_mul */
#include "weight.h" /* lp_weight_ranges */

static const struct {
    const char *name;
    size_t columns, bytes; /* per block */
    const char *dtype;     /* of the codes */
} kinds[LP_N_PACKED] = {
#define KIND_ENTRY(NAME, name, columns, bytes, dtype) {#name, columns, bytes, dtype},
    LP_BLOCK_KINDS(KIND_ENTRY) LP_TABLE_KINDS(KIND_ENTRY)};

static const char *const role_names[LP_N_ROLES] = {"codes", "scales", "zeros", "group_of"};

const char *lp_packed_kind_name(lp_packed_kind kind) { return kinds[kind].name; }
const char *lp_role_name(lp_role role) { return role_names[role]; }
size_t lp_packed_block_columns(lp_packed_kind kind) { return kinds[kind].columns; }
size_t lp_packed_block_bytes(lp_packed_kind kind) { return kinds[kind].bytes; }

int lp_packed_kind_of(const char *name, lp_packed_kind *kind) {
    for (size_t i = 0; i < LP_N_PACKED; i++)
        if (!strcmp(name, kinds[i].name)) {
            *kind = (lp_packed_kind)i;
            return 0;
        }
    return -1;
}

size_t lp_packed_row_bytes(const lp_packed *p) {
    size_t per_word = p->bits ? 32 / p->bits : 1;
    switch (p->kind) {
    case LP_PACKED_INT:
        return (p->n_cols + per_word - 1) / per_word * 4;
    case LP_PACKED_GPTQ:
        return p->n_rows * 4;
    case LP_PACKED_AWQ:
        return p->n_rows / per_word * 4;
    default:
        return p->n_cols / kinds[p->kind].columns * kinds[p->kind].bytes;
    }
}

/* Quotient and remainder are multiplied separately, so that no product wraps. */
size_t lp_packed_bytes(const lp_packed *p, size_t n_rows) {
    return p->n_bytes / p->n_rows * n_rows + p->n_bytes % p->n_rows * n_rows / p->n_rows;
}

size_t lp_weight_ranges(const lp_weight *w, size_t row, size_t n_rows, lp_range ranges[LP_N_ROLES]) {
    const lp_packed *p = w->packed;
    if (!p) {
        ranges[0] = (lp_range){lp_weight_at(w, row, 0), lp_weight_row_bytes(w, n_rows)};
        return 1;
    }
    size_t first = w->first_row + row, end = first + n_rows, n = 1, row_bytes = lp_packed_row_bytes(p);
    if (p->turned) { /* rows are permuted within their head: take whole heads */
        first -= first % p->turned;
        end += (p->turned - end % p->turned) % p->turned;
    }
    if (lp_packed_is_transposed(p->kind))
        first = 0, end = p->kind == LP_PACKED_AWQ ? p->n_cols : p->n_cols / (32 / p->bits);
    ranges[0] = (lp_range){(const char *)p->codes + first * row_bytes, (end - first) * row_bytes};
    size_t bands = lp_packed_bands(p), n_scales = bands * lp_packed_groups(p), per_word = p->bits ? 32 / p->bits : 1;
    size_t zero_words = (bands / per_word + (bands % per_word != 0)) * lp_packed_groups(p);
    if (p->scales) ranges[n++] = (lp_range){(const char *)p->scales, n_scales * lp_element_bytes(p->scale)};
    if (p->zeros)
        ranges[n++] = (lp_range){(const char *)p->zeros, p->kind == LP_PACKED_INT8 ? n_scales : 4 * zero_words};
    return n;
}

/* ---- checks -------------------------------------------------------------------------------------------------- */

/* The part being checked: its role in p, and its file for messages. */
typedef struct {
    const lp_packed *p;
    const lp_part *part;
    const char *path;
    lp_role role;
} subject;

static const char *show_name(char shown[128], const lp_part *part) {
    return lp_show(shown, 128, part->name, part->name_len);
}

static int fail_dtype(const subject *s, const char *required, lp_error *err) {
    char shown[128];
    return lp_fail(err, LP_EFORMAT, "%s: tensor \"%s\" has dtype %s; the %s of %s are %s", s->path,
                   show_name(shown, s->part), s->part->dtype, role_names[s->role], kinds[s->p->kind].name, required);
}

static int fail_shape(const subject *s, size_t rows, size_t columns, lp_error *err) {
    char shown[128], shape[96] = "[";
    size_t n = 1;
    for (size_t i = 0; i < s->part->rank && n + 24 < sizeof shape; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)s->part->shape[i]);
    return lp_fail(err, LP_EFORMAT, "%s: tensor \"%s\" has shape %s]; the %s of a %s weight [%zu, %zu] are [%zu, %zu]",
                   s->path, show_name(shown, s->part), shape, role_names[s->role], kinds[s->p->kind].name, s->p->n_rows,
                   s->p->n_cols, rows, columns);
}

/* Accepts [rows, columns]; also rank 1 if one of them is 1, and a scalar if both are. */
static int has_shape(const lp_part *part, size_t rows, size_t columns) {
    if (part->rank == 2) return part->shape[0] == rows && part->shape[1] == columns;
    if (part->rank == 1) return (rows == 1 || columns == 1) && part->shape[0] == rows * columns;
    return part->rank == 0 && rows == 1 && columns == 1;
}

static int check_part(const subject *s, size_t rows, size_t columns, size_t n_bytes, lp_error *err) {
    char shown[128];
    if (!has_shape(s->part, rows, columns)) return fail_shape(s, rows, columns, err);
    if (s->part->n_bytes == n_bytes) return 0;
    return lp_fail(err, LP_EFORMAT, "%s: tensor \"%s\" has %zu bytes; the %s of a %s weight [%zu, %zu] are %zu",
                   s->path, show_name(shown, s->part), s->part->n_bytes, role_names[s->role], kinds[s->p->kind].name,
                   s->p->n_rows, s->p->n_cols, n_bytes);
}

static int check_codes(const subject *s, lp_error *err) {
    const lp_packed *p = s->p;
    size_t row_bytes = lp_packed_row_bytes(p), per_word = p->bits ? 32 / p->bits : 1, n_bytes;
    size_t rows = p->n_rows, columns = p->n_cols;
    if (strcmp(s->part->dtype, kinds[p->kind].dtype)) return fail_dtype(s, kinds[p->kind].dtype, err);
    if (p->kind == LP_PACKED_INT) columns = (p->n_cols + per_word - 1) / per_word;
    if (p->kind == LP_PACKED_GPTQ) rows = p->n_cols / per_word, columns = p->n_rows;
    if (p->kind == LP_PACKED_AWQ) rows = p->n_cols, columns = p->n_rows / per_word;
    if (lp_size_mul(&n_bytes, rows, row_bytes)) return fail_shape(s, rows, columns, err);
    return check_part(s, rows, columns, n_bytes, err);
}

static int check_scales(const subject *s, lp_element *element, lp_error *err) {
    static const char *const dtypes[] = {
        [LP_ELEMENT_BF16] = "BF16", [LP_ELEMENT_F16] = "F16", [LP_ELEMENT_F32] = "F32"};
    size_t bands = lp_packed_bands(s->p), groups = lp_packed_groups(s->p), n_bytes;
    int transposed = lp_packed_is_transposed(s->p->kind);
    for (*element = LP_ELEMENT_BF16; *element < LP_ELEMENT_PACKED; ++*element)
        if (!strcmp(s->part->dtype, dtypes[*element])) break;
    if (*element == LP_ELEMENT_PACKED) return fail_dtype(s, "BF16, F16 or F32", err);
    size_t rows = transposed ? groups : bands, columns = transposed ? bands : groups;
    if (lp_size_mul3(&n_bytes, rows, columns, lp_element_bytes(*element))) return fail_shape(s, rows, columns, err);
    return check_part(s, rows, columns, n_bytes, err);
}

static int check_zeros(const subject *s, lp_error *err) {
    const lp_packed *p = s->p;
    size_t bands = lp_packed_bands(p), groups = lp_packed_groups(p), n_bytes;
    size_t bytes = p->kind == LP_PACKED_INT8 ? 1 : 4, per_word = p->bits ? 32 / p->bits : 1;
    size_t words = bands / per_word + (bands % per_word != 0);
    const char *dtype = p->kind == LP_PACKED_INT8 ? "I8" : "I32";
    if (strcmp(s->part->dtype, dtype)) return fail_dtype(s, dtype, err);
    int transposed = lp_packed_is_transposed(p->kind);
    size_t rows = transposed ? groups : words, columns = transposed ? words : groups;
    if (lp_size_mul3(&n_bytes, rows, columns, bytes)) return fail_shape(s, rows, columns, err);
    return check_part(s, rows, columns, n_bytes, err);
}

/* Copies the group indices, so that they stay as checked. Drops them if they are all column / scale_cols. */
static int take_groups(lp_packed *p, const lp_part *part, const char *path, lp_error *err) {
    subject s = {p, part, path, LP_GROUP_OF};
    size_t n_groups = lp_packed_groups(p), n_usual = 0, n_bytes;
    if (strcmp(part->dtype, "I32")) return fail_dtype(&s, "I32", err);
    if (lp_size_mul(&n_bytes, p->n_cols, sizeof *p->group_of)) return fail_shape(&s, 1, p->n_cols, err);
    if (check_part(&s, 1, p->n_cols, n_bytes, err)) return -1;
    p->group_of = malloc(n_bytes);
    if (!p->group_of) return lp_fail(err, LP_ENOMEM, "%s: no memory for the groups of %zu columns", path, p->n_cols);
    memcpy(p->group_of, part->data, n_bytes);
    for (size_t i = 0; i < p->n_cols; i++) {
        char shown[128];
        if (p->group_of[i] >= n_groups)
            return lp_fail(err, LP_EFORMAT, "%s: tensor \"%s\" puts column %zu into group %ld; there are %zu groups",
                           path, show_name(shown, part), i, (long)(int32_t)p->group_of[i], n_groups);
        n_usual += p->group_of[i] == i / p->scale_cols;
    }
    if (n_usual == p->n_cols) lp_packed_close(p);
    return 0;
}

static int check_numbers(lp_packed *p, lp_error *err) {
    const char *name = kinds[p->kind].name;
    int has_bits = p->kind >= LP_PACKED_INT;
    size_t block = kinds[p->kind].columns, n_all;
    if (!p->n_rows || !p->n_cols || lp_size_mul3(&n_all, p->n_rows, p->n_cols, sizeof(float)))
        return lp_fail(err, LP_EARG, "a packed weight cannot have the shape [%zu, %zu]", p->n_rows, p->n_cols);
    if (!p->scale_rows || p->scale_rows > p->n_rows) p->scale_rows = p->n_rows;
    if (!p->scale_cols || p->scale_cols > p->n_cols) p->scale_cols = p->n_cols;
    if (p->kind == LP_PACKED_AWQ && !p->bits) p->bits = 4;
    if (has_bits ? p->bits != 4 && (p->bits != 8 || p->kind == LP_PACKED_AWQ) : p->bits != 0)
        return lp_fail(err, LP_EARG, "%s cannot have codes of %u bits; %s", name, p->bits,
                       has_bits ? "int and gptq have 4 or 8, awq has 4" : "bits are for int, gptq and awq");
    if (block && p->n_cols % block)
        return lp_fail(err, LP_EARG, "rows of %s are whole blocks of %zu columns, not %zu columns", name, block,
                       p->n_cols);
    if (lp_packed_is_transposed(p->kind)) {
        size_t per_word = 32 / p->bits;
        if (p->n_rows % per_word || (p->kind == LP_PACKED_GPTQ && p->n_cols % per_word))
            return lp_fail(err, LP_EARG, "%s packs %zu codes into a word, which does not divide [%zu, %zu]", name,
                           per_word, p->n_rows, p->n_cols);
        if (p->scale_rows != 1 && p->n_rows != 1)
            return lp_fail(err, LP_EARG, "%s has separate scales for each row, not one for %zu rows", name,
                           p->scale_rows);
    }
    if (p->turned && (!lp_packed_is_block(p->kind) || p->turned % 2 || p->n_rows % p->turned))
        return lp_fail(err, LP_EARG, "%s: %zu rows cannot be stored turned in heads of %zu", name, p->n_rows,
                       p->turned);
    if (p->zero_is_less_one && p->kind != LP_PACKED_GPTQ)
        return lp_fail(err, LP_EARG, "%s: zero_is_less_one is for gptq only", name);
    p->zero_is_less_one = p->zero_is_less_one != 0;
    return 0;
}

/* Every required part is there, and none that the kind does not have. */
static int check_roles(const lp_packed *p, const lp_part parts[LP_N_ROLES], lp_error *err) {
    int block = lp_packed_is_block(p->kind);
    int may[LP_N_ROLES] = {1, !block, !block && p->kind != LP_PACKED_FP8,
                           p->kind == LP_PACKED_INT || p->kind == LP_PACKED_GPTQ};
    for (int role = 0; role < LP_N_ROLES; role++) {
        int must = role == LP_CODES || (role == LP_SCALES && !block);
        if (must && !parts[role].dtype)
            return lp_fail(err, LP_EARG, "a %s weight needs %s", kinds[p->kind].name, role_names[role]);
        if (!may[role] && parts[role].dtype)
            return lp_fail(err, LP_EARG, "a %s weight has no %s", kinds[p->kind].name, role_names[role]);
    }
    return 0;
}

int lp_packed_open(lp_packed *p, const lp_part *parts, const char *const *paths, lp_error *err) {
    p->group_of = NULL, p->n_bytes = 0, p->scale = LP_ELEMENT_F32;
    if (check_numbers(p, err) || check_roles(p, parts, err)) return -1;
    subject of[LP_N_ROLES];
    for (int role = 0; role < LP_N_ROLES; role++) of[role] = (subject){p, &parts[role], paths[role], (lp_role)role};
    if (check_codes(&of[LP_CODES], err) || (parts[LP_SCALES].dtype && check_scales(&of[LP_SCALES], &p->scale, err)) ||
        (parts[LP_ZEROS].dtype && check_zeros(&of[LP_ZEROS], err)))
        return -1;
    p->codes = parts[LP_CODES].data;
    p->scales = parts[LP_SCALES].dtype ? parts[LP_SCALES].data : NULL;
    p->zeros = parts[LP_ZEROS].dtype ? parts[LP_ZEROS].data : NULL;
    for (int role = 0; role < LP_N_ROLES; role++) p->n_bytes += parts[role].dtype ? parts[role].n_bytes : 0;
    if (!parts[LP_GROUP_OF].dtype || !take_groups(p, &parts[LP_GROUP_OF], paths[LP_GROUP_OF], err)) return 0;
    lp_packed_close(p);
    return -1;
}

void lp_packed_close(lp_packed *p) {
    free(p->group_of);
    p->group_of = NULL;
}
