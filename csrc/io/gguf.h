/* gguf.h - one GGUF file: mapped, its header proved, its keys and tensors looked up by name.
 *
 * All numbers are little endian:
 *     file    "GGUF" | u32 version, 2 or 3 | u64 n_tensors | u64 n_keys | keys | tensors | padding | data
 *     key     string name | u32 type | value
 *     tensor  string name | u32 rank | u64 dims[rank], fastest first | u32 type | u64 offset in the data
 *     string  u64 n | n bytes                array  u32 type | u64 n | n values
 * The data and each tensor begin at multiples of general.alignment, 32 unless the file says otherwise.
 *
 * The header is proved before opening returns: no number sizes an allocation before it was checked against the file's
 * size; names are unique, UTF-8 and without NUL; types are known; rows are whole blocks; sizes do not overflow;
 * tensors, in any order in the header, follow one another with nothing but padding between them and up to the end of
 * the file. A file that breaks a rule is refused with a message that names the file, the key or tensor, and both
 * numbers.
 *
 * Opening reads the header through a small window and touches neither the map nor the data. Of values only the offset
 * is kept; they are read on request. */
#ifndef LP_GGUF_H
#define LP_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h" /* lp_error */
#include "../base/part.h"  /* lp_part */
#include "ggml_types.h"    /* lp_ggml_type */
#include "map.h"           /* lp_map_reading */
#include "tensors.h"       /* lp_container */

/* The value types in the order of the format's ids: name, bytes (0: variable, stored after a length). */
/* clang-format off */
#define LP_GGUF_TYPES(T)                                                                                               \
    T(U8, "u8", 1) T(I8, "i8", 1) T(U16, "u16", 2) T(I16, "i16", 2) T(U32, "u32", 4) T(I32, "i32", 4)                  \
    T(F32, "f32", 4) T(BOOL, "bool", 1) T(STRING, "string", 0) T(ARRAY, "array", 0) T(U64, "u64", 8)                   \
    T(I64, "i64", 8) T(F64, "f64", 8)

typedef enum {
#define LP_GGUF_ENUM(name, text, bytes) LP_GGUF_##name,
    LP_GGUF_TYPES(LP_GGUF_ENUM)
#undef LP_GGUF_ENUM
    LP_N_GGUF_TYPES
} lp_gguf_type;
/* clang-format on */

const char *lp_gguf_type_name(lp_gguf_type type); /* "u32" */
size_t lp_gguf_type_bytes(lp_gguf_type type);     /* 4; 0 for STRING and ARRAY */

typedef struct {
    const char *name; /* UTF-8, no NUL inside, NUL-terminated; owned by the file, as all names */
    size_t name_len;
    lp_gguf_type type, item_type; /* item_type: of an array */
    size_t n_items;               /* of an array */
    size_t offset, n_bytes;       /* of the value in the file, after the length of a string or array */
    uint64_t bits;                /* of a number or bool: its bytes, zero-extended */
} lp_gguf_key;

#define LP_GGUF_MAX_RANK 4

typedef struct {
    const char *name;
    size_t name_len;
    const lp_ggml_type *type;
    size_t rank;                      /* 0: a scalar */
    uint64_t shape[LP_GGUF_MAX_RANK]; /* slowest first, the reverse of the file: a matrix is [out, in] */
    size_t n_elements, n_bytes;
    const unsigned char *data; /* n_bytes bytes in the map; valid until close */
    size_t offset;             /* of the data in the file */
} lp_gguf_tensor;

typedef struct {
    uint32_t version;
    size_t alignment;
    size_t n_keys, n_tensors;
    lp_gguf_key *keys;       /* [n_keys], as stored */
    lp_gguf_tensor *tensors; /* [n_tensors], by offset */
} lp_gguf_contents;

typedef struct lp_gguf lp_gguf;

/* Opens `path`, relative to the folder open as dir_fd (negative: the current one): mapped, or, if `reading` is not
 * NULL, read into memory within its limits. Regular files only. *out is NULL on failure. LP_EIO: the system refused;
 * LP_EFORMAT: a rule is broken; LP_EUNSUPPORTED: the version, byte order or a type; LP_ENOMEM; LP_ECANCELED,
 * LP_ECHANGED as lp_map_open. */
int lp_gguf_open(lp_gguf **out, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err);
void lp_gguf_close(lp_gguf *file); /* NULL is legal */

/* The same for bytes in memory, borrowed until close: for tests and fuzzers. `name` is for messages. */
int lp_gguf_from_bytes(lp_gguf **out, const char *name, const unsigned char *bytes, size_t n_bytes, lp_error *err);

const lp_gguf_contents *lp_gguf_contents_of(const lp_gguf *file);
/* NULL: not found. Both are owned by the file. */
const lp_gguf_key *lp_gguf_find_key(const lp_gguf *file, const char *name, size_t name_len);
const lp_gguf_tensor *lp_gguf_find(const lp_gguf *file, const char *name, size_t name_len);
lp_part lp_gguf_part(const lp_gguf_tensor *tensor);
lp_container lp_gguf_container(const lp_gguf *file);

/* Copies a key's value to dst [key->n_bytes], reading the file, not the map. Fails as lp_map_read. */
int lp_gguf_read_value(const lp_gguf *file, void *dst, const lp_gguf_key *key, lp_error *err);

const char *lp_gguf_path(const lp_gguf *file);
size_t lp_gguf_n_bytes(const lp_gguf *file);
int lp_gguf_is_mapped(const lp_gguf *file);

/* As lp_map_check_unchanged. */
int lp_gguf_check_unchanged(const lp_gguf *file, lp_error *err);

#endif
