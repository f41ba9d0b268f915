/* test_error.c - messages are terminated, cut at whole characters, and hold nothing that a terminal obeys. */
#include "../../csrc/base/error.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static void test_fail_fills_the_error(void) {
    lp_error err = {.msg = "old"};
    CHECK(lp_fail(&err, LP_EFORMAT, "%s: %d of %d", "file", 3, 4) == -1);
    CHECK(err.status == LP_EFORMAT);
    CHECK(strcmp(err.msg, "file: 3 of 4") == 0);
    CHECK(lp_fail(&err, LP_EIO, "%s", "") == -1);
    CHECK(err.status == LP_EIO && err.msg[0] == 0);
    CHECK(lp_fail(NULL, LP_ENOMEM, "no lp_error: %d", 1) == -1);
}

static void test_a_message_that_just_fits_is_whole(void) {
    lp_error err;
    char text[sizeof err.msg + 1];
    memset(text, 'x', sizeof text);
    for (size_t n = sizeof err.msg - 3; n < sizeof err.msg; n++) {
        text[n] = 0;
        lp_fail(&err, LP_EARG, "%s", text);
        CHECK(strcmp(err.msg, text) == 0);
        text[n] = 'x';
    }
    text[sizeof err.msg] = 0;
    lp_fail(&err, LP_EARG, "%s", text);
    CHECK(strlen(err.msg) == sizeof err.msg - 1);
    CHECK(strcmp(err.msg + sizeof err.msg - 4, "...") == 0);
    CHECK(strncmp(err.msg, text, sizeof err.msg - 4) == 0);
}

/* Characters of 2, 3 and 4 bytes at every distance from the end: none may be cut in two. */
static void test_cut_at_whole_characters(void) {
    static const char *const characters[] = {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    for (int c = 0; c < 3; c++) {
        size_t width = strlen(characters[c]);
        for (size_t shift = 0; shift < 4; shift++) {
            lp_error err;
            char text[2000] = "xxxx";
            text[shift] = 0;
            while (strlen(text) < 1900) strcat(text, characters[c]);
            lp_fail(&err, LP_EARG, "%s", text);
            size_t n = strlen(err.msg);
            CHECK(n > sizeof err.msg - 4 - width && n < sizeof err.msg);
            CHECK(strcmp(err.msg + n - 3, "...") == 0);
            CHECK((n - 3 - shift) % width == 0);
            CHECK(strncmp(err.msg, text, n - 3) == 0);
        }
    }
}

/* Bytes that are no UTF-8 at all do not lead the cut astray. */
static void test_cut_in_stray_continuation_bytes(void) {
    lp_error err;
    char text[1000];
    memset(text, '\x80', sizeof text - 1);
    text[sizeof text - 1] = 0;
    lp_fail(&err, LP_EARG, "%s", text);
    CHECK(strlen(err.msg) == sizeof err.msg - 1);
    CHECK(strcmp(err.msg + sizeof err.msg - 4, "...") == 0);
}

static void test_show_every_byte(void) {
    for (int byte = 0; byte < 256; byte++) {
        char dst[16], expected[16], c = (char)byte;
        snprintf(expected, sizeof expected, byte >= 0x20 && byte < 0x7F ? "%c" : "\\x%02x", byte);
        CHECK(lp_show(dst, sizeof dst, &c, 1) == dst);
        CHECK(strcmp(dst, expected) == 0);
    }
    char dst[64];
    CHECK(strcmp(lp_show(dst, sizeof dst, "a\nb\0\x1b[31m\xC3\xA9", 11), "a\\x0ab\\x00\\x1b[31m\\xc3\\xa9") == 0);
    CHECK(strcmp(lp_show(dst, sizeof dst, NULL, 0), "") == 0);
}

/* Every size of dst with every length of name: terminated inside, whole escapes, "..." exactly when cut. */
static void check_show(const char *bytes, size_t n_bytes, size_t size) {
    char whole[400], *dst = malloc(size); /* exactly as large as said, for the address sanitizer */
    size_t n_whole = strlen(lp_show(whole, sizeof whole, bytes, n_bytes));
    lp_show(dst, size, bytes, n_bytes);
    size_t n = strlen(dst);
    if (n_whole < size) {
        CHECK(strcmp(dst, whole) == 0);
    } else {
        size_t n_dots = size - 1 < 3 ? size - 1 : 3, n_kept = n - n_dots;
        CHECK(n < size && n >= n_dots);
        CHECK(strncmp(dst + n_kept, "...", n_dots) == 0);
        CHECK(strncmp(dst, whole, n_kept) == 0);
        const char *escape = n_kept ? strrchr(dst, '\\') : NULL;
        CHECK(!escape || (size_t)(escape - dst) + 4 <= n_kept); /* all escapes here are 4 characters */
        CHECK(n + 4 >= size);                                   /* nothing was thrown away that would fit */
    }
    free(dst);
}

static void test_show_cuts(void) {
    char name[64];
    for (size_t i = 0; i < sizeof name; i++) name[i] = i % 3 ? 'x' : '\n';
    for (size_t size = 1; size < 300; size++)
        for (size_t n_bytes = 0; n_bytes <= sizeof name; n_bytes++) check_show(name, n_bytes, size);
    char untouched = '#';
    CHECK(lp_show(&untouched, 0, "abc", 3) == &untouched && untouched == '#');
}

int main(void) {
    test_fail_fills_the_error();
    test_a_message_that_just_fits_is_whole();
    test_cut_at_whole_characters();
    test_cut_in_stray_continuation_bytes();
    test_show_every_byte();
    test_show_cuts();
    return CHECK_REPORT();
}
