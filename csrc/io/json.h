/* json.h - a strict cursor over JSON bytes whose number is known.
 *
 * The caller walks the text and says what must come next; the cursor moves over it or fails. It allocates
 * nothing, never looks past n_bytes, and never recurses. It takes JSON as RFC 8259 has it and nothing more:
 * UTF-8 without a byte order mark, overlong forms or surrogates; no comment, no comma before a closing bracket,
 * no raw control character in a string; \uXXXX surrogates only in pairs; at most LP_JSON_MAX_DEPTH levels;
 * numbers that fit a float64. After a failure the cursor must not be used again.
 *
 *     lp_json_enter(&json, '{');
 *     while ((more = lp_json_next_key(&json, &key)) > 0) ... exactly one value is taken or skipped ...
 *
 * Duplicate keys are the caller's to find: only it knows which objects it looks at (lp_json_same). */
#ifndef LP_JSON_H
#define LP_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h" /* lp_error */

#define LP_JSON_MAX_DEPTH 127 /* as serde_json, the parser of the safetensors package, has it */

/* A string as it stands between its quotes; proved to be good by the cursor that handed it out. */
typedef struct {
    const unsigned char *raw;
    size_t n_raw;
    size_t len;  /* bytes of UTF-8 when the escapes are resolved; equal to n_raw when there are none */
    int has_nul; /* \u0000 occurs: the text cannot be a name or a C string */
} lp_json_text;

typedef struct {
    const unsigned char *bytes;
    size_t n_bytes, pos;
    size_t depth;               /* containers that are open */
    int first;                  /* the container just entered has had no value yet */
    const char *source;         /* what messages call these bytes: "model.safetensors: header" */
    const lp_json_text *within; /* the key whose value is being read, for messages; may be NULL */
    lp_error *err;              /* LP_EFORMAT with the position, on every failure; may be NULL */
} lp_json;

/* bytes and source are borrowed. */
void lp_json_init(lp_json *json, const char *source, const unsigned char *bytes, size_t n_bytes, lp_error *err);

/* The first byte of the next value or bracket, white space passed over; -1 at the end. Never fails. */
int lp_json_peek(lp_json *json);

/* Opens '{' or '['. */
int lp_json_enter(lp_json *json, char bracket);
/* 1: there is a key, its colon is passed; 0: the object is closed; -1: failed. */
int lp_json_next_key(lp_json *json, lp_json_text *key);
/* 1: there is a value; 0: the array is closed; -1: failed. */
int lp_json_next_item(lp_json *json);

int lp_json_string(lp_json *json, lp_json_text *text);
int lp_json_uint(lp_json *json, uint64_t *value); /* digits only, 0 .. 2^63 - 1 */
int lp_json_skip(lp_json *json);                  /* any one value, proved but not kept */
int lp_json_end(lp_json *json);                   /* nothing but white space is left */

/* Writes text.len bytes and a terminator. */
void lp_json_copy(char *dst, const lp_json_text *text);
/* Are they the same string, however they are escaped? */
int lp_json_same(const lp_json_text *a, const lp_json_text *b);
int lp_json_is(const lp_json_text *text, const char *word); /* the word has no backslash */

#endif
