/* test_json.c - the cursor accepts only JSON, reads no byte past its end, and reports where it stopped.
 *
 * Every text is first copied into a block of its own exact size, so that the address sanitizer sees a step too far. */
#include "../../csrc/io/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static lp_error err;

/* Does the whole text hold exactly one value? */
static int is_json(const void *text, size_t n) {
    unsigned char *bytes = malloc(n ? n : 1);
    memcpy(bytes, text, n);
    lp_json json;
    lp_json_init(&json, "text", bytes, n, &err);
    err = (lp_error){0};
    int good = lp_json_skip(&json) == 0 && lp_json_end(&json) == 0;
    if (!good && (err.status != LP_EFORMAT || !err.msg[0])) good = -1; /* a failure must say why */
    free(bytes);
    return good;
}

/* The text between quotes as one string: 0 and its bytes, or -1. */
static int read_string(char *dst, lp_json_text *text, const char *body, size_t n) {
    unsigned char *bytes = malloc(n + 2);
    bytes[0] = bytes[n + 1] = '"';
    memcpy(bytes + 1, body, n);
    lp_json json;
    lp_json_init(&json, "text", bytes, n + 2, &err);
    int status = lp_json_string(&json, text) || lp_json_end(&json) ? -1 : 0;
    if (status == 0) lp_json_copy(dst, text);
    free(bytes);
    return status;
}

/* ---------------------------------------------------------------- whole texts */

static void test_good_texts(void) {
    // clang-format off
    static const char *const good[] = {
        "{}", "[]", "\"\"", "0", "-0", "1", "-1", "10", "0.0", "1.5", "0e0", "1E5", "1e+5", "1e-5", "1.25e-0",
        "true", "false", "null", " \t\r\n{ \n} \t", "[[],{}]", "{\"a\":1,\"b\":[1,2,{\"c\":null}]}",
        "{\"a\":1,\"a\":2}", "[ 1 , 2 ]", "{ \"a\" : [ ] , \"b\" : { } }",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\uD83D\\uDE00\"", "\"\x7f\"",
        "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"", "{\"\":\"\"}", "123456789012345678901234567890",
        "1.7976931348623157e308", "-1.7976931348623157e308", "17976931348623157e292", "0.00017976931348623157e312",
        "1e308", "1e-400", "1e-99999999999999999999999999", "0e99999999999999999999999999", "0.000e400",
        "-0.0E+400", "0.000000000000000001e325", "1000000000000e296",
    };
    // clang-format on
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int result = is_json(good[i], strlen(good[i]));
        if (result != 1) printf("refused: %s (%s)\n", good[i], err.msg);
        CHECK(result == 1);
    }
}

static void test_bad_texts(void) {
    // clang-format off
    static const char *const bad[] = {
        "", " ", "{", "}", "[", "]", "[}", "{]", ",", ":", "[,]", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1:2]", "{,}",
        "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1 \"b\":2}", "{\"a\":1,,\"b\":2}", "{\"a\",1}", "{\"a\"::1}",
        "{1:2}", "{a:1}", "{'a':1}", "{null:1}", "{[]:1}", "{\"a\":1]", "[1}", "[1]]", "{}{}", "{} x", "1 2",
        "[1],", "tru", "truE", "True", "nul", "nulll", "fals", "f", "t", "n", "NaN", "nan", "Infinity", "-Infinity",
        "undefined", "+1", "-", "--1", "-a", ".5", "1.", "-.5", "01", "-01", "00", "1e", "1e+", "1E-", "1.e5",
        "1.5.5", "1e5.5", "0x10", "1_000", "1e1e1", "1a", "1e400", "-1e400", "1.8e308", "2e308", "10e308",
        "1797693134862315807938e287", "1e99999999999999999999999999", "0.0001e313", "\"", "\"a", "\"\\", "\"\\\"",
        "\"\\x41\"", "\"\\u\"", "\"\\u12\"", "\"\\u123g\"", "\"\\U1234\"", "\"\\a\"", "\"\\0\"", "\"\\ud800\"",
        "\"\\udfff\"", "\"\\ud800\\ud800\"", "\"\\udc00\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"", "\"\\ud83d\\ude0\"", "\"a\nb\"", "\"a\tb\"", "\"\x1f\"", "'a'", "/* c */1", "1 // c",
        "# c", "[1]\f", "\v1", "\xC2\xA0[]", "\xEF\xBB\xBF{}", "\xFF\xFE{", "\"\x80\"", "\"\xC3\"", "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xFF\"",
    };
    // clang-format on
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int result = is_json(bad[i], strlen(bad[i]));
        if (result != 0) printf("not refused: %s\n", bad[i]);
        CHECK(result == 0);
    }
    CHECK(is_json("{}\0", 3) == 0);
    CHECK(is_json("{\0}", 3) == 0);
    CHECK(is_json("\"a\0b\"", 5) == 0);
    CHECK(is_json("\"\\\0\"", 4) == 0);
    CHECK(is_json("[\0\0]", 4) == 0);
    CHECK(is_json("1\0", 2) == 0);
    CHECK(is_json("{\0\"\0a\0", 6) == 0); /* UTF-16 */
}

