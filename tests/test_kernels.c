/*  Every kernel set of every subset of this processor's features, on every remainder of rows,
    columns, tokens and groups, with guarded and misaligned memory, against float64.

        test_kernels [SET...]       only these kernel sets, by name

    AWQ_SEED repeats a run. AWQ_TEST_FULL=1 tries every combination of sizes (many minutes);
    AWQ_TEST_FULL=0 one format for each size, for slow emulators. Needs no test runner, so that it
    also runs where there is none.                                                                */
#include "product.h"
#include "../examples/common/tiles.h"

#include <math.h>
#include <signal.h>
#include <time.h>

#define MAX_SETS 16

/*  The sets under test. One that has failed is not tried again, so that each failure shows once. */
typedef struct suite {
    awq_kernels set[MAX_SETS];
    int         failed[MAX_SETS];
    size_t      count;
    rng         random;
    enum { QUICK, USUAL, FULL } depth;
} suite;

/*  What a signal handler has to say; written only here and by try_shape.                         */
static struct { const char *set; const shape *shape; } now;

static void on_fault(int number)
{
    fprintf(stderr, "test_kernels: signal %d: an access outside a buffer, or an instruction that "
            "this processor lacks\n", number);
    if (now.shape) print_shape(now.set, now.shape);
    signal(number, SIG_DFL);
    raise(number);
}

static int try_shape(suite *s, shape what, errors *sums)
{
    pool p = { .count = 0 };
    product m;
    size_t i;
    int failures = 0;

    now.shape = &what;
    now.set = "the definition";
    m = new_product(&p, &s->random, what);
    for (i = 0; i < s->count; i++) {
        if (s->failed[i]) continue;
        now.set = s->set[i].name;
        s->failed[i] = check_product(&s->set[i], &s->random, &m, sums ? &sums[i] : NULL);
        failures += s->failed[i];
    }
    now.shape = NULL;
    free_product(&m);
    return failures + pool_release(&p);
}

/*  Kernel sets of one prepared_format share prepared activations.                                */
static int try_shared(suite *s, shape what)
{
    pool p = { .count = 0 };
    product m = new_product(&p, &s->random, what);
    size_t i, j;
    int failures = 0;

    for (i = 0; i < s->count; i++)
        for (j = 0; j < s->count; j++)
            if (i != j && s->set[i].prepared_format == s->set[j].prepared_format)
                failures += check_shared(&s->set[i], &s->set[j], &s->random, &m);
    free_product(&m);
    return failures + pool_release(&p);
}

/* ---- sizes: each value of one with every bits and precision, the rest at random -------------- */

static const int all_bits[] = { 2, 3, 4, 8 };

/*  Calls of `each` for one value: all bits and precisions, or a random one of them.              */
static int every_kind(suite *s, void (*each)(shape *, size_t), size_t value)
{
    int pick = (int)rng_below(&s->random, 2 * COUNT(all_bits)), failures = 0, kind;
    for (kind = 0; kind < 2 * (int)COUNT(all_bits); kind++) {
        shape what = random_shape(&s->random);
        if (s->depth == QUICK && kind != pick) continue;
        what.quant.bits = all_bits[kind / 2];
        what.precision = (awq_precision)(kind % 2);
        each(&what, value);
        failures += try_shape(s, what, NULL);
    }
    return failures;
}

static void with_rows(shape *what, size_t value) { what->rows = value; }
static void with_cols(shape *what, size_t value) { what->cols = value; }
static void with_tokens(shape *what, size_t value) { what->tokens = value; }

static int every_row_count(suite *s)
{
    static const size_t more[] = { 64, 65, 71, 79, 80, 81, 95, 97, 127, 128, 129, 193, 255, 257 };
    size_t i;
    int failures = 0;
    for (i = 1; i <= 50; i++) failures += every_kind(s, with_rows, i);
    for (i = 0; i < COUNT(more); i++) failures += every_kind(s, with_rows, more[i]);
    return failures;
}

static int every_column_count(suite *s)
{
    static const size_t more[] = { 384, 511, 512, 513, 576, 640, 767, 1000, 1024, 1025, 1152, 2048,
                                   2049, 2175 };
    size_t i;
    int failures = 0;
    for (i = 1; i <= 300; i++) failures += every_kind(s, with_cols, i);
    for (i = 0; i < COUNT(more); i++) failures += every_kind(s, with_cols, more[i]);
    return failures;
}

static int every_token_count(suite *s)
{
    static const size_t more[] = { 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129,
                                   200, 257 };
    size_t i;
    int failures = 0;
    for (i = 0; i <= 26; i++) failures += every_kind(s, with_tokens, i);
    for (i = 0; i < COUNT(more); i++) failures += every_kind(s, with_tokens, more[i]);
    return failures;
}

