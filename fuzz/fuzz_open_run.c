/* fuzz_open_run.c - for any file and config, a model opens or is refused, and its runs keep every promise.
 *
 * The input is a recipe of RECIPE_BYTES - the config, the tokens, and how to run them - and then the bytes of a
 * safetensors file. What opens is run twice: once with all points on one thread of the best kernels, once as the
 * recipe says, on other kernels and more threads, with some of the points. Both must have written the same bits.
 *
 * The mutator changes file and config together, since a random file fits no config: it changes the config and makes
 * the file anew, changes weights, some of them to infinity or NaN, changes the run, or lets the header mutator loose
 * on the file. */
#define _GNU_SOURCE
#include "../csrc/run/forward.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../csrc/kernels/kernels.h" /* lp_kernels_at */
#include "../tests/c/tiny_model.h"   /* make_tiny_model */
#include "promise.h"                 /* must */
#include "safetensors_mutator.h"     /* mutate_safetensors, draft, pick */

#define MOST_TOKENS 40
enum { WILD_SIZES = 9, WILD_FIELDS = WILD_SIZES + 7 };
#define MOST_HALF ((size_t)1 << 19) /* half of the widest head that a config may have */

/* One byte each, but for the two sizes and the mask of points. */
typedef struct {
    uint8_t n_layers, n_heads, n_kv_heads, half_head_dim;
    uint8_t d_model[2], d_ff[2];
    uint8_t vocab_size, max_positions, eps, flags;
    uint8_t wild_field, wild_value; /* a number of the config that no file can have */
    uint8_t angles;
    uint8_t n_tokens, tokens, cuts; /* ids are multiples of `tokens`; a bit of `cuts` begins a sequence */
    uint8_t how;                    /* 0 bytes, 1 mapped, 2 read */
    uint8_t kernels, n_threads, stop_after;
    uint8_t points[4], layers;
    uint8_t materialised[4]; /* a bit for each point */
    uint8_t family;          /* 0: a Llama; else which model of tiny_any */
} recipe;

#define RECIPE_BYTES sizeof(recipe)
_Static_assert(RECIPE_BYTES == 32, "the corpus was made with recipes of 32 bytes");

/* ---------------------------------------------------------------- the recipe */

static size_t two_bytes(const uint8_t *bytes) { return bytes[0] + ((size_t)bytes[1] << 8); }

static lp_config config_of(const recipe *r) {
    static const double eps[] = {1e-5, 1e-6, 0, 1, 1e300, -1, INFINITY, NAN};
    size_t head_dim = 2 + 2 * (r->half_head_dim % 20);
    return (lp_config){.n_layers = 1 + r->n_layers % 3,
                       .n_heads = 1 + r->n_heads % 4,
                       .n_kv_heads = 1 + r->n_kv_heads % 4,
                       .head_dim = head_dim,
                       .d_model = 1 + two_bytes(r->d_model) % 600,
                       .d_ff = 1 + two_bytes(r->d_ff) % 600,
                       .vocab_size = 1 + r->vocab_size % 64,
                       .max_positions = 1 + r->max_positions,
                       .rms_norm_eps = eps[r->eps % 8],
                       .rotary_dim = head_dim,
                       .embedding_scale = 1,
                       .residual_scale = 1,
                       .logits_divisor = 1,
                       .qkv_bias = r->flags & 1,
                       .o_bias = r->flags & 1,
                       .mlp_bias = r->flags >> 1 & 1,
                       .tied_head = r->flags >> 2 & 1};
}