/* What is cut off anywhere is not JSON any more, and cutting never makes the cursor look further. */
static void test_every_prefix(void) {
    static const char text[] =
        "{\"k\\u00e9y\\ud83d\\ude00\":[1,-2.5e+10,{\"\xE2\x82\xAC\":null},true,\"\\n\xF0\x9F\x98\x80\"]}";
    CHECK(is_json(text, sizeof text - 1) == 1);
    for (size_t n = 0; n < sizeof text - 1; n++) CHECK(is_json(text, n) == 0);
}

/* Every byte put in every place: never a crash, and a failure always says why. */
static void test_every_byte_everywhere(void) {
    static const char text[] = "{\"a\\u0041\xC3\xA9\":[-1.5e3,null]}";
    int silent = 0, accepted = 0;
    for (size_t at = 0; at < sizeof text - 1; at++) {
        char changed[sizeof text];
        memcpy(changed, text, sizeof text);
        for (int byte = 0; byte < 256; byte++) {
            changed[at] = (char)byte;
            int result = is_json(changed, sizeof text - 1);
            silent += result < 0;
            accepted += result == 1;
        }
    }
    CHECK(silent == 0);
    CHECK(accepted > (int)sizeof text); /* the text itself, once per place, and its likes */
}

static void test_depth(void) {
    static char deep[300001];
    for (int kind = 0; kind < 2; kind++) {
        const char *open = kind ? "{\"a\":" : "[", *close = kind ? "}" : "]";
        for (size_t depth = 1; depth < 200; depth++) {
            deep[0] = 0;
            for (size_t i = 0; i < depth; i++) strcat(deep, open);
            strcat(deep, "1");
            for (size_t i = 0; i < depth; i++) strcat(deep, close);
            CHECK(is_json(deep, strlen(deep)) == (depth <= LP_JSON_MAX_DEPTH));
        }
    }
    memset(deep, '[', 300000);
    CHECK(is_json(deep, 300000) == 0);
    CHECK(strstr(err.msg, "deep") != NULL);
    for (size_t i = 0; i < 300000; i += 6) memcpy(deep + i, "[{\"\":0", 6);
    CHECK(is_json(deep, 300000) == 0);
}

/* Depth is what is open now, not what was ever open. */
static void test_many_shallow_containers(void) {
    static char wide[4010] = "[";
    for (size_t i = 0; i < 1000; i++) strcat(wide + 4 * i, i ? ",[ ]" : "[  ]");
    strcat(wide, "]");
    CHECK(is_json(wide, strlen(wide)) == 1);
}

/* ---------------------------------------------------------------- characters */

/* The bytes of a code point, written here again from the definition of UTF-8. */
static size_t encode(char *out, unsigned c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63)),
               3;
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

static int is_surrogate(unsigned c) { return c >= 0xD800 && c <= 0xDFFF; }

