#include "bodies.h"

static void *new_values(size_t count)
{
    void *memory = calloc(count + 1, sizeof(double));
    if (!memory) abort();
    return memory;
}

/* ================================================================================================
   awq_stats_add, awq_stats_merge
   ============================================================================================= */

typedef struct sums { double weight, *max, *abs, *square, *gram; uint64_t count; } sums;

static sums new_sums(size_t n)
{
    sums s;
    s.weight = 0;
    s.count = 0;
    s.max = new_values(n);
    s.abs = new_values(n);
    s.square = new_values(n);
    s.gram = new_values(n * n);
    return s;
}

static void free_sums(sums *s)
{
    free(s->max);
    free(s->abs);
    free(s->square);
    free(s->gram);
}

static void add_token(sums *s, awq_matrix x, size_t token, double weight)
{
    size_t n = x.cols, i, j;
    if (weight == 0) return;
    s->count++;
    s->weight += weight;
    for (i = 0; i < n; i++) {
        double v = at(x, token, i), a = magnitude(v);
        if (a > s->max[i]) s->max[i] = a;
        s->abs[i] += weight * a;
        s->square[i] += weight * v * v;
        for (j = i; j < n; j++) s->gram[i * n + j] += weight * v * at(x, token, j);
    }
}

static int close_to(double value, double expected, double scale, double relative)
{
    return magnitude(value - expected) <= relative * scale;
}

static int compare_stats(const awq_stats *stats, const sums *s)
{
    size_t n = stats->in_features, i, j;
    int failures = 0;
    CHECK(stats->count == s->count, "%llu", (unsigned long long)stats->count);
    CHECK(close_to(stats->weight, s->weight, s->weight, 1e-13), "%g", stats->weight);
    for (i = 0; i < n; i++) {
        CHECK((double)stats->abs_max[i] == s->max[i], "channel %zu", i);
        CHECK(close_to(stats->abs_sum[i], s->abs[i], s->abs[i], 1e-12), "channel %zu", i);
        CHECK(close_to(stats->sq_sum[i], s->square[i], s->square[i], 1e-12), "channel %zu", i);
    }
    for (i = 0; stats->gram && i < n; i++)
        for (j = i; j < n; j++) {
            double ii = s->gram[i * n + i], jj = s->gram[j * n + j];
            double got = (double)stats->gram[i * n + j];
            CHECK(close_to(got, s->gram[i * n + j], ii > jj ? ii : jj, 2e-5),
                  "gram %zu %zu: %g, not %g", i, j, got, s->gram[i * n + j]);
        }
    return failures;
}

/*  Weights of which some are 0; the tokens of weight 0 are made NaN.                             */
static float *random_weights(pool *p, rng *r, awq_matrix x)
{
    float *weight = pool_floats(p, x.rows);
    double zero = 0;
    size_t t, c;
    for (t = 0; t < x.rows; t++) {
        weight[t] = rng_below(r, 4) ? (float)(1.5 + rng_unit(r)) : 0.0f;
        for (c = 0; weight[t] <= 0.0f && c < x.cols; c++) put(x, t, c, zero / zero);
    }
    return weight;
}

static int merge_halves(awq_stats *half, const sums *s)
{
    size_t cells = half->sketch_rows * half->in_features, i;
    float *sum = new_values(cells);
    int failures = 0;
    for (i = 0; i < cells; i++) sum[i] = half[0].sketch[i] + half[1].sketch[i];
    CHECK(awq_stats_merge(&half[0], &half[1]) == AWQ_OK, "merge");
    failures += compare_stats(&half[0], s);
    for (i = 0; i < cells; i++) CHECK(half[0].sketch[i] == sum[i], "sketch %zu", i);
    free(sum);
    return failures;
}

static int one_stats(const awq_kernels *k, rng *r)
{
    pool p = { .count = 0 };
    size_t n = 1 + rng_below(r, 70), tokens = rng_below(r, 80), cut = rng_below(r, tokens + 1);
    size_t sketch_rows = rng_below(r, 2) * (1 + rng_below(r, 70)), t, h;
    int with_gram = (int)rng_below(r, 2), failures = 0;
    size_t size = awq_stats_size(n, sketch_rows, with_gram);
    awq_matrix x = random_matrix(&p, r, tokens, n, 3);
    const float *weight = rng_below(r, 2) ? random_weights(&p, r, x) : NULL;
    shuffle order = { { rng_next(r) } };
    awq_parallel parallel = shuffled(&order);
    awq_stats half[2];
    sums s = new_sums(n);

    for (t = 0; t < tokens; t++) add_token(&s, x, t, weight ? (double)weight[t] : 1.0);
    for (h = 0; h < 2; h++) {
        size_t begin = h ? cut : 0, end = h ? tokens : cut;
        awq_status status = awq_stats_init(&half[h], n, sketch_rows, with_gram, 7 + h,
                                           pool_aligned(&p, size, sizeof(double)), size);
        CHECK(status == AWQ_OK, "init: %s", awq_status_string(status));
        status = awq_stats_add(k, &half[h], awq_matrix_rows(x, begin, end),
                               weight ? weight + begin : NULL, rng_below(r, 2) ? &parallel : NULL,
                               NULL);
        CHECK(status == AWQ_OK, "add: %s", awq_status_string(status));
    }
    failures += merge_halves(half, &s);
    free_sums(&s);
    return failures + pool_release(&p);
}

