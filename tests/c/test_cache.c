/* test_cache.c - runs that go on from caches have the bits of one run of all tokens, at every point, by every variant:
 * in a batch of different pasts, after going back, copying, growing and being stopped, and from several threads. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <stdlib.h>

#include "../../csrc/run/forward.h"
#include "variants.h"
#include "tiny_model.h"

enum { MOST_SEQS = 3, MOST_LAYERS = 3, VOCAB = 61, MOST = 200, N_MODELS = 3, N_THREADS = 4 };

static uint64_t seed = 88172645463325252u;
static size_t pick(size_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(seed >> 33) % n;
}

/* ---- models --------------------------------------------------------------------------------------------------- */

typedef struct {
    image bytes;
    lp_safetensors *file;
    lp_model *model;
} opened;

/* 0: heads that fill no panel, and are wider than the model, so that k_rope would fit the place of v. 1: windows, a
 * cap, a layer without RoPE. 2: a table for long prompts. */
static void open_model(opened *o, int number) {
    static const size_t windows[] = {7, 64, 0};
    static const int rope_of[] = {0, -1, 0};
    static const float inv_freq[] = {1, 0.5f, 0.25f, 0.1f, 0.01f}, long_inv_freq[] = {0.5f, 0.2f, 0.1f, 0.02f, 0.001f};
    lp_config c = LLAMA(MOST_LAYERS, 6, 2, 10, number ? 36 : 8, 50, VOCAB, MOST, 1e-5, number == 0, 0, 1);
    lp_architecture a = tiny_llama(&c);
    lp_rope_spec rope = {.inv_freq = inv_freq, .factor = 1};
    if (number == 1) a.windows = windows, a.rope_of = rope_of, a.config.score_cap = 3, a.config.logits_cap = 2;
    if (number == 1) a.config.residual_scale = 0.5;
    if (number == 2) rope.long_inv_freq = long_inv_freq, rope.original = 50;
    a.ropes = &rope, a.n_ropes = 1;
    o->bytes = make_tiny_file(&a, 4 * 7 + 2);
    CHECK(lp_safetensors_from_bytes(&o->file, "f", o->bytes.bytes, o->bytes.n_bytes, NULL) == 0);
    CHECK(lp_model_open(&o->model, &a, lp_safetensors_tensors(&o->file, 1, NULL), NULL) == 0);
}

static void close_model(opened *o) {
    lp_model_close(o->model);
    lp_safetensors_close(o->file);
    free(o->bytes.bytes);
}

/* ---- runs ------------------------------------------------------------------------------------------------------ */

/* A run of some tokens, and all its values. */
typedef struct {
    lp_run run;
    int32_t ids[MOST_SEQS * MOST];
    size_t starts[MOST_SEQS + 1];
    float *places[MOST_LAYERS][LP_N_POINTS];
} job;

typedef struct {
    const lp_kernels *kernels; /* NULL: the default */
    size_t n_threads, rope_length;
    int unfused, head_only, last_rows;
    int (*poll)(void *arg);
} how;

static int32_t id_of(size_t sequence, size_t position) {
    return (int32_t)((position * position * 7 + position * 3 + sequence * 11) % VOCAB);
}

static size_t n_layers_of(lp_point p) { return lp_point_per_layer(p) ? MOST_LAYERS : 1; }

static void job_free(job *j) {
    for (int i = 0; i < MOST_LAYERS; i++)
        for (int p = 0; p < LP_N_POINTS; p++) free(j->places[i][p]);
    lp_run_free(&j->run);
    free(j);
}

/* For what several threads do, which may not count checks. */
static void must(int holds) {
    if (!holds) abort();
}

