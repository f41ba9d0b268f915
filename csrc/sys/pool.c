/* pool.c - one set of threads for the process.
 *
 * A step is n jobs. The owner opens the gate and publishes the step by a new value of `step`; each invited worker that
 * comes while the gate is open enters, takes job numbers from one atomic counter until they run out, as the owner does,
 * and leaves. When the jobs have run out the owner shuts the gate and waits for those inside alone: a worker that the
 * system has not let run yet, because its core is busy with something else, is not waited for. Workers spin for a
 * moment between steps (a forward pass has a step every few microseconds), then sleep on a futex, so that an idle pool
 * costs nothing and another process that needs the core gets it. Where there are more threads than cores nobody spins,
 * and workers that a crew does not call sleep until one does: 64 threads on 2 cores cost what 2 do. */
#define _GNU_SOURCE
#include "pool.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h> /* nanosleep */
#include <unistd.h>

#include "../base/clock.h" /* lp_clock_ns */
#include "../base/fpenv.h" /* lp_fpenv_set, lp_fpenv_restore */
#include "../base/size.h"  /* lp_size_min */

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#endif

#define SPIN_NS 60000    /* how long a thread looks for a change before it sleeps */
#define POLL_NS 20000000 /* how often the owner polls */
#define CACHE_LINE 64
#define FORKED 1 /* status of a step whose poll forked, in the child: what the workers did is lost */

/* The gate: how many workers are inside, how many are invited, and whether it is open. LP_MAX_THREADS fits twice. */
#define INSIDE 0xfffu
#define INVITED_SHIFT 12
#define INVITED(gate) ((gate) >> INVITED_SHIFT & 0xfffu)
#define OPEN (1u << 31)

static struct {
    /* written by the owner while the gate is shut and nobody inside; read by workers inside */
    lp_job fn;
    void *arg;
    size_t n;
    size_t n_workers; /* threads that exist; they never end. Owner only. */
    unsigned n_forks; /* in how many forks this process is the child */
    /* how many workers are called: those of higher numbers sleep on it */
    _Alignas(CACHE_LINE) atomic_uint called;
    atomic_int crowded;                        /* with the owner they are more than the cores */
    _Alignas(CACHE_LINE) atomic_uint step;     /* a count: its change wakes the workers */
    _Alignas(CACHE_LINE) atomic_uint sleepers; /* threads asleep on `step` or `gate` */
    _Alignas(CACHE_LINE) atomic_size_t next;
    _Alignas(CACHE_LINE) atomic_uint gate;
} pool;

static pthread_mutex_t owner_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#if defined(__linux__)
static void sleep_while(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void wake_all(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
static int has_cores(size_t n) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) || (size_t)CPU_COUNT(&set) >= n; /* fails where there are over 1024 */
}
#else
static void sleep_while(atomic_uint *word, unsigned value) {
    struct timespec t = {0, 50000};
    if (atomic_load(word) == value) nanosleep(&t, NULL);
}
static void wake_all(atomic_uint *word) { (void)word; }
static int has_cores(size_t n) { return (long)n <= sysconf(_SC_NPROCESSORS_ONLN); }
#endif

/* Waits until *word is no longer `value`: a short spin by the clock, then sleep. */
static void wait_change(atomic_uint *word, unsigned value) {
    int64_t stop = lp_clock_ns() + (atomic_load_explicit(&pool.crowded, memory_order_relaxed) ? 0 : SPIN_NS);
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) return;
            pause_cpu();
        }
    } while (lp_clock_ns() < stop);
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(word) == value) sleep_while(word, value);
    atomic_fetch_sub(&pool.sleepers, 1);
}

static int take_job(size_t *i) {
    *i = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
    return *i < pool.n;
}

/* A worker that comes late may enter a later step than the one that woke it: inside, what it reads is that step's. */
static int enter(size_t worker) {
    unsigned gate = atomic_load(&pool.gate);
    do {
        if (!(gate & OPEN) || worker > INVITED(gate)) return 0;
    } while (!atomic_compare_exchange_weak(&pool.gate, &gate, gate + 1));
    return 1;
}

/* The owner sleeps until the last one has left a gate that is shut. */
static void leave(void) {
    if (atomic_fetch_sub(&pool.gate, 1) == 1 && atomic_load(&pool.sleepers)) wake_all(&pool.gate);
}

static void shut_and_wait(void) {
    atomic_fetch_and(&pool.gate, INSIDE);
    for (unsigned gate; (gate = atomic_load_explicit(&pool.gate, memory_order_acquire));) wait_change(&pool.gate, gate);
}

/* The lock is held. */
static void call_workers(size_t n) {
    if (atomic_load(&pool.called) == n) return;
    atomic_store(&pool.crowded, !has_cores(n + 1));
    atomic_store(&pool.called, (unsigned)n);
    wake_all(&pool.called);
}

