/* config.c - checks a config: afterwards no product of two of its numbers overflows. */
#include "config.h"

#include <math.h>

static int check_size(const char *name, size_t value, size_t most, lp_error *err) {
    if (value >= 1 && value <= most) return 0;
    return lp_fail(err, LP_EARG, "config: %s is %zu, must be 1 to %zu", name, value, most);
}

static int check_real(const char *name, double value, lp_error *err) {
    if (value >= 0 && !isinf(value)) return 0;
    return lp_fail(err, LP_EARG, "config: %s is %g, must be finite and not negative", name, value);
}

int lp_config_check(const lp_config *c, lp_error *err) {
#define CHECK_SIZE(name, most) \
    if (check_size(#name, c->name, most, err)) return -1;
#define CHECK_REAL(name) \
    if (check_real(#name, c->name, err)) return -1;
#define CHECK_NOTHING(name)
    LP_CONFIG(CHECK_SIZE, CHECK_REAL, CHECK_NOTHING)
    if (check_size("n_heads * head_dim", c->n_heads * c->head_dim, 1 << 20, err)) return -1;
    if (c->n_heads % c->n_kv_heads)
        return lp_fail(err, LP_EARG, "config: n_heads %zu is not a multiple of n_kv_heads %zu", c->n_heads,
                       c->n_kv_heads);
    if (c->head_dim % 2) return lp_fail(err, LP_EARG, "config: head_dim %zu is odd; RoPE turns pairs", c->head_dim);
    if (c->rotary_dim % 2)
        return lp_fail(err, LP_EARG, "config: rotary_dim %zu is odd; RoPE turns pairs", c->rotary_dim);
    if (!(c->logits_divisor > 0)) return lp_fail(err, LP_EARG, "config: logits_divisor is 0");
    return 0;
}

size_t lp_config_width(const lp_config *c, lp_width width) {
    switch (width) {
#define WIDTH_CASE(NAME, name, axes, width) \
    case LP_WIDTH_##NAME:                   \
        return width;
        LP_WIDTHS(WIDTH_CASE)
    default:
        return 0;
    }
}
