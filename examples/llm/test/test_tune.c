/*  test_tune.c - products of matrices against sums in double; gradients through a small random model
    against differences of its outputs, and what tuning does to a quantized one. */
#include "../backward.h"
#include "../tune.h"
#include "tiny.h"

#include "../../common/asserts.h"
#include "../../common/dense.h"

#include <math.h>

enum { TOKENS = 80, GROUP = 24 };   /* 64 = 24 + 24 + 16, 96 = 4 * 24 */

static char path[64];
static failure why;
static compute c;
static model m;

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/*  From -1 to 1. */
static float next_factor(uint64_t *state)
{
    return (float)(next_random(state) % 1000) / 500 - 1;
}

static void fill_text(token_list *text, size_t count)
{
    uint64_t state = 5;

    text->ids = malloc(count * sizeof *text->ids);
    assert_non_null(text->ids);
    for (text->count = 0; text->count < count; text->count++)
        text->ids[text->count] = (uint32_t)(next_random(&state) % TINY_VOCABULARY);
}

static int open_all(void **state)
{
    tiny_options options = { "smollm", true, GGUF_F32, TINY_ROPE_RANDOM };
    size_t header_size;
    byte_buffer file = tiny_gguf(options, &header_size);
    bool done;

    (void)state;
    snprintf(path, sizeof path, "tune-%ld.gguf", (long)getpid());
    done = file_write_whole(path, file.bytes, file.size, &why);
    free(file.bytes);
    return done && compute_open(&c, 2, AWQ_A16, &why) && model_open(&m, path, &why)
           && model_decode(&m, &c, &why) ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    model_close(&m);
    compute_close(&c);
    return remove(path);
}

/* ---- products -------------------------------------------------------------------------------- */

#define MOST 300
#define WIDEST 81

/*  y has a column more than is written. */
static void assert_products(size_t tokens, size_t n, size_t columns, const float *x, const float *rows,
                            const float *w)
{
    static float y[3][13 * (WIDEST + 1)];
    size_t stride = columns + 1, t, column, i;
    mix_factors turned = { x, 1, 13 };

    for (i = 0; i < tokens * stride; i++) y[0][i] = y[1][i] = y[2][i] = 7;
    matmul_f32(w, n, columns, x, n, tokens, n, y[0], stride);
    mix_rows(x, n, tokens, rows, columns, n, columns, y[1], stride);
    add_mixed_rows(turned, tokens, rows, columns, n, columns, y[2], stride);
    for (t = 0; t < tokens; t++) {
        for (column = 0; column < columns; column++) {
            double dot = 0, mixed = 0, added = 7;
            for (i = 0; i < n; i++) {
                dot += (double)w[column * n + i] * (double)x[t * n + i];
                mixed += (double)x[t * n + i] * (double)rows[i * columns + column];
                added += (double)x[t + i * 13] * (double)rows[i * columns + column];
            }
            assert_true(fabs((double)y[0][t * stride + column] - dot) < 1e-4);
            assert_true(fabs((double)y[1][t * stride + column] - mixed) < 1e-4);
            assert_true(fabs((double)y[2][t * stride + column] - added) < 1e-4);
        }
        for (i = 0; i < 3; i++) assert_true(y[i][t * stride + columns] == 7);
    }
}

