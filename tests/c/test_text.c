/* test_text.c - numbers to text, against the C library.
 *
 * exhaustive_text.c proves the shortest digits of all floats; here are samples, every other spelling, the tables of
 * 16-bit words, and what must not matter: the locale, the rounding mode, what lies behind the buffer. */
#include "../../csrc/text/format.h"

#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/base/half.h"
#include "check.h"

static uint64_t state = 88172645463325252;

static uint32_t random_bits(void) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* Any bits, or few bits set (ties), or a small number of decimal digits, in turn. */
static float random_float(uint32_t i) {
    uint32_t bits = random_bits();
    switch (i % 4) {
    case 0:
        return lp_f32_from_bits(bits);
    case 1:
        return lp_f32_from_bits(bits & 0xfff80000);
    case 2:
        return (float)(bits % 100000) / (float)(1 << (bits >> 28));
    default:
        return ldexpf((float)(bits & 1023), (int)(bits >> 10) % 300 - 160);
    }
}

static int is_text(float value, int digits, const char *expected) {
    char text[LP_NUMBER_BYTES];
    size_t length = lp_text_f32(text, value, digits);
    int same = length == strlen(expected) && memcmp(text, expected, length) == 0;
    if (!same) fprintf(stderr, "%a, digits %d: \"%.*s\", not \"%s\"\n", value, digits, (int)length, text, expected);
    return same;
}

static void test_spellings(void) {
    CHECK(is_text(0.0f, LP_SHORTEST, "0.0"));
    CHECK(is_text(-0.0f, LP_SHORTEST, "-0.0"));
    CHECK(is_text(1.0f, LP_SHORTEST, "1.0"));
    CHECK(is_text(-1.5f, LP_SHORTEST, "-1.5"));
    CHECK(is_text(0.1f, LP_SHORTEST, "0.1"));
    CHECK(is_text(100.0f, LP_SHORTEST, "100.0"));
    CHECK(is_text(123456.789f, LP_SHORTEST, "123456.79"));
    CHECK(is_text(999999.94f, LP_SHORTEST, "999999.94"));
    CHECK(is_text(1e6f, LP_SHORTEST, "1e+06"));
    CHECK(is_text(16777216.0f, LP_SHORTEST, "1.6777216e+07"));
    CHECK(is_text(1e16f, LP_SHORTEST, "1e+16"));
    CHECK(is_text(3.4028235e38f, LP_SHORTEST, "3.4028235e+38"));
    CHECK(is_text(0.00010000001f, LP_SHORTEST, "0.00010000001"));
    CHECK(is_text(1e-4f, LP_SHORTEST, "1e-04"));
    CHECK(is_text(-1e-5f, LP_SHORTEST, "-1e-05"));
    CHECK(is_text(1.17549435e-38f, LP_SHORTEST, "1.1754944e-38"));
    CHECK(is_text(1e-45f, LP_SHORTEST, "1e-45"));
    CHECK(is_text(-4e-45f, LP_SHORTEST, "-4e-45"));
    CHECK(is_text(2097152.25f, LP_SHORTEST, "2.0971522e+06")); /* two are as close: the even digit */
    CHECK(is_text(2097152.75f, LP_SHORTEST, "2.0971528e+06"));
    for (int digits = LP_SHORTEST; digits <= LP_MAX_DIGITS; digits++) {
        CHECK(is_text(NAN, digits, "nan"));
        CHECK(is_text(lp_f32_from_bits(0xffc00001), digits, "nan"));
        CHECK(is_text(INFINITY, digits, "inf"));
        CHECK(is_text(-INFINITY, digits, "-inf"));
    }
    CHECK(is_text(0.0f, 0, "0e+00"));
    CHECK(is_text(-0.0f, 3, "-0.000e+00"));
    CHECK(is_text(0.5f, 0, "5e-01"));
    CHECK(is_text(2.5f, 0, "2e+00")); /* ties go to the even digit */
    CHECK(is_text(3.5f, 0, "4e+00"));
    CHECK(is_text(2.5e9f, 0, "2e+09"));
    CHECK(is_text(3.5e9f, 0, "4e+09"));
    CHECK(is_text(9.5f, 0, "1e+01"));
    CHECK(is_text(1.0f, -7, "1.0"));
    CHECK(is_text(1.0f, 99, "1.0000000000000000000000000e+00"));
}

/* "%.Ne", with NaN spelled as NumPy does. */
static void test_against_printf(void) {
    char text[LP_NUMBER_BYTES], expected[64];
    for (int digits = 0; digits <= LP_MAX_DIGITS; digits++) {
        uint32_t n_wrong = 0;
        for (uint32_t i = 0; i < 100000; i++) {
            float value = random_float(i);
            int n = snprintf(expected, sizeof expected, "%.*e", digits, (double)value);
            if (isnan(value)) n = snprintf(expected, sizeof expected, "nan");
            size_t length = lp_text_f32(text, value, digits);
            n_wrong += length != (size_t)n || memcmp(text, expected, length) != 0;
        }
        CHECK(n_wrong == 0);
    }
}

