/*  methods.c - see methods.h. */
#include "methods.h"

#include <stdlib.h>
#include <string.h>

const method methods[METHODS] = {
    { "round to nearest", SCALE_NONE, false, false, false, { 0, 0 }, false },
    { "llm-awq's scales (mean)", SCALE_MEAN, false, false, false, { 0, 0 }, false },
    { "llm-awq: mean, clip", SCALE_MEAN, true, false, false, { 0, 0 }, false },
    { "AutoAWQ's scales (duo)", SCALE_DUO, false, false, false, { 0, 0 }, false },
    { "AutoAWQ's recipe: better scale, clip", SCALE_BETTER, true, false, false, { 0, 0 }, false },
    { "fit", SCALE_NONE, false, true, false, { 0, 0 }, false },
    { "AWQ + fit", SCALE_BETTER, false, true, false, { 0, 0 }, false },
    { "Hessian rounding", SCALE_NONE, false, false, true, { 0, 0 }, false },
    { "AWQ + Hessian rounding", SCALE_BETTER, false, false, true, { 0, 0 }, false },
    { "AWQ + fit + Hessian rounding", SCALE_BETTER, false, true, true, { 0, 0 }, false },
    { "the same, 2 passes", SCALE_BETTER, false, true, true, { 2, 1 }, false },
    { "the same, 5 passes", SCALE_BETTER, false, true, true, { 5, 1 }, false },
    { "balanced, fit, Hessian, 2 passes", SCALE_BALANCED, false, true, true, { 2, 1 }, false },
    { "the same, means into biases", SCALE_BALANCED, false, true, true, { 2, 1 }, true },
    { "the same, 5 passes", SCALE_BALANCED, false, true, true, { 5, 1 }, true },
};

static bool check(awq_status status, awq_where where, const char *what, failure *why)
{
    if (status == AWQ_OK) return true;
    return fail(why, "%s: %s (matrix %zu, row %zu, column %zu)", what, awq_status_string(status),
                where.matrix, where.row, where.col);
}

static bool reserve(void **memory, size_t size, failure *why)
{
    free(*memory);
    *memory = size ? malloc(size) : NULL;
    return *memory ? true : fail(why, "out of memory (%zu MB)", size >> 20);
}

static bool reserve_floats(float **floats, size_t count, failure *why)
{
    void *memory = *floats;
    bool done = reserve(&memory, count * sizeof(float), why);

    *floats = memory;
    return done;
}

static awq_inputs inputs_of(const sharing *all)
{
    awq_inputs inputs = { AWQ_LOSS_GRAM, all->stats, { NULL, 0, 0, 0, AWQ_F32 }, NULL, NULL, NULL };
    return inputs;
}

/* ---- scales ---------------------------------------------------------------------------------- */

static bool search(workshop *shop, awq_preset preset, awq_quant quant, const sharing *all,
                   float *scale, double *loss, failure *why)
{
    awq_search_config config = awq_search_preset(preset, quant);
    awq_inputs inputs = inputs_of(all);
    size_t size = awq_search_scratch_size(&inputs, all->weights, all->count, shop->parallel);
    awq_search_result result;
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (!reserve(&shop->work, size, why)) return false;
    status = awq_search(&shop->kernels, &config, &inputs, all->weights, all->count, shop->work, size,
                        shop->parallel, scale, NULL, &result, &where);
    *loss = result.loss;
    return check(status, where, "search", why);
}

static bool choose_scale(workshop *shop, scale_rule rule, awq_quant quant, const sharing *all,
                         failure *why)
{
    size_t in = all->weights[0].cols, i;
    double mean = 0, duo = 0;

    if (!reserve_floats(&shop->scale, in, why) || !reserve_floats(&shop->candidate, in, why))
        return false;
    for (i = 0; i < in; i++) shop->scale[i] = 1;
    if (rule != SCALE_NONE && rule != SCALE_DUO
        && !search(shop, AWQ_PRESET_LLM_AWQ, quant, all, shop->scale, &mean, why))
        return false;
    if (rule != SCALE_DUO && rule != SCALE_BETTER) return true;
    if (!search(shop, AWQ_PRESET_AUTOAWQ, quant, all, shop->candidate, &duo, why)) return false;
    if (rule == SCALE_DUO || duo < mean) memcpy(shop->scale, shop->candidate, in * sizeof(float));
    return true;
}

/* ---- integers -------------------------------------------------------------------------------- */

static bool clip(workshop *shop, awq_quant quant, const sharing *all, size_t which, failure *why)
{
    awq_clip_config config = awq_clip_preset(quant);
    awq_inputs inputs = inputs_of(all);
    awq_matrix weight = all->weights[which];
    size_t size = awq_clip_scratch_size(&inputs, weight, &config, shop->parallel);
    size_t groups = awq_group_count(weight.cols, quant.group_size);
    awq_where where = { 0, 0, 0 };

    if (!reserve_floats(&shop->clip_max, weight.rows * groups, why)
        || !reserve(&shop->work, size, why))
        return false;
    return check(awq_clip_search(&shop->kernels, &config, &inputs, weight, shop->scale, shop->work,
                                 size, shop->parallel, shop->clip_max, &where),
                 where, "clip search", why);
}

typedef struct grid_job {
    const workshop *shop;
    awq_matrix weight;
    const float *clip_max;
    bool fit;
    awq_tensor *tensor;
    awq_status status;          /* of the last task that failed */
} grid_job;