/* All code points, raw and escaped: accepted exactly when they are characters, and read as what they are. */
static void test_every_code_point(void) {
    unsigned wrong = 0;
    for (unsigned c = 0; c < 0x110400; c++) {
        char raw[8], escaped[16], got[64];
        lp_json_text text;
        size_t n = encode(raw, c);
        int legal = !is_surrogate(c) && c <= 0x10FFFF;
        int plain = c >= 0x20 && c != '"' && c != '\\'; /* needs no escape */
        int status = read_string(got, &text, raw, n);
        if ((status == 0) != (legal && plain)) wrong++;
        if (status == 0 && (text.len != n || text.n_raw != n || memcmp(got, raw, n) || got[n] || text.has_nul)) wrong++;
        if (c > 0x10FFFF) continue;
        if (c < 0x10000)
            sprintf(escaped, c % 2 ? "\\u%04x" : "\\u%04X", c);
        else
            sprintf(escaped, "\\u%04x\\u%04X", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + (c & 0x3FF));
        status = read_string(got, &text, escaped, strlen(escaped));
        if ((status == 0) != legal) wrong++;
        if (status == 0 && (text.len != n || memcmp(got, raw, n) || got[n] || text.has_nul != (c == 0))) wrong++;
    }
    CHECK(wrong == 0);
}

/* All sequences of two and three bytes: accepted exactly when they are what encode() gives for some characters. */
static void test_every_byte_sequence(void) {
    static unsigned char is_encoding[1 << 24]; /* of one character, or of several, without quote and backslash */
    static unsigned char one[1 << 8], two[1 << 16];
    for (unsigned c = 0x20; c < 0x10000; c++) {
        char raw[4];
        if (is_surrogate(c) || c == '"' || c == '\\') continue;
        size_t n = encode(raw, c);
        const unsigned char *p = (const unsigned char *)raw;
        if (n == 1) one[p[0]] = 1;
        if (n == 2) two[p[0] << 8 | p[1]] = 1;
        if (n == 3) is_encoding[p[0] << 16 | p[1] << 8 | p[2]] = 1;
    }
    unsigned wrong = 0;
    for (unsigned i = 0; i < 1 << 16; i++) {
        char raw[2] = {(char)(i >> 8), (char)i}, got[16];
        lp_json_text text;
        int good = two[i] || (one[i >> 8] && one[i & 255]);
        int escape = raw[0] == '\\' && raw[1] && strchr("\"\\/bfnrt", raw[1]);
        if ((read_string(got, &text, raw, 2) == 0) != (good || escape)) wrong++;
    }
    static const unsigned leads[] = {0x80, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF4, 0xFF};
    for (unsigned k = 0; k < (sizeof leads / sizeof *leads) << 16; k++) {
        unsigned i = leads[k >> 16] << 16 | (k & 0xFFFF);
        char raw[3] = {(char)(i >> 16), (char)(i >> 8), (char)i}, got[16];
        lp_json_text text;
        int good = is_encoding[i] || (two[i >> 8] && one[i & 255]);
        if ((read_string(got, &text, raw, 3) == 0) != good) wrong++;
    }
    CHECK(wrong == 0);
}

static void test_every_surrogate_pair_of_kinds(void) {
    static const unsigned units[] = {0x0041, 0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000, 0xFFFF};
    for (size_t i = 0; i < 8; i++)
        for (size_t k = 0; k < 8; k++) {
            char body[16], got[64];
            lp_json_text text;
            sprintf(body, "\\u%04x\\u%04x", units[i], units[k]);
            int pair = (units[i] & 0xFC00) == 0xD800 && (units[k] & 0xFC00) == 0xDC00;
            int alone = !is_surrogate(units[i]) && !is_surrogate(units[k]);
            CHECK((read_string(got, &text, body, 12) == 0) == (pair || alone));
        }
}

