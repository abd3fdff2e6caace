/*  Foreign layouts: round trips through pairs, scales and zero points out of the ordinary, and every
    rule that can be violated.                                                                    */
#include "runner.h"

#include "foreign.h"

TEST(layouts_are_as_defined)
{
    (void)state;
    RUN_BODY(body_layouts, 260);
}

/* ---- a packed tensor and a foreign one of the same shape ------------------------------------- */

typedef struct pair {
    pool p;
    rng r;
    foreign_case c;
    awq_tensor tensor;
    awq_foreign f;
    unsigned char *bytes;
    size_t size;
    awq_packed packed;
} pair;

static void open_packed(pair *t, awq_quant quant, size_t rows, size_t cols)
{
    t->size = awq_packed_size(quant, rows, cols);
    t->bytes = pool_bytes(&t->p, t->size, AT_END);
    assert_status(awq_packed_init(quant, rows, cols, t->bytes, t->size), AWQ_OK);
    assert_status(awq_packed_open(&t->packed, t->bytes, t->size), AWQ_OK);
}

/*  The packed tensor has the foreign quant, but for what `symmetric` says; zero points 1 .. 15.  */
static pair *new_pair(awq_layout layout, int group_size, size_t rows, size_t cols, awq_dtype dtype)
{
    pair *t = calloc(1, sizeof *t);
    awq_quant quant = { 4, group_size, awq_layout_rules_of(layout).symmetric > 0, dtype };
    size_t groups = rows * awq_group_count(cols, group_size), i;
    assert_non_null(t);
    t->r.state = seed;
    t->c = (foreign_case){ layout, quant, rows, cols };
    t->tensor = random_tensor(&t->p, &t->r, quant, rows, cols);
    for (i = 0; i < groups; i++) t->tensor.zeros[i] |= t->tensor.zeros[i] == 0;
    t->f = new_foreign(&t->p, &t->r, &t->c);
    open_packed(t, quant, rows, cols);
    assert_status(awq_pack(kernels, &t->tensor, t->bytes, t->size, 0, rows, NULL), AWQ_OK);
    return t;
}

static void free_pair(pair *t)
{
    assert_int_equal(pool_release(&t->p), 0);
    free(t);
}

static awq_status export_to(pair *t, int allow_rounding, awq_where *where)
{
    return awq_export(kernels, &t->packed, &t->f, allow_rounding, 0, t->c.rows, where);
}

/*  Refused, with this place, and nothing written.                                                */
static void refuse_export(pair *t, int allow_rounding, awq_status status, size_t matrix,
                          size_t row, size_t col)
{
    awq_where where = { 99, 99, 99 };
    assert_status(export_to(t, allow_rounding, &where), status);
    assert_true(foreign_untouched(&t->f));
    assert_int_equal(where.matrix, matrix);
    assert_int_equal(where.row, row);
    assert_int_equal(where.col, col);
}

static void refuse_import(pair *t, awq_status status, size_t matrix, size_t row, size_t col)
{
    awq_where where = { 99, 99, 99 };
    unsigned char *before = pool_bytes(&t->p, t->size, AT_END);
    memcpy(before, t->bytes, t->size);
    assert_status(awq_import(kernels, &t->f, t->bytes, t->size, 0, t->c.rows, &where), status);
    assert_memory_equal(before, t->bytes, t->size);
    assert_int_equal(where.matrix, matrix);
    assert_int_equal(where.row, row);
    assert_int_equal(where.col, col);
}

static double weight_of(pair *t, size_t row, size_t col)
{
    pool p = { .count = 0 };
    float *out = pool_floats(&p, t->c.cols);
    awq_matrix view = awq_matrix_view(out, AWQ_F32, 1, t->c.cols);
    double value;
    assert_status(awq_packed_dequantize(&t->packed, NULL, view, row, row + 1), AWQ_OK);
    value = (double)out[col];
    assert_int_equal(pool_release(&p), 0);
    return value;
}

/* ---- every pair of layouts ------------------------------------------------------------------- */

