#include "runner.h"

TEST(products_match_the_definition)
{
    (void)state;
    RUN_BODY(body_matmul, 600);
}

TEST(relative_error_is_what_the_manual_says)
{
    (void)state;
    RUN_BODY(body_relative_error, 4);
}

TEST(extreme_values_are_handled)
{
    (void)state;
    RUN_BODY(body_extreme_values, 200);
}

typedef struct layer { awq_packed packed; awq_matrix weight; void *memory; size_t size; } layer;

static layer new_layer(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols)
{
    layer l;
    l.weight = random_matrix(p, r, rows, cols, 1);
    l.size = awq_packed_size(quant, rows, cols);
    l.memory = pool_bytes(p, l.size, AT_END);
    assert_status(awq_packed_init(quant, rows, cols, l.memory, l.size), AWQ_OK);
    assert_status(awq_quantize_packed(kernels, l.weight, NULL, NULL, l.memory, l.size, 0, rows,
                                      NULL), AWQ_OK);
    assert_status(awq_packed_open(&l.packed, l.memory, l.size), AWQ_OK);
    return l;
}

static awq_prepared prepare(pool *p, awq_matrix x, int group_size, awq_precision precision)
{
    size_t size = awq_prepared_size(kernels, x.cols, group_size, precision, x.rows);
    awq_prepared prepared;
    assert_true(size > 0);
    assert_status(awq_prepare(kernels, group_size, precision, x, NULL,
                              pool_aligned(p, size, sizeof(float)), size, 0, x.rows, &prepared,
                              NULL), AWQ_OK);
    return prepared;
}

static const awq_quant QUANT = { 4, 32, 0, AWQ_F16 };

/*  q, k and v of any width may share one prepared input; each as if it had its own.              */
TEST(prepared_activations_serve_every_linear)
{
    const int bits[] = { 4, 2, 8 };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix x = random_matrix(&p, &r, 5, 130, 1);
    awq_prepared shared = prepare(&p, x, 32, AWQ_A16);
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bits); i++) {
        awq_quant quant = QUANT;
        layer l;
        awq_prepared own;
        awq_matrix a = new_matrix(&p, AWQ_F32, 5, 24 + i, 24 + i, AT_END), b;
        b = new_matrix(&p, AWQ_F32, 5, 24 + i, 24 + i, AT_END);
        quant.bits = bits[i];
        l = new_layer(&p, &r, quant, 24 + i, 130);
        own = prepare(&p, x, 32, AWQ_A16);
        assert_status(awq_matmul(kernels, &l.packed, &shared, NULL, a, 0, a.cols), AWQ_OK);
        assert_status(awq_matmul(kernels, &l.packed, &own, NULL, b, 0, b.cols), AWQ_OK);
        assert_memory_equal(a.data, b.data, 5 * a.cols * sizeof(float));
    }
    assert_int_equal(pool_release(&p), 0);
}

TEST(kernel_sets_share_what_they_say_they_share)
{
    pool p = { .count = 0 };
    rng r = { seed };
    layer l = new_layer(&p, &r, QUANT, 20, 100);
    awq_matrix x = random_matrix(&p, &r, 3, 100, 1), y = new_matrix(&p, AWQ_F32, 3, 20, 20, AT_END);
    awq_prepared prepared = prepare(&p, x, 32, AWQ_A8);
    awq_kernels sets[16], stranger = *kernels;
    size_t count = awq_kernels_list(sets, COUNT(sets)), i;
    (void)state;

    stranger.prepared_format = 12345;
    assert_status(awq_matmul(&stranger, &l.packed, &prepared, NULL, y, 0, 20), AWQ_ERR_MISMATCH);
    assert_true(untouched(y.data, 3 * 20 * sizeof(float)));
    for (i = 0; i < count; i++)
        assert_status(awq_matmul(&sets[i], &l.packed, &prepared, NULL, y, 0, 20),
                      sets[i].prepared_format == kernels->prepared_format ? AWQ_OK
                                                                          : AWQ_ERR_MISMATCH);
    assert_int_equal(pool_release(&p), 0);
}

TEST(list_is_complete_and_starts_with_the_best)
{
    awq_kernels sets[16], best = awq_kernels_best();
    size_t count = awq_kernels_list(sets, COUNT(sets)), i;
    (void)state;
    assert_true(count >= 1 && count <= COUNT(sets));
    assert_int_equal(awq_kernels_list(NULL, 0), count);
    assert_string_equal(best.name, sets[0].name);
    assert_string_equal(awq_kernels_portable().name, "portable");
    assert_string_equal(sets[count - 1].name, "portable");
    for (i = 0; i < count; i++) assert_true(sets[i].name && sets[i].matmul_rows);
}