/* Digits of a text; zeros around them do not count. */
static int significant_digits(const char *text) {
    int n = 0, n_significant = 0;
    for (; *text && *text != 'e'; text++) {
        if (*text < '0' || *text > '9' || (n == 0 && *text == '0')) continue;
        n++;
        if (*text != '0') n_significant = n;
    }
    return n_significant;
}

static void test_shortest_reads_back(void) {
    char text[LP_NUMBER_BYTES + 1], shorter[64];
    uint32_t n_wrong = 0, n_long = 0;
    for (uint32_t i = 0; i < 2000000; i++) {
        float value = random_float(i);
        if (isnan(value)) continue;
        text[lp_text_f32(text, value, LP_SHORTEST)] = 0;
        n_wrong += lp_f32_bits(strtof(text, NULL)) != lp_f32_bits(value);
        int n = significant_digits(text);
        if (isinf(value) || n < 2 || i % 16) continue;
        snprintf(shorter, sizeof shorter, "%.*e", n - 2, (double)value);
        n_long += strtof(shorter, NULL) == value;
    }
    CHECK(n_wrong == 0);
    CHECK(n_long == 0);
}

/* ---- rows ---- */

/* Rows written at once are the numbers written one by one, in a buffer that is no longer than promised. */
static int rows_are_numbers(const float *values, size_t n_rows, size_t n_cols, char sep, int digits) {
    size_t capacity = n_rows * n_cols * (LP_NUMBER_BYTES + 1) + n_rows;
    char *rows = malloc(capacity + 1), *expected = malloc(capacity + 1), *p = expected;
    if (!rows || !expected) abort();
    rows[capacity] = 'X';
    size_t length = lp_text_rows_f32(rows, values, n_rows, n_cols, sep, digits);
    for (size_t i = 0; i < n_rows; i++) {
        for (size_t j = 0; j < n_cols; j++) {
            if (j) *p++ = sep;
            p += lp_text_f32(p, values[i * n_cols + j], digits);
        }
        *p++ = '\n';
    }
    int same = length == (size_t)(p - expected) && memcmp(rows, expected, length) == 0 && rows[capacity] == 'X';
    free(rows);
    free(expected);
    return same;
}

static void test_rows(void) {
    static const size_t n_cols[] = {0, 1, 2, 63, 64, 65, 128, 200};
    float values[3 * 207];
    for (int digits = LP_SHORTEST; digits <= LP_MAX_DIGITS; digits++) {
        for (uint32_t i = 0; i < 3 * 207; i++) values[i] = i % 7 ? random_float(i) : (float)i / 8;
        for (size_t i = 0; i < sizeof n_cols / sizeof *n_cols; i++) {
            CHECK(rows_are_numbers(values, 3, n_cols[i], ',', digits));
            CHECK(rows_are_numbers(values, 3, n_cols[i], ' ', digits));
            CHECK(rows_are_numbers(values, 0, n_cols[i], ',', digits));
        }
    }
    /* the longest texts, to the end of the buffer */
    for (uint32_t i = 0; i < 200; i++) values[i] = -1.2345679e-38f;
    CHECK(rows_are_numbers(values, 1, 200, ',', LP_MAX_DIGITS));
    for (uint32_t i = 0; i < 200; i++) values[i] = -0.00012345679f;
    CHECK(rows_are_numbers(values, 1, 200, ',', LP_SHORTEST));
}

/* ---- 16-bit words ---- */

/* All words of a table, from an odd address, 256 rows of 256. */
static int table_is_numbers(int is_bf16, int digits) {
    size_t capacity = 65536 * (LP_NUMBER_BYTES + 1) + 256;
    unsigned char *words = malloc(2 * 65536 + 1);
    float *values = malloc(65536 * sizeof *values);
    char *rows = malloc(capacity + 1), *expected = malloc(capacity);
    lp_text_table *table = lp_text_table_make(is_bf16, digits);
    if (!words || !values || !rows || !expected || !table) abort();
    for (uint32_t w = 0; w < 65536; w++) {
        words[1 + 2 * w] = (unsigned char)w, words[2 + 2 * w] = (unsigned char)(w >> 8);
        values[w] = is_bf16 ? lp_bf16_to_f32((uint16_t)w) : lp_f16_to_f32((uint16_t)w);
    }
    rows[capacity] = 'X';
    size_t length = lp_text_rows_u16(rows, words + 1, 256, 256, ',', table);
    size_t n = lp_text_rows_f32(expected, values, 256, 256, ',', digits);
    int same = length == n && memcmp(rows, expected, n) == 0 && rows[capacity] == 'X';
    /* one word with the longest text fits into the room for one */
    char *one = malloc(LP_NUMBER_BYTES + 2);
    if (!one) abort();
    size_t last = lp_text_rows_u16(one, "\x81\x81", 1, 1, ',', table);
    same = same && last > 1 && one[last - 1] == '\n';
    same = same && lp_text_rows_u16(one, words, 2, 0, ',', table) == 2 && memcmp(one, "\n\n", 2) == 0;
    lp_text_table_free(table);
    free(words), free(values), free(rows), free(expected), free(one);
    return same;
}

