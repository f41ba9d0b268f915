/* test_text_read.c - text to numbers against strtof, at the edges of rounding and of memory; and faults, each kind.
 *
 * Texts lie at the end of a page that is followed by one which cannot be read, so a byte too far is a crash. */
#define _DEFAULT_SOURCE
#include "../../csrc/text/parse.h"

#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/base/half.h"
#include "../../csrc/text/format.h"
#include "check.h"

#define ROOM 65536

static char *page_end; /* ROOM bytes before it can be used, none after it */
static uint64_t state = 88172645463325252;

static uint32_t random_below(uint32_t n) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) % n);
}

static void make_page(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (ROOM / page + 1) * page;
    char *map = mmap(NULL, n + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + n, page, PROT_NONE)) abort();
    page_end = map + n;
}

static const char *at_page_end(const char *text, size_t n) { return memcpy(page_end - n, text, n); }

/* The whole text is one number, the one that strtof makes of it. */
static int reads_as_strtof(const char *text) {
    size_t n = strlen(text);
    float value = 0, expected = strtof(text, NULL);
    int same = lp_text_read_f32(&value, at_page_end(text, n), n) == n &&
               (isnan(expected) ? isnan(value) : lp_f32_bits(value) == lp_f32_bits(expected));
    if (!same) fprintf(stderr, "\"%.60s\": %a, not %a\n", text, value, expected);
    return same;
}

static size_t bytes_of_number(const char *text) {
    float value;
    return lp_text_read_f32(&value, at_page_end(text, strlen(text)), strlen(text));
}

/* Words are separated by one space; 0 at the end. */
static int next_word(char *word, const char **p) {
    size_t n = strcspn(*p, " ");
    memcpy(word, *p, n);
    word[n] = 0;
    *p += n + ((*p)[n] == ' ');
    return n > 0;
}

static void test_spellings(void) {
    static const char numbers[] =
        "0 -0 0.0 -0.0e5 1 +1 -1.5 .5 -.5 5. 1e5 1E5 1e+05 1e-05 1.e3 .1e1 00001 000.100 "
        "1e00000000000000000000005 1e-0 123456789 16777217 16777219 33554434.5 nan NaN NAN -nan +NaN "
        "nan(ind) nan(0x7ff) nan() inf Inf INF -inf +Inf infinity Infinity -INFINITY 3.4028235e38 "
        "3.4028235677973366e38 3.40282356779733661637e38 3.4028235677973367e38 1e38 1e39 -1e39 1e400 "
        "1e99999999999999999999 1e-400 0e99999999999999 -1e-99999999999999999999 1e-45 7e-46 "
        "7.006492321624085e-46 7.0064923216240853e-46 7.0064923216240854e-46 7.0064923216240862e-46 "
        "1.1754943508222875e-38 1.1754942807573643e-38 1.17549431578984e-38 "
        "0.000000000000000000000000000000000000000000000000000000000000000000001e69 "
        "100000000000000000000000000000000000000000000000000000000000000e-62 1.00000005960464477539062 "
        "1.00000005960464477539062500000 1.000000059604644775390625000000000000000000000000000000001 "
        "0.9999999701976776123046875 8388608.5 8388609.5 9007199791611905 18446744073709551615 "
        "18446744073709551616 99999999999999999999 12345678901234567890123456789 1.2345679 "
        "0.30000001192092896";
    char word[128];
    for (const char *p = numbers; next_word(word, &p);) CHECK(reads_as_strtof(word));

    static const char others[] =
        "- + . -. e5 .e5 --1 +-1 \n \t1 n na in i NA x '1' \"1\" # , _1 \xe2\x88\x92\x31 \xef\xbb\xbf\x31";
    for (const char *p = others; next_word(word, &p);) CHECK(bytes_of_number(word) == 0);
    CHECK(bytes_of_number("") == 0 && bytes_of_number(" 1") == 0);

    /* where a number ends before the text does */
    static const char ones[] = "1e 1e+ 1ex 1_000 0x10 1,5 1-1 1d5 1\r",
                      threes[] = "1.5.5 infinit info nan( nan(-) nano 1.0f";
    for (const char *p = ones; next_word(word, &p);) CHECK(bytes_of_number(word) == 1);
    for (const char *p = threes; next_word(word, &p);) CHECK(bytes_of_number(word) == 3);
}