int body_stats(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) failures += one_stats(k, &r);
    return failures;
}

/* ================================================================================================
   awq_output_error: the four losses against their definitions
   ============================================================================================= */

typedef struct problem {
    size_t in_features, out_features, tokens;
    awq_matrix x, weight, approximation;
    const float *token_weight;
    awq_stats stats;
} problem;

static double error_at(const problem *b, size_t row, size_t col)
{
    double approximation = b->approximation.data ? at(b->approximation, row, col) : 0.0;
    return approximation - at(b->weight, row, col);
}

static double token_weight_at(const problem *b, size_t t)
{
    return b->token_weight ? (double)b->token_weight[t] : 1.0;
}

/*  A loss and the size of what cancels in it, which bounds the rounding of fp32 sums.            */
typedef struct loss { double value, scale; } loss;

static void add_dot(loss *sum, const problem *b, size_t row, const double *x, double weight)
{
    double dot = 0, size = 0;
    size_t c;
    for (c = 0; c < b->in_features; c++) {
        dot += error_at(b, row, c) * x[c];
        size += magnitude(error_at(b, row, c) * x[c]);
    }
    sum->value += weight * dot * dot;
    sum->scale += weight * size * size;
}

static loss divided(loss sum, double divisor)
{
    if (divisor > 0) {
        sum.value /= divisor;
        sum.scale /= divisor;
    }
    return sum;
}

static loss define_rows_loss(const problem *b)
{
    loss sum = { 0, 0 };
    double *x = new_values(b->in_features), weight = 0;
    size_t t, o, c;
    for (t = 0; t < b->tokens; t++) {
        double w = token_weight_at(b, t);
        weight += w;
        for (c = 0; c < b->in_features; c++) x[c] = at(b->x, t, c);
        for (o = 0; w > 0 && o < b->out_features; o++) add_dot(&sum, b, o, x, w);
    }
    free(x);
    return divided(sum, weight * (double)b->out_features);
}

static loss define_sketch_loss(const problem *b)
{
    loss sum = { 0, 0 };
    double *x = new_values(b->in_features);
    size_t s, o, c;
    for (s = 0; s < b->stats.sketch_rows; s++) {
        for (c = 0; c < b->in_features; c++)
            x[c] = (double)b->stats.sketch[s * b->in_features + c];
        for (o = 0; o < b->out_features; o++) add_dot(&sum, b, o, x, 1);
    }
    free(x);
    return divided(sum, (double)(b->stats.sketch_rows * b->out_features) * b->stats.weight);
}

static loss define_diagonal_loss(const problem *b)
{
    loss sum = { 0, 0 };
    size_t o, c;
    for (c = 0; b->stats.weight > 0 && c < b->in_features; c++) {
        double mean = b->stats.abs_sum[c] / b->stats.weight;
        for (o = 0; o < b->out_features; o++)
            sum.value += mean * mean * error_at(b, o, c) * error_at(b, o, c);
    }
    sum.scale = sum.value;
    return divided(sum, (double)(b->in_features * b->out_features));
}

static awq_inputs inputs_of(const problem *b, awq_loss which)
{
    awq_inputs inputs;
    memset(&inputs, 0, sizeof inputs);
    inputs.loss = which;
    inputs.stats = &b->stats;
    inputs.rows = b->x;
    inputs.token_weight = b->token_weight;
    return inputs;
}

static int one_loss(const awq_kernels *k, const problem *b, awq_loss which, loss expected,
                    const awq_parallel *parallel)
{
    pool p = { .count = 0 };
    awq_inputs inputs = inputs_of(b, which);
    size_t size = awq_search_scratch_size(&inputs, &b->weight, 1, parallel);
    void *scratch = pool_aligned(&p, size, sizeof(double));
    int failures = 0;
    double error = -1;
    awq_status status = awq_output_error(k, &inputs, b->weight, b->approximation, scratch, size,
                                         parallel, &error, NULL);
    CHECK(status == AWQ_OK, "loss %d: %s", (int)which, awq_status_string(status));
    CHECK(close_to(error, expected.value, expected.scale, 1e-5),
          "loss %d: %g, not %g (%zu x %zu, %zu tokens)", (int)which, error, expected.value,
          b->out_features, b->in_features, b->tokens);
    return failures + pool_release(&p);
}

