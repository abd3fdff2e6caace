#include "runner.h"

enum { IN = 37, OUT = 11, TOKENS = 6 };

static float *new_scale(pool *p, rng *r, size_t n)
{
    float *scale = pool_floats(p, n);
    size_t i;
    for (i = 0; i < n; i++) scale[i] = (float)((1.0625 + rng_unit(r)) * (rng_below(r, 2) ? 4 : 1));
    return scale;
}

static awq_matrix none(void) { return awq_matrix_view(NULL, AWQ_F32, 0, 0); }

/*  m as doubles, dense. */
static double *copy_of(awq_matrix m)
{
    double *copy = malloc(m.rows * m.cols * sizeof *copy);
    size_t row, c;
    for (row = 0; row < m.rows; row++)
        for (c = 0; c < m.cols; c++) copy[row * m.cols + c] = at(m, row, c);
    return copy;
}

static double half_step(awq_dtype dtype)
{
    return power_of_two(dtype == AWQ_F32 ? -24 : dtype == AWQ_F16 ? -11 : -8);
}

typedef enum kind { NORM, BIAS, LINEAR, ACTIVATION, CONSUMER } kind;

static awq_status fold(kind what, awq_direction direction, const float *scale, awq_matrix m,
                       awq_matrix spare)
{
    const awq_tie untied = { 0, 0 };
    switch (what) {
    case NORM: return awq_fold_norm(direction, scale, IN, m, none(), NULL);
    case BIAS: return awq_fold_norm(direction, scale, IN, spare, m, NULL);
    case LINEAR: return awq_fold_linear(direction, scale, IN, untied, m, none(), NULL);
    case ACTIVATION: return awq_fold_activation(direction, scale, IN, m, NULL);
    default: return awq_fold_consumer(direction, scale, IN, m, NULL);
    }
}

/*  Producers are divided and consumers multiplied, in fp32, then rounded to their own dtype.     */
static void check_fold(kind what, awq_direction direction, rng *r)
{
    pool p = { .count = 0 };
    size_t rows = what == NORM || what == BIAS ? 1 : what == LINEAR ? IN : OUT;
    size_t cols = what == LINEAR ? OUT : IN, row, c;
    awq_matrix m = random_matrix(&p, r, rows, cols, 1), spare = random_matrix(&p, r, 1, IN, 1);
    float *scale = new_scale(&p, r, IN);
    double *before = copy_of(m);
    int multiply = (what == CONSUMER) == (direction == AWQ_FOLD);

    assert_status(fold(what, direction, scale, m, spare), AWQ_OK);
    for (row = 0; row < rows; row++)
        for (c = 0; c < cols; c++) {
            float s = scale[what == LINEAR ? row : c], v = (float)before[row * cols + c];
            float expected = multiply ? v * s : v / s;
            assert_true(at(m, row, c) == rounded(m.dtype, (double)expected));
        }
    assert_status(fold(what, direction == AWQ_FOLD ? AWQ_UNFOLD : AWQ_FOLD, scale, m, spare),
                  AWQ_OK);
    for (row = 0; row < rows; row++)
        for (c = 0; c < cols; c++)
            assert_close(at(m, row, c), before[row * cols + c],
                         2.5 * half_step(m.dtype) * magnitude(before[row * cols + c]) +
                             8 * power_of_two(-24) * (m.dtype == AWQ_F16));
    free(before);
    assert_int_equal(pool_release(&p), 0);
}

TEST(folds_round_once_and_come_back)
{
    rng r = { seed };
    int i, what;
    (void)state;
    for (i = 0; i < 20; i++)
        for (what = NORM; what <= CONSUMER; what++) {
            check_fold((kind)what, AWQ_FOLD, &r);
            check_fold((kind)what, AWQ_UNFOLD, &r);
        }
}

/*  y[t][o] = sum over c of w[o][c] x[t][c] */
static double dot(awq_matrix w, size_t o, awq_matrix x, size_t t)
{
    double sum = 0;
    size_t c;
    for (c = 0; c < w.cols; c++) sum += at(w, o, c) * at(x, t, c);
    return sum;
}

static void assert_same_outputs(const double *y, awq_matrix w, awq_matrix x)
{
    size_t t, o;
    for (t = 0; t < x.rows; t++)
        for (o = 0; o < w.rows; o++) assert_close(dot(w, o, x, t), y[t * w.rows + o], 1e-4);
}

static double *outputs_of(awq_matrix w, awq_matrix x)
{
    double *y = malloc(x.rows * w.rows * sizeof *y);
    size_t t, o;
    for (t = 0; t < x.rows; t++)
        for (o = 0; o < w.rows; o++) y[t * w.rows + o] = dot(w, o, x, t);
    return y;
}