static void test_random_decimals(void) {
    uint32_t n_wrong = 0;
    for (int i = 0; i < 1000000; i++) {
        char text[128], *p = text;
        if (random_below(2)) *p++ = random_below(4) ? '-' : '+';
        uint32_t before = random_below(4) ? random_below(3) : random_below(30);
        uint32_t behind = random_below(4) ? random_below(12) : random_below(40);
        for (uint32_t j = 0; j < before || j == 0; j++) *p++ = (char)('0' + random_below(10));
        if (behind) *p++ = '.';
        for (uint32_t j = 0; j < behind; j++) *p++ = (char)('0' + (random_below(8) ? random_below(10) : 0));
        *p = 0;
        if (random_below(3)) sprintf(p, "%c%d", random_below(2) ? 'e' : 'E', (int)random_below(110) - 60);
        n_wrong += !reads_as_strtof(text);
    }
    CHECK(n_wrong == 0);
}

/* The middle between two neighbours, exactly, a hair above it and a hair below it. A double holds it. */
static void test_middles(void) {
    uint32_t n_wrong = 0;
    for (uint32_t i = 0; i < 60000; i++) {
        uint32_t bits = i < 512 ? (i / 2 << 23) - (i & 1) : random_below(0x7f800000);
        if (bits >= 0x7f7fffff) continue;
        double middle = ((double)lp_f32_from_bits(bits) + (double)lp_f32_from_bits(bits + 1)) / 2;
        char text[512];
        static const int spellings[] = {149, 17, 18, 19, 120, 300};
        int n = snprintf(text, sizeof text, i % 3 ? "%.*e" : "%.*f", spellings[i % 6], middle);
        n_wrong += !reads_as_strtof(text);
        char *last = strchr(text, 'e');
        last = (last ? last : text + n) - 1;
        if (*last < '9') { /* a digit in the last place, far behind the others */
            ++*last;
            n_wrong += !reads_as_strtof(text);
            --*last;
        }
        while (last > text && *last == '0') *last-- = '9'; /* and below it */
        if (*last > '0' && *last <= '9') {
            --*last;
            n_wrong += !reads_as_strtof(text);
        }
    }
    CHECK(n_wrong == 0);
}

static void test_long_numbers(void) {
    static char text[ROOM];
    for (int behind = 0; behind < 2; behind++) { /* 60,000 zeros on either side of the point, and an exponent */
        memset(text, '0', ROOM);
        text[0] = '1', text[behind ? 1 : 60000] = '.';
        strcpy(text + 60001, behind ? "1e1" : "1e-60000");
        CHECK(reads_as_strtof(text));
    }
    memset(text, '0', ROOM);
    text[1] = '.';
    strcpy(text + 60000, "5e59999");
    CHECK(reads_as_strtof(text));
    /* the middle above 1, and then something after 60,000 zeros */
    memset(text, '0', ROOM);
    memcpy(text, "1.000000059604644775390625", 26);
    text[60000] = 0;
    CHECK(reads_as_strtof(text));
    text[60000] = '1', text[60001] = 0;
    CHECK(reads_as_strtof(text));
}

static void test_written_rows(void) {
    float values[40 * 25], back[40 * 25];
    char *text = malloc(40 * 25 * (LP_NUMBER_BYTES + 1) + 40);
    if (!text) abort();
    lp_text_fault fault;
    for (int digits = LP_SHORTEST; digits <= LP_MAX_DIGITS; digits = digits < 0 ? 8 : digits + 1) {
        for (uint32_t i = 0; i < 40 * 25; i++)
            values[i] = lp_f32_from_bits(random_below(0x7f800001) | random_below(2) << 31);
        for (int blank = 0; blank < 2; blank++) {
            char sep = blank ? ' ' : ',';
            size_t n = lp_text_rows_f32(text, values, 40, 25, sep, digits);
            const char *p = at_page_end(text, n);
            CHECK(lp_text_count_rows(p, n) == 40 && lp_text_count_cols(p, n, sep) == 25);
            CHECK(lp_text_read_rows(back, p, n, 40, 25, sep, &fault) == 40 && fault.problem == LP_TEXT_WHOLE);
            CHECK(memcmp(values, back, sizeof back) == 0);
        }
    }
    free(text);
}

