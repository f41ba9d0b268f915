/* thread.h - threads that receive no signals, and sleeping until a number changes. */
#ifndef LP_THREAD_H
#define LP_THREAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h> /* pid_t */

#include "../base/platform.h"

typedef struct {
    pthread_t id;
    pid_t process; /* that started it */
} lp_thread;

/* 0, or -1 when the system has no more threads. Join it or detach it. */
int lp_thread_start(lp_thread *thread, void *(*run)(void *arg), void *arg);
/* In a forked child, where the thread does not exist, returns at once. */
void lp_thread_join(lp_thread *thread);
void lp_thread_detach(lp_thread *thread);

/* Sleeps until woken while *word is `value`; may return early. */
void lp_thread_sleep(atomic_uint *word, unsigned value);
/* Wakes all threads that sleep on the word. */
void lp_thread_wake(atomic_uint *word);

#endif
