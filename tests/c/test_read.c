/* test_read.c - texts read in pieces and line by line give the same numbers and faults; reading may be stopped, and the
 * source may change meanwhile. */
#include "../../csrc/text/parallel_read.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"

enum { N_COLS = 8, N_ROWS = 40000, N = N_COLS * N_ROWS };

#define UNREAD (-777.0f)
#define BAD_FILE 9 /* an errno */

static char text[8 * N]; /* with the comment a text of one row is twice as long */
static float values[N + N_COLS];

/* A source that a poll or a read may change. */
typedef struct {
    const char *text;
    size_t n_bytes;
    int polls_left, reads_left; /* the poll or read after them makes the change; negative: none */
    size_t at;                  /* a byte of the text, and what it becomes at that poll */
    char byte;
    int stop;
    size_t n_left; /* what remains of the source after that read */
    int number;    /* of that read */
} source;

static size_t read_source(void *arg, void *dst, size_t offset, size_t n, int *number) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* reads come from any thread */
    source *s = arg;
    *number = 0;
    pthread_mutex_lock(&lock);
    if (s->reads_left >= 0 && s->reads_left-- == 0) s->n_bytes = s->n_left, *number = s->number, s->reads_left = 0;
    size_t end = s->n_bytes;
    pthread_mutex_unlock(&lock);
    n = offset >= end ? 0 : n < end - offset ? n : end - offset;
    memcpy(dst, s->text + offset, n);
    return n;
}

/* Beside workers that read: the race is what is tested, and ThreadSanitizer need not report it. */
__attribute__((no_sanitize("thread"))) static int poll_change(void *arg) {
    source *s = arg;
    if (s->polls_left < 0 || s->polls_left-- != 0) return 0;
    if (s->byte) text[s->at] = s->byte;
    return s->stop;
}

static int read_with(source *s, size_t n_numbers, size_t n_threads, size_t piece_bytes, lp_text_report *report) {
    lp_number_text number_text = {
        .read = read_source, .arg = s, .end = s->n_bytes, .sep = ',', .piece_bytes = piece_bytes};
    lp_parallel parallel = {n_threads, poll_change, s};
    for (size_t i = 0; i < N + N_COLS; i++) values[i] = UNREAD;
    return lp_read_text(values, n_numbers, &number_text, &parallel, report);
}

static size_t n_unread(size_t n) {
    size_t unread = 0;
    for (size_t i = 0; i < n; i++) unread += values[i] == UNREAD;
    return unread;
}

/* Rows "1.5,1.5,...\n", after a comment that is as long as a row if need be; returns the bytes of the text. */
static size_t write_rows(size_t n_rows, size_t n_cols, int has_comment) {
    size_t at = 0;
    for (size_t i = has_comment ? 0 : 1; i <= n_rows; i++) {
        for (size_t j = 0; j < n_cols; j++, at += 4) memcpy(text + at, "1.5,", 4);
        text[at - 1] = '\n';
        if (i == 0) text[0] = '#';
    }
    return at;
}

/* A row becomes a comment, the comment becomes a row, a row becomes two, the source becomes shorter, at each moment
 * that there is: nothing is written beyond dst, and success means that every number was read. */
static void check_change(size_t n_rows, size_t n_cols, size_t n_threads, int has_comment) {
    size_t row = 4 * n_cols, n = n_rows * n_cols, n_changed = 0;
    const source changes[] = {{.at = row * (n_rows / 2), .byte = '#', .reads_left = -1},
                              {.at = 0, .byte = '1', .reads_left = -1},
                              {.at = row * n_rows - 1, .byte = '\n', .reads_left = -1},
                              {.at = row * n_rows - 5, .byte = '\n', .reads_left = -1},
                              {.polls_left = -1, .n_left = row},
                              {.polls_left = -1, .n_left = row * n_rows - 4}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        for (int moment = 0; moment < 8; moment++) {
            source s = changes[i];
            lp_text_report report;
            s.text = text, s.n_bytes = write_rows(n_rows, n_cols, has_comment);
            if (s.polls_left >= 0) s.polls_left = moment;
            if (s.reads_left >= 0) s.reads_left = moment;
            int status = read_with(&s, n, n_threads, 1 << 16, &report);
            CHECK(status == 0 || status == -1);
            CHECK(status || n_unread(n) == 0);
            CHECK(n_unread(N + N_COLS) >= N + N_COLS - n);
            n_changed += status == -1 && report.fault.problem == LP_TEXT_CHANGED;
        }
    }
    CHECK(n_changed > 0);
}

/* Whatever is done when the poll says stop, the answer is that it was stopped. */
static void check_stop(size_t n_rows, size_t n_cols, size_t n_threads, int has_comment) {
    int n_stopped = 0;
    for (int moment = 0; moment < 8; moment++) {
        source s = {.text = text, .polls_left = moment, .reads_left = -1, .stop = 1};
        lp_text_report report;
        s.n_bytes = write_rows(n_rows, n_cols, has_comment);
        int status = read_with(&s, n_rows * n_cols, n_threads, 1 << 16, &report);
        CHECK(status == (s.polls_left < 0));
        n_stopped += status;
    }
    CHECK(n_stopped > 1);
}

/* ---- pieces and lines say the same --------------------------------------------------------------------------- */

