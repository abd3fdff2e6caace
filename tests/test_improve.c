/*  test_improve.c - awq_fit, awq_hessian_init, awq_round against their definitions in double,
    awq_allot against all choices there are.                                                      */
#include "runner.h"

#include <math.h>

typedef struct problem {
    awq_matrix weight, x;
    awq_stats stats;
    float *scale, *importance;  /* scale: NULL now and then                                       */
    double *gram;               /* [in][in]                                                       */
    awq_tensor tensor;
    size_t in, out, groups, group;
} problem;

static awq_tensor new_tensor(pool *p, awq_quant quant, size_t out, size_t in)
{
    awq_tensor tensor;
    size_t size = awq_tensor_size(quant, out, in);
    assert_status(awq_tensor_init(&tensor, quant, out, in, pool_aligned(p, size, sizeof(double)),
                                  size), AWQ_OK);
    return tensor;
}

/*  Inputs whose channels depend on each other, as those of a network do.                         */
static void mix_channels(rng *r, awq_matrix x)
{
    size_t t, c;
    for (t = 0; t < x.rows; t++) {
        double common = rng_normal(r);
        for (c = 0; c < x.cols; c++)
            put(x, t, c, at(x, t, c) * (c % 7 == 3 ? 4 : 1) + common * ((double)(c % 5) - 1.5));
    }
}

static problem new_problem(pool *p, rng *r, size_t in, awq_quant quant)
{
    problem b;
    double *row;
    size_t c, d, t;

    memset(&b, 0, sizeof b);
    b.in = in;
    b.out = 1 + rng_below(r, 40);
    b.weight = random_matrix(p, r, b.out, in, 1);
    b.x = new_matrix(p, AWQ_F32, 2 * in + 3, in, in, AT_END);
    for (t = 0; t < b.x.rows; t++)
        for (c = 0; c < in; c++) put(b.x, t, c, rng_normal(r));
    mix_channels(r, b.x);
    b.scale = pool_floats(p, in);
    for (c = 0; c < in; c++) b.scale[c] = (float)(1.25 + rng_unit(r));
    if (rng_below(r, 3) == 0) b.scale = NULL;
    b.stats = new_stats(p, in, 0, 1, 1);
    assert_status(awq_stats_add(kernels, &b.stats, b.x, NULL, NULL, NULL), AWQ_OK);
    b.importance = pool_floats(p, in);
    assert_status(awq_stats_get(&b.stats, AWQ_SQ_MEAN, b.importance), AWQ_OK);
    b.gram = calloc(in * in, sizeof *b.gram);
    assert_non_null(b.gram);
    row = calloc(in, sizeof *row);
    assert_non_null(row);
    for (t = 0; t < b.x.rows; t++) {
        for (c = 0; c < in; c++) row[c] = at(b.x, t, c);
        for (c = 0; c < in; c++)
            for (d = 0; d < in; d++) b.gram[c * in + d] += row[c] * row[d];
    }
    free(row);
    b.tensor = new_tensor(p, quant, b.out, in);
    b.group = group_length(in, quant.group_size);
    b.groups = (in + b.group - 1) / b.group;
    return b;
}

static void end_problem(pool *p, problem *b)
{
    free(b->gram);
    assert_int_equal(pool_release(p), 0);
}

static double scale_at(const problem *b, size_t c) { return b->scale ? (double)b->scale[c] : 1; }

static double step_of(const problem *b, size_t row, size_t c)
{
    return element(b->tensor.quant.scale_dtype, b->tensor.scales, row * b->groups + c / b->group);
}

static double rounded_weight(const problem *b, size_t row, size_t c)
{
    int q = b->tensor.q[row * b->in + c], zero = b->tensor.zeros[row * b->groups + c / b->group];
    return (q - zero) * step_of(b, row, c) / scale_at(b, c);
}

/*  d H d of a row, or over the weights of one group with H's diagonal alone.                     */
static double row_loss(const problem *b, size_t row)
{
    double *d = malloc(b->in * sizeof *d), sum = 0;
    size_t i, j;
    for (i = 0; i < b->in; i++) d[i] = rounded_weight(b, row, i) - at(b->weight, row, i);
    for (i = 0; i < b->in; i++)
        for (j = 0; j < b->in; j++) sum += d[i] * d[j] * b->gram[i * b->in + j];
    free(d);
    return sum;
}

static double all_losses(const problem *b)
{
    double sum = 0;
    size_t row;
    for (row = 0; row < b->out; row++) sum += row_loss(b, row);
    return sum;
}

static awq_quant some_quant(rng *r)
{
    awq_quant quant = random_quant(r);
    if (quant.group_size == 1) quant.group_size = 12;
    return quant;
}

/* ---- awq_fit --------------------------------------------------------------------------------- */

static double weighted_error(const double *u, const double *h, size_t n, double step, int zero,
                             int levels)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double q = nearbyint(u[i] / step) + zero, d;
        q = q < 0 ? 0 : q > levels ? levels : q;
        d = (q - zero) * step - u[i];
        sum += h[i] * d * d;
    }
    return sum;
}

/*  What the group costs now, by its range, and at best over a fine grid of scales and all zeros. */
static void judge_group(const problem *b, size_t row, size_t g, double *now, double *range,
                        double *best)
{
    size_t begin = g * b->group, n = begin + b->group > b->in ? b->in - begin : b->group, i;
    int levels = (1 << b->tensor.quant.bits) - 1, zero, point;
    float *scaled = malloc(b->in * sizeof *scaled);
    double *u = malloc(n * sizeof *u), *h = malloc(n * sizeof *h), step, lo = 0, hi = 0;

    define_scaled_row(b->weight, row, b->scale, NULL, b->group, scaled);
    for (i = 0; i < n; i++) {
        u[i] = (double)scaled[begin + i];
        h[i] = (double)b->importance[begin + i] / scale_at(b, begin + i) / scale_at(b, begin + i);
        lo = u[i] < lo ? u[i] : lo;
        hi = u[i] > hi ? u[i] : hi;
    }
    assert_status(define_group(b->tensor.quant, scaled + begin, n, &step, &zero, NULL), AWQ_OK);
    *best = *range = weighted_error(u, h, n, step, zero, levels);
    *now = weighted_error(u, h, n, step_of(b, row, begin),
                          b->tensor.zeros[row * b->groups + g], levels);
    for (point = 0; point < 100; point++) {
        double tried = step * (1.05 - 0.007 * point), error;
        for (zero = b->tensor.quant.symmetric ? (levels + 1) / 2 : 0;
             zero <= (b->tensor.quant.symmetric ? (levels + 1) / 2 : levels); zero++) {
            error = weighted_error(u, h, n, tried, zero, levels);
            if (error < *best) *best = error;
        }
    }
    free(scaled);
    free(u);
    free(h);
}

TEST(fit_is_no_worse_than_the_range_and_near_the_best)
{
    rng r = { seed };
    double sum_now = 0, sum_best = 0, sum_range = 0;
    int i;
    (void)state;
    for (i = 0; i < 6; i++) {
        pool p = { .count = 0 };
        awq_quant quant = some_quant(&r);
        problem b;
        size_t row, g;
        if (quant.bits == 8) quant.bits = 4;
        b = new_problem(&p, &r, 1 + rng_below(&r, 150), quant);
        assert_status(awq_fit(kernels, b.weight, b.scale, b.importance, &b.tensor, 0, b.out, NULL),
                      AWQ_OK);
        for (row = 0; row < b.out; row += 5)
            for (g = 0; g < b.groups; g++) {
                double now, range, best;
                judge_group(&b, row, g, &now, &range, &best);
                assert_true(now <= range * (1 + 1e-4) + 1e-12);
                sum_now += now;
                sum_best += best;
                sum_range += range;
            }
        end_problem(&p, &b);
    }
    assert_true(sum_now <= sum_best + 0.1 * (sum_range - sum_best));
}

