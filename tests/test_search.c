#include "runner.h"

#include <math.h>

enum { IN = 48, OUT = 24, TOKENS = 100, POINTS = 20 };

/*  A layer whose input has a few loud channels and some correlation, as real ones do.            */
typedef struct setup {
    awq_matrix x, weights[2];
    awq_stats stats;
    awq_search_config config;
    awq_inputs inputs;
} setup;

typedef struct answer {
    awq_search_result result;
    float scale[IN];
    double curve[POINTS + 1];
} answer;

static awq_quant random_group_quant(rng *r)
{
    awq_quant quant = random_quant(r);
    if (quant.group_size == 1) quant.group_size = 16;   /* every scale then fits: nothing to find */
    if (quant.bits == 8) quant.bits = 3;
    return quant;
}

static setup new_setup(pool *p, rng *r, awq_scale_rule rule)
{
    setup s;
    size_t t, c;

    memset(&s, 0, sizeof s);
    s.x = new_matrix(p, AWQ_F32, TOKENS, IN, IN, AT_END);
    for (t = 0; t < TOKENS; t++) {
        double common = rng_normal(r);
        for (c = 0; c < IN; c++)
            put(s.x, t, c, (rng_normal(r) + common) * (c % 11 == 3 ? 12 : 1 + (double)c / IN));
    }
    s.weights[0] = random_matrix(p, r, OUT, IN, 1);
    s.weights[1] = random_matrix(p, r, OUT / 2, IN, 1);
    s.stats = new_stats(p, IN, 64, 1, seed);
    assert_status(awq_stats_add(kernels, &s.stats, s.x, NULL, NULL, NULL), AWQ_OK);
    s.config = awq_search_preset(AWQ_PRESET_LLM_AWQ, random_group_quant(r));
    s.config.rule = rule;
    s.inputs.loss = AWQ_LOSS_ROWS;
    s.inputs.rows = s.x;
    return s;
}

static awq_status search_with(setup *s, size_t weight_count, const awq_parallel *parallel,
                              answer *a, awq_where *where)
{
    pool p = { .count = 0 };
    awq_status status;
    size_t size;

    memset(a, PATTERN, sizeof *a);
    s->inputs.stats = &s->stats;
    size = awq_search_scratch_size(&s->inputs, s->weights, weight_count, parallel);
    assert_true(size > 0);
    status = awq_search(kernels, &s->config, &s->inputs, s->weights, weight_count,
                        pool_aligned(&p, size, sizeof(double)), size, parallel, a->scale, a->curve,
                        &a->result, where);
    assert_int_equal(pool_release(&p), 0);
    return status;
}

static answer search(setup *s, size_t weight_count)
{
    answer a;
    assert_status(search_with(s, weight_count, NULL, &a, NULL), AWQ_OK);
    return a;
}

static void assert_same_answer(const answer *a, const answer *b)
{
    assert_memory_equal(a->scale, b->scale, sizeof a->scale);
    assert_memory_equal(a->curve, b->curve, sizeof a->curve);
    assert_int_equal(a->result.index, b->result.index);
    assert_true(a->result.loss == b->result.loss);
}

/* ---- the definition -------------------------------------------------------------------------- */

/*  Mean over tokens and rows of (error of the output)^2, in double.                              */
static double define_loss(const setup *s, awq_matrix weight, const float *scale)
{
    double *quantized = malloc(weight.rows * IN * sizeof *quantized), sum = 0;
    size_t t, o, c;
    define_fake_quantize(s->config.quant, weight, scale, NULL, quantized);
    for (t = 0; t < TOKENS; t++)
        for (o = 0; o < weight.rows; o++) {
            double dot = 0;
            for (c = 0; c < IN; c++)
                dot += (quantized[o * IN + c] - at(weight, o, c)) * at(s->x, t, c);
            sum += dot * dot;
        }
    free(quantized);
    return sum / TOKENS / (double)weight.rows;
}

