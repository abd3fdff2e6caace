/*  main.c - every way to quantize, on a sentence encoder whose weights are the true fp32 ones: the
    error of each linear's output and of the embeddings, on text of another kind than the
    calibration text. Prints the tables of docs/quality.md. */
#include "../search/bert.h"
#include "../search/embed.h"

#include "../common/numbers.h"
#include "../common/progress.h"
#include "methods.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    const char *model, *calibration, *text;
    long groups[8];
    size_t groups_count;
    int bits;
    double damping;
} settings;

/*  What is known about one text: the Gram matrix of every linear's input, and its embeddings. */
typedef struct evidence {
    passages texts;
    mapped_file file;
    awq_stats *inputs;          /* [layers][INPUTS] */
    void **memory;
    float *vectors;             /* [texts.count][dim] */
    size_t tokens;
} evidence;

typedef struct study {
    const settings *set;
    bert model;
    encoder approximate;        /* the same with other linears */
    parallel_pool pool;
    awq_parallel parallel;
    awq_kernels kernels;
    evidence calibration, heldout;
    float *approximations;      /* of all linears */
    float *vectors;
} study;

typedef struct result {
    double mean, down;          /* relative squared error of the output: all linears, FFN down */
    double cosine;              /* 1 - that of an embedding and its original */
    double seconds;             /* to quantize all */
    double *errors;             /* [linears] */
} result;

static bool check(awq_status status, const char *what, failure *why)
{
    return status == AWQ_OK ? true : fail(why, "%s: %s", what, awq_status_string(status));
}

static size_t linear_count(const study *s) { return s->model.e.layers * LINEARS; }

/* ---- evidence -------------------------------------------------------------------------------- */

typedef struct watcher {
    study *s;
    evidence *e;
} watcher;

static bool see_input(void *context, size_t layer, input_group group, awq_matrix x,
                      const float *token_weight, failure *why)
{
    const watcher *w = context;

    (void)token_weight;
    w->e->tokens += group == INPUT_QKV && layer == 0 ? x.rows : 0;
    return check(awq_stats_add(&w->s->kernels, &w->e->inputs[layer * INPUTS + group], x, NULL,
                               &w->s->parallel, NULL),
                 "statistics", why);
}