static awq_matrix random_floats(pool *p, rng *r, size_t rows, size_t cols)
{
    awq_matrix m = new_matrix(p, AWQ_F32, rows, cols, cols, AT_END);
    size_t i;
    for (i = 0; i < rows * cols; i++) put(m, 0, i, rng_normal(r));
    return m;
}

/*  x = norm weight * n + norm bias feeds w; folding must not change what comes out.              */
static void apply_norm(awq_matrix n, awq_matrix weight, awq_matrix bias, awq_matrix x)
{
    size_t t, c;
    for (t = 0; t < n.rows; t++)
        for (c = 0; c < n.cols; c++) put(x, t, c, at(n, t, c) * at(weight, 0, c) + at(bias, 0, c));
}

TEST(folding_into_a_norm_keeps_the_output)
{
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix n = random_floats(&p, &r, TOKENS, IN), x = random_floats(&p, &r, TOKENS, IN);
    awq_matrix weight = random_floats(&p, &r, 1, IN), bias = random_floats(&p, &r, 1, IN);
    awq_matrix w = random_floats(&p, &r, OUT, IN);
    float *scale = new_scale(&p, &r, IN);
    double *y;
    (void)state;
    apply_norm(n, weight, bias, x);
    y = outputs_of(w, x);
    assert_status(awq_fold_norm(AWQ_FOLD, scale, IN, weight, bias, NULL), AWQ_OK);
    assert_status(awq_fold_consumer(AWQ_FOLD, scale, IN, w, NULL), AWQ_OK);
    apply_norm(n, weight, bias, x);
    assert_same_outputs(y, w, x);
    free(y);
    assert_int_equal(pool_release(&p), 0);
}

TEST(folding_into_an_activation_keeps_the_output)
{
    pool p = { .count = 0 };
    rng r = { seed };
    awq_matrix x = random_floats(&p, &r, TOKENS, IN), w = random_floats(&p, &r, OUT, IN);
    float *scale = new_scale(&p, &r, IN);
    double *y = outputs_of(w, x);
    (void)state;
    assert_status(awq_fold_activation(AWQ_FOLD, scale, IN, x, NULL), AWQ_OK);
    assert_status(awq_fold_consumer(AWQ_FOLD, scale, IN, w, NULL), AWQ_OK);
    assert_same_outputs(y, w, x);
    free(y);
    assert_int_equal(pool_release(&p), 0);
}

/*  x = v z + bias, its channels copied to `repeat` query heads per kv head, feeds o.             */
static void attend(awq_matrix v, awq_matrix bias, awq_matrix z, awq_tie tie, awq_matrix x)
{
    size_t t, c;
    for (t = 0; t < z.rows; t++)
        for (c = 0; c < x.cols; c++) {
            size_t head = c / tie.head_dim, row = head / tie.repeat * tie.head_dim +
                                                  c % tie.head_dim;
            put(x, t, c, dot(v, row, z, t) + at(bias, 0, row));
        }
}

static void check_linear(rng *r, size_t kv_heads, awq_tie tie)
{
    pool p = { .count = 0 };
    size_t rows = kv_heads * tie.head_dim, in = rows * tie.repeat, c;
    awq_matrix v = random_floats(&p, r, rows, 9), bias = random_floats(&p, r, 1, rows);
    awq_matrix z = random_floats(&p, r, TOKENS, 9), x = random_floats(&p, r, TOKENS, in);
    awq_matrix o = random_floats(&p, r, OUT, in);
    float *scale = new_scale(&p, r, in);
    double *y;

    for (c = 0; c < in; c++) {      /* the same s for every query head of a kv head               */
        size_t head = c / tie.head_dim;
        scale[c] = scale[head / tie.repeat * tie.repeat * tie.head_dim + c % tie.head_dim];
    }
    attend(v, bias, z, tie, x);
    y = outputs_of(o, x);
    assert_status(awq_fold_linear(AWQ_FOLD, scale, in, tie, v, bias, NULL), AWQ_OK);
    assert_status(awq_fold_consumer(AWQ_FOLD, scale, in, o, NULL), AWQ_OK);
    attend(v, bias, z, tie, x);
    assert_same_outputs(y, o, x);
    free(y);
    assert_int_equal(pool_release(&p), 0);
}

TEST(folding_into_a_linear_keeps_the_output)
{
    const awq_tie one = { 1, 5 }, two = { 2, 5 }, three = { 3, 4 };
    rng r = { seed };
    (void)state;
    check_linear(&r, 3, one);
    check_linear(&r, 3, two);
    check_linear(&r, 2, three);
}