static void define_weight_stat(const setup *s, size_t weight_count, double *v)
{
    size_t group = group_length(IN, s->config.quant.group_size), m, o, c, i, rows = 0;
    memset(v, 0, IN * sizeof *v);
    for (m = 0; m < weight_count; m++)
        for (o = 0; o < s->weights[m].rows; o++, rows++)
            for (c = 0; c < IN; c++) {
                double most = 0;
                for (i = c / group * group; i < IN && i / group == c / group; i++)
                    most = fmax(most, fabs(at(s->weights[m], o, i)));
                v[c] += fabs(at(s->weights[m], o, c)) / (most + 1e-6);
            }
    for (c = 0; c < IN; c++) v[c] /= (double)rows;
}

/*  The candidate s of ratio r, in double, by the formulas of the manual.                         */
static void define_scale(awq_scale_rule rule, double r, const float *act, const double *v,
                         double *scale)
{
    double most = 0, least = 1e300;
    size_t c;
    for (c = 0; c < IN; c++) {
        double a = (double)act[c];
        if (rule == AWQ_SCALE_DUO) scale[c] = pow(a, r) / (pow(v[c], 1 - r) + 1e-4);
        else if (rule == AWQ_SCALE_KERAS)
            scale[c] = pow(fmax(a, 1e-4), r) / pow(fmax(v[c], 1e-4), 1 - r);
        else scale[c] = pow(a, r);
        scale[c] = fmax(scale[c], 1e-4);
        most = fmax(most, scale[c]);
        least = fmin(least, scale[c]);
    }
    for (c = 0; c < IN; c++) scale[c] /= sqrt(most * least);
}

static void read_stats(const setup *s, size_t weight_count, float *act, double *v)
{
    assert_status(awq_stats_get(&s->stats, s->config.rule == AWQ_SCALE_MAX ? AWQ_ABS_MAX
                                                                           : AWQ_ABS_MEAN, act),
                  AWQ_OK);
    assert_status(awq_weight_stat(s->weights, weight_count, s->config.quant.group_size, v, NULL),
                  AWQ_OK);
}

static void check_rule(awq_scale_rule rule, rng *r)
{
    pool p = { .count = 0 };
    setup s = new_setup(&p, r, rule);
    answer a = search(&s, 1);
    float act[IN], scale[IN];
    double v[IN], defined_v[IN], defined[IN], loss, best = HUGE_VAL;
    size_t c;
    int i;

    read_stats(&s, 1, act, v);
    define_weight_stat(&s, 1, defined_v);
    for (c = 0; c < IN; c++) assert_close(v[c], defined_v[c], 1e-6);
    for (i = 0; i < POINTS; i++) {
        assert_status(awq_scale_at(rule, i / 20.0, IN, act, v, scale, NULL), AWQ_OK);
        define_scale(rule, i / 20.0, act, v, defined);
        for (c = 0; c < IN; c++) assert_close(scale[c], defined[c], 1e-6 * defined[c]);
        loss = define_loss(&s, s.weights[0], scale);
        assert_close(a.curve[i], loss, 1e-4 * loss);
        best = fmin(best, a.curve[i]);
        if (i == a.result.index && !a.result.is_identity)
            assert_memory_equal(scale, a.scale, sizeof scale);
    }
    loss = define_loss(&s, s.weights[0], NULL);
    assert_close(a.result.identity_loss, loss, 1e-4 * loss);
    assert_true(a.curve[a.result.index] == best);
    assert_true(a.result.ratio == a.result.index / 20.0);
    assert_true(a.result.loss == fmin(best, a.result.identity_loss));
    assert_true(a.result.is_identity == (best > a.result.identity_loss));
    assert_int_equal(pool_release(&p), 0);
}

TEST(curves_match_the_definition)
{
    rng r = { seed };
    int rule, i;
    (void)state;
    for (i = 0; i < 6; i++)
        for (rule = AWQ_SCALE_MAX; rule <= AWQ_SCALE_KERAS; rule++)
            check_rule((awq_scale_rule)rule, &r);
}

