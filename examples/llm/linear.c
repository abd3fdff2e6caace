/*  linear.c - see linear.h. */
#include "linear.h"

/* ---- the fp32 kernel ------------------------------------------------------------------------- */

/*  Sums run in LANES parallel lanes, which no compiler may introduce by itself without -ffast-math.
    Every (row, token) pair sums in the same order, whichever tile computes it. */
#define TILE_ROWS 4
#if defined(__AVX512F__)
#define LANES 16
#define TILE_TOKENS 4
#elif defined(__AVX__)
#define LANES 8
#define TILE_TOKENS 2
#else
#define LANES 4
#define TILE_TOKENS 2
#endif

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static inline lanes load_lanes(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float sum_lanes(lanes v)
{
    float sums[LANES];
    int half, i;

    memcpy(sums, &v, sizeof sums);
    for (half = LANES / 2; half; half /= 2)
        for (i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

/*  rows and tokens are constants at every call, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(const float *w, size_t w_stride,
                                                       const float *x, size_t x_stride, size_t n,
                                                       float *y, size_t y_stride, const size_t rows,
                                                       const size_t tokens)
{
    lanes sums[TILE_ROWS][TILE_TOKENS];
    size_t whole = n - n % LANES, i, r, t;

    memset(sums, 0, sizeof sums);
    for (i = 0; i < whole; i += LANES)
        for (t = 0; t < tokens; t++) {
            lanes xs = load_lanes(x + t * x_stride + i);
            for (r = 0; r < rows; r++) sums[r][t] += load_lanes(w + r * w_stride + i) * xs;
        }
    for (t = 0; t < tokens; t++)
        for (r = 0; r < rows; r++) {
            float sum = sum_lanes(sums[r][t]);
            for (i = whole; i < n; i++) sum += w[r * w_stride + i] * x[t * x_stride + i];
            y[t * y_stride + r] = sum;
        }
}

void matmul_f32(const float *w, size_t w_stride, size_t rows, const float *x, size_t x_stride,
                size_t tokens, size_t n, float *y, size_t y_stride)
{
    size_t r, t;

    for (t = 0; t + TILE_TOKENS <= tokens; t += TILE_TOKENS) {
        const float *xt = x + t * x_stride;
        float *yt = y + t * y_stride;
        for (r = 0; r + TILE_ROWS <= rows; r += TILE_ROWS)
            tile(w + r * w_stride, w_stride, xt, x_stride, n, yt + r, y_stride, TILE_ROWS,
                 TILE_TOKENS);
        for (; r < rows; r++)
            tile(w + r * w_stride, w_stride, xt, x_stride, n, yt + r, y_stride, 1, TILE_TOKENS);
    }
    for (; t < tokens; t++) {
        const float *xt = x + t * x_stride;
        float *yt = y + t * y_stride;
        for (r = 0; r + TILE_ROWS <= rows; r += TILE_ROWS)
            tile(w + r * w_stride, w_stride, xt, x_stride, n, yt + r, y_stride, TILE_ROWS, 1);
        for (; r < rows; r++)
            tile(w + r * w_stride, w_stride, xt, x_stride, n, yt + r, y_stride, 1, 1);
    }
}

/* ---- threads and scratch --------------------------------------------------------------------- */

bool compute_open(compute *c, size_t threads, awq_precision precision, failure *why)
{
    memset(c, 0, sizeof *c);
    parallel_start(&c->pool, threads);
    c->parallel.run = parallel_run;
    c->parallel.context = &c->pool;
    c->parallel.workers = c->pool.workers;
    c->kernels = awq_kernels_best();
    c->precision = precision;
    c->status = calloc(c->pool.workers, sizeof *c->status);
    c->where = calloc(c->pool.workers, sizeof *c->where);
    if (c->status && c->where) return true;
    compute_close(c);
    return fail(why, "out of memory");
}

void compute_close(compute *c)
{
    parallel_stop(&c->pool);
    free(c->status);
    free(c->where);
    free(c->decoded);
    free(c->prepared);
}

/*  The first error that a worker met, as a message. */
static bool report_status(const compute *c, failure *why)
{
    size_t i;
    for (i = 0; i < c->pool.workers; i++)
        if (c->status[i] != AWQ_OK)
            return fail(why, "matmul: %s (token %zu, channel %zu)", awq_status_string(c->status[i]),
                        c->where[i].row, c->where[i].col);
    return true;
}

/* ---- linears --------------------------------------------------------------------------------- */

/*  Rows that are decoded, or held in the cache, at a time. */
#define BLOCK_ROWS 32

typedef struct apply_job {
    compute *c;
    const linear *linears;
    size_t count;
    const float *x;
    size_t tokens;
    float *const *outputs;
    awq_prepared prepared;
} apply_job;

static void apply_f32_block(const apply_job *job, const linear *l, float *y, size_t row,
                            size_t rows, size_t worker)
{
    float *decoded = job->c->decoded + worker * BLOCK_ROWS * job->c->decoded_columns;
    const float *w = decoded;
    size_t r, t, n = l->in_features;

    if (l->weight)
        w = l->weight + row * n;
    else
        for (r = 0; r < rows; r++) gguf_row_to_f32(l->stored, row + r, decoded + r * n);
    matmul_f32(w, n, rows, job->x, n, job->tokens, n, y + row, l->out_features);
    if (!l->bias) return;
    for (t = 0; t < job->tokens; t++)
        for (r = row; r < row + rows; r++) y[t * l->out_features + r] += l->bias[r];
}

static void apply_rows(const apply_job *job, size_t which, size_t begin, size_t end, size_t worker)
{
    const linear *l = &job->linears[which];
    float *y = job->outputs[which];

    if (l->packed.data) {
        awq_status status =
            awq_matmul(&job->c->kernels, &l->packed, &job->prepared, l->bias,
                       awq_matrix_view(y, AWQ_F32, job->tokens, l->out_features), begin, end);
        if (status != AWQ_OK) job->c->status[worker] = status;
        return;
    }
    for (; begin < end; begin += BLOCK_ROWS)
        apply_f32_block(job, l, y, begin, end - begin < BLOCK_ROWS ? end - begin : BLOCK_ROWS,
                        worker);
}

static size_t row_steps(const linear *l)
{
    return (l->out_features + AWQ_ROW_STEP - 1) / AWQ_ROW_STEP;
}

/*  The rows of all linears count as one long range, in steps of AWQ_ROW_STEP. */
static void apply_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const apply_job *job = arg;
    size_t which, first = 0;

    for (which = 0; which < job->count; which++) {
        const linear *l = &job->linears[which];
        size_t last = first + row_steps(l);
        size_t from = begin > first ? begin : first, to = end < last ? end : last;
        if (from < to) {
            size_t row_end = (to - first) * AWQ_ROW_STEP;
            if (row_end > l->out_features) row_end = l->out_features;
            apply_rows(job, which, (from - first) * AWQ_ROW_STEP, row_end, worker);
        }
        first = last;
    }
}

static void prepare_task(void *arg, size_t begin, size_t end, size_t worker)
{
    apply_job *job = arg;
    const linear *l = &job->linears[0];
    awq_prepared prepared;
    awq_status status = awq_prepare(&job->c->kernels, l->packed.quant.group_size, job->c->precision,
                                    awq_matrix_view(job->x, AWQ_F32, job->tokens, l->in_features),
                                    NULL, job->c->prepared, job->c->prepared_size, begin, end,
                                    &prepared, &job->c->where[worker]);
    if (status != AWQ_OK) job->c->status[worker] = status;
    if (begin == 0) job->prepared = prepared;
}

/*  Rounds x to integers once, for all the linears of the job. */
static bool prepare(apply_job *job, failure *why)
{
    compute *c = job->c;
    const linear *l = &job->linears[0];
    size_t size = awq_prepared_size(&c->kernels, l->in_features, l->packed.quant.group_size,
                                    c->precision, job->tokens);

    if (size == 0 || size > c->prepared_size) {
        free(c->prepared);
        c->prepared = size ? malloc(size) : NULL;
        c->prepared_size = c->prepared ? size : 0;
        if (!c->prepared) return fail(why, "out of memory");
    }
    parallel_run(&c->pool, job->tokens, 1, prepare_task, job);
    return report_status(c, why);
}

typedef struct decode_job {
    const linear *l;
    float *out;
} decode_job;

static void decode_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const decode_job *job = arg;
    size_t n = job->l->in_features, row;

    (void)worker;
    for (row = begin; row < end; row++) {
        if (job->l->weight)
            memcpy(job->out + row * n, job->l->weight + row * n, n * sizeof(float));
        else
            gguf_row_to_f32(job->l->stored, row, job->out + row * n);
    }
}

void linear_decode(compute *c, const linear *l, float *out)
{
    decode_job job;
    job.l = l;
    job.out = out;
    parallel_run(&c->pool, l->out_features, 1, decode_task, &job);
}

static bool reserve_decoded(compute *c, size_t columns, failure *why)
{
    if (columns <= c->decoded_columns) return true;
    free(c->decoded);
    c->decoded = malloc(c->pool.workers * BLOCK_ROWS * columns * sizeof *c->decoded);
    c->decoded_columns = c->decoded ? columns : 0;
    return c->decoded ? true : fail(why, "out of memory");
}

bool linears_apply(compute *c, const linear *linears, size_t count, const float *x, size_t tokens,
                   float *const *outputs, failure *why)
{
    apply_job job;
    size_t i, steps = 0;

    memset(&job, 0, sizeof job);
    job.c = c;
    job.linears = linears;
    job.count = count;
    job.x = x;
    job.tokens = tokens;
    job.outputs = outputs;
    for (i = 0; i < count; i++) steps += row_steps(&linears[i]);
    for (i = 0; i < c->pool.workers; i++) c->status[i] = AWQ_OK;
    if (linears[0].packed.data) {
        if (!prepare(&job, why)) return false;
    } else if (!reserve_decoded(c, linears[0].in_features, why)) {
        return false;
    }
    parallel_run(&c->pool, steps, 1, apply_task, &job);
    return report_status(c, why);
}