static int one_problem(const awq_kernels *k, rng *r)
{
    pool p = { .count = 0 };
    shuffle order = { { rng_next(r) } };
    awq_parallel shuffled_parallel = shuffled(&order);
    const awq_parallel *parallel = rng_below(r, 2) ? &shuffled_parallel : NULL;
    problem b;
    size_t size;
    int failures = 0;

    b.in_features = 1 + rng_below(r, 60);
    b.out_features = 1 + rng_below(r, 40);
    b.tokens = 1 + rng_below(r, 50);
    b.x = random_matrix(&p, r, b.tokens, b.in_features, 2);
    b.weight = random_matrix(&p, r, b.out_features, b.in_features, 1);
    b.approximation = random_matrix(&p, r, b.out_features, b.in_features, 1);
    if (rng_below(r, 4) == 0) b.approximation.data = NULL;
    b.token_weight = rng_below(r, 2) ? random_weights(&p, r, b.x) : NULL;
    size = awq_stats_size(b.in_features, 64, 1);
    awq_stats_init(&b.stats, b.in_features, 64, 1, rng_next(r),
                   pool_aligned(&p, size, sizeof(double)), size);
    CHECK(awq_stats_add(k, &b.stats, b.x, b.token_weight, NULL, NULL) == AWQ_OK, "add");

    failures += one_loss(k, &b, AWQ_LOSS_ROWS, define_rows_loss(&b), parallel);
    failures += one_loss(k, &b, AWQ_LOSS_GRAM, define_rows_loss(&b), parallel);
    failures += one_loss(k, &b, AWQ_LOSS_SKETCH, define_sketch_loss(&b), parallel);
    failures += one_loss(k, &b, AWQ_LOSS_DIAGONAL, define_diagonal_loss(&b), parallel);
    return failures + pool_release(&p);
}

int body_losses(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) failures += one_problem(k, &r);
    return failures;
}

/* ================================================================================================
   awq_quantize, awq_dequantize, awq_fake_quantize
   ============================================================================================= */

/*  Groups that trip careless quantizers, among ordinary ones.                                    */
static double awkward_value(rng *r, size_t kind, double constant)
{
    double v = rng_normal(r);
    switch (kind) {
    case 0: return 0;
    case 1: return constant;
    case 2: return magnitude(v);
    case 3: return -magnitude(v);
    case 4: return v * power_of_two(-130);
    case 5: return v * power_of_two(-20);
    case 6: return v * power_of_two(100);
    case 7: return v + 50 * (double)(rng_below(r, 20) == 0);
    default: return v;
    }
}

static awq_matrix awkward_matrix(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols)
{
    awq_matrix m = random_matrix(p, r, rows, cols, 1);
    size_t group = group_length(cols, quant.group_size), row, c, kind = 0;
    double constant = 0;
    for (row = 0; row < rows; row++)
        for (c = 0; c < cols; c++) {
            if (c % group == 0) {
                kind = rng_below(r, 12);
                constant = rng_normal(r);
                if (kind == 6 && (quant.scale_dtype == AWQ_F16 || m.dtype == AWQ_F16)) kind = 8;
            }
            put(m, row, c, awkward_value(r, kind, constant));
        }
    return m;
}

typedef struct quantizing {
    awq_quant quant;
    awq_matrix weight;
    float *scale, *clip_max;
    size_t group, groups;
    awq_tensor tensor;
} quantizing;

static quantizing new_quantizing(pool *p, rng *r)
{
    quantizing z;
    size_t rows = 1 + rng_below(r, 40), cols = 1 + rng_below(r, 300), i, size;
    int failures = 0;

    z.quant = random_quant(r);
    z.weight = awkward_matrix(p, r, z.quant, rows, cols);
    z.group = group_length(cols, z.quant.group_size);
    z.groups = awq_group_count(cols, z.quant.group_size);
    CHECK(z.groups == (cols + z.group - 1) / z.group, "%zu", z.groups);
    z.scale = rng_below(r, 2) ? pool_floats(p, cols) : NULL;
    for (i = 0; z.scale && i < cols; i++) z.scale[i] = (float)(1.0625 + rng_unit(r));
    z.clip_max = rng_below(r, 2) ? pool_floats(p, rows * z.groups) : NULL;
    for (i = 0; z.clip_max && i < rows * z.groups; i++)
        z.clip_max[i] = (float)magnitude(rng_normal(r));
    size = awq_tensor_size(z.quant, rows, cols);
    CHECK(awq_tensor_init(&z.tensor, z.quant, rows, cols, pool_aligned(p, size, sizeof(float)),
                          size) == AWQ_OK, "init");
    if (failures) abort();
    return z;
}

static int check_group(const quantizing *z, size_t row, size_t g, const float *u, uint8_t *q)
{
    const awq_tensor *t = &z->tensor;
    size_t begin = g * z->group, end = begin + z->group, i;
    double scale, stored = element(z->quant.scale_dtype, t->scales, row * z->groups + g);
    int zero, failures = 0, levels = (1 << z->quant.bits) - 1;
    /* half a step for q, half for zero; then the rounding of the scale, coarse if subnormal fp16 */
    double slack = (z->quant.symmetric ? 0.5 : 1.0) + levels * power_of_two(-8) +
                   (z->quant.scale_dtype == AWQ_F16 ? levels * power_of_two(-25) / stored : 0);

    if (end > t->in_features) end = t->in_features;
    CHECK(define_group(z->quant, u + begin, end - begin, &scale, &zero, q) == AWQ_OK, "huge");
    CHECK(stored >= smallest_scale(z->quant.scale_dtype) && stored < 1e38, "scale %g", stored);
    CHECK(stored == scale, "row %zu group %zu: scale %g, not %g", row, g, stored, scale);
    CHECK(t->zeros[row * z->groups + g] == zero, "row %zu group %zu: zero %d, not %d", row, g,
          t->zeros[row * z->groups + g], zero);
    for (i = begin; i < end; i++) {
        int got = t->q[row * t->in_features + i];
        CHECK(got == q[i - begin], "row %zu col %zu: q %d, not %d", row, i, got, q[i - begin]);
        CHECK(magnitude((double)u[i] - (got - zero) * stored) <= slack * stored,
              "row %zu col %zu: %g became %g", row, i, (double)u[i], (got - zero) * stored);
    }
    return failures;
}