TEST(fit_rounds_to_its_own_grids_and_splits)
{
    rng r = { seed + 1 };
    int i;
    (void)state;
    for (i = 0; i < 20; i++) {
        pool p = { .count = 0 };
        problem b = new_problem(&p, &r, 1 + rng_below(&r, 300), some_quant(&r));
        awq_tensor parts = new_tensor(&p, b.tensor.quant, b.out, b.in);
        size_t cut = rng_below(&r, b.out + 1), row, c;
        const float *importance = rng_below(&r, 4) ? b.importance : NULL;
        assert_status(awq_fit(kernels, b.weight, b.scale, importance, &b.tensor, 0, b.out, NULL),
                      AWQ_OK);
        assert_status(awq_fit(kernels, b.weight, b.scale, importance, &parts, cut, b.out, NULL),
                      AWQ_OK);
        assert_status(awq_fit(kernels, b.weight, b.scale, importance, &parts, 0, cut, NULL),
                      AWQ_OK);
        assert_memory_equal(parts.q, b.tensor.q, b.out * b.in);
        assert_memory_equal(parts.zeros, b.tensor.zeros, b.out * b.groups);
        assert_memory_equal(parts.scales, b.tensor.scales,
                            b.out * b.groups * awq_dtype_size(b.tensor.quant.scale_dtype));
        for (row = 0; row < b.out; row++)
            for (c = 0; c < b.in; c++) {
                double u = at(b.weight, row, c) * scale_at(&b, c), step = step_of(&b, row, c);
                double q = u / step + b.tensor.zeros[row * b.groups + c / b.group];
                double levels = (1 << b.tensor.quant.bits) - 1;
                q = q < 0 ? 0 : q > levels ? levels : q;
                assert_close(b.tensor.q[row * b.in + c], q, 0.5 + 1e-4);
            }
        end_problem(&p, &b);
    }
}

/*  The hook itself, on every number of vectors and zero points; levels cut off some weights.     */
static void check_sums(const float *u, const float *ru, const float *root, size_t n, float scale,
                       int zero, int levels, const float sums[3])
{
    double sum[3] = { 0, 0, 0 };
    size_t i;
    for (i = 0; i < n; i++) {
        double v = nearbyint((double)(u[i] * (1.0f / scale)));
        v = (double)root[i] * (v < -zero ? -zero : v > levels - zero ? levels - zero : v);
        sum[0] += pow(v * (double)scale - (double)ru[i], 2);
        sum[1] += v * (double)ru[i];
        sum[2] += v * v;
    }
    for (i = 0; i < 3; i++) assert_close((double)sums[i], sum[i], 1e-4 * sum[i] + 1e-12);
}

TEST(sums_of_a_grid_are_those_of_its_definition)
{
    rng r = { seed + 9 };
    size_t n, i, z;
    (void)state;
    for (n = 16; n <= 128; n += 16) {
        float u[128], ru[128], root[128], sums[4][3], scale = (float)(1.5 + rng_unit(&r));
        int zero = (int)rng_below(&r, 9), levels = zero + 3 + (int)rng_below(&r, 9);
        size_t count = 1 + n / 16 % 4;
        for (i = 0; i < n; i++) {
            u[i] = 4 * scale * (float)rng_normal(&r);
            root[i] = i % 11 ? (float)fabs(rng_unit(&r)) : 0;
            ru[i] = root[i] * u[i];
        }
        kernels->grid_sums(u, ru, root, n, scale, (float)zero, (float)levels, count, sums);
        for (z = 0; z < count; z++)
            check_sums(u, ru, root, n, scale, zero + (int)z, levels, sums[z]);
    }
}

/*  One of the two hooks (the second: split before, too) on y (rows, n) += A (rows, count) X (count, n), by rows or by columns of A;
    what is not y stays as it is.                                                                 */
static void check_products(rng *r, int in_parts, size_t rows, size_t n, size_t count, int by_rows)
{
    enum { WIDE = 133 };
    static float a[128][WIDE], x[128][WIDE], y[129][WIDE], before[129][WIDE];
    static float room[21504 + 16];
    static float other[128 * 160 + 16];
    float *aligned = room + (64 - (uintptr_t)room % 64) / sizeof *room;
    float *split = other + (64 - (uintptr_t)other % 64) / sizeof *other;
    double bound = in_parts ? 3.0 / 65536 : 1e-6;
    size_t i, j, k;
    for (i = 0; i < 128; i++)
        for (j = 0; j < WIDE; j++) {
            a[i][j] = (float)rng_normal(r) * (j % 9 ? 1 : 100);
            x[i][j] = (float)rng_normal(r);
        }
    for (i = 0; i < 129; i++)
        for (j = 0; j < WIDE; j++) before[i][j] = y[i][j] = (float)rng_normal(r);
    if (in_parts > 1) kernels->split_part(x[0], WIDE, n, count, split);
    if (in_parts)
        kernels->add_part(y[0], WIDE, rows, n, a[0], by_rows ? WIDE : 1, by_rows ? 1 : WIDE, x[0],
                          WIDE, count, in_parts > 1 ? split : NULL, aligned);
    else
        kernels->add_products(y[0], WIDE, rows, n, a[0], by_rows ? WIDE : 1, by_rows ? 1 : WIDE,
                              x[0], WIDE, count);
    for (i = 0; i < 129; i++)
        for (j = 0; j < WIDE; j++) {
            double sum = (double)before[i][j], size = fabs(sum);
            for (k = 0; i < rows && j < n && k < count; k++) {
                double product = (double)(by_rows ? a[i][k] : a[k][i]) * (double)x[k][j];
                sum += product;
                size += fabs(product);
            }
            assert_close((double)y[i][j], sum, i < rows && j < n ? bound * size : 0);
        }
}

TEST(products_are_exact_enough_whatever_their_shape)
{
    rng r = { seed + 10 };
    int i;
    (void)state;
    for (i = 0; i < 100; i++) {
        size_t rows = i % 8 ? 1 + rng_below(&r, 128) : 128, n = i % 7 ? 1 + rng_below(&r, 128) : 128;
        size_t count = i % 5 ? 1 + rng_below(&r, 128) : 128;
        check_products(&r, 0, rows, n, count, i % 2);
        if (kernels->add_part) check_products(&r, 1, rows, n, count, i % 2);
        if (kernels->add_part) check_products(&r, 2, rows, n, count, i % 2);
    }
}

/* ---- awq_hessian_init ------------------------------------------------------------------------ */

static awq_hessian new_hessian(pool *p, problem *b, double damping, awq_order order,
                               const awq_parallel *parallel)
{
    awq_hessian h;
    size_t size = awq_hessian_size(b->in);
    assert_true(size > 0);
    assert_status(awq_hessian_init(kernels, &b->stats, b->scale, damping, order,
                                   pool_aligned(p, size, sizeof(float)), size, parallel, &h, NULL),
                  AWQ_OK);
    return h;
}

static double damped(const problem *b, double damping, size_t i, size_t j)
{
    double mean = 0;
    size_t c;
    if (i != j) return b->gram[i * b->in + j];
    for (c = 0; c < b->in; c++)
        mean += b->gram[c * b->in + c] / scale_at(b, c) / scale_at(b, c) / (double)b->in;
    return b->gram[i * b->in + i] + damping * mean * scale_at(b, i) * scale_at(b, i);
}

/*  L of row i and column j <= i: below the blocks on the diagonal, or in them.                   */
static double factor_at(const awq_hessian *h, size_t i, size_t j)
{
    if (i / 128 == j / 128) return (double)h->corners[i * 128 + j % 128];
    return (double)h->gram[i * h->in_features + j];
}

