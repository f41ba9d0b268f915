/* poll.h - work without the GIL that Ctrl-C can stop.
 *
 *     lp_poll poll;                      lp_poll_begin drops the GIL, lp_poll_end takes it again; between them the core
 *     lp_poll_begin(&poll, NULL, NULL);  calls lp_poll_python with &poll, on this thread, as often as it likes.
 *     ... lp_parallel parallel = {n_threads, lp_poll_python, &poll}; ...
 *     lp_poll_end(&poll);                */
#ifndef LP_PYTHON_POLL_H
#define LP_PYTHON_POLL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

typedef struct {
    int (*report)(void *arg);
    void *arg;
    PyThreadState *thread;
    int64_t polled_ns; /* when the GIL was last held */
} lp_poll;

/* `report` is called with the GIL about every 20 ms; not 0: it has set an exception. NULL disables it. */
void lp_poll_begin(lp_poll *poll, int (*report)(void *arg), void *arg);
void lp_poll_end(lp_poll *poll);

/* Runs signal handlers, and the report. Not 0: an exception is set, and the work must stop. */
int lp_poll_python(void *poll);

#endif