static void set_places(job *j, const how *h) {
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0, n; i < n_layers_of(p); i++) {
            if (!lp_model_has(j->run.model, p)) continue;
            if (h->unfused) lp_run_materialise(&j->run, p, i);
            if (h->head_only && p != LP_LOGITS) continue;
            must(lp_run_size(&j->run, p, &n) == 0);
            j->places[i][p] = malloc(n * sizeof(float));
            memset(j->places[i][p], p == LP_PATTERN ? 0 : 0xff, n * sizeof(float));
            lp_run_set_place(&j->run, p, i, j->places[i][p]);
        }
}

/* The next n_tokens[i] tokens of sequence i, after those in its cache; NULL without caches. */
static job *job_new(const lp_model *model, size_t n_seqs, const size_t *n_tokens, lp_cache *const *caches, how h,
                    lp_error *err) {
    job *j = calloc(1, sizeof *j);
    for (size_t s = 0, at = 0; s < n_seqs; s++) {
        size_t past = caches && caches[s] ? caches[s]->n_tokens : 0;
        for (size_t t = 0; t < n_tokens[s]; t++) j->ids[at++] = id_of(s, past + t);
        j->starts[s + 1] = at;
    }
    must(lp_run_init(&j->run, model, j->ids, j->starts, n_seqs, h.n_threads, err) == 0);
    if (h.kernels) j->run.kernels = h.kernels;
    j->run.rope_length = h.rope_length, j->run.last_rows = h.last_rows, j->run.parallel.poll = h.poll;
    if (caches && lp_run_set_caches(&j->run, caches, err)) {
        job_free(j);
        return NULL;
    }
    for (size_t s = 0; caches && s < n_seqs; s++)
        if (caches[s]) must(lp_cache_reserve(caches[s], caches[s]->n_tokens + n_tokens[s], &j->run.parallel, err) == 0);
    set_places(j, &h);
    return j;
}

/* The same, computed; on success the caches have grown. */
static job *job_run(const lp_model *model, size_t n_seqs, const size_t *n_tokens, lp_cache *const *caches, how h,
                    lp_error *err) {
    job *j = job_new(model, n_seqs, n_tokens, caches, h, err);
    if (!j) return NULL;
    if (!lp_forward(&j->run, err)) {
        lp_run_keep(&j->run);
        return j;
    }
    job_free(j);
    return NULL;
}

/* Floats of the maps of the sequences before s. */
static size_t map_start(const job *j, size_t s) {
    size_t at = 0;
    for (size_t i = 0; i < s; i++) {
        size_t n = j->starts[i + 1] - j->starts[i];
        at += n * (n + (j->run.n_past ? j->run.n_past[i] : 0)) * j->run.model->config.n_heads;
    }
    return at;
}

/* Sequence s of a run against the same rows of a run of all its tokens, which is its sequence `of`. */
static int same_rows(const job *part, size_t s, const job *all, size_t of) {
    const lp_config *c = &part->run.model->config;
    size_t n = part->starts[s + 1] - part->starts[s], past = part->run.n_past ? part->run.n_past[s] : 0;
    size_t n_all = all->starts[of + 1] - all->starts[of], n_keys = past + n;
    int same = 1;
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(p); i++) {
            const float *a = part->places[i][p], *b = all->places[i][p];
            size_t width = lp_config_width(c, lp_point_width(p));
            if (!a) continue;
            if (lp_point_width(p) != LP_WIDTH_MAP) {
                int last = part->run.last_rows && p >= LP_FINAL_RMS;
                size_t row = last ? n_keys - 1 : past, n_rows = last ? 1 : n;
                same &= !memcmp(a + (last ? s : part->starts[s]) * width, b + (all->starts[of] + row) * width,
                                n_rows * width * sizeof *a);
                continue;
            }
            a += map_start(part, s), b += map_start(all, of);
            for (size_t head = 0; head < width; head++)
                for (size_t t = 0; t < n; t++)
                    same &=
                        !memcmp(a + (head * n + t) * n_keys, b + (head * n_all + past + t) * n_all, n_keys * sizeof *a);
        }
    return same;
}

/* ---- the law --------------------------------------------------------------------------------------------------- */

