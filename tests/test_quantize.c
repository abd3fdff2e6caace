#include "runner.h"

#include <float.h>

TEST(bits_match_the_definition)
{
    (void)state;
    RUN_BODY(body_quantize, 400);
}

TEST(number_formats_match_their_definition)
{
    (void)state;
    RUN_BODY(body_numbers, 20);
}

static const awq_dtype DTYPES[] = { AWQ_F32, AWQ_F16, AWQ_BF16 };

/*  One group of n values through quantize and dequantize; returns the stored scale.              */
static awq_status round_trip(awq_quant quant, const float *w, size_t n, float *out, double *scale,
                             awq_where *where)
{
    pool p = { .count = 0 };
    size_t size = awq_tensor_size(quant, 1, n);
    awq_matrix weight = awq_matrix_view(w, AWQ_F32, 1, n), dense = new_matrix(&p, AWQ_F32, 1, n, n,
                                                                             AT_END);
    awq_tensor tensor;
    awq_status status;

    assert_status(awq_tensor_init(&tensor, quant, 1, n, pool_aligned(&p, size, sizeof(float)),
                                  size), AWQ_OK);
    status = awq_quantize(kernels, weight, NULL, NULL, &tensor, 0, 1, where);
    if (status == AWQ_OK) {
        assert_status(awq_dequantize(&tensor, NULL, dense, 0, 1), AWQ_OK);
        memcpy(out, dense.data, n * sizeof *out);
        *scale = element(quant.scale_dtype, tensor.scales, 0);
    }
    assert_int_equal(pool_release(&p), 0);
    return status;
}

static awq_quant quant_of(int bits, int symmetric, awq_dtype scale_dtype)
{
    awq_quant quant;
    quant.bits = bits;
    quant.group_size = -1;
    quant.symmetric = symmetric;
    quant.scale_dtype = scale_dtype;
    return quant;
}

/*  Every value of a group must come back to within a step, whatever its sign and size.           */
static void assert_sane(const float *w, size_t n, double smallest_step)
{
    static const int bits[] = { 2, 3, 4, 8 };
    size_t b, d, i;
    int symmetric;
    for (b = 0; b < COUNT(bits); b++)
        for (symmetric = 0; symmetric < 2; symmetric++)
            for (d = 0; d < COUNT(DTYPES); d++) {
                float out[16];
                double scale, step;
                assert_status(round_trip(quant_of(bits[b], symmetric, DTYPES[d]), w, n, out, &scale,
                                         NULL), AWQ_OK);
                assert_true(scale >= smallest_scale(DTYPES[d]) && scale <= (double)FLT_MAX);
                step = scale > smallest_step ? scale : smallest_step;
                for (i = 0; i < n; i++)
                    assert_close(out[i], w[i], step * (1 + power_of_two(bits[b] - 8)));
            }
}

TEST(zero_groups_stay_zero)
{
    const float w[16] = { 0 };
    size_t d, i;
    (void)state;
    for (d = 0; d < COUNT(DTYPES); d++) {
        float out[16];
        double scale;
        assert_status(round_trip(quant_of(4, (int)d % 2, DTYPES[d]), w, 16, out, &scale, NULL),
                      AWQ_OK);
        assert_true(scale >= smallest_scale(DTYPES[d]));
        for (i = 0; i < 16; i++) assert_true(out[i] == 0.0f);
    }
}

TEST(constant_and_one_signed_groups_round_trip)
{
    const float constant[4] = { 0.7f, 0.7f, 0.7f, 0.7f }, negative[4] = { -3, -3, -3, -3 };
    const float positive[4] = { 1.0f, 1.25f, 1.5f, 1.125f }, one[1] = { -0.3f };
    (void)state;
    assert_sane(constant, 4, 0);
    assert_sane(negative, 4, 0);
    assert_sane(positive, 4, 0);
    assert_sane(one, 1, 0);
}

TEST(tiny_groups_round_trip)
{
    const float denormal[4] = { 1e-40f, -1e-42f, 3e-41f, FLT_MIN / 8 };
    const float small[4] = { 1e-7f, -2e-7f, 5e-8f, 0 };     /* fp16 scales are subnormal here     */
    (void)state;
    assert_sane(denormal, 4, 0);
    assert_sane(small, 4, 2 * power_of_two(-24) * 255);
}

