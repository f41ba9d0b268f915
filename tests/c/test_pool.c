/* test_pool.c - every job runs once, whatever the threads; stops; forks; threads that end; runs side by side. Fit for
 * ThreadSanitizer. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../csrc/sys/pool.h"

enum { N = 5000 };

typedef struct {
    atomic_int done[N];
    atomic_int wrong_worker;
    size_t n_threads;
} tally;

static void count(void *arg, size_t i, size_t worker) {
    tally *t = arg;
    atomic_fetch_add(&t->done[i], 1);
    if (worker >= t->n_threads) atomic_store(&t->wrong_worker, 1);
}

static int all_once(size_t n, size_t n_threads) {
    tally *t = calloc(1, sizeof *t);
    lp_parallel parallel = {n_threads, NULL, NULL};
    t->n_threads = n_threads;
    int ok = lp_pool_run(&parallel, n, count, t) == 0 && !t->wrong_worker;
    for (size_t i = 0; i < N; i++) ok &= t->done[i] == (i < n);
    free(t);
    return ok;
}

static void *run_steps(void *ok) {
    for (int i = 0; i < 40; i++) *(int *)ok &= all_once(N / 10, 3);
    return NULL;
}

static int stop_at_once(void *arg) {
    (void)arg;
    return 1;
}
static void sleep_job(void *arg, size_t i, size_t worker) {
    (void)i, (void)worker;
    atomic_fetch_add((atomic_int *)arg, 1);
    usleep(3000);
}

static void check_stop(size_t n_threads) {
    atomic_int started = 0;
    lp_parallel parallel = {n_threads, stop_at_once, NULL};
    CHECK(lp_pool_run(&parallel, 1000, sleep_job, &started) == -1);
    CHECK(started < 200);
    CHECK(all_once(N, n_threads)); /* usable afterwards */
}

static int count_polls(void *arg) {
    ++*(int *)arg;
    return 0;
}
static void nothing(void *arg, size_t i, size_t worker) { (void)arg, (void)i, (void)worker; }

/* A forward pass is thousands of short steps: each one polls, or a run could never be stopped. */
static void check_short_steps(size_t n_threads) {
    int polls = 0;
    lp_parallel parallel = {n_threads, count_polls, &polls};
    for (int i = 0; i < 100; i++) CHECK(lp_pool_run(&parallel, 3, nothing, NULL) == 0);
    CHECK(polls >= 100);
}

static int run_with_counts(void) {
    static const size_t threads[] = {16, 2, 7, 3};
    int ok = 1;
    for (size_t i = 0; i < 400; i++) ok &= all_once(20 + i % 3, threads[i % 4]);
    return ok;
}

/* On one core, to which a child pins itself before it has threads, workers come late: to a step that is over, or to one
 * that invites fewer. Each job is done once all the same, by a worker whose number is that of a thread of its step. */
static void check_late_workers(void) {
#if defined(__linux__)
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(run_with_counts());
    pid_t child = fork();
    if (child == 0) _exit(sched_setaffinity(0, sizeof one, &one) || run_with_counts() ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
#else
    CHECK(run_with_counts()); /* a process cannot pin itself */
#endif
}

static void check_fork(void) {
    pid_t child = fork();
    if (child == 0) _exit(all_once(N, 4) && all_once(N, 2) ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(all_once(N, 4));
}

/* ---- polls that do not come back ---- */

typedef struct {
    int polls_left;
    pid_t child;
    atomic_int inside, by_workers;
    int results[200];
} step;

static void slow_job(void *arg, size_t i, size_t worker) {
    step *s = arg;
    atomic_fetch_add(&s->inside, 1);
    usleep(2000);
    s->results[i] = (int)i + 1;
    if (worker) atomic_fetch_add(&s->by_workers, 1);
    atomic_fetch_sub(&s->inside, 1);
}

static int end_thread(void *arg) {
    step *s = arg;
    if (s->polls_left-- == 0) pthread_exit(NULL);
    return 0;
}

static void *run_and_end(void *arg) {
    lp_parallel parallel = {3, end_thread, arg};
    lp_pool_run(&parallel, 200, slow_job, arg);
    return "came back";
}

/* As a finalizing interpreter does with a thread that takes the GIL: the step is over before the thread is, and the
 * pool is free for the next one. */
static void check_ended_thread(int n_polls) {
    static step ended, next;
    lp_parallel parallel = {3, NULL, NULL};
    pthread_t thread;
    void *result = "not joined";
    ended = (step){.polls_left = n_polls};
    next = (step){.polls_left = 0};
    CHECK(pthread_create(&thread, NULL, run_and_end, &ended) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == NULL);
    CHECK(ended.inside == 0 && ended.results[199] == 0);
    usleep(10000);
    CHECK(ended.inside == 0 && ended.results[199] == 0);
    CHECK(lp_pool_run(&parallel, 200, slow_job, &next) == 0 && next.by_workers > 0);
}

static int fork_in_poll(void *arg) {
    step *s = arg;
    if (s->polls_left-- == 0) s->child = fork();
    return 0;
}

static int all_there(const step *s) {
    for (int i = 0; i < 200; i++)
        if (s->results[i] != i + 1) return 0;
    return 1;
}

/* Parent and child both finish the step. */
static void check_forked_poll(int n_polls) {
    static step s;
    lp_parallel parallel = {3, fork_in_poll, &s};
    s = (step){.polls_left = n_polls, .child = -1};
    int status = lp_pool_run(&parallel, 200, slow_job, &s), ok = status == 0 && all_there(&s);
    if (s.child == 0) _exit(ok && all_once(N, 3) ? 0 : 1);
    CHECK(ok && s.child > 0);
    CHECK(waitpid(s.child, &status, 0) == s.child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void) {
    static const size_t threads[] = {1, 2, 3, 7, 16, 1};
    for (size_t i = 0; i < 6; i++) {
        CHECK(all_once(0, threads[i]));
        CHECK(all_once(1, threads[i]));
        CHECK(all_once(N, threads[i]));
        check_stop(threads[i]);
        check_short_steps(threads[i]);
    }
    pthread_t other[4];
    int ok[5] = {1, 1, 1, 1, 1};
    for (int i = 0; i < 4; i++) pthread_create(&other[i], NULL, run_steps, &ok[i]);
    run_steps(&ok[4]);
    for (int i = 0; i < 4; i++) pthread_join(other[i], NULL);
    CHECK(ok[0] && ok[1] && ok[2] && ok[3] && ok[4]);
    for (int i = 0; i < 3; i++) check_ended_thread(i);
    if (getenv("EMULATED")) {
        puts("forks not run: user-mode QEMU 7 aborts when a forked child makes a thread");
    } else {
        check_late_workers();
        check_fork();
        for (int i = 0; i < 3; i++) check_forked_poll(i);
    }
    return CHECK_REPORT();
}
