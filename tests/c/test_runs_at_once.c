/* test_runs_at_once.c - runs of several threads on one model share the pool and give the bits that each gives alone;
 * some are stopped by another thread, and models are opened and closed beside them. Fit for ThreadSanitizer. */
#define _GNU_SOURCE
#include "../../csrc/run/forward.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "tiny_model.h"

enum { N_TOKENS = 24, N_RUNNERS = 4, N_ROUNDS = 12, VOCAB = 13 };

static const lp_config config = {.n_layers = 2,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 8,
                                 .d_model = 40,
                                 .d_ff = 56,
                                 .vocab_size = VOCAB,
                                 .max_positions = N_TOKENS,
                                 .rms_norm_eps = 1e-5,
                                 .rotary_dim = 8,
                                 .embedding_scale = 1,
                                 .residual_scale = 1,
                                 .logits_divisor = 1};
static const float inv_freq[] = {1, 0.1f, 0.01f, 0.001f};
static const size_t starts[] = {0, 9, N_TOKENS};

/* A model, its file, and the bytes of it. */
typedef struct {
    image bytes;
    lp_safetensors *file;
    lp_model *model;
} opened;

/* A Llama where the seed is even, else one of another family. */
static int open_model(opened *o, uint64_t seed) {
    const lp_rope_spec ropes[] = {{inv_freq, NULL, 0, 1}, {inv_freq, inv_freq, 10, 1.25f}};
    lp_architecture a = seed % 2 ? tiny_any(&config, seed) : tiny_llama(&config);
    a.ropes = ropes, a.n_ropes = 2;
    o->bytes = make_tiny_file(&a, seed);
    if (lp_safetensors_from_bytes(&o->file, "f", o->bytes.bytes, o->bytes.n_bytes, NULL)) return -1;
    return lp_model_open(&o->model, &a, lp_safetensors_tensors(&o->file, 1, NULL), NULL);
}

static void close_model(opened *o) {
    lp_model_close(o->model);
    lp_safetensors_close(o->file);
    free(o->bytes.bytes);
}

/* One thread's runs of one model. */
typedef struct {
    const lp_model *model;
    size_t n_threads;
    float logits[N_TOKENS * VOCAB];
    const float *expected; /* what a run alone gives */
    atomic_int stop;       /* set by another thread, read by the poll */
    atomic_int n_started;  /* runs that have polled */
    int n_same, n_stopped, n_wrong;
} runner;

static int asks_to_stop(void *arg) {
    runner *r = arg;
    atomic_fetch_add(&r->n_started, 1);
    return atomic_load(&r->stop);
}

static int run_once(runner *r, lp_error *err) {
    int32_t ids[N_TOKENS];
    lp_run run;
    for (int i = 0; i < N_TOKENS; i++) ids[i] = i % VOCAB;
    if (lp_run_init(&run, r->model, ids, starts, 2, r->n_threads, err)) return -1;
    run.parallel.poll = asks_to_stop;
    run.parallel.poll_arg = r;
    lp_run_set_place(&run, LP_LOGITS, 0, r->logits);
    int status = lp_forward(&run, err);
    lp_run_free(&run);
    return status;
}

static void count_run(runner *r) {
    lp_error err;
    memset(r->logits, 0, sizeof r->logits);
    if (run_once(r, &err))
        err.status == LP_ECANCELED ? r->n_stopped++ : r->n_wrong++;
    else
        memcmp(r->logits, r->expected, sizeof r->logits) ? r->n_wrong++ : r->n_same++;
}

static void *run_rounds(void *arg) {
    for (int i = 0; i < N_ROUNDS; i++) count_run(arg);
    return NULL;
}

/* Runs until it is stopped. */
static void *run_on(void *arg) {
    runner *r = arg;
    while (!r->n_stopped && !r->n_wrong) count_run(r);
    return NULL;
}

/* Stops a run once it has begun. */
static void *stop_one(void *arg) {
    runner *r = arg;
    while (!atomic_load(&r->n_started)) sched_yield();
    atomic_store(&r->stop, 1);
    return NULL;
}

static void *open_and_close(void *ok) {
    for (int i = 0; i < N_ROUNDS; i++) {
        opened other;
        *(int *)ok &= open_model(&other, (uint64_t)i) == 0;
        close_model(&other);
    }
    return NULL;
}

static void test_together(const lp_model *model, const float *expected) {
    pthread_t threads[N_RUNNERS + 3];
    runner runners[N_RUNNERS], stopped = {.model = model, .n_threads = 2, .expected = expected};
    int opens = 1;
    for (size_t i = 0; i < N_RUNNERS; i++) {
        runners[i] = (runner){.model = model, .n_threads = 1 + i % 3, .expected = expected};
        pthread_create(&threads[i], NULL, run_rounds, &runners[i]);
    }
    pthread_create(&threads[N_RUNNERS], NULL, run_on, &stopped);
    pthread_create(&threads[N_RUNNERS + 1], NULL, stop_one, &stopped);
    pthread_create(&threads[N_RUNNERS + 2], NULL, open_and_close, &opens);
    for (size_t i = 0; i < N_RUNNERS + 3; i++) pthread_join(threads[i], NULL);
    for (size_t i = 0; i < N_RUNNERS; i++) CHECK(runners[i].n_same == N_ROUNDS && !runners[i].n_wrong);
    CHECK(stopped.n_stopped == 1 && !stopped.n_wrong);
    CHECK(opens);
}

int main(void) {
    static const uint64_t seeds[] = {4, 3, 5, 7, 9};
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        opened o;
        lp_error err;
        CHECK(open_model(&o, seeds[i]) == 0);
        runner alone = {.model = o.model, .n_threads = 1};
        CHECK(run_once(&alone, &err) == 0 && alone.logits[0] != 0);
        test_together(o.model, alone.logits);
        close_model(&o);
    }
    return CHECK_REPORT();
}
