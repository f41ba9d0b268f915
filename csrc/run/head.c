/* head.c - one norm, one product, and what follows it, on scratch of its own. */
#include "head.h"

#include <string.h>

#include "../base/size.h"  /* lp_size_mul */
#include "../ops/linear.h" /* lp_linear */
#include "../ops/rows.h"   /* lp_embed, lp_rms_norm, lp_divide, lp_cap */

#define LINE ((size_t)64) /* where each part of the scratch begins */

/* The scratch block; offsets in bytes. */
typedef struct {
    size_t norm_at;   /* [n_rows, d_model] */
    size_t packed_at; /* of the product */
    size_t worker_at; /* [n_threads, worker_stride] */
    size_t rows_at;   /* the head's rows of token_ids, as they are in the file; of a packed head dequantised */
    size_t worker_stride, n_threads, n_bytes;
} layout;

/* Appends n items; *at is their offset. */
static int lay(layout *l, size_t n, size_t item_bytes, size_t *at) {
    size_t n_bytes;
    *at = l->n_bytes;
    if (lp_size_mul(&n_bytes, n, item_bytes) || lp_size_add(&l->n_bytes, l->n_bytes, n_bytes) ||
        lp_size_add(&l->n_bytes, l->n_bytes, LINE - 1))
        return -1;
    l->n_bytes &= ~(LINE - 1);
    return 0;
}

/* Of the rows of token_ids. */
static lp_element element_of(const lp_weight *head) { return head->packed ? LP_ELEMENT_F32 : head->element; }

static int lay_out(const lp_head_request *q, layout *l) {
    size_t d = q->model->config.d_model, n, row_bytes = d * lp_element_bytes(element_of(&q->model->head));
    *l = (layout){.n_threads = lp_size_min(q->parallel.n_threads, q->n_tokens / q->kernels->row_unit + 1)};
    l->worker_stride = (q->kernels->band_scratch(q->n_rows) + 15) / 16 * 16;
    return lp_size_mul(&n, q->n_rows, d) || lay(l, n, sizeof(float), &l->norm_at) ||
           lay(l, q->kernels->packed_size(q->n_rows, d), sizeof(float), &l->packed_at) ||
           lp_size_mul(&n, l->worker_stride, l->n_threads) || lay(l, n, sizeof(float), &l->worker_at) ||
           lay(l, q->token_ids ? q->n_tokens : 0, row_bytes, &l->rows_at);
}

int lp_head_check(const lp_head_request *q, size_t *scratch_bytes, lp_error *err) {
    size_t vocab_size = q->model->config.vocab_size;
    layout l;
    for (size_t i = 0; q->token_ids && i < q->n_tokens; i++)
        if (q->token_ids[i] < 0 || (size_t)q->token_ids[i] >= vocab_size)
            return lp_fail(err, LP_EARG, "token id %ld is out of range: the vocabulary has %zu", (long)q->token_ids[i],
                           vocab_size);
    if (lay_out(q, &l))
        return lp_fail(err, LP_ENOMEM, "the scratch memory of %zu rows has more bytes than there are addresses",
                       q->n_rows);
    *scratch_bytes = l.n_bytes;
    return 0;
}

/* The head's rows of some tokens, side by side. */
static int take_rows(const lp_head_request *q, const lp_ops *ops, char *to, lp_weight *rows) {
    const lp_weight *head = &q->model->head;
    size_t row_bytes = head->n_cols * lp_element_bytes(element_of(head));
    *rows = *head;
    if (!q->token_ids) return 0;
    *rows = (lp_weight){.data = to, .element = element_of(head), .n_rows = q->n_tokens, .n_cols = head->n_cols};
    if (head->packed) return lp_embed(ops, (float *)to, q->token_ids, head, q->n_tokens);
    for (size_t i = 0; i < q->n_tokens; i++, to += row_bytes)
        memcpy(to, lp_weight_at(head, (size_t)q->token_ids[i], 0), row_bytes);
    return 0;
}

static int compute(const lp_head_request *q, const lp_ops *ops, float *norm, const lp_weight *rows) {
    const lp_config *c = &q->model->config;
    float divisor = (float)c->logits_divisor, cap = (float)c->logits_cap;
    size_t n = q->n_rows * q->n_tokens;
    lp_product product = {.m = q->n_rows, .k = c->d_model, .x = norm, .n_factors = 1};
    product.factor[0] = (lp_factor){.w = rows, .y = q->logits};
    return lp_rms_norm(ops, NULL, NULL, NULL, norm, q->x, &q->model->final_norm, (float)c->gain_offset, c->rms_norm_eps,
                       q->n_rows, c->d_model) ||
           lp_linear(ops, &product) || (divisor != 1 && lp_divide(ops, q->logits, q->logits, divisor, n)) ||
           (cap != 0 && lp_cap(ops, q->logits, q->logits, cap, n));
}

int lp_head_logits(const lp_head_request *q, lp_error *err) {
    lp_block scratch;
    layout l;
    if (lp_model_check_unchanged(q->model, err) || lp_head_check(q, &l.n_bytes, err)) return -1;
    if (!q->n_rows || !q->n_tokens) return 0;
    lay_out(q, &l);
    int failed = lp_block_make(&scratch, l.n_bytes, q->model->arena, &q->parallel);
    if (failed < 0)
        return lp_fail(err, LP_ENOMEM, "%zu rows need %zu MB of scratch memory", q->n_rows, l.n_bytes >> 20);
    if (!failed) {
        char *base = scratch.data;
        lp_ops ops = {.kernels = q->kernels,
                      .parallel = q->parallel,
                      .scratch = (float *)(base + l.worker_at),
                      .scratch_stride = l.worker_stride,
                      .packed = (float *)(base + l.packed_at)};
        ops.parallel.n_threads = l.n_threads;
        lp_weight rows;
        failed = take_rows(q, &ops, base + l.rows_at, &rows) || compute(q, &ops, (float *)(base + l.norm_at), &rows);
        lp_block_free(&scratch);
    }
    return failed ? lp_fail(err, LP_ECANCELED, "the head was stopped") : 0;
}