TEST(huge_groups_round_trip_or_say_so)
{
    const float w[4] = { 1e30f, -3e30f, 2e29f, 0 }, wide[2] = { 2e38f, -2e38f };
    float out[4];
    double scale;
    awq_where where = { 9, 9, 9 };
    int symmetric;
    size_t i;
    (void)state;
    for (symmetric = 0; symmetric < 2; symmetric++) {
        assert_status(round_trip(quant_of(4, symmetric, AWQ_F32), w, 4, out, &scale, NULL), AWQ_OK);
        for (i = 0; i < 4; i++) assert_close(out[i], w[i], scale);
        assert_status(round_trip(quant_of(4, symmetric, AWQ_BF16), w, 4, out, &scale, NULL),
                      AWQ_OK);
        for (i = 0; i < 4; i++) assert_close(out[i], w[i], 1.1 * scale);
        assert_status(round_trip(quant_of(4, symmetric, AWQ_F16), w, 4, out, &scale, &where),
                      AWQ_ERR_SCALE);
        assert_int_equal(where.row, 0);
        assert_true(where.col < 4);
        assert_status(round_trip(quant_of(4, symmetric, AWQ_F32), wide, 2, out, &scale, NULL),
                      AWQ_OK);
        for (i = 0; i < 2; i++) assert_close(out[i], wide[i], scale);
    }
}

/*  (q - zero) * scale may not fit in fp32 any more: then that must be said, not returned as inf. */
TEST(the_largest_floats_round_trip_or_say_so)
{
    const float w[2] = { FLT_MAX, -FLT_MAX };
    const awq_dtype dtypes[] = { AWQ_F32, AWQ_BF16 };
    float out[2];
    double scale;
    size_t i, d;
    (void)state;
    for (d = 0; d < 4; d++)
        if (round_trip(quant_of(4, d / 2 > 0, dtypes[d % 2]), w, 2, out, &scale, NULL) == AWQ_OK)
            for (i = 0; i < 2; i++) assert_close(out[i], w[i], 1.1 * scale);
}

/*  The largest group an fp16 scale holds is 65504 * 15 wide; 65520 * 15 rounds to infinity. */
TEST(fp16_scales_end_where_the_manual_says)
{
    const float fits[2] = { 65504.0f * 15, 0 }, rounds_down[2] = { 65519.0f * 15, 0 };
    const float too_large[2] = { 65520.0f * 15, 0 };
    float out[2];
    double scale;
    (void)state;
    assert_status(round_trip(quant_of(4, 0, AWQ_F16), fits, 2, out, &scale, NULL), AWQ_OK);
    assert_true(out[0] == fits[0]);
    assert_status(round_trip(quant_of(4, 0, AWQ_F16), rounds_down, 2, out, &scale, NULL), AWQ_OK);
    assert_status(round_trip(quant_of(4, 0, AWQ_F16), too_large, 2, out, &scale, NULL),
                  AWQ_ERR_SCALE);
}