static void test_texts_are_compared_without_their_escapes(void) {
    static const char *const same[] = {"a/\xC3\xA9\xF0\x9F\x98\x80\n", "\\u0061/\xC3\xA9\xF0\x9F\x98\x80\\n",
                                       "\\u0061\\/\\u00e9\\ud83d\\ude00\\u000a", "a\\u002F\\u00E9\\uD83D\\uDE00\\n"};
    static const char *const other[] = {"",
                                        "a",
                                        "b/\xC3\xA9\xF0\x9F\x98\x80\\n",
                                        "a/\xC3\xA9\xF0\x9F\x98\x81\\n",
                                        "a/\xC3\xA9\xF0\x9F\x98\x80\\t",
                                        "a/\xC3\xA9\xF0\x9F\x98\x80",
                                        "\\u0061"};
    for (size_t i = 1; i < 4; i++) {
        char doc[200];
        lp_json json;
        lp_json_text a, b;
        for (size_t k = 0; k < 7 + 3; k++) {
            const char *second = k < 7 ? other[k] : same[k - 6];
            sprintf(doc, "[\"%s\",\"%s\"]", same[i], second);
            lp_json_init(&json, "text", (unsigned char *)doc, strlen(doc), NULL);
            CHECK(lp_json_enter(&json, '[') == 0);
            CHECK(lp_json_next_item(&json) == 1 && lp_json_string(&json, &a) == 0);
            CHECK(lp_json_next_item(&json) == 1 && lp_json_string(&json, &b) == 0);
            CHECK(lp_json_next_item(&json) == 0 && lp_json_end(&json) == 0);
            CHECK(lp_json_same(&a, &b) == (k >= 7) && lp_json_same(&b, &a) == (k >= 7));
            CHECK(lp_json_is(&a, same[0]) == 1);
            CHECK(lp_json_is(&b, same[0]) == (k >= 7));
        }
        CHECK(!lp_json_is(&a, "a") && !lp_json_is(&a, ""));
    }
}

/* ---------------------------------------------------------------- numbers */

static int read_uint(const char *text, uint64_t *value) {
    lp_json json;
    size_t n = strlen(text);
    unsigned char *bytes = malloc(n ? n : 1);
    memcpy(bytes, text, n);
    lp_json_init(&json, "text", bytes, n, &err);
    int status = lp_json_uint(&json, value) || lp_json_end(&json) ? -1 : 0;
    free(bytes);
    return status;
}

static void test_whole_numbers(void) {
    // clang-format off
    static const char *const bad[] = {
        "", "-1", "-0", "1.0", "1.5", "1e0", "1E0", "0.0", "0e0", "01", "00", "true", "null", "\"1\"", "[1]",
        "+1", ".1", "a", "9223372036854775808", "9223372036854775817", "18446744073709551614",
        "18446744073709551616", "92233720368547758070", "99999999999999999999999999999999",
    };
    // clang-format on
    uint64_t value = 0;
    CHECK(read_uint("0", &value) == 0 && value == 0);
    CHECK(read_uint(" 7 ", &value) == 0 && value == 7);
    CHECK(read_uint("10", &value) == 0 && value == 10);
    CHECK(read_uint("9223372036854775807", &value) == 0 && value == INT64_MAX);
    CHECK(read_uint("9223372036854775799", &value) == 0 && value == INT64_MAX - 8);
    CHECK(read_uint("999999999999999999", &value) == 0 && value == 999999999999999999);
    value = 42;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(read_uint(bad[i], &value) == -1);
    CHECK(value == 42); /* not touched by a failure */
    for (int shift = 0; shift < 63; shift++) {
        char text[32];
        uint64_t expected = (uint64_t)1 << shift;
        for (int step = -1; step <= 1; step++) {
            sprintf(text, "%llu", (unsigned long long)(expected + (uint64_t)step));
            CHECK(read_uint(text, &value) == 0 && value == expected + (uint64_t)step);
        }
    }
}

