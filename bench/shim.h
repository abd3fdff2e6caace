/*  shim.h - the little of Google Benchmark that the benchmarks need, in C.                       */
#ifndef BENCH_SHIM_H
#define BENCH_SHIM_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bench_state bench_state;
typedef void bench_body(bench_state *state, const void *argument);

/*  One line of the report. body sets up, then does its work `while (bench_next(state))`.         */
void bench_add(const char *name, bench_body *body, const void *argument);
int  bench_next(bench_state *state);

/*  Columns: amount done per iteration, shown per second; a plain number; or why there is none.   */
void bench_rate(bench_state *state, const char *name, double per_iteration);
void bench_value(bench_state *state, const char *name, double value);
void bench_fail(bench_state *state, const char *why);

/*  A line at the top of the report.                                                              */
void bench_context(const char *key, const char *value);

int  bench_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
