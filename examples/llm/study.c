/*  study.c - see study.h. */
#include "study.h"

#include "../common/dense.h"
#include "../common/progress.h"
#include "calibrate.h"

enum { SKETCHES = SKETCH_SIZES * SKETCH_SEEDS };
static const size_t sketch_sizes[SKETCH_SIZES] = { 128, 256, 512 };

/*  One search exactly and by every sketch. */
typedef struct verdict {
    double excess[SKETCH_SIZES][SKETCH_SEEDS]; /* exact loss of the ratio picked / least one - 1 */
} verdict;

typedef struct verdict_list {
    verdict *items;
    size_t count;
} verdict_list;

typedef struct study {
    const model *m;
    compute *c;
    const quantize_options *options;
    calibration inputs;
    awq_stats exact[INPUTS], sketched[INPUTS][SKETCHES];    /* seed by seed of each size */
    void *memory[INPUTS][SKETCHES + 1];
    float *weights[LINEARS], *scale;
    double *curve;                  /* [grid points] exact losses */
    void *work;
    size_t work_size;
    verdict_list alone, together;
} study;

static bool check(awq_status status, size_t layer_index, const char *what, failure *why)
{
    if (status == AWQ_OK) return true;
    return fail(why, "layer %zu: %s: %s", layer_index, what, awq_status_string(status));
}

static size_t inputs_of_group(const study *s, size_t group)
{
    return s->m->layers[0].linears[group_first((input_group)group)].in_features;
}

/* ---- statistics ------------------------------------------------------------------------------ */

static awq_status start_stats(study *s, size_t group, size_t layer_index)
{
    size_t n = inputs_of_group(s, group), i;
    awq_status status = awq_stats_init(&s->exact[group], n, 0, 1, 0, s->memory[group][SKETCHES],
                                       awq_stats_size(n, 0, 1));

    for (i = 0; i < SKETCHES && status == AWQ_OK; i++) {
        size_t rows = sketch_sizes[i / SKETCH_SEEDS];
        status = awq_stats_init(&s->sketched[group][i], n, rows, 0,
                                (layer_index * INPUTS + group) * SKETCHES + i + 1,
                                s->memory[group][i], awq_stats_size(n, rows, 0));
    }
    return status;
}

static bool see_inputs(void *context, size_t layer_index, input_group group, const float *rows,
                       size_t tokens, const float *received, failure *why)
{
    study *s = context;
    awq_matrix x = awq_matrix_view(rows, AWQ_F32, tokens, inputs_of_group(s, group));
    float weight[WINDOW];
    const float *weights = s->options->weigh_tokens ? weight : NULL;
    awq_status status;
    size_t i;

    weigh_tokens(received, tokens, weight);
    status = awq_stats_add(&s->c->kernels, &s->exact[group], x, weights, &s->c->parallel, NULL);
    for (i = 0; i < SKETCHES && status == AWQ_OK; i++)
        status = awq_stats_add(&s->c->kernels, &s->sketched[group][i], x, weights, &s->c->parallel,
                               NULL);
    return check(status, layer_index, "calibration", why);
}

static bool calibrate_layer(study *s, size_t index, failure *why)
{
    observer watch;
    size_t group;

    watch.see = see_inputs;
    watch.context = s;
    for (group = 0; group < INPUTS; group++)
        if (!check(start_stats(s, group, index), index, "statistics", why)) return false;
    return calibration_windows(&s->inputs, index, 0, s->inputs.windows, &watch, why);
}

/* ---- searches -------------------------------------------------------------------------------- */

/*  Linears that are searched together. */
typedef struct searched {
    size_t group, count;
    awq_matrix weights[LINEARS];
} searched;

static bool search(study *s, const searched *what, awq_loss loss, const awq_stats *stats,
                   double *curve, awq_search_result *result, failure *why)
{
    awq_search_config config = awq_search_preset(AWQ_PRESET_LLM_AWQ, s->options->quant);
    awq_inputs inputs;
    size_t size;

    memset(&inputs, 0, sizeof inputs);
    inputs.loss = loss;
    inputs.stats = stats;
    if (what->group == INPUT_O) {
        config.tie.repeat = s->m->heads / s->m->kv_heads;
        config.tie.head_dim = s->m->head_dim;
    }
    size = awq_search_scratch_size(&inputs, what->weights, what->count, &s->c->parallel);
    if (size > s->work_size) {
        free(s->work);
        s->work = malloc(size);
        s->work_size = s->work ? size : 0;
        if (!s->work) return fail(why, "out of memory");
    }
    return check(awq_search(&s->c->kernels, &config, &inputs, what->weights, what->count, s->work,
                            s->work_size, &s->c->parallel, s->scale, curve, result, NULL),
                 0, "search", why);
}

