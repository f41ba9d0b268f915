/* test_read.c - a whole text is read by its parts; it may be stopped, and it may change meanwhile. */
#include "../../csrc/text/parallel_read.h"

#include <stdlib.h>

#include "check.h"

enum { N_COLS = 8, N_ROWS = 40000, N = N_COLS * N_ROWS };

#define UNREAD (-777.0f)

static char text[8 * N]; /* with the comment a text of one row is twice as long */
static float values[N + N_COLS];

/* Rows "1.5,1.5,...\n" after a comment that is as long as a row; returns the bytes of the text. */
static size_t write_rows(size_t n_rows, size_t n_cols) {
    size_t at = 0;
    for (size_t i = 0; i <= n_rows; i++) {
        for (size_t j = 0; j < n_cols; j++, at += 4) memcpy(text + at, "1.5,", 4);
        text[at - 1] = '\n';
        if (i == 0) text[0] = '#';
    }
    return at;
}

typedef struct {
    int polls_left;
    size_t at; /* a byte of the text, and what it becomes at the poll after polls_left */
    char byte;
    int stop;
} change;

/* Beside workers that read: the race is what is tested, and ThreadSanitizer need not tell. */
__attribute__((no_sanitize("thread"))) static int poll_change(void *arg) {
    change *c = arg;
    if (c->polls_left-- != 0) return 0;
    text[c->at] = c->byte;
    return c->stop;
}

static int read_with(change *c, size_t n_rows, size_t n_cols, size_t n_threads, lp_text_report *report) {
    lp_number_text source = {text, write_rows(n_rows, n_cols), ','};
    lp_crew crew = {n_threads, poll_change, c};
    for (size_t i = 0; i < N + N_COLS; i++) values[i] = UNREAD;
    return lp_read_text(values, n_rows * n_cols, &source, &crew, report);
}

static size_t n_unread(size_t n) {
    size_t unread = 0;
    for (size_t i = 0; i < n; i++) unread += values[i] == UNREAD;
    return unread;
}

/* A row becomes a comment, the comment becomes a row, a row becomes two, at each moment that there is: nothing is
 * written behind what was asked for, and success means that every number was read. */
static void check_change(size_t n_rows, size_t n_cols, size_t n_threads) {
    size_t row = 4 * n_cols, n = n_rows * n_cols, n_changed = 0;
    const change changes[] = {
        {0, row * (n_rows / 2), '#', 0}, {0, row * n_rows, '#', 0}, {0, 0, '1', 0}, {0, row * n_rows + 3, '\n', 0}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        for (int moment = 0; moment < 8; moment++) {
            change c = changes[i];
            lp_text_report report;
            c.polls_left = moment;
            int status = read_with(&c, n_rows, n_cols, n_threads, &report);
            CHECK(status == 0 || status == -1);
            CHECK(status || n_unread(n) == 0);
            CHECK(n_unread(N + N_COLS) >= N + N_COLS - n);
            n_changed += status == -1 && report.fault.problem == LP_TEXT_CHANGED;
        }
    }
    CHECK(n_changed > 0);
}

/* Whatever is done when the poll says stop, the answer is that it was stopped. */
static void check_stop(size_t n_rows, size_t n_cols, size_t n_threads) {
    int n_stopped = 0;
    for (int moment = 0; moment < 8; moment++) {
        change c = {.polls_left = moment, .at = 1, .byte = '.', .stop = 1};
        lp_text_report report;
        int status = read_with(&c, n_rows, n_cols, n_threads, &report);
        CHECK(status == (c.polls_left < 0));
        n_stopped += status;
    }
    CHECK(n_stopped > 2);
}

/* Other numbers than were asked for: rows are looked at one by one, and that can be stopped too. */
static void check_stop_of_the_search(void) {
    change c = {.polls_left = 100, .at = 1, .byte = '.', .stop = 1};
    lp_text_report report;
    lp_number_text source = {text, write_rows(N_ROWS, N_COLS), ','};
    lp_crew crew = {1, poll_change, &c};
    CHECK(lp_read_text(values, N - 1, &source, &crew, &report) == 1);
    crew.poll = NULL;
    CHECK(lp_read_text(values, N - 1, &source, &crew, &report) == -1);
    CHECK(report.fault.problem == LP_TEXT_WHOLE && report.n_numbers == N);
}

int main(void) {
    static const size_t shapes[][2] = {{N_ROWS, N_COLS}, {2, N / 2}, {5, N / 5}, {1, N}};
    for (size_t i = 0; i < 4; i++)
        for (size_t n_threads = 1; n_threads < 5; n_threads += 3) {
            change none = {.polls_left = -1, .at = 1, .byte = '.'};
            lp_text_report report;
            CHECK(read_with(&none, shapes[i][0], shapes[i][1], n_threads, &report) == 0);
            CHECK(n_unread(N) == 0 && values[0] == 1.5f && values[N - 1] == 1.5f);
            check_change(shapes[i][0], shapes[i][1], n_threads);
            check_stop(shapes[i][0], shapes[i][1], n_threads);
        }
    check_stop_of_the_search();
    return CHECK_REPORT();
}