/*  256 x 384 at group 128, blocks of 32, and zero points of 8 suit all of them.                  */
static foreign_case common_case(awq_layout layout)
{
    int tinychat = layout >= AWQ_TINYCHAT_Q4_3 && layout <= AWQ_TINYCHAT_Q4_6;
    foreign_case c = { layout, { 4, 128, 0, AWQ_F16 }, 256, 384 };
    if (awq_layout_rules_of(layout).group_sizes[0] == 32 && layout > AWQ_MARLIN_ZP)
        c.quant.group_size = 32;
    if (tinychat) c.quant.scale_dtype = AWQ_F32;
    return c;
}

static awq_foreign defined(pool *p, rng *r, awq_layout layout, const awq_tensor *coarse)
{
    foreign_case c = common_case(layout);
    awq_tensor fine = regrouped(p, coarse, c.quant.group_size, 1, c.quant.scale_dtype);
    awq_foreign f = new_foreign(p, r, &c);
    define_foreign(&f, &fine);
    return f;
}

static void check_pair(awq_layout a, awq_layout b)
{
    const awq_quant quant = { 4, 128, 1, AWQ_F16 };
    pool p = { .count = 0 };
    rng r = { seed };
    awq_tensor coarse = random_tensor(&p, &r, quant, 256, 384);
    awq_foreign from = defined(&p, &r, a, &coarse), expected = defined(&p, &r, b, &coarse), to;
    foreign_case c = common_case(b);
    size_t size = awq_packed_size(quant, 256, 384);
    unsigned char *hub = pool_bytes(&p, size, AT_END_ODD);
    awq_packed packed;

    assert_status(awq_packed_init(quant, 256, 384, hub, size), AWQ_OK);
    assert_status(awq_import(kernels, &from, hub, size, 0, 256, NULL), AWQ_OK);
    assert_status(awq_packed_open(&packed, hub, size), AWQ_OK);
    assert_status(awq_packed_check(&packed, NULL), AWQ_OK);
    to = new_foreign(&p, &r, &c);
    assert_status(awq_export(kernels, &packed, &to, 0, 0, 256, NULL), AWQ_OK);
    assert_int_equal(compare_foreign(&to, &expected), 0);
    assert_int_equal(pool_release(&p), 0);
}

TEST(any_layout_to_any_other)
{
    int a, b;
    (void)state;
    for (a = 1; a < AWQ_LAYOUT_END; a++)
        for (b = 1; b < AWQ_LAYOUT_END; b++) check_pair((awq_layout)a, (awq_layout)b);
}

/* ---- scales of 0 or less, zero points that are numbers --------------------------------------- */

static void put_half(void *at, double value)
{
    uint32_t bits = narrow(AWQ_F16, value);
    unsigned char *bytes = at;
    bytes[0] = (unsigned char)bits;
    bytes[1] = (unsigned char)(bits >> 8);
}

static unsigned char *block(const pair *t, size_t row, size_t number)
{
    return (unsigned char *)t->f.weights.data + row * t->f.weights.stride
           + number * t->f.weights.element_size;
}

/*  q of element k of a Q4_0 or Q4_1 block.                                                       */
static unsigned block_q(const pair *t, size_t row, size_t k)
{
    const unsigned char *b = block(t, row, k / 32) + t->f.weights.element_size - 16;
    return (unsigned)b[k % 16] >> (k % 32 < 16 ? 0 : 4) & 15u;
}

/*  Asymmetric, as a negative scale needs.                                                        */
static pair *new_ggml(awq_layout layout)
{
    pair *t = new_pair(layout, 32, 20, 96, AWQ_F16);
    awq_quant quant = t->c.quant;
    define_foreign(&t->f, &t->tensor);
    quant.symmetric = 0;
    open_packed(t, quant, 20, 96);
    return t;
}

static void import_all(pair *t)
{
    assert_status(awq_import(kernels, &t->f, t->bytes, t->size, 0, t->c.rows, NULL), AWQ_OK);
    assert_status(awq_packed_check(&t->packed, NULL), AWQ_OK);
}