static uint32_t seed = 1;
static uint32_t random_below(uint32_t n) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* Some rows of numbers with, if need be, a few bytes that make them another text. */
static size_t random_text(size_t *n_numbers) {
    static const char *const numbers[] = {"1", "-2.5", "3e5", "nan", "0.000123"}, odd[] = ",\n\r #x\t\"-";
    size_t n_rows = 1 + random_below(12), n_cols = 1 + random_below(random_below(2) ? 4 : 60), at = 0;
    const char *end = random_below(4) ? "\n" : "\r\n";
    for (size_t i = 0; i < n_rows; i++) {
        for (size_t j = 0; j < n_cols; j++) {
            const char *number = numbers[random_below(5)];
            size_t n = strlen(number);
            memcpy(text + at, number, n);
            at += n;
            if (j + 1 < n_cols) text[at++] = ',';
        }
        for (const char *p = end; *p; p++) text[at++] = *p;
    }
    if (!random_below(3)) at -= strlen(end);
    for (uint32_t n = random_below(3); n && at; n--) {
        size_t place = random_below((uint32_t)at);
        if (random_below(2)) memmove(text + place + 1, text + place, at++ - place);
        text[place] = odd[random_below(sizeof odd - 1)];
    }
    *n_numbers = n_rows * n_cols - (random_below(8) == 0);
    return at;
}

static void check_same(void) {
    static float expected[N + N_COLS];
    size_t n_read = 0, n_faults = 0;
    for (int i = 0; i < 10000; i++) {
        size_t n;
        lp_text_report one, other;
        source s = {.text = text, .polls_left = -1, .reads_left = -1};
        s.n_bytes = random_text(&n);
        int status = read_with(&s, n, 1, 1 << 20, &one);
        memcpy(expected, values, n * sizeof *values);
        CHECK(read_with(&s, n, 1 + random_below(3), 16 + random_below(50), &other) == status);
        if (status) {
            n_faults++;
            CHECK(one.fault.problem == other.fault.problem && one.fault.line == other.fault.line);
            CHECK(one.fault.column == other.fault.column && one.fault.offset == other.fault.offset);
            CHECK(one.fault.n_bytes == other.fault.n_bytes && one.n_numbers == other.n_numbers);
        } else {
            n_read++;
            CHECK(!memcmp(expected, values, n * sizeof *values));
        }
    }
    CHECK(n_read > 1000 && n_faults > 1000);
}

static void check_faults(void) {
    static const char bad[] = "1,2\n3,4\n5,x\n";
    source s = {.text = bad, .n_bytes = sizeof bad - 1, .polls_left = -1, .reads_left = -1};
    lp_text_report report;
    CHECK(read_with(&s, 6, 1, 0, &report) == -1 && report.fault.problem == LP_TEXT_NO_NUMBER);
    CHECK(report.fault.line == 3 && report.fault.column == 3 && report.fault.offset == 10 && report.fault.n_bytes == 1);
    s.reads_left = 0, s.number = BAD_FILE;
    CHECK(read_with(&s, 6, 1, 0, &report) == -1 && report.fault.problem == LP_TEXT_UNREADABLE);
    CHECK(report.number == BAD_FILE);
}

static void check_spreadsheet(void) {
    static const char cells[] = "# a,,\n\"1\",2,,\r\n3,\"4\" , ,\t\r\n,,,\n5,6,";
    source s = {.text = cells, .n_bytes = sizeof cells - 1, .polls_left = -1, .reads_left = -1};
    lp_number_text number_text = {
        .read = read_source, .arg = &s, .end = s.n_bytes, .sep = ',', .is_spreadsheet = 1, .piece_bytes = 8};
    lp_parallel parallel = {.n_threads = 1};
    lp_text_report report;
    CHECK(lp_read_text(values, 6, &number_text, &parallel, &report) == 0);
    for (int i = 0; i < 6; i++) CHECK(values[i] == (float)(i + 1));
    number_text.is_spreadsheet = 0;
    CHECK(lp_read_text(values, 6, &number_text, &parallel, &report) == -1);
}

int main(void) {
    static const size_t shapes[][2] = {{N_ROWS, N_COLS}, {2, N / 2}, {5, N / 5}, {1, N}};
    for (size_t i = 0; i < 8; i++)
        for (size_t n_threads = 1; n_threads < 5; n_threads += 3) {
            size_t n_rows = shapes[i % 4][0], n_cols = shapes[i % 4][1];
            int has_comment = i >= 4;
            source s = {.text = text, .polls_left = -1, .reads_left = -1};
            lp_text_report report;
            s.n_bytes = write_rows(n_rows, n_cols, has_comment);
            CHECK(read_with(&s, N, n_threads, 1 << 16, &report) == 0);
            CHECK(n_unread(N) == 0 && values[0] == 1.5f && values[N - 1] == 1.5f);
            CHECK(read_with(&s, N - 1, n_threads, 1 << 16, &report) == -1);
            CHECK(report.fault.problem == LP_TEXT_WHOLE && report.n_numbers == N);
            check_change(n_rows, n_cols, n_threads, has_comment);
            check_stop(n_rows, n_cols, n_threads, has_comment);
        }
    check_same();
    check_faults();
    check_spreadsheet();
    return CHECK_REPORT();
}
