/*  matmul.c - awq_prepare and awq_matmul together, and awq_prepare alone.                        */
#include "measure.h"
#include "rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const shape large_shapes[LARGE_SHAPES] = { { 4096, 4096 }, { 14336, 4096 }, { 4096, 14336 } };
const size_t token_counts[TOKEN_COUNTS] = { 1, 4, 16, 64, 512 };

/*  Shapes of small models, in the caches; the last one, half a MiB of 4096 x 4096, is what the
    others are compared with.                                                                     */
static const shape small_shapes[] = { { 576, 576 },   { 1536, 576 },  { 576, 1536 },
                                      { 1024, 1024 }, { 2048, 2048 }, { 240, 4096 } };

#define SPLIT_TOKENS         8  /* fewer are prepared by one thread                               */
#define PORTABLE_TOKENS_MOST 64 /* more would take seconds a call                                 */

size_t threads_most(void) { return pool_processors() < 2 ? pool_processors() : 2; }

typedef struct matmul_case {
    awq_kernels kernels;
    awq_precision precision;
    shape shape;
    size_t tokens, threads;
    int rotated;
} matmul_case;

/* ---- one product ----------------------------------------------------------------------------- */

typedef struct product {
    const matmul_case *c;
    const layer *layer;
    float *y;
    void *prepared_memory;
    size_t prepared_size;
    awq_prepared prepared;
    awq_packed weights;         /* those of this call                                             */
    pool *threads;
} product;

static product open_product(const matmul_case *c)
{
    product run;
    memset(&run, 0, sizeof run);
    run.c = c;
    run.layer = layer_of(c->shape);
    run.weights = run.layer->packed;
    run.y = memory(c->tokens * c->shape.out_features * sizeof *run.y);
    run.prepared_size = awq_prepared_size(&c->kernels, c->shape.in_features, GROUP_SIZE,
                                          c->precision, c->tokens);
    run.prepared_memory = memory(run.prepared_size);
    return run;
}

static void close_product(product *run)
{
    free(run->prepared_memory);
    free(run->y);
}

static void prepare(product *run, size_t token_begin, size_t token_end, awq_prepared *prepared)
{
    const matmul_case *c = run->c;
    awq_matrix x = awq_matrix_view(run->layer->x, AWQ_F32, c->tokens, c->shape.in_features);
    must(awq_prepare(&c->kernels, GROUP_SIZE, c->precision, x, NULL, run->prepared_memory,
                     run->prepared_size, token_begin, token_end, prepared, NULL), "awq_prepare");
}

static void prepare_share(product *run, size_t thread)
{
    const size_t tokens = run->c->tokens;
    const size_t threads = tokens < SPLIT_TOKENS ? 1 : pool_threads(run->threads);
    awq_prepared same;
    if (thread < threads)
        prepare(run, tokens * thread / threads, tokens * (thread + 1) / threads,
                thread ? &same : &run->prepared);
}

/*  Every thread has one large contiguous range of rows: fine interleaving costs memory bandwidth.*/
static void multiply_share(product *run, size_t thread)
{
    const size_t rows = run->c->shape.out_features, threads = pool_threads(run->threads);
    const size_t steps = (rows + AWQ_ROW_STEP - 1) / AWQ_ROW_STEP;
    const size_t begin = steps * thread / threads * AWQ_ROW_STEP;
    const size_t end = steps * (thread + 1) / threads * AWQ_ROW_STEP;
    awq_matrix y = awq_matrix_view(run->y, AWQ_F32, run->c->tokens, rows);
    must(awq_matmul(&run->c->kernels, &run->weights, &run->prepared, NULL, y, begin,
                    end < rows ? end : rows), "awq_matmul");
}

static void prepare_and_multiply_share(void *arg, size_t thread)
{
    product *run = arg;
    prepare_share(run, thread);
    pool_barrier(run->threads);
    multiply_share(run, thread);
}

static void prepare_and_multiply(void *arg, const unsigned char *weights, pool *p)
{
    product *run = arg;
    run->threads = p;
    run->weights.data = weights;
    pool_run(p, prepare_and_multiply_share, run);
}

/*  The kernel alone, on one thread, for activations prepared before.                             */
static void multiply(void *arg, const unsigned char *weights, pool *p)
{
    product *run = arg;
    run->threads = p;
    run->weights.data = weights;
    multiply_share(run, 0);
}