/* A stranger's config may say anything. */
static void make_wild(const recipe *r, lp_config *c) {
    static const double reals[] = {0, 1, -1, 1e-45, 3e38, INFINITY, NAN, 0.5};
    static const size_t values[] = {0,
                                    1,
                                    2,
                                    3,
                                    255,
                                    1024,
                                    1025,
                                    4096,
                                    1u << 16,
                                    1u << 20,
                                    1u << 24,
                                    1u << 26,
                                    1u << 31,
                                    (size_t)1 << 32,
                                    SIZE_MAX / 2,
                                    SIZE_MAX};
    size_t *fields[] = {&c->n_layers, &c->n_heads,    &c->n_kv_heads,    &c->head_dim,  &c->d_model,
                        &c->d_ff,     &c->vocab_size, &c->max_positions, &c->rotary_dim};
    double *real_fields[] = {&c->gain_offset,    &c->attention_scale, &c->embedding_scale, &c->residual_scale,
                             &c->logits_divisor, &c->score_cap,       &c->logits_cap};
    size_t wild = r->wild_field;
    if (wild >= 1 && wild <= WILD_SIZES) *fields[wild - 1] = values[r->wild_value % 16];
    if (wild > WILD_SIZES && wild <= WILD_FIELDS) *real_fields[wild - 1 - WILD_SIZES] = reals[r->wild_value % 8];
}

/* [MOST_HALF + 2], of which a head uses the beginning. */
static const float *angles_of(const recipe *r) {
    static const float scales[] = {1, 0, 1e-30f, 1e30f, -1, 3e38f, INFINITY, NAN};
    static float *inv_freq;
    if (!inv_freq) inv_freq = calloc(MOST_HALF + 2, sizeof *inv_freq);
    must(inv_freq != NULL, "memory");
    for (size_t i = 0; i < 64; i++) inv_freq[i] = scales[r->angles % 8] / (float)(1 + i);
    return inv_freq;
}

static lp_architecture architecture_of(const recipe *r) {
    static lp_rope_spec ropes[2];
    const float *angles = angles_of(r);
    lp_config config = config_of(r);
    lp_architecture a = r->family ? tiny_any(&config, r->family) : tiny_llama(&config);
    ropes[0] = (lp_rope_spec){angles, r->family ? angles + 1 : NULL, 10, r->family ? 1.25f : 1};
    ropes[1] = (lp_rope_spec){.inv_freq = angles + 2, .factor = 1};
    a.ropes = ropes, a.n_ropes = r->family ? 2 : 1;
    return a;
}

/* Ids and where sequences start: [MOST_TOKENS], [MOST_TOKENS + 1]; returns how many sequences there are. */
static size_t tokens_of(const recipe *r, const lp_config *c, int32_t *ids, size_t *starts) {
    size_t n = r->n_tokens % (MOST_TOKENS + 1), n_seqs = 0;
    int32_t too_many = r->tokens == 255; /* then some id is out of range */
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)((i + 1) * r->tokens % ((c->vocab_size & INT32_MAX) + (size_t)too_many));
        if (!i || r->cuts >> (i % 8) & 1) starts[n_seqs++] = i;
    }
    if (r->tokens == 254 && n) ids[n - 1] = -1;
    if (!n_seqs) starts[n_seqs++] = 0;
    starts[n_seqs] = n;
    return n_seqs;
}

/* ---------------------------------------------------------------- the run */

/* A run, its model, and its values. */
typedef struct {
    const lp_model *model;
    const int32_t *ids;
    const size_t *starts;
    size_t n_seqs, n_threads, rope_length;
    uint64_t points, materialised; /* a bit for each that the model has; of those requested, and of any */
    uint8_t layers;                /* a bit for each, by layer % 8 */
    int fill;                      /* what the places hold before */
    long polls_left;               /* -1: never stop */
    float **values;                /* [LP_N_POINTS, n_layers] */
} attempt;

static int poll_attempt(void *arg) {
    attempt *a = arg;
    return a->polls_left >= 0 && a->polls_left-- == 0;
}

static void make_places(attempt *a, lp_run *run) {
    size_t n_layers = a->model->config.n_layers;
    a->values = calloc(LP_N_POINTS * n_layers, sizeof *a->values);
    must(a->values != NULL, "memory");
    for (size_t p = 0, bit = 0; p < LP_N_POINTS; bit += lp_model_has(a->model, (lp_point)p), p++)
        for (size_t i = 0; i < (lp_point_per_layer((lp_point)p) ? n_layers : 1); i++) {
            size_t n;
            if (!lp_model_has(a->model, (lp_point)p)) continue;
            if (a->materialised >> bit & 1) lp_run_materialise(run, (lp_point)p, i);
            if (!(a->points >> bit & 1) || !(a->layers >> (i % 8) & 1)) continue;
            must(!lp_run_size(run, (lp_point)p, &n), "the values of a small model can be counted");
            float *place = malloc(n * sizeof *place);
            must(place != NULL, "memory");
            memset(place, p == LP_PATTERN ? 0 : a->fill, n * sizeof *place); /* a pattern begins with zeros */
            a->values[p * n_layers + i] = place;
            lp_run_set_place(run, (lp_point)p, i, place);
        }
}

