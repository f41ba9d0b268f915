/* thread.c - POSIX threads; sleeping is a futex on Linux and a short nap elsewhere. */
#define _GNU_SOURCE
#include "thread.h"

#include <limits.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

int lp_thread_start(lp_thread *thread, void *(*run)(void *arg), void *arg) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* inherited: signals are for the caller's threads */
    int failed = pthread_create(&thread->id, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    thread->process = getpid();
    return failed ? -1 : 0;
}

void lp_thread_join(lp_thread *thread) {
    if (thread->process == getpid()) pthread_join(thread->id, NULL);
}

void lp_thread_detach(lp_thread *thread) { pthread_detach(thread->id); }

#if defined(__linux__)
void lp_thread_sleep(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void lp_thread_wake(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
#else
void lp_thread_sleep(atomic_uint *word, unsigned value) {
    struct timespec t = {0, 50000};
    if (atomic_load(word) == value) nanosleep(&t, NULL);
}

void lp_thread_wake(atomic_uint *word) { (void)word; }
#endif
