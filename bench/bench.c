/*  bench.c - how fast awq.h is, beside how exact and how small. Names of the lines:

        <what>/awq/<kernel set>/<details>      floor/read/<bytes>: reading the bytes, doing nothing

    One thread, normal random data. GOP/s counts a multiplication and an addition as two.         */
#include "shim.h"

#define AWQ_IMPLEMENTATION
#include "awq.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NAMES_MAX    256

typedef struct shape { size_t out_features, in_features; int group_size; } shape;

/*  The demo layer; a small and a large square layer of real models.                              */
static const shape shapes[] = { { 384, 1536, 128 }, { 2048, 2048, 128 }, { 4096, 4096, 128 } };
static const size_t token_counts[] = { 1, 8, 64 };

typedef struct bench_case {
    awq_kernels kernels;
    shape shape;
    size_t tokens;
    awq_precision precision;
    size_t sketch_rows;
    int with_gram;
} bench_case;

static void *memory(size_t size)
{
    void *bytes = size ? calloc(1, size) : NULL;
    if (!bytes) {
        fprintf(stderr, "bench: out of memory (%zu bytes)\n", size);
        exit(1);
    }
    return bytes;
}

/* ---- data ------------------------------------------------------------------------------------ */

/*  Nearly normal: the sum of four uniform numbers, variance 1.                                   */
static float *random_floats(size_t count, uint64_t seed)
{
    float *x = memory(count * sizeof *x);
    size_t i;
    int j;
    for (i = 0; i < count; i++)
        for (j = 0; j < 4; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            x[i] += ((float)(seed >> 40) / 16777216.0f - 0.5f) * 1.7320508f;
        }
    return x;
}

static awq_quant quant_of(const shape *s)
{
    awq_quant quant = { 4, 0, 0, AWQ_F16 };
    quant.group_size = s->group_size;
    return quant;
}

typedef struct layer { float *weight; unsigned char *bytes; awq_packed packed; } layer;

static awq_status quantize_layer(const awq_kernels *k, const shape *s, const float *weight,
                                 unsigned char *bytes, size_t size)
{
    awq_matrix w = awq_matrix_view(weight, AWQ_F32, s->out_features, s->in_features);
    awq_status status = awq_packed_init(quant_of(s), s->out_features, s->in_features, bytes, size);
    if (status == AWQ_OK)
        status = awq_quantize_packed(k, w, NULL, NULL, bytes, size, 0, s->out_features, NULL);
    return status;
}

static awq_status make_layer(const bench_case *c, layer *l)
{
    const shape *s = &c->shape;
    size_t size = awq_packed_size(quant_of(s), s->out_features, s->in_features);
    awq_status status;

    l->weight = random_floats(s->out_features * s->in_features, 1);
    l->bytes = memory(size);
    status = quantize_layer(&c->kernels, s, l->weight, l->bytes, size);
    return status == AWQ_OK ? awq_packed_open(&l->packed, l->bytes, size) : status;
}

static void free_layer(layer *l)
{
    free(l->weight);
    free(l->bytes);
}

/* ---- matmul: from fp32 activations to fp32 outputs, the rounding of activations included ----- */

typedef struct matmul_run {
    awq_matrix x, y;
    void *prepared_memory;
    size_t prepared_size;
} matmul_run;

static awq_status matmul(const bench_case *c, const layer *l, const matmul_run *run)
{
    awq_prepared prepared;
    awq_status status = awq_prepare(&c->kernels, c->shape.group_size, c->precision, run->x, NULL,
                                    run->prepared_memory, run->prepared_size, 0, run->x.rows,
                                    &prepared, NULL);
    if (status != AWQ_OK) return status;
    return awq_matmul(&c->kernels, &l->packed, &prepared, NULL, run->y, 0, l->packed.out_features);
}

/*  Root of the relative squared error against float64 on the dequantized weights, first token.   */
static double rms_error(const bench_case *c, const layer *l, const matmul_run *run)
{
    const awq_quant quant = quant_of(&c->shape);
    size_t rows = c->shape.out_features, in = c->shape.in_features, r, i;
    size_t size = awq_tensor_size(quant, rows, in);
    void *tensor_memory = memory(size);
    float *what = memory(rows * in * sizeof *what);
    const float *x = run->x.data, *y = run->y.data;
    double error = 0, power = 0;
    awq_matrix out = awq_matrix_view(what, AWQ_F32, rows, in);
    awq_tensor tensor;

    if (awq_tensor_init(&tensor, quant, rows, in, tensor_memory, size) != AWQ_OK
        || awq_unpack(&c->kernels, &l->packed, &tensor, 0, rows) != AWQ_OK
        || awq_dequantize(&tensor, NULL, out, 0, rows) != AWQ_OK)
        error = (double)NAN;
    for (r = 0; r < rows; r++) {
        double exact = 0;
        for (i = 0; i < in; i++) exact += (double)what[r * in + i] * (double)x[i];
        error += ((double)y[r] - exact) * ((double)y[r] - exact);
        power += exact * exact;
    }
    free(what);
    free(tensor_memory);
    return sqrt(error / power);
}

