/*  parallel.h - a pool of threads and a parallel-for over it, in the shape awq.h asks for.
    Include it before any system header; link with -pthread. */
#ifndef EXAMPLES_PARALLEL_H
#define EXAMPLES_PARALLEL_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/*  How often a thread looks for news before it goes to sleep: some tens of microseconds, because
    waking a sleeping thread takes longer than the matmul of one token. */
#define PARALLEL_SPINS 2000

typedef void parallel_task(void *arg, size_t begin, size_t end, size_t worker);

typedef struct parallel_pool {
    size_t workers;             /* threads that take part, the calling one included */
    pthread_t *threads;         /* the workers - 1 others */
    size_t count, step;         /* the job; no task: stop */
    parallel_task *task;
    void *arg;
    /* shared words, read and written atomically */
    size_t numbered;            /* threads that have taken their worker number */
    unsigned job;               /* counts jobs; a new value is a new job */
    size_t running;             /* threads still busy with it */
    size_t asleep;              /* threads that must be woken by a signal */
    pthread_mutex_t lock;       /* only for going to sleep and waking up */
    pthread_cond_t news;        /* job, or running, has changed */
} parallel_pool;

/*  Worker w of n does one contiguous range: whole steps, shared out as evenly as they go. */
static inline void parallel_share(const parallel_pool *pool, size_t worker)
{
    size_t steps = pool->count / pool->step + (pool->count % pool->step != 0);
    size_t each = steps / pool->workers, extra = steps % pool->workers;
    size_t first = worker * each + (worker < extra ? worker : extra);
    size_t last = first + each + (worker < extra ? 1 : 0);
    size_t end = last == steps ? pool->count : last * pool->step;

    if (first < last) pool->task(pool->arg, first * pool->step, end, worker);
}

static inline void parallel_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/*  Workers wait for the next job, the caller waits until no worker is running. */
static inline bool parallel_has_come(parallel_pool *pool, bool is_worker, unsigned seen)
{
    return is_worker ? __atomic_load_n(&pool->job, __ATOMIC_SEQ_CST) != seen
                     : __atomic_load_n(&pool->running, __ATOMIC_SEQ_CST) == 0;
}

static inline void parallel_await(parallel_pool *pool, bool is_worker, unsigned seen)
{
    int spin;

    for (spin = 0; spin < PARALLEL_SPINS; spin++) {
        if (parallel_has_come(pool, is_worker, seen)) return;
        parallel_pause();
    }
    pthread_mutex_lock(&pool->lock);
    __atomic_add_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    while (!parallel_has_come(pool, is_worker, seen)) pthread_cond_wait(&pool->news, &pool->lock);
    __atomic_sub_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->lock);
}

/*  After a shared word has changed. Who is not yet asleep sees the change before it sleeps. */
static inline void parallel_wake(parallel_pool *pool)
{
    if (__atomic_load_n(&pool->asleep, __ATOMIC_SEQ_CST) == 0) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->news);
    pthread_mutex_unlock(&pool->lock);
}

static inline void *parallel_thread(void *argument)
{
    parallel_pool *pool = argument;
    size_t worker = __atomic_add_fetch(&pool->numbered, 1, __ATOMIC_SEQ_CST);
    unsigned seen = 0;

    for (;;) {
        parallel_await(pool, true, seen++);
        if (!pool->task) return NULL;
        parallel_share(pool, worker);
        if (__atomic_sub_fetch(&pool->running, 1, __ATOMIC_SEQ_CST) == 0) parallel_wake(pool);
    }
}

/*  Starts the pool; threads = 0 means one per processor. It always works: threads that cannot be
    made are done without. The pool must not move while it runs. */
static inline void parallel_start(parallel_pool *pool, size_t threads)
{
    static const parallel_pool empty = { 0 };
    long processors = sysconf(_SC_NPROCESSORS_ONLN);

    *pool = empty;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->news, NULL);
    if (threads == 0) threads = processors > 0 ? (size_t)processors : 1;
    pool->workers = 1;
    pool->threads = malloc(threads * sizeof *pool->threads);
    if (!pool->threads) return;
    while (pool->workers < threads
           && pthread_create(&pool->threads[pool->workers - 1], NULL, parallel_thread, pool) == 0)
        pool->workers++;
}

static inline void parallel_publish(parallel_pool *pool, size_t count, size_t step,
                                    parallel_task *task, void *arg)
{
    pool->count = count;
    pool->step = step ? step : 1;
    pool->task = task;
    pool->arg = arg;
    __atomic_store_n(&pool->running, pool->workers - 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&pool->job, 1, __ATOMIC_SEQ_CST);
    parallel_wake(pool);
}

/*  Calls task on ranges that cover [0, count) once, every begin a multiple of step, and returns
    when all are done. Not to be called from inside a task. */
static inline void parallel_run(void *context, size_t count, size_t step, parallel_task *task,
                                void *arg)
{
    parallel_pool *pool = context;

    if (count == 0) return;
    if (pool->workers == 1 || count <= step) {
        task(arg, 0, count, 0);
        return;
    }
    parallel_publish(pool, count, step, task, arg);
    parallel_share(pool, 0);
    parallel_await(pool, false, 0);
}

static inline void parallel_stop(parallel_pool *pool)
{
    size_t i;

    parallel_publish(pool, 0, 1, NULL, NULL);
    for (i = 0; i + 1 < pool->workers; i++) pthread_join(pool->threads[i], NULL);
    free(pool->threads);
    pthread_cond_destroy(&pool->news);
    pthread_mutex_destroy(&pool->lock);
}

#endif
