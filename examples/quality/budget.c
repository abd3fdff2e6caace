/*  budget.c - a format for the linears of every input, by how much it hurts the embeddings of the
    calibration text, within a budget. */
#include "../common/progress.h"
#include "tables.h"

#include <stdlib.h>
#include <string.h>

enum { FORMATS = 6, SIXTEEN = FORMATS - 1 /* bits: not quantized */, COMPARED = 1, TEXTS = 64 };
static const awq_quant quants[SIXTEEN] = {
    { 4, 256, 0, AWQ_F16 }, { 4, 128, 0, AWQ_F16 }, { 4, 64, 0, AWQ_F16 },
    { 4, 32, 0, AWQ_F16 },  { 8, 128, 0, AWQ_F16 },
};

/*  Every format of all linears, made once; a mix of them is a choice, not another quantization. */
typedef struct formats {
    float *linears[FORMATS];    /* all of them, as s->approximations */
    result *results;            /* [FORMATS], on the held-out text */
    awq_offer *offers;          /* [inputs][FORMATS], on the calibration text */
    size_t *choice;             /* [inputs] */
    void *scratch;
    result *mix;
} formats;

static bool round_to_half(study *s, void *how, size_t input, const sharing *all, failure *why)
{
    size_t i;

    (void)s;
    (void)how;
    (void)input;
    for (i = 0; i < all->count; i++) {
        size_t rows = all->weights[i].rows, cols = all->weights[i].cols;
        uint16_t *half = malloc(rows * cols * sizeof *half);
        awq_matrix to = awq_matrix_view(half, AWQ_F16, rows, cols);
        if (!half) return fail(why, "out of memory");
        awq_convert(all->weights[i], to);
        awq_convert(to, awq_matrix_view(all->approximations[i], AWQ_F32, rows, cols));
        free(half);
    }
    return true;
}

static uint64_t bytes_of(const linear *l, size_t format)
{
    if (format == SIXTEEN) return 2 * (uint64_t)l->out_features * l->in_features;
    return awq_packed_size(quants[format], l->out_features, l->in_features);
}

/* ---- sensitivity ----------------------------------------------------------------------------- */

/*  Puts one format of an input's linears in the encoder's place, or the original ones. */
static void place(study *s, size_t input, const float *linears)
{
    size_t i;

    for (i = study_first(input); i < study_end(input); i++) {
        linear *l = &s->approximate.linears[i], *original = &s->model.e.linears[i];
        l->weight = linears ? linears + study_weights(s, i) : original->weight;
        l->bias = linears ? linears + study_bias(s, i) : original->bias;
    }
}

/*  What an input's linears in the coarsest format alone do to embeddings, per error of theirs. */
static bool measure_input(study *s, const formats *f, size_t input, failure *why)
{
    size_t format, i;
    double errors[FORMATS] = { 0 }, hurt = 0, error;

    for (format = 0; format < FORMATS; format++) {
        awq_offer *offer = &f->offers[input * FORMATS + format];
        offer->bytes = 0;
        place(s, input, f->linears[format]);
        if (format == 0 && !embedding_error(s, &s->calibration, TEXTS, &hurt, why)) return false;
        for (i = study_first(input); i < study_end(input); i++) {
            if (!output_error(s, &s->calibration, i, &error, why)) return false;
            errors[format] += error;
            offer->bytes += bytes_of(&s->model.e.linears[i], format);
        }
        offer->error = hurt * errors[format] / errors[0];
    }
    place(s, input, NULL);
    return true;
}

static bool measure_formats(study *s, const formats *f, failure *why)
{
    progress bar = progress_begin("sensitivity", s->inputs);
    size_t input;

    for (input = 0; input < s->inputs; input++) place(s, input, NULL);
    for (input = 0; input < s->inputs; input++) {
        if (!measure_input(s, f, input, why)) return false;
        progress_step(&bar, input + 1);
    }
    progress_end(&bar);
    return true;
}

/* ---- formats --------------------------------------------------------------------------------- */