static int check_definition(const quantizing *z)
{
    float *u = new_values(z->tensor.in_features);
    uint8_t *q = new_values(z->tensor.in_features);
    size_t row, g;
    int failures = 0;
    for (row = 0; row < z->tensor.out_features; row++) {
        define_scaled_row(z->weight, row, z->scale,
                          z->clip_max ? z->clip_max + row * z->groups : NULL, z->group, u);
        for (g = 0; g < z->groups; g++) failures += check_group(z, row, g, u, q);
    }
    free(u);
    free(q);
    return failures;
}

/*  Both ways back to a dense matrix: (q - zero) * scale / s in fp32, rounded to out's dtype. */
static int check_dense(const awq_kernels *k, const quantizing *z, pool *p, rng *r)
{
    const awq_tensor *t = &z->tensor;
    awq_matrix dense = random_matrix(p, r, t->out_features, t->in_features, 1);
    awq_matrix fake = new_matrix(p, dense.dtype, dense.rows, dense.cols, dense.cols, AT_START);
    size_t cut = rng_below(r, dense.rows + 1), row, c;
    int failures = 0;

    CHECK(awq_dequantize(t, z->scale, dense, cut, dense.rows) == AWQ_OK, "dequantize");
    CHECK(awq_dequantize(t, z->scale, dense, 0, cut) == AWQ_OK, "dequantize");
    CHECK(awq_fake_quantize(k, z->quant, z->weight, z->scale, z->clip_max, fake, 0, cut, NULL) ==
          AWQ_OK, "fake");
    CHECK(awq_fake_quantize(k, z->quant, z->weight, z->scale, z->clip_max, fake, cut, dense.rows,
                            NULL) == AWQ_OK, "fake");
    for (row = 0; row < dense.rows; row++)
        for (c = 0; c < dense.cols; c++) {
            size_t g = row * z->groups + c / z->group;
            float value = (float)(t->q[row * dense.cols + c] - t->zeros[g]);
            value *= (float)element(z->quant.scale_dtype, t->scales, g);
            if (z->scale) value /= z->scale[c];
            CHECK(at(dense, row, c) == rounded(dense.dtype, (double)value), "%g, not %g",
                  at(dense, row, c), (double)value);
            CHECK(at(fake, row, c) == at(dense, row, c), "%g, not %g", at(fake, row, c),
                  at(dense, row, c));
        }
    return failures;
}

int body_quantize(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) {
        pool p = { .count = 0 };
        quantizing z = new_quantizing(&p, &r);
        size_t rows = z.tensor.out_features, cut = rng_below(&r, rows + 1);
        awq_where where = { 0, 0, 0 };
        awq_status status = awq_quantize(k, z.weight, z.scale, z.clip_max, &z.tensor, cut, rows,
                                         &where);
        CHECK(status == AWQ_OK, "%s at %zu %zu", awq_status_string(status), where.row, where.col);
        CHECK(untouched(z.tensor.q, cut * z.tensor.in_features), "rows before %zu", cut);
        status = awq_quantize(k, z.weight, z.scale, z.clip_max, &z.tensor, 0, cut, &where);
        CHECK(status == AWQ_OK, "%s at %zu %zu", awq_status_string(status), where.row, where.col);
        failures += check_definition(&z);
        failures += check_dense(k, &z, &p, &r);
        failures += pool_release(&p);
    }
    return failures;
}

/* ================================================================================================
   fp16 and bf16: every value in, every rounding out
   ============================================================================================= */

/*  Every value survives a conversion to fp32 and back; a NaN stays some NaN.                      */
static int check_every_value(awq_dtype dtype)
{
    enum { ALL = 65536 };
    uint16_t *bits = new_values(ALL), *back = new_values(ALL);
    float *wide = new_values(ALL);
    uint32_t i;
    int failures = 0;

    for (i = 0; i < ALL; i++) bits[i] = (uint16_t)i;
    CHECK(awq_convert(awq_matrix_view(bits, dtype, 256, 256),
                      awq_matrix_view(wide, AWQ_F32, 256, 256)) == AWQ_OK, "widen");
    CHECK(awq_convert(awq_matrix_view(wide, AWQ_F32, 256, 256),
                      awq_matrix_view(back, dtype, 256, 256)) == AWQ_OK, "narrow");
    for (i = 0; i < ALL && failures == 0; i++) {
        double before = widen(dtype, i), between = (double)wide[i], after = widen(dtype, back[i]);
        CHECK(before != before ? between != between && after != after
                               : between == before && back[i] == i,
              "%#x became %#x", (unsigned)i, (unsigned)back[i]);
    }
    free(bits);
    free(wide);
    free(back);
    return failures;
}