static const size_t lengths[MOST_SEQS] = {180, 90, 33};

/* All sequences in steps of random lengths, which now and then go back, and at last a copy goes on. */
static void check_steps(const lp_model *model, const job *all, how h) {
    lp_cache caches[MOST_SEQS], copy;
    lp_cache *of[MOST_SEQS];
    lp_error err;
    int same = 1;
    for (size_t s = 0; s < MOST_SEQS; s++) lp_cache_init(of[s] = &caches[s], model);
    for (size_t step = 0; step < 24; step++) {
        size_t n_tokens[MOST_SEQS];
        for (size_t s = 0; s < MOST_SEQS; s++) {
            if (step % 5 == 4 || of[s]->n_tokens == lengths[s])
                CHECK(lp_cache_rewind(of[s], pick(of[s]->n_tokens), &err) == 0);
            size_t left = lengths[s] - of[s]->n_tokens;
            n_tokens[s] = step % 3 == 1 ? 1 : 1 + pick(left < 40 ? left : 40);
        }
        h.last_rows = step % 4 == 3, h.head_only = step % 8 == 7;
        job *j = job_run(model, MOST_SEQS, n_tokens, of, h, &err);
        CHECK(j != NULL);
        for (size_t s = 0; j && s < MOST_SEQS; s++) same &= same_rows(j, s, all, s);
        if (j) job_free(j);
        if (step != 15) continue;
        lp_cache_init(&copy, model);
        CHECK(lp_cache_reserve(&copy, caches[1].n_tokens, &(lp_parallel){.n_threads = 2}, &err) == 0);
        CHECK(lp_cache_copy(&copy, &caches[1], &(lp_parallel){.n_threads = 2}, &err) == 0);
        lp_cache_free(&caches[1]);
        of[1] = &copy;
    }
    CHECK(same);
    if (!same) fprintf(stderr, "  %s, %zu threads, unfused %d\n", h.kernels->name, h.n_threads, h.unfused);
    lp_cache_free(&copy), lp_cache_free(&caches[0]), lp_cache_free(&caches[2]);
}

/* Sequences with and without a cache in one run; a cache alone, without any requested value. */
static void check_mixed(const lp_model *model, const job *all, how h) {
    lp_cache cache;
    lp_error err;
    lp_cache_init(&cache, model);
    lp_run run;
    int32_t ids[40];
    size_t starts[] = {0, 40};
    for (size_t t = 0; t < 40; t++) ids[t] = id_of(1, t);
    CHECK(lp_run_init(&run, model, ids, starts, 1, 2, &err) == 0);
    run.kernels = h.kernels, run.rope_length = h.rope_length;
    lp_cache *of[] = {&cache};
    CHECK(lp_run_set_caches(&run, of, &err) == 0);
    CHECK(lp_forward(&run, &err) == -1 && err.status == LP_EARG); /* no room */
    CHECK(lp_cache_reserve(&cache, 40, &run.parallel, &err) == 0 && lp_forward(&run, &err) == 0);
    CHECK(cache.n_tokens == 0);
    lp_run_keep(&run), lp_run_free(&run);
    CHECK(cache.n_tokens == 40);
    job *j = job_run(model, MOST_SEQS, (size_t[]){70, 9, 33}, (lp_cache *[]){NULL, &cache, NULL}, h, &err);
    /* the first ends early: its rows are those of the longer prompt, its maps narrower */
    CHECK(j && same_rows(j, 0, all, 0) && same_rows(j, 1, all, 1) && same_rows(j, 2, all, 2));
    CHECK(cache.n_tokens == 49);
    if (j) job_free(j);
    lp_cache_free(&cache);
}

static opened models[N_MODELS];

