/* test_branch.c - rows that leave a finished run at some token and layer have the bits of the whole run, at every
 * point, by every variant, fused or not; and how branches are refused and stopped. */
#define _GNU_SOURCE
#include "check.h"

#include <stdlib.h>

#include "../../csrc/run/branch.h"
#include "../../csrc/run/forward.h"
#include "variants.h"
#include "tiny_model.h"

enum { N_LAYERS = 3, N_TOKENS = 80, N_SEQS = 4, VOCAB = 61, D_MODEL = 36, CHANGED = 37 };

typedef float *values[N_LAYERS][LP_N_POINTS];

static lp_model *model;
static lp_cache base;
static int32_t ids[N_SEQS * N_TOKENS];
static const float edit_values[] = {0.5f, -2};
static const uint32_t row[] = {CHANGED}, zero[] = {0}, channels[] = {3, 30};

/* Both halves of a run: of all tokens, which fills the base or has the edit; and of a branch. */
typedef struct {
    const lp_kernels *kernels;
    size_t n_threads, first_layer;
    int unfused, last_rows, edited;
    int (*poll)(void *arg);
} how;

static size_t n_layers_of(lp_point p) { return lp_point_per_layer(p) ? N_LAYERS : 1; }

static void set_places(lp_run *run, const how *h, values v) {
    for (lp_point p = 0; p < LP_N_POINTS; p++)
        for (size_t i = lp_point_per_layer(p) ? h->first_layer : 0, n; i < n_layers_of(p); i++) {
            if (!lp_model_has(model, p) || (h->last_rows && p < LP_FINAL_RMS)) continue;
            if (h->unfused) lp_run_materialise(run, p, i);
            CHECK(lp_run_size(run, p, &n) == 0);
            v[i][p] = calloc(n, sizeof(float));
            lp_run_set_place(run, p, i, v[i][p]);
        }
}

static void free_places(values v) {
    for (int i = 0; i < N_LAYERS; i++)
        for (int p = 0; p < LP_N_POINTS; p++) free(v[i][p]);
    memset(v, 0, sizeof(values));
}

/* x of some channels of row CHANGED of a layer, in a run whose first row is `past`. */
static lp_edit edit_of_x(size_t layer, const uint32_t *at) {
    return (lp_edit){.point = LP_X,
                     .layer = layer,
                     .index = {at, zero, channels},
                     .n = {1, 1, 2},
                     .values = edit_values,
                     .stride = {0, 0, 1}};
}

/* All tokens, with x of a layer edited or into the base. */
static void run_whole(const how *h, size_t edited_layer, values v) {
    size_t starts[] = {0, N_TOKENS};
    lp_cache *caches[] = {&base};
    lp_edit edit = edit_of_x(edited_layer, row);
    lp_error err;
    lp_run run;
    how all = *h;
    all.first_layer = 0, all.last_rows = 0;
    CHECK(lp_run_init(&run, model, ids, starts, 1, h->n_threads, &err) == 0);
    run.kernels = h->kernels;
    if (!h->edited) CHECK(lp_run_set_caches(&run, caches, &err) == 0);
    if (h->edited) CHECK(lp_run_edit(&run, &edit, 1, &err) == 0);
    set_places(&run, &all, v);
    CHECK(lp_forward(&run, &err) == 0);
    lp_run_keep(&run), lp_run_free(&run);
}

/* A branch at n_past of each sequence, up to the ends. */
static int run_branch(const how *h, const size_t *n_past, const size_t *end, const float *whole_x, values v,
                      lp_error *err) {
    size_t starts[N_SEQS + 1] = {0};
    int32_t of_branch[N_SEQS * N_TOKENS];
    uint32_t at[N_SEQS];
    lp_edit edits[N_SEQS];
    lp_run run;
    float *x = malloc(sizeof(float) * N_SEQS * N_TOKENS * D_MODEL);
    for (size_t s = 0; s < N_SEQS; s++) {
        size_t n = end[s] - n_past[s];
        starts[s + 1] = starts[s] + n;
        memcpy(of_branch + starts[s], ids + n_past[s], n * sizeof *ids);
        memcpy(x + starts[s] * D_MODEL, whole_x + n_past[s] * D_MODEL, n * D_MODEL * sizeof *x);
        at[s] = (uint32_t)(CHANGED - n_past[s]);
        edits[s] = edit_of_x(h->first_layer, &at[s]), edits[s].sequence = s;
    }
    CHECK(lp_run_init(&run, model, of_branch, starts, N_SEQS, h->n_threads, err) == 0);
    run.kernels = h->kernels ? h->kernels : run.kernels, run.last_rows = h->last_rows, run.parallel.poll = h->poll;
    run.rope_length = N_TOKENS;
    int failed = lp_run_branch(&run, &base, n_past, h->first_layer, x, err);
    if (!failed && h->edited) failed = lp_run_edit(&run, edits, N_SEQS, err);
    if (!failed) set_places(&run, h, v);
    failed = failed || lp_forward(&run, err);
    lp_run_free(&run), free(x);
    return failed ? -1 : 0;
}