/*  The grid of all small sizes, and those around the tiles.                                      */
static int every_combination(suite *s)
{
    size_t rows, cols, tokens;
    int failures = 0;
    if (s->depth != FULL) return 0;
    for (rows = 1; rows <= 33 && failures == 0; rows++)
        for (tokens = 1; tokens <= 26; tokens++)
            for (cols = 1; cols <= 260; cols++) {
                shape what = random_shape(&s->random);
                what.rows = rows;
                what.cols = cols;
                what.tokens = tokens;
                failures += try_shape(s, what, NULL);
            }
    return failures;
}

/* ---- formats and values ---------------------------------------------------------------------- */

static int every_format(suite *s)
{
    static const int groups[] = { 1, 2, 3, 4, 8, 16, 31, 32, 33, 64, 96, 100, 127, 128, 129, 160,
                                  192, 200, 255, 256, 257, 512, -1 };
    size_t g, b;
    int failures = 0, symmetric, precision, dtype;
    for (g = 0; g < COUNT(groups); g++)
        for (b = 0; b < COUNT(all_bits); b++)
            for (symmetric = 0; symmetric < 2; symmetric++)
                for (precision = 0; precision < 2; precision++)
                    for (dtype = 0; dtype < 3; dtype++) {
                        shape what = random_shape(&s->random);
                        what.quant.bits = all_bits[b];
                        what.quant.group_size = groups[g];
                        what.quant.symmetric = symmetric;
                        what.quant.scale_dtype = (awq_dtype)dtype;
                        what.precision = (awq_precision)precision;
                        if (groups[g] > 128) what.cols += 300;
                        if (s->depth != QUICK || dtype == (int)rng_below(&s->random, 3))
                            failures += try_shape(s, what, NULL);
                    }
    return failures;
}

static int every_dtype(suite *s)
{
    int failures = 0, x, y, options;
    for (x = 0; x < 3; x++)
        for (y = 0; y < 3; y++)
            for (options = 0; options < 8; options++) {
                shape what = random_shape(&s->random);
                what.x_dtype = (awq_dtype)x;
                what.y_dtype = (awq_dtype)y;
                what.with_bias = options & 1;
                what.with_input_scale = options >> 1 & 1;
                what.precision = (awq_precision)(options >> 2);
                failures += try_shape(s, what, NULL);
            }
    return failures;
}

/*  Saturation, overflow and flushing: every kind of activation meets every kind of weight.       */
static int every_extreme(suite *s)
{
    static const int groups[] = { 32, 64, 100, 128, -1 };
    size_t b;
    int failures = 0, weight, activation, symmetric, precision;
    for (weight = 0; weight < WEIGHTS; weight++)
        for (activation = 0; activation < ACTIVATIONS; activation++)
            for (b = 0; b < COUNT(all_bits); b++)
                for (symmetric = 0; symmetric < 2; symmetric++)
                    for (precision = 0; precision < 2; precision++) {
                        shape what = random_shape(&s->random);
                        what.weights = (weights)weight;
                        what.activations = (activations)activation;
                        what.quant.bits = all_bits[b];
                        what.quant.symmetric = symmetric;
                        what.quant.group_size = rng_pick(&s->random, groups, COUNT(groups));
                        what.precision = (awq_precision)precision;
                        what.cols = 128 + rng_below(&s->random, 400);
                        what.with_input_scale = 0;
                        if (s->depth != QUICK || symmetric == (int)rng_below(&s->random, 2))
                            failures += try_shape(s, what, NULL);
                    }
    return failures;
}

/*  NaN and infinity anywhere are found, and named.                                               */
static int one_bad_value(const awq_kernels *k, rng *r)
{
    pool p = { .count = 0 };
    shape what = random_shape(r);
    size_t tokens = 1 + rng_below(r, 5), token = rng_below(r, tokens);
    size_t col = rng_below(r, what.cols);
    size_t size = awq_prepared_size(k, what.cols, what.quant.group_size, what.precision, tokens);
    awq_matrix x = random_matrix(&p, r, tokens, what.cols, 1);
    const float *scale = what.with_input_scale ? random_floats(&p, r, what.cols, 1.25) : NULL;
    awq_prepared prepared;
    awq_where where = { 9, 9, 9 };
    int failures = 0;

    put(x, token, col, rng_below(r, 2) ? (double)NAN : rng_below(r, 2) ? (double)INFINITY
                                                                       : -(double)INFINITY);
    CHECK(awq_prepare(k, what.quant.group_size, what.precision, x, scale,
                      pool_aligned(&p, size, sizeof(float)), size, 0, tokens, &prepared, &where) ==
          AWQ_ERR_DATA && where.matrix == 0 && where.row == token && where.col == col,
          "token %zu channel %zu is bad, but matrix %zu row %zu col %zu", token, col, where.matrix,
          where.row, where.col);
    if (failures) print_shape(k->name, &what);
    return failures + pool_release(&p);
}

