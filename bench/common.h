/*  common.h - what every benchmark needs: memory, a clock, medians, random data, pinned threads. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stddef.h>
#include <stdint.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/*  Cleared, on a cache line; the program ends with a message where there is none.                */
void  *memory(size_t size);
double seconds_now(void);
/*  Sorts x.                                                                                      */
double median(double *x, size_t count);
/*  Nearly normal: the sum of four uniform numbers, variance 1.                                   */
float *random_normal(size_t count, uint64_t seed);

/*  Threads that spin between tasks, thread i on the i-th processor this process may use; the
    caller is thread 0. A task runs once on every thread.                                         */
typedef struct pool pool;
typedef void pool_task(void *arg, size_t thread);

size_t pool_processors(void);           /* how many threads can be pinned                         */
void   pool_processor_list(char *text, size_t size);
pool  *pool_open(size_t threads);
void   pool_close(pool *p);
size_t pool_threads(const pool *p);
void   pool_run(pool *p, pool_task *task, void *arg);
void   pool_barrier(pool *p);           /* inside a task: wait for all threads                    */

#endif