static int try_run(attempt *a, lp_error *err) {
    lp_run run;
    int status = lp_run_init(&run, a->model, a->ids, a->starts, a->n_seqs, a->n_threads, err);
    a->values = NULL;
    if (status) return status;
    run.rope_length = a->rope_length;
    make_places(a, &run);
    run.parallel.poll = poll_attempt;
    run.parallel.poll_arg = a;
    status = lp_forward(&run, err);
    must(run.steps_done <= run.n_steps, "no more steps are done than there are");
    lp_run_free(&run);
    return status;
}

static void free_values(attempt *a) {
    for (size_t i = 0; a->values && i < LP_N_POINTS * a->model->config.n_layers; i++) free(a->values[i]);
    free(a->values);
}

/* Any NaN is any NaN. */
static int same(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

static void compare(const attempt *a, const attempt *b) {
    lp_run run;
    size_t n, n_layers = a->model->config.n_layers;
    must(!lp_run_init(&run, a->model, a->ids, a->starts, a->n_seqs, 1, NULL), "what ran once is accepted again");
    for (size_t i = 0; i < LP_N_POINTS * n_layers; i++) {
        if (!a->values[i] || !b->values[i]) continue;
        must(!lp_run_size(&run, (lp_point)(i / n_layers), &n), "the values of a small model can be counted");
        if (!same(a->values[i], b->values[i], n))
            fprintf(stderr, "%s of layer %zu\n", lp_point_name((lp_point)(i / n_layers)), i % n_layers);
        must(same(a->values[i], b->values[i], n), "kernels, threads and points change no bit");
    }
    lp_run_free(&run);
}

/* A bit for each point; of more than 32 they begin anew. */
static uint64_t four_bytes(const uint8_t *bytes) {
    uint64_t bits = two_bytes(bytes) | (uint64_t)two_bytes(bytes + 2) << 16;
    return bits | bits << 32;
}

static void use_kernels(const char *name) {
    lp_error err;
    setenv("LLAMAPROBE_KERNELS", name, 1);
    must(lp_kernels_get(&err) != NULL, "a row that the CPU has can be had");
}

static void run_model(const recipe *r, const lp_model *model) {
    int32_t ids[MOST_TOKENS];
    size_t starts[MOST_TOKENS + 1], n_seqs = tokens_of(r, &model->config, ids, starts);
    size_t row = r->kernels % lp_kernels_count();
    lp_error err = {0}, again = {0};
    attempt all = {.model = model, .ids = ids, .starts = starts, .n_seqs = n_seqs, .n_threads = 1};
    all.rope_length = r->family % 4 == 3 ? r->family : 0;
    all.points = UINT64_MAX, all.layers = 255, all.fill = 0x55, all.polls_left = -1;
    attempt some = all;
    some.n_threads = r->n_threads < 240 ? 1 : 2 + r->n_threads % 2; /* threads that wait for each other are slow */
    some.points = four_bytes(r->points), some.materialised = four_bytes(r->materialised);
    some.layers = r->layers;
    some.fill = 0;
    some.polls_left = r->stop_after ? r->stop_after : -1;
    unsetenv("LLAMAPROBE_KERNELS");
    int status = try_run(&all, &err);
    must(status == 0 || err.status == LP_EARG, "only the tokens can be at fault");
    must_be_a_line(err.msg);
    use_kernels(lp_kernels_supported(row) ? lp_kernels_at(row)->name : "emu16");
    int second = try_run(&some, &again);
    must(second == status || (second && again.status == LP_ECANCELED), "the second run ends as the first");
    must_be_a_line(again.msg);
    if (!status && !second) compare(&all, &some);
    free_values(&all);
    free_values(&some);
}

/* ---------------------------------------------------------------- the target */

#if defined(__linux__)
#define DESCRIPTORS "/proc/self/fd"
static int memory_file(void) { return memfd_create("open_run", MFD_CLOEXEC); }
#else
#define DESCRIPTORS "/dev/fd"
static int memory_file(void) {
    char path[] = "/tmp/open_run_XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    return fd;
}
#endif

/* The bytes as a file without a name on any disk. */
static int open_memory_file(lp_safetensors **file, const uint8_t *bytes, size_t n_bytes, int use_mmap, lp_error *err) {
    static int fd = -1;
    char path[64];
    if (fd < 0) fd = memory_file();
    must(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes, "a file in memory");
    snprintf(path, sizeof path, DESCRIPTORS "/%d", fd);
    return lp_safetensors_open(file, AT_FDCWD, path, use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1}, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    recipe r;
    lp_error err = {0};
    lp_safetensors *file;
    lp_model *model;
    if (size < RECIPE_BYTES) return 0;
    memcpy(&r, data, RECIPE_BYTES);
    const uint8_t *bytes = data + RECIPE_BYTES;
    size_t n_bytes = size - RECIPE_BYTES;
    lp_architecture a = architecture_of(&r);
    make_wild(&r, &a.config);
    int failed = r.how % 4 == 1 || r.how % 4 == 2 ? open_memory_file(&file, bytes, n_bytes, r.how % 4 == 1, &err)
                                                  : lp_safetensors_from_bytes(&file, "f", bytes, n_bytes, &err);
    must(failed ? !file && err.status == LP_EFORMAT : file && err.status == LP_OK, "status, file and error agree");
    must_be_a_line(err.msg);
    if (failed) return 0;
    failed = lp_model_open(&model, &a, lp_safetensors_tensors(&file, 1, &err), &err);
    must(failed ? !model && err.status != LP_OK : model && err.status == LP_OK, "status, model and error agree");
    must(err.status != LP_ENOMEM && err.status != LP_EIO, "a tiny file needs little");
    must_be_a_line(err.msg);
    if (model) run_model(&r, model);
    lp_model_close(model);
    lp_safetensors_close(file);
    return 0;
}

/* ---------------------------------------------------------------- the mutator */

static uint8_t some_byte(draft *d) { return (uint8_t)pick(d, 256); }

/* A config that a model can have, small ones more often, and now and then one that is wider than a block of k. */
static void choose_config(draft *d, recipe *r) {
    static const uint8_t kv_heads[4][3] = {{0, 0, 0}, {0, 1, 1}, {0, 2, 2}, {0, 1, 3}};
    size_t wide = pick(d, 32) == 0 ? 250 : 0, heads = pick(d, pick(d, 2) ? 2 : 4), most = pick(d, 4) ? 9 : 40;
    size_t d_model = pick(d, most) + wide, d_ff = pick(d, most) + (wide ? pick(d, 40) : 0);
    r->n_layers = (uint8_t)pick(d, pick(d, 4) ? 2 : 3);
    r->n_heads = (uint8_t)heads;
    r->n_kv_heads = kv_heads[heads][pick(d, 3)];
    r->half_head_dim = (uint8_t)pick(d, pick(d, 8) ? 3 : 20);
    r->d_model[0] = (uint8_t)d_model, r->d_model[1] = (uint8_t)(d_model >> 8);
    r->d_ff[0] = (uint8_t)d_ff, r->d_ff[1] = (uint8_t)(d_ff >> 8);
    r->vocab_size = (uint8_t)pick(d, 16);
    r->flags = (uint8_t)pick(d, 8);
    r->family = pick(d, 3) ? some_byte(d) : 0;
    r->eps = (uint8_t)pick(d, 8) % 5;
}

static void choose_run(draft *d, recipe *r) {
    r->max_positions = pick(d, 8) ? 255 : some_byte(d);
    r->angles = pick(d, 3) ? 0 : some_byte(d);
    r->n_tokens = (uint8_t)(1 + pick(d, pick(d, 4) ? 6 : MOST_TOKENS));
    r->tokens = some_byte(d);
    r->cuts = pick(d, 2) ? 0 : some_byte(d);
    r->how = some_byte(d);
    r->kernels = some_byte(d);
    r->n_threads = some_byte(d);
    r->stop_after = pick(d, 8) ? 0 : (uint8_t)pick(d, 40);
    for (size_t i = 0; i < 4; i++) r->points[i] = pick(d, 2) ? 255 : some_byte(d);
    for (size_t i = 0; i < 4; i++) r->materialised[i] = pick(d, 2) ? 0 : some_byte(d);
    r->layers = pick(d, 2) ? 255 : some_byte(d);
}

/* One byte of the recipe, so that config and file may part. */
static void change_recipe(draft *d, recipe *r) {
    uint8_t *bytes = (uint8_t *)r;
    if (pick(d, 4) == 0) {
        r->wild_field = (uint8_t)pick(d, WILD_FIELDS + 1);
        r->wild_value = some_byte(d);
    } else {
        bytes[pick(d, RECIPE_BYTES)] = some_byte(d);
    }
}

/* Words of the file's end, where the weights are, become numbers that are hard to bear. */
static void change_weights(draft *d, uint8_t *bytes, size_t n_bytes) {
    static const uint8_t words[][4] = {{0, 0, 0x80, 0x7f},
                                       {0, 0, 0x80, 0xff},
                                       {0, 0, 0xc0, 0x7f},
                                       {1, 0, 0x80, 0x7f},
                                       {0xff, 0xff, 0x7f, 0x7f},
                                       {0, 0, 0, 0x80},
                                       {1, 0, 0, 0},
                                       {0, 0x7c, 0, 0x7c},
                                       {0, 0xfc, 0, 0xfe},
                                       {0xff, 0x7b, 0xff, 0x7b},
                                       {0x80, 0x7f, 0x80, 0x7f},
                                       {0xff, 0xff, 0xff, 0xff},
                                       {0, 0, 0x7f, 0xf0},
                                       {1, 0x80, 1, 0x80}};
    if (n_bytes < 4) return;
    size_t at = n_bytes - 4 - pick(d, pick(d, 2) ? n_bytes / 2 : n_bytes - 3), n = 1 + pick(d, 4);
    const uint8_t *word = words[pick(d, sizeof words / sizeof *words)];
    for (; n--; at = at >= 4 ? at - 4 : 0) {
        if (pick(d, 3))
            memcpy(bytes + at, word, 4);
        else
            bytes[at + pick(d, 4)] ^= (uint8_t)(1 << pick(d, 8));
    }
}

/* A file that fits the recipe, if there is room; else the input stays as it is. Returns its size. */
static size_t make_file(draft *d, const recipe *r, uint8_t *data, size_t size, size_t max_size) {
    lp_architecture a = architecture_of(r);
    image file = make_tiny_file(&a, d->state >> 20);
    if (RECIPE_BYTES + file.n_bytes <= max_size) {
        memcpy(data, r, RECIPE_BYTES);
        memcpy(data + RECIPE_BYTES, file.bytes, file.n_bytes);
        size = RECIPE_BYTES + file.n_bytes;
    }
    free(file.bytes);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    draft d = {.state = seed * 2654435761u + 1};
    recipe r = {.how = 0};
    pick(&d, 1);
    size_t what = pick(&d, 16);
    if (size < RECIPE_BYTES || what < 3) {
        choose_config(&d, &r);
        choose_run(&d, &r);
        return make_file(&d, &r, data, size, max_size);
    }
    memcpy(&r, data, RECIPE_BYTES);
    if (what == 3) return make_file(&d, &r, data, size, max_size);
    if (what < 7) choose_run(&d, &r);
    if (what == 7) change_recipe(&d, &r);
    memcpy(data, &r, RECIPE_BYTES);
    if (what == 8)
        return RECIPE_BYTES +
               mutate_safetensors(data + RECIPE_BYTES, size - RECIPE_BYTES, max_size - RECIPE_BYTES, seed);
    if (what == 9 && LLVMFuzzerMutate) return LLVMFuzzerMutate(data, size, max_size);
    if (what > 9) change_weights(&d, data + RECIPE_BYTES, size - RECIPE_BYTES);
    return size;
}