static int bad_values_are_found(suite *s)
{
    int failures = 0, cases;
    size_t i;
    for (i = 0; i < s->count; i++)
        for (cases = s->depth == QUICK ? 50 : 500; cases > 0 && !s->failed[i]; cases--)
            failures += s->failed[i] = one_bad_value(&s->set[i], &s->random);
    return failures;
}

static int anything(suite *s)
{
    int cases = s->depth == FULL ? 20000 : s->depth == USUAL ? 800 : 100, failures = 0;
    while (cases-- > 0) failures += try_shape(s, random_shape(&s->random), NULL);
    return failures;
}

static int shared_preparations(suite *s)
{
    int cases = s->depth == QUICK ? 20 : 200, failures = 0;
    while (cases-- > 0 && failures == 0) failures += try_shared(s, random_shape(&s->random));
    return failures;
}

/*  What the manual says of normal data: norm of the error over norm of the output. With few tokens
    chance adds some percent.                                                                     */
static int relative_error(suite *s)
{
    const size_t tokens = s->depth == QUICK ? 24 : 128;
    const double chance = s->depth == QUICK ? 1.1 : 1;
    int failures = 0, precision, round;
    size_t b, i;
    for (b = 2; b < COUNT(all_bits); b++)
        for (precision = 0; precision < 2; precision++) {
            const double limit = (precision == AWQ_A16 ? 1e-4 : 6e-3) * chance;
            errors sums[MAX_SETS];
            memset(sums, 0, sizeof sums);
            for (round = 0; round < 3; round++) {
                shape what = { { 4, 128, 1, AWQ_F16 }, AWQ_A16, 64, 2048, 0, ANY, NORMAL,
                               AWQ_F32, AWQ_F32, 0, 0 };
                what.quant.bits = all_bits[b];
                what.precision = (awq_precision)precision;
                what.tokens = tokens;
                failures += try_shape(s, what, sums);
            }
            for (i = 0; i < s->count; i++) {
                double error = sqrt(sums[i].error / sums[i].total);
                if (s->failed[i]) continue;
                CHECK(error <= limit, "%s: relative error %g of %s with %d bits", s->set[i].name,
                      error, precision == AWQ_A16 ? "A16" : "A8", all_bits[b]);
                s->failed[i] = !(error <= limit);
            }
        }
    return failures;
}

/* ---- the other functions: as the portable set ------------------------------------------------ */

/*  Weights with many ties, groups of zeros, and any size.                                        */
static awq_matrix hard_weights(pool *p, rng *r, size_t rows, size_t cols)
{
    double size = power_of_two((int)rng_below(r, 24) - 14);
    awq_matrix w = random_matrix(p, r, rows, cols, size);
    size_t row, c;
    int ties = (int)rng_below(r, 2), zeros = (int)rng_below(r, 2);
    for (row = 0; row < rows; row++)
        for (c = 0; c < cols; c++) {
            if (ties) put(w, row, c, ((double)rng_below(r, 61) - 30) / 4 * size);
            if (zeros && (c / 32 + row) % 3 == 0) put(w, row, c, row % 2 ? -0.0 : 0.0);
        }
    return w;
}

typedef struct quantizing {
    awq_quant quant;
    awq_matrix weight;
    const float *scale, *clip_max;
} quantizing;

static quantizing new_quantizing(pool *p, rng *r)
{
    quantizing z;
    size_t rows = 1 + rng_below(r, 50), cols = 1 + rng_below(r, 700);
    z.quant = random_quant(r);
    z.weight = hard_weights(p, r, rows, cols);
    z.scale = rng_below(r, 2) ? random_floats(p, r, cols, 1.25) : NULL;
    z.clip_max = rng_below(r, 3) ? NULL
               : random_floats(p, r, rows * awq_group_count(cols, z.quant.group_size), 1.25);
    return z;
}

static awq_tensor tensor_for(pool *p, const quantizing *z)
{
    awq_tensor like = { 0 };
    like.out_features = z->weight.rows;
    like.in_features = z->weight.cols;
    like.quant = z->quant;
    return blank_tensor(p, &like);
}

