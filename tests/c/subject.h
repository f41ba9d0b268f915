/* subject.h - a model with random weights, of any architecture, and runs of random tokens. */
#ifndef LP_TEST_SUBJECT_H
#define LP_TEST_SUBJECT_H

#include <stdlib.h>

#include "../../csrc/run/forward.h"
#include "check.h"
#include "tiny_model.h"

enum { MOST_SEQS = 4, MOST_TOKENS = 80 };

static uint64_t seed = 88172645463325252u;
static inline size_t pick(size_t n) { return tiny_pick(&seed, n); }

typedef struct {
    image bytes;
    lp_safetensors *file;
    lp_model *model;
    int32_t ids[MOST_TOKENS];
    size_t starts[MOST_SEQS + 1], n_seqs;
} subject;

static inline int open_architecture(subject *s, const lp_architecture *a, const size_t *lengths) {
    lp_error err = {0};
    *s = (subject){.bytes = make_tiny_file(a, pick(97))};
    for (; s->n_seqs < MOST_SEQS && lengths[s->n_seqs]; s->n_seqs++)
        s->starts[s->n_seqs + 1] = s->starts[s->n_seqs] + lengths[s->n_seqs];
    for (size_t i = 0; i < MOST_TOKENS; i++) s->ids[i] = (int32_t)pick(a->config.vocab_size);
    int failed = lp_safetensors_from_bytes(&s->file, "f", s->bytes.bytes, s->bytes.n_bytes, &err);
    if (!failed) failed = lp_model_open(&s->model, a, lp_safetensors_tensors(&s->file, 1, &err), &err);
    CHECK(!failed);
    if (failed) fprintf(stderr, "  %s\n", err.msg);
    return failed;
}

/* Two tables of each kind: the first has a longer one for sequences of more than 10 tokens. */
static inline const lp_rope_spec *tables(void) {
    static float inv_freq[4][64];
    static const lp_rope_spec ropes[] = {{inv_freq[0], inv_freq[1], 10, 1.25f}, {inv_freq[2], NULL, 0, 1}};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 64; j++) inv_freq[i][j] = 1.0f / (float)(1 + i + j);
    return ropes;
}

static inline int open_subject(subject *s, const lp_config *config, const size_t *lengths) {
    lp_architecture a = tiny_llama(config);
    a.ropes = tables() + 1, a.n_ropes = 1;
    return open_architecture(s, &a, lengths);
}

static inline void close_subject(subject *s) {
    lp_model_close(s->model);
    lp_safetensors_close(s->file);
    free(s->bytes.bytes);
}

static inline void start_run(lp_run *run, const subject *s, size_t n_threads) {
    lp_error err = {0};
    CHECK(lp_run_init(run, s->model, s->ids, s->starts, s->n_seqs, n_threads, &err) == 0);
}

static inline size_t floats_of(const lp_run *run, lp_point p) {
    size_t n = 0;
    CHECK(lp_run_size(run, p, &n) == 0);
    return n;
}

/* 0 for a point that the model lacks. */
static inline size_t n_layers_of(const lp_run *run, lp_point p) {
    if (!lp_model_has(run->model, p)) return 0;
    return lp_point_per_layer(p) ? run->model->config.n_layers : 1;
}

/* A place of NaN, which all must be written over; the pattern begins with zeros. */
static inline void set_place(lp_run *run, lp_point p, size_t layer) {
    size_t n = floats_of(run, p);
    float *place = malloc(n * sizeof *place);
    memset(place, p == LP_PATTERN ? 0 : 0xff, n * sizeof *place);
    lp_run_set_place(run, p, layer, place);
}

static inline void free_run(lp_run *run) {
    for (size_t i = 0; i < LP_N_POINTS * run->model->config.n_layers; i++) free(run->places[i]);
    lp_run_free(run);
}

#endif
