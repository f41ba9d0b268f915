/* tiny_model.h - the bytes of a safetensors file that holds exactly the tensors of a config. */
#ifndef LP_TINY_MODEL_H
#define LP_TINY_MODEL_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/model/model.h"    /* lp_config */
#include "../../csrc/io/safetensors.h" /* lp_dtype, lp_safetensors_tensors */
#include "image.h"                     /* make_image */

/* A file that is being put together: its header, where the next tensor begins, and what its dtype hangs on. */
typedef struct {
    char *header;
    size_t n, room;
    size_t data_end;
    uint64_t seed;
    lp_dtype dtype; /* of the tensor before: a bias has that of its weight */
} tiny_draft;

/* The dtypes of a model by its seed: all BF16, all F16, all F32, or mixed. */
static inline lp_dtype tiny_dtype(tiny_draft *d, int is_bias) {
    static const lp_dtype dtypes[] = {LP_BF16, LP_F16, LP_F32};
    size_t kind = d->seed & 3, mixed = (size_t)((d->seed >> 2) % 97 + d->data_end) % 3;
    if (!is_bias) d->dtype = dtypes[kind < 3 ? kind : mixed];
    return d->dtype;
}

/* n_rows 0 is a vector. */
static inline void add_tensor(tiny_draft *d, const char *prefix, const char *name, size_t n_rows, size_t n_cols) {
    int is_bias = strstr(name, ".bias") != NULL;
    lp_dtype dtype = tiny_dtype(d, is_bias);
    size_t n_bytes = (n_rows ? n_rows : 1) * n_cols * lp_dtype_bits(dtype) / 8, begin = d->data_end;
    char shape[64];
    d->data_end += n_bytes;
    if (n_rows)
        snprintf(shape, sizeof shape, "%zu,%zu", n_rows, n_cols);
    else
        snprintf(shape, sizeof shape, "%zu", n_cols);
    d->n += (size_t)snprintf(d->header + d->n, d->room - d->n,
                             "%s\"%s%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                             d->n > 1 ? "," : "", prefix, name, lp_dtype_name(dtype), shape, begin, d->data_end);
}

/* Rows first .. end of the list of tensors. */
static inline void add_tensors(tiny_draft *d, const lp_config *c, size_t first, size_t end, const char *prefix) {
    lp_tensor_spec specs[LP_N_TENSORS];
    lp_model_specs(c, specs);
    for (const lp_tensor_spec *s = specs + first; s < specs + end; s++)
        if (s->present) add_tensor(d, prefix, s->name, s->is_vector ? 0 : s->n_rows, s->n_cols);
}

/* Exponents near that of 1, so that values stay in range: bytes of noise, the high byte of each word set to 0x3c to
 * 0x3e or 0xbc to 0xbe. That is about 0.01 to 0.3 as BF16 and F32, and 1 to 1.5 as F16. */
static inline void fill_weights(image file, size_t data_start, uint64_t seed) {
    for (size_t i = data_start; i < file.n_bytes; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned char noise = (unsigned char)(seed >> 33);
        file.bytes[i] = (i - data_start) % 2 ? (unsigned char)(0x3c + noise % 3 + (noise & 0x80)) : noise;
    }
}

/* The caller frees the bytes. The config must be one that a model can have. */
static inline image make_tiny_model(const lp_config *c, uint64_t seed) {
    tiny_draft d = {.room = (c->n_layers + 1) * 4096, .n = 1, .seed = seed};
    d.header = malloc(d.room);
    d.header[0] = '{';
    add_tensors(&d, c, 0, 1, ""); /* the embedding */
    for (size_t i = 0; i < c->n_layers; i++) {
        char prefix[48];
        snprintf(prefix, sizeof prefix, LP_LAYER_PREFIX, i);
        add_tensors(&d, c, LP_N_MODEL_TENSORS, LP_N_TENSORS, prefix);
    }
    add_tensors(&d, c, 1, LP_N_MODEL_TENSORS, "");
    d.header[d.n++] = '}';
    image file = make_image_n(d.header, d.n, d.data_end);
    fill_weights(file, 8 + d.n, seed);
    free(d.header);
    return file;
}

#endif