/*  awq_quantize, awq_fake_quantize, awq_quantize_packed: bit for bit.                            */
static int same_quantized(const awq_kernels *k, const awq_kernels *portable, rng *r)
{
    pool p = { .count = 0 };
    quantizing z = new_quantizing(&p, r);
    size_t rows = z.weight.rows, cols = z.weight.cols, cut = random_cut(r, rows);
    size_t size = awq_packed_size(z.quant, rows, cols);
    awq_tensor a = tensor_for(&p, &z), b = tensor_for(&p, &z);
    awq_matrix fake_a = new_matrix(&p, AWQ_F32, rows, cols, cols, AT_END);
    awq_matrix fake_b = new_matrix(&p, AWQ_F32, rows, cols, cols, AT_END);
    void *packed_a = pool_bytes(&p, size, (place)rng_below(r, PLACES));
    void *packed_b = pool_bytes(&p, size, AT_END);
    int failures = 0;

    CHECK(awq_quantize(portable, z.weight, z.scale, z.clip_max, &b, 0, rows, NULL) == AWQ_OK, "q");
    CHECK(awq_quantize(k, z.weight, z.scale, z.clip_max, &a, cut, rows, NULL) == AWQ_OK, "q");
    CHECK(awq_quantize(k, z.weight, z.scale, z.clip_max, &a, 0, cut, NULL) == AWQ_OK, "q");
    failures += compare_tensors(&a, &b);
    awq_fake_quantize(portable, z.quant, z.weight, z.scale, z.clip_max, fake_b, 0, rows, NULL);
    awq_fake_quantize(k, z.quant, z.weight, z.scale, z.clip_max, fake_a, 0, rows, NULL);
    CHECK(memcmp(fake_a.data, fake_b.data, rows * cols * sizeof(float)) == 0, "awq_fake_quantize");
    awq_packed_init(z.quant, rows, cols, packed_a, size);
    memcpy(packed_b, packed_a, size);
    awq_pack(portable, &b, packed_b, size, 0, rows, NULL);
    awq_quantize_packed(k, z.weight, z.scale, z.clip_max, packed_a, size, cut, rows, NULL);
    awq_quantize_packed(k, z.weight, z.scale, z.clip_max, packed_a, size, 0, cut, NULL);
    CHECK(memcmp(packed_a, packed_b, size) == 0, "awq_quantize_packed");
    if (failures)
        fprintf(stderr, "  in %s: %zu x %zu, %d bits, group %d, dtype %d, scales %d\n", k->name,
                rows, cols, z.quant.bits, z.quant.group_size, (int)z.weight.dtype,
                (int)z.quant.scale_dtype);
    return failures + pool_release(&p);
}

/*  awq_pack and awq_unpack: bit for bit, and there and back.                                     */
static int same_packed(const awq_kernels *k, const awq_kernels *portable, rng *r)
{
    pool p = { .count = 0 };
    awq_tensor t = random_tensor(&p, r, random_quant(r), 1 + rng_below(r, 50),
                                 1 + rng_below(r, 700)), back;
    size_t size, cut = random_cut(r, t.out_features);
    void *a = pack_all(k, &p, r, &t, &size), *b = pack_all(portable, &p, r, &t, &size);
    awq_packed packed;
    int failures = 0;

    CHECK(memcmp(a, b, size) == 0, "awq_pack");
    CHECK(awq_packed_open(&packed, b, size) == AWQ_OK, "open");
    back = blank_tensor(&p, &t);
    CHECK(awq_unpack(k, &packed, &back, cut, t.out_features) == AWQ_OK, "unpack");
    CHECK(awq_unpack(k, &packed, &back, 0, cut) == AWQ_OK, "unpack");
    failures += compare_tensors(&back, &t);
    if (failures)
        fprintf(stderr, "  in %s: %zu x %zu, %d bits, group %d\n", k->name, t.out_features,
                t.in_features, t.quant.bits, t.quant.group_size);
    return failures + pool_release(&p);
}

static int close_floats(const float *a, const float *b, size_t n, double tolerance)
{
    double largest = 0;
    size_t i;
    for (i = 0; i < n; i++)
        if (magnitude((double)b[i]) > largest) largest = magnitude((double)b[i]);
    for (i = 0; i < n; i++)
        if (!(magnitude((double)a[i] - (double)b[i]) <= tolerance * largest)) return 0;
    return 1;
}

static int close_doubles(const double *a, const double *b, size_t n, double tolerance)
{
    size_t i;
    for (i = 0; i < n; i++)
        if (a[i] != b[i] && !(magnitude(a[i] - b[i]) <= tolerance * magnitude(b[i]))) return 0;
    return 1;
}

/*  Statistics, losses and clips of one weight and its inputs, found by one kernel set.           */
enum { GRID = 21 };
typedef struct findings {
    awq_stats stats;
    double output_error[4], curve[4][GRID];
    float *scale[4], *clip[4];
} findings;