static void check_factor(const problem *b, const awq_hessian *h, double damping)
{
    size_t i, j, c;
    for (i = 0; i < b->in; i++)
        for (j = 0; j <= i; j++) {
            double sum = 0, exact = damped(b, damping, h->order[i], h->order[j]), bound;
            for (c = 0; c <= j; c++)
                sum += factor_at(h, i, c) * factor_at(h, j, c);
            bound = sqrt(damped(b, damping, h->order[i], h->order[i]) *
                         damped(b, damping, h->order[j], h->order[j]));
            assert_close(sum, exact, 2e-5 * bound);
        }
}

/*  What is left of a channel when those rounded after it are known.                              */
static void check_innovation(const problem *b, const awq_hessian *h)
{
    size_t i;
    for (i = 0; i < b->in; i++) {
        double pivot = factor_at(h, i, i);
        assert_close((double)h->innovation[h->order[i]], pivot * pivot, 1e-6 * pivot * pivot);
    }
}

static void check_order(const problem *b, const awq_hessian *h, awq_order order)
{
    unsigned char *seen = calloc(b->in, 1);
    size_t i;
    for (i = 0; i < b->in; i++) {
        assert_true(h->order[i] < b->in && !seen[h->order[i]]++);
        if (order == AWQ_ORDER_COLUMN) assert_int_equal(h->order[i], i);
        else if (i) {
            size_t before = h->order[i - 1], now = h->order[i];
            double a = b->gram[before * b->in + before] / scale_at(b, before) / scale_at(b, before);
            double z = b->gram[now * b->in + now] / scale_at(b, now) / scale_at(b, now);
            assert_true(a <= z * (1 + 1e-5));
        }
    }
    free(seen);
}

static void check_same_factor(const awq_hessian *a, const awq_hessian *b)
{
    size_t i, j;
    for (i = 0; i < a->in_features; i++)
        for (j = 0; j <= i; j++) assert_true(!(factor_at(a, i, j) < factor_at(b, i, j))
                                             && !(factor_at(a, i, j) > factor_at(b, i, j)));
}

/*  The statistics keep their sums: the factor stands where they have none.                       */
static void check_gram(const awq_stats *before, const awq_stats *after)
{
    size_t i, n = before->in_features;
    for (i = 0; i < n; i++)
        assert_memory_equal(before->gram + i * n + i, after->gram + i * n + i,
                            (n - i) * sizeof *after->gram);
}

TEST(factor_times_itself_is_the_damped_gram_matrix)
{
    const size_t sizes[] = { 1, 2, 31, 127, 128, 129, 150, 261 };
    rng r = { seed + 2 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        pool p = { .count = 0 };
        problem b = new_problem(&p, &r, sizes[i], some_quant(&r));
        awq_order order = rng_below(&r, 2) ? AWQ_ORDER_ACTIVATION : AWQ_ORDER_COLUMN;
        shuffle s = { { seed + i } };
        awq_parallel parallel = shuffled(&s);
        awq_stats again = new_stats(&p, b.in, 0, 1, 1);
        awq_hessian h, same;
        assert_status(awq_stats_merge(&again, &b.stats), AWQ_OK);
        h = new_hessian(&p, &b, 0.01, order, NULL);
        check_factor(&b, &h, 0.01);
        check_order(&b, &h, order);
        check_innovation(&b, &h);
        check_gram(&again, &b.stats);
        b.stats = again;
        same = new_hessian(&p, &b, 0.01, order, &parallel);
        check_same_factor(&h, &same);
        end_problem(&p, &b);
    }
}

/* ---- awq_round ------------------------------------------------------------------------------- */

static void round_tensor(pool *p, problem *b, const awq_hessian *h, int passes, int refit,
                         const awq_parallel *parallel)
{
    awq_round_config config = { 0, 0 };
    size_t size = awq_round_scratch_size(b->in, parallel);
    config.passes = passes;
    config.refit = refit;
    assert_true(size > 0);
    assert_status(awq_round(kernels, &config, h, b->weight, b->scale, &b->tensor,
                            pool_aligned(p, size, sizeof(float)), size, parallel, NULL), AWQ_OK);
}

/*  GPTQ as published: the inverse of H, its upper Cholesky factor, columns from the first on in
    the order given. Returns the loss.                                                            */
static double gptq_loss(problem *b, const awq_hessian *h, double damping)
{
    size_t n = b->in, i, j, k, row;
    double *a = calloc(n * n, sizeof *a), *inverse = calloc(n * n, sizeof *inverse), *w, loss;
    int levels = (1 << b->tensor.quant.bits) - 1;

    for (i = 0; i < n; i++) {           /* first is the last row of the library's order           */
        for (j = 0; j < n; j++)
            a[i * n + j] = damped(b, damping, h->order[n - 1 - i], h->order[n - 1 - j]);
        inverse[i * n + i] = 1;
    }
    for (k = 0; k < n; k++) {           /* Gauss-Jordan                                           */
        double pivot = a[k * n + k];
        for (j = 0; j < n; j++) a[k * n + j] /= pivot, inverse[k * n + j] /= pivot;
        for (i = 0; i < n; i++) {
            double factor = a[i * n + k];
            for (j = 0; i != k && j < n; j++) {
                a[i * n + j] -= factor * a[k * n + j];
                inverse[i * n + j] -= factor * inverse[k * n + j];
            }
        }
    }
    w = malloc(n * sizeof *w);
    for (row = 0; row < b->out; row++) {
        double *left = a;               /* H^-1 of the columns not yet rounded                    */
        memcpy(left, inverse, n * n * sizeof *left);
        for (i = 0; i < n; i++) w[i] = at(b->weight, row, h->order[n - 1 - i]);
        for (k = 0; k < n; k++) {
            size_t c = h->order[n - 1 - k];
            int zero = b->tensor.zeros[row * b->groups + c / b->group];
            double q = nearbyint(w[k] * scale_at(b, c) / step_of(b, row, c)) + zero, e;
            b->tensor.q[row * n + c] = (uint8_t)(q < 0 ? 0 : q > levels ? levels : q);
            e = (w[k] - rounded_weight(b, row, c)) / left[k * n + k];
            for (j = k + 1; j < n; j++) w[j] -= e * left[k * n + j];
            for (i = k + 1; i < n; i++)
                for (j = k + 1; j < n; j++)
                    left[i * n + j] -= left[i * n + k] * left[k * n + j] / left[k * n + k];
        }
    }
    loss = all_losses(b);
    free(w);
    free(a);
    free(inverse);
    return loss;
}

TEST(rounding_in_order_is_gptq)
{
    const size_t sizes[] = { 1, 3, 40, 220 };
    rng r = { seed + 3 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        pool p = { .count = 0 };
        awq_quant quant = some_quant(&r);
        problem b;
        awq_hessian h;
        double ours, gptq, nearest;
        quant.scale_dtype = AWQ_F32;
        b = new_problem(&p, &r, sizes[i], quant);
        if (sizes[i] > 100) b.out = b.tensor.out_features = b.weight.rows = 1;
        h = new_hessian(&p, &b, 0.01, i % 2 ? AWQ_ORDER_COLUMN : AWQ_ORDER_ACTIVATION, NULL);
        assert_status(awq_quantize(kernels, b.weight, b.scale, NULL, &b.tensor, 0, b.out, NULL),
                      AWQ_OK);
        nearest = all_losses(&b);
        round_tensor(&p, &b, &h, 0, 0, NULL);
        ours = all_losses(&b);
        gptq = gptq_loss(&b, &h, 0.01);
        /* a near tie decided otherwise changes what follows it                                   */
        assert_close(ours, gptq, 0.1 * gptq + 1e-9);
        assert_true(ours <= nearest * (sizes[i] < 10 ? 1.5 : 1.0) + 1e-9);
        end_problem(&p, &b);
    }
}

