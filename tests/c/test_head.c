/* test_head.c - the head on given rows: the bits of a run's logits, for any rows, any tokens, any variant and number of
 * threads; what it refuses, and that a poll stops it. */
#define _GNU_SOURCE
#include "../../csrc/run/head.h"

#include <stdlib.h>

#include "../../csrc/run/forward.h"
#include "check.h"
#include "tiny_model.h"
#include "variants.h"

enum { N_TOKENS = 21, VOCAB = 97, D_MODEL = 72 };

static const float inv_freq[] = {1, 0.5f, 0.25f, 0.125f};
static const size_t starts[] = {0, N_TOKENS};

/* tied or not, with a scale of logits, a cap, gains of 1 + w */
static const struct {
    lp_config config;
    uint64_t seed; /* the dtype: see tiny_model.h */
    double divisor, cap;
    int offset;
} cases[] = {
    {LLAMA(2, 4, 2, 8, D_MODEL, 40, VOCAB, 64, 1e-5, 0, 0, 0), 0, 1, 0, 0},
    {LLAMA(1, 4, 2, 8, D_MODEL, 40, VOCAB, 64, 1e-6, 0, 0, 1), 1, 8, 0, 0},
    {LLAMA(2, 4, 2, 8, D_MODEL, 40, VOCAB, 64, 1e-5, 0, 0, 0), 2, 1, 3, 1},
    {LLAMA(1, 4, 2, 8, D_MODEL, 40, VOCAB, 64, 1e-5, 0, 0, 1), 0, 2, 0.5, 1},
};

typedef struct {
    image bytes;
    lp_safetensors *file;
    lp_model *model;
    float x[N_TOKENS * D_MODEL], logits[N_TOKENS * VOCAB]; /* of a run */
} subject;

static int open_case(subject *s, size_t number) {
    lp_config c = cases[number].config;
    lp_error err;
    lp_run run;
    int32_t ids[N_TOKENS];
    c.logits_divisor = cases[number].divisor, c.logits_cap = cases[number].cap;
    c.gain_offset = cases[number].offset;
    s->bytes = make_tiny_model(&c, cases[number].seed);
    if (lp_safetensors_from_bytes(&s->file, "f", s->bytes.bytes, s->bytes.n_bytes, &err)) return -1;
    if (open_tiny(&s->model, &c, inv_freq, lp_safetensors_tensors(&s->file, 1, &err), &err)) return -1;
    for (int i = 0; i < N_TOKENS; i++) ids[i] = (5 * i + 3) % VOCAB;
    if (lp_run_init(&run, s->model, ids, starts, 1, 2, &err)) return -1;
    lp_run_set_place(&run, LP_X_OUT, c.n_layers - 1, s->x);
    lp_run_set_place(&run, LP_LOGITS, 0, s->logits);
    int status = lp_forward(&run, &err);
    lp_run_free(&run);
    return status;
}

static void close_case(subject *s) {
    lp_model_close(s->model);
    lp_safetensors_close(s->file);
    free(s->bytes.bytes);
}

static void check_rows(const subject *s, const lp_kernels *variant, size_t first, size_t n, size_t n_threads) {
    static const int32_t ids[] = {96, 0, 40, 0};
    float all[N_TOKENS * VOCAB], some[N_TOKENS * 4];
    lp_error err;
    lp_head_request q = {.model = s->model,
                         .kernels = variant,
                         .parallel = {n_threads, NULL, NULL},
                         .x = s->x + first * D_MODEL,
                         .n_rows = n,
                         .n_tokens = VOCAB,
                         .logits = all};
    CHECK(lp_head_logits(&q, &err) == 0);
    CHECK(!memcmp(all, s->logits + first * VOCAB, n * VOCAB * sizeof *all));
    q.token_ids = ids, q.n_tokens = 4, q.logits = some;
    CHECK(lp_head_logits(&q, &err) == 0);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < 4; j++)
            CHECK(!memcmp(&some[i * 4 + j], &s->logits[(first + i) * VOCAB + (size_t)ids[j]], sizeof *some));
}

static void check_variant(const lp_kernels *variant) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        subject s;
        CHECK(open_case(&s, i) == 0);
        check_rows(&s, variant, 0, N_TOKENS, 1);
        check_rows(&s, variant, 0, N_TOKENS, 3);
        check_rows(&s, variant, 7, 1, 2);
        check_rows(&s, variant, 4, 5, 1000);
        close_case(&s);
    }
}

static int stop(void *arg) {
    (void)arg;
    return 1;
}

static void check_refusals(void) {
    static const int32_t low[] = {3, -1}, high[] = {VOCAB};
    float logits[VOCAB] = {42};
    size_t n_bytes;
    subject s;
    lp_error err;
    CHECK(open_case(&s, 0) == 0);
    lp_head_request q = {.model = s.model,
                         .kernels = lp_kernels_get(NULL),
                         .parallel = {1, NULL, NULL},
                         .x = s.x,
                         .n_rows = 1,
                         .token_ids = low,
                         .n_tokens = 2,
                         .logits = logits};
    CHECK(lp_head_logits(&q, &err) == -1 && err.status == LP_EARG && strstr(err.msg, "-1"));
    q.token_ids = high, q.n_tokens = 1;
    CHECK(lp_head_logits(&q, &err) == -1 && err.status == LP_EARG && strstr(err.msg, "97"));
    q.token_ids = NULL, q.n_tokens = VOCAB, q.n_rows = (size_t)-1 / 64;
    CHECK(lp_head_check(&q, &n_bytes, &err) == -1 && err.status == LP_ENOMEM);
    q.n_rows = 0;
    CHECK(lp_head_logits(&q, &err) == 0);
    q.n_rows = 1, q.n_tokens = 0;
    CHECK(lp_head_logits(&q, &err) == 0 && logits[0] == 42);
    q.n_tokens = VOCAB, q.parallel.poll = stop;
    CHECK(lp_head_logits(&q, &err) == -1 && err.status == LP_ECANCELED);
    close_case(&s);
}

int main(int argc, char **argv) {
    check_refusals();
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
