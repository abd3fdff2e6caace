/*  runner.h - cmocka, and what every test program shares: one seed, and each test run once per
    kernel set that this processor can run.                                                       */
#ifndef RUNNER_H
#define RUNNER_H

#include "../examples/common/parallel.h"
#include "../examples/common/tiles.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bodies.h"

static uint64_t seed;
static const awq_kernels *kernels;      /* the set under test */

#define RUN_ON_EVERY_KERNEL_SET(tests)                                                             \
    do {                                                                                           \
        awq_kernels sets[16];                                                                      \
        size_t count, set;                                                                         \
        int failed;                                                                                \
        ask_for_tiles();                                                                           \
        count = awq_kernels_list(sets, COUNT(sets));                                               \
        failed = count == 0;                                                                       \
        seed = check_seed();                                                                       \
        for (set = 0; set < count; set++) {                                                        \
            kernels = &sets[set];                                                                  \
            failed += cmocka_run_group_tests_name(kernels->name, tests, NULL, NULL);               \
        }                                                                                          \
        return failed;                                                                             \
    } while (0)

#define TEST(name) static void name(void **state)
#define RUN_BODY(body, cases) assert_int_equal(body(kernels, seed, cases), 0)

/*  Prints both statuses by name, which numbers would not tell. */
#define assert_status(call, expected)                                                              \
    do {                                                                                           \
        awq_status got_ = (call), want_ = (expected);                                              \
        if (got_ != want_)                                                                         \
            fail_msg("%s\n  gives:    %s\n  expected: %s", #call, awq_status_string(got_),         \
                     awq_status_string(want_));                                                    \
    } while (0)

#define assert_close(value, expected, tolerance)                                                   \
    do {                                                                                           \
        double got_ = (double)(value), want_ = (double)(expected);                                 \
        if (!(magnitude(got_ - want_) <= (tolerance)))                                             \
            fail_msg("%s is %.9g, not %.9g +- %g", #value, got_, want_, (double)(tolerance));      \
    } while (0)

static inline double not_a_number(void) { return widen(AWQ_F32, 0x7FC00000u); }
static inline double infinity(void) { return widen(AWQ_F32, 0x7F800000u); }

/*  Statistics in guarded memory.                                                                 */
static inline awq_stats new_stats(pool *p, size_t in_features, size_t sketch_rows, int with_gram,
                                  uint64_t sketch_seed)
{
    awq_stats stats;
    size_t size = awq_stats_size(in_features, sketch_rows, with_gram);
    assert_true(size > 0);
    assert_status(awq_stats_init(&stats, in_features, sketch_rows, with_gram, sketch_seed,
                                 pool_aligned(p, size, sizeof(double)), size), AWQ_OK);
    return stats;
}

/*  A real pool of threads behind awq_parallel.                                                   */
static inline awq_parallel threaded(parallel_pool *threads)
{
    awq_parallel parallel;
    parallel_start(threads, 3);
    parallel.run = parallel_run;
    parallel.context = threads;
    parallel.workers = threads->workers;
    return parallel;
}

#endif
