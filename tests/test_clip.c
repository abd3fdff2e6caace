#include "runner.h"

#include <math.h>

/*  A clip search and what it is measured on, as plain rows: those of X (token weights inside), of
    the sketch, or one row per channel for the diagonal.                                          */
typedef struct clipping {
    awq_clip_config config;
    awq_matrix weight, x;
    awq_inputs inputs;
    awq_stats stats;
    const float *scale;
    size_t group, groups, rows;
    double *evidence;           /* [rows][in_features]                                            */
    float *clip;                /* [out_features][groups]                                         */
} clipping;

static double *evidence_of(clipping *c)
{
    size_t in = c->weight.cols, i, t;
    double *rows;
    float mean[64];

    c->rows = c->inputs.loss == AWQ_LOSS_SKETCH ? c->stats.sketch_rows
            : c->inputs.loss == AWQ_LOSS_DIAGONAL ? in : c->x.rows;
    rows = calloc(c->rows * in, sizeof *rows);
    assert_non_null(rows);
    assert_status(awq_stats_get(&c->stats, AWQ_ABS_MEAN, mean), AWQ_OK);
    for (t = 0; t < c->rows; t++)
        for (i = 0; i < in; i++) {
            double *to = &rows[t * in + i];
            if (c->inputs.loss == AWQ_LOSS_SKETCH) *to = (double)c->stats.sketch[t * in + i];
            else if (c->inputs.loss == AWQ_LOSS_DIAGONAL) *to = i == t ? (double)mean[i] : 0.0;
            else *to = at(c->x, t, i) * sqrt((double)c->inputs.token_weight[t]);
        }
    return rows;
}

static clipping new_clipping(pool *p, rng *r, awq_loss loss)
{
    clipping c;
    size_t out = 1 + rng_below(r, 9), in = 1 + rng_below(r, 50), size, i;
    float *token_weight, *scale;

    memset(&c, 0, sizeof c);
    c.config = awq_clip_preset(random_quant(r));
    c.weight = random_matrix(p, r, out, in, 1);
    c.x = random_matrix(p, r, 1 + rng_below(r, 30), in, 2);
    token_weight = pool_floats(p, c.x.rows);
    for (i = 0; i < c.x.rows; i++) token_weight[i] = (float)(1.25 + rng_unit(r));
    scale = pool_floats(p, in);
    for (i = 0; i < in; i++) scale[i] = (float)(1.25 + rng_unit(r));
    c.scale = rng_below(r, 2) ? scale : NULL;
    size = awq_stats_size(in, 32, 1);
    assert_status(awq_stats_init(&c.stats, in, 32, 1, seed, pool_aligned(p, size, sizeof(double)),
                                 size), AWQ_OK);
    assert_status(awq_stats_add(kernels, &c.stats, c.x, token_weight, NULL, NULL), AWQ_OK);
    c.inputs.loss = loss;
    c.inputs.rows = c.x;
    c.inputs.token_weight = token_weight;
    c.group = group_length(in, c.config.quant.group_size);
    c.groups = (in + c.group - 1) / c.group;
    c.evidence = evidence_of(&c);
    c.clip = pool_floats(p, out * c.groups);
    return c;
}

static awq_status run_clip(pool *p, clipping *c, const awq_parallel *parallel, float *clip)
{
    size_t size;
    c->inputs.stats = &c->stats;
    size = awq_clip_scratch_size(&c->inputs, c->weight, &c->config, parallel);
    assert_true(size > 0);
    return awq_clip_search(kernels, &c->config, &c->inputs, c->weight, c->scale,
                           pool_aligned(p, size, sizeof(double)), size, parallel, clip, NULL);
}

/*  The loss of one bound of one group, from the definition.                                      */
static double loss_at(const clipping *c, size_t row, size_t begin, size_t end, float bound)
{
    size_t in = c->weight.cols, t, i;
    float u[64];
    uint8_t q[64];
    double d[64], step, sum = 0;
    int zero;

    define_scaled_row(c->weight, row, c->scale, NULL, c->group, u);
    for (i = begin; i < end; i++) u[i] = u[i] > bound ? bound : u[i] < -bound ? -bound : u[i];
    assert_status(define_group(c->config.quant, u + begin, end - begin, &step, &zero, q), AWQ_OK);
    for (i = begin; i < end; i++)
        d[i] = (q[i - begin] - zero) * step / (c->scale ? (double)c->scale[i] : 1.0) -
               at(c->weight, row, i);
    for (t = 0; t < c->rows; t++) {
        double dot = 0;
        for (i = begin; i < end; i++) dot += d[i] * c->evidence[t * in + i];
        sum += dot * dot;
    }
    return sum;
}