TEST(presets_are_what_they_are_named_after)
{
    const awq_quant quant = { 4, 64, 0, AWQ_F32 };
    const awq_scale_rule rules[] = { AWQ_SCALE_MAX, AWQ_SCALE_MEAN, AWQ_SCALE_DUO,
                                     AWQ_SCALE_KERAS };
    const int points[] = { 20, 20, 20, 21 };
    int preset;
    (void)state;
    for (preset = AWQ_PRESET_PAPER; preset <= AWQ_PRESET_KERAS; preset++) {
        awq_search_config config = awq_search_preset((awq_preset)preset, quant);
        assert_int_equal(config.rule, rules[preset]);
        assert_int_equal(config.grid_points, points[preset]);
        assert_int_equal(config.grid_steps, 20);
        assert_memory_equal(&config.quant, &quant, sizeof quant);
        assert_true(config.tie.repeat == 0 && config.tie.head_dim == 0);
    }
}

/* ---- the losses among each other ------------------------------------------------------------- */

enum { SKETCH_ROWS = 2048, FOLDED_ROWS = 64 };

/*  The losses that decide a search from a sketch are those of all its rows.                      */
static void check_sketch_decision(setup *s, const answer *found)
{
    const double per_row = SKETCH_ROWS / s->stats.weight;
    setup whole = *s;
    answer exact;
    whole.inputs.loss = AWQ_LOSS_ROWS;
    whole.inputs.rows = awq_matrix_view(s->stats.sketch, AWQ_F32, SKETCH_ROWS, IN);
    whole.inputs.token_weight = NULL;
    exact = search(&whole, 2);
    assert_close(found->result.identity_loss, per_row * exact.result.identity_loss,
                 5e-3 * found->result.identity_loss);
    if (!found->result.is_identity)
        assert_close(found->result.loss, per_row * exact.curve[found->result.index],
                     5e-3 * found->result.loss);
}

TEST(rows_gram_and_sketch_agree)
{
    /* relative sd of one dot at most sqrt(2 / rows); all points share it                         */
    const double folded_sd = sqrt(2.0 / FOLDED_ROWS), whole_sd = sqrt(2.0 / SKETCH_ROWS);
    rng r = { seed };
    int rule, i;
    (void)state;
    for (rule = AWQ_SCALE_MAX; rule <= AWQ_SCALE_KERAS; rule++) {
        pool p = { .count = 0 };
        setup s = new_setup(&p, &r, (awq_scale_rule)rule);
        answer rows = search(&s, 2), gram, sketch;
        s.stats = new_stats(&p, IN, SKETCH_ROWS, 1, seed);
        assert_status(awq_stats_add(kernels, &s.stats, s.x, NULL, NULL, NULL), AWQ_OK);
        s.inputs.loss = AWQ_LOSS_GRAM;
        gram = search(&s, 2);
        s.inputs.loss = AWQ_LOSS_SKETCH;
        sketch = search(&s, 2);
        for (i = 0; i < POINTS; i++) {
            assert_close(gram.curve[i], rows.curve[i], 1e-3 * rows.curve[i]);
            assert_close(sketch.curve[i], rows.curve[i], 6 * folded_sd * rows.curve[i]);
        }
        assert_close(sketch.result.identity_loss, rows.result.identity_loss,
                     6 * whole_sd * rows.result.identity_loss);
        check_sketch_decision(&s, &sketch);
        assert_true(rows.curve[gram.result.index] <= 1.002 * rows.curve[rows.result.index]);
        assert_true(rows.curve[sketch.result.index] <= 1.5 * rows.curve[rows.result.index]);
        assert_int_equal(pool_release(&p), 0);
    }
}