static bool judge(study *s, const searched *what, verdict *out, failure *why)
{
    awq_search_result best, picked;
    size_t i;

    if (!search(s, what, AWQ_LOSS_GRAM, &s->exact[what->group], s->curve, &best, why)) return false;
    for (i = 0; i < SKETCHES; i++) {
        const awq_stats *stats = &s->sketched[what->group][i];
        double loss;
        if (!search(s, what, AWQ_LOSS_SKETCH, stats, NULL, &picked, why)) return false;
        loss = picked.is_identity ? best.identity_loss : s->curve[picked.index];
        out->excess[i / SKETCH_SEEDS][i % SKETCH_SEEDS] = loss / best.loss - 1;
    }
    return true;
}

static bool judge_group(study *s, size_t group, failure *why)
{
    searched all, one;
    size_t i;

    all.group = one.group = group;
    all.count = group_count((input_group)group);
    one.count = 1;
    for (i = 0; i < all.count; i++) {
        size_t which = group_first((input_group)group) + i;
        const linear *l = &s->m->layers[0].linears[which];
        one.weights[0] = all.weights[i] =
            awq_matrix_view(s->weights[which], AWQ_F32, l->out_features, l->in_features);
        if (!judge(s, &one, &s->alone.items[s->alone.count++], why)) return false;
    }
    if (all.count > 1) return judge(s, &all, &s->together.items[s->together.count++], why);
    s->together.items[s->together.count++] = s->alone.items[s->alone.count - 1];
    return true;
}

static bool judge_layers(study *s, failure *why)
{
    progress bar = progress_begin("searching", s->m->layers_count);
    size_t i, j;

    for (i = 0; i < s->m->layers_count; i++) {
        if (!calibrate_layer(s, i, why)) return false;
        for (j = 0; j < LINEARS; j++)
            linear_decode(s->c, &s->m->layers[i].linears[j], s->weights[j]);
        for (j = 0; j < INPUTS; j++)
            if (!judge_group(s, j, why)) return false;
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    return true;
}

/* ---- the results ----------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static excess sum_up(const verdict_list *list, size_t size, double *sorted)
{
    excess e = { sketch_sizes[size], 0, 0, 0, 0, 0 };
    size_t i, seed, best = 0;

    for (i = 0; i < list->count; i++)
        for (seed = 0; seed < SKETCH_SEEDS; seed++)
            sorted[e.searches++] = list->items[i].excess[size][seed];
    qsort(sorted, e.searches, sizeof *sorted, compare_doubles);
    while (best < e.searches && sorted[best] <= 0) best++;
    e.none = (double)best / (double)e.searches;
    e.median = sorted[e.searches / 2];
    e.ninth_decile = sorted[e.searches * 9 / 10];
    e.most = sorted[e.searches - 1];
    return e;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool open_study(study *s, failure *why)
{
    size_t layers = s->m->layers_count, widest = 0, group, i;
    bool enough;

    s->alone.items = calloc(layers * LINEARS, sizeof *s->alone.items);
    s->together.items = calloc(layers * INPUTS, sizeof *s->together.items);
    s->curve = malloc((size_t)awq_search_preset(AWQ_PRESET_LLM_AWQ, s->options->quant).grid_points
                      * sizeof *s->curve);
    enough = s->alone.items && s->together.items && s->curve;
    for (group = 0; group < INPUTS; group++) {
        size_t n = inputs_of_group(s, group);
        widest = n > widest ? n : widest;
        for (i = 0; i <= SKETCHES; i++) {
            size_t rows = i < SKETCHES ? sketch_sizes[i / SKETCH_SEEDS] : 0;
            size_t size = awq_stats_size(n, rows, i == SKETCHES);
            s->memory[group][i] = size ? malloc(size) : NULL;
            enough = enough && s->memory[group][i];
        }
    }
    s->scale = malloc(widest * sizeof *s->scale);
    for (i = 0; i < LINEARS; i++) {
        const linear *l = &s->m->layers[0].linears[i];
        s->weights[i] = malloc(l->out_features * l->in_features * sizeof(float));
        enough = enough && s->weights[i];
    }
    return enough && s->scale ? true : fail(why, "out of memory");
}

static void close_study(study *s)
{
    size_t i, group;

    for (i = 0; i < LINEARS; i++) free(s->weights[i]);
    for (group = 0; group < INPUTS; group++)
        for (i = 0; i <= SKETCHES; i++) free(s->memory[group][i]);
    free(s->scale);
    free(s->curve);
    free(s->work);
    free(s->alone.items);
    free(s->together.items);
    calibration_close(&s->inputs);
}

bool study_sketches(const model *m, compute *c, const token_list *text,
                    const quantize_options *options, sketch_study *out, failure *why)
{
    double *sorted = malloc(m->layers_count * LINEARS * SKETCH_SEEDS * sizeof *sorted);
    size_t size;
    study s;
    bool done;

    memset(&s, 0, sizeof s);
    s.m = m;
    s.c = c;
    s.options = options;
    done = sorted ? open_study(&s, why) && calibration_open(&s.inputs, m, c, text, why)
                        && judge_layers(&s, why)
                  : fail(why, "out of memory");
    for (size = 0; done && size < SKETCH_SIZES; size++) {
        out->alone[size] = sum_up(&s.alone, size, sorted);
        out->together[size] = sum_up(&s.together, size, sorted);
    }
    close_study(&s);
    free(sorted);
    return done;
}