TEST(a_negative_scale_turns_its_group_around)
{
    pair *t = new_ggml(AWQ_GGML_Q4_0);
    size_t k;
    (void)state;
    put_half(block(t, 17, 1), -0.75);
    import_all(t);
    for (k = 32; k < 64; k++)
        assert_close(weight_of(t, 17, k), ((double)block_q(t, 17, k) - 8) * -0.75, 0);
    assert_true(weight_of(t, 17, 0) * ((double)block_q(t, 17, 0) - 8) >= 0);
    open_packed(t, t->c.quant, 20, 96);             /* symmetric: cannot hold a zero point of 7 */
    refuse_import(t, AWQ_ERR_ASYMMETRIC, 2, 17, 32);
    free_pair(t);
}

/*  The last word of a row of 13 inputs: what no input uses stays 0.                              */
TEST(a_negative_scale_leaves_padding_alone)
{
    pair *t = new_pair(AWQ_COMPRESSED, -1, 20, 13, AWQ_F16);
    size_t n;
    (void)state;
    define_foreign(&t->f, &t->tensor);
    for (n = 0; n < 20; n += 3)
        ((unsigned char *)t->f.scales.data)[n * t->f.scales.stride + 1] |= 0x80;
    import_all(t);
    assert_true(weight_of(t, 3, 5) * ((double)t->tensor.q[3 * 13 + 5] - t->tensor.zeros[3]) <= 0);
    free_pair(t);
}

TEST(a_scale_of_0_makes_zeros)
{
    pair *t = new_ggml(AWQ_GGML_Q4_0);
    size_t k;
    (void)state;
    put_half(block(t, 3, 2), 0);
    put_half(block(t, 19, 0), -0.0);
    import_all(t);
    for (k = 0; k < 32; k++) {
        assert_close(weight_of(t, 3, 64 + k), 0, 0);
        assert_close(weight_of(t, 19, k), 0, 0);
    }
    free_pair(t);
}

TEST(a_constant_block_of_q4_1)
{
    pair *t = new_ggml(AWQ_GGML_Q4_1);
    size_t k;
    (void)state;
    put_half(block(t, 3, 2), 0);
    put_half(block(t, 3, 2) + 2, 0.625);
    put_half(block(t, 16, 0), 0);
    put_half(block(t, 16, 0) + 2, -3);
    import_all(t);
    for (k = 0; k < 32; k++) {
        assert_close(weight_of(t, 3, 64 + k), 0.625, 0);
        assert_close(weight_of(t, 16, k), -3, 0);
    }
    free_pair(t);
}

TEST(q4_1_minima_that_are_no_zero_points)
{
    pair *t = new_ggml(AWQ_GGML_Q4_1);
    (void)state;
    put_half(block(t, 5, 1), 1);
    put_half(block(t, 5, 1) + 2, -7.25);
    refuse_import(t, AWQ_ERR_ROUNDING, 2, 5, 32);
    put_half(block(t, 5, 1) + 2, 1);
    refuse_import(t, AWQ_ERR_ZERO_POINT, 2, 5, 32);
    put_half(block(t, 5, 1) + 2, -16);
    refuse_import(t, AWQ_ERR_ZERO_POINT, 2, 5, 32);
    put_half(block(t, 5, 1) + 2, infinity());
    refuse_import(t, AWQ_ERR_DATA, 2, 5, 32);
    put_half(block(t, 5, 1) + 2, -7);
    put_half(block(t, 5, 1), not_a_number());
    refuse_import(t, AWQ_ERR_DATA, 1, 5, 32);
    put_half(block(t, 5, 1), -infinity());
    refuse_import(t, AWQ_ERR_DATA, 1, 5, 32);
    free_pair(t);
}

/* ---- what a target cannot hold ---------------------------------------------------------------- */

/*  Packs again what the test has changed.                                                        */
static void repack(pair *t)
{
    assert_status(awq_pack(kernels, &t->tensor, t->bytes, t->size, 0, t->c.rows, NULL), AWQ_OK);
}

