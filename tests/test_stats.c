#include "runner.h"

#include <math.h>

TEST(sums_match_their_definition)
{
    (void)state;
    RUN_BODY(body_stats, 150);
}

TEST(losses_match_their_definition)
{
    (void)state;
    RUN_BODY(body_losses, 100);
}

TEST(statistics_are_one_number_per_channel)
{
    pool p = { .count = 0 };
    const float x[2][2] = { { 1, -8 }, { -3, 4 } }, weight[2] = { 1, 3 };
    awq_stats stats = new_stats(&p, 2, 0, 0, 0);
    float out[2];
    (void)state;

    assert_status(awq_stats_get(&stats, AWQ_ABS_MEAN, out), AWQ_OK);
    assert_true(out[0] == 0.0f && out[1] == 0.0f);
    assert_status(awq_stats_add(kernels, &stats, awq_matrix_view(x, AWQ_F32, 2, 2), weight, NULL,
                                NULL), AWQ_OK);
    assert_status(awq_stats_get(&stats, AWQ_ABS_MAX, out), AWQ_OK);
    assert_true(out[0] == 3.0f && out[1] == 8.0f);
    assert_status(awq_stats_get(&stats, AWQ_ABS_MEAN, out), AWQ_OK);
    assert_true(out[0] == 2.5f && out[1] == 5.0f);
    assert_status(awq_stats_get(&stats, AWQ_SQ_MEAN, out), AWQ_OK);
    assert_true(out[0] == 7.0f && out[1] == 28.0f);
    assert_int_equal(pool_release(&p), 0);
}

static void assert_same_stats(const awq_stats *a, const awq_stats *b)
{
    size_t n = a->in_features;
    assert_true(a->count == b->count);
    assert_memory_equal(&a->weight, &b->weight, sizeof a->weight);
    assert_memory_equal(a->abs_max, b->abs_max, n * sizeof *a->abs_max);
    assert_memory_equal(a->sum, b->sum, n * sizeof *a->sum);
    assert_memory_equal(a->abs_sum, b->abs_sum, n * sizeof *a->abs_sum);
    assert_memory_equal(a->sq_sum, b->sq_sum, n * sizeof *a->sq_sum);
    assert_memory_equal(a->sketch, b->sketch, n * a->sketch_rows * sizeof *a->sketch);
    assert_memory_equal(a->gram, b->gram, n * n * sizeof *a->gram);
}

/*  A batch refused must leave no trace, not even in how later batches are summed.                */
TEST(bad_data_changes_nothing)
{
    enum { IN = 19, TOKENS = 50 };
    const double bad[] = { not_a_number(), infinity(), -infinity() };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_stats twice = new_stats(&p, IN, 16, 1, 5), once = new_stats(&p, IN, 16, 1, 5);
    awq_matrix x = random_matrix(&p, &r, TOKENS, IN, 1);
    float *weight = pool_floats(&p, TOKENS);
    awq_where where;
    size_t i;
    (void)state;

    for (i = 0; i < TOKENS; i++) weight[i] = 1.0f;
    assert_status(awq_stats_add(kernels, &twice, x, NULL, NULL, NULL), AWQ_OK);
    assert_status(awq_stats_add(kernels, &once, x, NULL, NULL, NULL), AWQ_OK);
    for (i = 0; i < 20; i++) {
        size_t token = rng_below(&r, TOKENS), col = rng_below(&r, IN);
        double kept = at(x, token, col);
        put(x, token, col, bad[i % COUNT(bad)]);
        memset(&where, PATTERN, sizeof where);
        assert_status(awq_stats_add(kernels, &twice, x, weight, NULL, &where), AWQ_ERR_DATA);
        assert_int_equal(where.row, token);
        assert_int_equal(where.col, col);
        put(x, token, col, kept);

        weight[token] = i % 2 ? -1.0f : (float)bad[i / 2 % 2];
        assert_status(awq_stats_add(kernels, &twice, x, weight, NULL, &where), AWQ_ERR_DATA);
        assert_int_equal(where.row, token);
        assert_int_equal(where.col, IN);
        weight[token] = 1.0f;
        assert_same_stats(&twice, &once);
    }
    assert_status(awq_stats_add(kernels, &twice, x, NULL, NULL, NULL), AWQ_OK);
    assert_status(awq_stats_add(kernels, &once, x, NULL, NULL, NULL), AWQ_OK);
    assert_same_stats(&twice, &once);
    assert_int_equal(pool_release(&p), 0);
}

/*  fp32 sums that would overflow are bad data, too: the state must stay finite.                  */
TEST(values_too_large_to_sum_are_refused)
{
    pool p = { .count = 0 };
    const float x[2] = { 1.0f, 3e38f };
    awq_stats stats = new_stats(&p, 2, 8, 1, 5);
    awq_where where = { 9, 9, 9 };
    size_t i;
    (void)state;

    assert_status(awq_stats_add(kernels, &stats, awq_matrix_view(x, AWQ_F32, 1, 2), NULL, NULL,
                                &where), AWQ_ERR_DATA);
    assert_int_equal(where.row, 0);
    assert_true(stats.count == 0);
    for (i = 0; i < 4; i++) assert_true(isfinite(stats.gram[i]));
    assert_int_equal(pool_release(&p), 0);
}