typedef struct study {
    awq_matrix weight, x;
    const float *token_weight;
    awq_quant quant;
    size_t sketch_rows;
} study;

static findings study_with(const awq_kernels *k, pool *p, const study *s)
{
    findings f;
    size_t n = s->x.cols, groups = awq_group_count(n, s->quant.group_size);
    size_t size = awq_stats_size(n, s->sketch_rows, 1);
    awq_search_config search = awq_search_preset(AWQ_PRESET_LLM_AWQ, s->quant);
    awq_clip_config clip = awq_clip_preset(s->quant);
    awq_search_result result;
    awq_matrix zero = s->weight;
    int loss, failures = 0;

    zero.data = NULL;
    memset(f.curve, 0, sizeof f.curve);
    awq_stats_init(&f.stats, n, s->sketch_rows, 1, 5, pool_aligned(p, size, 8), size);
    CHECK(awq_stats_add(k, &f.stats, s->x, s->token_weight, NULL, NULL) == AWQ_OK, "stats");
    for (loss = 0; loss < 4; loss++) {
        awq_inputs in = { .loss = (awq_loss)loss, .stats = &f.stats, .rows = s->x,
                          .token_weight = s->token_weight };
        f.scale[loss] = pool_floats(p, n);
        f.clip[loss] = pool_floats(p, s->weight.rows * groups);
        size = awq_search_scratch_size(&in, &s->weight, 1, NULL);
        CHECK(awq_output_error(k, &in, s->weight, zero, pool_aligned(p, size, 8), size, NULL,
                               &f.output_error[loss], NULL) == AWQ_OK, "output error");
        CHECK(awq_search(k, &search, &in, &s->weight, 1, pool_aligned(p, size, 8), size, NULL,
                         f.scale[loss], f.curve[loss], &result, NULL) == AWQ_OK, "search");
        size = awq_clip_scratch_size(&in, s->weight, &clip, NULL);
        CHECK(awq_clip_search(k, &clip, &in, s->weight, NULL, pool_aligned(p, size, 8), size, NULL,
                              f.clip[loss], NULL) == AWQ_OK, "clip");
    }
    if (failures) abort();
    return f;
}

/*  A loss of one output and one token is the square of one sum, which may cancel to nearly nothing:
    what is left is then uncertain by a part of the terms, and the diagonal loss is their size.   */
static int close_losses(const double *a, const double *b, const double *diagonal, size_t n,
                        double tolerance)
{
    size_t i;
    for (i = 0; i < n; i++)
        if (a[i] != b[i] &&
            !(magnitude(a[i] - b[i]) <= tolerance * magnitude(b[i]) + 1e-5 * diagonal[i]))
            return 0;
    return 1;
}

static int compare_findings(const study *s, const findings *a, const findings *b)
{
    size_t n = s->x.cols, cells = s->weight.rows * awq_group_count(n, s->quant.group_size), i;
    int failures = 0, loss;
    CHECK(a->stats.count == b->stats.count, "tokens");
    CHECK(memcmp(a->stats.abs_max, b->stats.abs_max, n * sizeof(float)) == 0, "maxima");
    CHECK(memcmp(a->stats.sum, b->stats.sum, n * sizeof(double)) == 0, "signed sums");
    CHECK(close_doubles(a->stats.abs_sum, b->stats.abs_sum, n, 1e-12), "sums");
    CHECK(close_doubles(a->stats.sq_sum, b->stats.sq_sum, n, 1e-12), "squares");
    CHECK(close_floats(a->stats.sketch, b->stats.sketch, s->sketch_rows * n, 1e-5), "sketch");
    CHECK(close_floats(a->stats.gram, b->stats.gram, n * n, 1e-5), "Gram matrix");
    for (loss = 0; loss < 4; loss++) {
        size_t others = 0;
        CHECK(close_losses(&a->output_error[loss], &b->output_error[loss],
                           &b->output_error[AWQ_LOSS_DIAGONAL], 1, 1e-4),
              "loss %d: awq_output_error", loss);
        CHECK(close_losses(a->curve[loss], b->curve[loss], b->curve[AWQ_LOSS_DIAGONAL], GRID, 1e-3),
              "loss %d: curve", loss);
        for (i = 0; i < cells; i++) others += a->clip[loss][i] != b->clip[loss][i];
        CHECK(others <= 1 + cells / 50, "loss %d: %zu of %zu clips differ", loss, others, cells);
    }
    return failures;
}