TEST(bad_activations_are_reported_with_their_token)
{
    const double bad[] = { not_a_number(), infinity(), -infinity() };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix x = random_matrix(&p, &r, 9, 150, 1);
    size_t size = awq_prepared_size(kernels, 150, 64, AWQ_A16, 9), i;
    size_t size_a8 = awq_prepared_size(kernels, 150, 64, AWQ_A8, 9);
    void *memory;
    awq_prepared prepared;
    awq_where where;
    (void)state;
    if (size_a8 > size) size = size_a8;
    memory = pool_aligned(&p, size, sizeof(float));
    for (i = 0; i < 60; i++) {
        awq_precision precision = (awq_precision)(i % 2);
        size_t token = rng_below(&r, 9), col = rng_below(&r, 150);
        double kept = at(x, token, col);
        put(x, token, col, bad[i % 3]);
        memset(&where, PATTERN, sizeof where);
        assert_status(awq_prepare(kernels, 64, precision, x, NULL, memory, size, 0, 9, &prepared,
                                  &where), AWQ_ERR_DATA);
        assert_true(where.matrix == 0 && where.row == token && where.col == col);
        if (token > 0)
            assert_status(awq_prepare(kernels, 64, precision, x, NULL, memory, size, 0, token,
                                      &prepared, &where), AWQ_OK);
        put(x, token, col, kept);
    }
    assert_int_equal(pool_release(&p), 0);
}

TEST(outputs_beyond_their_dtype_become_infinite)
{
    const float x[1] = { 1000 }, w[2] = { 1000, -1000 };
    const awq_quant quant = { 4, -1, 0, AWQ_F32 };
    pool p = { .count = 0 };
    size_t size = awq_packed_size(quant, 2, 1);
    void *memory = pool_bytes(&p, size, AT_END);
    awq_matrix y = new_matrix(&p, AWQ_F16, 1, 2, 2, AT_END);
    awq_packed packed;
    awq_prepared prepared = prepare(&p, awq_matrix_view(x, AWQ_F32, 1, 1), -1, AWQ_A16);
    (void)state;
    assert_status(awq_packed_init(quant, 2, 1, memory, size), AWQ_OK);
    assert_status(awq_quantize_packed(kernels, awq_matrix_view(w, AWQ_F32, 2, 1), NULL, NULL,
                                      memory, size, 0, 2, NULL), AWQ_OK);
    assert_status(awq_packed_open(&packed, memory, size), AWQ_OK);
    assert_status(awq_matmul(kernels, &packed, &prepared, NULL, y, 0, 2), AWQ_OK);
    assert_true(at(y, 0, 0) == infinity() && at(y, 0, 1) == -infinity());
    assert_int_equal(pool_release(&p), 0);
}

typedef struct job { const layer *l; const awq_prepared *x; awq_matrix y; } job;

static void run_job(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    (void)worker;
    if (awq_matmul(kernels, &j->l->packed, j->x, NULL, j->y, begin, end) != AWQ_OK) abort();
}

TEST(threads_give_the_same_bits)
{
    enum { ROWS = 147, TOKENS = 4 };
    pool p = { .count = 0 };
    rng r = { seed };
    layer l = new_layer(&p, &r, QUANT, ROWS, 200);
    awq_prepared x = prepare(&p, random_matrix(&p, &r, TOKENS, 200, 1), 32, AWQ_A16);
    parallel_pool threads;
    awq_parallel parallel = threaded(&threads);
    job serial, split;
    int i;
    (void)state;
    serial.l = split.l = &l;
    serial.x = split.x = &x;
    serial.y = new_matrix(&p, AWQ_F32, TOKENS, ROWS, ROWS, AT_END);
    split.y = new_matrix(&p, AWQ_F32, TOKENS, ROWS, ROWS, AT_END);
    run_job(&serial, 0, ROWS, 0);
    for (i = 0; i < 20; i++) {
        memset(split.y.data, PATTERN, TOKENS * ROWS * sizeof(float));
        parallel.run(parallel.context, ROWS, AWQ_ROW_STEP, run_job, &split);
        assert_memory_equal(split.y.data, serial.y.data, TOKENS * ROWS * sizeof(float));
    }
    parallel_stop(&threads);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_the_definition),
        cmocka_unit_test(relative_error_is_what_the_manual_says),
        cmocka_unit_test(extreme_values_are_handled),
        cmocka_unit_test(prepared_activations_serve_every_linear),
        cmocka_unit_test(kernel_sets_share_what_they_say_they_share),
        cmocka_unit_test(list_is_complete_and_starts_with_the_best),
        cmocka_unit_test(bad_activations_are_reported_with_their_token),
        cmocka_unit_test(outputs_beyond_their_dtype_become_infinite),
        cmocka_unit_test(threads_give_the_same_bits),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
