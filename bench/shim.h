/*  shim.h - the little of Google Benchmark that the benchmarks need, in C. It selects lines, prints
    and writes them; what a line measures, and how often, is its own business.                    */
#ifndef BENCH_SHIM_H
#define BENCH_SHIM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NAME_LENGTH 160

typedef struct bench_state bench_state;
typedef void bench_body(bench_state *state, const void *argument);

/*  One line of the report; the argument is copied.                                               */
void bench_add(const char *name, bench_body *body, const void *argument, size_t argument_size);

/*  A body calls bench_time once, with the seconds of one call of what it measures, or bench_fail
    with the reason why there are none; then its columns, and words after them.                   */
void bench_time(bench_state *state, double seconds);
void bench_fail(bench_state *state, const char *why);
void bench_value(bench_state *state, const char *name, double value);
void bench_label(bench_state *state, const char *text);

/*  A line at the top of the report.                                                              */
void bench_context(const char *key, const char *value);

int  bench_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