TEST(token_weights_count_as_repetitions)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_MEAN);
    awq_matrix repeated = new_matrix(&p, AWQ_F32, 2 * TOKENS, IN, IN, AT_END);
    float *weight = pool_floats(&p, TOKENS);
    size_t t, c, rows = 0, copies;
    answer weighted, plain;
    int i;
    (void)state;
    for (t = 0; t < TOKENS; t++) {
        weight[t] = (float)(t % 3);
        for (copies = 0; copies < t % 3; copies++, rows++)
            for (c = 0; c < IN; c++) put(repeated, rows, c, at(s.x, t, c));
        for (c = 0; t % 3 == 0 && c < IN; c++) put(s.x, t, c, not_a_number()); /* not read */
    }
    s.inputs.token_weight = weight;
    weighted = search(&s, 1);
    s.inputs.token_weight = NULL;
    s.inputs.rows = awq_matrix_rows(repeated, 0, rows);
    plain = search(&s, 1);
    for (i = 0; i < POINTS; i++)
        assert_close(weighted.curve[i], plain.curve[i], 1e-4 * plain.curve[i]);
    assert_int_equal(pool_release(&p), 0);
}

TEST(several_weights_are_one_tall_weight)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_DUO), tall = s;
    answer separate, together;
    size_t row, c;
    int i;
    (void)state;
    tall.weights[0] = new_matrix(&p, AWQ_F32, OUT + OUT / 2, IN, IN, AT_END);
    for (row = 0; row < OUT + OUT / 2; row++)
        for (c = 0; c < IN; c++)
            put(tall.weights[0], row, c, row < OUT ? at(s.weights[0], row, c)
                                                   : at(s.weights[1], row - OUT, c));
    separate = search(&s, 2);
    together = search(&tall, 1);
    for (i = 0; i < POINTS; i++)
        assert_close(separate.curve[i], together.curve[i], 1e-6 * together.curve[i]);
    assert_memory_equal(separate.scale, together.scale, sizeof separate.scale);
    assert_int_equal(pool_release(&p), 0);
}

/* ---- the host's own loss --------------------------------------------------------------------- */

typedef struct host { const setup *s; int calls, fail_at; double losses[POINTS + 2]; } host;

static int fixed_loss(void *context, const float *scale, double *loss)
{
    host *h = context;
    (void)scale;
    *loss = h->losses[h->calls];
    return h->calls++ == h->fail_at;
}

static int exact_loss(void *context, const float *scale, double *loss)
{
    host *h = context;
    *loss = define_loss(h->s, h->s->weights[0], scale);
    h->calls++;
    return 0;
}

TEST(a_callback_can_stand_for_the_rows)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_MEAN);
    answer rows = search(&s, 1), asked;
    host h = { .s = &s };
    int i;
    (void)state;
    s.inputs.loss = AWQ_LOSS_CALLBACK;
    s.inputs.callback = exact_loss;
    s.inputs.context = &h;
    asked = search(&s, 1);
    assert_int_equal(h.calls, POINTS + 1);      /* the grid, and plain rounding */
    for (i = 0; i < POINTS; i++)
        assert_close(asked.curve[i], rows.curve[i], 1e-4 * rows.curve[i]);
    assert_close(asked.result.identity_loss, rows.result.identity_loss,
                 1e-4 * rows.result.identity_loss);
    assert_int_equal(pool_release(&p), 0);
}

static setup callback_setup(pool *p, rng *r, host *h)
{
    setup s = new_setup(p, r, AWQ_SCALE_MEAN);
    int i;
    memset(h, 0, sizeof *h);
    h->fail_at = -1;
    for (i = 0; i <= POINTS; i++) h->losses[i] = 10 + i; /* plain rounding, then the grid */
    s.inputs.loss = AWQ_LOSS_CALLBACK;
    s.inputs.callback = fixed_loss;
    s.inputs.context = h;
    return s;
}

TEST(the_least_loss_wins)
{
    pool p = { .count = 0 };
    rng r = { seed };
    host h;
    setup s = callback_setup(&p, &r, &h);
    answer a;
    int i;
    (void)state;
    h.losses[1 + 13] = 2;
    a = search(&s, 1);
    assert_int_equal(a.result.index, 13);
    assert_true(a.result.loss == 2 && a.result.identity_loss == 10 && !a.result.is_identity);
    for (i = 0; i < POINTS; i++) assert_true(a.curve[i] == h.losses[1 + i]);
    assert_int_equal(pool_release(&p), 0);
}

