/* json.c - a strict cursor over JSON bytes; see json.h for what it accepts.
 *
 * A string is checked once, when the cursor passes it; the result is a slice of the caller's bytes and the length
 * without escapes. Escapes are resolved again, one by one, when it is copied or compared. */
#include "json.h"

#include <string.h>

#include "../base/utf8.h" /* lp_utf8_length */

/* ---------------------------------------------------------------- characters */

static size_t utf8_encode(unsigned char out[4], uint32_t c) {
    static const unsigned char lead[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (unsigned char)(0x80 | (c & 0x3F));
    out[0] = (unsigned char)(lead[n] | c);
    return n;
}

/* The value of \uXXXX at p; -1: it is something else. */
static int32_t hex4(const unsigned char *p, size_t left) {
    static const char digits[] = "0123456789abcdefABCDEF";
    if (left < 6 || p[0] != '\\' || p[1] != 'u') return -1;
    int32_t value = 0;
    for (size_t i = 2; i < 6; i++) {
        const char *digit = memchr(digits, p[i], sizeof digits - 1);
        if (!digit) return -1;
        value = value * 16 + (int32_t)(digit - digits) - (digit - digits > 15 ? 6 : 0);
    }
    return value;
}

/* Resolves the escape at p into 1 to 4 bytes of UTF-8. Returns its length in the text, 0 when it is not legal. */
static size_t escape_length(const unsigned char *p, size_t left, unsigned char out[4], size_t *n_out) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (left < 2) return 0;
    const char *letter = p[1] ? strchr(letters, p[1]) : NULL;
    if (letter) {
        out[0] = (unsigned char)meanings[letter - letters];
        *n_out = 1;
        return 2;
    }
    int32_t high = hex4(p, left);
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) return 0;
    if (high < 0xD800 || high > 0xDBFF) {
        *n_out = utf8_encode(out, (uint32_t)high);
        return 6;
    }
    int32_t low = hex4(p + 6, left - 6);
    if (low < 0xDC00 || low > 0xDFFF) return 0;
    *n_out = utf8_encode(out, 0x10000u + (((uint32_t)high & 0x3FF) << 10) + ((uint32_t)low & 0x3FF));
    return 12;
}

/* "source byte 17, in "key": problem, found 'x'" */
static int fail(lp_json *json, const char *problem) {
    char key[80], found[8] = "the end";
    size_t left = json->n_bytes - json->pos;
    const unsigned char *at = left ? json->bytes + json->pos : NULL;
    if (left) lp_show(found, sizeof found, (const char *)at, 1);
    if (left && !lp_utf8_length(at, left)) problem = "not UTF-8";
    if (left > 2 && json->pos == 0 && memcmp(at, "\xEF\xBB\xBF", 3) == 0) problem = "a byte order mark";
    if (json->within) lp_show(key, sizeof key, (const char *)json->within->raw, json->within->n_raw);
    return lp_fail(json->err, LP_EFORMAT, "%s byte %zu%s%s%s: %s, found %s", json->source, json->pos,
                   json->within ? ", in \"" : "", json->within ? key : "", json->within ? "\"" : "", problem, found);
}

/* ---------------------------------------------------------------- moving */

void lp_json_init(lp_json *json, const char *source, const unsigned char *bytes, size_t n_bytes, lp_error *err) {
    *json = (lp_json){.bytes = bytes, .n_bytes = n_bytes, .source = source, .err = err};
}

int lp_json_peek(lp_json *json) {
    while (json->pos < json->n_bytes) {
        unsigned char c = json->bytes[json->pos];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return c;
        json->pos++;
    }
    return -1;
}

int lp_json_enter(lp_json *json, char bracket) {
    if (lp_json_peek(json) != bracket) return fail(json, bracket == '{' ? "expected an object" : "expected an array");
    if (json->depth == LP_JSON_MAX_DEPTH) return fail(json, "nested deeper than 127 levels");
    json->pos++;
    json->depth++;
    json->first = 1;
    return 0;
}

