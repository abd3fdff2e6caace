/*  openblas.c - the same products in fp32, by OpenBLAS where it was found. Threads are those of the
    pool, pinned, each with its rows and OpenBLAS on one thread.                                  */
#include "measure.h"
#include "rows.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct blas_case { shape shape; size_t tokens, threads; } blas_case;

#ifdef BENCH_OPENBLAS
#include <cblas.h>

typedef struct blas_product {
    const blas_case *c;
    const layer *layer;
    const float *weights;
    float *y;
} blas_product;

static void multiply_share(void *arg, size_t thread)
{
    const blas_product *run = arg;
    const blas_case *c = run->c;
    const size_t in = c->shape.in_features, out = c->shape.out_features;
    const size_t begin = out * thread / c->threads, rows = out * (thread + 1) / c->threads - begin;
    const float *w = run->weights + begin * in;

    if (c->tokens == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)rows, (blasint)in, 1, w, (blasint)in,
                    run->layer->x, 1, 0, run->y + begin, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)c->tokens, (blasint)rows,
                    (blasint)in, 1, run->layer->x, (blasint)in, w, (blasint)in, 0, run->y + begin,
                    (blasint)out);
}

static void multiply(void *arg, const unsigned char *weights, pool *p)
{
    blas_product *run = arg;
    run->weights = (const float *)(const void *)weights;
    pool_run(p, multiply_share, run);
}

static void bench_blas(bench_state *state, const void *argument)
{
    const blas_case *c = argument;
    const layer *l = layer_of(c->shape);
    blas_product run = { c, l, NULL, NULL };
    size_t size = (size_t)weight_count(c->shape) * sizeof *l->dequantized;
    work w = { multiply, NULL, { NULL, 0, 0, 0 }, 0, 0, PEAK_FP32, 1 };
    pool *p = pool_open(c->threads);
    measurement m;
    double largest, rms;

    openblas_set_num_threads(1);
    run.y = memory(c->tokens * c->shape.out_features * sizeof *run.y);
    w.arg = &run;
    w.weights = rotation_of(l->dequantized, size);
    w.weight_count = weight_count(c->shape);
    w.tokens = (double)c->tokens;
    m = measure(p, &w, NULL);
    report_product(state, &w, &m);
    layer_errors(l, run.y, c->tokens, &largest, &rms);
    bench_value(state, "max_error", largest);
    bench_value(state, "rms_error", rms);
    bench_label(state, openblas_get_corename());
    pool_close(p);
    free(run.y);
}
#else
static void bench_blas(bench_state *state, const void *argument)
{
    (void)argument;
    bench_fail(state, "OpenBLAS was not found by cmake (Debian: libopenblas-dev)");
}
#endif

void add_openblas(size_t shape_begin, size_t shape_end)
{
    char name[NAME_LENGTH];
    blas_case c;
    size_t i, t;
    for (i = shape_begin; i < shape_end; i++)
        for (t = 0; t < TOKEN_COUNTS; t++)
            for (c.threads = 1; c.threads <= threads_most(); c.threads++) {
                c.shape = large_shapes[i];
                c.tokens = token_counts[t];
                snprintf(name, sizeof name,
                         "matmul/openblas/fp32/f32/%zux%zu/g%d/tokens:%zu/threads:%zu",
                         c.shape.out_features, c.shape.in_features, GROUP_SIZE, c.tokens,
                         c.threads);
                bench_add(name, bench_blas, &c, sizeof c);
            }
}
