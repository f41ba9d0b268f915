/* pool.c - one set of threads for the process.
 *
 * A step is n jobs. The owner opens `state` and publishes the step by a new value of `step`. Each invited worker that
 * arrives while the state is open is counted in, takes job numbers from one atomic counter until they run out, as the
 * owner does, and is counted out. When the jobs have run out, the owner closes the state and waits only for workers
 * that are counted in: one that the system has not scheduled yet is not waited for. Between steps (a forward pass has
 * one every few microseconds) workers spin for a moment, then sleep on a futex, so an idle pool costs nothing. When
 * there are more threads than cores none spins, and workers beyond the active ones sleep until they are needed:
 * 64 threads on 2 cores cost what 2 do. */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <stdint.h>
#include <string.h>

#include "clock.h"         /* lp_clock_ns */
#include "limits.h"        /* lp_limits_affinity */
#include "thread.h"        /* lp_thread_start, lp_thread_sleep, lp_thread_wake */
#include "../base/fpenv.h" /* lp_fpenv_set, lp_fpenv_restore */
#include "../base/size.h"  /* lp_size_min */

#define SPIN_NS 60000    /* how long a thread spins before it sleeps */
#define POLL_NS 20000000 /* between two polls */
#define CACHE_LINE 64
#define FORKED 1 /* in the child: poll forked in a step, whose results are lost with the workers */

/* `state`: how many workers are inside, how many are invited, and whether it is open. LP_MAX_THREADS fits twice. */
#define INSIDE 0xfffu
#define INVITED_SHIFT 12
#define INVITED(state) ((state) >> INVITED_SHIFT & 0xfffu)
#define OPEN (1u << 31)

static struct {
    /* written by the owner while the state is closed and no worker inside; read by workers inside */
    lp_job job;
    void *arg;
    size_t n;
    size_t n_workers; /* threads that exist; they never end. Owner only. */
    unsigned n_forks; /* how many forks this process is the child of */
    /* workers with higher numbers sleep on it */
    _Alignas(CACHE_LINE) atomic_uint n_active;
    atomic_int oversubscribed;                 /* more threads than cores */
    _Alignas(CACHE_LINE) atomic_uint step;     /* a count: its change wakes the workers */
    _Alignas(CACHE_LINE) atomic_uint sleepers; /* threads asleep on `step` or `state` */
    _Alignas(CACHE_LINE) atomic_size_t next;
    _Alignas(CACHE_LINE) atomic_uint state;
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

/* Waits until *word is no longer `value`: spins for SPIN_NS, then sleeps. */
static void wait_change(atomic_uint *word, unsigned value) {
    int64_t stop = lp_clock_ns() + (atomic_load_explicit(&pool.oversubscribed, memory_order_relaxed) ? 0 : SPIN_NS);
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) return;
            pause_cpu();
        }
    } while (lp_clock_ns() < stop);
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(word) == value) lp_thread_sleep(word, value);
    atomic_fetch_sub(&pool.sleepers, 1);
}

static int take_job(size_t *i) {
    *i = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
    return *i < pool.n;
}

/* A late worker may begin a later step than the one that woke it: what it reads inside belongs to that step. */
static int begin_work(size_t worker) {
    unsigned state = atomic_load(&pool.state);
    do {
        if (!(state & OPEN) || worker > INVITED(state)) return 0;
    } while (!atomic_compare_exchange_weak(&pool.state, &state, state + 1));
    return 1;
}

/* The owner sleeps until the last worker has ended, once the state is closed. */
static void end_work(void) {
    if (atomic_fetch_sub(&pool.state, 1) == 1 && atomic_load(&pool.sleepers)) lp_thread_wake(&pool.state);
}

static void close_and_wait(void) {
    atomic_fetch_and(&pool.state, INSIDE);
    for (unsigned state; (state = atomic_load_explicit(&pool.state, memory_order_acquire));)
        wait_change(&pool.state, state);
}

/* The lock is held. */
static void set_active(size_t n) {
    if (atomic_load(&pool.n_active) == n) return;
    atomic_store(&pool.oversubscribed, lp_limits_affinity() < n + 1);
    atomic_store(&pool.n_active, (unsigned)n);
    lp_thread_wake(&pool.n_active);
}