static bool make_formats(study *s, formats *f, failure *why)
{
    size_t size = study_bias(s, s->linears) * sizeof(float), i;
    progress bar = progress_begin("quantizing", FORMATS);
    bool done = true;

    for (i = 0; done && i < FORMATS; i++) {
        f->linears[i] = malloc(size);
        if (!f->linears[i]) return fail(why, "out of memory");
        done = i == SIXTEEN ? study_measure(s, round_to_half, NULL, &f->results[i], why)
                            : study_method(s, &methods[METHOD_BEST], quants[i], &f->results[i], why);
        memcpy(f->linears[i], s->approximations, size);
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    return done;
}

static void print_sizes(const study *s, const formats *f)
{
    size_t counts[FORMATS] = { 0 }, i;

    for (i = 0; i < s->inputs; i++)
        counts[f->choice[i]] += study_end(i) - study_first(i);
    for (i = 0; i < FORMATS; i++) printf("%zu%s", counts[i], i < SIXTEEN ? " / " : "");
}

static void print_mix(const char *name, double bits, const result *r, const result *uniform)
{
    printf("| %-12s | %.2f | %.3f | %.2f | %.3f | %.2f | %.5f | %.2f | ", name, bits, 1e3 * r->mean,
           r->mean / uniform->mean, 1e3 * r->down, r->down / uniform->down, r->cosine,
           r->cosine / uniform->cosine);
}

static bool print_budget_row(study *s, formats *f, double budget, failure *why)
{
    size_t size = awq_allot_scratch_size(s->inputs), weights = study_weights(s, s->linears);
    size_t input, i;
    awq_allotment allotted;
    awq_status status =
        awq_allot(f->offers, s->inputs, FORMATS, (uint64_t)(budget * (double)weights / 8), f->scratch,
                  size, f->choice, &allotted, NULL);
    char name[32];

    if (status == AWQ_ERR_RANGE)
        return fail(why, "a budget of %g bits per weight is too small: groups of %d take more", budget,
                    quants[0].group_size);
    if (status != AWQ_OK) return fail(why, "allotting: %s", awq_status_string(status));
    for (input = 0; input < s->inputs; input++) {
        place(s, input, f->linears[f->choice[input]]);
        for (i = study_first(input); i < study_end(input); i++)
            f->mix->errors[i] = f->results[f->choice[input]].errors[i];
    }
    if (!study_conclude(s, f->mix, why)) return false;
    snprintf(name, sizeof name, "budget %.2f", budget);
    print_mix(name, 8 * (double)allotted.bytes / (double)weights, f->mix, &f->results[COMPARED]);
    print_sizes(s, f);
    printf(" | %.2f |\n", allotted.error / allotted.bound);
    fflush(stdout);
    return true;
}

static void print_uniform(const study *s, const formats *f)
{
    char name[32];
    size_t i;

    printf("\n| format | bits per weight | error e-3 | to g128 | FFN down e-3 | to g128 | 1 - cos | to "
           "g128 | linears of g256 / g128 / g64 / g32 / 8 bits / fp16 | to the least possible |\n"
           "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|\n");
    for (i = 0; i < SIXTEEN; i++) {
        snprintf(name, sizeof name, "%d bits, g%d", quants[i].bits, quants[i].group_size);
        print_mix(name, study_bits(s, quants[i]), &f->results[i], &f->results[COMPARED]);
        printf("| |\n");
    }
}

static void formats_close(study *s, formats *f)
{
    size_t i;

    for (i = 0; i < FORMATS; i++) free(f->linears[i]);
    free(f->results);
    free(f->offers);
    free(f->choice);
    free(f->scratch);
    free(f->mix);
    for (i = 0; i < s->inputs; i++) place(s, i, s->approximations);
}

bool print_budgets(study *s, const table_options *options, failure *why)
{
    formats f;
    bool done;
    size_t i;

    memset(&f, 0, sizeof f);
    f.results = results_new(s, FORMATS, why);
    f.mix = results_new(s, 1, why);
    f.offers = malloc(s->inputs * FORMATS * sizeof *f.offers);
    f.choice = malloc(s->inputs * sizeof *f.choice);
    f.scratch = malloc(awq_allot_scratch_size(s->inputs));
    done = (f.results && f.mix && f.offers && f.choice && f.scratch) || fail(why, "out of memory");
    done = done && make_formats(s, &f, why) && measure_formats(s, &f, why);
    if (done) print_uniform(s, &f);
    for (i = 0; done && i < options->budgets_count; i++)
        done = print_budget_row(s, &f, options->budgets[i], why);
    formats_close(s, &f);
    return done;
}
