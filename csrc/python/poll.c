/* poll.c - takes the GIL now and then, so that signal handlers run. */
#include "poll.h"

#include "../sys/clock.h" /* lp_clock_ns */

#define POLL_NS 20000000 /* at least, between two times that the GIL is taken */

void lp_poll_begin(lp_poll *poll, int (*report)(void *arg), void *arg) {
    *poll = (lp_poll){.report = report, .arg = arg, .polled_ns = lp_clock_ns()};
    poll->thread = PyEval_SaveThread();
}

void lp_poll_end(lp_poll *poll) { PyEval_RestoreThread(poll->thread); }

int lp_poll_python(void *arg) {
    lp_poll *poll = arg;
    if (lp_clock_ns() - poll->polled_ns < POLL_NS) return 0;
    PyEval_RestoreThread(poll->thread);
    int stop = PyErr_CheckSignals() || (poll->report && poll->report(poll->arg));
    poll->thread = PyEval_SaveThread();
    poll->polled_ns = lp_clock_ns(); /* a slow report must not be called back to back */
    return stop;
}
