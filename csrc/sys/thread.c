/* thread.c - POSIX threads; sleeping is a futex on Linux and one condition for all words elsewhere. LP_NO_FUTEX builds
 * the latter on Linux too, for tests. */
#define _GNU_SOURCE
#include "thread.h"

#include <limits.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(LP_NO_FUTEX)
#define HAS_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#else
#define HAS_FUTEX 0
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

#if HAS_FUTEX
void lp_thread_sleep(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void lp_thread_wake(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
#else
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* In a forked child a thread that does not exist may hold the lock. */
static void renew(void) {
    lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, renew); }

/* The word changes before the wake: whoever sees the old value under the lock is woken. */
void lp_thread_sleep(atomic_uint *word, unsigned value) {
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&lock);
    if (atomic_load(word) == value) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

void lp_thread_wake(atomic_uint *word) {
    (void)word;
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
#endif
