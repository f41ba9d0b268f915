/* test_forward.c - whole runs of small models: every value of every point, hashed, is the recorded one, whatever
 * variant computes it, on however many threads, and whatever mode the caller's floating point is in.
 *
 * The hash is FNV-1a of 64 bits over the bytes of the floats, lowest first, in the order of csrc/model/points.h. The
 * numbers are those of arithmetic version 1 (docs/arithmetic.md); another one is another version. */
#define _GNU_SOURCE
#include "check.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "../../csrc/run/forward.h"
#include "../../csrc/base/fpenv.h"
#include "../../csrc/base/half.h"
#include "variants.h"
#include "tiny_model.h"

enum { MOST_SEQS = 4, VOCAB = 97 };

enum { PLAIN, QK_NORMS, POST_NORMS, FUSED, SCALED, WINDOWS, GEMMA };
enum { IN_BF16, IN_F16, IN_F32, MIXED }; /* seeds of tiny_model.h */

static const struct {
    const char *name;
    lp_config config;
    uint64_t seed;
    int more;                  /* what the model has beyond a Llama */
    size_t lengths[MOST_SEQS]; /* of the prompts, which run together; 0: no more */
    uint64_t recorded;
} cases[] = {
    /* n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size, max_positions, rms_norm_eps, bias of
     * attention, mlp_bias, tied_head */
    /* k of 300 and 530: sums in blocks, with ends that fit no vector */
    {"ends", LLAMA(2, 4, 2, 16, 300, 530, VOCAB, 64, 1e-5, 1, 1, 0), IN_BF16, PLAIN, {10, 1, 21}, 0x481e45815251cfaa},
    /* whole blocks, streamed: rows and columns in units of the tiles */
    {"whole", LLAMA(2, 3, 1, 32, 192, 384, 96, 64, 1e-6, 0, 0, 1), IN_BF16, PLAIN, {16}, 0x90cdc2d555763a24},
    {"blocks", LLAMA(1, 2, 1, 32, 576, 320, 96, 64, 1e-6, 0, 0, 1), IN_BF16, PLAIN, {50}, 0x4019cd759eebe2a8},
    {"f16", LLAMA(2, 4, 4, 8, 64, 192, VOCAB, 64, 1e-5, 0, 0, 1), IN_F16, PLAIN, {9, 33}, 0xaa516dabec6a961b},
    {"f32", LLAMA(2, 4, 1, 16, 72, 100, VOCAB, 64, 1e-5, 0, 1, 0), IN_F32, PLAIN, {7}, 0x5a447972868f4c70},
    {"mixed", LLAMA(2, 2, 1, 16, 64, 128, VOCAB, 64, 1e-5, 1, 0, 0), MIXED, PLAIN, {12}, 0x644707c64264b5da},
    /* products without tiles: one token, and four of four prompts */
    {"one", LLAMA(2, 4, 2, 16, 300, 520, VOCAB, 64, 1e-5, 1, 0, 0), IN_BF16, PLAIN, {1}, 0x231059334b6916b1},
    {"four", LLAMA(2, 4, 2, 16, 520, 264, VOCAB, 64, 1e-5, 0, 0, 0), IN_F16, PLAIN, {1, 1, 1, 1}, 0xae4ca98bebc7e824},
    /* more keys than a block has */
    {"long", LLAMA(1, 2, 1, 8, 24, 40, VOCAB, 300, 1e-5, 0, 0, 1), IN_BF16, PLAIN, {270}, 0x4f1678be75672031},
    /* norms of q and k over each head; a layer that is not turned, and RoPE of neighbours in a part of a head */
    {"heads", LLAMA(3, 4, 2, 16, 72, 100, VOCAB, 64, 1e-5, 0, 0, 1), IN_BF16, QK_NORMS, {12, 5}, 0xe2fb3c34696301d8},
    /* norms of outputs, none of inputs; those of q and k over all heads */
    {"post", LLAMA(2, 4, 2, 16, 72, 100, VOCAB, 64, 1e-6, 0, 0, 0), IN_F16, POST_NORMS, {10}, 0x42d91b94a28a0d6a},
    /* q, k and v in one tensor, gate and up in another; a table for long prompts, a factor of cos and sin */
    {"fused", LLAMA(2, 4, 2, 18, 72, 101, VOCAB, 64, 1e-5, 1, 1, 0), IN_BF16, FUSED, {8, 30}, 0x1704242acbd29862},
    {"scaled", LLAMA(2, 4, 2, 16, 72, 100, VOCAB, 64, 1e-5, 0, 0, 1), IN_F32, SCALED, {14}, 0xbe964b3ced71253f},
    /* windows that end inside a tile of queries, in a block of keys and at its end */
    {"windows",
     LLAMA(3, 4, 2, 16, 72, 100, VOCAB, 200, 1e-5, 0, 0, 1),
     IN_BF16,
     WINDOWS,
     {150, 9, 64},
     0x740bb5284b88f96a},
    /* gelu_tanh, gains of 1 + w, caps of scores and logits, windows, norms of inputs and outputs */
    {"gemma", LLAMA(3, 4, 2, 16, 72, 101, VOCAB, 200, 1e-6, 0, 0, 1), IN_BF16, GEMMA, {140, 8}, 0x6ed74b2c104addce},
};

