/* fuzz_text_read.c - whatever the bytes are, nothing outside them is touched, and every number is the one of strtof.
 *
 * The first byte picks the separator, the second the numbers in a row; the rest is the text. Rows that were read
 * without a fault are written again, and the new text must give the same bits. */
#include "../csrc/text/parse.h"

#include <math.h>
#include <string.h>

#include "../csrc/text/format.h" /* lp_text_rows_f32 */
#include "promise.h"             /* must */

/* A NaN is any NaN. */
static int same(float a, float b) { return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0; }

static void check_numbers(const char *text, size_t n) {
    char *copy = malloc(n + 1);
    must(copy != NULL, "memory");
    for (size_t at = 0; at < n;) {
        float value;
        size_t length = lp_text_read_f32(&value, text + at, n - at);
        must(length <= n - at, "a number ends where the text does");
        if (length) {
            char *end;
            memcpy(copy, text + at, length);
            copy[length] = 0;
            must(same(value, strtof(copy, &end)) && *end == 0, "numbers are those of strtof");
        }
        at += length ? length : 1;
    }
    free(copy);
}

static void check_again(const float *values, size_t n_rows, size_t n_cols, char sep) {
    size_t n = n_rows * n_cols;
    char *text = malloc(n * (LP_NUMBER_BYTES + 1) + n_rows + 1);
    float *back = malloc(n * sizeof *back + 1);
    lp_text_fault fault;
    must(text && back, "memory");
    size_t length = lp_text_rows_f32(text, values, n_rows, n_cols, sep, LP_SHORTEST);
    must(lp_text_read_rows(back, text, length, n_rows, n_cols, sep, &fault) == n_rows, "what was written can be read");
    for (size_t i = 0; i < n; i++) must(same(values[i], back[i]), "what was written reads as the same bits");
    free(text);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    char sep = ",; \t"[data[0] & 3];
    size_t n_cols = 1 + (data[1] & 7), n = size - 2;
    const char *text = (const char *)data + 2;
    size_t n_rows = lp_text_count_rows(text, n), fields = lp_text_count_cols(text, n, sep);
    must(n_rows <= n && (fields > 0) == (n_rows > 0), "a row has fields");
    check_numbers(text, n);

    float *values = malloc(n_rows * n_cols * sizeof *values + 1);
    lp_text_fault fault;
    must(values != NULL, "memory");
    size_t n_read = lp_text_read_rows(values, text, n, n_rows, n_cols, sep, &fault);
    must(fault.offset + fault.n_bytes <= n, "a fault lies in the text");
    must(fault.problem != LP_TEXT_EXTRA_ROW, "rows are counted as they are read");
    if (fault.problem == LP_TEXT_WHOLE) {
        must(n_read == n_rows && (n_rows == 0 || fields == n_cols), "without a fault all is read");
        check_again(values, n_rows, n_cols, sep);
    } else {
        must(n_read < n_rows && fault.line > n_read && fault.column > 0, "a fault has a place");
    }
    free(values);
    return 0;
}