static void *worker_main(void *packed) {
    size_t worker = (uintptr_t)packed & 0xffff;
    unsigned seen = (unsigned)((uintptr_t)packed >> 16);
    for (;;) {
        for (unsigned n; worker > (n = atomic_load(&pool.n_active));) lp_thread_sleep(&pool.n_active, n);
        wait_change(&pool.step, seen);
        seen = atomic_load_explicit(&pool.step, memory_order_acquire);
        if (!begin_work(worker)) continue;
        lp_fpenv old = lp_fpenv_set();
        for (size_t i; take_job(&i);) pool.job(pool.arg, i, worker);
        lp_fpenv_restore(old);
        end_work();
    }
    return NULL;
}

/* In a forked child the workers do not exist, and one of them may hold the lock. */
static void reset_after_fork(void) {
    unsigned n_forks = pool.n_forks;
    memset(&pool, 0, sizeof pool);
    pool.n_forks = n_forks + 1;
    owner_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, reset_after_fork); }

/* Fewer threads than requested give the same results. */
static void spawn_workers(size_t n) {
    for (; pool.n_workers < n; pool.n_workers++) {
        uintptr_t packed = ((uintptr_t)atomic_load(&pool.step) << 16) | (pool.n_workers + 1);
        lp_thread thread;
        if (lp_thread_start(&thread, worker_main, (void *)packed)) break;
        lp_thread_detach(&thread);
    }
}

static void publish(size_t n, size_t n_invited, lp_job job, void *arg) {
    pool.job = job;
    pool.arg = arg;
    pool.n = n;
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    if (n_invited) atomic_store(&pool.state, OPEN | (unsigned)n_invited << INVITED_SHIFT);
    atomic_fetch_add(&pool.step, 1);
    if (n_invited && atomic_load(&pool.sleepers)) lp_thread_wake(&pool.step);
}

/* Polls at the start of a step, where *last is 0, and then when POLL_NS have passed since *last. */
static int is_stopped(const lp_parallel *parallel, int64_t *last) {
    if (!parallel->poll) return 0;
    int64_t now = lp_clock_ns();
    if (now - *last < POLL_NS) return 0;
    *last = now;
    return parallel->poll(parallel->poll_arg);
}

static int run_alone(const lp_parallel *parallel, size_t n, lp_job job, void *arg) {
    int64_t last = 0;
    for (size_t i = 0; i < n; i++) {
        if (is_stopped(parallel, &last)) return -1;
        job(arg, i, 0);
    }
    return 0;
}

/* The lock is held. */
static int run_step(const lp_parallel *parallel, size_t n, lp_job job, void *arg) {
    size_t most = lp_size_min(parallel->n_threads, LP_MAX_THREADS), wanted = lp_size_min(most, n) - 1;
    unsigned n_forks = pool.n_forks;
    int64_t last = 0;
    int stopped = is_stopped(parallel, &last); /* in a short step the owner may get no job to poll after */
    if (stopped || pool.n_forks != n_forks) return stopped ? -1 : FORKED;
    set_active(most - 1);
    spawn_workers(wanted);
    publish(n, lp_size_min(wanted, pool.n_workers), job, arg);
    for (size_t i; !stopped && take_job(&i);) {
        job(arg, i, 0);
        stopped = is_stopped(parallel, &last);
        if (pool.n_forks != n_forks) return stopped ? -1 : FORKED;
    }
    return stopped ? -1 : 0;
}

/* Stops handing out jobs and waits for those started; after a fork there is nothing to wait for, and no lock. */
static void end_step(void *n_forks) {
    if (pool.n_forks != *(const unsigned *)n_forks) return;
    atomic_store(&pool.next, pool.n);
    close_and_wait();
    pthread_mutex_unlock(&owner_lock);
}

/* Releases the lock, which is held. A poll may end the thread (CPython does that to one that takes the GIL while the
 * interpreter shuts down): even then the step, which lives on this thread's stack, is ended first. */
static int run_together(const lp_parallel *parallel, size_t n, lp_job job, void *arg) {
    unsigned n_forks = pool.n_forks;
    int status;
    pthread_cleanup_push(end_step, &n_forks);
    status = run_step(parallel, n, job, arg);
    pthread_cleanup_pop(1);
    return status;
}

int lp_pool_run(const lp_parallel *parallel, size_t n, lp_job job, void *arg) {
    lp_fpenv old = lp_fpenv_set();
    int status = FORKED;
    pthread_once(&fork_once, watch_forks);
    if (n > 1 && parallel->n_threads > 1 && pthread_mutex_trylock(&owner_lock) == 0)
        status = run_together(parallel, n, job, arg);
    if (status == FORKED) status = run_alone(parallel, n, job, arg);
    lp_fpenv_restore(old);
    return status;
}