/* Moves over the comma before the next value of a container (1) or its closing bracket (0). */
static int next(lp_json *json, char closing, const char *expected) {
    int c = lp_json_peek(json);
    if (c == closing) {
        json->pos++;
        json->depth--;
        json->first = 0; /* the container was a value of the one around it */
        return 0;
    }
    if (!json->first && c != ',') return fail(json, expected);
    json->pos += !json->first;
    json->first = 0;
    return 1;
}

int lp_json_next_key(lp_json *json, lp_json_text *key) {
    int more = next(json, '}', "expected ',' or '}'");
    if (more <= 0) return more;
    if (lp_json_string(json, key)) return -1;
    if (lp_json_peek(json) != ':') return fail(json, "expected ':'");
    json->pos++;
    return 1;
}

int lp_json_next_item(lp_json *json) { return next(json, ']', "expected ',' or ']'"); }

int lp_json_end(lp_json *json) { return lp_json_peek(json) < 0 ? 0 : fail(json, "expected nothing more"); }

/* ---------------------------------------------------------------- scalars */

int lp_json_string(lp_json *json, lp_json_text *text) {
    if (lp_json_peek(json) != '"') return fail(json, "expected a string");
    size_t start = ++json->pos;
    *text = (lp_json_text){.raw = json->bytes + start};
    for (;;) {
        const unsigned char *p = json->bytes + json->pos;
        size_t left = json->n_bytes - json->pos, n;
        if (left == 0) return fail(json, "unterminated string");
        if (*p == '"') break;
        if (*p < 0x20) return fail(json, "control character in a string");
        if (*p == '\\') {
            unsigned char out[4];
            size_t n_out = 0;
            n = escape_length(p, left, out, &n_out);
            if (!n) return fail(json, "bad escape or lone surrogate");
            if (out[0] == 0) text->has_nul = 1;
            text->len += n_out;
        } else {
            text->len += n = lp_utf8_length(p, left);
            if (!n) return fail(json, "not UTF-8");
        }
        json->pos += n;
    }
    text->n_raw = json->pos++ - start;
    return 0;
}

static int is_digit(const lp_json *json) {
    return json->pos < json->n_bytes && json->bytes[json->pos] >= '0' && json->bytes[json->pos] <= '9';
}

/* Moves over the next byte if it is one of these. */
static int pass(lp_json *json, const char *any_of) {
    int c = json->pos < json->n_bytes ? json->bytes[json->pos] : 0;
    if (!c || !strchr(any_of, c)) return 0;
    json->pos++;
    return 1;
}

int lp_json_uint(lp_json *json, uint64_t *value) {
    lp_json_peek(json);
    if (!is_digit(json)) return fail(json, "expected a whole number >= 0");
    size_t start = json->pos;
    uint64_t v = 0;
    for (; is_digit(json); json->pos++) {
        uint64_t digit = json->bytes[json->pos] - (uint64_t)'0';
        if (json->pos > start && v == 0) return fail(json, "not a JSON number");
        if (v > (INT64_MAX - digit) / 10) return fail(json, "integer overflow, the limit is 2^63 - 1");
        v = v * 10 + digit;
    }
    if (pass(json, ".eE")) return fail(json, "expected a whole number");
    *value = v;
    return 0;
}

static size_t pass_digits(lp_json *json) {
    size_t n = 0;
    for (; is_digit(json); json->pos++) n++;
    return n;
}