TEST(gptq_v1_has_no_zero_point_of_0)
{
    pair *t = new_pair(AWQ_GPTQ, 32, 64, 96, AWQ_F16);
    (void)state;
    t->tensor.zeros[37 * 3 + 2] = 0;
    repack(t);
    refuse_export(t, 1, AWQ_ERR_ZERO_POINT, 2, 37, 64);
    t->tensor.zeros[37 * 3 + 2] = 1;
    define_foreign(&t->f, &t->tensor);
    ((unsigned char *)t->f.zeros.data)[2 * t->f.zeros.stride + 37 / 2] |= 0xf0;     /* 15 + 1 */
    refuse_import(t, AWQ_ERR_ZERO_POINT, 2, 37, 64);
    free_pair(t);
}

TEST(asymmetric_into_symmetric)
{
    static const awq_layout layouts[] = { AWQ_MARLIN, AWQ_TINYCHAT_Q4_6 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(layouts); i++) {
        pair *t = new_pair(layouts[i], 128, 256, 256,
                           layouts[i] == AWQ_MARLIN ? AWQ_F16 : AWQ_F32);
        awq_quant quant = t->c.quant;
        quant.symmetric = 0;
        t->tensor.quant = quant;
        open_packed(t, quant, 256, 256);
        repack(t);
        assert_status(export_to(t, 0, NULL), AWQ_OK);
        t->f = new_foreign(&t->p, &t->r, &t->c);
        t->tensor.zeros[200 * 2 + 1] = 7;
        repack(t);
        refuse_export(t, 1, AWQ_ERR_ASYMMETRIC, 2, 200, 128);
        free_pair(t);
    }
}

TEST(zero_points_into_a_symmetric_tensor)
{
    pair *t = new_pair(AWQ_GEMM, 32, 64, 96, AWQ_F16);
    awq_quant quant = t->c.quant;
    (void)state;
    memset(t->tensor.zeros, 8, 64 * 3);
    t->tensor.zeros[50 * 3] = 9;
    define_foreign(&t->f, &t->tensor);
    quant.symmetric = 1;
    open_packed(t, quant, 64, 96);
    refuse_import(t, AWQ_ERR_ASYMMETRIC, 2, 50, 0);
    free_pair(t);
}

TEST(rounding_is_asked_for)
{
    pair *t = new_pair(AWQ_GGML_Q4_1, 32, 40, 64, AWQ_F16);
    awq_quant wide = t->c.quant;
    size_t i;
    (void)state;
    for (i = 0; i < 80; i++) {
        set_element(AWQ_F16, t->tensor.scales, i, 0.5);
        t->tensor.zeros[i] = 3;
    }
    repack(t);
    assert_status(export_to(t, 0, NULL), AWQ_OK);           /* 3 * 0.5 is a half */
    t->f = new_foreign(&t->p, &t->r, &t->c);
    set_element(AWQ_F16, t->tensor.scales, 2 * 31 + 1, 1.0009765625);   /* 1 + 2^-10, times 3: not */
    repack(t);
    refuse_export(t, 0, AWQ_ERR_ROUNDING, 2, 31, 32);
    assert_status(export_to(t, 1, NULL), AWQ_OK);
    assert_int_equal(block(t, 31, 1)[2] | block(t, 31, 1)[3] << 8,
                     (int)narrow(AWQ_F16, -3 * 1.0009765625));
    t->f = new_foreign(&t->p, &t->r, &t->c);
    set_element(AWQ_F16, t->tensor.scales, 2 * 31 + 1, 30000);          /* 90000 is no half */
    repack(t);
    refuse_export(t, 1, AWQ_ERR_ROUNDING, 2, 31, 32);

    wide.scale_dtype = AWQ_F32;
    set_element(AWQ_F16, t->tensor.scales, 2 * 31 + 1, 1);
    t->tensor = regrouped(&t->p, &t->tensor, 32, 0, AWQ_F32);
    open_packed(t, wide, 40, 64);
    repack(t);
    assert_status(export_to(t, 0, NULL), AWQ_OK);
    t->f = new_foreign(&t->p, &t->r, &t->c);
    ((float *)t->tensor.scales)[2 * 9] = 0.3f;
    repack(t);
    refuse_export(t, 0, AWQ_ERR_ROUNDING, 1, 9, 0);
    assert_status(export_to(t, 1, NULL), AWQ_OK);
    t->f = new_foreign(&t->p, &t->r, &t->c);
    ((float *)t->tensor.scales)[2 * 9] = 1e-9f;                         /* would be 0 */
    repack(t);
    refuse_export(t, 1, AWQ_ERR_ROUNDING, 1, 9, 0);
    ((float *)t->tensor.scales)[2 * 9] = 1e9f;
    repack(t);
    refuse_export(t, 1, AWQ_ERR_ROUNDING, 1, 9, 0);
    free_pair(t);
}

