/*  study.c - see study.h. */
#include "study.h"

#include "../common/progress.h"

#include <stdlib.h>
#include <string.h>

static bool check(awq_status status, const char *what, failure *why)
{
    return status == AWQ_OK ? true : fail(why, "%s: %s", what, awq_status_string(status));
}

size_t study_first(size_t input)
{
    return input / INPUTS * LINEARS + group_first((input_group)(input % INPUTS));
}

size_t study_end(size_t input)
{
    return study_first(input) + group_count((input_group)(input % INPUTS));
}

static size_t input_of(size_t which)
{
    size_t input = which / LINEARS * INPUTS;

    while (which >= study_end(input)) input++;
    return input;
}

size_t study_weights(const study *s, size_t count)
{
    size_t weights = 0, i;

    for (i = 0; i < count; i++)
        weights += s->model.e.linears[i].out_features * s->model.e.linears[i].in_features;
    return weights;
}

size_t study_bias(const study *s, size_t which)
{
    size_t at = study_weights(s, s->linears), i;

    for (i = 0; i < which; i++) at += s->model.e.linears[i].out_features;
    return at;
}

double study_bits(const study *s, awq_quant quant)
{
    double bytes = 0;
    size_t i;

    for (i = 0; i < s->linears; i++) {
        const linear *l = &s->model.e.linears[i];
        bytes += (double)awq_packed_size(quant, l->out_features, l->in_features);
    }
    return 8 * bytes / (double)study_weights(s, s->linears);
}

/* ---- evidence -------------------------------------------------------------------------------- */

typedef struct watcher {
    study *s;
    evidence *e;
} watcher;

static bool see_input(void *context, size_t layer, input_group group, awq_matrix x,
                      const float *token_weight, failure *why)
{
    const watcher *w = context;
    size_t input = layer * INPUTS + group;

    (void)token_weight;
    w->e->tokens += input == 0 ? x.rows : 0;
    if (input >= w->s->inputs) return true;
    return check(awq_stats_add(&w->s->kernels, &w->e->inputs[input], x, NULL, &w->s->parallel, NULL),
                 "statistics", why);
}

static bool start_inputs(const study *s, evidence *e, failure *why)
{
    size_t i;

    e->inputs = calloc(s->inputs, sizeof *e->inputs);
    e->memory = calloc(s->inputs, sizeof *e->memory);
    if (!e->inputs || !e->memory) return fail(why, "out of memory");
    for (i = 0; i < s->inputs; i++) {
        size_t in = s->model.e.linears[study_first(i)].in_features, size = awq_stats_size(in, 0, 1);
        e->memory[i] = malloc(size);
        if (!e->memory[i]) return fail(why, "out of memory");
        if (!check(awq_stats_init(&e->inputs[i], in, 0, 1, 0, e->memory[i], size), "statistics", why))
            return false;
    }
    return true;
}

static bool gather(study *s, evidence *e, const char *path, const char *label, failure *why)
{
    watcher context = { s, e };
    observer watch = { see_input, &context };
    const encoder *model = &s->model.e;

    if (!file_map(&e->file, path, why)
        || !passages_add(&e->texts, &model->words, model->room, path, (const char *)e->file.bytes,
                         e->file.size, why)
        || !start_inputs(s, e, why))
        return false;
    e->vectors = malloc((e->texts.count + 1) * model->dim * sizeof *e->vectors);
    if (!e->vectors) return fail(why, "out of memory");
    return watch_passages(model, &e->texts, label, &watch, why)
           && embed_passages(model, &s->pool, &e->texts, NULL, e->vectors, NULL, why);
}

static void evidence_close(evidence *e, size_t inputs)
{
    size_t i;

    for (i = 0; e->memory && i < inputs; i++) free(e->memory[i]);
    free(e->memory);
    free(e->inputs);
    free(e->vectors);
    passages_close(&e->texts);
    file_unmap(&e->file);
}

/* ---- opening and closing --------------------------------------------------------------------- */

/*  An encoder that shares everything but has some linears of its own, in one block. */
static bool open_approximate(study *s, failure *why)
{
    const encoder *model = &s->model.e;
    size_t all = model->layers * LINEARS, texts = s->heldout.texts.count, i;

    if (texts < s->calibration.texts.count) texts = s->calibration.texts.count;
    s->approximate = *model;
    s->approximate.linears = malloc(all * sizeof *s->approximate.linears);
    s->approximations = malloc(study_bias(s, s->linears) * sizeof *s->approximations);
    s->vectors = malloc((texts + 1) * model->dim * sizeof *s->vectors);
    if (!s->approximate.linears || !s->approximations || !s->vectors)
        return fail(why, "out of memory");
    memcpy(s->approximate.linears, model->linears, all * sizeof *s->approximate.linears);
    for (i = 0; i < s->linears; i++) {
        s->approximate.linears[i].weight = s->approximations + study_weights(s, i);
        s->approximate.linears[i].bias = s->approximations + study_bias(s, i);
    }
    return true;
}

bool study_open(study *s, const study_options *options, failure *why)
{
    size_t layers;

    memset(s, 0, sizeof *s);
    s->kernels = awq_kernels_best();
    parallel_start(&s->pool, 0);
    s->parallel.run = parallel_run;
    s->parallel.context = &s->pool;
    s->parallel.workers = s->pool.workers;
    s->shop.kernels = s->kernels;
    s->shop.parallel = &s->parallel;
    s->shop.damping = options->damping;
    if (!bert_open(&s->model, options->model, why)) return false;
    layers = s->model.e.layers;
    if (options->layers && options->layers < layers) layers = options->layers;
    s->inputs = layers * INPUTS;
    s->linears = layers * LINEARS;
    return gather(s, &s->calibration, options->calibration, "calibration text", why)
           && gather(s, &s->heldout, options->text, "held-out text", why)
           && open_approximate(s, why);
}