static void wait_for_call(size_t worker) {
    for (unsigned called; worker > (called = atomic_load(&pool.called));) sleep_while(&pool.called, called);
}

static void *worker_main(void *packed) {
    size_t worker = (uintptr_t)packed & 0xffff;
    unsigned seen = (unsigned)((uintptr_t)packed >> 16);
    for (;;) {
        wait_for_call(worker);
        wait_change(&pool.step, seen);
        seen = atomic_load_explicit(&pool.step, memory_order_acquire);
        if (!enter(worker)) continue;
        lp_fpenv old = lp_fpenv_set();
        for (size_t i; take_job(&i);) pool.fn(pool.arg, i, worker);
        lp_fpenv_restore(old);
        leave();
    }
    return NULL;
}

/* In a forked child the threads are gone and the lock may be held by one of them: start over. */
static void forget_after_fork(void) {
    unsigned n_forks = pool.n_forks;
    memset(&pool, 0, sizeof pool);
    pool.n_forks = n_forks + 1;
    owner_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_after_fork); }

/* Makes workers until there are `wanted`, or the system gives no more: fewer threads give the same result. */
static void hire(size_t wanted) {
    if (pool.n_workers >= wanted) return;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (; pool.n_workers < wanted; pool.n_workers++) {
        uintptr_t packed = ((uintptr_t)atomic_load(&pool.step) << 16) | (pool.n_workers + 1);
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker_main, (void *)packed)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void publish(size_t n, size_t n_invited, lp_job fn, void *arg) {
    pool.fn = fn;
    pool.arg = arg;
    pool.n = n;
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    if (n_invited) atomic_store(&pool.gate, OPEN | (unsigned)n_invited << INVITED_SHIFT);
    atomic_fetch_add(&pool.step, 1);
    if (n_invited && atomic_load(&pool.sleepers)) wake_all(&pool.step);
}

/* Polls at the start of a step (*last is 0), and then when POLL_NS have passed since *last. A run of many short
 * steps is polled at each of them: how often it really looks is the poll's own business. */
static int stop_asked(const lp_crew *crew, int64_t *last) {
    if (!crew->poll) return 0;
    int64_t now = lp_clock_ns();
    if (now - *last < POLL_NS) return 0;
    *last = now;
    return crew->poll(crew->poll_arg);
}

static int run_alone(const lp_crew *crew, size_t n, lp_job fn, void *arg) {
    int64_t last = 0;
    for (size_t i = 0; i < n; i++) {
        if (stop_asked(crew, &last)) return -1;
        fn(arg, i, 0);
    }
    return 0;
}

/* The lock is held. */
static int run_step(const lp_crew *crew, size_t n, lp_job fn, void *arg) {
    size_t most = lp_size_min(crew->n_threads, LP_MAX_THREADS), wanted = lp_size_min(most, n) - 1;
    unsigned n_forks = pool.n_forks;
    int64_t last = 0;
    int stopped = stop_asked(crew, &last); /* in a short step the owner may get no job to poll after */
    if (stopped || pool.n_forks != n_forks) return stopped ? -1 : FORKED;
    call_workers(most - 1);
    hire(wanted);
    publish(n, lp_size_min(wanted, pool.n_workers), fn, arg);
    for (size_t i; !stopped && take_job(&i);) {
        fn(arg, i, 0);
        stopped = stop_asked(crew, &last);
        if (pool.n_forks != n_forks) return stopped ? -1 : FORKED;
    }
    return stopped ? -1 : 0;
}

/* No further job starts, and those that have are waited for. In a forked child there are none, and no lock. */
static void end_step(void *n_forks) {
    if (pool.n_forks != *(const unsigned *)n_forks) return;
    atomic_store(&pool.next, pool.n);
    shut_and_wait();
    pthread_mutex_unlock(&owner_lock);
}

/* The lock is held, and given back. A poll may end the thread (CPython does that to one that asks for the GIL while the
 * interpreter ends): even then the step, which lives on this thread's stack, is ended first. */
static int run_together(const lp_crew *crew, size_t n, lp_job fn, void *arg) {
    unsigned n_forks = pool.n_forks;
    int status;
    pthread_cleanup_push(end_step, &n_forks);
    status = run_step(crew, n, fn, arg);
    pthread_cleanup_pop(1);
    return status;
}

int lp_pool_run(const lp_crew *crew, size_t n, lp_job fn, void *arg) {
    lp_fpenv old = lp_fpenv_set();
    int status = FORKED;
    pthread_once(&fork_once, watch_forks);
    if (n > 1 && crew->n_threads > 1 && pthread_mutex_trylock(&owner_lock) == 0)
        status = run_together(crew, n, fn, arg);
    if (status == FORKED) status = run_alone(crew, n, fn, arg);
    lp_fpenv_restore(old);
    return status;
}
