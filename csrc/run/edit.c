/* edit.c - walks the selected elements of a value line by line: the channels of a head, or the keys of a query. */
#include "edit.h"

#include <math.h>
#include <string.h>

#include "../base/fpenv.h" /* lp_fpenv_set */
#include "../base/size.h"  /* lp_size_min */

/* ---- shapes -------------------------------------------------------------------------------------------------- */

static int is_map(lp_point point) { return lp_point_width(point) == LP_WIDTH_MAP; }

/* A token's row is [outer, inner]. */
static size_t inner_of(const lp_config *c, lp_point point) {
    lp_width width = lp_point_width(point);
    return width == LP_WIDTH_HEADS || width == LP_WIDTH_KV ? c->head_dim : lp_config_width(c, width);
}

static size_t outer_of(const lp_config *c, lp_point point) {
    return lp_config_width(c, lp_point_width(point)) / inner_of(c, point);
}

size_t lp_edit_key(const lp_model *model, lp_point point, size_t layer) {
    if (!lp_point_per_layer(point)) layer = model->config.n_layers - 1;
    if (point == LP_X && layer) point = LP_X_OUT, layer--;
    return layer * LP_N_POINTS + point;
}

size_t lp_edit_size(const lp_edit *edit) { return edit->n[0] * edit->n[1] * edit->n[2]; }

/* The length of axis 0, 1 or 2 of the point. */
static size_t axis_length(const lp_config *c, lp_point point, size_t axis, size_t n_rows, size_t n_past) {
    if (is_map(point)) return axis == 0 ? c->n_heads : axis == 1 ? n_rows : n_past + n_rows;
    return axis == 0 ? n_rows : axis == 1 ? outer_of(c, point) : inner_of(c, point);
}

int lp_edit_check(const lp_edit *edit, const lp_model *model, const size_t *seq_start, const size_t *n_past,
                  size_t n_seqs, lp_error *err) {
    size_t n_layers = lp_point_per_layer(edit->point) ? model->config.n_layers : 1, size;
    const char *name = lp_point_name(edit->point);
    if (!lp_model_has(model, edit->point)) return lp_fail(err, LP_EARG, "the model has no %s", name);
    if (edit->layer >= n_layers)
        return lp_fail(err, LP_EARG, "%s has no layer %zu: there are %zu", name, edit->layer, n_layers);
    if (edit->op == LP_EDIT_KEEP) return 0;
    if (edit->sequence >= n_seqs)
        return lp_fail(err, LP_EARG, "there is no sequence %zu: there are %zu", edit->sequence, n_seqs);
    if (lp_size_mul3(&size, edit->n[0], edit->n[1], edit->n[2]) || !size)
        return lp_fail(err, LP_EARG, "an edit of %s selects nothing", name);
    size_t n_rows = seq_start[edit->sequence + 1] - seq_start[edit->sequence];
    for (size_t axis = 0; axis < 3; axis++) {
        size_t past = n_past ? n_past[edit->sequence] : 0;
        size_t length = axis_length(&model->config, edit->point, axis, n_rows, past);
        for (size_t i = 0; i < edit->n[axis]; i++)
            if (edit->index[axis][i] >= length)
                return lp_fail(err, LP_EARG, "index %lu of axis %zu of %s is out of range: its length is %zu",
                               (unsigned long)edit->index[axis][i], axis, name, length);
    }
    return 0;
}

/* ---- lines --------------------------------------------------------------------------------------------------- */

/* Only elements data[first .. end) are computed; the others are not edited. data NULL: the row is not computed. */
typedef struct {
    float *data, *inverse;
    size_t first, end;
} line;

/* The keys of the query in row `row` of its sequence. */
static line line_of_map(const lp_edit_target *t, size_t sequence, size_t head, size_t row) {
    const lp_sequence *s = &t->sequences[sequence];
    size_t n_keys = s->n_past + s->n_tokens, window = t->model->layers[t->layer].window, query = s->n_past + row;
    return (line){.data = t->data + s->map_at + (head * s->n_tokens + row) * n_keys,
                  .first = window && query >= window ? query + 1 - window : 0,
                  .end = query + 1};
}

static line line_of(const lp_edit_target *t, const lp_edit *edit, size_t i, size_t j) {
    const lp_config *c = &t->model->config;
    if (is_map(t->point)) return line_of_map(t, edit->sequence, edit->index[0][i], edit->index[1][j]);
    const lp_sequence *s = &t->sequences[edit->sequence];
    size_t inner = inner_of(c, t->point), row = s->start + edit->index[0][i];
    if (row < t->first_row || (t->last_rows && row + 1 != s->start + s->n_tokens)) return (line){.data = NULL};
    row = t->last_rows ? edit->sequence : row - t->first_row;
    size_t at = (row * outer_of(c, t->point) + edit->index[1][j]) * inner;
    return (line){.data = t->data + at, .inverse = t->inverse ? t->inverse + at : NULL, .end = inner};
}

