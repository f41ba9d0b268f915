/* fuzz_json.c - whatever the bytes are, the two ways through them agree, and strings come out as they went in.
 *
 * The text is skipped as one value, and walked container by container; both must say yes or both no. Each string is
 * copied out, put between quotes again with other escapes, read again, and must still be the same. */
#include "../csrc/io/json.h"

#include <string.h>

#include "promise.h" /* must */

/* Quotes, backslashes and control characters need an escape; every third byte of the others that may have one gets
 * one as well. */
static size_t quote(char *dst, const char *bytes, size_t n) {
    char *out = dst;
    *out++ = '"';
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c < 0x20 || c == '"' || c == '\\' || (c < 0x80 && i % 3 == 0))
            out += sprintf(out, "\\u%04x", c);
        else
            *out++ = (char)c;
    }
    *out++ = '"';
    return (size_t)(out - dst);
}

static void check_text(const lp_json_text *text) {
    lp_json json;
    lp_json_text again;
    char *copy = malloc(text->len + 1), *quoted = malloc(6 * text->len + 3);
    lp_json_copy(copy, text);
    must(copy[text->len] == 0, "a copy is terminated");
    must(text->has_nul == (strlen(copy) != text->len), "has_nul says whether there is a NUL");
    must(text->len <= text->n_raw, "escapes are longer than what they stand for");
    size_t n = quote(quoted, copy, text->len);
    lp_json_init(&json, "again", (unsigned char *)quoted, n, NULL);
    must(lp_json_string(&json, &again) == 0 && lp_json_end(&json) == 0, "a quoted copy is a string");
    must(lp_json_same(text, &again) && lp_json_same(&again, text), "and the same string");
    must(text->has_nul || strchr(copy, '\\') || lp_json_is(text, copy), "and the same word");
    free(copy);
    free(quoted);
}

static int walk(lp_json *json) {
    lp_json_text text;
    uint64_t number;
    int more, c = lp_json_peek(json);
    must(json->depth <= LP_JSON_MAX_DEPTH && json->pos <= json->n_bytes, "the cursor stays in its bounds");
    if (c == '"') {
        if (lp_json_string(json, &text)) return -1;
        check_text(&text);
        return 0;
    }
    if (c != '{' && c != '[') {
        lp_json ahead = *json;
        ahead.err = NULL;
        int is_uint = lp_json_uint(&ahead, &number) == 0;
        if (lp_json_skip(json)) return -1;
        must(!is_uint || (ahead.pos == json->pos && number <= INT64_MAX), "a whole number is a number");
        return 0;
    }
    if (lp_json_enter(json, (char)c)) return -1;
    while ((more = c == '{' ? lp_json_next_key(json, &text) : lp_json_next_item(json)) > 0) {
        if (c == '{') check_text(&text);
        if (walk(json)) return -1;
    }
    return more;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_error skipped = {0}, walked = {0};
    lp_json json;
    lp_json_init(&json, "text", data, size, &skipped);
    int skips = lp_json_skip(&json) == 0 && lp_json_end(&json) == 0;
    lp_json_init(&json, "text", data, size, &walked);
    int walks = walk(&json) == 0 && lp_json_end(&json) == 0;
    must(skips == walks, "skipping and walking agree");
    must(skips == (skipped.status == LP_OK) && walks == (walked.status == LP_OK), "a failure says why");
    must(strcmp(skipped.msg, walked.msg) == 0, "and says the same");
    must_be_a_line(skipped.msg);
    return 0;
}
