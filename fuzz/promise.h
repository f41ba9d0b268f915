/* promise.h - what a fuzz target says about the core: a promise that is broken ends the process. */
#ifndef LP_PROMISE_H
#define LP_PROMISE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void must(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

static inline void must_be_a_line(const char *message) {
    for (const char *c = message; *c; c++) must(*c >= 0x20 && *c < 0x7F, "a message is one printable line");
}

#endif
