/* test_profile.c - laps add up to the clock, counts are added to the stage that ends, a NULL profile is legal; and a
 * roof is measured, or stopped. */
#define _GNU_SOURCE
#include "check.h"

#include <stdint.h>
#include <time.h>

#include "../../csrc/sys/clock.h"
#include "../../csrc/sys/profile.h"
#include "../../csrc/ops/roof.h"

static void wait_ns(long ns) { nanosleep(&(struct timespec){0, ns}, NULL); }

static void check_laps(void) {
    lp_profile p;
    int64_t before = lp_clock_ns(), sum = 0;
    lp_profile_start(&p);
    int64_t start = p.last_ns;
    wait_ns(2000000);
    lp_profile_count(&p, 10, 20, 30);
    lp_profile_count(&p, 1, 2, 3);
    lp_profile_lap(&p, LP_STAGE_QKV);
    lp_profile_lap(&p, LP_STAGE_NORM);
    wait_ns(1000000);
    lp_profile_count(&p, 100, 0, 0);
    lp_profile_lap(&p, LP_STAGE_QKV);
    const lp_stage_work *qkv = &p.stages[LP_STAGE_QKV], *norm = &p.stages[LP_STAGE_NORM];
    CHECK(qkv->n_laps == 2 && qkv->flops == 111 && qkv->weight_bytes == 22 && qkv->value_bytes == 33);
    CHECK(norm->n_laps == 1 && norm->flops == 0 && norm->weight_bytes == 0 && norm->value_bytes == 0);
    CHECK(qkv->ns >= 3000000);
    for (int i = 0; i < LP_N_STAGES; i++) sum += p.stages[i].ns;
    CHECK(before <= start && sum == p.last_ns - start && p.last_ns <= lp_clock_ns());
}

static void check_nobody(void) {
    lp_profile_start(NULL);
    lp_profile_count(NULL, 1, 1, 1);
    lp_profile_lap(NULL, LP_STAGE_EMBED);
    CHECK(!strcmp(lp_stage_name(LP_STAGE_PLAN), "plan") && !strcmp(lp_stage_name(LP_STAGE_HEAD), "head"));
}

static int stop(void *arg) {
    (void)arg;
    return 1;
}

static void check_roof(void) {
    lp_error err;
    lp_roof roof;
    for (size_t n_threads = 1; n_threads <= 3; n_threads++) {
        lp_parallel parallel = {n_threads, NULL, NULL}, stopped = {n_threads, stop, NULL};
        CHECK(lp_roof_measure(&roof, lp_kernels_get(NULL), &parallel, &err) == 0);
        CHECK(roof.flops > 1e6 && roof.flops < 1e15 && roof.bytes > 1e6 && roof.bytes < 1e15);
        CHECK(lp_roof_measure(&roof, lp_kernels_get(NULL), &stopped, &err) == -1 && err.status == LP_ECANCELED);
    }
}

int main(void) {
    check_laps();
    check_nobody();
    check_roof();
    return CHECK_REPORT();
}