TEST(groups_that_differ_do_not_become_one)
{
    pair *t = new_pair(AWQ_GGML_Q4_0, 32, 40, 128, AWQ_F16);
    awq_quant quant = t->c.quant;
    awq_tensor coarse;
    (void)state;
    quant.group_size = 64;
    coarse = random_tensor(&t->p, &t->r, quant, 40, 128);
    t->tensor = regrouped(&t->p, &coarse, 32, 1, AWQ_F16);
    repack(t);
    define_foreign(&t->f, &t->tensor);
    open_packed(t, quant, 40, 128);
    import_all(t);
    put_half(block(t, 20, 3), 3);
    refuse_import(t, AWQ_ERR_GROUP_SPLIT, 1, 20, 96);
    free_pair(t);
}

/* ---- arguments -------------------------------------------------------------------------------- */

TEST(rules_of_the_layouts)
{
    static const struct { awq_layout layout; size_t rows, cols; int group; awq_dtype dtype;
                          awq_status status; } bad[] = {
        { AWQ_GEMM, 48, 128, 32, AWQ_F16, AWQ_ERR_OUT_FEATURES },
        { AWQ_GEMM, 64, 100, -1, AWQ_F16, AWQ_ERR_IN_FEATURES },
        { AWQ_GEMM, 64, 96, 128, AWQ_F16, AWQ_ERR_SHORT_GROUP },
        { AWQ_GEMM, 64, 576, 128, AWQ_F16, AWQ_ERR_SHORT_GROUP },
        { AWQ_GEMM, 64, 96, 12, AWQ_F16, AWQ_ERR_GROUP_SIZE },
        { AWQ_GEMM, 64, 96, 32, AWQ_F32, AWQ_ERR_DTYPE },
        { AWQ_GEMV, 8, 192, 16, AWQ_F16, AWQ_ERR_GROUP_SIZE },
        { AWQ_GEMV, 8, 192, 96, AWQ_F16, AWQ_ERR_GROUP_SIZE },
        { AWQ_GEMV, 8, 192, 32, AWQ_BF16, AWQ_ERR_DTYPE },
        { AWQ_GEMV_FAST, 8, 96, 32, AWQ_F16, AWQ_ERR_IN_FEATURES },
        { AWQ_GEMV_FAST, 4, 64, 32, AWQ_F16, AWQ_ERR_OUT_FEATURES },
        { AWQ_MARLIN, 128, 128, 128, AWQ_F16, AWQ_ERR_OUT_FEATURES },
        { AWQ_MARLIN, 256, 192, 64, AWQ_F16, AWQ_ERR_IN_FEATURES },
        { AWQ_MARLIN, 256, 128, 64, AWQ_F16, AWQ_ERR_GROUP_SIZE },
        { AWQ_MARLIN_ZP, 32, 128, 64, AWQ_F16, AWQ_ERR_OUT_FEATURES },
        { AWQ_GPTQ, 32, 40, 8, AWQ_F16, AWQ_ERR_IN_FEATURES },
        { AWQ_COMPRESSED, 3, 100, 32, AWQ_F16, AWQ_ERR_SHORT_GROUP },
        { AWQ_TINYCHAT_Q4_3, 3, 96, 32, AWQ_F32, AWQ_ERR_IN_FEATURES },
        { AWQ_TINYCHAT_Q4_4, 3, 96, 32, AWQ_BF16, AWQ_ERR_DTYPE },
        { AWQ_TINYCHAT_Q4_6, 3, 128, 32, AWQ_F32, AWQ_ERR_GROUP_SIZE },
        { AWQ_GGML_Q4_0, 3, 48, 32, AWQ_F16, AWQ_ERR_IN_FEATURES },
        { AWQ_GGML_Q4_1, 3, 128, 128, AWQ_F16, AWQ_ERR_GROUP_SIZE },
        { AWQ_GGML_Q4_1, 3, 128, 32, AWQ_F32, AWQ_ERR_DTYPE },
        { AWQ_GEMM, 0, 128, 32, AWQ_F16, AWQ_ERR_SHAPE },
        { AWQ_COMPRESSED, SIZE_MAX / 4, SIZE_MAX / 2, -1, AWQ_F16, AWQ_ERR_SHAPE },
        { (awq_layout)0, 64, 64, 32, AWQ_F16, AWQ_ERR_CONFIG },
        { (awq_layout)AWQ_LAYOUT_END, 64, 64, 32, AWQ_F16, AWQ_ERR_CONFIG },
        { AWQ_GEMM, 64, 64, 0, AWQ_F16, AWQ_ERR_CONFIG },
    };
    awq_foreign f;
    awq_quant quant = { 3, 32, 0, AWQ_F16 };
    size_t i;
    (void)state;
    memset(&f, PATTERN, sizeof f);
    for (i = 0; i < COUNT(bad); i++) {
        const awq_quant q = { 4, bad[i].group, 0, bad[i].dtype };
        awq_status status = awq_foreign_init(&f, bad[i].layout, q, bad[i].rows, bad[i].cols);
        if (status != bad[i].status) fail_msg("row %zu: %s", i, awq_status_string(status));
    }
    assert_status(awq_foreign_init(&f, AWQ_GEMM, quant, 64, 64), AWQ_ERR_CONFIG);
    assert_status(awq_foreign_init(NULL, AWQ_GEMM, quant, 64, 64), AWQ_ERR_NULL);
    assert_true(untouched(&f, sizeof f));
    assert_string_equal(awq_layout_rules_of((awq_layout)0).name, "");
    assert_string_equal(awq_layout_rules_of(AWQ_GGML_Q4_1).name, "q4_1");
    assert_int_equal(awq_layout_rules_of(AWQ_MARLIN).out_multiple, 256);
}