/*  Anything from 2^-160 to 2^127, half of it exactly between two values of the dtype.            */
static float hard_to_round(rng *r, awq_dtype dtype)
{
    uint32_t bits = (uint32_t)rng_next(r), dropped = dtype == AWQ_F16 ? 13 : 16;
    if (dtype == AWQ_F16 && rng_below(r, 4))        /* mostly the exponents that fp16 has */
        bits = (bits & 0x807FFFFFu) | (uint32_t)(100 + rng_below(r, 45)) << 23;
    if (rng_below(r, 2)) bits = (bits >> dropped << dropped) | 1u << (dropped - 1);
    if ((bits & 0x7F800000u) == 0x7F800000u) bits &= 0xBFFFFFFFu;
    return (float)widen(AWQ_F32, bits);
}

/*  The bias of zero activations comes out of a matmul rounded to y's dtype, and nothing else.    */
static int check_rounding(const awq_kernels *k, rng *r, awq_dtype dtype)
{
    enum { ROWS = 64 };
    const awq_quant quant = { 4, -1, 1, AWQ_F32 };
    pool p = { .count = 0 };
    const float *x = memset(pool_floats(&p, 1), 0, sizeof(float));
    size_t size = awq_packed_size(quant, ROWS, 1), prepared_size, i;
    unsigned char *memory = pool_bytes(&p, size, AT_END);
    float *bias = pool_floats(&p, ROWS);
    awq_matrix y = new_matrix(&p, dtype, 1, ROWS, ROWS, AT_END);
    awq_packed packed;
    awq_prepared prepared;
    int failures = 0;

    prepared_size = awq_prepared_size(k, 1, -1, AWQ_A16, 1);
    for (i = 0; i < ROWS; i++) bias[i] = hard_to_round(r, dtype);
    CHECK(awq_packed_init(quant, ROWS, 1, memory, size) == AWQ_OK, "init");
    CHECK(awq_packed_open(&packed, memory, size) == AWQ_OK, "open");
    CHECK(awq_prepare(k, -1, AWQ_A16, awq_matrix_view(x, AWQ_F32, 1, 1), NULL,
                      pool_aligned(&p, prepared_size, 4), prepared_size, 0, 1, &prepared, NULL)
          == AWQ_OK, "prepare");
    CHECK(awq_matmul(k, &packed, &prepared, bias, y, 0, ROWS) == AWQ_OK, "matmul");
    for (i = 0; i < ROWS; i++)
        CHECK(at(y, 0, i) == rounded(dtype, (double)bias[i]), "%.9g became %.9g", (double)bias[i],
              at(y, 0, i));
    return failures + pool_release(&p);
}

int body_numbers(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = check_every_value(AWQ_F16) + check_every_value(AWQ_BF16);
    while (cases-- > 0 && failures == 0) {
        failures += check_rounding(k, &r, AWQ_F32);
        failures += check_rounding(k, &r, AWQ_F16);
        failures += check_rounding(k, &r, AWQ_BF16);
    }
    return failures;
}

/* ================================================================================================
   awq_pack, awq_unpack, awq_quantize_packed
   ============================================================================================= */

static awq_tensor random_tensor(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols)
{
    awq_tensor t;
    size_t groups = awq_group_count(cols, quant.group_size), i;
    unsigned values = 1u << quant.bits;

    t.out_features = rows;
    t.in_features = cols;
    t.quant = quant;
    t.q = pool_bytes(p, rows * cols, (place)rng_below(r, PLACES));
    t.zeros = pool_bytes(p, rows * groups, (place)rng_below(r, PLACES));
    t.scales = pool_aligned(p, rows * groups * awq_dtype_size(quant.scale_dtype), 4);
    for (i = 0; i < rows * cols; i++) t.q[i] = (uint8_t)rng_below(r, values);
    for (i = 0; i < rows * groups; i++) {
        t.zeros[i] = (uint8_t)(quant.symmetric ? values / 2 : rng_below(r, values));
        set_element(quant.scale_dtype, t.scales, i, (1.5 + rng_unit(r)) / values);
    }
    return t;
}

static awq_tensor blank_tensor(pool *p, const awq_tensor *like)
{
    awq_tensor t = *like;
    size_t groups = awq_group_count(t.in_features, t.quant.group_size);
    t.q = pool_bytes(p, t.out_features * t.in_features, AT_END);
    t.zeros = pool_bytes(p, t.out_features * groups, AT_END);
    t.scales = pool_aligned(p, t.out_features * groups * awq_dtype_size(t.quant.scale_dtype), 4);
    return t;
}

static int compare_tensors(const awq_tensor *a, const awq_tensor *b)
{
    size_t cells = a->out_features * a->in_features;
    size_t groups = a->out_features * awq_group_count(a->in_features, a->quant.group_size);
    int failures = 0;
    CHECK(memcmp(a->q, b->q, cells) == 0, "q of %zu x %zu, %d bits", a->out_features,
          a->in_features, a->quant.bits);
    CHECK(memcmp(a->zeros, b->zeros, groups) == 0, "zeros");
    CHECK(memcmp(a->scales, b->scales, groups * awq_dtype_size(a->quant.scale_dtype)) == 0,
          "scales");
    return failures;
}

/*  The row at which a random range may begin: a multiple of AWQ_ROW_STEP.                        */
static size_t random_cut(rng *r, size_t rows)
{
    return rng_below(r, (rows + AWQ_ROW_STEP - 1) / AWQ_ROW_STEP) * AWQ_ROW_STEP;
}

