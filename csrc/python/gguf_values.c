/* gguf_values.c - reads the value of a key again and makes objects of it.
 *
 * It was checked when the file was opened. A value that no longer holds what it held then, in a file whose time of
 * writing says nothing, ends in FileChangedError and never beyond its bytes. */
#include "gguf_values.h"

#include <string.h>

#include "../text/format.h" /* lp_text_f32 */

/* The bytes of one value, and what is left of them. */
typedef struct {
    const lp_module_state *state;
    const lp_gguf *file;
    const unsigned char *at;
    size_t left;
} reader;

static PyObject *list_of(reader *r, lp_gguf_type type, uint64_t n);

static void fail_changed(const reader *r) {
    lp_raise_new(r->state, LP_ECHANGED, "%s: written to since it was opened; load it again", lp_gguf_path(r->file));
}

/* The next n bytes; NULL with an exception set. */
static const unsigned char *take(reader *r, uint64_t n) {
    if (n > r->left) return fail_changed(r), NULL;
    const unsigned char *at = r->at;
    r->at += n;
    r->left -= (size_t)n;
    return at;
}

static PyObject *f32_object(const unsigned char *bytes) {
    float value;
    char text[LP_NUMBER_BYTES + 1];
    memcpy(&value, bytes, sizeof value);
    text[lp_text_f32(text, value, LP_SHORTEST)] = 0;
    double decimal = PyOS_string_to_double(text, NULL, NULL);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(decimal);
}

static PyObject *f64_object(const unsigned char *bytes) {
    double value;
    memcpy(&value, bytes, sizeof value);
    return PyFloat_FromDouble(value);
}

/* A whole number of n bytes. */
static PyObject *integer_object(const unsigned char *bytes, size_t n, int is_signed) {
    uint64_t value = 0;
    memcpy(&value, bytes, n);
    if (!is_signed) return PyLong_FromUnsignedLongLong(value);
    unsigned above = 64 - 8 * (unsigned)n;
    return PyLong_FromLongLong((int64_t)(value << above) >> above);
}

static PyObject *scalar_object(const unsigned char *bytes, lp_gguf_type type) {
    switch (type) {
    case LP_GGUF_F32:
        return f32_object(bytes);
    case LP_GGUF_F64:
        return f64_object(bytes);
    case LP_GGUF_BOOL:
        return PyBool_FromLong(bytes[0]);
    default:
        return integer_object(bytes, lp_gguf_type_bytes(type),
                              type == LP_GGUF_I8 || type == LP_GGUF_I16 || type == LP_GGUF_I32 || type == LP_GGUF_I64);
    }
}

static PyObject *text_object(const unsigned char *bytes, size_t n) {
    return PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)n, "surrogateescape");
}

static PyObject *string_item(reader *r) {
    uint64_t n;
    const unsigned char *bytes = take(r, sizeof n);
    if (!bytes) return NULL;
    memcpy(&n, bytes, sizeof n);
    bytes = take(r, n);
    return bytes ? text_object(bytes, (size_t)n) : NULL;
}

static PyObject *array_item(reader *r) {
    uint32_t type;
    uint64_t n;
    const unsigned char *bytes = take(r, sizeof type + sizeof n);
    if (!bytes) return NULL;
    memcpy(&type, bytes, sizeof type);
    memcpy(&n, bytes + sizeof type, sizeof n);
    if (type >= LP_N_GGUF_TYPES) return fail_changed(r), NULL;
    return list_of(r, (lp_gguf_type)type, n);
}

static PyObject *item(reader *r, lp_gguf_type type) {
    if (type == LP_GGUF_STRING) return string_item(r);
    if (type == LP_GGUF_ARRAY) return array_item(r);
    const unsigned char *bytes = take(r, lp_gguf_type_bytes(type));
    return bytes ? scalar_object(bytes, type) : NULL;
}

static PyObject *list_of(reader *r, lp_gguf_type type, uint64_t n) {
    if (n > r->left) return fail_changed(r), NULL; /* an item has a byte at least */
    PyObject *list = NULL;
    if (Py_EnterRecursiveCall(" in an array")) return NULL;
    list = PyList_New((Py_ssize_t)n);
    for (uint64_t i = 0; list && i < n; i++) {
        PyObject *object = item(r, type);
        if (!object || PyList_SetItem(list, (Py_ssize_t)i, object)) Py_CLEAR(list);
    }
    Py_LeaveRecursiveCall();
    return list;
}

static PyObject *stored_object(reader *r, const lp_gguf_key *key) {
    if (key->type == LP_GGUF_STRING) return text_object(r->at, r->left);
    PyObject *list = list_of(r, key->item_type, key->n_items);
    if (list && r->left) {
        Py_CLEAR(list);
        fail_changed(r);
    }
    return list;
}

PyObject *lp_gguf_value(const lp_module_state *state, const lp_gguf *file, const lp_gguf_key *key) {
    lp_error err;
    unsigned char scalar[sizeof key->bits];
    memcpy(scalar, &key->bits, sizeof scalar);
    if (key->type != LP_GGUF_STRING && key->type != LP_GGUF_ARRAY) return scalar_object(scalar, key->type);
    unsigned char *bytes = PyMem_Malloc(key->n_bytes);
    if (!bytes)
        return lp_raise_new(state, LP_ENOMEM, "%s: no memory to read a value of %zu bytes", lp_gguf_path(file),
                            key->n_bytes);
    reader r = {state, file, bytes, key->n_bytes};
    PyObject *value = lp_gguf_read_value(file, bytes, key, &err) ? lp_raise(state, &err) : stored_object(&r, key);
    PyMem_Free(bytes);
    return value;
}
