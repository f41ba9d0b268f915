/* test_plan.c - what a plan holds, and that it changes no bit: with everything fused, everything materialised, one
 * point at a time, or any of them, a run gives the same values on every variant. */
#define _GNU_SOURCE
#include "check.h"

#include <stdlib.h>

#include "../../csrc/sys/clock.h"
#include "../../csrc/run/forward.h"
#include "canonical.h"
#include "subject.h"
#include "variants.h"

/* Runs, and compares what was requested with a run of all values. */
static void check_run(lp_run *run, const lp_run *all, const char *what) {
    lp_error err = {0};
    CHECK(lp_forward(run, &err) == 0 && run->steps_done == run->n_steps);
    if (err.status) fprintf(stderr, "  %s\n", err.msg);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(run, p); i++) {
            const float *got = run->places[lp_plan_array(run->model, p, i)];
            int same = !got || same_floats(got, all->places[lp_plan_array(run->model, p, i)], floats_of(run, p));
            CHECK(same);
            if (!same) fprintf(stderr, "  %s, %s: %s of layer %zu\n", run->kernels->name, what, lp_point_name(p), i);
        }
    free_run(run);
}

/* ---- the same bits ------------------------------------------------------------------------------------------- */

static void materialise_all(lp_run *run) {
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(run, p); i++) lp_run_materialise(run, p, i);
}

static void check_everything_materialised(const subject *s, const lp_run *all) {
    lp_run run;
    start_run(&run, s, 2);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(&run, p); i++) set_place(&run, p, i);
    materialise_all(&run);
    check_run(&run, all, "all materialised");
    start_run(&run, s, 1);
    set_place(&run, LP_LOGITS, 0);
    materialise_all(&run);
    CHECK(lp_run_plan(&run, NULL) == 0);
    for (size_t i = 0; i < run.plan->n_steps; i++) { /* q, k and v read none of each other, nor do gate and up */
        const lp_step *step = &run.plan->steps[i];
        int alone = step->first == step->last || step->first == LP_Q || step->first == LP_GATE;
        CHECK(alone && step->last - step->first <= 2);
    }
    check_run(&run, all, "logits, all materialised");
}

static void check_one_at_a_time(const subject *s, const lp_run *all) {
    for (lp_point p = 0; p < LP_N_POINTS; p++) {
        for (int materialised = 0; materialised < 2 && lp_model_has(s->model, p); materialised++) {
            lp_run run;
            size_t layer = pick(n_layers_of(all, p));
            start_run(&run, s, 1 + pick(3));
            set_place(&run, p, layer);
            if (materialised) materialise_all(&run);
            check_run(&run, all, lp_point_name(p));
        }
    }
}

/* Any values requested, any others materialised. */
static void check_any(const subject *s, const lp_run *all) {
    for (int round = 0; round < 12; round++) {
        lp_run run;
        size_t some = 1 + pick(8), more = 1 + pick(8);
        start_run(&run, s, 1 + pick(3));
        for (lp_point p = 0; p < LP_N_POINTS; p++)
            for (size_t i = 0; i < n_layers_of(&run, p); i++) {
                if (!pick(some)) set_place(&run, p, i);
                if (!pick(more)) lp_run_materialise(&run, p, i);
            }
        check_run(&run, all, "any");
    }
}

/* The last rows of the last layer, and fewer of the head: what they have is what those rows have with all others. */
static void check_rows(const subject *s, const lp_run *all) {
    lp_error err;
    size_t n = s->starts[s->n_seqs], last = all->model->config.n_layers - 1, layer_row = pick(n);
    static const lp_point points[] = {LP_Z, LP_ATTN_OUT, LP_HIDDEN, LP_X_OUT, LP_FINAL_NORM, LP_LOGITS};
    for (int materialised = 0; materialised < 2; materialised++) {
        lp_run run;
        start_run(&run, s, 2);
        run.layer_row = layer_row, run.head_row = layer_row + pick(n - layer_row);
        for (size_t i = 0; i < 6; i++) set_place(&run, points[i], lp_point_per_layer(points[i]) ? last : 0);
        if (materialised) materialise_all(&run);
        CHECK(lp_forward(&run, &err) == 0);
        for (size_t i = 0; i < 6; i++) {
            size_t width = floats_of(&run, points[i]) / n, array = lp_plan_array(run.model, points[i], last);
            size_t row = i == 0 ? 0 : i < 4 ? run.layer_row : run.head_row;
            CHECK(same_floats(run.places[array], all->places[array] + row * width, (n - row) * width));
        }
        free_run(&run);
    }
}

