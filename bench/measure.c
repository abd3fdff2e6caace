#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS_LEAST 3
#define ROUNDS_MOST  301
#define PATIENCE     10     /* times the time of a line, after which one round must do            */
#define KEPT         3      /* readers that are measured beside a product: the best of all        */
#define METERS_MAX   (READERS_MAX + PEAKS_MAX)
#define SAMPLE_LEAST 5e-4   /* seconds; short calls are repeated until a sample takes this long   */
#define SAMPLE_MOST  1e-2   /* what a limit's sample need not exceed                              */
#define PEAK_STEPS   100000
#define THREADS_SEEN 64

/*  Something that has a rate: bytes, operations or calls per second of all threads together,
    sampled for at least so many seconds.                                                         */
typedef struct meter {
    double (*rate)(pool *p, void *what, double least);
    void *what;
    double samples[ROUNDS_MOST];
} meter;

/* ---- three kinds of meters ------------------------------------------------------------------- */

typedef struct reading {
    const reader *how;
    rotation *weights;
    const unsigned char *bytes;
    size_t share;               /* of each thread                                                 */
} reading;

static void read_share(void *arg, size_t thread)
{
    const reading *r = arg;
    volatile uint64_t sink = r->how->read(r->bytes + thread * r->share, r->share);
    (void)sink;
}

static double read_rate(pool *p, void *what, double least)
{
    reading *r = what;
    size_t calls = 0;
    double begin, seconds;
    r->share = r->weights->size / pool_threads(p) / 64 * 64;
    begin = seconds_now();
    do {
        r->bytes = rotation_next(r->weights);
        pool_run(p, read_share, r);
        calls++;
        seconds = seconds_now() - begin;
    } while (seconds < least);
    return (double)(calls * r->share * pool_threads(p)) / seconds;
}

static void peak_steps(void *arg, size_t thread)
{
    const peak *how = arg;
    volatile uint64_t sink = how->run(PEAK_STEPS);
    (void)sink, (void)thread;
}

static double peak_rate(pool *p, void *what, double least)
{
    const peak *how = what;
    size_t calls = 0;
    double begin = seconds_now(), seconds;
    do {
        pool_run(p, peak_steps, what);
        calls++;
        seconds = seconds_now() - begin;
    } while (seconds < least);
    return PEAK_STEPS * how->ops_per_step * (double)(calls * pool_threads(p)) / seconds;
}

static double call_rate(pool *p, void *what, double least)
{
    work *w = what;
    size_t calls = 0;
    double begin = seconds_now(), seconds;
    do {
        w->run(w->arg, rotation_next(&w->weights), p);
        calls++;
        seconds = seconds_now() - begin;
    } while (seconds < least);
    return (double)calls / seconds;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/*  How long one line may take, beyond its least number of rounds.                                */
static double line_seconds(void)
{
    const char *text = getenv("BENCH_SECONDS");
    double seconds = text ? atof(text) : 0;
    return seconds > 0 ? seconds : 0.5;
}

/*  All meters run as long as the first: a core that multiplies 512 bits wide slows down within
    milliseconds, so a shorter limit would be one that no product can hold.                       */
static void run_round(pool *p, meter *meters, size_t count, size_t round)
{
    double begin = seconds_now(), least = SAMPLE_LEAST;
    size_t i;
    for (i = 0; i < count; i++) {
        meters[i].samples[round] = meters[i].rate(p, meters[i].what, least);
        if (i == 0) least = seconds_now() - begin;
        if (least > SAMPLE_MOST) least = SAMPLE_MOST;
    }
}

static size_t run_rounds(pool *p, meter *meters, size_t count)
{
    const double begin = seconds_now(), enough = line_seconds();
    size_t round;
    for (round = 0; round < ROUNDS_MOST; round++) {
        double spent = seconds_now() - begin;
        if (round && spent > (round < ROUNDS_LEAST ? PATIENCE * enough : enough)) break;
        run_round(p, meters, count, round);
    }
    return round;
}

static double meter_median(const meter *m, size_t rounds)
{
    double sorted[ROUNDS_MOST];
    memcpy(sorted, m->samples, rounds * sizeof *sorted);
    return median(sorted, rounds);
}

/*  The meter of the highest median; NULL: there is none.                                         */
static const meter *best_of(const meter *meters, size_t count, size_t rounds)
{
    const meter *best = count ? meters : NULL;
    size_t i;
    for (i = 1; i < count; i++)
        if (meter_median(&meters[i], rounds) > meter_median(best, rounds)) best = &meters[i];
    return best;
}

/*  Meters of readers or peaks, over arrays that the caller keeps.                                */
static void meter_readers(meter *meters, reading *readings, const reader *readers, size_t count,
                          rotation *weights)
{
    size_t i;
    memset(readings, 0, count * sizeof *readings);
    for (i = 0; i < count; i++) {
        readings[i].how = &readers[i];
        readings[i].weights = weights;
        meters[i].rate = read_rate;
        meters[i].what = &readings[i];
    }
}

static void meter_peaks(meter *meters, peak *peaks, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        meters[i].rate = peak_rate;
        meters[i].what = &peaks[i];
    }
}