TEST(act_order_is_refused)
{
    pair *t = new_pair(AWQ_GPTQ_V2, 32, 32, 96, AWQ_F16);
    unsigned char *index = pool_bytes(&t->p, 4 * 96, AT_END_ODD);
    size_t k;
    (void)state;
    define_foreign(&t->f, &t->tensor);
    memset(index, 0, 4 * 96);
    for (k = 0; k < 96; k++) index[4 * k] = (unsigned char)(k / 32);
    t->f.group_index = index;
    import_all(t);
    index[4 * 40] = 2;
    refuse_import(t, AWQ_ERR_ACT_ORDER, 3, 0, 40);
    index[4 * 40] = 1;
    index[4 * 40 + 3] = 0x80;
    refuse_import(t, AWQ_ERR_ACT_ORDER, 3, 0, 40);
    free_pair(t);
}

static void refuse_both(pair *t, const awq_foreign *f, awq_status status)
{
    assert_status(awq_export(kernels, &t->packed, f, 0, 0, t->c.rows, NULL), status);
    assert_status(awq_import(kernels, f, t->bytes, t->size, 0, t->c.rows, NULL), status);
}

TEST(planes_are_checked)
{
    pair *t = new_pair(AWQ_GEMM, 32, 64, 96, AWQ_F16), *odd;
    awq_foreign f = t->f;
    (void)state;
    f.weights.rows--, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.weights.cols++, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.scales.element_size = 4, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.zeros.rows = 0, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.weights.stride = 31, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.weights.stride = SIZE_MAX / 95, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.zeros.data = NULL, refuse_both(t, &f, AWQ_ERR_NULL), f = t->f;
    f.out_features = 32, refuse_both(t, &f, AWQ_ERR_SHAPE), f = t->f;
    f.layout = (awq_layout)77, refuse_both(t, &f, AWQ_ERR_CONFIG), f = t->f;
    f.quant.bits = 8, refuse_both(t, &f, AWQ_ERR_CONFIG), f = t->f;
    assert_status(awq_export(NULL, &t->packed, &f, 0, 0, 64, NULL), AWQ_ERR_NULL);
    assert_status(awq_export(kernels, NULL, &f, 0, 0, 64, NULL), AWQ_ERR_NULL);
    assert_status(awq_export(kernels, &t->packed, NULL, 0, 0, 64, NULL), AWQ_ERR_NULL);
    assert_status(awq_import(NULL, &f, t->bytes, t->size, 0, 64, NULL), AWQ_ERR_NULL);
    assert_status(awq_import(kernels, NULL, t->bytes, t->size, 0, 64, NULL), AWQ_ERR_NULL);
    assert_status(awq_import(kernels, &f, NULL, t->size, 0, 64, NULL), AWQ_ERR_NULL);
    assert_status(awq_import(kernels, &f, t->bytes, t->size - 1, 0, 64, NULL), AWQ_ERR_FORMAT);
    assert_status(awq_export(kernels, &t->packed, &f, 0, 32, 64, NULL), AWQ_ERR_RANGE);
    assert_status(awq_export(kernels, &t->packed, &f, 0, 0, 65, NULL), AWQ_ERR_RANGE);
    assert_status(awq_import(kernels, &f, t->bytes, t->size, 8, 64, NULL), AWQ_ERR_RANGE);
    assert_status(awq_import(kernels, &f, t->bytes, t->size, 32, 16, NULL), AWQ_ERR_RANGE);
    assert_true(foreign_untouched(&t->f));

    odd = new_pair(AWQ_GEMM, 32, 64, 96, AWQ_F16);
    open_packed(odd, (awq_quant){ 4, 12, 0, AWQ_F16 }, 64, 96);
    refuse_both(odd, &odd->f, AWQ_ERR_CONFIG);
    open_packed(odd, (awq_quant){ 8, 32, 0, AWQ_F16 }, 64, 96);
    refuse_both(odd, &odd->f, AWQ_ERR_CONFIG);
    free_pair(odd);
    free_pair(t);
}

