/*  tables.c - see tables.h. */
#include "tables.h"

#include "../common/progress.h"
#include "ggml.h"

#include <stdlib.h>
#include <string.h>

/* ---- all methods ----------------------------------------------------------------------------- */

static void print_method(const char *name, const result *r, const result *recipe, size_t linears)
{
    size_t i, better = 0;

    for (i = 0; i < linears; i++) better += r->errors[i] <= recipe->errors[i];
    printf("| %-36s | %8.3f | %5.2f | %8.3f | %5.2f | %7.5f | %5.2f | %4zu of %zu | %5.1f s |\n", name,
           1e3 * r->mean, r->mean / recipe->mean, 1e3 * r->down, r->down / recipe->down, r->cosine,
           r->cosine / recipe->cosine, better, linears, r->seconds);
}

static bool print_methods_at(study *s, awq_quant quant, result *results, failure *why)
{
    progress bar = progress_begin("quantizing", METHODS);
    size_t i;

    for (i = 0; i < METHODS; i++) {
        if (!study_method(s, &methods[i], quant, &results[i], why)) return false;
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    printf("\n%d bits, groups of %d: %.2f bits per weight\n\n"
           "| method                               | error e-3 | ratio | FFN down | ratio | 1 - cos "
           "| ratio | no worse | time |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
           quant.bits, quant.group_size, study_bits(s, quant));
    for (i = 0; i < METHODS; i++)
        print_method(methods[i].name, &results[i], &results[METHOD_RECIPE], s->linears);
    fflush(stdout);
    return true;
}

bool print_methods(study *s, const table_options *options, failure *why)
{
    awq_quant quant = { options->bits, 128, 0, AWQ_F16 };
    result *results = results_new(s, METHODS, why);
    bool done = results != NULL;
    size_t i;

    for (i = 0; done && i < options->groups_count; i++) {
        quant.group_size = (int)options->groups[i];
        done = print_methods_at(s, quant, results, why);
    }
    free(results);
    return done;
}

/* ---- three methods over formats -------------------------------------------------------------- */

static void print_three(const char *format, double a, double b, double c)
{
    printf(format, a, b, c);
    printf(" | %.2f |", c / b);
}

static void print_format(const study *s, awq_quant quant, const result *r)
{
    printf("| %d | %d | %.2f |", quant.bits, quant.group_size, study_bits(s, quant));
    print_three(" %.3f / %.3f / %.3f", 1e3 * r[0].mean, 1e3 * r[1].mean, 1e3 * r[2].mean);
    print_three(" %.3f / %.3f / %.3f", 1e3 * r[0].down, 1e3 * r[1].down, 1e3 * r[2].down);
    print_three(" %.5f / %.5f / %.5f", r[0].cosine, r[1].cosine, r[2].cosine);
    printf(" %.0f s |\n", r[2].seconds);
    fflush(stdout);
}

static bool print_formats(study *s, const awq_quant *quants, size_t count, failure *why)
{
    static const size_t three[3] = { METHOD_NEAREST, METHOD_RECIPE, METHOD_BEST };
    progress bar = progress_begin("quantizing", 3 * count);
    result *results = results_new(s, 3, why);
    bool done = results != NULL;
    size_t i;

    printf("\nnearest / AutoAWQ's recipe / ours; ratio of the last two\n\n"
           "| bits | group | bits per weight | error e-3 | ratio | FFN down e-3 | ratio | 1 - cos | "
           "ratio | time |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for (i = 0; done && i < 3 * count; i++) {
        done = study_method(s, &methods[three[i % 3]], quants[i / 3], &results[i % 3], why);
        if (done && i % 3 == 2) print_format(s, quants[i / 3], results);
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    free(results);
    return done;
}

bool print_groups(study *s, const table_options *options, failure *why)
{
    static const int sizes[] = { 32, 64, 128, 256, -1 };
    awq_quant quants[5] = { { 0, 0, 0, AWQ_F16 } };
    size_t i;

    for (i = 0; i < 5; i++) {
        quants[i].bits = options->bits;
        quants[i].group_size = sizes[i];
        quants[i].scale_dtype = AWQ_F16;
    }
    return print_formats(s, quants, 5, why);
}

bool print_bits(study *s, const table_options *options, failure *why)
{
    static const awq_quant quants[] = {
        { 2, 128, 0, AWQ_F16 }, { 3, 128, 0, AWQ_F16 }, { 4, 128, 0, AWQ_F16 }, { 8, 128, 0, AWQ_F16 },
    };

    (void)options;
    return print_formats(s, quants, 4, why);
}

/* ---- llama.cpp's types ----------------------------------------------------------------------- */

typedef struct ggml_format {
    ggml_library library;
    const ggml_type *type;
    size_t bytes, weights;      /* of the linears that it can hold */
} ggml_format;

/*  Linears whose rows are no multiple of the type's block stay as they are. */
static bool round_by_ggml(study *s, void *how, size_t input, const sharing *all, failure *why)
{
    ggml_format *format = how;
    size_t in = all->weights[0].cols, bytes, i;
    float *importance = malloc(in * sizeof *importance);
    bool done = importance != NULL || fail(why, "out of memory");

    (void)s;
    (void)input;
    if (done) awq_stats_get(all->stats, AWQ_SQ_MEAN, importance);
    for (i = 0; done && i < all->count; i++) {
        awq_matrix weight = all->weights[i];
        size_t weights = weight.rows * weight.cols;
        memcpy(all->approximations[i], weight.data, weights * sizeof(float));
        if (in % format->type->block != 0) continue;
        done = ggml_round(&format->library, format->type, weight, importance, all->approximations[i],
                          &bytes, why);
        format->bytes += bytes;
        format->weights += weights;
    }
    free(importance);
    return done;
}

/*  One group size for all linears, on both texts. */
typedef struct uniform {
    awq_quant quant;
    const result *heldout, *calibration;
} uniform;

enum { SIZES = 3, ALL_INPUTS = INPUTS };

static double input_error(const result *r, size_t input)
{
    double error = 0;
    size_t i;

    for (i = study_first(input); i < study_end(input); i++) error += r->errors[i];
    return error;
}

static awq_offer offer_of(const study *s, const uniform *u, size_t input)
{
    awq_offer offer;
    size_t i;

    offer.error = input_error(u->calibration, input);
    offer.bytes = 0;
    for (i = study_first(input); i < study_end(input); i++)
        offer.bytes += awq_packed_size(u->quant, s->model.e.linears[i].out_features,
                                       s->model.e.linears[i].in_features);
    return offer;
}

/*  Group sizes mixed within a budget, or the first size's if that takes more, by the error on the
    calibration text: over all inputs, or over those of one group. *error: the mean on the held-out
    text. */
static bool mix(const study *s, const uniform sizes[SIZES], size_t group, double budget, double *bits,
                double *error, failure *why)
{
    size_t scratch_size = awq_allot_scratch_size(s->inputs), linears = 0, weights = 0, mixed = 0, i, j;
    uint64_t least = 0, most;
    awq_offer *offers = malloc(s->inputs * SIZES * sizeof *offers);
    size_t *choice = malloc(2 * s->inputs * sizeof *choice), *inputs = choice + s->inputs;
    void *scratch = malloc(scratch_size);
    awq_allotment allotted;
    awq_status status = AWQ_ERR_MEMORY;

    for (i = 0; offers && choice && i < s->inputs; i++) {
        if (group != ALL_INPUTS && i % INPUTS != group) continue;
        for (j = 0; j < SIZES; j++) offers[mixed * SIZES + j] = offer_of(s, &sizes[j], i);
        least += offers[mixed * SIZES].bytes;
        linears += study_end(i) - study_first(i);
        weights += study_weights(s, study_end(i)) - study_weights(s, study_first(i));
        inputs[mixed++] = i;
    }
    most = (uint64_t)(budget * (double)weights / 8);
    if (offers && choice && scratch)
        status = awq_allot(offers, mixed, SIZES, most > least ? most : least, scratch, scratch_size,
                           choice, &allotted, NULL);
    for (*error = 0, i = 0; status == AWQ_OK && i < mixed; i++)
        *error += input_error(sizes[choice[i]].heldout, inputs[i]) / (double)linears;
    if (status == AWQ_OK) *bits = 8 * (double)allotted.bytes / (double)weights;
    free(offers);
    free(choice);
    free(scratch);
    return status == AWQ_OK ? true : fail(why, "mixing sizes: %s", awq_status_string(status));
}

/*  What the types are compared with: all linears at groups of 64 and mixed within 4.5 bits, FFN down
    at groups of 128 and mixed within 4.25. */
typedef struct rivals {
    double mean, mixed_mean, down, mixed_down;
} rivals;

static void print_beside(const char *name, double bits, const result *r, const rivals *ours,
                         bool whole)
{
    printf("| %-22s | %.2f | ", name, bits);
    if (whole)
        printf("%.3f | %.2f | %.2f", 1e3 * r->mean, ours->mean / r->mean, ours->mixed_mean / r->mean);
    else printf("| |");
    printf(" | %.3f | %.2f | %.2f | ", 1e3 * r->down, ours->down / r->down,
           ours->mixed_down / r->down);
    if (whole) printf("%.5f ", r->cosine);
    printf("|\n");
    fflush(stdout);
}

/*  At 4 bits, what the types of 4.5 and 4.25 bits take. */
static bool print_mixes(const study *s, const uniform sizes[SIZES], rivals *ours, failure *why)
{
    double bits[2];

    if (!mix(s, sizes, ALL_INPUTS, 0.5 + sizes[0].quant.bits, &bits[0], &ours->mixed_mean, why)
        || !mix(s, sizes, INPUT_DOWN, 0.25 + sizes[0].quant.bits, &bits[1], &ours->mixed_down, why))
        return false;
    printf("| ours, sizes mixed | %.2f | %.3f | | | | | | |\n"
           "| ours, sizes of FFN down mixed | %.2f | | | | %.3f | | | |\n",
           bits[0], 1e3 * ours->mixed_mean, bits[1], 1e3 * ours->mixed_down);
    return true;
}

/*  results: [3 * SIZES], AutoAWQ's recipe, ours, ours on the calibration text for every size. */
static bool measure_ours(study *s, uniform sizes[SIZES], result *results, failure *why)
{
    size_t i, j;

    for (i = 0; i < SIZES; i++) {
        result *recipe = &results[3 * i], *best = recipe + 1, *calibration = recipe + 2;
        if (!study_method(s, &methods[METHOD_RECIPE], sizes[i].quant, recipe, why)
            || !study_method(s, &methods[METHOD_BEST], sizes[i].quant, best, why))
            return false;
        for (j = 0; j < s->linears; j++)
            if (!output_error(s, &s->calibration, j, &calibration->errors[j], why)) return false;
        sizes[i].heldout = best;
        sizes[i].calibration = calibration;
    }
    return true;
}

static bool print_ours(study *s, int bits, result *results, rivals *ours, failure *why)
{
    uniform sizes[SIZES] = { { { bits, 128, 0, AWQ_F16 }, NULL, NULL },
                             { { bits, 64, 0, AWQ_F16 }, NULL, NULL },
                             { { bits, 32, 0, AWQ_F16 }, NULL, NULL } };
    char name[48];
    size_t i, j;

    if (!measure_ours(s, sizes, results, why)) return false;
    ours->down = sizes[0].heldout->down;
    ours->mean = sizes[1].heldout->mean;
    if (!print_mixes(s, sizes, ours, why)) return false;
    for (i = 0; i < SIZES; i++)
        for (j = 0; j < 2; j++) {
            snprintf(name, sizeof name, "g%d, %s", sizes[i].quant.group_size,
                     j ? "ours" : "AutoAWQ's recipe");
            print_beside(name, study_bits(s, sizes[i].quant), &results[3 * i + j], ours, true);
        }
    return true;
}

static bool print_theirs(study *s, const char *path, result *r, const rivals *ours, failure *why)
{
    ggml_format format;
    bool done = ggml_open(&format.library, path, why);
    size_t i;

    for (i = 0; done && i < GGML_TYPES; i++) {
        format.type = &ggml_types[i];
        format.bytes = format.weights = 0;
        done = study_measure(s, round_by_ggml, &format, r, why);
        if (done)
            print_beside(format.type->name, 8 * (double)format.bytes / (double)format.weights, r, ours,
                         format.weights == study_weights(s, s->linears));
    }
    ggml_close(&format.library);
    return done;
}

bool print_ggml(study *s, const table_options *options, failure *why)
{
    result *results = results_new(s, 3 * SIZES, why);
    bool done = results != NULL;
    rivals ours;

    printf("\n| format | bits per weight | error e-3 | ours g64 / it | ours mixed / it | FFN down e-3 | "
           "ours g128 / it | ours mixed / it | 1 - cos |\n"
           "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    done = done && print_ours(s, options->bits, results, &ours, why);
    if (done && options->ggml) done = print_theirs(s, options->ggml, results, &ours, why);
    if (!options->ggml)
        fprintf(stderr, "note: llama.cpp's types are left out; --ggml libggml-base.so, which the PyPI "
                        "packages pywhispercpp and llama-cpp-python hold, brings them in\n");
    free(results);
    return done;
}