/*  From fitted grids: passes of descent, with or without refits.                                 */
static double improved_loss(pool *p, problem *b, const awq_hessian *h, int passes, int refit)
{
    assert_status(awq_fit(kernels, b->weight, b->scale, b->importance, &b->tensor, 0, b->out, NULL),
                  AWQ_OK);
    round_tensor(p, b, h, passes, refit, NULL);
    return all_losses(b);
}

TEST(passes_and_refits_lower_the_loss)
{
    rng r = { seed + 4 };
    double plain = 0, refitted = 0;
    int i, pass;
    (void)state;
    for (i = 0; i < 10; i++) {
        pool p = { .count = 0 };
        problem b = new_problem(&p, &r, 1 + rng_below(&r, 300), some_quant(&r));
        awq_hessian h = new_hessian(&p, &b, 0.01, AWQ_ORDER_ACTIVATION, NULL);
        double before = 0, after;
        for (pass = 0; pass <= 3; pass++) {
            after = improved_loss(&p, &b, &h, pass, i % 2);
            if (pass) assert_true(after <= before * (1 + 1e-3) + 1e-9);
            before = after;
        }
        plain += improved_loss(&p, &b, &h, 2, 0);
        refitted += improved_loss(&p, &b, &h, 2, 1);
        end_problem(&p, &b);
    }
    assert_true(refitted < 0.995 * plain);
}

/*  After enough passes no single step of one integer would help.                                 */
TEST(descent_ends_where_no_step_helps)
{
    rng r = { seed + 5 };
    pool p = { .count = 0 };
    problem b = new_problem(&p, &r, 60, some_quant(&r));
    awq_hessian h = new_hessian(&p, &b, 0.01, AWQ_ORDER_ACTIVATION, NULL);
    int levels = (1 << b.tensor.quant.bits) - 1;
    size_t row, c;
    (void)state;
    assert_status(awq_quantize(kernels, b.weight, b.scale, NULL, &b.tensor, 0, b.out, NULL), AWQ_OK);
    round_tensor(&p, &b, &h, 40, 0, NULL);
    for (row = 0; row < b.out; row += 3) {
        double least = row_loss(&b, row);
        for (c = 0; c < b.in; c++) {
            uint8_t *q = &b.tensor.q[row * b.in + c];
            int move;
            for (move = -1; move <= 1; move += 2) {
                if ((int)*q + move < 0 || (int)*q + move > levels) continue;
                *q = (uint8_t)(*q + move);
                assert_true(row_loss(&b, row) >= least * (1 - 1e-3) - 1e-9);
                *q = (uint8_t)(*q - move);
            }
        }
    }
    end_problem(&p, &b);
}

TEST(rounding_does_not_depend_on_the_split)
{
    rng r = { seed + 6 };
    parallel_pool threads;
    awq_parallel parallel[2];
    shuffle s = { { seed } };
    int i;
    (void)state;
    parallel[0] = threaded(&threads);
    parallel[1] = shuffled(&s);
    for (i = 0; i < 8; i++) {
        pool p = { .count = 0 };
        problem b = new_problem(&p, &r, 1 + rng_below(&r, 200), some_quant(&r));
        awq_hessian h = new_hessian(&p, &b, 0.01, AWQ_ORDER_ACTIVATION, NULL);
        size_t scales = b.out * b.groups * awq_dtype_size(b.tensor.quant.scale_dtype);
        uint8_t *q = malloc(b.out * b.in);
        void *kept = malloc(scales);
        assert_status(awq_fit(kernels, b.weight, b.scale, NULL, &b.tensor, 0, b.out, NULL), AWQ_OK);
        round_tensor(&p, &b, &h, 2, 1, NULL);
        memcpy(q, b.tensor.q, b.out * b.in);
        memcpy(kept, b.tensor.scales, scales);
        assert_status(awq_fit(kernels, b.weight, b.scale, NULL, &b.tensor, 0, b.out, NULL), AWQ_OK);
        round_tensor(&p, &b, &h, 2, 1, &parallel[i % 2]);
        assert_memory_equal(q, b.tensor.q, b.out * b.in);
        assert_memory_equal(kept, b.tensor.scales, scales);
        free(q);
        free(kept);
        end_problem(&p, &b);
    }
    parallel_stop(&threads);
}

