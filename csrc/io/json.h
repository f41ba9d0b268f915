/* json.h - a strict cursor over n_bytes of JSON.
 *
 * The caller walks the text and says what must come next; the cursor moves over it or fails. It neither allocates nor
 * recurses, and never reads past n_bytes. It accepts the JSON of RFC 8259 and nothing more: UTF-8 without a byte order
 * mark, overlong forms or surrogates; no comments, trailing commas or raw control characters in strings; \uXXXX
 * surrogates only in pairs; at most LP_JSON_MAX_DEPTH levels; numbers that fit a float64. After a failure the cursor
 * must not be used.
 *
 *     lp_json_enter(&json, '{');
 *     while ((more = lp_json_next_key(&json, &key)) > 0) ... exactly one value is taken or skipped ...
 *
 * Finding duplicate keys is up to the caller (lp_json_same). */
#ifndef LP_JSON_H
#define LP_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h" /* lp_error */

#define LP_JSON_MAX_DEPTH 127 /* as in serde_json, the parser of the safetensors package */

/* The bytes between the quotes of a valid string. */
typedef struct {
    const unsigned char *raw;
    size_t n_raw;
    size_t len;  /* bytes of UTF-8 after resolving escapes; equal to n_raw when there are none */
    int has_nul; /* holds \u0000: cannot be a name or a C string */
} lp_json_text;

typedef struct {
    const unsigned char *bytes;
    size_t n_bytes, pos;
    size_t depth;               /* open containers */
    int first;                  /* no value of the current container has been read yet */
    const char *source;         /* of these bytes, for messages: "model.safetensors: header" */
    const lp_json_text *within; /* key of the value being read, for messages; may be NULL */
    lp_error *err;              /* LP_EFORMAT with the position, on every failure; may be NULL */
} lp_json;

/* bytes and source are borrowed. */
void lp_json_init(lp_json *json, const char *source, const unsigned char *bytes, size_t n_bytes, lp_error *err);

/* The first byte of the next value or bracket, after white space; -1 at the end. Never fails. */
int lp_json_peek(lp_json *json);

/* Opens '{' or '['. */
int lp_json_enter(lp_json *json, char bracket);
/* 1: read a key and its colon; 0: the object is closed; -1: failed. */
int lp_json_next_key(lp_json *json, lp_json_text *key);
/* 1: there is a value; 0: the array is closed; -1: failed. */
int lp_json_next_item(lp_json *json);

int lp_json_string(lp_json *json, lp_json_text *text);
int lp_json_uint(lp_json *json, uint64_t *value); /* digits only, 0 .. 2^63 - 1 */
int lp_json_skip(lp_json *json);                  /* checks and skips any one value */
int lp_json_end(lp_json *json);                   /* only white space may be left */

/* Writes text.len bytes and a terminator. */
void lp_json_copy(char *dst, const lp_json_text *text);
/* Whether they are the same string, however escaped. */
int lp_json_same(const lp_json_text *a, const lp_json_text *b);
int lp_json_is(const lp_json_text *text, const char *word); /* the word has no backslash */

#endif