/* ---- the models ---------------------------------------------------------------------------------------------- */

typedef struct {
    image bytes;
    lp_safetensors *file;
    lp_model *model;
} small_model;

static float random_number(uint64_t *state) { /* a multiple of 2^-15 in [-1, 1) */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (float)((int32_t)(*state >> 32 & 0xffff) - 32768) * 0x1p-15f;
}

static void put_number(unsigned char *to, lp_dtype dtype, float x) {
    uint16_t half = dtype == LP_BF16 ? lp_f32_to_bf16(x) : lp_f32_to_f16(x);
    if (dtype == LP_F32)
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &half, sizeof half);
}

/* Gains near 1; matrices that keep the size of values; an embedding with some rows of denormals. */
static float weight(const lp_tensor *t, size_t i, float number) {
    if (strstr(t->name, "norm")) return 1 + number / 8;
    if (strstr(t->name, "bias")) return number / 4;
    if (strstr(t->name, "embed")) return i / t->shape[1] % 8 == 3 ? number * 0x1p-128f : number;
    for (uint64_t n = t->shape[1]; n > 3; n /= 4) number /= 2;
    return 2 * number;
}

/* The same bytes on every machine: integers times powers of two, rounded by integer code. */
static void fill(small_model *m) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < lp_safetensors_count(m->file); i++) {
        const lp_tensor *t = lp_safetensors_at(m->file, i);
        for (size_t j = 0; j < t->n_elements; j++)
            put_number(m->bytes.bytes + t->offset + j * lp_dtype_bits(t->dtype) / 8, t->dtype,
                       weight(t, j, random_number(&state)));
    }
}

static void add_more(lp_architecture *a, lp_rope_spec ropes[2], int more) {
    static const int rope_of[] = {1, -1, 0};
    static const size_t windows[] = {7, 64, 100};
    lp_config *c = &a->config;
    if (more == QK_NORMS || more == POST_NORMS)
        a->modules[LP_Q_NORM] = "self_attn.q_norm", a->modules[LP_K_NORM] = "self_attn.k_norm";
    if (more == QK_NORMS) c->rotary_dim = 12, c->interleaved = 1, a->rope_of = rope_of, a->n_ropes = 2;
    if (more == POST_NORMS) {
        c->qk_norm_whole = 1;
        a->modules[LP_X_NORM] = a->modules[LP_X_MID_NORM] = NULL;
        a->modules[LP_ATTN_NORM] = "post_attention_layernorm", a->modules[LP_MLP_NORM] = "post_feedforward_layernorm";
    }
    if (more == FUSED) {
        a->modules[LP_Q] = a->modules[LP_K] = a->modules[LP_V] = "self_attn.qkv_proj";
        a->modules[LP_GATE] = a->modules[LP_UP] = "mlp.gate_up_proj";
        ropes[0].long_inv_freq = ropes[1].inv_freq, ropes[0].original = 20, ropes[0].factor = 1.19f;
    }
    if (more == SCALED)
        c->embedding_scale = 12, c->residual_scale = 0.22f, c->logits_divisor = 8, c->attention_scale = 0.015625;
    if (more == WINDOWS || more == GEMMA) a->windows = windows;
    if (more == GEMMA) {
        c->gelu_tanh = 1, c->gain_offset = 1, c->score_cap = 3, c->logits_cap = 2, c->embedding_scale = 8;
        a->modules[LP_X_MID_NORM] = "pre_feedforward_layernorm";
        a->modules[LP_ATTN_NORM] = "post_attention_layernorm", a->modules[LP_MLP_NORM] = "post_feedforward_layernorm";
    }
}