/*  Channels that never were active, all of them at last: nothing is divided by 0.                */
TEST(silent_channels_are_rounded_to_nearest)
{
    rng r = { seed + 7 };
    pool p = { .count = 0 };
    awq_quant quant = { 4, 16, 0, AWQ_F16 };
    problem b = new_problem(&p, &r, 40, quant);
    awq_tensor nearest = new_tensor(&p, quant, b.out, b.in);
    awq_hessian h;
    (void)state;
    b.stats = new_stats(&p, b.in, 0, 1, 1);
    h = new_hessian(&p, &b, 0.01, AWQ_ORDER_ACTIVATION, NULL);
    assert_status(awq_quantize(kernels, b.weight, b.scale, NULL, &nearest, 0, b.out, NULL), AWQ_OK);
    assert_status(awq_quantize(kernels, b.weight, b.scale, NULL, &b.tensor, 0, b.out, NULL),
                  AWQ_OK);
    memset(b.tensor.q, 0, b.out * b.in);
    round_tensor(&p, &b, &h, 2, 1, NULL);
    assert_memory_equal(nearest.q, b.tensor.q, b.out * b.in);
    end_problem(&p, &b);
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct call { problem b; awq_hessian h; void *memory; size_t size; } call;

static awq_status fit(const problem *b, const float *importance, size_t begin, size_t end)
{
    return awq_fit(kernels, b->weight, b->scale, importance, (awq_tensor *)&b->tensor, begin, end,
                   NULL);
}

static awq_status factor(call *c, double damping, int order, size_t size)
{
    awq_hessian h;
    return awq_hessian_init(kernels, &c->b.stats, c->b.scale, damping, (awq_order)order, c->memory,
                            size, NULL, &h, NULL);
}

static awq_status rounding(call *c, awq_matrix weight, int passes, void *scratch, size_t size)
{
    awq_round_config config = { 0, 0 };
    config.passes = passes;
    return awq_round(kernels, &config, &c->h, weight, c->b.scale, &c->b.tensor, scratch, size, NULL,
                     NULL);
}

TEST(bad_arguments_are_refused_before_the_first_write)
{
    rng r = { seed + 8 };
    pool p = { .count = 0 };
    awq_quant quant = { 4, 16, 0, AWQ_F16 };
    call c;
    size_t size = awq_round_scratch_size(20, NULL);
    void *scratch = pool_aligned(&p, size, sizeof(float));
    awq_matrix narrow_weight, bad;
    awq_stats no_gram = new_stats(&p, 20, 0, 0, 1);
    awq_where where = { 9, 9, 9 };
    awq_round_config config = { 1, 0 };
    (void)state;

    c.b = new_problem(&p, &r, 20, quant);
    c.size = awq_hessian_size(20);
    c.memory = pool_aligned(&p, c.size, sizeof(float));
    narrow_weight = c.b.weight;
    narrow_weight.cols--;
    assert_status(awq_fit(NULL, c.b.weight, NULL, NULL, &c.b.tensor, 0, 1, NULL), AWQ_ERR_NULL);
    assert_status(awq_fit(kernels, narrow_weight, NULL, NULL, &c.b.tensor, 0, 1, NULL),
                  AWQ_ERR_SHAPE);
    assert_status(fit(&c.b, NULL, 1, 0), AWQ_ERR_RANGE);
    assert_status(fit(&c.b, NULL, 0, c.b.out + 1), AWQ_ERR_RANGE);
    c.b.importance[7] = -1;
    assert_status(awq_fit(kernels, c.b.weight, NULL, c.b.importance, &c.b.tensor, 0, c.b.out,
                          &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 1 && where.col == 7);
    assert_true(untouched(c.b.tensor.q, c.b.out * 20));

    assert_status(factor(&c, 0, 0, c.size), AWQ_ERR_CONFIG);
    assert_status(factor(&c, not_a_number(), 0, c.size), AWQ_ERR_CONFIG);
    assert_status(factor(&c, 0.01, 2, c.size), AWQ_ERR_CONFIG);
    assert_status(factor(&c, 0.01, 0, c.size - 1), AWQ_ERR_MEMORY);
    assert_status(awq_hessian_init(kernels, &no_gram, NULL, 0.01, AWQ_ORDER_COLUMN, c.memory,
                                   c.size, NULL, &c.h, NULL), AWQ_ERR_NULL);
    assert_true(untouched(c.memory, c.size));
    assert_int_equal(awq_hessian_size(0), 0);
    assert_int_equal(awq_hessian_size(SIZE_MAX), 0);
    assert_int_equal(awq_round_scratch_size(SIZE_MAX, NULL), 0);

    c.h = new_hessian(&p, &c.b, 0.01, AWQ_ORDER_COLUMN, NULL);
    memset(c.b.tensor.zeros, 8, c.b.out * c.b.groups);
    assert_status(rounding(&c, narrow_weight, 1, scratch, size), AWQ_ERR_SHAPE);
    assert_status(rounding(&c, c.b.weight, -1, scratch, size), AWQ_ERR_CONFIG);
    assert_status(rounding(&c, c.b.weight, 1, scratch, size - 1), AWQ_ERR_MEMORY);
    assert_status(rounding(&c, c.b.weight, 1, NULL, size), AWQ_ERR_NULL);
    memset(c.b.tensor.scales, 0, 2 * c.b.out * c.b.groups);     /* no scale yet                   */
    assert_status(rounding(&c, c.b.weight, 1, scratch, size), AWQ_ERR_DATA);
    assert_status(fit(&c.b, NULL, 0, c.b.out), AWQ_OK);
    bad = new_matrix(&p, AWQ_F32, c.b.out, 20, 20, AT_END);
    memset(bad.data, 0, c.b.out * 20 * sizeof(float));
    put(bad, c.b.out - 1, 3, not_a_number());
    memset(c.b.tensor.q, PATTERN, c.b.out * 20);
    assert_status(awq_round(kernels, &config, &c.h, bad, NULL, &c.b.tensor, scratch, size, NULL,
                            &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 0 && where.row == c.b.out - 1 && where.col == 3);
    assert_true(untouched(c.b.tensor.q, c.b.out * 20));
    assert_status(awq_fit(kernels, bad, NULL, NULL, &c.b.tensor, 0, c.b.out, &where), AWQ_ERR_DATA);
    end_problem(&p, &c.b);
}

/* ---- awq_allot ------------------------------------------------------------------------------- */

enum { MOST_LINEARS = 6, MOST_FORMATS = 5 };

/*  Few different bytes and errors, so that equals, offers that no one wants and hulls with corners
    are common; the first of a linear is always possible.                                         */
static void random_offers(rng *r, awq_offer *offers, size_t linears, size_t formats)
{
    size_t i, j;
    for (i = 0; i < linears; i++)
        for (j = 0; j < formats; j++) {
            awq_offer *o = &offers[i * formats + j];
            o->bytes = rng_below(r, 20);
            o->error = (double)rng_below(r, 30) / (double)(1 + o->bytes);
            if (j && rng_below(r, 8) == 0) o->error = infinity();
        }
}

static awq_offer sum_of(const awq_offer *offers, const size_t *choice, size_t linears,
                        size_t formats)
{
    awq_offer sum = { 0, 0 };
    size_t i;
    for (i = 0; i < linears; i++) {
        sum.bytes += offers[i * formats + choice[i]].bytes;
        sum.error += offers[i * formats + choice[i]].error;
    }
    return sum;
}

/*  The next choice in the order of numbers; 0 after the last.                                    */
static int count_on(size_t *choice, size_t linears, size_t formats)
{
    size_t i;
    for (i = 0; i < linears; i++) {
        if (++choice[i] < formats) return 1;
        choice[i] = 0;
    }
    return 0;
}

/*  The least error of all choices within the budget; infinite: there is none.                    */
static double least_error(const awq_offer *offers, size_t linears, size_t formats,
                          uint64_t budget)
{
    size_t choice[MOST_LINEARS] = { 0 };
    double least = infinity();
    do {
        awq_offer sum = sum_of(offers, choice, linears, formats);
        if (sum.bytes <= budget && sum.error < least) least = sum.error;
    } while (count_on(choice, linears, formats));
    return least;
}

/*  What the best offer of some linear saves over its smallest.                                   */
static double largest_saving(const awq_offer *offers, size_t linears, size_t formats)
{
    double largest = 0;
    size_t i, j, k;
    for (i = 0; i < linears; i++)
        for (j = 0; j < formats; j++)
            for (k = 0; k < formats; k++) {
                const awq_offer *a = &offers[i * formats + j], *b = &offers[i * formats + k];
                double saved = a->error - b->error;
                if (a->error < infinity() && saved > largest) largest = saved;
            }
    return largest;
}

/*  Nothing that a single linear would rather have fits in what is left.                          */
static void assert_nothing_fits(const awq_offer *offers, const size_t *choice, size_t linears,
                                size_t formats, uint64_t left)
{
    size_t i, j;
    for (i = 0; i < linears; i++)
        for (j = 0; j < formats; j++) {
            const awq_offer *has = &offers[i * formats + choice[i]], *other = &offers[i * formats + j];
            if (other->error < has->error) assert_true(other->bytes > has->bytes + left);
        }
}

TEST(allotted_errors_are_near_the_least)
{
    pool p = { 0 };
    size_t size = awq_allot_scratch_size(MOST_LINEARS), exact = 0, cases = 400, i;
    void *scratch = pool_aligned(&p, size, sizeof(double));
    rng r = { seed };

    (void)state;
    for (i = 0; i < cases; i++) {
        awq_offer offers[MOST_LINEARS * MOST_FORMATS], sum;
        size_t linears = 1 + rng_below(&r, MOST_LINEARS), choice[MOST_LINEARS];
        size_t formats = 1 + rng_below(&r, MOST_FORMATS);
        uint64_t budget = rng_below(&r, 12 * linears);
        awq_allotment got;
        double least;
        random_offers(&r, offers, linears, formats);
        least = least_error(offers, linears, formats, budget);
        if (!(least < infinity())) {
            assert_status(awq_allot(offers, linears, formats, budget, scratch, size, choice, &got,
                                    NULL), AWQ_ERR_RANGE);
            continue;
        }
        assert_status(awq_allot(offers, linears, formats, budget, scratch, size, choice, &got,
                                NULL), AWQ_OK);
        sum = sum_of(offers, choice, linears, formats);
        assert_true(sum.bytes == got.bytes && got.bytes <= budget);
        assert_close(got.error, sum.error, 1e-12);
        assert_nothing_fits(offers, choice, linears, formats, budget - got.bytes);
        assert_true(got.error >= least - 1e-12 && got.bound <= least + 1e-12);
        assert_true(got.error - got.bound <= largest_saving(offers, linears, formats) + 1e-12);
        exact += got.error <= least + 1e-12;
    }
    assert_int_equal(pool_release(&p), 0);
    assert_true(exact > cases / 3);         /* most, of those that a budget allows                */
}

/*  As many linears as a model has: the bound itself says how near it is.                         */
TEST(allotting_to_many_linears_is_nearly_the_best)
{
    enum { LINEARS = 300, FORMATS = 5 };
    static awq_offer offers[LINEARS * FORMATS];
    static size_t choice[LINEARS];
    pool p = { 0 };
    size_t size = awq_allot_scratch_size(LINEARS), i, j;
    void *scratch = pool_aligned(&p, size, sizeof(double));
    awq_allotment got, whole;
    rng r = { seed };

    (void)state;
    for (i = 0; i < LINEARS; i++)
        for (j = 0; j < FORMATS; j++) {
            offers[i * FORMATS + j].bytes = 1000 * (j + 2) + rng_below(&r, 900);
            offers[i * FORMATS + j].error =
                power_of_two(-2 * (int)j) * (1.1 + rng_unit(&r)) * (double)(1 + i % 9);
        }
    assert_status(awq_allot(offers, LINEARS, FORMATS, LINEARS * 4000, scratch, size, choice, &got,
                            NULL), AWQ_OK);
    assert_true(got.bytes <= LINEARS * 4000 && got.bytes > LINEARS * 3990);
    assert_true(got.error > got.bound && got.error < 1.002 * got.bound);
    assert_status(awq_allot(offers, LINEARS, FORMATS, UINT64_MAX, scratch, size, choice, &whole,
                            NULL), AWQ_OK);
    assert_true(!(whole.bound < whole.error) && whole.error < got.error);
    assert_status(awq_allot(offers, LINEARS, FORMATS, got.bytes, scratch, size, choice, &whole,
                            NULL), AWQ_OK);     /* what it took is a budget that gives the same   */
    assert_true(whole.bytes <= got.bytes && whole.error <= 1.005 * got.error);
    assert_int_equal(pool_release(&p), 0);
}

TEST(offers_are_refused_before_the_first_write)
{
    awq_offer offers[4] = { { 5, 1 }, { 9, 0 }, { 5, 2 }, { 9, 0 } };
    double scratch[16];
    size_t size = awq_allot_scratch_size(2), choice[2];
    awq_allotment got;
    awq_where where = { 9, 9, 9 };

    (void)state;
    assert_true(size > 0 && size <= sizeof scratch && awq_allot_scratch_size(0) == 0);
    assert_int_equal(awq_allot_scratch_size(SIZE_MAX), 0);
    memset(choice, PATTERN, sizeof choice);
    memset(scratch, PATTERN, sizeof scratch);
    memset(&got, PATTERN, sizeof got);
#define TRY(offers, linears, formats, budget, scratch, size, choice, result)                       \
    awq_allot(offers, linears, formats, budget, scratch, size, choice, result, &where)
    assert_status(TRY(NULL, 2, 2, 20, scratch, size, choice, &got), AWQ_ERR_NULL);
    assert_status(TRY(offers, 2, 2, 20, NULL, size, choice, &got), AWQ_ERR_NULL);
    assert_status(TRY(offers, 2, 2, 20, scratch, size, NULL, &got), AWQ_ERR_NULL);
    assert_status(TRY(offers, 2, 2, 20, scratch, size, choice, NULL), AWQ_ERR_NULL);
    assert_status(TRY(offers, 0, 2, 20, scratch, size, choice, &got), AWQ_ERR_SHAPE);
    assert_status(TRY(offers, 2, 0, 20, scratch, size, choice, &got), AWQ_ERR_SHAPE);
    assert_status(TRY(offers, 2, 2, 20, scratch, size - 1, choice, &got), AWQ_ERR_MEMORY);
    assert_status(TRY(offers, 2, 2, 20, (char *)scratch + 1, size, choice, &got), AWQ_ERR_MEMORY);
    assert_status(TRY(offers, SIZE_MAX, 2, 20, scratch, size, choice, &got), AWQ_ERR_MEMORY);
    assert_status(TRY(offers, 2, 2, 9, scratch, size, choice, &got), AWQ_ERR_RANGE);
    offers[0].bytes = offers[1].bytes = UINT64_MAX;
    assert_status(TRY(offers, 2, 2, 20, scratch, size, choice, &got), AWQ_ERR_RANGE);
    offers[3].error = not_a_number();
    assert_status(TRY(offers, 2, 2, 20, scratch, size, choice, &got), AWQ_ERR_DATA);
    assert_true(where.matrix == 0 && where.row == 1 && where.col == 1);
    offers[3].error = -1;
    assert_status(TRY(offers, 2, 2, 20, scratch, size, choice, &got), AWQ_ERR_DATA);
    offers[2].error = offers[3].error = infinity();
    assert_status(TRY(offers, 2, 2, 20, scratch, size, choice, &got), AWQ_ERR_DATA);
    assert_true(where.row == 1 && where.col == 0);
#undef TRY
    assert_true(untouched(choice, sizeof choice) && untouched(scratch, sizeof scratch)
                && untouched(&got, sizeof got));
}

/* ---- awq_balance ------------------------------------------------------------------------------ */

/*  What awq_balance minimises, with scale s: sum over rows and groups of R^2 sum h / s^2.         */
static double balance_loss(const problem *b, const float *h, const float *s)
{
    double loss = 0;
    size_t row, g, c;
    for (row = 0; row < b->out; row++)
        for (g = 0; g < b->groups; g++) {
            double up = 0, down = 0, noise = 0, range;
            for (c = g * b->group; c < b->in && c < (g + 1) * b->group; c++) {
                double u = at(b->weight, row, c) * (double)s[c];
                *(u > 0 || b->tensor.quant.symmetric ? &up : &down) += pow(magnitude(u), 16);
                noise += (double)h[c] / (double)s[c] / (double)s[c];
            }
            range = pow(up, 1.0 / 16) * (b->tensor.quant.symmetric ? 2 : 1) + pow(down, 1.0 / 16);
            loss += range * range * noise;
        }
    return loss;
}

static void balance(pool *p, const problem *b, awq_tie tie, const float *h, float *s,
                    const awq_parallel *parallel)
{
    size_t size = awq_balance_scratch_size(b->in);
    assert_status(awq_balance(kernels, b->tensor.quant, tie, h, &b->weight, 1,
                              pool_aligned(p, size, sizeof(double)), size, parallel, s, NULL),
                  AWQ_OK);
}

/*  No scale alone (of tied channels: no scale of theirs) makes the loss smaller.                 */
static void check_balanced(const problem *b, awq_tie tie, const float *h, float *s)
{
    double least = balance_loss(b, h, s);
    size_t c, i, block = tie.repeat * tie.head_dim;
    for (c = 0; c < b->in; c++) {
        double factors[] = { 0.9, 1.1 };
        float kept = s[c];
        for (i = 0; i < 2; i++) {
            size_t j, first = block ? c / block * block + c % tie.head_dim : c;
            for (j = 0; j < (block ? tie.repeat : 1); j++) {
                assert_true(!(s[first + j * tie.head_dim] < kept)
                            && !(s[first + j * tie.head_dim] > kept));
                s[first + j * tie.head_dim] = (float)((double)kept * factors[i]);
            }
            assert_true(balance_loss(b, h, s) > least * (1 - 1e-4));
            for (j = 0; j < (block ? tie.repeat : 1); j++) s[first + j * tie.head_dim] = kept;
        }
    }
}

/*  R and R dR / dlog s by their definitions; strain is added to.                                  */
static void check_strain(const float *u, size_t n, int symmetric)
{
    float strain[256], range;
    double sums[2] = { 0, 0 }, norms[2], r;
    size_t i;
    for (i = 0; i < n; i++) {
        strain[i] = (float)(i % 3);
        sums[u[i] < 0 && !symmetric] += pow((double)u[i], 16);
    }
    if (symmetric) sums[1] = sums[0];
    for (i = 0; i < 2; i++) norms[i] = pow(sums[i], 1.0 / 16);
    r = norms[0] + norms[1];
    range = kernels->add_strain(u, n, symmetric, strain);
    assert_close(range, r, 1e-5 * r);
    for (i = 0; i < n; i++) {
        size_t side = u[i] < 0;
        double share = sums[side] > 0 ? pow((double)u[i], 16) / sums[side] : 0;
        assert_close((double)strain[i] - (double)(i % 3),
                     r * (symmetric ? r : norms[side]) * share, 1e-4 * r * r + 1e-6);
    }
}

TEST(strain_of_a_group_is_that_of_its_definition)
{
    rng r = { seed + 31 };
    size_t n, i, kind;
    (void)state;
    for (n = 16; n <= 256; n += 48)
        for (kind = 0; kind < 10; kind++) {
            float u[256];
            for (i = 0; i < n; i++) {
                double v = rng_normal(&r);
                if (kind / 2 == 1) v = magnitude(v);            /* a range of one side            */
                if (kind / 2 == 2) v = -magnitude(v);
                if (kind / 2 == 3 && v < 0) v *= 1e-4;          /* and one with hardly another    */
                if (kind / 2 == 4) v = i == n / 2 ? 3 : 0;
                u[i] = (float)v;
            }
            check_strain(u, n, kind % 2);
        }
}

/*  Weights of which many rows are zero, and every third one is unlike the others: a look at some
    of the rows misleads.                                                                         */
static problem misleading_problem(pool *p, rng *r, size_t in, awq_quant quant, size_t rows)
{
    problem b = new_problem(p, r, in, quant);
    size_t row, c;
    b.out = rows;
    b.weight = random_matrix(p, r, rows, in, 1);
    for (row = 0; row < rows; row++)
        for (c = 0; c < in; c++)
            put(b.weight, row, c,
                row % 7 == 2 ? 0 : at(b.weight, row, c) * (row % 3 == 0 && c % 2 ? 5 : 1));
    return b;
}

TEST(many_rows_are_all_heard)
{
    rng r = { seed + 32 };
    pool p = { .count = 0 };
    awq_tie none = { 0, 0 };
    problem b = misleading_problem(&p, &r, 20, (awq_quant){ 4, 16, 0, AWQ_F32 }, 2600);
    float *s = pool_floats(&p, b.in);
    (void)state;
    balance(&p, &b, none, b.importance, s, NULL);
    check_balanced(&b, none, b.importance, s);
    end_problem(&p, &b);
}

TEST(every_kernel_set_balances_alike)
{
    const struct { size_t in; int group, symmetric; size_t rows, repeat; } cases[] = {
        { 96, 32, 0, 50, 1 }, { 96, 32, 1, 3000, 3 }, { 77, 20, 0, 40, 1 }, { 33, 7, 1, 9, 1 },
        { 150, 128, 0, 2100, 1 }, { 45, -1, 0, 30, 3 }, { 15, 1, 0, 20, 1 },
    };
    const awq_kernels portable = awq_kernels_portable();
    rng r = { seed + 33 };
    size_t i, c, with;
    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        pool p = { .count = 0 };
        awq_quant quant = { 4, cases[i].group, cases[i].symmetric, AWQ_F16 };
        awq_tie tie = { cases[i].repeat, cases[i].in / cases[i].repeat };
        problem b = misleading_problem(&p, &r, cases[i].in, quant, cases[i].rows);
        float *s = pool_floats(&p, b.in), *expected = pool_floats(&p, b.in);
        for (with = 0; with < 2; with++) {
            const float *h = with ? b.importance : NULL;
            const awq_kernels *tested = kernels;
            balance(&p, &b, tie, h, s, NULL);
            kernels = &portable;
            balance(&p, &b, tie, h, expected, NULL);
            kernels = tested;
            for (c = 0; c < b.in; c++)
                assert_close(s[c], expected[c], 1e-4 * (double)expected[c]);
        }
        end_problem(&p, &b);
    }
}

TEST(balanced_scales_are_a_minimum)
{
    const size_t sizes[] = { 1, 7, 64, 129, 192 };
    rng r = { seed + 21 };
    size_t i, c, row;
    (void)state;
    for (i = 0; i < 2 * COUNT(sizes); i++) {
        pool p = { .count = 0 };
        problem b = new_problem(&p, &r, sizes[i / 2], some_quant(&r));
        awq_tie tie = { 0, 0 };
        shuffle mixed = { { seed + i } };
        awq_parallel parallel = shuffled(&mixed);
        float *s = pool_floats(&p, b.in), *same = pool_floats(&p, b.in), *ones = pool_floats(&p, b.in);
        double logs = 0;
        for (row = 0; row < b.out && i % 2; row += 2) /* whose range has one side */
            for (c = 0; c < b.in; c++) put(b.weight, row, c, magnitude(at(b.weight, row, c)));
        if (b.in % 6 == 0 && i % 2) tie = (awq_tie){ 3, b.in / 6 };
        balance(&p, &b, tie, b.importance, s, NULL);
        balance(&p, &b, tie, b.importance, same, &parallel);
        assert_memory_equal(s, same, b.in * sizeof *s);
        for (c = 0; c < b.in; c++) {
            ones[c] = 1;
            logs += log((double)s[c]);
        }
        assert_close(logs, 0, 1e-4 * (double)b.in);
        assert_true(balance_loss(&b, b.importance, s)
                    <= balance_loss(&b, b.importance, ones) * (1 + 1e-6));
        check_balanced(&b, tie, b.importance, s);
        end_problem(&p, &b);
    }
}

/*  A channel that is never active, or has no weights, gets a scale that can be folded.           */
TEST(silent_channels_are_balanced_within_reason)
{
    rng r = { seed + 22 };
    pool p = { .count = 0 };
    problem b = new_problem(&p, &r, 96, (awq_quant){ 4, 32, 0, AWQ_F16 });
    awq_tie none = { 0, 0 };
    float *s = pool_floats(&p, b.in);
    size_t c, row;
    (void)state;
    for (row = 0; row < b.out; row++) put(b.weight, row, 40, 0);
    for (c = 64; c < 96; c++) b.importance[c] = 0;
    b.importance[3] = 0;
    balance(&p, &b, none, b.importance, s, NULL);
    for (c = 0; c < b.in; c++) assert_true(s[c] > 0.01f && s[c] < 1000);
    balance(&p, &b, none, NULL, s, NULL);
    for (row = 0; row < b.out; row++)
        for (c = 0; c < b.in; c++) put(b.weight, row, c, 0);
    balance(&p, &b, none, b.importance, s, NULL);
    for (c = 0; c < b.in; c++) assert_true(s[c] > 0.99f && s[c] < 1.01f);
    end_problem(&p, &b);
}

TEST(balance_refuses_before_the_first_write)
{
    rng r = { seed + 23 };
    pool p = { .count = 0 };
    problem b = new_problem(&p, &r, 99, (awq_quant){ 4, 32, 0, AWQ_F16 });
    size_t size = awq_balance_scratch_size(99);
    unsigned char *scratch = pool_aligned(&p, size, sizeof(double));
    float *s = pool_floats(&p, 99);
    awq_tie none = { 0, 0 }, odd = { 5, 4 };
    awq_quant bad = b.tensor.quant;
    awq_where where = { 0, 0, 0 };
    (void)state;
    memset(s, PATTERN, 99 * sizeof *s);
    bad.group_size = 0;
#define TRY(kernels, quant, tie, h, count, scratch, size) \
    awq_balance(kernels, quant, tie, h, &b.weight, count, scratch, size, NULL, s, &where)
    assert_status(TRY(NULL, b.tensor.quant, none, NULL, 1, scratch, size), AWQ_ERR_NULL);
    assert_status(TRY(kernels, b.tensor.quant, none, NULL, 1, NULL, size), AWQ_ERR_NULL);
    assert_status(TRY(kernels, bad, none, NULL, 1, scratch, size), AWQ_ERR_CONFIG);
    assert_status(TRY(kernels, b.tensor.quant, odd, NULL, 1, scratch, size), AWQ_ERR_CONFIG);
    assert_status(TRY(kernels, b.tensor.quant, none, NULL, 0, scratch, size), AWQ_ERR_SHAPE);
    assert_status(TRY(kernels, b.tensor.quant, none, NULL, 1, scratch, size - 1), AWQ_ERR_MEMORY);
    assert_status(TRY(kernels, b.tensor.quant, none, NULL, 1, scratch + 1, size), AWQ_ERR_MEMORY);
    b.importance[5] = -1;
    assert_status(TRY(kernels, b.tensor.quant, none, b.importance, 1, scratch, size), AWQ_ERR_DATA);
    assert_true(where.matrix == 1 && where.col == 5);
    put(b.weight, b.out - 1, 98, not_a_number());
    assert_status(TRY(kernels, b.tensor.quant, none, NULL, 1, scratch, size), AWQ_ERR_DATA);
    assert_true(where.matrix == 0 && where.row == b.out - 1 && where.col == 98);
    put(b.weight, b.out - 1, 7, not_a_number());
    assert_status(TRY(kernels, b.tensor.quant, none, NULL, 1, scratch, size), AWQ_ERR_DATA);
    assert_true(where.matrix == 0 && where.row == b.out - 1 && where.col == 7);
#undef TRY
    assert_true(untouched(s, 99 * sizeof *s));
    assert_int_equal(awq_balance_scratch_size(SIZE_MAX / 2), 0);
    end_problem(&p, &b);
}

/* ---- means into biases ----------------------------------------------------------------------- */

TEST(a_shifted_bias_takes_the_mean_error)
{
    const size_t sizes[] = { 1, 31, 130, 200 };
    rng r = { seed + 24 };
    size_t i, row, c;
    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        pool p = { .count = 0 };
        problem b = new_problem(&p, &r, sizes[i], some_quant(&r));
        float *mean = pool_floats(&p, b.in), *bias = pool_floats(&p, b.out);
        float *before = pool_floats(&p, b.out);
        size_t cut = rng_below(&r, b.out + 1);
        awq_where where = { 0, 0, 0 };
        for (row = 0; row < b.out; row++) before[row] = bias[row] = (float)rng_normal(&r);
        assert_status(awq_stats_get(&b.stats, AWQ_MEAN, mean), AWQ_OK);
        for (c = 0; c < b.in; c++) {
            double sum = 0;
            size_t t;
            for (t = 0; t < b.x.rows; t++) sum += at(b.x, t, c);
            assert_close((double)mean[c], sum / (double)b.x.rows, 1e-6);
        }
        assert_status(awq_quantize(kernels, b.weight, b.scale, NULL, &b.tensor, 0, b.out, NULL),
                      AWQ_OK);
        assert_status(awq_shift_bias(b.weight, b.scale, mean, &b.tensor, bias, cut, b.out, NULL),
                      AWQ_OK);
        assert_status(awq_shift_bias(b.weight, b.scale, mean, &b.tensor, bias, 0, cut, NULL), AWQ_OK);
        for (row = 0; row < b.out; row++) {
            double error = 0, size = 1;
            for (c = 0; c < b.in; c++) {
                double term = (at(b.weight, row, c) - rounded_weight(&b, row, c)) * (double)mean[c];
                error += term;
                size += magnitude(at(b.weight, row, c) * (double)mean[c]);
            }
            assert_close((double)bias[row], (double)before[row] + error, 1e-5 * size);
        }
        mean[b.in - 1] = (float)infinity();
        memcpy(before, bias, b.out * sizeof *bias);
        assert_status(awq_shift_bias(b.weight, b.scale, mean, &b.tensor, bias, 0, b.out, &where),
                      AWQ_ERR_DATA);
        assert_true(where.matrix == 1 && where.col == b.in - 1);
        assert_status(awq_shift_bias(b.weight, b.scale, NULL, &b.tensor, bias, 0, b.out, NULL),
                      AWQ_ERR_NULL);
        assert_status(awq_shift_bias(b.weight, b.scale, mean, &b.tensor, bias, 0, b.out + 1, NULL),
                      AWQ_ERR_RANGE);
        assert_memory_equal(before, bias, b.out * sizeof *bias);
        end_problem(&p, &b);
    }
}

TEST(a_centred_gram_matrix_is_the_covariance_and_comes_back)
{
    rng r = { seed + 25 };
    pool p = { .count = 0 };
    problem b = new_problem(&p, &r, 70, some_quant(&r));
    awq_stats before = new_stats(&p, b.in, 0, 1, 1), other = new_stats(&p, b.in, 0, 0, 1);
    size_t i, j, t;
    (void)state;
    assert_status(awq_stats_merge(&before, &b.stats), AWQ_OK);
    assert_status(awq_stats_centre(&b.stats, 1), AWQ_OK);
    assert_status(awq_stats_centre(&b.stats, 1), AWQ_OK);
    assert_status(awq_stats_add(kernels, &b.stats, b.x, NULL, NULL, NULL), AWQ_ERR_CONFIG);
    assert_status(awq_stats_merge(&before, &b.stats), AWQ_ERR_CONFIG);
    for (i = 0; i < b.in; i++)
        for (j = i; j < b.in; j++) {
            double sum = 0, bound = sqrt(b.gram[i * b.in + i] * b.gram[j * b.in + j]);
            double a = b.stats.sum[i] / b.stats.weight, z = b.stats.sum[j] / b.stats.weight;
            for (t = 0; t < b.x.rows; t++) sum += (at(b.x, t, i) - a) * (at(b.x, t, j) - z);
            assert_close((double)b.stats.gram[i * b.in + j], sum, 1e-5 * bound);
        }
    assert_status(awq_stats_centre(&b.stats, 0), AWQ_OK);
    for (i = 0; i < b.in; i++)
        for (j = i; j < b.in; j++)
            assert_close((double)b.stats.gram[i * b.in + j], (double)before.gram[i * b.in + j],
                         1e-5 * sqrt(b.gram[i * b.in + i] * b.gram[j * b.in + j]));
    assert_status(awq_stats_centre(&other, 1), AWQ_ERR_NULL);
    assert_status(awq_stats_centre(NULL, 1), AWQ_ERR_NULL);
    end_problem(&p, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fit_is_no_worse_than_the_range_and_near_the_best),
        cmocka_unit_test(fit_rounds_to_its_own_grids_and_splits),
        cmocka_unit_test(sums_of_a_grid_are_those_of_its_definition),
        cmocka_unit_test(products_are_exact_enough_whatever_their_shape),
        cmocka_unit_test(factor_times_itself_is_the_damped_gram_matrix),
        cmocka_unit_test(rounding_in_order_is_gptq),
        cmocka_unit_test(passes_and_refits_lower_the_loss),
        cmocka_unit_test(descent_ends_where_no_step_helps),
        cmocka_unit_test(rounding_does_not_depend_on_the_split),
        cmocka_unit_test(silent_channels_are_rounded_to_nearest),
        cmocka_unit_test(bad_arguments_are_refused_before_the_first_write),
        cmocka_unit_test(strain_of_a_group_is_that_of_its_definition),
        cmocka_unit_test(many_rows_are_all_heard),
        cmocka_unit_test(every_kernel_set_balances_alike),
        cmocka_unit_test(balanced_scales_are_a_minimum),
        cmocka_unit_test(silent_channels_are_balanced_within_reason),
        cmocka_unit_test(balance_refuses_before_the_first_write),
        cmocka_unit_test(a_shifted_bias_takes_the_mean_error),
        cmocka_unit_test(a_centred_gram_matrix_is_the_covariance_and_comes_back),
        cmocka_unit_test(allotted_errors_are_near_the_least),
        cmocka_unit_test(allotting_to_many_linears_is_nearly_the_best),
        cmocka_unit_test(offers_are_refused_before_the_first_write),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