/*  The readers that are best for this many threads, in memory or in a cache; found once.         */
static const reader *best_readers(pool *p, rotation *weights)
{
    static reader best[THREADS_SEEN + 1][2][KEPT];
    reader *kept = best[pool_threads(p)][weights->copies > 1], readers[READERS_MAX];
    reading readings[READERS_MAX];
    meter meters[READERS_MAX];
    size_t count, rounds, i;

    if (kept[0].read) return kept;
    count = limit_readers(readers);
    meter_readers(meters, readings, readers, count, weights);
    rounds = run_rounds(p, meters, count);
    for (i = 0; i < KEPT; i++) {
        const meter *next = best_of(meters, count, rounds);
        kept[i] = *((const reading *)next->what)->how;
        memset(meters[next - meters].samples, 0, sizeof next->samples);
    }
    return kept;
}

/* ---- products -------------------------------------------------------------------------------- */

/*  Operations per second that the limits of one round allow.                                     */
static double limit_of(const work *w, const meter *read, const meter *peak_meter, size_t round)
{
    double ops = 2 * w->weight_count * w->tokens;
    double by_bytes = ops * read->samples[round] / (double)w->weights.size;
    double by_peak = peak_meter ? w->peak_share * peak_meter->samples[round] : by_bytes;
    return by_bytes < by_peak ? by_bytes : by_peak;
}

measurement measure(pool *p, work *w, work *other)
{
    meter meters[2 + KEPT + PEAKS_MAX];
    meter *peaks = meters + 1, *readers, *end;
    peak peak_list[PEAKS_MAX];
    reading readings[KEPT];
    size_t peak_count = limit_peaks(w->peak, peak_list), rounds, i;
    double of_limit[ROUNDS_MOST], of_other[ROUNDS_MOST];
    const meter *read, *multiply;
    measurement m = { 0, (double)NAN, (double)NAN };

    meters[0].rate = call_rate;
    meters[0].what = w;
    meter_peaks(peaks, peak_list, peak_count);
    readers = peaks + peak_count;
    meter_readers(readers, readings, best_readers(p, &w->weights), KEPT, &w->weights);
    end = readers + KEPT;
    end->rate = call_rate;
    end->what = other;
    rounds = run_rounds(p, meters, (size_t)(end - meters) + (other != NULL));

    read = best_of(readers, KEPT, rounds);
    multiply = best_of(peaks, peak_count, rounds);
    for (i = 0; i < rounds; i++) {
        double ops = 2 * w->weight_count * w->tokens * meters[0].samples[i];
        of_limit[i] = ops / limit_of(w, read, multiply, i);
        if (other) of_other[i] = ops / (2 * other->weight_count * other->tokens * end->samples[i]);
    }
    m.seconds = 1 / meter_median(&meters[0], rounds);
    /* without a peak only the bytes of one token are a limit worth naming */
    if (multiply || w->tokens <= 1) m.of_limit = median(of_limit, rounds);
    if (other) m.of_other = median(of_other, rounds);
    return m;
}

measurement measure_beside(pool *p, work *w, work *other)
{
    meter meters[2];
    double of_other[ROUNDS_MOST];
    size_t rounds, i;
    measurement m = { 0, (double)NAN, (double)NAN };

    meters[0].rate = meters[1].rate = call_rate;
    meters[0].what = w;
    meters[1].what = other;
    rounds = run_rounds(p, meters, COUNT(meters));
    for (i = 0; i < rounds; i++) of_other[i] = meters[0].samples[i] / meters[1].samples[i];
    m.seconds = 1 / meter_median(&meters[0], rounds);
    m.of_other = median(of_other, rounds);
    return m;
}

