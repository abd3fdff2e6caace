/*  test_pipeline.c - all of it in a row, as a host does: statistics, search, fit, round, pack, open,
    matmul, for every number of bits; and a mixture of experts, one of which was never asked.      */
#include "runner.h"

#include <math.h>

enum { IN = 200, OUT = 37, TOKENS = 300, GROUP = 64, GROUPS = 4, RUN_TOKENS = 5 };

typedef struct linear {
    awq_matrix weight;
    awq_stats stats;            /* with a Gram matrix                                             */
    float scale[IN];
    awq_search_result found;
    awq_tensor tensor;
    double what[OUT * IN];      /* the weights it stands for, of x                                */
} linear;

static awq_matrix correlated_rows(pool *p, rng *r, size_t tokens)
{
    awq_matrix x = new_matrix(p, AWQ_F32, tokens, IN, IN, AT_END);
    size_t t, c;
    for (t = 0; t < tokens; t++) {
        double common = rng_normal(r);
        for (c = 0; c < IN; c++)
            put(x, t, c, (rng_normal(r) + common * ((double)(c % 5) - 1.5)) * (c % 50 ? 1 : 9));
    }
    return x;
}

static linear *new_linear(pool *p, rng *r, awq_quant quant, awq_matrix x)
{
    linear *l = calloc(1, sizeof *l);
    size_t size = awq_tensor_size(quant, OUT, IN);
    assert_non_null(l);
    l->weight = random_matrix(p, r, OUT, IN, 1);
    l->stats = new_stats(p, IN, 128, 1, 1);
    assert_status(awq_stats_add(kernels, &l->stats, x, NULL, NULL, NULL), AWQ_OK);
    assert_status(awq_tensor_init(&l->tensor, quant, OUT, IN,
                                  pool_aligned(p, size, sizeof(float)), size), AWQ_OK);
    return l;
}

static awq_inputs inputs_of(const awq_stats *stats, awq_loss loss)
{
    awq_inputs inputs = { loss, stats, { NULL, 0, IN, IN, AWQ_F32 }, NULL, NULL, NULL };
    return inputs;
}

static void search(pool *p, const awq_stats *stats, awq_loss loss, awq_quant quant,
                   const awq_matrix *weights, size_t count, float *scale, awq_search_result *found)
{
    awq_inputs inputs = inputs_of(stats, loss);
    awq_search_config config = awq_search_preset(AWQ_PRESET_AUTOAWQ, quant);
    size_t size = awq_search_scratch_size(&inputs, weights, count, NULL);
    assert_true(size > 0);
    assert_status(awq_search(kernels, &config, &inputs, weights, count,
                             pool_aligned(p, size, sizeof(double)), size, NULL, scale, NULL, found,
                             NULL), AWQ_OK);
}

/*  Better grids and integers for the scale that the linear has.                                  */
static void improve(pool *p, linear *l)
{
    const awq_round_config config = { 2, 1 };
    size_t size = awq_hessian_size(IN), work_size = awq_round_scratch_size(IN, NULL);
    void *memory = pool_aligned(p, size, sizeof(float));
    void *work = pool_aligned(p, work_size, sizeof(float));
    float importance[IN];
    awq_hessian h;
    assert_status(awq_stats_get(&l->stats, AWQ_SQ_MEAN, importance), AWQ_OK);
    assert_status(awq_fit(kernels, l->weight, l->scale, importance, &l->tensor, 0, OUT, NULL),
                  AWQ_OK);
    assert_status(awq_hessian_init(kernels, &l->stats, l->scale, 0.01, AWQ_ORDER_ACTIVATION, memory,
                                   size, NULL, &h, NULL), AWQ_OK);
    assert_status(awq_round(kernels, &config, &h, l->weight, l->scale, &l->tensor, work, work_size,
                            NULL, NULL), AWQ_OK);
}

static double step_of(const linear *l, size_t row, size_t c)
{
    return element(l->tensor.quant.scale_dtype, l->tensor.scales, row * GROUPS + c / GROUP);
}

static void define_weights(linear *l)
{
    size_t row, c;
    for (row = 0; row < OUT; row++)
        for (c = 0; c < IN; c++)
            l->what[row * IN + c] = step_of(l, row, c) / (double)l->scale[c]
                                    * (l->tensor.q[row * IN + c]
                                       - l->tensor.zeros[row * GROUPS + c / GROUP]);
}

