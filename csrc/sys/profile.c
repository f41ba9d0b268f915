/* profile.c - laps of a clock; see profile.h. */
#include "profile.h"

#include <string.h>

#include "clock.h" /* lp_clock_ns */

static const char *const names[LP_N_STAGES] = {
#define LP_STAGE_NAME(NAME, name) #name,
    LP_STAGES(LP_STAGE_NAME)
#undef LP_STAGE_NAME
};

const char *lp_stage_name(lp_stage stage) { return names[stage]; }

void lp_profile_start(lp_profile *p) {
    if (!p) return;
    memset(p, 0, sizeof *p);
    p->last_ns = lp_clock_ns();
}

void lp_profile_count(lp_profile *p, double flops, double weight_bytes, double value_bytes) {
    if (!p) return;
    p->since.flops += flops;
    p->since.weight_bytes += weight_bytes;
    p->since.value_bytes += value_bytes;
}

void lp_profile_lap(lp_profile *p, lp_stage stage) {
    if (!p) return;
    lp_stage_work *s = &p->stages[stage];
    int64_t now = lp_clock_ns();
    s->ns += now - p->last_ns;
    s->n_laps++;
    s->flops += p->since.flops;
    s->weight_bytes += p->since.weight_bytes;
    s->value_bytes += p->since.value_bytes;
    p->since = (lp_stage_work){0};
    p->last_ns = now;
}