/* Whether an unsigned number is below those that round to infinity as float64. */
static int fits_float64(const unsigned char *s, size_t n) {
    static const char limit[] = "179769313486231580793"; /* the first of the 309 digits of 2^1024 - 2^970 */
    char digits[] = "000000000000000000000";
    size_t i = 0, n_digits = 0;
    int64_t scale = 0, exponent = 0, fraction = 0; /* the number is 0.digits * 10^(scale + exponent) */
    for (; i < n && s[i] != 'e' && s[i] != 'E'; i++) {
        if (s[i] == '.') {
            fraction = 1;
        } else if (n_digits == 0 && s[i] == '0') {
            scale -= fraction;
        } else {
            if (n_digits < sizeof digits - 1) digits[n_digits] = (char)s[i];
            n_digits++;
            scale += !fraction;
        }
    }
    int negative = i + 1 < n && s[i + 1] == '-';
    for (; i < n; i++)
        if (s[i] >= '0' && s[i] <= '9' && exponent < INT64_MAX / 100) exponent = exponent * 10 + (s[i] - '0');
    scale += negative ? -exponent : exponent;
    if (n_digits == 0 || scale != 309) return n_digits == 0 || scale < 309;
    return strcmp(digits, limit) < 0;
}

static int skip_number(lp_json *json) {
    pass(json, "-");
    size_t start = json->pos, n_digits = pass_digits(json);
    if (n_digits == 0 || (n_digits > 1 && json->bytes[start] == '0')) return fail(json, "not a JSON number");
    if (pass(json, ".") && !pass_digits(json)) return fail(json, "expected a digit");
    if (pass(json, "eE")) {
        pass(json, "+-");
        if (!pass_digits(json)) return fail(json, "expected a digit");
    }
    if (fits_float64(json->bytes + start, json->pos - start)) return 0;
    json->pos = start;
    return fail(json, "a number too large for float64");
}

static int skip_scalar(lp_json *json) {
    lp_json_text text;
    int c = lp_json_peek(json);
    if (c == '"') return lp_json_string(json, &text);
    if (c == '-' || is_digit(json)) return skip_number(json);
    const char *word = c == 't' ? "true" : c == 'f' ? "false" : c == 'n' ? "null" : "";
    size_t n = strlen(word);
    if (n == 0 || json->n_bytes - json->pos < n || memcmp(json->bytes + json->pos, word, n) != 0)
        return fail(json, "expected a value");
    json->pos += n;
    return 0;
}

int lp_json_skip(lp_json *json) {
    unsigned char is_object[LP_JSON_MAX_DEPTH + 1]; /* of containers entered here, by depth */
    size_t outside = json->depth;
    do {
        int c = lp_json_peek(json);
        if (c == '{' || c == '[') {
            if (lp_json_enter(json, (char)c)) return -1;
            is_object[json->depth] = c == '{';
        } else if (skip_scalar(json)) {
            return -1;
        }
        for (int more = 0; !more && json->depth > outside;) {
            lp_json_text key;
            more = is_object[json->depth] ? lp_json_next_key(json, &key) : lp_json_next_item(json);
            if (more < 0) return -1;
        }
    } while (json->depth > outside);
    return 0;
}

/* Reads a text byte by byte, its escapes resolved. */
typedef struct {
    const unsigned char *raw;
    unsigned char resolved[4];
    size_t i, n;
} text_reader;

static unsigned char next_byte(text_reader *reader) {
    if (reader->i < reader->n) return reader->resolved[reader->i++];
    if (*reader->raw != '\\') return *reader->raw++;
    reader->raw += escape_length(reader->raw, 12, reader->resolved, &reader->n);
    reader->i = 1;
    return reader->resolved[0];
}

void lp_json_copy(char *dst, const lp_json_text *text) {
    text_reader reader = {.raw = text->raw};
    for (size_t i = 0; i < text->len; i++) dst[i] = (char)next_byte(&reader);
    dst[text->len] = 0;
}

int lp_json_same(const lp_json_text *a, const lp_json_text *b) {
    if (a->len != b->len) return 0;
    text_reader x = {.raw = a->raw}, y = {.raw = b->raw};
    for (size_t i = 0; i < a->len; i++)
        if (next_byte(&x) != next_byte(&y)) return 0;
    return 1;
}

int lp_json_is(const lp_json_text *text, const char *word) {
    lp_json_text other = {.raw = (const unsigned char *)word, .len = strlen(word)};
    return lp_json_same(text, &other);
}