static int same_findings(const awq_kernels *k, const awq_kernels *portable, rng *r)
{
    pool p = { .count = 0 };
    study s;
    findings a, b;
    size_t cols = 1 + rng_below(r, 200);
    int failures;

    s.weight = random_matrix(&p, r, 1 + rng_below(r, 40), cols, 1);
    s.x = random_matrix(&p, r, 1 + rng_below(r, 70), cols, 2);
    s.token_weight = rng_below(r, 2) ? random_floats(&p, r, s.x.rows, 1.25) : NULL;
    s.quant = random_quant(r);
    s.sketch_rows = 1 + rng_below(r, 70);
    a = study_with(k, &p, &s);
    b = study_with(portable, &p, &s);
    failures = compare_findings(&s, &a, &b);
    if (failures)
        fprintf(stderr, "  in %s: %zu x %zu, %zu tokens, %d bits, group %d\n", k->name,
                s.weight.rows, cols, s.x.rows, s.quant.bits, s.quant.group_size);
    return failures + pool_release(&p);
}

/* ---- searches large enough for the byte loss ------------------------------------------------- */

enum { POINTS = 20 };
typedef struct large_search {
    awq_search_config config;
    awq_inputs inputs;
    awq_stats stats;
    awq_matrix weight;
} large_search;

/*  65536 outputs and more; tokens of one common direction, a few loud channels, some of weight 0. */
static large_search new_large_search(pool *p, rng *r)
{
    static const int groups[] = { 32, 48, 64, 100, 128, 200, -1 };
    size_t cols = 64 + rng_below(r, 300), rows = 700 + rng_below(r, 900);
    size_t tokens = 100 + rng_below(r, 60), t, c, size = awq_stats_size(cols, 128, 0);
    awq_kernels portable = awq_kernels_portable();
    awq_quant quant = random_quant(r);
    awq_matrix x = new_matrix(p, AWQ_F32, tokens, cols, cols, AT_END);
    float *weight = rng_below(r, 2) ? pool_floats(p, tokens) : NULL;
    large_search s;

    memset(&s, 0, sizeof s);
    for (t = 0; t < tokens; t++) {
        double common = rng_normal(r);
        if (weight) weight[t] = rng_below(r, 8) ? (float)(1 + rng_unit(r)) : 0;
        for (c = 0; c < cols; c++)
            put(x, t, c, (rng_normal(r) + common) * (c % 61 == 3 ? 30 : 1));
    }
    quant.group_size = groups[rng_below(r, COUNT(groups))];
    s.config = awq_search_preset(AWQ_PRESET_LLM_AWQ, quant);
    s.weight = random_matrix(p, r, rows, cols, 1);
    s.inputs.rows = x;
    s.inputs.token_weight = weight;
    awq_stats_init(&s.stats, cols, 128, 0, 3, pool_aligned(p, size, sizeof(double)), size);
    awq_stats_add(&portable, &s.stats, x, weight, NULL, NULL);
    return s;
}

static awq_status run_search(const awq_kernels *k, pool *p, large_search *s, awq_loss loss,
                             const awq_parallel *parallel, double curve[POINTS],
                             awq_search_result *best)
{
    size_t size;
    float *scale = pool_floats(p, s->weight.cols);
    s->inputs.loss = loss;
    s->inputs.stats = &s->stats;
    size = awq_search_scratch_size(&s->inputs, &s->weight, 1, parallel);
    return awq_search(k, &s->config, &s->inputs, &s->weight, 1,
                      pool_aligned(p, size, sizeof(double)), size, parallel, scale, curve, best,
                      NULL);
}

/*  Errors as bytes: a loss within 1 % of the exact one, and so is the choice; any split the same.
    The few best ratios of a sketch are measured on all of it: where two are equally good, one may
    be measured on all of it here and on the folded one there, and the other the other way round.  */
static int same_large_search(const awq_kernels *k, const awq_kernels *portable, rng *r)
{
    pool p = { .count = 0 };
    large_search s = new_large_search(&p, r);
    shuffle order = { { rng_next(r) } };
    awq_parallel split = shuffled(&order);
    awq_search_result a, b, c;
    double exact[POINTS], curve[POINTS], other[POINTS];
    int loss, i, others, failures = 0;

    for (loss = AWQ_LOSS_ROWS; loss <= AWQ_LOSS_SKETCH && !failures; loss++) {
        CHECK(run_search(portable, &p, &s, (awq_loss)loss, NULL, exact, &a) == AWQ_OK &&
              run_search(k, &p, &s, (awq_loss)loss, NULL, curve, &b) == AWQ_OK &&
              run_search(k, &p, &s, (awq_loss)loss, &split, other, &c) == AWQ_OK, "search");
        CHECK(failures || memcmp(curve, other, sizeof curve) == 0, "a split changes the losses");
        for (i = others = 0; i < POINTS && !failures; i++) {
            double off = magnitude(curve[i] - exact[i]) / exact[i];
            others += off > 1e-2;
            CHECK(off <= (loss == AWQ_LOSS_SKETCH ? 0.3 : 1e-2), "loss %d, ratio %d: %g, not %g",
                  loss, i, curve[i], exact[i]);
        }
        CHECK(failures || others <= 2, "loss %d: %d ratios differ", loss, others);
        CHECK(failures || exact[b.index] <= 1.01 * exact[a.index], "loss %d: ratio %d, not %d", loss,
              b.index, a.index);
    }
    if (failures)
        fprintf(stderr, "  in %s: %zu x %zu, %d bits, group %d\n", k->name, s.weight.rows,
                s.weight.cols, s.config.quant.bits, s.config.quant.group_size);
    return failures + pool_release(&p);
}