/*  || (What - W) x ||^2 / || W x ||^2.                                                           */
static double relative_error(const linear *l, awq_matrix x)
{
    double error = 0, power = 0;
    size_t t, row, c;
    for (t = 0; t < x.rows; t++)
        for (row = 0; row < OUT; row++) {
            double e = 0, y = 0;
            for (c = 0; c < IN; c++) {
                e += (l->what[row * IN + c] - at(l->weight, row, c)) * at(x, t, c);
                y += at(l->weight, row, c) * at(x, t, c);
            }
            error += e * e;
            power += y * y;
        }
    return error / power;
}

/*  Packed and opened again, against the sum in double; the bound is awq_matmul's own.            */
static void check_product(pool *p, linear *l, awq_matrix x)
{
    size_t size = awq_packed_size(l->tensor.quant, OUT, IN), t, row, c;
    size_t room = awq_prepared_size(kernels, IN, GROUP, AWQ_A16, x.rows);
    void *memory = pool_bytes(p, size, AT_END);
    awq_matrix y = new_matrix(p, AWQ_F32, x.rows, OUT, OUT, AT_END);
    awq_prepared ready;
    awq_packed packed;

    assert_status(awq_packed_init(l->tensor.quant, OUT, IN, memory, size), AWQ_OK);
    assert_status(awq_pack(kernels, &l->tensor, memory, size, 0, OUT, NULL), AWQ_OK);
    assert_status(awq_packed_open(&packed, memory, size), AWQ_OK);
    assert_status(awq_packed_check(&packed, NULL), AWQ_OK);
    assert_status(awq_prepare(kernels, GROUP, AWQ_A16, x, l->scale,
                              pool_aligned(p, room, sizeof(float)), room, 0, x.rows, &ready, NULL),
                  AWQ_OK);
    assert_status(awq_matmul(kernels, &packed, &ready, NULL, y, 0, OUT), AWQ_OK);
    for (t = 0; t < x.rows; t++)
        for (row = 0; row < OUT; row++) {
            double sum = 0, bound = 0, most[GROUPS] = { 0 }, weights[GROUPS] = { 0 };
            for (c = 0; c < IN; c++) {
                double what = l->what[row * IN + c], value = what * at(x, t, c);
                double input = magnitude(at(x, t, c) / (double)l->scale[c]);
                sum += value;
                bound += 1e-6 * magnitude(value);
                most[c / GROUP] = input > most[c / GROUP] ? input : most[c / GROUP];
                weights[c / GROUP] += magnitude(what * (double)l->scale[c]);
            }
            for (c = 0; c < GROUPS; c++) bound += 0.504 * 1.0001 / 32639 * most[c] * weights[c];
            assert_close(at(y, t, row), sum, bound);
        }
}

static double through_everything(pool *p, rng *r, awq_quant quant, awq_matrix x, awq_matrix run)
{
    linear *l = new_linear(p, r, quant, x);
    double nearest, error;

    search(p, &l->stats, AWQ_LOSS_GRAM, quant, &l->weight, 1, l->scale, &l->found);
    assert_status(awq_quantize(kernels, l->weight, l->scale, NULL, &l->tensor, 0, OUT, NULL), AWQ_OK);
    define_weights(l);
    nearest = relative_error(l, x);
    check_product(p, l, run);
    improve(p, l);
    define_weights(l);
    error = relative_error(l, x);
    assert_true(error < 0.9 * nearest);
    check_product(p, l, run);
    free(l);
    return error;
}

/*  A bit more: half the step, and a quarter of the squared error or so.                          */
TEST(every_number_of_bits_from_statistics_to_product)
{
    static const int bits[] = { 2, 3, 4, 8 };
    rng r = { seed };
    int symmetric;
    size_t i;
    (void)state;
    for (symmetric = 0; symmetric < 2; symmetric++) {
        double before = 1, error;
        for (i = 0; i < COUNT(bits); i++) {
            pool p = { .count = 0 };
            awq_quant quant = { bits[i], GROUP, symmetric, AWQ_F16 };
            awq_matrix x = correlated_rows(&p, &r, TOKENS), run = correlated_rows(&p, &r, RUN_TOKENS);
            error = through_everything(&p, &r, quant, x, run);
            assert_true(error < before / 2);
            before = error;
            assert_int_equal(pool_release(&p), 0);
        }
        assert_true(before < 5e-5);             /* 8 bits                                         */
    }
}

