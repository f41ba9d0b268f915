/* text_functions.c - numbers to text and back for Python.
 *
 * Callers are our own Python modules, which check users' arguments; checked here is what could make the core read or
 * write outside a buffer. Buffers are any objects with the buffer protocol. Each function takes its buffers, works
 * without the GIL, and releases them. */
#include "module.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../text/parallel_read.h"  /* lp_read_text */
#include "../base/size.h"           /* lp_size_mul */
#include "../sys/file.h"            /* lp_file_read */
#include "../text/format.h"         /* lp_text_table */
#include "../text/parallel_write.h" /* lp_write_stretch */
#include "poll.h"                   /* lp_poll_python */

#define TABLE_NAME "llamaprobe text table"

/* ---- formatting ---------------------------------------------------------------------------------------------- */

static int check_style(Py_ssize_t sep_len, int digits, Py_ssize_t first, Py_ssize_t n_threads) {
    if (sep_len == 1 && digits >= LP_SHORTEST && digits <= LP_MAX_DIGITS && first >= 0 && n_threads > 0) return 0;
    PyErr_SetString(PyExc_ValueError, "sep is one ASCII character, digits -1 (shortest) or 0 to 25, first from 0 on, "
                                      "n_threads from 1 on");
    return -1;
}

/* [(start, stop), ...] of the pieces in the output buffer. */
static PyObject *piece_bounds(const size_t *lengths, size_t n_pieces) {
    PyObject *bounds = PyList_New((Py_ssize_t)n_pieces);
    if (!bounds) return NULL;
    for (size_t i = 0; i < n_pieces; i++) {
        size_t start = i * LP_PIECE_BYTES;
        PyObject *pair = Py_BuildValue("(nn)", (Py_ssize_t)start, (Py_ssize_t)(start + lengths[i]));
        if (!pair || PyList_SetItem(bounds, (Py_ssize_t)i, pair) < 0) {
            Py_DECREF(bounds);
            return NULL;
        }
    }
    return bounds;
}

/* Sets values and count of the stretch; ValueError when the buffer does not hold whole numbers or `out` is too small.
 */
static int take_values(lp_stretch *stretch, const Py_buffer *values, const Py_buffer *out) {
    size_t item = stretch->table ? 2 : 4, n_bytes;
    stretch->values = values->buf;
    stretch->count = (size_t)values->len / item;
    if (stretch->n_cols && (size_t)values->len % item == 0 && (stretch->table || (uintptr_t)values->buf % 4 == 0) &&
        !lp_size_mul(&n_bytes, lp_write_pieces(stretch->count), LP_PIECE_BYTES) && n_bytes <= (size_t)out->len)
        return 0;
    PyErr_SetString(PyExc_ValueError, "values must be whole aligned numbers that fit the output buffer");
    return -1;
}

/* Formats the stretch into `out`, which is large enough; the bounds of its pieces. */
static PyObject *format_pieces(const Py_buffer *out, const lp_stretch *stretch, size_t n_threads) {
    size_t n_pieces = lp_write_pieces(stretch->count), *lengths = malloc((n_pieces + 1) * sizeof *lengths);
    if (!lengths) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    lp_write_stretch(out->buf, lengths, stretch, n_threads);
    Py_END_ALLOW_THREADS;
    PyObject *bounds = piece_bounds(lengths, n_pieces);
    free(lengths);
    return bounds;
}

/* The same for the numbers of a buffer. */
static PyObject *format_stretch(PyObject *out_object, PyObject *values_object, lp_stretch *stretch, size_t n_threads) {
    Py_buffer out = {0}, values = {0};
    PyObject *bounds = NULL;
    if (PyObject_GetBuffer(out_object, &out, PyBUF_WRITABLE) < 0) return NULL;
    if (PyObject_GetBuffer(values_object, &values, PyBUF_SIMPLE) < 0) goto done;
    if (!take_values(stretch, &values, &out)) bounds = format_pieces(&out, stretch, n_threads);
done:
    if (values.obj) PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    return bounds;
}