static int agree(suite *s, int cases, int (*one)(const awq_kernels *, const awq_kernels *, rng *))
{
    awq_kernels portable = awq_kernels_portable();
    size_t i;
    int failures = 0, failed, c;
    for (i = 0; i < s->count; i++)
        for (c = 0, failed = 0; c < cases && !failed; c++) {
            now.set = s->set[i].name;
            failures += failed = one(&s->set[i], &portable, &s->random);
        }
    return failures;
}

static int times(const suite *s, int cases)
{
    return s->depth == FULL ? 10 * cases : s->depth == USUAL ? cases : cases / 10;
}

static int quantized_as_portable(suite *s) { return agree(s, times(s, 100), same_quantized); }
static int packed_as_portable(suite *s) { return agree(s, times(s, 100), same_packed); }
static int large_searches(suite *s)
{
    return agree(s, s->depth == FULL ? 40 : 1, same_large_search);
}
static int losses_as_portable(suite *s) { return agree(s, times(s, 20), same_findings); }

/* ---- which sets there are -------------------------------------------------------------------- */

/*  A set is named after the last feature that it needs; the first match counts.                  */
static const struct { const char *name; uint32_t feature; } named[] = {
    { "amx", AWQ_CPU_AMX }, { "avx512vnni", AWQ_CPU_AVX512_VNNI }, { "avx512", AWQ_CPU_AVX512 },
    { "avxvnni", AWQ_CPU_AVX_VNNI }, { "avx2", AWQ_CPU_AVX2 }, { "i8mm", AWQ_CPU_I8MM },
    { "dotprod", AWQ_CPU_DOTPROD }, { "neon", AWQ_CPU_NEON }, { "rvv", AWQ_CPU_RVV },
    { "wasm", AWQ_CPU_WASM_SIMD }, { "portable", 0 }
};
enum { ALL_FEATURES = 1023 };

static size_t find_set(const awq_kernels *list, size_t count, const char *name)
{
    size_t i = 0;
    while (i < count && strcmp(list[i].name, name) != 0) i++;
    return i;
}

static int same_set(const awq_kernels *a, const awq_kernels *b)
{
    size_t from = offsetof(awq_kernels, token_size);        /* pointers from here on: no padding */
    return a->prepared_format == b->prepared_format && strcmp(a->name, b->name) == 0 &&
           memcmp((const char *)a + from, (const char *)b + from, sizeof *a - from) == 0;
}

/*  A list is a part of the list of all, in its order, and ends with the portable set.            */
static int check_list(uint32_t features, const awq_kernels *all, size_t all_count)
{
    awq_kernels list[MAX_SETS];
    size_t count = awq_kernels_for(features, list, MAX_SETS), i, at = 0, before = 0;
    int failures = 0;
    CHECK(count >= 1 && count <= MAX_SETS, "%zu sets for features %#x", count, (unsigned)features);
    if (failures) return failures;
    CHECK(awq_kernels_for(features, NULL, 0) == count, "features %#x", (unsigned)features);
    CHECK(strcmp(list[count - 1].name, "portable") == 0, "features %#x end with %s",
          (unsigned)features, list[count - 1].name);
    for (i = 0; i < count; i++) {
        at = find_set(all, all_count, list[i].name);
        CHECK(at < all_count && same_set(&list[i], &all[at]), "%s of features %#x is another set",
              list[i].name, (unsigned)features);
        CHECK(i == 0 || at > before, "%s of features %#x: twice, or in another order",
              list[i].name, (unsigned)features);
        before = at;
    }
    return failures;
}

/*  A set is listed for exactly those features that include what it always was listed with, and
    its own is one of them.                                                                       */