TEST(losses_that_are_not_numbers_lose)
{
    pool p = { .count = 0 };
    rng r = { seed };
    host h;
    setup s = callback_setup(&p, &r, &h);
    answer a;
    (void)state;
    h.losses[1 + 4] = not_a_number();
    h.losses[1 + 5] = infinity();
    h.losses[1 + 6] = 3;
    a = search(&s, 1);
    assert_int_equal(a.result.index, 6);
    assert_true(a.curve[4] == infinity() && a.curve[5] == infinity());
    h.calls = 0;
    h.losses[0] = not_a_number();       /* plain rounding itself */
    a = search(&s, 1);
    assert_int_equal(a.result.index, 6);
    assert_true(!a.result.is_identity && a.result.loss == 3);
    assert_int_equal(pool_release(&p), 0);
}

TEST(a_failing_callback_ends_the_search)
{
    pool p = { .count = 0 };
    rng r = { seed };
    host h;
    setup s = callback_setup(&p, &r, &h);
    answer a;
    (void)state;
    for (h.fail_at = 0; h.fail_at <= POINTS; h.fail_at++) {
        h.calls = 0;
        assert_status(search_with(&s, 1, NULL, &a, NULL), AWQ_ERR_CALLBACK);
        assert_int_equal(h.calls, h.fail_at + 1);
    }
    assert_int_equal(pool_release(&p), 0);
}

/* ---- plain rounding -------------------------------------------------------------------------- */

static void assert_identity(const answer *a)
{
    size_t c;
    assert_true(a->result.is_identity);
    assert_true(a->result.loss == a->result.identity_loss);
    for (c = 0; c < IN; c++) assert_true(a->scale[c] == 1.0f);
}

/*  Weights that round to themselves: no scale can do better than none.                           */
TEST(plain_rounding_wins_where_it_is_exact)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_DUO);
    const awq_quant quant = { 4, 16, 0, AWQ_F32 };
    answer a;
    size_t row, c;
    (void)state;
    s.config.quant = quant;
    for (row = 0; row < OUT; row++)
        for (c = 0; c < IN; c++)
            put(s.weights[0], row, c, c % 16 == 0 ? -1.0 : c % 16 == 1 ? 0.875
                                                        : ((double)rng_below(&r, 16) - 8) / 8);
    a = search(&s, 1);
    assert_true(a.result.identity_loss == 0);
    assert_identity(&a);
    assert_int_equal(pool_release(&p), 0);
}

TEST(never_worse_than_plain_rounding)
{
    rng r = { seed };
    int i;
    (void)state;
    for (i = 0; i < 20; i++) {
        pool p = { .count = 0 };
        setup s = new_setup(&p, &r, (awq_scale_rule)(i % 4));
        answer a = search(&s, 2);
        double before = define_loss(&s, s.weights[0], NULL) * OUT +
                        define_loss(&s, s.weights[1], NULL) * OUT / 2;
        double after = define_loss(&s, s.weights[0], a.scale) * OUT +
                       define_loss(&s, s.weights[1], a.scale) * OUT / 2;
        assert_true(a.result.loss <= a.result.identity_loss);
        assert_true(after <= before * 1.0001);
        assert_int_equal(pool_release(&p), 0);
    }
}

TEST(where_no_token_was_seen_nothing_is_scaled)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_MEAN);
    const awq_loss losses[] = { AWQ_LOSS_GRAM, AWQ_LOSS_SKETCH, AWQ_LOSS_DIAGONAL };
    int rule;
    size_t i;
    (void)state;
    s.stats = new_stats(&p, IN, 16, 1, 3);
    for (rule = AWQ_SCALE_MAX; rule <= AWQ_SCALE_KERAS; rule++)
        for (i = 0; i < COUNT(losses); i++) {
            answer a;
            s.config.rule = (awq_scale_rule)rule;
            s.inputs.loss = losses[i];
            a = search(&s, 1);
            assert_identity(&a);
            assert_true(a.result.loss == 0);
        }
    assert_int_equal(pool_release(&p), 0);
}

