/*  linear.c - see linear.h. */
#include "linear.h"

#include "../common/dense.h"

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

/* ---- rows ------------------------------------------------------------------------------------ */

static void plain_row(const linear *l, size_t row, float *out)
{
    if (l->weight)
        memcpy(out, l->weight + row * l->in_features, l->in_features * sizeof *out);
    else
        gguf_row_to_f32(l->stored, row, out);
}

bool linear_row(const linear *l, size_t row, float *out, failure *why)
{
    awq_matrix view = awq_matrix_view(out, AWQ_F32, 1, l->in_features);
    awq_status status = AWQ_OK;

    if (l->packed.data) status = awq_packed_dequantize(&l->packed, NULL, view, row, row + 1);
    else plain_row(l, row, out);
    return status == AWQ_OK ? true : fail(why, "row %zu: %s", row, awq_status_string(status));
}

typedef struct decode_job {
    const linear *l;
    float *out;
} decode_job;

static void decode_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const decode_job *job = arg;
    size_t row;

    (void)worker;
    for (row = begin; row < end; row++)
        plain_row(job->l, row, job->out + row * job->l->in_features);
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