/* ---- a mixture of experts -------------------------------------------------------------------- */

/*  No weight is further from its original than a step.                                           */
static void assert_rounded_to_nearest(linear *l)
{
    size_t row, c;
    define_weights(l);
    for (row = 0; row < OUT; row++)
        for (c = 0; c < IN; c++) {
            double step = step_of(l, row, c);
            assert_true(step > 0 && step < 1);
            assert_close(l->what[row * IN + c], at(l->weight, row, c),
                         1.01 * step / (double)l->scale[c]);
        }
}

/*  Nothing is known about the input of its down projection: s = 1, plain rounding, no clipping.  */
TEST(an_expert_that_was_never_asked_is_rounded_plainly)
{
    static const awq_loss losses[] = { AWQ_LOSS_SKETCH, AWQ_LOSS_GRAM, AWQ_LOSS_DIAGONAL };
    const awq_quant quant = { 4, GROUP, 0, AWQ_F16 };
    pool p = { .count = 0 };
    rng r = { seed };
    linear *l = new_linear(&p, &r, quant, correlated_rows(&p, &r, 0));
    awq_clip_config config = awq_clip_preset(quant);
    awq_inputs inputs = inputs_of(&l->stats, AWQ_LOSS_GRAM);
    size_t size = awq_clip_scratch_size(&inputs, l->weight, &config, NULL), i, c;
    float *clip = pool_floats(&p, OUT * GROUPS);

    (void)state;
    for (i = 0; i < COUNT(losses); i++) {
        search(&p, &l->stats, losses[i], quant, &l->weight, 1, l->scale, &l->found);
        assert_true(l->found.is_identity && !(l->found.loss > 0) && !(l->found.identity_loss > 0));
        for (c = 0; c < IN; c++) assert_true(!(l->scale[c] < 1) && !(l->scale[c] > 1));
    }
    assert_status(awq_clip_search(kernels, &config, &inputs, l->weight, l->scale,
                                  pool_aligned(&p, size, sizeof(double)), size, NULL, clip, NULL),
                  AWQ_OK);
    assert_status(awq_quantize(kernels, l->weight, l->scale, clip, &l->tensor, 0, OUT, NULL), AWQ_OK);
    assert_rounded_to_nearest(l);
    improve(&p, l);
    assert_rounded_to_nearest(l);
    check_product(&p, l, correlated_rows(&p, &r, RUN_TOKENS));
    free(l);
    assert_int_equal(pool_release(&p), 0);
}

/*  Experts share the layer's input and so one s; statistics of the idle one add nothing.         */
TEST(experts_share_a_scale_with_one_that_was_never_asked)
{
    const awq_quant quant = { 4, GROUP, 0, AWQ_F16 };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix x = correlated_rows(&p, &r, TOKENS), run = correlated_rows(&p, &r, RUN_TOKENS);
    linear *busy = new_linear(&p, &r, quant, x);
    linear *idle = new_linear(&p, &r, quant, correlated_rows(&p, &r, 0));
    awq_stats all = new_stats(&p, IN, 128, 1, 1);
    awq_matrix weights[2] = { busy->weight, idle->weight };
    float alone[IN];
    size_t c;

    (void)state;
    assert_status(awq_stats_merge(&all, &busy->stats), AWQ_OK);
    assert_status(awq_stats_merge(&all, &idle->stats), AWQ_OK);
    search(&p, &busy->stats, AWQ_LOSS_GRAM, quant, weights, 2, alone, &busy->found);
    search(&p, &all, AWQ_LOSS_GRAM, quant, weights, 2, idle->scale, &idle->found);
    assert_memory_equal(alone, idle->scale, sizeof alone);
    assert_true(!idle->found.is_identity);
    for (c = 0; c < IN; c++) assert_true(idle->scale[c] > 0 && idle->scale[c] < 1e4f);
    improve(&p, idle);          /* by its own statistics, of no token                             */
    assert_rounded_to_nearest(idle);
    check_product(&p, idle, run);
    free(busy);
    free(idle);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_bits_from_statistics_to_product),
        cmocka_unit_test(an_expert_that_was_never_asked_is_rounded_plainly),
        cmocka_unit_test(experts_share_a_scale_with_one_that_was_never_asked),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