/*  fp16 cannot hold the scales of some candidates: those points of the curve are infinite.       */
TEST(candidates_that_overflow_are_left_out)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_MEAN);
    const awq_quant quant = { 4, 16, 0, AWQ_F16 };
    awq_where where = { 9, 9, 9 };
    answer a;
    size_t c;
    (void)state;
    s.config.quant = quant;
    s.weights[0] = new_matrix(&p, AWQ_F32, OUT, IN, IN, AT_END);
    for (c = 0; c < OUT * IN; c++) put(s.weights[0], 0, c, 2.9e5 * rng_unit(&r));
    a = search(&s, 1);
    assert_true(a.curve[0] < infinity() && a.curve[POINTS - 1] == infinity());
    for (c = 0; c < OUT * IN; c++) put(s.weights[0], 0, c, 1e7 * (1.5 + rng_unit(&r)));
    assert_status(search_with(&s, 1, NULL, &a, &where), AWQ_ERR_SCALE);
    assert_true(where.matrix == 0 && where.row == 0 && where.col == 0);
    assert_int_equal(pool_release(&p), 0);
}

/* ---- ties, dtypes, threads, bad data --------------------------------------------------------- */

TEST(tied_channels_share_their_scale)
{
    const awq_tie tie = { 3, 4 };       /* 48 channels: 4 kv heads */
    rng r = { seed };
    int rule;
    (void)state;
    for (rule = AWQ_SCALE_MAX; rule <= AWQ_SCALE_KERAS; rule++) {
        pool p = { .count = 0 };
        setup s = new_setup(&p, &r, (awq_scale_rule)rule);
        answer a;
        float act[IN], pooled[IN], scale[IN];
        double v[IN], pooled_v[IN];
        size_t c, i;
        s.config.tie = tie;
        a = search(&s, 1);
        read_stats(&s, 1, act, v);
        for (c = 0; c < IN; c++) {      /* maxima are pooled by maximum, means by mean */
            size_t first = c / 12 * 12 + c % 4;
            double sum = 0, most = 0;
            pooled_v[c] = 0;
            for (i = first; i < first + 12; i += 4) {
                most = fmax(most, (double)act[i]);
                sum += (double)act[i] / 3;
                pooled_v[c] += v[i] / 3;
            }
            pooled[c] = (float)(rule == AWQ_SCALE_MAX ? most : sum);
        }
        assert_status(awq_scale_at(s.config.rule, a.result.ratio, IN, pooled, pooled_v, scale,
                                   NULL), AWQ_OK);
        for (c = 0; c < IN; c++) {
            assert_true(a.scale[c] == a.scale[c / 12 * 12 + c % 4]);
            if (!a.result.is_identity) assert_close(a.scale[c], scale[c], 1e-5 * (double)scale[c]);
        }
        assert_int_equal(pool_release(&p), 0);
    }
}

TEST(dtypes_of_equal_value_give_equal_answers)
{
    pool p = { .count = 0 };
    rng r = { seed };
    setup s = new_setup(&p, &r, AWQ_SCALE_DUO);
    awq_matrix bf16 = new_matrix(&p, AWQ_BF16, OUT, IN, IN + 3, AT_END_ODD), f32, f16;
    answer expected, got;
    size_t row, c;
    (void)state;
    f32 = new_matrix(&p, AWQ_F32, OUT, IN, IN + 1, AT_END);
    f16 = new_matrix(&p, AWQ_F16, OUT, IN, IN, AT_START_ODD);
    for (row = 0; row < OUT; row++)
        for (c = 0; c < IN; c++) {      /* 8 bits of mantissa: exact in all three */
            double v = rounded(AWQ_BF16, 0.5 + rng_normal(&r));
            if (magnitude(v) < 0.01) v = 0.5;
            put(bf16, row, c, v);
            put(f16, row, c, v);
            put(f32, row, c, v);
        }
    s.weights[0] = f32;
    expected = search(&s, 1);
    s.weights[0] = f16;
    got = search(&s, 1);
    assert_same_answer(&got, &expected);
    s.weights[0] = bf16;
    got = search(&s, 1);
    assert_same_answer(&got, &expected);
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
    for (i = 0; i < 8; i++) {
        pool p = { .count = 0 };
        setup s = new_setup(&p, &r, AWQ_SCALE_DUO);
        answer serial, split;
        s.inputs.loss = (awq_loss)(i / 2);
        serial = search(&s, 2);
        assert_status(search_with(&s, 2, &parallel[i % 2], &split, NULL), AWQ_OK);
        assert_same_answer(&split, &serial);
        assert_int_equal(pool_release(&p), 0);
    }
    parallel_stop(&threads);
}