/* What is read of a text of 1, 2, 3, ... in rows of n_cols. */
static int reads_rows(const char *text, char sep, size_t n_rows, size_t n_cols) {
    float values[64];
    lp_text_fault fault;
    size_t n = strlen(text);
    const char *p = at_page_end(text, n);
    int right = lp_text_count_rows(p, n) == n_rows && lp_text_count_cols(p, n, sep) == n_cols;
    if (n_cols) right = right && lp_text_read_rows(values, p, n, n_rows, n_cols, sep, &fault) == n_rows;
    for (size_t i = 0; right && i < n_rows * n_cols; i++) right = values[i] == (float)(i + 1);
    if (right && n_cols) right = fault.problem == LP_TEXT_WHOLE;
    if (!right) fprintf(stderr, "rows of \"%s\"\n", text);
    return right;
}

static void test_layouts(void) {
    CHECK(reads_rows("", ',', 0, 0));
    CHECK(reads_rows("\n\r\n \t \n# 1,2\n  # 3", ',', 0, 0));
    CHECK(reads_rows("1", ',', 1, 1) && reads_rows("1\n", ' ', 1, 1) && reads_rows("1\r\n2\r\n", ',', 2, 1));
    CHECK(reads_rows("1,2\n3,4\n", ',', 2, 2) && reads_rows("1,2\r\n3,4", ',', 2, 2));
    CHECK(reads_rows(" 1 ,\t2 \n\n#x\n3, 4\t\n \n", ',', 2, 2) && reads_rows("1,2\r", ',', 1, 2));
    CHECK(reads_rows("1 2\n3 4\n", ' ', 2, 2) && reads_rows("\t1\t 2  \r\n  3 4 \r\n", ' ', 2, 2));
    CHECK(reads_rows("1\t2\n3\t 4 \n", '\t', 2, 2) && reads_rows("1;2;3\n", ';', 1, 3));
    CHECK(reads_rows("1\t2\n\t\n3\t4\n \n", '\t', 2, 2));
    CHECK(reads_rows("1e0 2E+0 .3e1", ' ', 1, 3));
}

/* Where the fault of a text lies when n_rows rows of two numbers are read. */
static int faults(const char *text, char sep, lp_text_problem problem, size_t line, size_t column, const char *field,
                  size_t n_found) {
    float values[64];
    lp_text_fault fault;
    size_t n = strlen(text);
    lp_text_read_rows(values, at_page_end(text, n), n, 2, 2, sep, &fault);
    int right = fault.problem == problem && fault.line == line && fault.column == column && fault.n_found == n_found &&
                fault.n_bytes == strlen(field) && memcmp(text + fault.offset, field, fault.n_bytes) == 0;
    if (!right) fprintf(stderr, "\"%s\": %d at %zu:%zu\n", text, (int)fault.problem, fault.line, fault.column);
    return right;
}