static void *pack_all(const awq_kernels *k, pool *p, rng *r, const awq_tensor *t, size_t *size)
{
    size_t rows = t->out_features, cut = random_cut(r, rows);
    void *memory;
    int failures = 0;

    *size = awq_packed_size(t->quant, rows, t->in_features);
    memory = pool_bytes(p, *size, (place)rng_below(r, PLACES));
    CHECK(awq_packed_init(t->quant, rows, t->in_features, memory, *size) == AWQ_OK, "init");
    CHECK(awq_pack(k, t, memory, *size, cut, rows, NULL) == AWQ_OK, "pack");
    CHECK(awq_pack(k, t, memory, *size, 0, cut, NULL) == AWQ_OK, "pack");
    if (failures) abort();
    return memory;
}

static int check_lossless(const awq_kernels *k, pool *p, rng *r, const awq_tensor *t)
{
    size_t size, cut = random_cut(r, t->out_features);
    void *memory = pack_all(k, p, r, t, &size);
    awq_tensor back = blank_tensor(p, t);
    awq_packed packed;
    awq_where where = { 0, 0, 0 };
    int failures = 0;

    CHECK(awq_packed_open(&packed, memory, size) == AWQ_OK, "open");
    CHECK(packed.size == size && packed.out_features == t->out_features &&
          packed.in_features == t->in_features && packed.layout == AWQ_LAYOUT_ROWS16, "header");
    CHECK(packed.quant.bits == t->quant.bits && packed.quant.group_size == t->quant.group_size &&
          packed.quant.symmetric == t->quant.symmetric &&
          packed.quant.scale_dtype == t->quant.scale_dtype, "quant");
    CHECK(awq_packed_check(&packed, &where) == AWQ_OK, "row %zu group %zu", where.row, where.col);
    CHECK(awq_unpack(k, &packed, &back, cut, t->out_features) == AWQ_OK, "unpack");
    CHECK(untouched(back.q, cut * t->in_features), "rows before %zu", cut);
    CHECK(awq_unpack(k, &packed, &back, 0, cut) == AWQ_OK, "unpack");
    return failures + compare_tensors(&back, t);
}

static int check_quantize_packed(const awq_kernels *k, pool *p, rng *r)
{
    quantizing z = new_quantizing(p, r);
    size_t rows = z.tensor.out_features, size, cut = random_cut(r, rows);
    unsigned char *two_steps, *one_step;
    int failures = 0;

    CHECK(awq_quantize(k, z.weight, z.scale, z.clip_max, &z.tensor, 0, rows, NULL) == AWQ_OK, "q");
    two_steps = pack_all(k, p, r, &z.tensor, &size);
    one_step = pool_bytes(p, size, (place)rng_below(r, PLACES));
    CHECK(awq_packed_init(z.quant, rows, z.tensor.in_features, one_step, size) == AWQ_OK, "init");
    CHECK(awq_quantize_packed(k, z.weight, z.scale, z.clip_max, one_step, size, cut, rows, NULL)
          == AWQ_OK, "quantize_packed");
    CHECK(awq_quantize_packed(k, z.weight, z.scale, z.clip_max, one_step, size, 0, cut, NULL)
          == AWQ_OK, "quantize_packed");
    CHECK(memcmp(one_step, two_steps, size) == 0, "%zu x %zu", rows, z.tensor.in_features);
    return failures;
}

int body_pack(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) {
        pool p = { .count = 0 };
        awq_tensor t = random_tensor(&p, &r, random_quant(&r), 1 + rng_below(&r, 70),
                                     1 + rng_below(&r, 300));
        failures += check_lossless(k, &p, &r, &t);
        failures += check_quantize_packed(k, &p, &r);
        failures += pool_release(&p);
    }
    return failures;
}

/* ================================================================================================
   awq_prepare, awq_prepared_select, awq_matmul
   ============================================================================================= */

typedef enum values { NORMAL, UNIFORM, ZEROS, DENORMAL, HUGE_ONES, OUTLIER, KINDS } values;

static double activation(rng *r, values kind)
{
    switch (kind) {
    case UNIFORM: return rng_unit(r);
    case ZEROS: return 0;
    case DENORMAL: return rng_normal(r) * power_of_two(-132);
    case HUGE_ONES: return rng_normal(r) * 1e30;
    case OUTLIER: return rng_below(r, 50) ? rng_normal(r) * 1e-3 : 1e3;
    default: return rng_normal(r);
    }
}

typedef struct product {
    awq_tensor tensor;
    awq_packed packed;
    awq_precision precision;
    awq_matrix x;
    const float *input_scale, *bias;
    awq_prepared prepared;
    awq_matrix y;
} product;

static const float *random_floats(pool *p, rng *r, size_t n, double center)
{
    float *floats = pool_floats(p, n);
    size_t i;
    for (i = 0; i < n; i++) floats[i] = (float)(center + rng_unit(r));
    return floats;
}

