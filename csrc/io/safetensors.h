/* safetensors.h - one safetensors file: mapped, its header proved, its tensors looked up by name.
 *
 * A file is  u64 n (little endian) | n bytes of JSON | data.  The header is proved before opening returns: n fits the
 * file; strict UTF-8 JSON without duplicate keys; known dtypes; size = shape x dtype; tensors follow one another from
 * the start of the data to the end of the file, without hole or overlap. A file that breaks a rule is refused with a
 * message that names the file and the tensor.
 *
 * Data may have any alignment: read it with unaligned loads. Names and shapes are copied into one private block; the
 * data is copied only when the file is read into memory instead of mapped. */
#ifndef LP_SAFETENSORS_H
#define LP_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h" /* lp_error */
#include "../base/part.h"  /* lp_part */
#include "map.h"           /* lp_map_reading */
#include "tensors.h"       /* lp_tensors, lp_element */

/* The dtypes of the format: name, bits per element. Kernels read BF16, F16 and F32 only. */
/* clang-format off */
#define LP_DTYPES(D)                                                                                                   \
    D(BOOL, 8) D(F4, 4) D(F6_E2M3, 6) D(F6_E3M2, 6) D(U8, 8) D(I8, 8) D(F8_E5M2, 8) D(F8_E4M3, 8) D(F8_E8M0, 8)        \
    D(F8_E4M3FNUZ, 8) D(F8_E5M2FNUZ, 8) D(I16, 16) D(U16, 16) D(F16, 16) D(BF16, 16) D(I32, 32) D(U32, 32) D(F32, 32)  \
    D(C64, 64) D(F64, 64) D(I64, 64) D(U64, 64)

typedef enum {
#define LP_DTYPE_ENUM(name, bits) LP_##name,
    LP_DTYPES(LP_DTYPE_ENUM)
#undef LP_DTYPE_ENUM
    LP_N_DTYPES
} lp_dtype;
/* clang-format on */

const char *lp_dtype_name(lp_dtype dtype); /* "BF16" */
size_t lp_dtype_bits(lp_dtype dtype);      /* 16 */
/* The element type of a dtype; -1: kernels cannot read it. */
int lp_dtype_element(lp_dtype dtype, lp_element *element);

#define LP_MAX_RANK 32

typedef struct {
    const char *name; /* UTF-8 with escapes resolved, no NUL inside, NUL-terminated; owned by the file */
    size_t name_len;
    lp_dtype dtype;
    size_t rank;           /* <= LP_MAX_RANK; 0: a scalar */
    const uint64_t *shape; /* [rank]; owned by the file */
    size_t n_elements;     /* product of the shape, checked */
    size_t n_bytes;
    const unsigned char *data; /* n_bytes bytes in the map, any alignment; valid until close */
    size_t offset;             /* of the data in the file */
} lp_tensor;

typedef struct lp_safetensors lp_safetensors;

/* Opens `path`, relative to the folder open as dir_fd (negative: the current one): mapped, or, if `reading` is not
 * NULL, read into memory within its limits. Regular files only. *out is NULL on failure. LP_EIO: the system refused;
 * LP_EFORMAT: a rule is broken; LP_ENOMEM; LP_ECANCELED, LP_ECHANGED as lp_map_open. */
int lp_safetensors_open(lp_safetensors **out, int dir_fd, const char *path, const lp_map_reading *reading,
                        lp_error *err);
void lp_safetensors_close(lp_safetensors *file); /* NULL is legal */

/* The same for bytes in memory, borrowed until close: for tests and fuzzers. `name` is for messages. */
int lp_safetensors_from_bytes(lp_safetensors **out, const char *name, const unsigned char *bytes, size_t n_bytes,
                              lp_error *err);

size_t lp_safetensors_count(const lp_safetensors *file);
/* Tensor i < count, by offset. */
const lp_tensor *lp_safetensors_at(const lp_safetensors *file, size_t i);
/* NULL: not found. */
const lp_tensor *lp_safetensors_find(const lp_safetensors *file, const char *name, size_t name_len);
lp_part lp_safetensors_part(const lp_tensor *tensor);

size_t lp_safetensors_n_metadata(const lp_safetensors *file);
/* Pair i of __metadata__, by key: both strings NUL-terminated, no NUL inside, owned by the file; lengths in bytes. */
void lp_safetensors_metadata(const lp_safetensors *file, size_t i, const char **key, size_t *key_len,
                             const char **value, size_t *value_len);

const char *lp_safetensors_path(const lp_safetensors *file);
size_t lp_safetensors_n_bytes(const lp_safetensors *file);
/* The number of unknown keys in tensor entries, which are ignored, as by the format's own reader. */
size_t lp_safetensors_n_ignored(const lp_safetensors *file);

int lp_safetensors_is_mapped(const lp_safetensors *file);

/* As lp_map_check_unchanged. */
int lp_safetensors_check_unchanged(const lp_safetensors *file, lp_error *err);

lp_container lp_safetensors_container(const lp_safetensors *file);
/* As lp_tensors_open, without named tensors. */
lp_tensors *lp_safetensors_tensors(lp_safetensors *const *files, size_t n_files, lp_error *err);

#endif
