#include "bodies.h"
#include "foreign.h"
#include "product.h"

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
    return divided(sum, (double)b->out_features * b->stats.weight);
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

/*  Any rows of packed bytes as numbers are those of the tensor.                                  */
static int check_packed_dequantize(const awq_kernels *k, pool *p, rng *r, const awq_tensor *t)
{
    size_t size, in = t->in_features, begin = random_cut(r, t->out_features), c;
    size_t rows = t->out_features - begin;
    void *memory = pack_all(k, p, r, t, &size);
    float *scale = pool_floats(p, in);
    float *expected = pool_floats(p, t->out_features * in);
    float *got = pool_floats(p, rows * in);
    awq_matrix all = awq_matrix_view(expected, AWQ_F32, t->out_features, in);
    awq_packed packed;
    int failures = 0;

    for (c = 0; c < in; c++) scale[c] = 0.5f + (float)rng_below(r, 100);
    CHECK(awq_packed_open(&packed, memory, size) == AWQ_OK, "open");
    CHECK(awq_dequantize(t, scale, all, 0, t->out_features) == AWQ_OK, "dequantize");
    CHECK(awq_packed_dequantize(&packed, scale, awq_matrix_view(got, AWQ_F32, rows, in), begin,
                                t->out_features) == AWQ_OK, "packed_dequantize");
    CHECK(memcmp(got, expected + begin * in, rows * in * sizeof *got) == 0, "rows from %zu", begin);
    return failures;
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
        failures += check_packed_dequantize(k, &p, &r, &t);
        failures += check_quantize_packed(k, &p, &r);
        failures += pool_release(&p);
    }
    return failures;
}

/* ================================================================================================
   awq_import, awq_export
   ============================================================================================= */

/*  Coarse groups, whose grids the packed and the foreign groups repeat.                          */
static awq_tensor coarse_tensor(pool *p, rng *r, const foreign_case *c)
{
    awq_quant quant = c->quant;
    size_t size = group_length(c->cols, quant.group_size), groups, i;
    awq_tensor t;
    if (rng_below(r, 2) && c->cols / size > 1) quant.group_size = (int)size * 2;
    t = random_tensor(p, r, quant, c->rows, c->cols);
    groups = c->rows * awq_group_count(c->cols, quant.group_size);
    for (i = 0; c->layout == AWQ_GPTQ && i < groups; i++) t.zeros[i] |= t.zeros[i] == 0;
    return t;
}

/*  A packed group size that divides the coarse one: whole words, or the whole row.               */
static int random_fine_group(rng *r, const awq_tensor *coarse)
{
    int size = (int)group_length(coarse->in_features, coarse->quant.group_size), fine;
    if (size % 8) return coarse->quant.group_size;
    do fine = 8 * (int)(1 + rng_below(r, (size_t)size / 8));
    while (size % fine);
    return fine;
}

typedef struct hub { foreign_case c; awq_tensor tensor; awq_foreign expected; } hub;

static hub new_hub(pool *p, rng *r, awq_layout layout)
{
    hub h;
    awq_tensor coarse, fine;
    int symmetric;
    h.c = random_foreign_case(r, layout);
    coarse = coarse_tensor(p, r, &h.c);
    fine = regrouped(p, &coarse, h.c.quant.group_size, h.c.quant.symmetric,
                     h.c.quant.scale_dtype);
    symmetric = h.c.quant.symmetric && rng_below(r, 2);
    h.tensor = regrouped(p, &coarse,
                         rng_below(r, 2) ? h.c.quant.group_size : random_fine_group(r, &coarse),
                         symmetric, rng_below(r, 3) ? h.c.quant.scale_dtype : AWQ_F32);
    h.expected = new_foreign(p, r, &h.c);
    define_foreign(&h.expected, &fine);
    return h;
}

static size_t random_step(rng *r, size_t rows, size_t step)
{
    size_t steps = (rows + step - 1) / step;
    return steps ? rng_below(r, steps) * step : 0;
}