TEST(a_corrupt_packed_scale_is_not_exported)
{
    pair *t = new_pair(AWQ_GEMM, 32, 64, 96, AWQ_F16);
    (void)state;
    put_half(t->bytes + t->packed.scales_offset + 2 * ((16 / 16 * 3 + 1) * 16 + 5), -1);
    refuse_export(t, 1, AWQ_ERR_DATA, 1, 21, 32);
    put_half(t->bytes + t->packed.scales_offset + 2 * ((16 / 16 * 3 + 1) * 16 + 5), 0);
    refuse_export(t, 1, AWQ_ERR_DATA, 1, 21, 32);
    free_pair(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_are_as_defined),
        cmocka_unit_test(any_layout_to_any_other),
        cmocka_unit_test(a_negative_scale_turns_its_group_around),
        cmocka_unit_test(a_negative_scale_leaves_padding_alone),
        cmocka_unit_test(a_scale_of_0_makes_zeros),
        cmocka_unit_test(a_constant_block_of_q4_1),
        cmocka_unit_test(q4_1_minima_that_are_no_zero_points),
        cmocka_unit_test(gptq_v1_has_no_zero_point_of_0),
        cmocka_unit_test(asymmetric_into_symmetric),
        cmocka_unit_test(zero_points_into_a_symmetric_tensor),
        cmocka_unit_test(rounding_is_asked_for),
        cmocka_unit_test(groups_that_differ_do_not_become_one),
        cmocka_unit_test(rules_of_the_layouts),
        cmocka_unit_test(act_order_is_refused),
        cmocka_unit_test(planes_are_checked),
        cmocka_unit_test(a_corrupt_packed_scale_is_not_exported),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