/* Closes the subject. */
static void check_opened(subject s) {
    lp_run all;
    lp_error err = {0};
    start_run(&all, &s, 1);
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < n_layers_of(&all, p); i++) set_place(&all, p, i);
    CHECK(lp_forward(&all, &err) == 0);
    check_everything_materialised(&s, &all);
    check_one_at_a_time(&s, &all);
    check_any(&s, &all);
    check_rows(&s, &all);
    free_run(&all);
    close_subject(&s);
}

static void check_subject(const lp_config *config, const size_t *lengths) {
    subject s;
    if (!open_subject(&s, config, lengths)) check_opened(s);
}

static void check_variant(const lp_kernels *variant) {
    setenv("LLAMAPROBE_KERNELS", variant->name, 1);
    /* the last but one dimension is that of more than a block of k; odd sizes, a batch, one token */
    check_subject(&(lp_config)LLAMA(2, 4, 2, 6, 20, 36, 23, 99, 1e-5, 1, 1, 0), (const size_t[]){9, 1, 21, 0});
    check_subject(&(lp_config)LLAMA(2, 3, 1, 16, 300, 290, 17, 99, 1e-6, 0, 0, 1), (const size_t[]){1, 0});
    check_subject(&(lp_config)LLAMA(1, 2, 2, 34, 13, 7, 29, 99, 0, 0, 1, 1), (const size_t[]){66, 5, 0});
    check_subject(&(lp_config)LLAMA(3, 2, 1, 8, 24, 32, 5, 99, 1e-5, 1, 0, 0), (const size_t[]){1, 1, 1, 1});
    for (int i = 0; i < 8; i++) { /* any model, and any batch */
        size_t kv_heads = 1 + pick(3);
        size_t head_dim = 2 + 2 * pick(12);
        int bias = (int)pick(2);
        lp_config c = LLAMA(1 + pick(3), kv_heads * (1 + pick(3)), kv_heads, head_dim, 1 + pick(70), 1 + pick(90),
                            3 + pick(40), 99, 1e-5, bias, (int)pick(2), (int)pick(2));
        const size_t lengths[] = {1 + pick(20), pick(20), pick(20), pick(20)};
        lp_architecture a = tiny_any(&c, pick(1 << 20));
        a.ropes = tables();
        subject s;
        if (i < 3)
            check_subject(&c, lengths);
        else if (!open_architecture(&s, &a, lengths))
            check_opened(s);
    }
    unsetenv("LLAMAPROBE_KERNELS");
}

/* ---- what a plan holds --------------------------------------------------------------------------------------- */

static const lp_config small = LLAMA(4, 4, 2, 8, 32, 48, 19, 99, 1e-5, 0, 0, 0);

/* No two values that are alive at once share a byte. */
static void check_places(const lp_run *run) {
    const lp_plan *plan = run->plan;
    size_t n = plan->n_layers * LP_N_POINTS;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) {
            const lp_value *a = &plan->values[i], *b = &plan->values[j];
            if (a->where != LP_IN_SCRATCH || b->where != LP_IN_SCRATCH) continue;
            if (a->step == LP_NO_STEP || b->step == LP_NO_STEP || a->last < b->step || b->last < a->step) continue;
            size_t a_end = a->at + 4 * floats_of(run, (lp_point)(i % LP_N_POINTS));
            size_t b_end = b->at + 4 * floats_of(run, (lp_point)(j % LP_N_POINTS));
            CHECK(a_end <= b->at || b_end <= a->at);
        }
    for (size_t i = 0; i < n; i++)
        if (plan->values[i].where == LP_IN_SCRATCH)
            CHECK(plan->values[i].at + 4 * floats_of(run, (lp_point)(i % LP_N_POINTS)) <= plan->value_bytes);
}