TEST(parallel_sums_equal_serial_ones)
{
    enum { IN = 67, TOKENS = 150 };
    pool p = { .count = 0 };
    rng r = { seed };
    shuffle order = { { seed } };
    parallel_pool threads;
    awq_parallel parallel[2];
    awq_matrix x = random_matrix(&p, &r, TOKENS, IN, 1);
    awq_stats serial = new_stats(&p, IN, 40, 1, 9);
    size_t i;
    (void)state;

    parallel[0] = shuffled(&order);
    parallel[1] = threaded(&threads);
    assert_status(awq_stats_add(kernels, &serial, x, NULL, NULL, NULL), AWQ_OK);
    for (i = 0; i < 10; i++) {
        awq_stats stats = new_stats(&p, IN, 40, 1, 9);
        assert_status(awq_stats_add(kernels, &stats, x, NULL, &parallel[i % 2], NULL), AWQ_OK);
        assert_same_stats(&stats, &serial);
    }
    parallel_stop(&threads);
    assert_int_equal(pool_release(&p), 0);
}

/*  |S d|^2 for one seed: two shards of two batches each, all tokens alike, so that signs
    repeated between batches, shards or rows would show as a factor, not as noise.                */
static double sketched(uint64_t sketch_seed, const float *x, size_t n, const float *d)
{
    enum { ROWS = 64, BATCH = 5 };
    pool p = { .count = 0 };
    awq_stats shard[2];
    awq_matrix batch = new_matrix(&p, AWQ_F32, BATCH, n, n, AT_END);
    double sum = 0;
    size_t i, c;

    for (c = 0; c < BATCH * n; c++) put(batch, 0, c, (double)x[c % n]);
    for (i = 0; i < 2; i++) {
        shard[i] = new_stats(&p, n, ROWS, 0, 2 * sketch_seed + i);
        assert_status(awq_stats_add(kernels, &shard[i], batch, NULL, NULL, NULL), AWQ_OK);
        assert_status(awq_stats_add(kernels, &shard[i], batch, NULL, NULL, NULL), AWQ_OK);
    }
    assert_status(awq_stats_merge(&shard[0], &shard[1]), AWQ_OK);
    for (i = 0; i < ROWS; i++) {
        double dot = 0;
        for (c = 0; c < n; c++) dot += (double)shard[0].sketch[i * n + c] * (double)d[c];
        sum += dot * dot;
    }
    assert_int_equal(pool_release(&p), 0);
    return sum;
}

TEST(sketch_is_unbiased_and_its_rows_independent)
{
    enum { IN = 6, SEEDS = 300 };
    rng r = { seed };
    float x[IN], d[IN];
    double exact = 0, mean = 0, variance = 0;
    size_t i;
    (void)state;

    for (i = 0; i < IN; i++) {
        x[i] = (float)(1.5 + rng_unit(&r));
        d[i] = (float)(1.5 + rng_unit(&r));
        exact += (double)x[i] * (double)d[i];
    }
    exact = 20 * exact * exact;
    for (i = 0; i < SEEDS; i++) {
        double ratio = sketched(rng_next(&r), x, IN, d) / exact;
        mean += ratio / SEEDS;
        variance += (ratio - 1) * (ratio - 1) / SEEDS;
    }
    /* one seed: relative variance 2 / 64 if its rows differ; the mean of 300: sd 1 %             */
    assert_close(mean, 1.0, 0.08);
    assert_true(variance < 0.1);
}

/*  Shards that say where they begin, cut anywhere, merge into the sketch of one pass.             */
TEST(shards_of_one_seed_make_one_sketch)
{
    enum { IN = 19, TOKENS = 90, ROWS = 16, SHARDS = 3 };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix x = random_matrix(&p, &r, TOKENS, IN, 1);
    awq_stats whole = new_stats(&p, IN, ROWS, 0, 7), shard[SHARDS];
    size_t i, first = 0;
    (void)state;

    assert_status(awq_stats_add(kernels, &whole, x, NULL, NULL, NULL), AWQ_OK);
    for (i = 0; i < SHARDS; i++) {
        size_t end = i + 1 < SHARDS ? first + rng_below(&r, 40) : TOKENS;
        shard[i] = new_stats(&p, IN, ROWS, 0, 7);
        shard[i].first_token = first;
        assert_status(awq_stats_add(kernels, &shard[i], awq_matrix_rows(x, first, end), NULL, NULL,
                                    NULL), AWQ_OK);
        if (i) assert_status(awq_stats_merge(&shard[0], &shard[i]), AWQ_OK);
        first = end;
    }
    for (i = 0; i < ROWS * IN; i++) {
        double bound = 0x1p-22 * TOKENS * (double)whole.abs_max[i % IN];
        assert_close(shard[0].sketch[i], (double)whole.sketch[i], bound);
    }
    assert_true(shard[0].count == TOKENS);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_match_their_definition),
        cmocka_unit_test(losses_match_their_definition),
        cmocka_unit_test(statistics_are_one_number_per_channel),
        cmocka_unit_test(bad_data_changes_nothing),
        cmocka_unit_test(values_too_large_to_sum_are_refused),
        cmocka_unit_test(parallel_sums_equal_serial_ones),
        cmocka_unit_test(sketch_is_unbiased_and_its_rows_independent),
        cmocka_unit_test(shards_of_one_seed_make_one_sketch),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