void report_product(bench_state *state, const work *w, const measurement *m)
{
    bench_time(state, m->seconds);
    bench_value(state, "GOP/s", 2e-9 * w->weight_count * w->tokens / m->seconds);
    bench_value(state, "GB/s", 1e-9 * (double)w->weights.size / m->seconds);
    if (m->of_limit == m->of_limit) bench_value(state, "of_limit", m->of_limit);
}

typedef struct call { void (*run)(void *arg, pool *p); void *arg; } call;

static void run_call(void *arg, const unsigned char *weights, pool *p)
{
    const call *c = arg;
    (void)weights;
    c->run(c->arg, p);
}

double measure_alone(void (*run)(void *arg, pool *p), void *arg, pool *p)
{
    call c = { NULL, NULL };
    work w;
    meter m;
    size_t rounds;

    c.run = run;
    c.arg = arg;
    memset(&w, 0, sizeof w);
    w.run = run_call;
    w.arg = &c;
    w.weights = rotation_in_place("", 1);
    m.rate = call_rate;
    m.what = &w;
    rounds = run_rounds(p, &m, 1);
    return 1 / meter_median(&m, rounds);
}

/* ---- the lines of the limits ----------------------------------------------------------------- */

typedef struct limit_case { size_t threads; peak peak; } limit_case;

static void bench_read(bench_state *state, const void *argument)
{
    const limit_case *c = argument;
    const shape s = { 4096, 4096 };
    const layer *l = layer_of(s);
    rotation weights = rotation_of(l->bytes, l->packed.size);
    reader readers[READERS_MAX];
    reading readings[READERS_MAX];
    meter meters[READERS_MAX];
    size_t count = limit_readers(readers), rounds;
    pool *p = pool_open(c->threads);
    const meter *best;

    meter_readers(meters, readings, readers, count, &weights);
    rounds = run_rounds(p, meters, count);
    best = best_of(meters, count, rounds);
    bench_time(state, (double)weights.size / meter_median(best, rounds));
    bench_value(state, "GB/s", 1e-9 * meter_median(best, rounds));
    bench_value(state, "GOP/s", 2e-9 * weight_count(s) * meter_median(best, rounds)
                                    / (double)weights.size);
    bench_label(state, ((const reading *)best->what)->how->name);
    pool_close(p);
}

static void bench_peak(bench_state *state, const void *argument)
{
    limit_case c = *(const limit_case *)argument;
    pool *p = pool_open(c.threads);
    meter m;
    size_t rounds;

    meter_peaks(&m, &c.peak, 1);
    rounds = run_rounds(p, &m, 1);
    bench_time(state, PEAK_STEPS * c.peak.ops_per_step * (double)c.threads
                          / meter_median(&m, rounds));
    bench_value(state, "GOP/s", 1e-9 * meter_median(&m, rounds));
    pool_close(p);
}

static void add_limit(const char *name, bench_body *body, size_t threads, const peak *how)
{
    limit_case c = { 0, { NULL, PEAK_INT8, 0, NULL } };
    char line[NAME_LENGTH];
    c.threads = threads;
    if (how) c.peak = *how;
    snprintf(line, sizeof line, "limit/%s%s/threads:%zu", name, how ? how->name : "", threads);
    bench_add(line, body, &c, sizeof c);
}

void add_limits(void)
{
    peak int8[PEAKS_MAX], fp32[PEAKS_MAX];
    size_t int8_count = limit_peaks(PEAK_INT8, int8), fp32_count = limit_peaks(PEAK_FP32, fp32);
    size_t threads, i;
    for (threads = 1; threads <= 2 && threads <= pool_processors(); threads++) {
        add_limit("read", bench_read, threads, NULL);
        for (i = 0; i < int8_count; i++) add_limit("int8/", bench_peak, threads, &int8[i]);
        for (i = 0; i < fp32_count; i++) add_limit("fp32/", bench_peak, threads, &fp32[i]);
    }
}