static int prepare_all(const awq_kernels *k, pool *p, rng *r, product *m)
{
    size_t tokens = m->x.rows, cut = rng_below(r, tokens + 1);
    int group_size = m->tensor.quant.group_size, failures = 0;
    size_t size = awq_prepared_size(k, m->x.cols, group_size, m->precision, tokens);
    void *memory = pool_aligned(p, size, sizeof(float));
    awq_prepared second;

    CHECK(awq_prepare(k, group_size, m->precision, m->x, m->input_scale, memory, size, cut, tokens,
                      &m->prepared, NULL) == AWQ_OK, "prepare");
    CHECK(awq_prepare(k, group_size, m->precision, m->x, m->input_scale, memory, size, 0, cut,
                      &second, NULL) == AWQ_OK, "prepare");
    CHECK(second.data == m->prepared.data && second.token_size == m->prepared.token_size &&
          second.tokens == tokens && m->prepared.tokens == tokens, "the view depends on the range");
    return failures;
}

static int new_weights(const awq_kernels *k, pool *p, rng *r, awq_quant quant, size_t rows,
                       size_t cols, product *m)
{
    size_t size;
    void *memory;
    int failures = 0;

    memset(m, 0, sizeof *m);
    m->tensor = random_tensor(p, r, quant, rows, cols);
    memory = pack_all(k, p, r, &m->tensor, &size);
    CHECK(awq_packed_open(&m->packed, memory, size) == AWQ_OK, "open");
    return failures;
}

static int new_product(const awq_kernels *k, pool *p, rng *r, values kind, size_t rows,
                       size_t cols, size_t tokens, product *m)
{
    size_t t, c;
    int failures = new_weights(k, p, r, random_quant(r), rows, cols, m);

    m->precision = (awq_precision)rng_below(r, 2);
    m->x = random_matrix(p, r, tokens, cols, 1);
    if (kind == HUGE_ONES) {
        m->x = new_matrix(p, AWQ_F32, tokens, cols, cols, AT_END);
        m->y = new_matrix(p, AWQ_F32, tokens, rows, rows, AT_END);
    } else {
        m->y = new_matrix(p, (awq_dtype)rng_below(r, 3), tokens, rows, rows + rng_below(r, 5),
                          (place)rng_below(r, PLACES));
    }
    for (t = 0; t < tokens; t++)
        for (c = 0; c < cols; c++) put(m->x, t, c, activation(r, kind));
    m->input_scale = rng_below(r, 3) ? NULL : random_floats(p, r, cols, 1.25);
    m->bias = rng_below(r, 2) ? NULL : random_floats(p, r, rows, 0);
    return failures + prepare_all(k, p, r, m);
}

static double weight_at(const product *m, size_t row, size_t col)
{
    const awq_tensor *t = &m->tensor;
    size_t groups = awq_group_count(t->in_features, t->quant.group_size);
    size_t g = row * groups + col / group_length(t->in_features, t->quant.group_size);
    return (t->q[row * t->in_features + col] - t->zeros[g]) *
           element(t->quant.scale_dtype, t->scales, g);
}

static double input_at(const product *m, size_t token, size_t col)
{
    return at(m->x, token, col) / (m->input_scale ? (double)m->input_scale[col] : 1.0);
}

/*  The exact output, and how far from it the rounding of activations (half a step or little more,
    per block of at most 128 inputs of a group) and of fp32 sums can lead.                       */
static double define_output(const product *m, size_t token, size_t row, double *bound)
{
    size_t n = m->x.cols, group = group_length(n, m->tensor.quant.group_size), begin, end, c;
    double sum = m->bias ? (double)m->bias[row] : 0.0, size = magnitude(sum);
    double steps = m->precision == AWQ_A16 ? 32639 : 127, roundings = 8;

    *bound = 0;
    for (begin = 0; begin < n; begin = end) {
        size_t group_end = begin - begin % group + group;
        double most = 0, weights = 0;
        end = begin + 128 < group_end ? begin + 128 : group_end;
        if (end > n) end = n;
        roundings++;
        for (c = begin; c < end; c++) {
            double x = input_at(m, token, c), w = weight_at(m, row, c);
            if (magnitude(x) > most) most = magnitude(x);
            weights += magnitude(w);
            sum += w * x;
            size += magnitude(w * x);
        }
        /* 2^-126: steps too small for fp32 may be flushed to zero */
        *bound += weights * (most / steps * 0.504 + steps * power_of_two(-126));
    }
    *bound += size * roundings * power_of_two(-24);
    return sum;
}

static double half_a_step(awq_dtype dtype, double value)
{
    double size = magnitude(value);
    if (dtype == AWQ_F32) return size * power_of_two(-24);
    return dtype == AWQ_F16 ? size * power_of_two(-11) + power_of_two(-25)
                            : size * power_of_two(-8);
}

static int check_outputs(const product *m, double *error, double *total)
{
    size_t t, row;
    int failures = 0;
    for (t = 0; t < m->y.rows; t++)
        for (row = 0; row < m->y.cols; row++) {
            double bound, got = at(m->y, t, row), expected = define_output(m, t, row, &bound);
            double off = got - expected;
            bound += half_a_step(m->y.dtype, magnitude(expected) + bound);
            CHECK(magnitude(off) <= bound, "token %zu row %zu: %.9g, not %.9g +- %g", t, row, got,
                  expected, bound);
            *error += off * off;
            *total += expected * expected;
        }
    return failures;
}

