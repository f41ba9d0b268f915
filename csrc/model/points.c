/* points.c - the columns of the list of points. */
#include "points.h"

#define R1(a) {LP_##a}, 1
#define R2(a, b) {LP_##a, LP_##b}, 2

static const struct {
    const char *name;
    lp_width width;
    int per_layer;
    lp_stage stage;
    lp_point reads[LP_MOST_READS];
    size_t n_reads;
} points[LP_N_POINTS] = {
#define LP_POINT_ROW(NAME, name, width, per_layer, stage, reads) \
    {#name, LP_WIDTH_##width, per_layer, LP_STAGE_##stage, reads},
    LP_POINTS(LP_POINT_ROW)};

const char *lp_point_name(lp_point point) { return points[point].name; }
lp_width lp_point_width(lp_point point) { return points[point].width; }
int lp_point_per_layer(lp_point point) { return points[point].per_layer; }
lp_stage lp_point_stage(lp_point point) { return points[point].stage; }

size_t lp_point_reads(lp_point point, const lp_point **reads) {
    *reads = points[point].reads;
    return points[point].n_reads;
}