static int open_model(small_model *m, size_t number, lp_error *err) {
    float inv_freq[2][16] = {{1}, {0.75f}};
    lp_rope_spec ropes[2] = {{inv_freq[0], NULL, 0, 1}, {inv_freq[1], NULL, 0, 1}};
    lp_architecture a = tiny_llama(&cases[number].config);
    for (size_t i = 1; i < 16; i++)
        for (size_t j = 0; j < 2; j++) inv_freq[j][i] = inv_freq[j][i - 1] / 2;
    a.ropes = ropes, a.n_ropes = 1;
    add_more(&a, ropes, cases[number].more);
    *m = (small_model){.bytes = make_tiny_file(&a, cases[number].seed)};
    if (lp_safetensors_from_bytes(&m->file, "model", m->bytes.bytes, m->bytes.n_bytes, err)) return -1;
    fill(m);
    return lp_model_open(&m->model, &a, lp_safetensors_tensors(&m->file, 1, err), err);
}

static void close_model(small_model *m) {
    lp_model_close(m->model);
    lp_safetensors_close(m->file);
    free(m->bytes.bytes);
}

/* ---- the runs ------------------------------------------------------------------------------------------------ */

static uint64_t hash_floats(uint64_t hash, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        for (uint32_t bits = lp_f32_bits(x[i]), byte = 0; byte < 4; byte++)
            hash = (hash ^ (bits >> (8 * byte) & 0xff)) * 0x100000001b3u;
    return hash;
}

static int any_nan(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i])) return 1;
    return 0;
}

/* A place for every value there is. */
static void set_places(lp_run *run) {
    for (int p = 0; p < LP_N_POINTS; p++) {
        size_t n, n_layers = lp_point_per_layer((lp_point)p) ? run->model->config.n_layers : 1;
        if (!lp_model_has(run->model, (lp_point)p)) continue;
        CHECK(lp_run_size(run, (lp_point)p, &n) == 0);
        for (size_t i = 0; i < n_layers; i++) {
            float *place = malloc(n * sizeof *place);
            /* zeros, as lp_head needs its pattern; NaN where everything must be written */
            memset(place, p == LP_PATTERN ? 0 : 0xff, n * sizeof *place);
            lp_run_set_place(run, (lp_point)p, i, place);
        }
    }
}

/* Hashes all values and frees them. */
static uint64_t take_hash(lp_run *run) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int p = 0; p < LP_N_POINTS; p++) {
        size_t n;
        CHECK(lp_run_size(run, (lp_point)p, &n) == 0);
        for (size_t i = 0; i < run->model->config.n_layers; i++) {
            float *place = run->places[(size_t)p * run->model->config.n_layers + i];
            if (!place) continue;
            CHECK(!any_nan(place, n));
            hash = hash_floats(hash, place, n);
            free(place);
        }
    }
    return hash;
}

static uint64_t run_case(size_t number, const lp_model *model, size_t n_threads) {
    int32_t ids[300];
    size_t starts[MOST_SEQS + 1] = {0}, n_seqs = 0;
    lp_error err = {0};
    lp_run run;
    for (; n_seqs < MOST_SEQS && cases[number].lengths[n_seqs]; n_seqs++)
        starts[n_seqs + 1] = starts[n_seqs] + cases[number].lengths[n_seqs];
    for (size_t i = 0; i < starts[n_seqs]; i++) ids[i] = (int32_t)((3 + 7 * i) % model->config.vocab_size);
    CHECK(lp_run_init(&run, model, ids, starts, n_seqs, n_threads, &err) == 0);
    set_places(&run);
    CHECK(lp_forward(&run, &err) == 0);
    if (err.status) fprintf(stderr, "  %s\n", err.msg);
    CHECK(run.n_steps > 0 && run.steps_done == run.n_steps);
    uint64_t hash = take_hash(&run);
    lp_run_free(&run);
    return hash;
}