static PyObject *format_floats(PyObject *self, PyObject *args) {
    PyObject *out, *values;
    Py_ssize_t first, n_cols, n_threads, sep_len;
    const char *sep;
    int digits;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOnns#in", &out, &values, &first, &n_cols, &sep, &sep_len, &digits, &n_threads) ||
        check_style(sep_len, digits, first, n_threads) < 0)
        return NULL;
    lp_stretch stretch = {.first = (size_t)first, .n_cols = (size_t)n_cols, .sep = sep[0], .digits = digits};
    return format_stretch(out, values, &stretch, (size_t)n_threads);
}

static void free_table(PyObject *capsule) { lp_text_table_free(PyCapsule_GetPointer(capsule, TABLE_NAME)); }

static PyObject *text_table(PyObject *self, PyObject *args) {
    int is_bf16, digits;
    (void)self;
    if (!PyArg_ParseTuple(args, "pi", &is_bf16, &digits) || check_style(1, digits, 0, 1) < 0) return NULL;
    lp_text_table *table = lp_text_table_make(is_bf16, digits);
    if (!table) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(table, TABLE_NAME, free_table);
    if (!capsule) lp_text_table_free(table);
    return capsule;
}

static PyObject *format_words(PyObject *self, PyObject *args) {
    PyObject *out, *words, *capsule;
    Py_ssize_t first, n_cols, n_threads, sep_len;
    const char *sep;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOnns#On", &out, &words, &first, &n_cols, &sep, &sep_len, &capsule, &n_threads) ||
        check_style(sep_len, LP_SHORTEST, first, n_threads) < 0)
        return NULL;
    const lp_text_table *table = PyCapsule_GetPointer(capsule, TABLE_NAME);
    if (!table) return NULL;
    lp_stretch stretch = {.table = table, .first = (size_t)first, .n_cols = (size_t)n_cols, .sep = sep[0]};
    return format_stretch(out, words, &stretch, (size_t)n_threads);
}