static void test_tables(void) {
    for (int digits = LP_SHORTEST; digits <= LP_MAX_DIGITS; digits++) {
        CHECK(table_is_numbers(1, digits));
        CHECK(table_is_numbers(0, digits));
    }
    lp_text_table_free(NULL);
}

static void test_half(void) {
    uint32_t n_wrong = 0;
    for (uint32_t w = 0; w < 65536; w++) {
        int exponent = (int)(w >> 10 & 31), mantissa = (int)(w & 1023), sign = w >> 15 ? -1 : 1;
        float f = lp_f16_to_f32((uint16_t)w), b = lp_bf16_to_f32((uint16_t)w);
        double expected = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31) expected = mantissa ? NAN : INFINITY;
        n_wrong += isnan(expected) ? !isnan(f) : (double)f != sign * expected || !signbit(f) != (sign > 0);
        n_wrong += lp_f32_bits(b) != w << 16;
        n_wrong += isnan(f) ? !isnan(lp_f16_to_f32(lp_f32_to_f16(f))) : lp_f32_to_f16(f) != w;
        n_wrong += isnan(b) ? !isnan(lp_bf16_to_f32(lp_f32_to_bf16(b))) : lp_f32_to_bf16(b) != w;
    }
    CHECK(n_wrong == 0);
    /* between two neighbours the middle goes to the even one, and what lies beside the middle to the nearer one */
    for (uint32_t w = 0; w < 0x7c00; w++) {
        float low = lp_f16_to_f32((uint16_t)w), high = w == 0x7bff ? 65536 : lp_f16_to_f32((uint16_t)(w + 1));
        float middle = low + (high - low) / 2;
        n_wrong += lp_f32_to_f16(middle) != w + (w & 1);
        n_wrong += lp_f32_to_f16(nextafterf(middle, 0)) != w || lp_f32_to_f16(nextafterf(middle, INFINITY)) != w + 1;
        n_wrong += lp_f32_to_f16(-middle) != (0x8000 | (w + (w & 1)));
    }
    for (uint32_t w = 0; w < 0x7f80; w++) {
        uint32_t middle = w << 16 | 0x8000;
        n_wrong += lp_f32_to_bf16(lp_f32_from_bits(middle)) != w + (w & 1);
        n_wrong += lp_f32_to_bf16(lp_f32_from_bits(middle - 1)) != w;
        n_wrong += lp_f32_to_bf16(lp_f32_from_bits(middle + 1)) != w + 1;
    }
    CHECK(n_wrong == 0);
    CHECK(lp_f32_to_f16(INFINITY) == 0x7c00 && lp_f32_to_f16(-3e38f) == 0xfc00);
    CHECK(lp_f32_to_bf16(-INFINITY) == 0xff80 && lp_f32_to_bf16(3.4e38f) == 0x7f80);
    CHECK(lp_f32_to_bf16(lp_f32_from_bits(0x7f800001)) > 0x7f80); /* a NaN whose upper half is that of infinity */
}

/* ---- locale and FPU modes do not matter ---- */

static void test_surroundings(void) {
    static const int modes[] = {FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    static const char *locales[] = {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "C.UTF-8"};
    int usual = fegetround();
    for (size_t i = 0; i < 3; i++) {
        if (fesetround(modes[i])) continue;
        int right = is_text(0.3f, LP_SHORTEST, "0.3") & is_text(0.3f, 4, "3.0000e-01") & is_text(2.5f, 0, "2e+00");
        right &= lp_f32_to_f16(1.00048828125f) == 0x3c00 && lp_f16_to_f32(1) == 0x1p-24f;
        fesetround(usual);
        CHECK(right);
    }
    for (size_t i = 0; i < 4; i++) {
        if (!setlocale(LC_ALL, locales[i])) continue;
        CHECK(is_text(1234.5f, LP_SHORTEST, "1234.5") && is_text(1234.5f, 2, "1.23e+03"));
        setlocale(LC_ALL, "C");
    }
}

int main(void) {
    test_spellings();
    test_against_printf();
    test_shortest_reads_back();
    test_rows();
    test_tables();
    test_half();
    test_surroundings();
    return CHECK_REPORT();
}