/* Rows from n_past on against those of the whole run. */
static int same(const how *h, const size_t *n_past, const size_t *end, values part, values whole) {
    int same_bits = 1;
    size_t map_at = 0, row_at = 0, n_heads = model->config.n_heads;
    for (size_t s = 0; s < N_SEQS; map_at += n_heads * (end[s] - n_past[s]) * end[s], row_at += end[s] - n_past[s], s++)
        for (lp_point p = 0; p < LP_N_POINTS; p++)
            for (size_t i = 0; i < n_layers_of(p); i++) {
                const float *a = part[i][p], *b = whole[i][p];
                size_t width = lp_config_width(&model->config, lp_point_width(p)), past = n_past[s], n = end[s] - past;
                if (!a) continue;
                if (h->last_rows && p >= LP_FINAL_RMS) {
                    same_bits &= !memcmp(a + s * width, b + (end[s] - 1) * width, width * sizeof *a);
                } else if (lp_point_width(p) != LP_WIDTH_MAP) {
                    same_bits &= !memcmp(a + row_at * width, b + past * width, n * width * sizeof *a);
                } else {
                    for (size_t head = 0; head < width; head++)
                        for (size_t t = 0; t < n; t++)
                            same_bits &= !memcmp(a + map_at + (head * n + t) * end[s],
                                                 b + (head * N_TOKENS + past + t) * N_TOKENS, end[s] * sizeof *a);
                }
            }
    return same_bits;
}

static const size_t pasts[][N_SEQS] = {{0, 1, 7, 8}, {9, 15, CHANGED, 30}, {63, 64, 65, 79}};

static void check_variant(const lp_kernels *k) {
    lp_error err;
    for (int unfused = 0; unfused < 2; unfused++) {
        how h = {.kernels = k, .n_threads = 2, .unfused = unfused};
        values whole = {{0}}, edited = {{0}}, part = {{0}};
        lp_cache_rewind(&base, 0, &err);
        run_whole(&h, 0, whole);
        for (h.first_layer = 0; h.first_layer < N_LAYERS; h.first_layer++) {
            const float *x = whole[h.first_layer][LP_X];
            h.edited = 1;
            run_whole(&h, h.first_layer, edited);
            for (size_t i = 0; i < 3; i++) {
                const size_t end[N_SEQS] = {N_TOKENS, N_TOKENS - 40 * (i != 2), N_TOKENS, N_TOKENS};
                h.edited = 0, h.n_threads = 1 + i, h.last_rows = (h.first_layer + i) % 3 == 2;
                CHECK(run_branch(&h, pasts[i], end, x, part, &err) == 0);
                CHECK(same(&h, pasts[i], end, part, whole));
                free_places(part);
                h.edited = 1;
                if (i == 2) continue;
                CHECK(run_branch(&h, pasts[i], end, x, part, &err) == 0);
                CHECK(same(&h, pasts[i], end, part, edited) && !same(&h, pasts[i], end, part, whole));
                free_places(part);
            }
            free_places(edited);
        }
        free_places(whole);
    }
}

/* ---- failures ------------------------------------------------------------------------------------------------- */

static int polls_left;
static int stops(void *arg) {
    (void)arg;
    return polls_left-- <= 0;
}

