/* test_model.c - a model whose file and config disagree is refused in words that name the tensor and both numbers; a
 * run of tokens that it cannot take is refused too. */
#include "../../csrc/model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/run/run.h" /* lp_run_init */
#include "check.h"
#include "tiny_model.h"

static const lp_config config = {.n_layers = 1,
                                 .n_heads = 2,
                                 .n_kv_heads = 1,
                                 .head_dim = 4,
                                 .d_model = 6,
                                 .d_ff = 10,
                                 .vocab_size = 7,
                                 .max_positions = (size_t)1 << 26,
                                 .rms_norm_eps = 1e-5,
                                 .qkv_bias = 1,
                                 .o_bias = 1,
                                 .rotary_dim = 4,
                                 .embedding_scale = 1,
                                 .residual_scale = 1,
                                 .logits_divisor = 1};
static const float inv_freq[] = {1, 0.5f};
static lp_error err;

/* The place of `text` in the file; it must be there. */
static unsigned char *find_text(image file, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= file.n_bytes; i++)
        if (!memcmp(file.bytes + i, text, n)) return file.bytes + i;
    fprintf(stderr, "the file has no %s\n", text);
    abort();
}

/* Opens the model in a file in which `from` became `to`, of the same length; frees the file when it is refused. */
static int open_changed(lp_safetensors **file, lp_model **model, image bytes, const char *from, const char *to) {
    memcpy(find_text(bytes, from), to, strlen(from));
    CHECK(lp_safetensors_from_bytes(file, "f", bytes.bytes, bytes.n_bytes, &err) == 0);
    int status = open_tiny(model, &config, inv_freq, lp_safetensors_tensors(file, 1, &err), &err);
    if (status) lp_safetensors_close(*file);
    return status;
}

#define Q_PROJ "self_attn.q_proj"