static void products_are_sums(void **state)
{
    static const size_t tokens[] = { 1, 2, 5, 6, 7, 13 }, widths[] = { 1, 3, 4, 7, 16, 33, 64, WIDEST };
    static const size_t lengths[] = { 1, 4, 15, 16, 17, 127, 128, 129, MOST };
    static float x[13 * MOST], rows[MOST * WIDEST], w[MOST * WIDEST];
    uint64_t random = 3;
    size_t i, j, k;

    (void)state;
    for (i = 0; i < 13 * MOST; i++) x[i] = next_factor(&random);
    for (i = 0; i < MOST * WIDEST; i++) {
        rows[i] = next_factor(&random);
        w[i] = next_factor(&random);
    }
    for (i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (j = 0; j < sizeof lengths / sizeof *lengths; j++)
            for (k = 0; k < sizeof widths / sizeof *widths; k++)
                assert_products(tokens[i], lengths[j], widths[k], x, rows, w);
}

/* ---- gradients ------------------------------------------------------------------------------- */

/*  A loss that is linear in the last hidden states. */
static double loss_of(tape *t, const uint32_t *ids, const float *factors)
{
    double loss = 0;
    size_t i;

    assert_done(tape_forward(t, ids, &why));
    for (i = 0; i < TOKENS * m.dim; i++) loss += (double)factors[i] * (double)t->s.hidden[i];
    return loss;
}

/*  By which the loss changes for a logarithm; what is changed: n values. */
static double difference(tape *t, const uint32_t *ids, const float *factors, float *values, size_t n)
{
    float old[128], step = 0.02f;
    double ends[2];
    size_t i;
    int side;

    assert_true(n <= 128);
    memcpy(old, values, n * sizeof *old);
    for (side = 0; side < 2; side++) {
        for (i = 0; i < n; i++) values[i] = old[i] * expf(side ? step : -step);
        ends[side] = loss_of(t, ids, factors);
    }
    memcpy(values, old, n * sizeof *old);
    return (ends[1] - ends[0]) / (2 * (double)step);
}

typedef struct gradient_room {
    float norms[TINY_LAYERS][2][TINY_DIM], scales[TINY_LAYERS][LINEARS][TINY_FFN * 4];
    layer_gradients layers[TINY_LAYERS];
} gradient_room;

static void place(gradient_room *room)
{
    size_t i, which;

    memset(room, 0, sizeof *room);
    for (i = 0; i < TINY_LAYERS; i++) {
        room->layers[i].attention_norm = room->norms[i][0];
        room->layers[i].ffn_norm = room->norms[i][1];
        for (which = 0; which < LINEARS; which++) room->layers[i].scales[which] = room->scales[i][which];
    }
}

static void assert_gradient(double gradient, double expected, double size)
{
    if (fabs(gradient - expected) > 0.01 * fabs(expected) + 0.002 * size)
        fail_msg("a gradient of %g, not %g", gradient, expected);
}

static void gradients_are_differences(void **state)
{
    static gradient_room room;
    static float factors[TOKENS * TINY_DIM], gradient[TOKENS * TINY_DIM];
    token_list text = { 0 };
    uint64_t random = 9;
    size_t i, which, layer_index;
    tape t;

    (void)state;
    fill_text(&text, TOKENS);
    assert_done(tape_open(&t, &m, &c, TOKENS, GROUP, &why));
    for (i = 0; i < TOKENS * m.dim; i++)
        gradient[i] = factors[i] = next_factor(&random);
    place(&room);
    loss_of(&t, text.ids, factors);
    tape_backward(&t, gradient, room.layers);
    for (layer_index = 0; layer_index < TINY_LAYERS; layer_index++) {
        layer *l = &m.layers[layer_index];
        double size = 0;
        for (i = 0; i < TINY_DIM; i++) size += fabs((double)room.norms[layer_index][0][i]) / TINY_DIM;
        for (i = 0; i < TINY_DIM; i += 7) {
            assert_gradient((double)room.norms[layer_index][0][i],
                            difference(&t, text.ids, factors, l->attention_norm + i, 1), size);
            assert_gradient((double)room.norms[layer_index][1][i],
                            difference(&t, text.ids, factors, l->ffn_norm + i, 1), size);
        }
        for (which = 0; which < LINEARS; which++)
            for (i = 0; i < 4; i++) {
                const linear *w = &l->linears[which];
                size_t groups = (w->in_features + GROUP - 1) / GROUP;
                size_t row = next_random(&random) % w->out_features, group = i % groups;
                size_t n = group + 1 < groups ? GROUP : w->in_features - group * GROUP;
                float *values = (float *)(uintptr_t)w->weight + row * w->in_features + group * GROUP;
                assert_gradient((double)room.scales[layer_index][which][row * groups + group],
                                difference(&t, text.ids, factors, values, n), size);
            }
    }
    tape_close(&t);
    token_list_free(&text);
}

static void the_tape_runs_the_model(void **state)
{
    token_list text = { 0 };
    session s;
    tape t;
    size_t i;

    (void)state;
    fill_text(&text, TOKENS);
    assert_done(tape_open(&t, &m, &c, TOKENS, GROUP, &why));
    assert_done(session_open(&s, &m, &c, TOKENS, TOKENS, &why));
    assert_done(tape_forward(&t, text.ids, &why));
    assert_done(session_forward(&s, text.ids, TOKENS, &why));
    for (i = 0; i < TOKENS * m.dim; i++)
        assert_true(fabsf(t.s.hidden[i] - s.hidden[i]) <= 1e-4f * (1 + fabsf(s.hidden[i])));
    session_close(&s);
    tape_close(&t);
    token_list_free(&text);
}

/* ---- tuning ---------------------------------------------------------------------------------- */

static quantized_model quantized(const token_list *text, method how, size_t steps)
{
    quantize_options options = quantize_defaults();
    quantized_model q;

    options.quant.bits = 3;
    options.quant.group_size = GROUP;
    options.method = how;
    options.tune_steps = steps;
    assert_done(quantize_model(&q, &m, &c, text, &options, &why));
    return q;
}

/*  One step tells the divergence before it. */
static double divergence_of(quantized_model *q, const token_list *text)
{
    memset(q->divergence, 0, sizeof q->divergence);
    assert_done(tune_model(q, &m, &c, text, 1, &why));
    return q->divergence[0];
}

static void tuning_brings_the_model_nearer_and_keeps_its_integers(void **state)
{
    token_list text = { 0 }, short_text = { 0 };
    quantized_model best, tuned;
    double before, after;
    size_t i, which;

    (void)state;
    fill_text(&text, 2 * WINDOW);
    fill_text(&short_text, WINDOW - 1);
    best = quantized(&text, METHOD_BEST, 0);
    tuned = quantized(&text, METHOD_TUNED, 24);
    assert_true(tuned.divergence[1] < tuned.divergence[0]);
    for (i = 0; i < TINY_LAYERS; i++)
        for (which = 0; which < LINEARS; which++) {
            const awq_packed *a = &best.m.layers[i].linears[which].packed;
            const awq_packed *b = &tuned.m.layers[i].linears[which].packed;
            assert_int_equal(a->size, b->size);
            assert_memory_equal(a->data + a->q_offset, b->data + b->q_offset,
                                a->scales_offset - a->q_offset);
            assert_memory_equal(a->data + a->zeros_offset, b->data + b->zeros_offset,
                                a->size - a->zeros_offset);
            assert_memory_not_equal(a->data + a->scales_offset, b->data + b->scales_offset,
                                    a->zeros_offset - a->scales_offset);
        }
    before = divergence_of(&best, &text);
    after = divergence_of(&tuned, &text);
    assert_true(after > 0 && after < 0.9 * before);
    assert_refused(tune_model(&best, &m, &c, &short_text, 1, &why), "at least 512");
    quantized_model_close(&best);
    quantized_model_close(&tuned);
    token_list_free(&text);
    token_list_free(&short_text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_sums),
        cmocka_unit_test(the_tape_runs_the_model),
        cmocka_unit_test(gradients_are_differences),
        cmocka_unit_test(tuning_brings_the_model_nearer_and_keeps_its_integers),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