static void check_group(const clipping *c, size_t row, size_t g)
{
    size_t begin = g * c->group, end = begin + c->group, i;
    float u[64], peak = 0, got = c->clip[row * c->groups + g];
    double best = -1, unclipped, chosen = -1;
    int point;

    if (end > c->weight.cols) end = c->weight.cols;
    define_scaled_row(c->weight, row, c->scale, NULL, c->group, u);
    for (i = begin; i < end; i++)
        if (magnitude((double)u[i]) > (double)peak) peak = (float)magnitude((double)u[i]);
    unclipped = loss_at(c, row, begin, end, peak);
    for (point = 0; point < c->config.grid_points; point++) {
        float bound = peak * (float)(1.0 - (double)point / c->config.grid_steps);
        double loss = loss_at(c, row, begin, end, bound);
        if (best < 0 || loss < best) best = loss;
        if (chosen < 0 && magnitude((double)got - (double)bound) <= 1e-6 * (double)peak)
            chosen = loss;
    }
    if (chosen < 0) fail_msg("%g is no candidate of a group with maximum %g", (double)got,
                             (double)peak);
    /* a near tie may go either way: the library sums in fp32                                     */
    assert_close(chosen, best, 1e-4 * best + 1e-6 * unclipped + 1e-12);
}

static void check_loss(awq_loss loss)
{
    rng r = { seed };
    int i;
    for (i = 0; i < 60; i++) {
        pool p = { .count = 0 };
        clipping c = new_clipping(&p, &r, loss);
        size_t row, g;
        assert_status(run_clip(&p, &c, NULL, c.clip), AWQ_OK);
        for (row = 0; row < c.weight.rows; row++)
            for (g = 0; g < c.groups; g++) check_group(&c, row, g);
        free(c.evidence);
        assert_int_equal(pool_release(&p), 0);
    }
}

TEST(rows_match_brute_force) { (void)state; check_loss(AWQ_LOSS_ROWS); }
TEST(gram_matches_brute_force) { (void)state; check_loss(AWQ_LOSS_GRAM); }
TEST(sketch_matches_brute_force) { (void)state; check_loss(AWQ_LOSS_SKETCH); }
TEST(diagonal_matches_brute_force) { (void)state; check_loss(AWQ_LOSS_DIAGONAL); }

TEST(the_first_of_equals_wins)
{
    pool p = { .count = 0 };
    rng r = { seed };
    clipping c = new_clipping(&p, &r, AWQ_LOSS_ROWS);
    size_t row, col, g;
    (void)state;
    for (row = 0; row < c.x.rows; row++)
        for (col = 0; col < c.x.cols; col++) put(c.x, row, col, 0);
    c.scale = NULL;
    assert_status(run_clip(&p, &c, NULL, c.clip), AWQ_OK);
    for (row = 0; row < c.weight.rows; row++)
        for (g = 0; g < c.groups; g++) {
            double peak = 0;
            for (col = g * c.group; col < (g + 1) * c.group && col < c.weight.cols; col++)
                if (magnitude(at(c.weight, row, col)) > peak) peak = magnitude(at(c.weight, row,
                                                                                  col));
            assert_true((double)c.clip[row * c.groups + g] == peak);
        }
    free(c.evidence);
    assert_int_equal(pool_release(&p), 0);
}

TEST(parallel_search_equals_the_serial_one)
{
    rng r = { seed };
    shuffle order = { { seed } };
    parallel_pool threads;
    awq_parallel parallel[2];
    int i;
    (void)state;
    parallel[0] = shuffled(&order);
    parallel[1] = threaded(&threads);
    for (i = 0; i < 10; i++) {
        pool p = { .count = 0 };
        clipping c = new_clipping(&p, &r, AWQ_LOSS_ROWS);
        float *other = pool_floats(&p, c.weight.rows * c.groups);
        assert_status(run_clip(&p, &c, NULL, c.clip), AWQ_OK);
        assert_status(run_clip(&p, &c, &parallel[i % 2], other), AWQ_OK);
        assert_memory_equal(other, c.clip, c.weight.rows * c.groups * sizeof(float));
        free(c.evidence);
        assert_int_equal(pool_release(&p), 0);
    }
    parallel_stop(&threads);
}

TEST(bad_values_are_reported_with_their_place)
{
    pool p = { .count = 0 };
    rng r = { seed };
    clipping c = new_clipping(&p, &r, AWQ_LOSS_ROWS);
    size_t size, row = rng_below(&r, c.weight.rows), col = rng_below(&r, c.weight.cols);
    size_t token = rng_below(&r, c.x.rows);
    awq_where where = { 9, 9, 9 };
    void *scratch;
    double kept = at(c.weight, row, col);
    (void)state;

    c.inputs.stats = &c.stats;
    size = awq_clip_scratch_size(&c.inputs, c.weight, &c.config, NULL);
    scratch = pool_aligned(&p, size, sizeof(double));
    put(c.weight, row, col, not_a_number());
    assert_status(awq_clip_search(kernels, &c.config, &c.inputs, c.weight, c.scale, scratch, size,
                                  NULL, c.clip, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 0 && where.row == row && where.col == col);
    put(c.weight, row, col, kept);
    put(c.x, token, col, infinity());
    assert_status(awq_clip_search(kernels, &c.config, &c.inputs, c.weight, c.scale, scratch, size,
                                  NULL, c.clip, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 1 && where.row == token && where.col == col);
    free(c.evidence);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_match_brute_force),
        cmocka_unit_test(gram_matches_brute_force),
        cmocka_unit_test(sketch_matches_brute_force),
        cmocka_unit_test(diagonal_matches_brute_force),
        cmocka_unit_test(the_first_of_equals_wins),
        cmocka_unit_test(parallel_search_equals_the_serial_one),
        cmocka_unit_test(bad_values_are_reported_with_their_place),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
