/* test_model_memory.c - any allocation of opening and of a run may fail: a clean error, nothing leaked, and the model
 * as good as before. A thread that cannot be started is not an error: fewer threads give the same bits. */
#define _GNU_SOURCE
#include "../../csrc/run/forward.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../csrc/sys/memory.h" /* lp_arena_release */
#include "check.h"
#include "systems.h"
#include "faults.h"
#include "tiny_model.h"

enum { N_TOKENS = 2400 }; /* so many that the scratch block is mapped and not taken from the heap */

static const lp_config config = {.n_layers = 2,
                                 .n_heads = 2,
                                 .n_kv_heads = 1,
                                 .head_dim = 8,
                                 .d_model = 64,
                                 .d_ff = 64,
                                 .vocab_size = 11,
                                 .max_positions = N_TOKENS,
                                 .rms_norm_eps = 1e-5,
                                 .qkv_bias = 1,
                                 .o_bias = 1,
                                 .rotary_dim = 8,
                                 .embedding_scale = 1,
                                 .residual_scale = 1,
                                 .logits_divisor = 1};
static const float inv_freq[] = {1, 0.1f, 0.01f, 0.001f};
static int32_t ids[N_TOKENS];

/* ---------------------------------------------------------------- opening */

/* Opens the file and the model in it, both NULL when one of them fails. */
static int open_both(lp_safetensors **file, lp_model **model, const char *path, int use_mmap, lp_error *err) {
    *model = NULL;
    if (lp_safetensors_open(file, AT_FDCWD, path, use_mmap ? NULL : &(lp_map_reading){.max_bytes = (size_t)-1}, err))
        return -1;
    if (!open_tiny(model, &config, inv_freq, lp_safetensors_tensors(file, 1, err), err)) return 0;
    lp_safetensors_close(*file);
    *file = NULL;
    return -1;
}

static void test_open(const char *path, int use_mmap, int lasting) {
    long n = 0;
    for (int done = 0; !done && n < 100; n++) {
        lp_safetensors *file;
        lp_model *model;
        lp_error err = {0};
        fault_state before = faults;
        faults = (fault_state){n, lasting, 0, 0, before.n_live, before.live_mapped};
        int status = open_both(&file, &model, path, use_mmap, &err);
        done = !faults.n_failed;
        faults.after = -1;
        CHECK(done ? status == 0 && model : status == -1 && !file && !model && err.status == LP_ENOMEM && *err.msg);
        lp_model_close(model);
        lp_safetensors_close(file);
        CHECK(faults.n_live == before.n_live && faults.live_mapped == before.live_mapped);
    }
    CHECK(n == 11); /* file, its bytes or map, header, block; containers, tensors, model, inv_freq, layers, arena; then
                       it opens */
}

/* ---------------------------------------------------------------- running */

/* Runs n tokens and captures the logits; as it was before when it fails. */
static int run_logits(float *logits, const lp_model *model, size_t n, size_t n_threads, lp_error *err) {
    lp_run run;
    size_t starts[2] = {0, n};
    if (lp_run_init(&run, model, ids, starts, 1, n_threads, err)) return -1;
    lp_run_set_place(&run, LP_LOGITS, 0, logits);
    int status = lp_forward(&run, err);
    lp_run_free(&run);
    return status;
}

static void test_run(const lp_model *model, size_t n_tokens, size_t n_threads, int lasting, int n_wanted) {
    size_t n_logits = n_tokens * config.vocab_size;
    float *expected = calloc(n_logits, sizeof *expected), *logits = calloc(n_logits, sizeof *logits);
    lp_error err;
    int n_errors = 0;
    CHECK(run_logits(expected, model, n_tokens, 1, &err) == 0 && isfinite(expected[0]) && expected[0] != 0);
    long n = 0;
    for (int done = 0; !done && n < 100; n++) {
        lp_arena_release(model->arena); /* a cached block needs no memory */
        fault_state before = faults;
        faults = (fault_state){n, lasting, 0, 0, before.n_live, before.live_mapped};
        memset(logits, 0, n_logits * sizeof *logits);
        int status = run_logits(logits, model, n_tokens, n_threads, &err);
        done = !faults.n_failed;
        faults.after = -1;
        CHECK(!done || n_tokens < N_TOKENS || faults.n_bytes > (size_t)2 << 20); /* so it was mapped */
        CHECK(status == 0 ? !memcmp(logits, expected, n_logits * sizeof *logits) : !done && err.status == LP_ENOMEM);
        lp_arena_release(model->arena);
        CHECK(faults.n_live == before.n_live && faults.live_mapped == before.live_mapped);
        n_errors += status != 0;
        CHECK(run_logits(logits, model, n_tokens, 1, &err) == 0);
        CHECK(!memcmp(logits, expected, n_logits * sizeof *logits));
    }
    CHECK(n_errors == n_wanted);
    free(expected);
    free(logits);
}

/* Pool threads never end, so starting one can fail only when a run requests more than ever before. */
static void test_runs(const char *path) {
    lp_safetensors *file;
    lp_model *model;
    lp_error err;
    CHECK(open_both(&file, &model, path, 1, &err) == 0);
    for (int lasting = 0; lasting < 2; lasting++) {
        test_run(model, 5, 1, lasting, 4); /* the tables of places and of requests, the plan, the scratch block */
        int mapped = 3 + lasting;          /* the same, mapped: that is tried twice */
        test_run(model, N_TOKENS, 1, lasting, mapped);
        for (size_t more = 0; more < 2; more++)
            test_run(model, N_TOKENS, 2 + 2 * (size_t)lasting + more, lasting, mapped);
    }
    lp_model_close(model);
    lp_safetensors_close(file);
}

int main(void) {
    if (!HAS_WRAP) return not_run("the linker cannot replace functions");
    char path[] = "/tmp/llamaprobe_test_XXXXXX";
    int fd = mkstemp(path);
    image bytes = make_tiny_model(&config, 5);
    CHECK(fd >= 0 && write(fd, bytes.bytes, bytes.n_bytes) == (ssize_t)bytes.n_bytes);
    free(bytes.bytes);
    for (int i = 0; i < N_TOKENS; i++) ids[i] = i % (int32_t)config.vocab_size;
    for (int lasting = 0; lasting < 2; lasting++)
        for (int use_mmap = 0; use_mmap < 2; use_mmap++) test_open(path, use_mmap, lasting);
    test_runs(path);
    CHECK(faults.n_live == 0 && faults.live_mapped == 0);
    close(fd);
    unlink(path);
    return CHECK_REPORT();
}