/*  A scale that cannot be undone is refused before anything is written.                          */
TEST(bad_scales_write_nothing)
{
    const double bad[] = { 0, -1, infinity(), not_a_number() };
    rng r = { seed };
    size_t i;
    int what;
    (void)state;
    for (what = NORM; what <= CONSUMER; what++)
        for (i = 0; i < COUNT(bad); i++) {
            pool p = { .count = 0 };
            const awq_tie untied = { 0, 0 };
            awq_matrix square = random_floats(&p, &r, IN, IN), kept = random_floats(&p, &r, IN, IN);
            awq_matrix vector = random_floats(&p, &r, 1, IN);
            awq_matrix kept_vector = random_floats(&p, &r, 1, IN);
            float *scale = new_scale(&p, &r, IN);
            size_t col = rng_below(&r, IN);
            awq_where where = { 9, 9, 999 };
            awq_status status;
            memcpy(kept.data, square.data, IN * IN * sizeof(float));
            memcpy(kept_vector.data, vector.data, IN * sizeof(float));
            scale[col] = (float)bad[i];
            if (what == NORM) status = awq_fold_norm(AWQ_FOLD, scale, IN, vector, none(), &where);
            else if (what == BIAS)
                status = awq_fold_norm(AWQ_UNFOLD, scale, IN, awq_matrix_rows(square, 0, 1), vector,
                                       &where);
            else if (what == LINEAR)
                status = awq_fold_linear(AWQ_FOLD, scale, IN, untied, square, vector, &where);
            else if (what == ACTIVATION)
                status = awq_fold_activation(AWQ_FOLD, scale, IN, square, &where);
            else status = awq_fold_consumer(AWQ_FOLD, scale, IN, square, &where);
            assert_status(status, AWQ_ERR_DATA);
            assert_int_equal(where.col, col);
            assert_memory_equal(kept.data, square.data, IN * IN * sizeof(float));
            assert_memory_equal(kept_vector.data, vector.data, IN * sizeof(float));
            assert_int_equal(pool_release(&p), 0);
        }
}

/*  What would leave fp16 is found before anything is written, in the weight and in the bias.     */
TEST(folds_that_overflow_write_nothing)
{
    static const float values[3] = { 1, 40000, -2 }, scale[3] = { 1, 0.5f, 1 };
    const awq_tie untied = { 0, 0 };
    const float *wide[2] = { values, scale };
    uint16_t half[2][3], kept[2][3];
    awq_matrix large, small;
    awq_where where = { 9, 9, 9 };
    int i;
    (void)state;
    for (i = 0; i < 2; i++)
        assert_status(awq_convert(awq_matrix_view(wide[i], AWQ_F32, 1, 3),
                                  awq_matrix_view(half[i], AWQ_F16, 1, 3)), AWQ_OK);
    memcpy(kept, half, sizeof half);
    large = awq_matrix_view(half[0], AWQ_F16, 1, 3);
    small = awq_matrix_view(half[1], AWQ_F16, 1, 3);
    assert_status(awq_fold_norm(AWQ_FOLD, scale, 3, large, small, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 1 && where.row == 0 && where.col == 1);
    assert_status(awq_fold_norm(AWQ_FOLD, scale, 3, small, large, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 2 && where.row == 0 && where.col == 1);
    assert_status(awq_fold_activation(AWQ_FOLD, scale, 3, large, &where), AWQ_ERR_DATA);
    assert_status(awq_fold_linear(AWQ_FOLD, scale, 3, untied,
                                  awq_matrix_view(half[0], AWQ_F16, 3, 1), none(), &where),
                  AWQ_ERR_DATA);
    assert_true(where.matrix == 1 && where.row == 1 && where.col == 0);
    assert_memory_equal(half, kept, sizeof half);
}

TEST(scales_that_break_a_tie_are_refused)
{
    const awq_tie tie = { 2, 3 };
    rng r = { seed };
    pool p = { .count = 0 };
    awq_matrix v = random_floats(&p, &r, 6, 5), bias = random_floats(&p, &r, 1, 6);
    awq_matrix kept = random_floats(&p, &r, 6, 5);
    float scale[12];
    awq_where where = { 9, 9, 9 };
    size_t i;
    (void)state;
    memcpy(kept.data, v.data, 30 * sizeof(float));
    for (i = 0; i < 12; i++) scale[i] = 1.5f;
    scale[10] = 1.25f;      /* second kv head, second query head, d = 1 */
    assert_status(awq_fold_linear(AWQ_FOLD, scale, 12, tie, v, bias, &where), AWQ_ERR_DATA);
    assert_int_equal(where.col, 10);
    assert_memory_equal(kept.data, v.data, 30 * sizeof(float));
    scale[7] = 1.25f;
    assert_status(awq_fold_linear(AWQ_FOLD, scale, 12, tie, v, bias, &where), AWQ_OK);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folds_round_once_and_come_back),
        cmocka_unit_test(folding_into_a_norm_keeps_the_output),
        cmocka_unit_test(folding_into_an_activation_keeps_the_output),
        cmocka_unit_test(folding_into_a_linear_keeps_the_output),
        cmocka_unit_test(bad_scales_write_nothing),
        cmocka_unit_test(folds_that_overflow_write_nothing),
        cmocka_unit_test(scales_that_break_a_tie_are_refused),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