static int check_needs(const awq_kernels *set)
{
    awq_kernels list[MAX_SETS];
    uint32_t features, needs = ALL_FEATURES;
    size_t i = 0;
    int failures = 0, listed;
    for (features = 0; features <= ALL_FEATURES; features++) {
        size_t count = awq_kernels_for(features, list, MAX_SETS);
        if (find_set(list, count, set->name) < count) needs &= features;
    }
    for (features = 0; features <= ALL_FEATURES; features++) {
        size_t count = awq_kernels_for(features, list, MAX_SETS);
        listed = find_set(list, count, set->name) < count;
        CHECK(listed == ((features & needs) == needs), "%s and features %#x", set->name,
              (unsigned)features);
    }
    while (i < COUNT(named) && !strstr(set->name, named[i].name)) i++;
    CHECK(i < COUNT(named), "no feature is known for a set named %s", set->name);
    if (i < COUNT(named))
        CHECK((needs & named[i].feature) == named[i].feature &&
              (needs == 0) == (named[i].feature == 0), "%s is listed with features %#x alone", set->name, (unsigned)needs);
    return failures;
}

static int every_subset_of_features(suite *s)
{
    awq_kernels all[MAX_SETS], here[MAX_SETS], best = awq_kernels_best();
    size_t count = awq_kernels_for(ALL_FEATURES, all, MAX_SETS), i;
    size_t here_count = awq_kernels_list(here, MAX_SETS);
    uint32_t features, mine = awq_cpu_features();
    int failures = 0;

    (void)s;
    CHECK(count >= 1 && count <= MAX_SETS, "%zu sets", count);
    CHECK((mine & ~(uint32_t)ALL_FEATURES) == 0, "unknown features %#x", (unsigned)mine);
    CHECK(awq_kernels_for(mine, NULL, 0) == here_count && same_set(&best, &here[0]),
          "%zu sets here", here_count);
    memset(here, PATTERN, sizeof here);
    CHECK(awq_kernels_for(ALL_FEATURES, here, 1) == count && same_set(&here[0], &all[0]) &&
          untouched(&here[1], sizeof here[1]), "a capacity of 1");
    for (features = 0; features <= ALL_FEATURES && failures == 0; features++)
        failures += check_list(features, all, count);
    for (i = 0; i < count && failures == 0; i++) failures += check_needs(&all[i]);
    return failures;
}

/* ---- running --------------------------------------------------------------------------------- */

static int is_wanted(const char *name, int argc, char **argv)
{
    int i;
    for (i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0) return 1;
    return argc < 2;
}

static suite new_suite(int argc, char **argv)
{
    const char *full = getenv("AWQ_TEST_FULL");
    awq_kernels list[MAX_SETS];
    size_t count = awq_kernels_list(list, MAX_SETS), i;
    suite s;

    memset(&s, 0, sizeof s);
    s.depth = !full || !*full ? USUAL : strcmp(full, "0") == 0 ? QUICK : FULL;
    for (i = 0; i < count && i < MAX_SETS; i++)
        if (is_wanted(list[i].name, argc, argv)) s.set[s.count++] = list[i];
    return s;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(suite *); } tests[] = {
        { "every_subset_of_features", every_subset_of_features },
        { "every_row_count", every_row_count },
        { "every_column_count", every_column_count },
        { "every_token_count", every_token_count },
        { "every_combination", every_combination },
        { "every_format", every_format },
        { "every_dtype", every_dtype },
        { "every_extreme", every_extreme },
        { "anything", anything },
        { "bad_values_are_found", bad_values_are_found },
        { "shared_preparations", shared_preparations },
        { "relative_error", relative_error },
        { "quantized_as_portable", quantized_as_portable },
        { "packed_as_portable", packed_as_portable },
        { "losses_as_portable", losses_as_portable },
        { "large_searches", large_searches },
    };
    suite s;
    size_t i;
    int bad = 0;

    ask_for_tiles();
    s = new_suite(argc, argv);
    signal(SIGSEGV, on_fault);
    signal(SIGILL, on_fault);
    if (s.count == 0) {
        fprintf(stderr, "test_kernels: no kernel set of that name runs here\n");
        return EXIT_FAILURE;
    }
    printf("kernel sets:");
    for (i = 0; i < s.count; i++) printf(" %s", s.set[i].name);
    printf("\n");
    s.random.state = check_seed();
    for (i = 0; i < COUNT(tests); i++) {
        clock_t start = clock();
        int failed = tests[i].run(&s) != 0;
        printf("%s %-26s %.1f s\n", failed ? "FAILED" : "ok    ", tests[i].name,
               (double)(clock() - start) / (double)CLOCKS_PER_SEC);
        fflush(stdout);
        bad += failed;
    }
    return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