static void check_variant(const lp_kernels *k) {
    for (int m = 0; m < N_MODELS; m++) {
        lp_error err;
        how h = {.kernels = k, .n_threads = 2, .rope_length = m == 2 ? 120 : 0};
        job *all = job_run(models[m].model, MOST_SEQS, lengths, NULL, h, &err);
        CHECK(all != NULL);
        for (int unfused = 0; unfused < 2; unfused++) {
            h.unfused = unfused, h.n_threads = 1 + (size_t)m;
            check_steps(models[m].model, all, h);
        }
        h.unfused = 0;
        check_mixed(models[m].model, all, h);
        job_free(all);
    }
}

/* ---- failures -------------------------------------------------------------------------------------------------- */

static int polls_left;
static int stops(void *arg) {
    (void)arg;
    return polls_left-- <= 0;
}

/* Stopped at any step, the cache is as it was, and the next run goes on from it. */
static void check_stopped(void) {
    const lp_model *model = models[1].model;
    lp_cache cache;
    lp_error err;
    how h = {.n_threads = 2}, stopped = {.n_threads = 2, .poll = stops};
    size_t n_stopped = 0;
    job *all = job_run(model, 1, lengths, NULL, h, &err), *j;
    lp_cache_init(&cache, model);
    polls_left = 1000;
    for (int n = 0; cache.n_tokens < 150; n++) {
        size_t past = cache.n_tokens;
        CHECK(lp_cache_reserve(&cache, past + 40, &(lp_parallel){.n_threads = 1}, &err) == 0);
        polls_left = n * 7 % 40;
        j = job_run(model, 1, (size_t[]){1 + (size_t)n % 30}, (lp_cache *[]){&cache}, stopped, &err);
        CHECK(j || err.status == LP_ECANCELED);
        n_stopped += !j;
        if (j) job_free(j);
        if (!j) CHECK(cache.n_tokens == past);
        j = job_run(model, 1, (size_t[]){1 + (size_t)n % 3}, (lp_cache *[]){&cache}, h, &err);
        CHECK(j && same_rows(j, 0, all, 0));
        if (j) job_free(j);
    }
    CHECK(n_stopped > 5);
    size_t n_tokens = cache.n_tokens, capacity = cache.capacity;
    polls_left = 0;
    CHECK(lp_cache_reserve(&cache, capacity + 1, &(lp_parallel){.n_threads = 1, .poll = stops}, &err) == -1 &&
          err.status == LP_ECANCELED);
    CHECK(cache.n_tokens == n_tokens && cache.capacity == capacity);
    job_free(all), lp_cache_free(&cache);
}

/* The refusal of a run of n tokens, which leaves the cache alone; LP_OK: it ran. */
static lp_status refusal(const lp_model *model, lp_cache *cache, size_t n, size_t rope_length, lp_error *err) {
    size_t before = cache->n_tokens;
    job *j = job_run(model, 1, &n, &cache, (how){.n_threads = 1, .rope_length = rope_length, .head_only = 1}, err);
    if (j) job_free(j);
    if (j) return LP_OK;
    CHECK(cache->n_tokens == before);
    return err->status;
}