static work work_of(product *run)
{
    const matmul_case *c = run->c;
    work w;
    w.run = prepare_and_multiply;
    w.arg = run;
    w.weights = c->rotated ? rotation_of(run->layer->bytes, run->layer->packed.size)
                           : rotation_in_place(run->layer->bytes, run->layer->packed.size);
    w.weight_count = weight_count(c->shape);
    w.tokens = (double)c->tokens;
    w.peak = PEAK_INT8;
    w.peak_share = c->precision == AWQ_A16 ? 0.5 : 1;
    return w;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void report_errors(bench_state *state, const layer *l, const float *y, size_t tokens)
{
    double largest, rms;
    layer_errors(l, y, tokens, &largest, &rms);
    bench_value(state, "max_error", largest);
    bench_value(state, "rms_error", rms);
}

/*  A layer larger than the caches.                                                               */
static void bench_large(bench_state *state, const void *argument)
{
    const matmul_case *c = argument;
    product run = open_product(c);
    pool *p = pool_open(c->threads);
    work w = work_of(&run);
    measurement m = measure(p, &w, NULL);

    report_product(state, &w, &m);
    report_errors(state, run.layer, run.y, c->tokens);
    pool_close(p);
    close_product(&run);
}

/*  A layer in the caches, beside the kernel alone on half a MiB of a large one.                  */
static void bench_small(bench_state *state, const void *argument)
{
    const matmul_case *c = argument;
    matmul_case slice_case = *c;
    product run = open_product(c), slice;
    pool *p = pool_open(1);
    work w = work_of(&run), of_slice;
    measurement m;

    slice_case.shape = small_shapes[COUNT(small_shapes) - 1];
    slice = open_product(&slice_case);
    of_slice = work_of(&slice);
    slice.threads = p;
    prepare_share(&slice, 0);
    of_slice.run = multiply;
    m = measure(p, &w, &of_slice);

    report_product(state, &w, &m);
    bench_value(state, "of_slice", m.of_other);
    report_errors(state, run.layer, run.y, c->tokens);
    pool_close(p);
    close_product(&slice);
    close_product(&run);
}

static void prepare_all(void *arg, pool *p)
{
    product *run = arg;
    (void)p;
    prepare(run, 0, run->c->tokens, &run->prepared);
}

static void bench_prepare(bench_state *state, const void *argument)
{
    const matmul_case *c = argument;
    product run = open_product(c);
    pool *p = pool_open(1);
    double seconds = measure_alone(prepare_all, &run, p);

    bench_time(state, seconds);
    bench_value(state, "GB/s", 4e-9 * (double)(c->tokens * c->shape.in_features) / seconds);
    pool_close(p);
    close_product(&run);
}

/* ---- the list -------------------------------------------------------------------------------- */

static const char *precision_name(awq_precision precision)
{
    return precision == AWQ_A8 ? "a8" : "a16";
}

static void add_line(bench_body *body, const matmul_case *c)
{
    char name[NAME_LENGTH];
    snprintf(name, sizeof name, "matmul/awq/%s/%s/%zux%zu/g%d/tokens:%zu/threads:%zu",
             c->kernels.name, precision_name(c->precision), c->shape.out_features,
             c->shape.in_features, GROUP_SIZE, c->tokens, c->threads);
    bench_add(name, body, c, sizeof *c);
}

static void add_large(matmul_case c)
{
    const int slow = strcmp(c.kernels.name, "portable") == 0;
    size_t t;
    for (t = 0; t < TOKEN_COUNTS; t++)
        for (c.threads = 1; c.threads <= threads_most(); c.threads++) {
            c.tokens = token_counts[t];
            if (!slow || c.tokens <= PORTABLE_TOKENS_MOST) add_line(bench_large, &c);
        }
}

static void add_prepare(const matmul_case *c)
{
    char name[NAME_LENGTH];
    snprintf(name, sizeof name, "prepare/awq/%s/%s/%zu/g%d/tokens:%zu/threads:1", c->kernels.name,
             precision_name(c->precision), c->shape.in_features, GROUP_SIZE, c->tokens);
    bench_add(name, bench_prepare, c, sizeof *c);
}

void add_matmuls(const awq_kernels *k, size_t shape_begin, size_t shape_end)
{
    const awq_precision precisions[] = { AWQ_A8, AWQ_A16 };
    matmul_case c = { *k, AWQ_A8, large_shapes[0], 1, 1, 1 };
    size_t i, p;
    for (i = shape_begin; i < shape_end; i++)
        for (p = 0; p < COUNT(precisions); p++) {
            c.shape = large_shapes[i];
            c.precision = precisions[p];
            add_large(c);
        }
}

void add_small_matmuls(const awq_kernels *k)
{
    matmul_case c = { *k, AWQ_A8, small_shapes[0], 1, 1, 0 };
    size_t i;
    for (i = 0; i < COUNT(small_shapes); i++) {
        c.shape = small_shapes[i];
        c.precision = AWQ_A8;
        add_line(bench_small, &c);
        c.precision = AWQ_A16;
        add_line(bench_small, &c);
    }
}

void add_prepares(const awq_kernels *k)
{
    matmul_case c = { *k, AWQ_A8, large_shapes[0], 1, 1, 0 };
    size_t t;
    for (t = 0; t < TOKEN_COUNTS; t += 2) {
        c.tokens = token_counts[t];
        c.precision = AWQ_A8;
        add_prepare(&c);
        c.precision = AWQ_A16;
        add_prepare(&c);
    }
}