static void test_long_numbers(void) {
    static char digits[100002];
    uint64_t value;
    memset(digits, '9', 100000);
    CHECK(read_uint(digits, &value) == -1);
    CHECK(strstr(err.msg, "overflow") != NULL);
    CHECK(is_json(digits, 100000) == 0);
    CHECK(is_json(digits, 308) == 1 && is_json(digits, 309) == 0);
    memset(digits, '0', 100000);
    memcpy(digits, "0.", 2);
    strcpy(digits + 99990, "1e100200");
    CHECK(is_json(digits, strlen(digits)) == 1); /* 0.000...01e100200 is about 1e211 */
    strcpy(digits + 99990, "1e100400");
    CHECK(is_json(digits, strlen(digits)) == 0);
}

/* Decimal numbers close to the largest float64: accepted exactly when strtod stays finite. */
static void test_the_largest_numbers(void) {
    for (unsigned long long tail = 0; tail < 100; tail++)
        for (int exponent = 306; exponent <= 309; exponent++) {
            char text[64];
            sprintf(text, "1.797693134862315%02llue%d", tail, exponent);
            CHECK(is_json(text, strlen(text)) == (strtod(text, NULL) <= 1.7976931348623157e308));
            sprintf(text, "0.001797693134862315%02lluE+%d", tail, exponent + 3);
            CHECK(is_json(text, strlen(text)) == (strtod(text, NULL) <= 1.7976931348623157e308));
        }
}

/* ---------------------------------------------------------------- walking */

static void test_walk(void) {
    static const char text[] = " {\"a\" : [1, 2,[3]], \"b\":{}, \"c\":[ ] ,\"d\":{\"e\":[{}]}} ";
    lp_json json;
    lp_json_text key;
    uint64_t value = 0;
    lp_json_init(&json, "text", (const unsigned char *)text, sizeof text - 1, &err);
    CHECK(lp_json_peek(&json) == '{' && lp_json_enter(&json, '{') == 0 && json.depth == 1);
    CHECK(lp_json_next_key(&json, &key) == 1 && lp_json_is(&key, "a"));
    CHECK(lp_json_peek(&json) == '[' && lp_json_enter(&json, '[') == 0);
    CHECK(lp_json_next_item(&json) == 1 && lp_json_uint(&json, &value) == 0 && value == 1);
    CHECK(lp_json_next_item(&json) == 1 && lp_json_uint(&json, &value) == 0 && value == 2);
    CHECK(lp_json_next_item(&json) == 1 && lp_json_enter(&json, '[') == 0 && json.depth == 3);
    CHECK(lp_json_next_item(&json) == 1 && lp_json_uint(&json, &value) == 0 && value == 3);
    CHECK(lp_json_next_item(&json) == 0 && lp_json_next_item(&json) == 0 && json.depth == 1);
    CHECK(lp_json_next_key(&json, &key) == 1 && lp_json_is(&key, "b"));
    CHECK(lp_json_enter(&json, '{') == 0 && lp_json_next_key(&json, &key) == 0);
    CHECK(lp_json_next_key(&json, &key) == 1 && lp_json_is(&key, "c"));
    CHECK(lp_json_enter(&json, '[') == 0 && lp_json_next_item(&json) == 0);
    CHECK(lp_json_next_key(&json, &key) == 1 && lp_json_is(&key, "d") && lp_json_skip(&json) == 0);
    CHECK(lp_json_next_key(&json, &key) == 0 && json.depth == 0);
    CHECK(lp_json_peek(&json) == -1 && lp_json_end(&json) == 0);
}

/* skip inside a container takes one value of it and leaves the rest. */
static void test_skip_takes_one_value(void) {
    static const char text[] = "[[1,[2,{\"a\":[]}]],{\"b\":{\"c\":3}},\"]\",-4.5,true,6]";
    lp_json json;
    uint64_t value = 0;
    lp_json_init(&json, "text", (const unsigned char *)text, sizeof text - 1, &err);
    CHECK(lp_json_enter(&json, '[') == 0);
    for (int i = 0; i < 5; i++) CHECK(lp_json_next_item(&json) == 1 && lp_json_skip(&json) == 0 && json.depth == 1);
    CHECK(lp_json_next_item(&json) == 1 && lp_json_uint(&json, &value) == 0 && value == 6);
    CHECK(lp_json_next_item(&json) == 0 && lp_json_end(&json) == 0);
}

