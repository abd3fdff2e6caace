#define _GNU_SOURCE 1 /* processor affinity */
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX 64

static void stop(const char *what)
{
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

void *memory(size_t size)
{
    void *bytes = NULL;
    if (posix_memalign(&bytes, 64, size ? size : 1) != 0) {
        fprintf(stderr, "bench: out of memory (%zu bytes)\n", size);
        exit(1);
    }
    memset(bytes, 0, size);
    return bytes;
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

double median(double *x, size_t count)
{
    qsort(x, count, sizeof *x, by_value);
    return count % 2 ? x[count / 2] : (x[count / 2 - 1] + x[count / 2]) / 2;
}

float *random_normal(size_t count, uint64_t seed)
{
    float *x = memory(count * sizeof *x);
    size_t i;
    int j;
    for (i = 0; i < count; i++)
        for (j = 0; j < 4; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            x[i] += ((float)(seed >> 40) / 16777216.0f - 0.5f) * 1.7320508f;
        }
    return x;
}

/* ---- processors ------------------------------------------------------------------------------ */

#if defined(__linux__)
/*  The processors this process was started with: the main thread is pinned to the first later.   */
static const cpu_set_t *allowed(void)
{
    static cpu_set_t set;
    static int known;
    if (!known && sched_getaffinity(0, sizeof set, &set) != 0) stop("no processor affinity");
    known = 1;
    return &set;
}

size_t pool_processors(void)
{
    size_t count = (size_t)CPU_COUNT(allowed());
    return count < THREADS_MAX ? count : THREADS_MAX;
}

static size_t processor(size_t thread)
{
    size_t cpu;
    for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed()) && thread-- == 0) break;
    return cpu;
}

static void pin(size_t thread)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor(thread), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) stop("a thread cannot be pinned");
}

void pool_processor_list(char *text, size_t size)
{
    size_t i, used = 0;
    for (i = 0; i < pool_processors() && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%zu", i ? ", " : "", processor(i));
}
#else
size_t pool_processors(void) { return 2; }
static void pin(size_t thread) { (void)thread; }
void pool_processor_list(char *text, size_t size) { snprintf(text, size, "not pinned here"); }
#endif

/* ---- threads --------------------------------------------------------------------------------- */

typedef struct worker { struct pool *pool; size_t thread; pthread_t handle; } worker;

struct pool {
    size_t threads;
    pool_task *task;                    /* NULL: go home                                          */
    void *arg;
    unsigned round;                     /* moves on when there is a task                          */
    size_t arrived;
    unsigned barriers;                  /* moves on when all have arrived                         */
    worker workers[THREADS_MAX];
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

void pool_barrier(pool *p)
{
    unsigned passed = __atomic_load_n(&p->barriers, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&p->arrived, 1, __ATOMIC_ACQ_REL) == p->threads) {
        __atomic_store_n(&p->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&p->barriers, passed + 1, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&p->barriers, __ATOMIC_ACQUIRE) == passed) relax();
}

static void *work(void *argument)
{
    worker *w = argument;
    pool *p = w->pool;
    unsigned seen = 0;

    pin(w->thread);
    for (;;) {
        while (__atomic_load_n(&p->round, __ATOMIC_ACQUIRE) == seen) relax();
        seen++;
        if (!p->task) return NULL;
        p->task(p->arg, w->thread);
        pool_barrier(p);
    }
}

pool *pool_open(size_t threads)
{
    pool *p = memory(sizeof *p);
    size_t i;

    if (threads > pool_processors()) stop("more threads than processors");
    p->threads = threads;
    pin(0);
    for (i = 1; i < threads; i++) {
        p->workers[i].pool = p;
        p->workers[i].thread = i;
        if (pthread_create(&p->workers[i].handle, NULL, work, &p->workers[i]) != 0)
            stop("a thread cannot be started");
    }
    return p;
}

void pool_run(pool *p, pool_task *task, void *arg)
{
    p->task = task;
    p->arg = arg;
    __atomic_add_fetch(&p->round, 1, __ATOMIC_ACQ_REL);
    if (!task) return;
    task(arg, 0);
    pool_barrier(p);
}

void pool_close(pool *p)
{
    size_t i;
    pool_run(p, NULL, NULL);
    for (i = 1; i < p->threads; i++) pthread_join(p->workers[i].handle, NULL);
    free(p);
}

size_t pool_threads(const pool *p) { return p->threads; }
