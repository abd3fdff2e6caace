#include "shim.h"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

using benchmark::BenchmarkReporter;

static benchmark::State &of(bench_state *state)
{
    return *reinterpret_cast<benchmark::State *>(state);
}

void bench_add(const char *name, bench_body *body, const void *argument, size_t argument_size)
{
    const char *begin = static_cast<const char *>(argument);
    const std::vector<char> copy(begin, begin + argument_size);
    benchmark::RegisterBenchmark(name, [body, copy](benchmark::State &state) {
        body(reinterpret_cast<bench_state *>(&state), copy.data());
    })->Unit(benchmark::kMicrosecond)->UseManualTime();
}

void bench_time(bench_state *state, double seconds)
{
    of(state).KeepRunning();
    of(state).SetIterationTime(seconds);
    of(state).KeepRunning(); /* the one iteration ends */
}

void bench_fail(bench_state *state, const char *why) { of(state).SkipWithError(why); }

void bench_value(bench_state *state, const char *name, double value)
{
    of(state).counters[name] = value;
}

void bench_label(bench_state *state, const char *text) { of(state).SetLabel(text); }

void bench_context(const char *key, const char *value)
{
    benchmark::AddCustomContext(key, value);
}

/*  Names as they were given: Google Benchmark adds how time was taken.                           */
template <class Reporter> struct plain_names : Reporter {
    void ReportRuns(const std::vector<BenchmarkReporter::Run> &runs) override
    {
        std::vector<BenchmarkReporter::Run> renamed(runs);
        for (auto &run : renamed) run.run_name.time_type.clear();
        Reporter::ReportRuns(renamed);
    }
};

/*  Why a line was skipped, or NULL; the members have other names since Google Benchmark 1.8.       */
template <class Run> auto skipped(const Run &run, int) -> decltype(run.error_message.c_str())
{
    return run.error_message.empty() ? nullptr : run.error_message.c_str();
}
template <class Run> auto skipped(const Run &run, long) -> decltype(run.skip_message.c_str())
{
    return run.skip_message.empty() ? nullptr : run.skip_message.c_str();
}

/*  Only the columns that mean something here: the time of a call, and what the line adds.        */
struct console : plain_names<benchmark::ConsoleReporter> {
    void PrintHeader(const BenchmarkReporter::Run &) override {}
    void PrintRunData(const BenchmarkReporter::Run &run) override
    {
        std::printf("%-*s ", static_cast<int>(name_field_width_), run.benchmark_name().c_str());
        if (skipped(run, 0)) std::printf("skipped: %s", skipped(run, 0));
        else std::printf("%11.1f us", run.GetAdjustedRealTime());
        for (const auto &counter : run.counters)
            std::printf("  %s %.4g", counter.first.c_str(), counter.second.value);
        std::printf("  %s\n", run.report_label.c_str());
        std::fflush(stdout);
    }
};

static bool given(int argc, char **argv, const char *option)
{
    for (int i = 1; i < argc; i++)
        if (std::strncmp(argv[i], option, std::strlen(option)) == 0) return true;
    return false;
}

int bench_main(int argc, char **argv)
{
    console to_console;
    plain_names<benchmark::JSONReporter> to_file;
    const bool own_format = given(argc, argv, "--benchmark_format=");
    const bool has_file = given(argc, argv, "--benchmark_out=");
    char once[] = "--benchmark_min_time=0.000000001"; /* a line repeats its own work */
    std::vector<char *> arguments(argv, argv + argc);
    arguments.insert(arguments.begin() + 1, once);
    int count = static_cast<int>(arguments.size());
    arguments.push_back(nullptr);

    benchmark::Initialize(&count, arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
    std::string filter = benchmark::GetBenchmarkFilter();
    if (filter.empty()) filter = ".";
    if (filter.back() == '$') filter.insert(filter.size() - 1, "(/manual_time)?");
    return benchmark::RunSpecifiedBenchmarks(own_format ? nullptr : &to_console,
                                             has_file ? &to_file : nullptr, filter) > 0 ? 0 : 1;
}