static bool start_inputs(const study *s, evidence *e, failure *why)
{
    size_t count = s->model.e.layers * INPUTS, i;

    e->inputs = calloc(count, sizeof *e->inputs);
    e->memory = calloc(count, sizeof *e->memory);
    if (!e->inputs || !e->memory) return fail(why, "out of memory");
    for (i = 0; i < count; i++) {
        size_t which = i / INPUTS * LINEARS + group_first((input_group)(i % INPUTS));
        size_t in = s->model.e.linears[which].in_features, size = awq_stats_size(in, 0, 1);
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

/* ---- one method ------------------------------------------------------------------------------ */

/*  Of || (What - W) X ||^2 / || W X ||^2 on the held-out text. */
static bool output_error(study *s, size_t input, awq_matrix weight, const float *approximation,
                         double *relative, failure *why)
{
    awq_inputs inputs = { AWQ_LOSS_GRAM, &s->heldout.inputs[input], { NULL, 0, 0, 0, AWQ_F32 },
                          NULL, NULL, NULL };
    size_t size = awq_search_scratch_size(&inputs, &weight, 1, &s->parallel);
    awq_matrix rounded = weight, nothing = weight;
    void *work = malloc(size);
    double error = 0, power = 1;
    bool done;

    if (!work) return fail(why, "out of memory");
    rounded.data = (void *)(uintptr_t)approximation;
    nothing.data = NULL;
    done = check(awq_output_error(&s->kernels, &inputs, weight, rounded, work, size, &s->parallel,
                                  &error, NULL),
                 "error", why)
           && check(awq_output_error(&s->kernels, &inputs, weight, nothing, work, size,
                                     &s->parallel, &power, NULL),
                    "power", why);
    free(work);
    *relative = error / power;
    return done;
}

static bool quantize_input(study *s, workshop *shop, const method *how, awq_quant quant,
                           size_t input, result *r, failure *why)
{
    size_t layer = input / INPUTS, group = input % INPUTS, i;
    size_t first = layer * LINEARS + group_first((input_group)group);
    sharing all;
    double started = seconds_now();

    memset(&all, 0, sizeof all);
    all.count = group_count((input_group)group);
    all.stats = &s->calibration.inputs[input];
    for (i = 0; i < all.count; i++) {
        const linear *l = &s->model.e.linears[first + i];
        all.weights[i] = awq_matrix_view(l->weight, AWQ_F32, l->out_features, l->in_features);
        all.clipped[i] = group != INPUT_QKV || i == 2;
        all.approximations[i] = (float *)(uintptr_t)s->approximate.linears[first + i].weight;
    }
    if (!quantize_sharing(shop, how, quant, &all, why)) return false;
    r->seconds += seconds_now() - started;
    for (i = 0; i < all.count; i++)
        if (!output_error(s, input, all.weights[i], all.approximations[i], &r->errors[first + i],
                          why))
            return false;
    return true;
}

static double mean_cosine_distance(const float *a, const float *b, size_t count, size_t dim)
{
    double sum = 0;
    size_t i;

    for (i = 0; i < count * dim; i++) sum += (double)a[i] * (double)b[i];
    return 1 - sum / (double)count;
}

static bool try_method(study *s, const method *how, awq_quant quant, result *r, failure *why)
{
    size_t inputs = s->model.e.layers * INPUTS, linears = linear_count(s), i;
    workshop shop;
    bool done = true;

    memset(&shop, 0, sizeof shop);
    shop.kernels = s->kernels;
    shop.parallel = &s->parallel;
    shop.damping = s->set->damping;
    r->mean = r->down = r->seconds = 0;
    for (i = 0; done && i < inputs; i++) done = quantize_input(s, &shop, how, quant, i, r, why);
    workshop_close(&shop);
    if (!done
        || !embed_passages(&s->approximate, &s->pool, &s->heldout.texts, NULL, s->vectors, NULL, why))
        return false;
    for (i = 0; i < linears; i++) {
        r->mean += r->errors[i] / (double)linears;
        if (i % LINEARS == LINEAR_DOWN) r->down += r->errors[i] / (double)s->model.e.layers;
    }
    r->cosine = mean_cosine_distance(s->heldout.vectors, s->vectors, s->heldout.texts.count,
                                     s->model.e.dim);
    return true;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void print_row(const char *name, const result *r, const result *recipe, size_t linears)
{
    size_t i, better = 0;

    for (i = 0; i < linears; i++) better += r->errors[i] <= recipe->errors[i];
    printf("| %-36s | %8.3f | %5.2f | %8.3f | %5.2f | %7.5f | %5.2f | %4zu of %zu | %5.1f s |\n", name,
           1e3 * r->mean, r->mean / recipe->mean, 1e3 * r->down, r->down / recipe->down, r->cosine,
           r->cosine / recipe->cosine, better, linears, r->seconds);
}

static double bits_per_weight(const study *s, awq_quant quant)
{
    double bytes = 0, weights = 0;
    size_t i;

    for (i = 0; i < linear_count(s); i++) {
        const linear *l = &s->model.e.linears[i];
        bytes += (double)awq_packed_size(quant, l->out_features, l->in_features);
        weights += (double)l->out_features * (double)l->in_features;
    }
    return 8 * bytes / weights;
}

static bool print_table(study *s, awq_quant quant, result *results, failure *why)
{
    progress bar = progress_begin("quantizing", METHODS);
    size_t i;

    for (i = 0; i < METHODS; i++) {
        if (!try_method(s, &methods[i], quant, &results[i], why)) return false;
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    printf("\n%d bits, groups of %d: %.2f bits per weight\n\n"
           "| method                               | error e-3 | ratio | FFN down | ratio | 1 - cos "
           "| ratio | no worse | time |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
           quant.bits, quant.group_size, bits_per_weight(s, quant));
    for (i = 0; i < METHODS; i++)
        print_row(methods[i].name, &results[i], &results[METHOD_RECIPE], linear_count(s));
    fflush(stdout);
    return true;
}

static bool print_tables(study *s, failure *why)
{
    awq_quant quant = { s->set->bits, 128, 0, AWQ_F16 };
    result results[METHODS];
    size_t linears = linear_count(s), i;
    double *errors = malloc(METHODS * linears * sizeof *errors);
    bool done = errors != NULL || fail(why, "out of memory");

    for (i = 0; done && i < METHODS; i++) results[i].errors = errors + i * linears;
    for (i = 0; done && i < s->set->groups_count; i++) {
        quant.group_size = (int)s->set->groups[i];
        done = print_table(s, quant, results, why);
    }
    free(errors);
    return done;
}

/* ---- the study ------------------------------------------------------------------------------- */

/*  An encoder that shares everything but has linears of its own, in one block. */
static bool open_approximate(study *s, failure *why)
{
    size_t linears = linear_count(s), weights = 0, i;
    float *next;

    s->approximate = s->model.e;
    s->approximate.linears = malloc(linears * sizeof *s->approximate.linears);
    for (i = 0; i < linears; i++)
        weights += s->model.e.linears[i].out_features * s->model.e.linears[i].in_features;
    s->approximations = next = malloc(weights * sizeof *next);
    s->vectors = malloc((s->heldout.texts.count + 1) * s->model.e.dim * sizeof *s->vectors);
    if (!s->approximate.linears || !s->approximations || !s->vectors)
        return fail(why, "out of memory");
    for (i = 0; i < linears; i++) {
        s->approximate.linears[i] = s->model.e.linears[i];
        s->approximate.linears[i].weight = next;
        next += s->model.e.linears[i].out_features * s->model.e.linears[i].in_features;
    }
    return true;
}

static bool run(const settings *set, failure *why)
{
    static study s;
    size_t inputs;
    bool done;

    s.set = set;
    s.kernels = awq_kernels_best();
    parallel_start(&s.pool, 0);
    s.parallel.run = parallel_run;
    s.parallel.context = &s.pool;
    s.parallel.workers = s.pool.workers;
    if (!bert_open(&s.model, set->model, why)) return false;
    inputs = s.model.e.layers * INPUTS;
    done = gather(&s, &s.calibration, set->calibration, "calibration text", why)
           && gather(&s, &s.heldout, set->text, "held-out text", why) && open_approximate(&s, why);
    if (done)
        printf("%zu tokens of calibration, %zu held-out tokens in %zu passages; %zu linears; damping "
               "%g; %s, %zu threads\n",
               s.calibration.tokens, s.heldout.tokens, s.heldout.texts.count, linear_count(&s),
               set->damping, s.kernels.name, s.pool.workers);
    done = done && print_tables(&s, why);
    evidence_close(&s.calibration, inputs);
    evidence_close(&s.heldout, inputs);
    free(s.approximate.linears);
    free(s.approximations);
    free(s.vectors);
    bert_close(&s.model);
    parallel_stop(&s.pool);
    return done;
}

/* ---- the command line ------------------------------------------------------------------------ */

static const char usage[] =
    "usage: quality MODEL CALIBRATION HELDOUT [--bits N] [--damping N] [--group N]...\n"
    "\n"
    "MODEL: a directory of a BERT sentence encoder; the other two are texts of different kinds.\n"
    "  --group N       a table for groups of so many inputs, -1: whole rows (128)\n"
    "  --bits N        2, 3, 4 or 8 (4)\n"
    "  --damping N     of the Hessian, in thousandths of its mean diagonal (30)\n";

static bool parse_option(settings *set, const char *option, const char *value, failure *why)
{
    long n = 0;

    if (!value) return fail(why, "%s needs a value, or is no option; see --help", option);
    if (strcmp(option, "--bits") == 0) {
        if (!parse_number(option, value, 2, 8, &n, why)) return false;
        set->bits = (int)n;
    } else if (strcmp(option, "--damping") == 0) {
        if (!parse_number(option, value, 1, 1000, &n, why)) return false;
        set->damping = 0.001 * (double)n;
    } else if (strcmp(option, "--group") == 0 && set->groups_count < 8) {
        if (!parse_number(option, value, -1, 1 << 20, &n, why)) return false;
        if (n == 0) return fail(why, "--group: 0 is not a group size");
        set->groups[set->groups_count++] = n;
    } else
        return fail(why, "what is %s? see --help", option);
    return true;
}

static bool parse(int count, char **arguments, settings *set, failure *why)
{
    const char **files[3] = { &set->model, &set->calibration, &set->text };
    int i, named = 0;

    for (i = 1; i < count; i++) {
        if (strncmp(arguments[i], "--", 2) != 0) {
            if (named == 3) return fail(why, "what is %s? see --help", arguments[i]);
            *files[named++] = arguments[i];
        } else {
            const char *option = arguments[i++];
            if (!parse_option(set, option, i < count ? arguments[i] : NULL, why)) return false;
        }
    }
    if (set->groups_count == 0) set->groups[set->groups_count++] = 128;
    return named == 3 ? true : fail(why, "a model and two texts, please; see --help");
}

int main(int count, char **arguments)
{
    settings set = { NULL, NULL, NULL, { 0 }, 0, 4, 0.03 };
    failure why;

    if (count == 2 && strcmp(arguments[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (!parse(count, arguments, &set, &why) || !run(&set, &why)) {
        fprintf(stderr, "error: %s\n", why.text);
        return 1;
    }
    return 0;
}