static void bench_matmul(bench_state *state, const void *argument)
{
    const bench_case *c = argument;
    const shape *s = &c->shape;
    float *x = random_floats(c->tokens * s->in_features, 2);
    float *y = memory(c->tokens * s->out_features * sizeof *y);
    awq_status status;
    matmul_run run;
    layer l;

    run.x = awq_matrix_view(x, AWQ_F32, c->tokens, s->in_features);
    run.y = awq_matrix_view(y, AWQ_F32, c->tokens, s->out_features);
    run.prepared_size = awq_prepared_size(&c->kernels, s->in_features, s->group_size, c->precision,
                                          c->tokens);
    run.prepared_memory = memory(run.prepared_size);
    status = make_layer(c, &l);
    while (status == AWQ_OK && bench_next(state)) status = matmul(c, &l, &run);
    if (status != AWQ_OK) bench_fail(state, awq_status_string(status));
    else {
        bench_rate(state, "GOP/s", 2e-9 * (double)(s->out_features * s->in_features * c->tokens));
        bench_rate(state, "GB/s", 1e-9 * (double)l.packed.size);
        bench_value(state, "rms_error", rms_error(c, &l, &run));
        bench_value(state, "bits/weight",
                    8.0 * (double)l.packed.size / (double)(s->out_features * s->in_features));
    }
    free_layer(&l);
    free(run.prepared_memory);
    free(y);
    free(x);
}

/*  The packed weights summed as 64-bit words: no kernel can be faster than this.                 */
static void bench_floor(bench_state *state, const void *argument)
{
    const bench_case *c = argument;
    size_t size = awq_packed_size(quant_of(&c->shape), c->shape.out_features, c->shape.in_features);
    size_t words = size / sizeof(uint64_t), i;
    uint64_t *bytes = memory(size);
    volatile uint64_t sink;

    for (i = 0; i < words; i++) bytes[i] = i;
    while (bench_next(state)) {
        uint64_t sum = 0;
        for (i = 0; i < words; i++) sum += bytes[i];
        sink = sum;
    }
    (void)sink;
    bench_rate(state, "GB/s", 1e-9 * (double)size);
    free(bytes);
}

/* ---- quantize, search, calibrate ------------------------------------------------------------- */

static void bench_quantize(bench_state *state, const void *argument)
{
    const bench_case *c = argument;
    awq_status status;
    layer l;

    status = make_layer(c, &l);
    while (status == AWQ_OK && bench_next(state))
        status = quantize_layer(&c->kernels, &c->shape, l.weight, l.bytes, l.packed.size);
    if (status != AWQ_OK) bench_fail(state, awq_status_string(status));
    bench_rate(state, "weights/s", (double)(c->shape.out_features * c->shape.in_features));
    free_layer(&l);
}

/*  Statistics of c->tokens random tokens; the memory to free is returned.                        */
static void *make_stats(const bench_case *c, awq_matrix x, awq_stats *stats, awq_status *status)
{
    size_t size = awq_stats_size(c->shape.in_features, c->sketch_rows, c->with_gram);
    void *stats_memory = memory(size);
    *status = awq_stats_init(stats, c->shape.in_features, c->sketch_rows, c->with_gram, 1,
                             stats_memory, size);
    if (*status == AWQ_OK) *status = awq_stats_add(&c->kernels, stats, x, NULL, NULL, NULL);
    return stats_memory;
}

static void bench_stats(bench_state *state, const void *argument)
{
    const bench_case *c = argument;
    float *data = random_floats(c->tokens * c->shape.in_features, 3);
    awq_matrix x = awq_matrix_view(data, AWQ_F32, c->tokens, c->shape.in_features);
    awq_status status;
    awq_stats stats;
    void *stats_memory = make_stats(c, x, &stats, &status);

    while (status == AWQ_OK && bench_next(state))
        status = awq_stats_add(&c->kernels, &stats, x, NULL, NULL, NULL);
    if (status != AWQ_OK) bench_fail(state, awq_status_string(status));
    bench_rate(state, "tokens/s", (double)c->tokens);
    free(stats_memory);
    free(data);
}