static void check_refusals(void) {
    const lp_model *model = models[2].model;
    lp_cache cache;
    lp_error err;
    size_t capacity, n_bytes;
    lp_cache_init(&cache, model);
    CHECK(refusal(models[0].model, &cache, 3, 0, &err) == LP_EARG && strstr(err.msg, "another model"));
    CHECK(refusal(model, &cache, 49, 0, &err) == LP_OK && refusal(model, &cache, 1, 0, &err) == LP_OK);
    CHECK(refusal(model, &cache, 1, 0, &err) == LP_EARG && strstr(err.msg, "51 tokens") && strstr(err.msg, "short"));
    CHECK(refusal(model, &cache, 1, 51, &err) == LP_EARG && refusal(model, &cache, 1, 50, &err) == LP_OK);
    CHECK(lp_cache_rewind(&cache, 0, &err) == 0 && refusal(model, &cache, 51, 0, &err) == LP_OK);
    CHECK(refusal(model, &cache, 1, 0, &err) == LP_OK && lp_cache_rewind(&cache, 3, &err) == 0);
    CHECK(refusal(model, &cache, 1, 0, &err) == LP_EARG && strstr(err.msg, "long RoPE frequencies"));
    CHECK(refusal(model, &cache, MOST - 2, 99, &err) == LP_EARG && strstr(err.msg, "201 tokens, 3 of them"));
    CHECK(refusal(model, &cache, MOST - 3, 99, &err) == LP_OK && cache.n_tokens == MOST && cache.capacity == MOST);
    CHECK(lp_cache_rewind(&cache, MOST + 1, &err) == -1 && err.status == LP_EARG && cache.n_tokens == MOST);
    CHECK(lp_cache_growth(&cache, MOST, &capacity, &n_bytes) == 0 && capacity == MOST && !n_bytes);
    CHECK(lp_cache_growth(&cache, (size_t)-1, &capacity, &n_bytes) == -1);
    CHECK(lp_cache_growth(&cache, (size_t)-1 / 16, &capacity, &n_bytes) == -1);
    CHECK(lp_cache_reserve(&cache, (size_t)-1 / 16, &(lp_parallel){.n_threads = 1}, &err) == -1 &&
          err.status == LP_ENOMEM);
    lp_cache_free(&cache);
    lp_cache_init(&cache, model);
    CHECK(lp_cache_reserve(&cache, 9, &(lp_parallel){.n_threads = 1}, &err) == 0 && cache.capacity == 16);
    CHECK(lp_cache_bytes(&cache) == cache.block.n_bytes && lp_cache_bytes(&cache) == 16 * 3 * 2 * (10 + 16) * 4);
    CHECK(lp_cache_growth(&cache, 17, &capacity, &n_bytes) == 0 && capacity == 24 && n_bytes == 24 * 3 * 2 * 26 * 4);
    lp_cache_free(&cache);
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

static const job *expected;
static lp_cache shared;

/* Each with a cache of its own, and now and then the one that all share, if nobody holds it. */
static void *go_on(void *arg) {
    int *n_wrong = arg;
    lp_error err;
    lp_cache own;
    lp_cache_init(&own, models[0].model);
    for (int i = 0; i < 20; i++) {
        lp_cache *cache = i % 2 && !lp_cache_hold(&shared) ? &shared : &own;
        size_t n = 1 + (size_t)i % 8;
        if (cache->n_tokens + n > lengths[0]) lp_cache_rewind(cache, 0, &err);
        job *j = job_run(models[0].model, 1, &n, &cache, (how){.n_threads = 2}, &err);
        *n_wrong += !j || !same_rows(j, 0, expected, 0);
        if (j) job_free(j);
        if (cache == &shared) lp_cache_release(&shared);
    }
    lp_cache_free(&own);
    return NULL;
}

static void check_threads(void) {
    lp_error err;
    pthread_t threads[N_THREADS];
    int n_wrong[N_THREADS] = {0};
    job *all = job_run(models[0].model, MOST_SEQS, lengths, NULL, (how){.n_threads = 2}, &err);
    expected = all;
    lp_cache_init(&shared, models[0].model);
    for (int i = 0; i < N_THREADS; i++) CHECK(pthread_create(&threads[i], NULL, go_on, &n_wrong[i]) == 0);
    for (int i = 0; i < N_THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0 && !n_wrong[i]);
    CHECK(lp_cache_hold(&shared) == 0 && lp_cache_hold(&shared) == -1);
    lp_cache_free(&shared), job_free(all);
}

int main(int argc, char **argv) {
    for (int m = 0; m < N_MODELS; m++) open_model(&models[m], m);
    for_each_variant(argc, argv, check_variant);
    check_stopped();
    check_refusals();
    check_threads();
    for (int m = 0; m < N_MODELS; m++) close_model(&models[m]);
    return CHECK_REPORT();
}
