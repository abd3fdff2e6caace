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

/*  Error at groups of 64 and FFN down at groups of 128, of the best method: what the types are
    compared with. */
typedef struct rivals {
    double mean, down;
} rivals;

static void print_beside(const char *name, double bits, const result *r, const rivals *ours,
                         bool whole)
{
    printf("| %-22s | %.2f | ", name, bits);
    if (whole) printf("%.3f | %.2f", 1e3 * r->mean, ours->mean / r->mean);
    else printf("|");
    printf(" | %.3f | %.2f | ", 1e3 * r->down, ours->down / r->down);
    if (whole) printf("%.5f ", r->cosine);
    printf("|\n");
    fflush(stdout);
}

static bool print_ours(study *s, int bits, result *results, rivals *ours, failure *why)
{
    static const size_t two[2] = { METHOD_RECIPE, METHOD_BEST };
    static const char *const names[2] = { "AutoAWQ's recipe", "ours" };
    static const int sizes[3] = { 128, 64, 32 };
    awq_quant quant = { bits, 0, 0, AWQ_F16 };
    char name[48];
    size_t i;

    for (i = 0; i < 6; i++) {
        quant.group_size = sizes[i / 2];
        if (!study_method(s, &methods[two[i % 2]], quant, &results[i], why)) return false;
    }
    ours->down = results[1].down;
    ours->mean = results[3].mean;
    for (i = 0; i < 6; i++) {
        quant.group_size = sizes[i / 2];
        snprintf(name, sizeof name, "g%d, %s", quant.group_size, names[i % 2]);
        print_beside(name, study_bits(s, quant), &results[i], ours, true);
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
    result *results = results_new(s, 6, why);
    bool done = results != NULL;
    rivals ours;

    printf("\n| format | bits per weight | error e-3 | ours g64 / it | FFN down e-3 | ours g128 / it | "
           "1 - cos |\n|---|---:|---:|---:|---:|---:|---:|\n");
    done = done && print_ours(s, options->bits, results, &ours, why);
    if (done && options->ggml) done = print_theirs(s, options->ggml, results, &ours, why);
    if (!options->ggml)
        fprintf(stderr, "note: llama.cpp's types are left out; --ggml libggml-base.so, which the PyPI "
                        "packages pywhispercpp and llama-cpp-python hold, brings them in\n");
    free(results);
    return done;
}
