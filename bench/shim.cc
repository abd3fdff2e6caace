#include "shim.h"

#include <benchmark/benchmark.h>

static benchmark::State &of(bench_state *state)
{
    return *reinterpret_cast<benchmark::State *>(state);
}

void bench_add(const char *name, bench_body *body, const void *argument)
{
    benchmark::RegisterBenchmark(name, [body, argument](benchmark::State &state) {
        body(reinterpret_cast<bench_state *>(&state), argument);
    })->Unit(benchmark::kMicrosecond);
}

int bench_next(bench_state *state) { return of(state).KeepRunning(); }

void bench_rate(bench_state *state, const char *name, double per_iteration)
{
    of(state).counters[name] = benchmark::Counter(
        per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

void bench_value(bench_state *state, const char *name, double value)
{
    of(state).counters[name] = value;
}

void bench_fail(bench_state *state, const char *why) { of(state).SkipWithError(why); }

void bench_context(const char *key, const char *value)
{
    benchmark::AddCustomContext(key, value);
}

int bench_main(int argc, char **argv)
{
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    return benchmark::RunSpecifiedBenchmarks() > 0 ? 0 : 1;
}
