/*  quantize.c - what comes before a product: statistics, scale search, quantize and pack.        */
#include "measure.h"
#include "rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const shape square = { 4096, 4096 };

#define CALIBRATION_TOKENS 512
#define CHUNKS_PER_THREAD  8

typedef struct quantize_case {
    awq_kernels kernels;
    size_t sketch_rows, threads;
    int with_gram;
} quantize_case;

/* ---- the pool as an awq_parallel ------------------------------------------------------------- */

typedef struct loop {
    awq_task *task;
    void *arg;
    size_t count, chunk, next;
} loop;

static void take_chunks(void *argument, size_t thread)
{
    loop *l = argument;
    for (;;) {
        size_t begin = __atomic_fetch_add(&l->next, l->chunk, __ATOMIC_RELAXED);
        size_t left = begin < l->count ? l->count - begin : 0;
        if (!left) return;
        l->task(l->arg, begin, begin + (left < l->chunk ? left : l->chunk), thread);
    }
}

static void run_loop(void *context, size_t count, size_t step, awq_task *task, void *arg)
{
    pool *p = context;
    size_t chunks = pool_threads(p) * CHUNKS_PER_THREAD, steps = (count + step - 1) / step;
    loop l;
    l.task = task;
    l.arg = arg;
    l.count = count;
    l.chunk = (steps + chunks - 1) / chunks * step;
    l.next = 0;
    pool_run(p, take_chunks, &l);
}

static awq_parallel parallel_of(pool *p)
{
    awq_parallel parallel;
    parallel.run = run_loop;
    parallel.context = p;
    parallel.workers = pool_threads(p);
    return parallel;
}

/* ---- the work -------------------------------------------------------------------------------- */

typedef struct quantize_run {
    const quantize_case *c;
    float *weight_data, *rows_data, *scale;
    awq_matrix weight, rows;
    awq_inputs inputs;
    awq_stats stats;
    void *stats_memory, *scratch;
    size_t scratch_size;
    unsigned char *bytes;
    size_t size;
} quantize_run;

static void *make_stats(const quantize_case *c, awq_stats *stats)
{
    size_t size = awq_stats_size(square.in_features, c->sketch_rows, c->with_gram);
    void *room = memory(size);
    must(awq_stats_init(stats, square.in_features, c->sketch_rows, c->with_gram, 1, room, size),
         "awq_stats_init");
    return room;
}

static void open_run(quantize_run *run, const quantize_case *c)
{
    memset(run, 0, sizeof *run);
    run->c = c;
    run->rows_data = random_normal(CALIBRATION_TOKENS * square.in_features, 3);
    run->rows = awq_matrix_view(run->rows_data, AWQ_F32, CALIBRATION_TOKENS, square.in_features);
    run->weight_data = random_normal(square.out_features * square.in_features, 1);
    run->weight = awq_matrix_view(run->weight_data, AWQ_F32, square.out_features,
                                  square.in_features);
    run->stats_memory = make_stats(c, &run->stats);
}

static void close_run(quantize_run *run)
{
    free(run->bytes);
    free(run->scratch);
    free(run->scale);
    free(run->stats_memory);
    free(run->weight_data);
    free(run->rows_data);
}

static void add_stats(void *arg, pool *p)
{
    quantize_run *run = arg;
    awq_parallel parallel = parallel_of(p);
    must(awq_stats_add(&run->c->kernels, &run->stats, run->rows, NULL, &parallel, NULL),
         "awq_stats_add");
}

static void search(void *arg, pool *p)
{
    quantize_run *run = arg;
    const awq_search_config config = awq_search_preset(AWQ_PRESET_LLM_AWQ, quant_4bit());
    awq_parallel parallel = parallel_of(p);
    awq_search_result result;
    must(awq_search(&run->c->kernels, &config, &run->inputs, &run->weight, 1, run->scratch,
                    run->scratch_size, &parallel, run->scale, NULL, &result, NULL), "awq_search");
}

static void quantize_and_pack(void *arg, pool *p)
{
    quantize_run *run = arg;
    (void)p;
    must(awq_quantize_packed(&run->c->kernels, run->weight, NULL, NULL, run->bytes, run->size, 0,
                             square.out_features, NULL), "awq_quantize_packed");
}

/* ---- better grids and integers ---------------------------------------------------------------- */

typedef struct improve_run {
    quantize_run base;
    awq_tensor tensor;
    awq_hessian hessian;
    void *tensor_memory, *hessian_memory;
    size_t hessian_size;
    float *importance;
} improve_run;

static void fit_range(void *arg, size_t begin, size_t end, size_t worker)
{
    improve_run *run = arg;
    (void)worker;
    must(awq_fit(&run->base.c->kernels, run->base.weight, NULL, run->importance, &run->tensor,
                 begin, end, NULL), "awq_fit");
}

static void fit(void *arg, pool *p) { run_loop(p, square.out_features, 1, fit_range, arg); }

static void factor(void *arg, pool *p)
{
    improve_run *run = arg;
    awq_parallel parallel = parallel_of(p);
    must(awq_hessian_init(&run->base.c->kernels, &run->base.stats, NULL, 0.01, AWQ_ORDER_ACTIVATION,
                          run->hessian_memory, run->hessian_size, &parallel, &run->hessian, NULL),
         "awq_hessian_init");
}

static void round_twice(void *arg, pool *p)
{
    improve_run *run = arg;
    const awq_round_config config = { 2, 0 };
    awq_parallel parallel = parallel_of(p);
    must(awq_round(&run->base.c->kernels, &config, &run->hessian, run->base.weight, NULL,
                   &run->tensor, run->base.scratch, run->base.scratch_size, &parallel, NULL),
         "awq_round");
}