static void check_failures(const lp_model *other) {
    static float x[N_SEQS * N_TOKENS * D_MODEL];
    const size_t end[N_SEQS] = {40, 40, 40, 40}, past[N_SEQS] = {3, 39, 20, 0}, far[N_SEQS] = {3, 79, 20, 0};
    const size_t beyond[N_SEQS] = {40, N_TOKENS + 1, 40, 40};
    how h = {.n_threads = 2, .first_layer = 1};
    values v = {{0}};
    lp_error err;
    lp_run run;
    CHECK(run_branch(&h, far, beyond, x, v, &err) == -1 && err.status == LP_EARG &&
          strstr(err.msg, "sequence 1 begins at"));
    h.first_layer = N_LAYERS;
    CHECK(run_branch(&h, past, end, x, v, &err) == -1 && strstr(err.msg, "a branch from layer 3: there are 3"));
    h.first_layer = 1, h.poll = stops;
    size_t n_stopped = 0;
    for (int n = 0;; n++) {
        polls_left = n;
        int failed = run_branch(&h, past, end, x, v, &err);
        free_places(v);
        if (!failed) break;
        CHECK(err.status == LP_ECANCELED && base.n_tokens == N_TOKENS);
        n_stopped++;
    }
    CHECK(n_stopped > 10);
    size_t starts[] = {0, 4}, n_past = 2;
    CHECK(lp_run_init(&run, other, ids, starts, 1, 1, &err) == 0);
    CHECK(lp_run_branch(&run, &base, &n_past, 0, x, &err) == -1 &&
          strstr(err.msg, "the base belongs to another model"));
    lp_run_free(&run);
    n_past = (size_t)-2;
    CHECK(lp_run_init(&run, model, ids, starts, 1, 1, &err) == 0);
    CHECK(lp_run_branch(&run, &base, &n_past, 0, x, &err) == -1 && err.status == LP_EARG);
    lp_run_free(&run);
    n_past = 2;
    CHECK(lp_run_init(&run, model, ids, starts, 1, 1, &err) == 0);
    run.rope_length = N_TOKENS;
    CHECK(lp_run_branch(&run, &base, &n_past, 2, x, &err) == 0);
    lp_run_set_place(&run, LP_Z, 1, x);
    CHECK(lp_forward(&run, &err) == -1 && strstr(err.msg, "a value of layer 1 is requested or edited"));
    lp_run_free(&run);
    CHECK(lp_run_init(&run, model, ids, starts, 1, 1, &err) == 0);
    run.rope_length = 50;
    CHECK(lp_run_branch(&run, &base, &n_past, 2, x, &err) == -1 &&
          strstr(err.msg, "rotated with the other RoPE frequencies"));
    lp_run_free(&run);
}

/* Windows, caps, a layer without RoPE, a table for long prompts, heads that fill no panel. */
static lp_model *open_model(image *bytes, lp_safetensors **file) {
    static const size_t windows[] = {7, 64, 0};
    static const int rope_of[] = {0, -1, 0};
    static const float inv_freq[] = {1, 0.5f, 0.25f, 0.1f, 0.01f}, long_inv_freq[] = {0.5f, 0.2f, 0.1f, 0.02f, 0.001f};
    lp_config c = LLAMA(N_LAYERS, 6, 2, 10, D_MODEL, 50, VOCAB, N_TOKENS, 1e-5, 0, 0, 1);
    lp_architecture a = tiny_llama(&c);
    lp_rope_spec rope = {.inv_freq = inv_freq, .factor = 1, .long_inv_freq = long_inv_freq, .original = 60};
    lp_model *opened = NULL;
    a.windows = windows, a.rope_of = rope_of, a.ropes = &rope, a.n_ropes = 1;
    a.config.score_cap = 3, a.config.logits_cap = 2, a.config.residual_scale = 0.5;
    *bytes = make_tiny_file(&a, 4 * 7 + 2);
    CHECK(lp_safetensors_from_bytes(file, "f", bytes->bytes, bytes->n_bytes, NULL) == 0);
    CHECK(lp_model_open(&opened, &a, lp_safetensors_tensors(file, 1, NULL), NULL) == 0);
    return opened;
}

int main(int argc, char **argv) {
    image bytes[2];
    lp_safetensors *files[2];
    lp_error err;
    for (size_t t = 0; t < N_TOKENS; t++) ids[t] = (int32_t)((t * t * 7 + t * 3) % VOCAB);
    model = open_model(&bytes[0], &files[0]);
    lp_model *other = open_model(&bytes[1], &files[1]);
    lp_cache_init(&base, model);
    CHECK(lp_cache_reserve(&base, N_TOKENS, &(lp_parallel){.n_threads = 1}, &err) == 0);
    for_each_variant(argc, argv, check_variant);
    check_failures(other);
    lp_cache_free(&base);
    lp_model_close(model), lp_model_close(other);
    for (int i = 0; i < 2; i++) lp_safetensors_close(files[i]), free(bytes[i].bytes);
    return CHECK_REPORT();
}