/*  All of y by two ranges, the first of which must not write outside itself.                     */
static int multiply(const awq_kernels *k, rng *r, product *m)
{
    size_t rows = m->tensor.out_features, cut = random_cut(r, rows);
    int failures = 0;
    CHECK(awq_matmul(k, &m->packed, &m->prepared, m->bias, m->y, cut, rows) == AWQ_OK, "matmul");
    CHECK(untouched_outside(m->y, cut, rows), "columns outside %zu .. %zu", cut, rows);
    CHECK(awq_matmul(k, &m->packed, &m->prepared, m->bias, m->y, 0, cut) == AWQ_OK, "matmul");
    CHECK(untouched_outside(m->y, 0, rows), "columns outside 0 .. %zu", rows);
    return failures;
}

static int same_bits(awq_matrix a, size_t row_a, awq_matrix b, size_t row_b)
{
    size_t size = a.dtype == AWQ_F32 ? 4 : 2;
    return memcmp((char *)a.data + row_a * a.stride * size,
                  (char *)b.data + row_b * b.stride * size, a.cols * size) == 0;
}

static int check_batches(const awq_kernels *k, pool *p, rng *r, const product *m)
{
    size_t tokens = m->x.rows, count = 1 + rng_below(r, 6), i, t = rng_below(r, tokens);
    uint32_t *index = pool_aligned(p, count * sizeof *index, sizeof *index);
    product some = *m;
    int failures = 0;

    for (i = 0; i < count; i++) index[i] = (uint32_t)rng_below(r, tokens);
    CHECK(awq_prepared_select(&m->prepared, index, count, &some.prepared) == AWQ_OK, "select");
    some.y = new_matrix(p, m->y.dtype, count, m->y.cols, m->y.cols, AT_END);
    failures += multiply(k, r, &some);
    for (i = 0; i < count; i++)
        CHECK(same_bits(some.y, i, m->y, index[i]), "selected token %u", (unsigned)index[i]);

    some.x = awq_matrix_rows(m->x, t, t + 1);
    some.y = new_matrix(p, m->y.dtype, 1, m->y.cols, m->y.cols, AT_END);
    failures += prepare_all(k, p, r, &some);
    failures += multiply(k, r, &some);
    CHECK(same_bits(some.y, 0, m->y, t), "token %zu of %zu alone", t, tokens);
    return failures;
}

static int one_product(const awq_kernels *k, rng *r, values kind)
{
    static const int tokens[] = { 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 33 };
    pool p = { .count = 0 };
    size_t rows = 1 + rng_below(r, 40), cols = rng_below(r, 8) ? 1 + rng_below(r, 300) : 576;
    product m;
    double error = 0, total = 0;
    int failures = new_product(k, &p, r, kind, rows, cols,
                               (size_t)rng_pick(r, tokens, COUNT(tokens)), &m);
    failures += multiply(k, r, &m);
    failures += check_outputs(&m, &error, &total);
    if (m.x.rows) failures += check_batches(k, &p, r, &m);
    if (kind == ZEROS && !m.bias) CHECK(total == 0 && error == 0, "error %g", error);
    if (failures)
        fprintf(stderr, "  in %zu x %zu, %zu tokens, %d bits, group %d, %s, values %d, x %d y %d\n",
                rows, cols, m.x.rows, m.tensor.quant.bits, m.tensor.quant.group_size,
                m.precision == AWQ_A16 ? "A16" : "A8", (int)kind, (int)m.x.dtype, (int)m.y.dtype);
    return failures + pool_release(&p);
}

int body_matmul(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) failures += one_product(k, &r, (values)(cases % 2));
    return failures;
}

int body_extreme_activations(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0)
        failures += one_product(k, &r, (values)(ZEROS + cases % (KINDS - ZEROS)));
    return failures;
}

/*  What the manual says of normal data: norm of the error over norm of the output. The weights have
    mean 0, so that no output is a small difference of large sums.                                */
static int one_relative_error(const awq_kernels *k, rng *r, int group_size, awq_precision precision)
{
    enum { ROWS = 48, COLS = 576, TOKENS = 33 };
    const awq_quant quant = { 8, group_size, 1, AWQ_F32 };
    const double limit = precision == AWQ_A16 ? 3e-5 : 7e-3;
    pool p = { .count = 0 };
    product m;
    double error = 0, total = 0;
    size_t t, c;
    int failures = new_weights(k, &p, r, quant, ROWS, COLS, &m);

    m.precision = precision;
    m.x = new_matrix(&p, AWQ_F32, TOKENS, COLS, COLS, AT_END);
    m.y = new_matrix(&p, AWQ_F32, TOKENS, ROWS, ROWS, AT_END);
    for (t = 0; t < TOKENS; t++)
        for (c = 0; c < COLS; c++) put(m.x, t, c, activation(r, NORMAL));
    failures += prepare_all(k, &p, r, &m);
    failures += multiply(k, r, &m);
    failures += check_outputs(&m, &error, &total);
    CHECK(error <= limit * limit * total, "group %d, %s: relative error^2 %g", group_size,
          precision == AWQ_A16 ? "A16" : "A8", error / total);
    return failures + pool_release(&p);
}

int body_relative_error(const awq_kernels *k, uint64_t seed, int cases)
{
    static const int groups[] = { 32, 64, 128, -1 };
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) {
        int group_size = rng_pick(&r, groups, COUNT(groups));
        failures += one_relative_error(k, &r, group_size, AWQ_A16);
        failures += one_relative_error(k, &r, group_size, AWQ_A8);
    }
    return failures;
}