/* Denormals are flushed to 0 in this thread, as another library may have set it. */
static lp_fpenv flush_to_zero(void) {
    lp_fpenv old = lp_fpenv_set();
#if defined(__x86_64__)
    _mm_setcsr(0x1f80 | 0x8040); /* FTZ, DAZ */
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24) : "memory"); /* FZ */
#endif
    return old;
}

static int flushes(void) {
    volatile float least = 0x1p-149f;
    return least * 1.5f == 0;
}

static void check_case(size_t number, const char *variant, const lp_model *model, size_t n_threads, int flush) {
    lp_fpenv old = flush ? flush_to_zero() : lp_fpenv_set();
    CHECK(flushes() == flush);
    uint64_t hash = run_case(number, model, n_threads);
    CHECK(flushes() == flush); /* the caller gets its mode back */
    lp_fpenv_restore(old);
    CHECK(hash == cases[number].recorded);
    if (hash != cases[number].recorded)
        fprintf(stderr, "  %s, %s, %zu threads%s: 0x%016" PRIx64 "\n", cases[number].name, variant, n_threads,
                flush ? ", flushing to zero" : "", hash);
}

static void check_variant(const lp_kernels *variant) {
    if (variant != lp_kernels_get(NULL)) setenv("LLAMAPROBE_KERNELS", variant->name, 1);
    CHECK(lp_kernels_get(NULL) == variant);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small_model m;
        lp_error err = {0};
        CHECK(open_model(&m, i, &err) == 0);
        if (err.status) fprintf(stderr, "  %s: %s\n", cases[i].name, err.msg);
        if (!m.model) continue;
        check_case(i, variant->name, m.model, 1, 0);
        check_case(i, variant->name, m.model, 3, 0);
        check_case(i, variant->name, m.model, 2, 1);
        check_case(i, variant->name, m.model, 1000, 0);
        close_model(&m);
    }
    unsetenv("LLAMAPROBE_KERNELS");
}

/* In Python other threads may change the environment while a run computes: only the beginning of a run reads it. */
static void check_environment_is_read_once(void) {
    small_model m;
    lp_error err;
    lp_run run;
    const int32_t id = 3;
    const size_t starts[] = {0, 1};
    float *x = NULL;
    CHECK(open_model(&m, 0, &err) == 0);
    if (!m.model) return;
    CHECK(lp_run_init(&run, m.model, &id, starts, 1, 2, &err) == 0);
    CHECK(run.kernels == lp_kernels_get(NULL));
    setenv("LLAMAPROBE_KERNELS", "nothing", 1);
    x = calloc(m.model->config.d_model, sizeof *x);
    lp_run_set_place(&run, LP_X, 0, x);
    CHECK(x && lp_forward(&run, &err) == 0);
    lp_run_free(&run);
    CHECK(lp_run_init(&run, m.model, &id, starts, 1, 2, &err) == -1 && err.status == LP_EARG);
    unsetenv("LLAMAPROBE_KERNELS");
    free(x);
    close_model(&m);
}

/* Threads without a job get no scratch. */
static void check_scratch_of_many_threads(void) {
    static const size_t n_threads[] = {1, 60, 200, 1024};
    size_t n_bytes[4] = {0};
    small_model m;
    lp_error err;
    const int32_t ids[10] = {0};
    const size_t starts[] = {0, 10};
    CHECK(open_model(&m, 0, &err) == 0);
    for (int i = 0; m.model && i < 4; i++) {
        lp_run run;
        CHECK(lp_run_init(&run, m.model, ids, starts, 1, n_threads[i], &err) == 0);
        CHECK(lp_run_request(&run, LP_LOGITS, 0) == 0 && lp_run_plan(&run, &err) == 0);
        n_bytes[i] = run.plan->scratch_bytes;
        lp_run_free(&run);
    }
    CHECK(n_bytes[0] < n_bytes[1] && n_bytes[1] < n_bytes[2] && n_bytes[2] == n_bytes[3]);
    close_model(&m);
}

int main(int argc, char **argv) {
    check_scratch_of_many_threads();
    check_environment_is_read_once();
    for_each_variant(argc, argv, check_variant);
    return CHECK_REPORT();
}