static void grid_task(void *argument, size_t begin, size_t end, size_t worker)
{
    grid_job *job = argument;
    const workshop *shop = job->shop;
    awq_status status =
        job->fit ? awq_fit(&shop->kernels, job->weight, shop->scale, shop->importance, job->tensor,
                           begin, end, NULL)
                 : awq_quantize(&shop->kernels, job->weight, shop->scale, job->clip_max, job->tensor,
                                begin, end, NULL);

    (void)worker;
    if (status != AWQ_OK) job->status = status;
}

static bool round_tensor(workshop *shop, const method *how, const awq_hessian *hessian,
                         awq_matrix weight, awq_tensor *tensor, failure *why)
{
    size_t size = awq_round_scratch_size(weight.cols, shop->parallel);
    awq_where where = { 0, 0, 0 };

    if (!reserve(&shop->work, size, why)) return false;
    return check(awq_round(&shop->kernels, &how->descent, hessian, weight, shop->scale, tensor,
                           shop->work, size, shop->parallel, &where),
                 where, "rounding", why);
}

static bool shift(workshop *shop, const sharing *all, size_t which, const awq_tensor *tensor,
                  failure *why)
{
    awq_matrix weight = all->weights[which];
    awq_where where = { 0, 0, 0 };

    if (!reserve_floats(&shop->candidate, weight.cols, why)) return false;
    return check(awq_stats_get(all->stats, AWQ_MEAN, shop->candidate), where, "statistics", why)
           && check(awq_shift_bias(weight, shop->scale, shop->candidate, tensor, all->biases[which],
                                   0, weight.rows, &where),
                    where, "bias", why);
}

static bool quantize_one(workshop *shop, const method *how, awq_quant quant, const sharing *all,
                         size_t which, const awq_hessian *hessian, failure *why)
{
    awq_matrix weight = all->weights[which], out = weight;
    size_t size = awq_tensor_size(quant, weight.rows, weight.cols);
    bool clips = how->clip && all->clipped[which];
    awq_where where = { 0, 0, 0 };
    awq_tensor tensor;
    grid_job job = { shop, weight, NULL, how->fit, &tensor, AWQ_OK };

    if (clips && !clip(shop, quant, all, which, why)) return false;
    if (clips) job.clip_max = shop->clip_max;
    if (!reserve(&shop->tensor, size, why)
        || !check(awq_tensor_init(&tensor, quant, weight.rows, weight.cols, shop->tensor, size),
                  where, "tensor", why))
        return false;
    shop->parallel->run(shop->parallel->context, weight.rows, 1, grid_task, &job);
    if (!check(job.status, where, how->fit ? "fit" : "quantize", why)) return false;
    if (how->round && !round_tensor(shop, how, hessian, weight, &tensor, why)) return false;
    out.data = all->approximations[which];
    if (how->shift && !shift(shop, all, which, &tensor, why)) return false;
    return check(awq_dequantize(&tensor, shop->scale, out, 0, weight.rows), where, "dequantize",
                 why);
}

static bool factor(workshop *shop, const float *scale, const sharing *all, awq_hessian *hessian,
                   failure *why)
{
    size_t size = awq_hessian_size(all->weights[0].cols);
    awq_where where = { 0, 0, 0 };

    return reserve(&shop->hessian, size, why)
           && check(awq_hessian_init(&shop->kernels, all->stats, scale, shop->damping,
                                     AWQ_ORDER_ACTIVATION, shop->hessian, size, shop->parallel,
                                     hessian, &where),
                    where, "factoring the Gram matrix", why);
}

/*  Scales and importance, and the factor if integers are to be chosen. */
static bool prepare(workshop *shop, const method *how, awq_quant quant, const sharing *all,
                    awq_hessian *hessian, failure *why)
{
    size_t in = all->weights[0].cols, size = awq_balance_scratch_size(in);
    awq_where where = { 0, 0, 0 };
    awq_tie none = { 0, 0 };

    if (!reserve_floats(&shop->importance, in, why)
        || !check(awq_stats_get(all->stats, AWQ_SQ_MEAN, shop->importance), where, "statistics", why))
        return false;
    if (how->scale != SCALE_BALANCED)
        return choose_scale(shop, how->scale, quant, all, why)
               && (!how->round || factor(shop, shop->scale, all, hessian, why));
    if (!factor(shop, NULL, all, hessian, why) || !reserve_floats(&shop->scale, in, why)
        || !reserve(&shop->work, size, why))
        return false;
    memcpy(shop->importance, hessian->innovation, in * sizeof *shop->importance);
    return check(awq_balance(&shop->kernels, quant, none, shop->importance, all->weights, all->count,
                             shop->work, size, shop->parallel, shop->scale, &where),
                 where, "balancing", why)
           && factor(shop, shop->scale, all, hessian, why);     /* damped for x / s */
}

bool quantize_sharing(workshop *shop, const method *how, awq_quant quant, const sharing *all,
                      failure *why)
{
    awq_where where = { 0, 0, 0 };
    awq_hessian hessian;
    bool done;
    size_t i;

    memset(&hessian, 0, sizeof hessian);
    if (!check(awq_stats_centre(all->stats, how->shift), where, "centring", why)) return false;
    done = prepare(shop, how, quant, all, &hessian, why);
    for (i = 0; done && i < all->count; i++)
        done = quantize_one(shop, how, quant, all, i, &hessian, why);
    return check(awq_stats_centre(all->stats, 0), where, "centring", why) && done;
}

void workshop_close(workshop *shop)
{
    free(shop->work);
    free(shop->hessian);
    free(shop->tensor);
    free(shop->scale);
    free(shop->candidate);
    free(shop->importance);
    free(shop->clip_max);
}