static PyObject *text_capacity(PyObject *self, PyObject *args) {
    Py_ssize_t count;
    size_t n_bytes;
    (void)self;
    if (!PyArg_ParseTuple(args, "n", &count)) return NULL;
    if (count < 0 || lp_size_mul(&n_bytes, lp_write_pieces((size_t)count), LP_PIECE_BYTES) < 0) return PyErr_NoMemory();
    return PyLong_FromSize_t(n_bytes);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static PyObject *describe_fault(const lp_text_report *report) {
    static const char *const problems[] = {
        [LP_TEXT_WHOLE] = "count",        [LP_TEXT_NO_NUMBER] = "word",   [LP_TEXT_FEW] = "few",
        [LP_TEXT_MANY] = "many",          [LP_TEXT_EXTRA_ROW] = "rows",   [LP_TEXT_CHANGED] = "changed",
        [LP_TEXT_UNREADABLE] = "reading", [LP_TEXT_NO_MEMORY] = "memory",
    };
    const lp_text_fault *f = &report->fault;
    if (f->problem == LP_TEXT_UNREADABLE) {
        errno = report->number;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("{sssnsnsnsnsnsnsn}", "problem", problems[f->problem], "line", (Py_ssize_t)f->line, "column",
                         (Py_ssize_t)f->column, "offset", (Py_ssize_t)f->offset, "n_bytes", (Py_ssize_t)f->n_bytes,
                         "n_found", (Py_ssize_t)f->n_found, "n_cols", (Py_ssize_t)report->n_cols, "n_numbers",
                         (Py_ssize_t)report->n_numbers);
}

static size_t read_buffer(void *arg, void *dst, size_t offset, size_t n, int *number) {
    *number = 0;
    memcpy(dst, (const char *)((const Py_buffer *)arg)->buf + offset, n);
    return n;
}

static size_t read_file(void *arg, void *dst, size_t offset, size_t n, int *number) {
    return lp_file_read(*(const int *)arg, dst, offset, n, number);
}

/* None, or what is wrong; NULL when a signal handler raised. The buffers are checked. */
static PyObject *parse(const Py_buffer *out, const lp_number_text *source, size_t n_threads) {
    lp_text_report report;
    lp_poll poll;
    lp_parallel parallel = {n_threads, lp_poll_python, &poll};
    lp_poll_begin(&poll, NULL, NULL);
    int status = lp_read_text(out->buf, (size_t)out->len / 4, source, &parallel, &report);
    lp_poll_end(&poll);
    if (status > 0) return NULL;
    if (status < 0) return describe_fault(&report);
    Py_RETURN_NONE;
}

/* Where the text is read from: a buffer, or (descriptor, size) of a file. -1 with an exception set. */
static int take_text(lp_number_text *source, PyObject *text, Py_buffer *buffer, int *fd) {
    if (PyTuple_Check(text)) {
        Py_ssize_t end;
        if (!PyArg_ParseTuple(text, "in", fd, &end)) return -1;
        source->read = read_file, source->arg = fd, source->end = end < 0 ? 0 : (size_t)end;
    } else {
        if (PyObject_GetBuffer(text, buffer, PyBUF_SIMPLE)) return -1;
        source->read = read_buffer, source->arg = buffer, source->end = (size_t)buffer->len;
    }
    if (source->start <= source->end) return 0;
    PyErr_SetString(PyExc_ValueError, "start must lie in the text");
    return -1;
}

static PyObject *parse_floats(PyObject *self, PyObject *args) {
    PyObject *out_object, *text_object, *result = NULL;
    Py_ssize_t start, n_threads, sep_len;
    Py_buffer out = {0}, text = {0};
    const char *sep;
    int fd, is_spreadsheet = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOns#n|p", &out_object, &text_object, &start, &sep, &sep_len, &n_threads,
                          &is_spreadsheet) ||
        check_style(sep_len, LP_SHORTEST, start, n_threads) < 0 ||
        PyObject_GetBuffer(out_object, &out, PyBUF_WRITABLE) < 0)
        return NULL;
    lp_number_text source = {.start = (size_t)start, .sep = sep[0], .is_spreadsheet = is_spreadsheet};
    if (out.len % 4 != 0 || (uintptr_t)out.buf % 4 != 0)
        PyErr_SetString(PyExc_ValueError, "out must hold aligned float32");
    else if (!take_text(&source, text_object, &text, &fd))
        result = parse(&out, &source, (size_t)n_threads);
    if (text.obj) PyBuffer_Release(&text);
    PyBuffer_Release(&out);
    return result;
}

PyMethodDef lp_text_methods[] = {
    {"format_floats", format_floats, METH_VARARGS,
     "format_floats(out, values, first, n_cols, sep, digits, n_threads): float32 numbers of a matrix from number\n"
     "`first` on as text in `out`; [(start, stop), ...] of its pieces in order."},
    {"format_words", format_words, METH_VARARGS,
     "format_words(out, words, first, n_cols, sep, table, n_threads): the same for the bytes of 16-bit floats."},
    {"text_table", text_table, METH_VARARGS,
     "text_table(is_bf16, digits): the spelling of every 16-bit word, for format_words."},
    {"text_capacity", text_capacity, METH_VARARGS, "text_capacity(count): bytes that `out` needs for so many numbers."},
    {"parse_floats", parse_floats, METH_VARARGS,
     "parse_floats(out, text, start, sep, n_threads, spreadsheet=False): the numbers of a text, bytes or (file\n"
     "descriptor, size), from byte `start` on into float32 `out`, which they fill exactly. None, or a dict that says\n"
     "what is wrong and where. `spreadsheet` ignores quotes, and empty cells at the ends of lines."},
    {NULL, NULL, 0, NULL},
};