void study_close(study *s)
{
    evidence_close(&s->calibration, s->inputs);
    evidence_close(&s->heldout, s->inputs);
    workshop_close(&s->shop);
    free(s->approximate.linears);
    free(s->approximations);
    free(s->vectors);
    bert_close(&s->model);
    parallel_stop(&s->pool);
}

/* ---- measuring ------------------------------------------------------------------------------- */

result *results_new(const study *s, size_t count, failure *why)
{
    result *results = malloc(count * (sizeof *results + s->linears * sizeof(double)));
    size_t i;

    if (!results) {
        fail(why, "out of memory");
        return NULL;
    }
    for (i = 0; i < count; i++) results[i].errors = (double *)(results + count) + i * s->linears;
    return results;
}

static awq_matrix weight_of(const encoder *e, size_t which)
{
    const linear *l = &e->linears[which];
    return awq_matrix_view(l->weight, AWQ_F32, l->out_features, l->in_features);
}

/*  What a change of the bias adds to the error: per row b (2 e + b), e the mean error without it. */
static double bias_error(const study *s, const awq_stats *of, size_t which)
{
    const linear *exact = &s->model.e.linears[which], *rounded = &s->approximate.linears[which];
    double sum = 0;
    size_t row, c;

    for (row = 0; row < exact->out_features; row++) {
        double b = (double)rounded->bias[row] - (double)exact->bias[row], error = 0;
        size_t at = row * exact->in_features;
        for (c = 0; c < exact->in_features; c++)
            error += ((double)rounded->weight[at + c] - (double)exact->weight[at + c]) * of->sum[c]
                     / of->weight;
        sum += b * (2 * error + b) / (double)exact->out_features;
    }
    return sum;
}

bool output_error(study *s, evidence *of, size_t which, double *relative, failure *why)
{
    awq_inputs inputs = { AWQ_LOSS_GRAM, &of->inputs[input_of(which)], { NULL, 0, 0, 0, AWQ_F32 },
                          NULL, NULL, NULL };
    awq_matrix weight = weight_of(&s->model.e, which), rounded = weight_of(&s->approximate, which);
    awq_matrix nothing = weight;
    size_t size = awq_search_scratch_size(&inputs, &weight, 1, &s->parallel);
    void *work = malloc(size);
    double error = 0, power = 1;
    bool done;

    if (!work) return fail(why, "out of memory");
    nothing.data = NULL;
    done = check(awq_output_error(&s->kernels, &inputs, weight, rounded, work, size, &s->parallel,
                                  &error, NULL),
                 "error", why)
           && check(awq_output_error(&s->kernels, &inputs, weight, nothing, work, size,
                                     &s->parallel, &power, NULL),
                    "power", why);
    free(work);
    *relative = (error + bias_error(s, inputs.stats, which)) / power;
    return done;
}

bool embedding_error(study *s, const evidence *of, size_t texts, double *distance, failure *why)
{
    passages some = of->texts;
    double sum = 0;
    size_t i;

    if (texts < some.count) some.count = texts;
    if (!embed_passages(&s->approximate, &s->pool, &some, NULL, s->vectors, NULL, why)) return false;
    for (i = 0; i < some.count * s->model.e.dim; i++)
        sum += (double)of->vectors[i] * (double)s->vectors[i];
    *distance = 1 - sum / (double)some.count;
    return true;
}

bool study_conclude(study *s, result *r, failure *why)
{
    size_t i;

    r->mean = r->down = 0;
    for (i = 0; i < s->linears; i++) {
        r->mean += r->errors[i] / (double)s->linears;
        if (i % LINEARS == LINEAR_DOWN)
            r->down += r->errors[i] * (double)LINEARS / (double)s->linears;
    }
    return embedding_error(s, &s->heldout, s->heldout.texts.count, &r->cosine, why);
}

static sharing shared_by(const study *s, size_t input)
{
    size_t group = input % INPUTS, first = study_first(input), i;
    sharing all;

    memset(&all, 0, sizeof all);
    all.count = group_count((input_group)group);
    all.stats = &s->calibration.inputs[input];
    for (i = 0; i < all.count; i++) {
        all.weights[i] = weight_of(&s->model.e, first + i);
        all.clipped[i] = group != INPUT_QKV || i == 2;
        all.approximations[i] = s->approximations + study_weights(s, first + i);
        all.biases[i] = s->approximations + study_bias(s, first + i);
    }
    return all;
}

bool study_measure(study *s, approach *approximate, void *how, result *r, failure *why)
{
    size_t i;

    r->seconds = 0;
    for (i = 0; i < s->linears; i++)
        memcpy(s->approximations + study_bias(s, i), s->model.e.linears[i].bias,
               s->model.e.linears[i].out_features * sizeof *s->approximations);
    for (i = 0; i < s->inputs; i++) {
        sharing all = shared_by(s, i);
        double started = seconds_now();
        if (!approximate(s, how, i, &all, why)) return false;
        r->seconds += seconds_now() - started;
    }
    for (i = 0; i < s->linears; i++)
        if (!output_error(s, &s->heldout, i, &r->errors[i], why)) return false;
    return study_conclude(s, r, why);
}

typedef struct recipe {
    const method *how;
    awq_quant quant;
} recipe;

static bool follow(study *s, void *how, size_t input, const sharing *all, failure *why)
{
    const recipe *r = how;

    (void)input;
    return quantize_sharing(&s->shop, r->how, r->quant, all, why);
}

bool study_method(study *s, const method *how, awq_quant quant, result *r, failure *why)
{
    recipe context;

    context.how = how;
    context.quant = quant;
    return study_measure(s, follow, &context, r, why);
}