static void test_depth_counts_from_the_outside(void) {
    static char text[2 * LP_JSON_MAX_DEPTH + 3];
    lp_json json;
    memset(text, '[', LP_JSON_MAX_DEPTH);
    memset(text + LP_JSON_MAX_DEPTH, ']', LP_JSON_MAX_DEPTH);
    lp_json_init(&json, "text", (unsigned char *)text, 2 * LP_JSON_MAX_DEPTH, &err);
    CHECK(lp_json_enter(&json, '[') == 0 && lp_json_next_item(&json) == 1 && lp_json_skip(&json) == 0);
    memset(text, '[', LP_JSON_MAX_DEPTH + 1);
    memset(text + LP_JSON_MAX_DEPTH + 1, ']', LP_JSON_MAX_DEPTH + 1);
    lp_json_init(&json, "text", (unsigned char *)text, 2 * LP_JSON_MAX_DEPTH + 2, &err);
    CHECK(lp_json_enter(&json, '[') == 0 && lp_json_next_item(&json) == 1 && lp_json_skip(&json) == -1);
}

static void test_messages(void) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"a\" 1}", "m byte 5: expected ':', found 1"},
        {"[1;2]", "m byte 2: expected ',' or ']', found ;"},
        {"{\"a\":1", "m byte 6: expected ',' or '}', found the end"},
        {"", "m byte 0: expected a value, found the end"},
        {"[\"\n\"]", "m byte 2: control character in a string, found \\x0a"},
        {"[\xFF]", "m byte 1: not UTF-8, found \\xff"},
        {"[\xC3\xA9]", "m byte 1: expected a value, found \\xc3"},
        {"[\"\xE2\x82\"]", "m byte 2: not UTF-8, found \\xe2"},
        {"\xEF\xBB\xBF{}", "m byte 0: a byte order mark, found \\xef"},
        {"[\"\\ud800\"]", "m byte 2: bad escape or lone surrogate, found \\"},
        {"[\"abc", "m byte 5: unterminated string, found the end"},
        {"{} {}", "m byte 3: expected nothing more, found {"},
        {"[1e999]", "m byte 1: a number too large for float64, found 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_json json;
        lp_json_init(&json, "m", (const unsigned char *)cases[i].text, strlen(cases[i].text), &err);
        CHECK(lp_json_skip(&json) || lp_json_end(&json));
        if (strcmp(err.msg, cases[i].message)) printf("said: %s\n", err.msg);
        CHECK(strcmp(err.msg, cases[i].message) == 0);
    }
    lp_json json;
    lp_json_text key;
    lp_json_init(&json, "m", (const unsigned char *)"{\"k\\n\":-1}", 10, &err);
    CHECK(lp_json_enter(&json, '{') == 0 && lp_json_next_key(&json, &key) == 1);
    json.within = &key;
    uint64_t value;
    CHECK(lp_json_uint(&json, &value) == -1);
    CHECK(strcmp(err.msg, "m byte 7, in \"k\\n\": expected a whole number >= 0, found -") == 0);
    lp_json_init(&json, "m", NULL, 0, NULL); /* no bytes, no lp_error */
    CHECK(lp_json_enter(&json, '[') == -1 && lp_json_skip(&json) == -1 && lp_json_end(&json) == 0);
}

int main(void) {
    test_good_texts();
    test_bad_texts();
    test_every_prefix();
    test_every_byte_everywhere();
    test_depth();
    test_many_shallow_containers();
    test_every_code_point();
    test_every_byte_sequence();
    test_every_surrogate_pair_of_kinds();
    test_texts_are_compared_without_their_escapes();
    test_whole_numbers();
    test_long_numbers();
    test_the_largest_numbers();
    test_walk();
    test_skip_takes_one_value();
    test_depth_counts_from_the_outside();
    test_messages();
    return CHECK_REPORT();
}