static void check_plans(void) {
    subject s;
    lp_run run;
    if (open_subject(&s, &small, (const size_t[]){7, 3, 0})) return;
    for (int round = 0; round < 60; round++) {
        start_run(&run, &s, 1);
        for (lp_point p = 0; p < LP_N_POINTS; p++)
            for (size_t i = 0; i < n_layers_of(&run, p); i++) {
                if (round && !pick(6)) CHECK(lp_run_request(&run, p, i) == 0 && lp_run_request(&run, p, i) == -1);
                if (round && !pick(4)) lp_run_materialise(&run, p, i);
            }
        CHECK(lp_run_plan(&run, NULL) == 0);
        CHECK((run.plan->n_steps == 0) == (round == 0));
        check_places(&run);
        lp_error err = {0};
        CHECK(round ? lp_forward(&run, &err) == -1 && err.status == LP_EARG : lp_forward(&run, &err) == 0);
        lp_run_free(&run);
    }
    /* x_norm of layer 1 needs no weight of its layer but the gain, and of layer 0 all matrices */
    start_run(&run, &s, 1);
    lp_run_request(&run, LP_X_NORM, 1);
    CHECK(lp_run_plan(&run, NULL) == 0 && run.plan->n_layers == 2);
    CHECK(run.plan->weight_end[0] == 7 && run.plan->weight_end[1] == 7 && run.plan->weight_end[2] == 7);
    CHECK(run.plan->weights[0] == &s.model->layers[0].q && run.plan->weights[6] == &s.model->layers[0].down);
    lp_run_free(&run);
    /* rows that the run does not have */
    for (size_t i = 0; i < 2; i++) {
        start_run(&run, &s, 1);
        run.layer_row = 4, run.head_row = i ? 10 : 3;
        lp_error err;
        CHECK(lp_run_plan(&run, &err) == -1 && err.status == LP_EARG);
        lp_run_free(&run);
    }
    /* scratch is used again: no more for all layers than for two */
    size_t n_bytes[2];
    for (size_t i = 0; i < 2; i++) {
        start_run(&run, &s, 1);
        lp_run_request(&run, LP_X_OUT, i ? 3 : 1);
        CHECK(lp_run_plan(&run, NULL) == 0);
        n_bytes[i] = run.plan->value_bytes;
        lp_run_free(&run);
    }
    CHECK(n_bytes[0] == n_bytes[1] && n_bytes[0] > 0);
    close_subject(&s);
}

static void check_sets(void) {
    lp_points set = {{0}};
    CHECK(!lp_points_any(&set));
    for (int p = 0; p < 64 * LP_SET_WORDS; p += 7) lp_points_add(&set, (lp_point)p);
    for (int p = 0; p < 64 * LP_SET_WORDS; p++) CHECK(lp_points_has(&set, (lp_point)p) == (p % 7 == 0));
    CHECK(lp_points_any(&set));
}

/* Every value reads what comes before it, but for x. */
static void check_reads(void) {
    const lp_point *reads;
    for (lp_point p = 0; p < LP_N_POINTS; p++) {
        size_t n = lp_point_reads(p, &reads);
        CHECK(n >= 1 && n <= LP_MOST_READS);
        for (size_t r = 0; r < n; r++) CHECK(p == LP_X ? reads[r] == LP_X_OUT : reads[r] < p);
    }
}