static void test_files_that_do_not_fit(void) {
    static const struct {
        const char *from, *to;
        lp_status status;
        const char *expected;
    } cases[] = {
        {"model.norm", "model.morn", LP_EFORMAT, "f: tensor model.norm.weight is missing"},
        {"lm_head", "lm_haed", LP_EFORMAT, "f: tensor lm_head.weight is missing"},
        {"0.mlp.down_proj", "0.mlp.dawn_proj", LP_EFORMAT, "tensor model.layers.0.mlp.down_proj.weight is missing"},
        {"\"shape\":[7,6]", "\"shape\":[6,7]", LP_EFORMAT,
         "embed_tokens.weight has shape [6, 7], the config requires [7, 6]"},
        {"\"shape\":[7,6]", "\"shape\":[ 42]", LP_EFORMAT,
         "embed_tokens.weight has shape [42], the config requires [7, 6]"},
        {"{\"dtype\":\"BF16\",\"shape\":[7,6]", "{\"dtype\":\"I16\", \"shape\":[7,6]", LP_EUNSUPPORTED,
         "embed_tokens.weight has dtype I16; only BF16, F16 and F32"},
        {Q_PROJ ".bias\":{\"dtype\":\"BF16\"", Q_PROJ ".bias\":{\"dtype\":\"F16\" ", LP_EUNSUPPORTED,
         "f: tensor model.layers.0." Q_PROJ ".bias has another dtype than its weight"},
        {Q_PROJ ".bias\":{\"dtype\":\"BF16\",\"shape\":[8]", Q_PROJ ".bias\":{\"dtype\":\"F32\",\"shape\": [4]",
         LP_EFORMAT, Q_PROJ ".bias has shape [4], the config requires [8]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image bytes = make_tiny_model(&config, 0);
        lp_safetensors *file;
        lp_model *model;
        CHECK(open_changed(&file, &model, bytes, cases[i].from, cases[i].to) == -1 && !model);
        CHECK(err.status == cases[i].status && strstr(err.msg, cases[i].expected));
        if (!strstr(err.msg, cases[i].expected)) fprintf(stderr, "  got: %s\n", err.msg);
        free(bytes.bytes);
    }
}

/* ---------------------------------------------------------------- configs */

static int open_with(lp_model **model, const lp_config *c, lp_safetensors *file) {
    return open_tiny(model, c, inv_freq, lp_safetensors_tensors(&file, 1, &err), &err);
}

static void test_configs(void) {
    static const double eps[] = {-1e-5, INFINITY, NAN};
    image bytes = make_tiny_model(&config, 0);
    lp_safetensors *file;
    lp_model *model;
    CHECK(lp_safetensors_from_bytes(&file, "f", bytes.bytes, bytes.n_bytes, &err) == 0);
    for (size_t field = 0; field < 8; field++)
        for (int large = 0; large < 2; large++) {
            lp_config c = config;
            size_t *fields[] = {&c.n_layers, &c.n_heads, &c.n_kv_heads, &c.head_dim,
                                &c.d_model,  &c.d_ff,    &c.vocab_size, &c.max_positions};
            *fields[field] = large ? SIZE_MAX : 0;
            CHECK(open_with(&model, &c, file) == -1 && !model && err.status == LP_EARG);
            CHECK(strstr(err.msg, large ? "is 18446744073709551615, must be 1 to" : "is 0, must be 1 to"));
        }
    for (size_t i = 0; i < 3; i++) {
        lp_config c = config;
        c.rms_norm_eps = eps[i];
        CHECK(open_with(&model, &c, file) == -1 && strstr(err.msg, "rms_norm_eps"));
    }
    lp_config uneven = config, odd = config, wide = config;
    uneven.n_heads = 3, uneven.n_kv_heads = 2;
    odd.head_dim = 5;
    wide.n_heads = 4096, wide.head_dim = 1024;
    CHECK(open_with(&model, &uneven, file) == -1 && strstr(err.msg, "not a multiple"));
    CHECK(open_with(&model, &odd, file) == -1 && strstr(err.msg, "head_dim 5 is odd"));
    CHECK(open_with(&model, &wide, file) == -1 && strstr(err.msg, "n_heads * head_dim"));
    CHECK(open_tiny(&model, &config, inv_freq, lp_safetensors_tensors(&file, 0, &err), &err) == -1 &&
          err.status == LP_EARG);
    lp_safetensors_close(file);
    free(bytes.bytes);
}

/* ---------------------------------------------------------------- runs */

/* `starts` ends at n_tokens. Refused in these words. */
static void check_refused(const lp_model *model, const int32_t *ids, const size_t *starts, size_t n_seqs,
                          const char *expected) {
    lp_run run;
    CHECK(lp_run_init(&run, model, ids, starts, n_seqs, 1, &err) == -1 && err.status == LP_EARG);
    CHECK(strstr(err.msg, expected));
    lp_run_free(&run);
}

static void test_runs(void) {
    image bytes = make_tiny_model(&config, 0);
    lp_safetensors *file;
    lp_model *model;
    lp_run run;
    size_t many[41];
    for (size_t i = 0; i <= 40; i++) many[i] = i << 26;
    CHECK(open_changed(&file, &model, bytes, "model.norm", "model.norm") == 0);
    check_refused(model, (const int32_t[]){1}, (const size_t[]){0}, 0, "at least one sequence");
    check_refused(model, (const int32_t[]){1}, (const size_t[]){1, 2}, 1, "from row 0");
    check_refused(model, (const int32_t[]){1}, (const size_t[]){0, 0}, 1, "sequence 0 is empty");
    check_refused(model, (const int32_t[]){1}, (const size_t[]){0, 2, 1}, 2, "sequence 1 is empty");
    check_refused(model, (const int32_t[]){1}, (const size_t[]){0, (1 << 26) + 1}, 1,
                  "the model takes at most 67108864");
    check_refused(model, NULL, many, 40, "2684354560 tokens in one run, the most are 2147483648");
    check_refused(model, (const int32_t[]){1, 7}, (const size_t[]){0, 2}, 1, "token id 7 at position 1");
    check_refused(model, (const int32_t[]){-1}, (const size_t[]){0, 1}, 1, "token id -1 at position 0");
    CHECK(lp_run_init(&run, model, (const int32_t[]){6}, (const size_t[]){0, 1}, 1, 0, &err) == 0);
    CHECK(run.parallel.n_threads == 1);
    lp_run_free(&run);
    lp_model_close(model);
    lp_safetensors_close(file);
    free(bytes.bytes);
}

int main(void) {
    test_files_that_do_not_fit();
    test_configs();
    test_runs();
    return CHECK_REPORT();
}