TEST(bad_values_are_reported_with_their_place)
{
    const double bad[] = { not_a_number(), infinity(), -infinity() };
    rng r = { seed };
    int i;
    (void)state;
    for (i = 0; i < 12; i++) {
        pool p = { .count = 0 };
        setup s = new_setup(&p, &r, (awq_scale_rule)(i % 4));
        size_t row = rng_below(&r, OUT / 2), col = rng_below(&r, IN);
        awq_where where = { 9, 9, 9 };
        answer a;
        double kept = at(s.weights[1], row, col);
        put(s.weights[1], row, col, bad[i % 3]);
        assert_status(search_with(&s, 2, NULL, &a, &where), AWQ_ERR_DATA);
        assert_true(where.matrix == 1 && where.row == row && where.col == col);
        put(s.weights[1], row, col, kept);
        put(s.x, row, col, bad[i % 3]);
        assert_status(search_with(&s, 2, NULL, &a, &where), AWQ_ERR_DATA);
        assert_true(where.matrix == 2 && where.row == row && where.col == col);
        assert_int_equal(pool_release(&p), 0);
    }
}

TEST(scale_at_reports_what_it_cannot_use)
{
    float act[3] = { 1, 2, 3 }, scale[3];
    double v[3] = { 0.5, 0.5, 0.5 };
    awq_where where = { 9, 9, 9 };
    (void)state;
    act[1] = (float)not_a_number();
    assert_status(awq_scale_at(AWQ_SCALE_MEAN, 0.5, 3, act, NULL, scale, &where), AWQ_ERR_DATA);
    assert_int_equal(where.col, 1);
    act[1] = 0;
    assert_status(awq_scale_at(AWQ_SCALE_MEAN, 0.5, 3, act, NULL, scale, &where), AWQ_OK);
    act[2] = -1;
    assert_status(awq_scale_at(AWQ_SCALE_MEAN, 0.5, 3, act, NULL, scale, &where), AWQ_ERR_DATA);
    assert_int_equal(where.col, 2);
    act[2] = 1;
    v[0] = not_a_number();
    assert_status(awq_scale_at(AWQ_SCALE_DUO, 0.5, 3, act, v, scale, &where), AWQ_ERR_DATA);
    assert_int_equal(where.col, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(curves_match_the_definition),
        cmocka_unit_test(presets_are_what_they_are_named_after),
        cmocka_unit_test(rows_gram_and_sketch_agree),
        cmocka_unit_test(token_weights_count_as_repetitions),
        cmocka_unit_test(several_weights_are_one_tall_weight),
        cmocka_unit_test(a_callback_can_stand_for_the_rows),
        cmocka_unit_test(the_least_loss_wins),
        cmocka_unit_test(losses_that_are_not_numbers_lose),
        cmocka_unit_test(a_failing_callback_ends_the_search),
        cmocka_unit_test(plain_rounding_wins_where_it_is_exact),
        cmocka_unit_test(never_worse_than_plain_rounding),
        cmocka_unit_test(where_no_token_was_seen_nothing_is_scaled),
        cmocka_unit_test(candidates_that_overflow_are_left_out),
        cmocka_unit_test(tied_channels_share_their_scale),
        cmocka_unit_test(dtypes_of_equal_value_give_equal_answers),
        cmocka_unit_test(parallel_search_equals_the_serial_one),
        cmocka_unit_test(bad_values_are_reported_with_their_place),
        cmocka_unit_test(scale_at_reports_what_it_cannot_use),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