static int same_bits(float a, float b) { return !memcmp(&a, &b, sizeof a); }

/* Whether x may be written: -inf masks a key or a token; in a value that is capped later, the cap would undo it. */
static int may_be(lp_point point, float x) {
    return isfinite(x) || (x < 0 && isinf(x) && (point == LP_SCORES || point == LP_LOGITS));
}

static float edited(lp_edit_op op, float x, float value) {
    return op == LP_EDIT_ADD ? x + value : op == LP_EDIT_MULTIPLY ? x * value : value;
}

/* Returns the number of elements that changed. A value that may not be written is skipped, and sets edit->refused. */
static size_t edit_line(line l, lp_point point, lp_edit *edit, lp_edit_op op, const float *values, size_t stride) {
    size_t n_changed = 0;
    for (size_t k = 0; k < edit->n[2]; k++) {
        size_t column = edit->index[2][k];
        if (column < l.first || column >= l.end) continue;
        float x = l.data[column], y = edited(op, x, values[k * stride]);
        if (same_bits(x, y)) continue;
        if (!may_be(point, y) || (l.inverse && !isfinite(1 / y))) {
            edit->is_refused = 1, edit->refused = y;
            continue;
        }
        l.data[column] = y;
        if (l.inverse) l.inverse[column] = 1 / y;
        edit->wrote_minus_inf |= y < 0 && isinf(y);
        n_changed++;
    }
    return n_changed;
}

static void edit_lines(const lp_edit_target *t, lp_edit *edit, lp_edit_op op, const float *values,
                       const size_t stride[3]) {
    lp_fpenv old = lp_fpenv_set();
    for (size_t i = 0; i < edit->n[0]; i++)
        for (size_t j = 0; j < edit->n[1]; j++)
            edit->n_changed += edit_line(line_of(t, edit, i, j), t->point, edit, op,
                                         values + i * stride[0] + j * stride[1], stride[2]);
    lp_fpenv_restore(old);
}

void lp_edit_load(const lp_edit_target *t, const lp_edit *edit, float *out) {
    for (size_t i = 0; i < edit->n[0]; i++)
        for (size_t j = 0; j < edit->n[1]; j++) {
            line l = line_of(t, edit, i, j);
            for (size_t k = 0; k < edit->n[2]; k++) *out++ = l.data ? l.data[edit->index[2][k]] : 0;
        }
}

int lp_edit_store(const lp_edit_target *t, lp_edit *edit, const float *values, lp_error *err) {
    const size_t stride[] = {edit->n[1] * edit->n[2], edit->n[2], 1};
    const float *value = values;
    for (size_t i = 0; i < edit->n[0]; i++)
        for (size_t j = 0; j < edit->n[1]; j++) {
            line l = line_of(t, edit, i, j);
            for (size_t k = 0; k < edit->n[2]; k++, value++) {
                size_t column = edit->index[2][k];
                if (column < l.first || column >= l.end) continue;
                if (!may_be(t->point, *value) && !same_bits(*value, l.data[column]))
                    return lp_fail(err, LP_EEDIT, "a function returned %f for %s, at index [%lu, %lu, %lu]",
                                   (double)*value, lp_point_name(edit->point), (unsigned long)edit->index[0][i],
                                   (unsigned long)edit->index[1][j], (unsigned long)column);
            }
        }
    edit_lines(t, edit, LP_EDIT_SET, values, stride);
    return 0;
}

int lp_edit_apply(const lp_edit_target *t, lp_edit *edit, lp_error *err) {
    edit->wrote_minus_inf = edit->is_refused = 0;
    edit->failed = 1;
    if (edit->op == LP_EDIT_CALL) {
        if (edit->call(edit, t, err)) return -1;
    } else {
        edit_lines(t, edit, edit->op, edit->values, edit->stride);
    }
    edit->failed = edit->is_refused;
    if (!edit->is_refused) return 0;
    return lp_fail(err, LP_EEDIT, "an edit would make %f of an element of %s, which later steps cannot use",
                   (double)edit->refused, lp_point_name(edit->point));
}

int lp_edit_check_keys(const lp_edit_target *t, lp_edit *edit, lp_error *err) {
    for (size_t i = 0; i < edit->n[0] && edit->wrote_minus_inf; i++)
        for (size_t j = 0; j < edit->n[1]; j++) {
            line l = line_of(t, edit, i, j);
            while (l.first < l.end && isinf(l.data[l.first]) && l.data[l.first] < 0) l.first++;
            if (l.first < l.end) continue;
            edit->failed = 1;
            return lp_fail(err, LP_EEDIT,
                           "layer %zu, head %lu: query %lu has no key left, all its scores are -inf; keep one",
                           t->layer, (unsigned long)edit->index[0][i],
                           (unsigned long)(t->sequences[edit->sequence].n_past + edit->index[1][j]));
        }
    return 0;
}