/* What the values of a Llama are computed from: the lists before other models had points of their own. */
static void check_reads_of_llama(void) {
    static const struct {
        lp_point point;
        lp_reads reads;
    } expected[] = {
        {LP_X, {{LP_X_OUT}, 1}},
        {LP_X_RMS, {{LP_X}, 1}},
        {LP_X_UNIT, {{LP_X, LP_X_RMS}, 2}},
        {LP_X_NORM, {{LP_X_UNIT}, 1}},
        {LP_Q, {{LP_X_NORM}, 1}},
        {LP_K, {{LP_X_NORM}, 1}},
        {LP_V, {{LP_X_NORM}, 1}},
        {LP_Q_ROPE, {{LP_Q}, 1}},
        {LP_K_ROPE, {{LP_K}, 1}},
        {LP_SCORES, {{LP_Q_ROPE, LP_K_ROPE}, 2}},
        {LP_PATTERN, {{LP_SCORES}, 1}},
        {LP_Z, {{LP_PATTERN, LP_V}, 2}},
        {LP_ATTN_OUT, {{LP_Z}, 1}},
        {LP_X_MID, {{LP_X, LP_ATTN_OUT}, 2}},
        {LP_X_MID_RMS, {{LP_X_MID}, 1}},
        {LP_X_MID_UNIT, {{LP_X_MID, LP_X_MID_RMS}, 2}},
        {LP_X_MID_NORM, {{LP_X_MID_UNIT}, 1}},
        {LP_GATE, {{LP_X_MID_NORM}, 1}},
        {LP_UP, {{LP_X_MID_NORM}, 1}},
        {LP_ACT, {{LP_GATE}, 1}},
        {LP_HIDDEN, {{LP_ACT, LP_UP}, 2}},
        {LP_MLP_OUT, {{LP_HIDDEN}, 1}},
        {LP_X_OUT, {{LP_X_MID, LP_MLP_OUT}, 2}},
        {LP_FINAL_RMS, {{LP_X_OUT}, 1}},
        {LP_FINAL_UNIT, {{LP_X_OUT, LP_FINAL_RMS}, 2}},
        {LP_FINAL_NORM, {{LP_FINAL_UNIT}, 1}},
        {LP_LOGITS, {{LP_FINAL_NORM}, 1}},
    };
    subject s;
    lp_points found = {{0}};
    if (open_subject(&s, &small, (const size_t[]){1, 0})) return;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const lp_reads *got = &s.model->reads[expected[i].point], *want = &expected[i].reads;
        lp_points_add(&found, expected[i].point);
        CHECK(got->n == want->n && !memcmp(got->point, want->point, want->n * sizeof *want->point));
    }
    CHECK(!memcmp(&found, &s.model->present, sizeof found));
    CHECK(lp_model_source(s.model, LP_Q_NORM) == LP_Q && lp_model_source(s.model, LP_X_NORM) == LP_X_NORM);
    lp_run run;
    start_run(&run, &s, 1);
    CHECK(lp_run_request(&run, LP_Q_NORM, 0) == -1);
    lp_run_free(&run);
    close_subject(&s);
}

/* Printed, and no test: a plan of 32 layers takes tens of microseconds. */
static void show_speed(void) {
    static const lp_config large = LLAMA(32, 4, 2, 8, 32, 48, 19, 99, 1e-5, 0, 0, 0);
    subject s;
    lp_run run;
    int64_t best = INT64_MAX;
    if (open_subject(&s, &large, (const size_t[]){8, 0})) return;
    start_run(&run, &s, 2);
    lp_run_request(&run, LP_LOGITS, 0);
    for (size_t i = 0; i < 32; i++) lp_run_request(&run, LP_X, i), lp_run_request(&run, LP_X_NORM, i);
    for (int i = 0; i < 100; i++) {
        int64_t start = lp_clock_ns();
        CHECK(lp_run_plan(&run, NULL) == 0);
        if (lp_clock_ns() - start < best) best = lp_clock_ns() - start;
    }
    printf("a plan of 32 layers: %.1f us\n", (double)best / 1e3);
    lp_run_free(&run);
    close_subject(&s);
}

int main(int argc, char **argv) {
    check_sets();
    check_reads();
    check_reads_of_llama();
    check_plans();
    show_speed();
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