static void test_faults(void) {
    CHECK(faults("1,x\n", ',', LP_TEXT_NO_NUMBER, 1, 3, "x", 1));
    CHECK(faults("1,2\n3,4.5.6\n", ',', LP_TEXT_NO_NUMBER, 2, 3, "4.5.6", 1));
    CHECK(faults("1,2\r\n\n# x\n  3, abc def \r\n", ',', LP_TEXT_NO_NUMBER, 4, 6, "abc def", 1));
    CHECK(faults("1,,2\n", ',', LP_TEXT_NO_NUMBER, 1, 3, "", 1));
    CHECK(faults(",1\n", ',', LP_TEXT_NO_NUMBER, 1, 1, "", 0));
    CHECK(faults("1,\n", ',', LP_TEXT_NO_NUMBER, 1, 3, "", 1));
    CHECK(faults("1,\t", ',', LP_TEXT_NO_NUMBER, 1, 4, "", 1));
    CHECK(faults("1 2\n", ',', LP_TEXT_NO_NUMBER, 1, 1, "1 2", 0));
    CHECK(faults("1,2 x\n", ',', LP_TEXT_NO_NUMBER, 1, 3, "2 x", 1));
    CHECK(faults("1,2\r3,4\n", ',', LP_TEXT_NO_NUMBER, 1, 3, "2\r3", 1));
    CHECK(faults("1\t2\n", '\t', LP_TEXT_WHOLE, 0, 0, "", 0));
    CHECK(faults("1\t\t2\n", '\t', LP_TEXT_NO_NUMBER, 1, 3, "", 1));
    CHECK(faults("1 2x\n", ' ', LP_TEXT_NO_NUMBER, 1, 3, "2x", 1));
    CHECK(faults("1,2\n", ' ', LP_TEXT_NO_NUMBER, 1, 1, "1,2", 0));
    CHECK(faults("1,2\n3\n", ',', LP_TEXT_FEW, 2, 2, "", 1));
    CHECK(faults("1,2\n3  ", ',', LP_TEXT_FEW, 2, 4, "", 1));
    CHECK(faults("1 2\n3 \r\n", ' ', LP_TEXT_FEW, 2, 3, "", 1));
    CHECK(faults("1,2,3\n", ',', LP_TEXT_MANY, 1, 5, "3", 2));
    CHECK(faults("1,2,\n", ',', LP_TEXT_MANY, 1, 5, "", 2));
    CHECK(faults("1 2 x\n", ' ', LP_TEXT_MANY, 1, 5, "x", 2));
    CHECK(faults("1,2\n3,4\n\n 5,6\n", ',', LP_TEXT_EXTRA_ROW, 4, 2, "5", 0));
    CHECK(faults("1,2\n3,4\n \n# 5\n", ',', LP_TEXT_WHOLE, 0, 0, "", 0));
    CHECK(faults("1,2", ',', LP_TEXT_WHOLE, 0, 0, "", 0)); /* a row less is for the caller to judge */
    CHECK(faults("0x1p3,2", ',', LP_TEXT_NO_NUMBER, 1, 1, "0x1p3", 0));
    CHECK(faults("\"1\",2", ',', LP_TEXT_NO_NUMBER, 1, 1, "\"1\"", 0));
    CHECK(faults("1,2 , 3\n", ',', LP_TEXT_MANY, 1, 7, "3", 2));
    static const char nul[] = "1,2\n3\0004";
    float values[8];
    lp_text_fault fault;
    CHECK(lp_text_read_rows(values, "\n1", 2, 1, 0, ',', &fault) == 0 && fault.problem == LP_TEXT_EXTRA_ROW);
    CHECK(lp_text_read_rows(values, nul, sizeof nul - 1, 2, 2, ',', &fault) == 1 && fault.column == 1 &&
          fault.line == 2);
}

/* Each beginning of a text, with nothing readable behind it. */
static void test_every_end(void) {
    static const char text[] =
        "-1.2345678e-05,0.123456789012345678,NaN(x),-infinity\r\n# c\n 12345678.87654321e+1 ,5\n";
    float values[64];
    lp_text_fault fault;
    for (size_t n = 0; n < sizeof text; n++) {
        for (size_t n_cols = 1; n_cols < 6; n_cols++) {
            const char *p = at_page_end(text, n);
            size_t n_rows = lp_text_count_rows(p, n);
            CHECK(lp_text_count_cols(p, n, ',') <= 4 && n_rows <= 2);
            CHECK(lp_text_read_rows(values, p, n, n_rows, n_cols, ',', &fault) <= n_rows);
            CHECK(fault.offset + fault.n_bytes <= n);
        }
    }
}

static void test_surroundings(void) {
    static const int modes[] = {FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    float value = 0;
    int usual = fegetround();
    for (size_t i = 0; i < 3; i++) {
        if (fesetround(modes[i])) continue;
        int right = lp_text_read_f32(&value, "0.3", 3) == 3 && lp_f32_bits(value) == 0x3e99999a;
        right = right && lp_text_read_f32(&value, "-0.7", 4) == 4 && lp_f32_bits(value) == 0xbf333333;
        fesetround(usual);
        CHECK(right);
    }
    if (setlocale(LC_ALL, "de_DE.UTF-8"))
        CHECK(lp_text_read_f32(&value, "1.5", 3) == 3 && value == 1.5f && lp_text_read_f32(&value, "1,5", 3) == 1);
    setlocale(LC_ALL, "C");
}

int main(void) {
    make_page();
    test_spellings();
    test_random_decimals();
    test_middles();
    test_long_numbers();
    test_written_rows();
    test_layouts();
    test_faults();
    test_every_end();
    test_surroundings();
    return CHECK_REPORT();
}