/*  What is refused, and where it is said to be.                                                  */
TEST(bad_values_are_reported_with_their_place)
{
    enum { ROWS = 5, COLS = 300, GROUP = 32, GROUPS = (COLS + GROUP - 1) / GROUP };
    const double bad[] = { not_a_number(), infinity(), -infinity() };
    const awq_quant quant = { 4, GROUP, 0, AWQ_F16 };
    pool p = { .count = 0 };
    rng r = { seed };
    size_t size = awq_tensor_size(quant, ROWS, COLS), i;
    awq_matrix weight = random_matrix(&p, &r, ROWS, COLS, 1);
    float *scale = pool_floats(&p, COLS), *clip = pool_floats(&p, ROWS * GROUPS);
    awq_tensor tensor;
    (void)state;

    for (i = 0; i < COLS; i++) scale[i] = 1;
    for (i = 0; i < ROWS * GROUPS; i++) clip[i] = 1;
    assert_status(awq_tensor_init(&tensor, quant, ROWS, COLS,
                                  pool_aligned(&p, size, sizeof(float)), size), AWQ_OK);
    for (i = 0; i < 30; i++) {
        awq_where where = { 9, 9, 9 };
        size_t row = rng_below(&r, ROWS), col = rng_below(&r, COLS);
        double kept = at(weight, row, col);
        put(weight, row, col, bad[i % 3]);
        assert_status(awq_quantize(kernels, weight, scale, NULL, &tensor, 0, ROWS, &where),
                      AWQ_ERR_DATA);
        assert_true(where.matrix == 0 && where.row == row && where.col == col);
        put(weight, row, col, kept);

        scale[col] = i % 3 == 0 ? 0.0f : i % 3 == 1 ? -1.0f : (float)bad[i / 3 % 3];
        assert_status(awq_quantize(kernels, weight, scale, clip, &tensor, 0, ROWS, &where),
                      AWQ_ERR_DATA);
        assert_int_equal(where.col, col);
        scale[col] = 1;

        clip[row * GROUPS + col / GROUP] = i % 2 ? -1.0f : (float)not_a_number();
        assert_status(awq_quantize(kernels, weight, scale, clip, &tensor, 0, ROWS, &where),
                      AWQ_ERR_DATA);
        assert_true(where.row == row && where.col / GROUP == col / GROUP);
        clip[row * GROUPS + col / GROUP] = 1;
    }
    assert_int_equal(pool_release(&p), 0);
}

TEST(a_clip_does_not_hide_bad_values)
{
    const double bad[] = { not_a_number(), infinity(), -infinity() };
    const awq_quant quant = { 4, -1, 0, AWQ_F16 };
    const float clip = 1;
    float w[8] = { 0.5f }, out[8];
    awq_where where = { 9, 9, 9 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        w[5] = (float)bad[i];
        assert_status(awq_fake_quantize(kernels, quant, awq_matrix_view(w, AWQ_F32, 1, 8), NULL,
                                        &clip, awq_matrix_view(out, AWQ_F32, 1, 8), 0, 1, &where),
                      AWQ_ERR_DATA);
        assert_true(where.row == 0 && where.col == 5);
    }
}

static void *quantized_bytes(pool *p, awq_quant quant, awq_matrix weight, size_t *size)
{
    void *memory;
    *size = awq_packed_size(quant, weight.rows, weight.cols);
    memory = pool_bytes(p, *size, AT_END);
    assert_status(awq_packed_init(quant, weight.rows, weight.cols, memory, *size), AWQ_OK);
    assert_status(awq_quantize_packed(kernels, weight, NULL, NULL, memory, *size, 0, weight.rows,
                                      NULL), AWQ_OK);
    return memory;
}

/*  -1, the row's length and anything longer mean the same group.                                 */
TEST(whole_row_groups_agree)
{
    const int sizes[] = { 77, 100, INT32_MAX };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix weight = random_matrix(&p, &r, 20, 77, 1);
    awq_quant quant = { 3, -1, 0, AWQ_BF16 };
    size_t size, other_size, i;
    unsigned char *whole = quantized_bytes(&p, quant, weight, &size);
    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        unsigned char *other;
        assert_int_equal(awq_group_count(77, sizes[i]), 1);
        quant.group_size = sizes[i];
        other = quantized_bytes(&p, quant, weight, &other_size);
        assert_int_equal(other_size, size);
        assert_memory_equal(whole + 64, other + 64, size - 64);
    }
    assert_int_equal(awq_group_count(77, 0), 0);
    assert_int_equal(awq_group_count(77, -2), 0);
    assert_int_equal(awq_group_count(576, 128), 5);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_match_the_definition),
        cmocka_unit_test(number_formats_match_their_definition),
        cmocka_unit_test(zero_groups_stay_zero),
        cmocka_unit_test(constant_and_one_signed_groups_round_trip),
        cmocka_unit_test(tiny_groups_round_trip),
        cmocka_unit_test(huge_groups_round_trip_or_say_so),
        cmocka_unit_test(the_largest_floats_round_trip_or_say_so),
        cmocka_unit_test(fp16_scales_end_where_the_manual_says),
        cmocka_unit_test(bad_values_are_reported_with_their_place),
        cmocka_unit_test(a_clip_does_not_hide_bad_values),
        cmocka_unit_test(whole_row_groups_agree),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