/*  One search over 20 ratios: the loss on the rows, or on their sketch if the case has one.      */
static void bench_search(bench_state *state, const void *argument)
{
    const bench_case *c = argument;
    const shape *s = &c->shape;
    const awq_search_config config = awq_search_preset(AWQ_PRESET_LLM_AWQ, quant_of(s));
    float *weight_data = random_floats(s->out_features * s->in_features, 1);
    float *data = random_floats(c->tokens * s->in_features, 3);
    float *scale = memory(s->in_features * sizeof *scale);
    awq_matrix weight = awq_matrix_view(weight_data, AWQ_F32, s->out_features, s->in_features);
    awq_inputs inputs;
    awq_stats stats;
    awq_search_result result;
    awq_status status;
    size_t scratch_size;
    void *scratch, *stats_memory;

    memset(&inputs, 0, sizeof inputs);
    inputs.loss = c->sketch_rows ? AWQ_LOSS_SKETCH : AWQ_LOSS_ROWS;
    inputs.rows = awq_matrix_view(data, AWQ_F32, c->tokens, s->in_features);
    inputs.stats = &stats;
    stats_memory = make_stats(c, inputs.rows, &stats, &status);
    scratch_size = awq_search_scratch_size(&inputs, &weight, 1, NULL);
    scratch = memory(scratch_size);
    while (status == AWQ_OK && bench_next(state))
        status = awq_search(&c->kernels, &config, &inputs, &weight, 1, scratch, scratch_size, NULL,
                            scale, NULL, &result, NULL);
    if (status != AWQ_OK) bench_fail(state, awq_status_string(status));
    bench_rate(state, "weights/s", (double)(s->out_features * s->in_features));
    free(scratch);
    free(stats_memory);
    free(scale);
    free(data);
    free(weight_data);
}

/* ---- the list -------------------------------------------------------------------------------- */

static void add(const char *name, bench_body *body, const bench_case *c)
{
    static bench_case cases[NAMES_MAX];
    static size_t used;
    if (used == NAMES_MAX) {
        fprintf(stderr, "bench: more than %d lines\n", NAMES_MAX);
        exit(1);
    }
    cases[used] = *c;
    bench_add(name, body, &cases[used++]);
}

static void add_matmuls(const awq_kernels *k)
{
    char name[160];
    size_t i, t;
    int precision;
    for (i = 0; i < COUNT(shapes); i++)
        for (t = 0; t < COUNT(token_counts); t++)
            for (precision = AWQ_A16; precision <= AWQ_A8; precision++) {
                bench_case c = { *k, shapes[i], token_counts[t], (awq_precision)precision, 0, 0 };
                snprintf(name, sizeof name, "matmul/awq/%s/%s/%zux%zu/g%d/tokens:%zu/threads:1",
                         k->name, precision == AWQ_A8 ? "a8" : "a16", c.shape.out_features,
                         c.shape.in_features, c.shape.group_size, c.tokens);
                add(name, bench_matmul, &c);
            }
}

static void add_quantizers(const awq_kernels *k)
{
    static const shape layer_shape = { 2048, 2048, 128 };
    bench_case rows = { *k, layer_shape, 512, AWQ_A16, 0, 0 }, sketch = rows, gram = rows;
    char name[160];

    sketch.sketch_rows = 128;
    gram.with_gram = 1;
#define ADD(body, c, format)                                                                       \
    do {                                                                                           \
        snprintf(name, sizeof name, format, k->name);                                              \
        add(name, body, c);                                                                        \
    } while (0)
    ADD(bench_quantize, &rows, "quantize_pack/awq/%s/2048x2048/g128/threads:1");
    ADD(bench_search, &rows, "search/awq/%s/rows:512/2048x2048/g128/threads:1");
    ADD(bench_search, &sketch, "search/awq/%s/sketch:128/2048x2048/g128/threads:1");
    ADD(bench_stats, &rows, "stats/awq/%s/sums/2048/tokens:512/threads:1");
    ADD(bench_stats, &sketch, "stats/awq/%s/sketch:128/2048/tokens:512/threads:1");
    ADD(bench_stats, &gram, "stats/awq/%s/gram/2048/tokens:512/threads:1");
#undef ADD
}

static void add_floors(void)
{
    char name[160];
    size_t i;
    for (i = 0; i < COUNT(shapes); i++) {
        bench_case c = { awq_kernels_portable(), shapes[i], 1, AWQ_A16, 0, 0 };
        snprintf(name, sizeof name, "floor/read/%zu/threads:1",
                 awq_packed_size(quant_of(&c.shape), c.shape.out_features, c.shape.in_features));
        add(name, bench_floor, &c);
    }
}

static void print_cpu(void)
{
    char line[256], *value;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "model name", 10) == 0 && (value = strchr(line, ':')) != NULL) {
            value[strcspn(value, "\n")] = '\0';
            bench_context("cpu", value + 2);
            break;
        }
    if (file) fclose(file);
}

int main(int argc, char **argv)
{
    awq_kernels kernels[16];
    size_t count = awq_kernels_list(kernels, COUNT(kernels)), i;

    print_cpu();
    bench_context("compiler", BENCH_COMPILER);
    bench_context("flags", BENCH_FLAGS);
    bench_context("kernels", awq_kernels_best().name);
    add_floors();
    for (i = 0; i < count && i < COUNT(kernels); i++) add_matmuls(&kernels[i]);
    for (i = 0; i < count && i < COUNT(kernels); i++) add_quantizers(&kernels[i]);
    return bench_main(argc, argv);
}