static int check_export(const awq_kernels *k, pool *p, rng *r, const hub *h)
{
    size_t size, rows = h->c.rows, cut = random_step(r, rows, AWQ_EXPORT_STEP);
    void *memory = pack_all(k, p, r, &h->tensor, &size);
    awq_foreign f = new_foreign(p, r, &h->c);
    int failures = 0, rounding = h->c.layout == AWQ_GGML_Q4_1;
    awq_where where = { 9, 9, 9 };
    awq_packed packed;
    awq_status status;
    CHECK(awq_packed_open(&packed, memory, size) == AWQ_OK, "open");
    status = awq_export(k, &packed, &f, rounding, cut, rows, &where);
    CHECK(status == AWQ_OK, "layout %d: %s at %zu %zu %zu", (int)h->c.layout,
          awq_status_string(status), where.matrix, where.row, where.col);
    CHECK(awq_export(k, &packed, &f, rounding, 0, cut, NULL) == AWQ_OK, "export");
    return failures + compare_foreign(&f, &h->expected);
}

static int check_import(const awq_kernels *k, pool *p, rng *r, const hub *h)
{
    size_t size, rows = h->c.rows, cut = random_step(r, rows, AWQ_ROW_STEP);
    const void *expected = pack_all(k, p, r, &h->tensor, &size);
    void *memory = pool_bytes(p, size, (place)rng_below(r, PLACES));
    awq_where where = { 9, 9, 9 };
    int failures = 0;
    awq_status status;
    CHECK(awq_packed_init(h->tensor.quant, rows, h->c.cols, memory, size) == AWQ_OK, "init");
    status = awq_import(k, &h->expected, memory, size, cut, rows, &where);
    CHECK(status == AWQ_OK, "layout %d: %s at %zu %zu %zu", (int)h->c.layout,
          awq_status_string(status), where.matrix, where.row, where.col);
    CHECK(awq_import(k, &h->expected, memory, size, 0, cut, NULL) == AWQ_OK, "import");
    CHECK(memcmp(memory, expected, size) == 0, "layout %d, %zu x %zu, group %d to %d",
          (int)h->c.layout, rows, h->c.cols, h->c.quant.group_size, h->tensor.quant.group_size);
    return failures;
}

int body_layouts(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0, i;
    for (i = 0; i < cases && failures == 0; i++) {
        pool p = { .count = 0 };
        hub h = new_hub(&p, &r, (awq_layout)(1 + i % (AWQ_LAYOUT_END - 1)));
        failures += check_export(k, &p, &r, &h);
        failures += check_import(k, &p, &r, &h);
        failures += pool_release(&p);
    }
    return failures;
}

/* ================================================================================================
   awq_prepare, awq_prepared_select, awq_matmul
   ============================================================================================= */

static int one_product(const awq_kernels *k, rng *r, shape s, errors *sum)
{
    pool p = { .count = 0 };
    product m = new_product(&p, r, s);
    int failures = check_product(k, r, &m, sum);
    free_product(&m);
    return failures + pool_release(&p);
}

int body_matmul(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) failures += one_product(k, &r, random_shape(&r), NULL);
    return failures;
}

int body_extreme_values(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) {
        shape s = random_shape(&r);
        s.activations = (activations)(NICE + cases % (ACTIVATIONS - NICE));
        s.weights = (weights)rng_below(&r, WEIGHTS);
        failures += one_product(k, &r, s, NULL);
    }
    return failures;
}

/*  What the manual says of normal data: norm of the error over norm of the output. So few outputs
    leave it to chance by some percent.                                                           */
static int one_relative_error(const awq_kernels *k, rng *r, awq_precision precision)
{
    static const int bits[] = { 4, 8 }, groups[] = { 32, 64, 128, -1 };
    const double limit = 1.2 * (precision == AWQ_A16 ? 1e-4 : 6e-3);
    shape s = { { 4, 128, 1, AWQ_F32 }, AWQ_A16, 32, 2048, 33, ANY, NORMAL, AWQ_F32, AWQ_F32,
                0, 0 };
    errors sum = { 0, 0 };
    int failures;

    s.quant.bits = rng_pick(r, bits, COUNT(bits));
    s.quant.group_size = rng_pick(r, groups, COUNT(groups));
    s.precision = precision;
    failures = one_product(k, r, s, &sum);
    CHECK(sum.error <= limit * limit * sum.total, "%s, %s: relative error^2 %g", k->name,
          precision == AWQ_A16 ? "A16" : "A8", sum.error / sum.total);
    return failures;
}

int body_relative_error(const awq_kernels *k, uint64_t seed, int cases)
{
    rng r = { seed };
    int failures = 0;
    while (cases-- > 0 && failures == 0) {
        failures += one_relative_error(k, &r, AWQ_A16);
        failures += one_relative_error(k, &r, AWQ_A8);
    }
    return failures;
}