static void open_improve(improve_run *run, const quantize_case *c, pool *p)
{
    size_t in = square.in_features, size = awq_tensor_size(quant_4bit(), square.out_features, in);
    awq_parallel parallel = parallel_of(p);
    open_run(&run->base, c);
    add_stats(&run->base, p);
    run->tensor_memory = memory(size);
    must(awq_tensor_init(&run->tensor, quant_4bit(), square.out_features, in, run->tensor_memory,
                         size), "awq_tensor_init");
    run->importance = memory(in * sizeof *run->importance);
    must(awq_stats_get(&run->base.stats, AWQ_SQ_MEAN, run->importance), "awq_stats_get");
    run->hessian_size = awq_hessian_size(in);
    run->hessian_memory = memory(run->hessian_size);
    run->base.scratch_size = awq_round_scratch_size(in, &parallel);
    run->base.scratch = memory(run->base.scratch_size);
}

static void close_improve(improve_run *run)
{
    free(run->tensor_memory);
    free(run->hessian_memory);
    free(run->importance);
    close_run(&run->base);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void report_weights(bench_state *state, double seconds)
{
    bench_time(state, seconds);
    bench_value(state, "ms", 1e3 * seconds);
    bench_value(state, "Mweights/s", 1e-6 * weight_count(square) / seconds);
}

static void bench_stats(bench_state *state, const void *argument)
{
    const quantize_case *c = argument;
    pool *p = pool_open(c->threads);
    quantize_run run;
    double seconds;

    open_run(&run, c);
    seconds = measure_alone(add_stats, &run, p);
    bench_time(state, seconds);
    bench_value(state, "ktokens/s", 1e-3 * CALIBRATION_TOKENS / seconds);
    close_run(&run);
    pool_close(p);
}

/*  20 ratios: the loss on the rows, or on their sketch if the case has one.                      */
static void bench_search(bench_state *state, const void *argument)
{
    const quantize_case *c = argument;
    pool *p = pool_open(c->threads);
    awq_parallel parallel = parallel_of(p);
    quantize_run run;

    open_run(&run, c);
    add_stats(&run, p);
    run.inputs.loss = c->sketch_rows ? AWQ_LOSS_SKETCH : AWQ_LOSS_ROWS;
    run.inputs.rows = run.rows;
    run.inputs.stats = &run.stats;
    run.scale = memory(square.in_features * sizeof *run.scale);
    run.scratch_size = awq_search_scratch_size(&run.inputs, &run.weight, 1, &parallel);
    run.scratch = memory(run.scratch_size);
    report_weights(state, measure_alone(search, &run, p));
    close_run(&run);
    pool_close(p);
}

static void bench_quantize(bench_state *state, const void *argument)
{
    const quantize_case *c = argument;
    pool *p = pool_open(1);
    quantize_run run;

    open_run(&run, c);
    run.size = awq_packed_size(quant_4bit(), square.out_features, square.in_features);
    run.bytes = memory(run.size);
    must(awq_packed_init(quant_4bit(), square.out_features, square.in_features, run.bytes,
                         run.size), "awq_packed_init");
    report_weights(state, measure_alone(quantize_and_pack, &run, p));
    close_run(&run);
    pool_close(p);
}

/* ---- the list -------------------------------------------------------------------------------- */

static void add_line(bench_body *body, const quantize_case *c, const char *what,
                     const char *details)
{
    char name[NAME_LENGTH];
    snprintf(name, sizeof name, "%s/awq/%s/%s/threads:%zu", what, c->kernels.name, details,
             c->threads);
    bench_add(name, body, c, sizeof *c);
}

/*  Each needs what the one before it has made.                                                   */
static void bench_improve(bench_state *state, const void *argument,
                          void (*what)(void *arg, pool *p))
{
    const quantize_case *c = argument;
    pool *p = pool_open(c->threads);
    improve_run run;

    open_improve(&run, c, p);
    if (what != fit) fit(&run, p);
    if (what == round_twice) factor(&run, p);
    report_weights(state, measure_alone(what, &run, p));
    close_improve(&run);
    pool_close(p);
}

static void bench_fit(bench_state *s, const void *c) { bench_improve(s, c, fit); }
static void bench_factor(bench_state *s, const void *c) { bench_improve(s, c, factor); }
static void bench_round(bench_state *s, const void *c) { bench_improve(s, c, round_twice); }

void add_quantizers(const awq_kernels *k, int is_best)
{
    const quantize_case one = { *k, 0, 1, 0 }, two = { *k, 0, threads_most(), 0 };
    quantize_case sketch = one, sketch_two = two, gram = one, gram_two = two;

    sketch.sketch_rows = sketch_two.sketch_rows = 128;
    gram.with_gram = gram_two.with_gram = 1;
    add_line(bench_quantize, &one, "quantize_pack", "4096x4096/g128");
    if (!is_best) return; /* the other sets would take minutes to say how much slower they are */
    add_line(bench_search, &two, "search", "rows:512/4096x4096/g128");
    add_line(bench_search, &sketch_two, "search", "sketch:128/4096x4096/g128");
    sketch_two.sketch_rows = 512;
    add_line(bench_search, &sketch_two, "search", "sketch:512/4096x4096/g128");
    add_line(bench_fit, &gram_two, "fit", "4096x4096/g128");
    add_line(bench_factor, &gram_two, "factor", "4096");
    add_line(bench_round, &gram_two, "round", "passes:2/4096x4096/g128");
    add_line(bench_stats, &one, "stats", "sums/4096/tokens:512");
    add_line(bench_stats, &sketch, "stats", "sketch:128/4096/tokens:512");
    add_line(bench_stats, &gram, "stats", "gram/4096/tokens:512");
}
