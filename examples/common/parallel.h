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

/*  Checks of a shared word before a thread goes to sleep: a matmul of one token ends within this
    time, and waking a sleeping thread costs more than the matmul. */
#define PARALLEL_SPINS 20000

typedef void parallel_task(void *arg, size_t begin, size_t end, size_t worker);

typedef struct parallel_pool {
    size_t workers;             /* threads that take part, the calling one included */
    pthread_t *threads;         /* the workers - 1 others */
    pthread_mutex_t lock;       /* guards all that follows */
    pthread_cond_t wake, done;
    unsigned job;               /* counts jobs; a new value is a new job */
    size_t running;             /* threads still busy with it */
    size_t numbered;            /* threads that have taken their worker number */
    bool stopping;
    size_t count, step;
    parallel_task *task;
    void *arg;
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

static inline void parallel_await_job(parallel_pool *pool, unsigned seen)
{
    int spin;
    for (spin = 0; spin < PARALLEL_SPINS; spin++)
        if (__atomic_load_n(&pool->job, __ATOMIC_ACQUIRE) != seen) break;
    pthread_mutex_lock(&pool->lock);
    while (pool->job == seen && !pool->stopping) pthread_cond_wait(&pool->wake, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static inline void *parallel_thread(void *argument)
{
    parallel_pool *pool = argument;
    unsigned seen = 0;
    size_t worker;

    pthread_mutex_lock(&pool->lock);
    worker = ++pool->numbered;
    pthread_mutex_unlock(&pool->lock);
    for (;;) {
        parallel_await_job(pool, seen);
        if (pool->stopping) return NULL;
        seen++;
        parallel_share(pool, worker);
        pthread_mutex_lock(&pool->lock);
        if (__atomic_sub_fetch(&pool->running, 1, __ATOMIC_ACQ_REL) == 0)
            pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->lock);
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
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    if (threads == 0) threads = processors > 0 ? (size_t)processors : 1;
    pool->workers = 1;
    pool->threads = malloc(threads * sizeof *pool->threads);
    if (!pool->threads) return;
    while (pool->workers < threads
           && pthread_create(&pool->threads[pool->workers - 1], NULL, parallel_thread, pool) == 0)
        pool->workers++;
}

/*  Calls task on ranges that cover [0, count) once, every begin a multiple of step, and returns
    when all are done. Not to be called from inside a task. */
static inline void parallel_run(void *context, size_t count, size_t step, parallel_task *task,
                                void *arg)
{
    parallel_pool *pool = context;
    int spin;

    if (count == 0) return;
    if (pool->workers == 1 || count <= step) {
        task(arg, 0, count, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->count = count;
    pool->step = step ? step : 1;
    pool->task = task;
    pool->arg = arg;
    __atomic_store_n(&pool->running, pool->workers - 1, __ATOMIC_RELEASE);
    __atomic_store_n(&pool->job, pool->job + 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);

    parallel_share(pool, 0);
    for (spin = 0; spin < PARALLEL_SPINS; spin++)
        if (__atomic_load_n(&pool->running, __ATOMIC_ACQUIRE) == 0) break;
    pthread_mutex_lock(&pool->lock);
    while (pool->running != 0) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static inline void parallel_stop(parallel_pool *pool)
{
    size_t i;

    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (i = 0; i + 1 < pool->workers; i++) pthread_join(pool->threads[i], NULL);
    free(pool->threads);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
}

#endif
