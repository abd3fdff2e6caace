/*  quantize.c - see quantize.h. */
#include "quantize.h"

#include "../common/progress.h"
#include "packed_model.h"

#define DAMPING 0.1             /* of the Hessian: the calibration text is short */

/*  What the linears of a group share. */
typedef struct input {
    awq_stats stats;
    void *memory;               /* of the statistics */
    float *scale;
    float *importance;          /* what of a channel the others do not tell; for grids */
} input;

typedef struct pipeline {
    const encoder *e;           /* the original */
    const quantize_options *options;
    awq_kernels kernels;
    awq_parallel parallel;
    input *inputs;              /* [layers][INPUTS] */
    encoder out;                /* shares with e what does not change; its linears are its own */
    unsigned char **packed;     /* [linears], then the embedding */
    float *value, *value_bias;  /* v of every layer, folded: [layers][dim][dim], [layers][dim] */
    float *candidate;           /* a scale */
    float *clip_max;
    awq_hessian hessian;        /* of the current group */
    void *hessian_memory;
    awq_tensor tensor;          /* the current linear, if it is improved */
    void *tensor_memory;
    void *work;                 /* scratch of the call at hand */
    failure *why;
} pipeline;

static bool check(const pipeline *p, awq_status status, awq_where where, const char *name,
                  const char *what)
{
    if (status == AWQ_OK) return true;
    return fail(p->why, "%s: %s: %s (matrix %zu, row %zu, column %zu)", name, what,
                awq_status_string(status), where.matrix, where.row, where.col);
}

static void *reserve(const pipeline *p, void **memory, size_t size)
{
    free(*memory);
    *memory = size ? malloc(size) : NULL;
    if (!*memory) fail(p->why, "out of memory (%zu MB)", size >> 20);
    return *memory;
}

static input *input_of(const pipeline *p, size_t layer, size_t group)
{
    return &p->inputs[layer * INPUTS + group];
}

static linear *linear_of(const pipeline *p, size_t layer, size_t which)
{
    return &p->out.linears[layer * LINEARS + which];
}

static awq_matrix weight_of(const linear *l)
{
    return awq_matrix_view(l->weight, AWQ_F32, l->out_features, l->in_features);
}

/* ---- calibrate ------------------------------------------------------------------------------- */

static bool start_input(pipeline *p, size_t layer, size_t group)
{
    const linear *l = linear_of(p, layer, group_first((input_group)group));
    input *in = input_of(p, layer, group);
    size_t size = awq_stats_size(l->in_features, 0, 1);
    awq_where where = { 0, 0, 0 };

    in->scale = malloc(l->in_features * sizeof *in->scale);
    in->importance = malloc(l->in_features * sizeof *in->importance);
    if (!in->scale || !in->importance || !reserve(p, &in->memory, size))
        return fail(p->why, "out of memory");
    return check(p, awq_stats_init(&in->stats, l->in_features, 0, 1, 0, in->memory, size), where,
                 l->name, "statistics");
}

static bool see_input(void *context, size_t layer, input_group group, awq_matrix x,
                      const float *token_weight, failure *why)
{
    pipeline *p = context;
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_stats_add(&p->kernels, &input_of(p, layer, group)->stats, x,
                                      p->options->weigh_tokens ? token_weight : NULL,
                                      &p->parallel, &where);

    (void)why;      /* the pipeline's own */
    return check(p, status, where, linear_of(p, layer, group_first(group))->name, "calibration");
}

static bool calibrate(pipeline *p, const passages *texts)
{
    observer watch;
    size_t i;

    watch.see = see_input;
    watch.context = p;
    for (i = 0; i < p->e->layers * INPUTS; i++)
        if (!start_input(p, i / INPUTS, i % INPUTS)) return false;
    return watch_passages(p->e, texts, "calibrating", &watch, p->why);
}

/* ---- scales, and fold ------------------------------------------------------------------------ */

static size_t weights_of(const pipeline *p, size_t layer, input_group group,
                         awq_matrix weights[LINEARS])
{
    size_t i;

    for (i = 0; i < group_count(group); i++)
        weights[i] = weight_of(linear_of(p, layer, group_first(group) + i));
    return i;
}

static bool search_by(pipeline *p, awq_preset rule, size_t layer, input_group group, float *scale,
                      awq_search_result *result)
{
    awq_search_config config = awq_search_preset(rule, p->options->quant);
    input *in = input_of(p, layer, group);
    awq_inputs inputs = { AWQ_LOSS_GRAM, &in->stats, { NULL, 0, 0, 0, AWQ_F32 }, NULL, NULL, NULL };
    awq_matrix weights[LINEARS];
    size_t count = weights_of(p, layer, group, weights);
    size_t size = awq_search_scratch_size(&inputs, weights, count, &p->parallel);
    awq_where where = { 0, 0, 0 };

    if (!reserve(p, &p->work, size)) return false;
    return check(p, awq_search(&p->kernels, &config, &inputs, weights, count, p->work, size,
                               &p->parallel, scale, NULL, result, &where),
                 where, linear_of(p, layer, group_first(group))->name, "search");
}

/*  The better of two rules that make scales, by the output error on the calibration text. */
static bool search_group(pipeline *p, size_t layer, input_group group)
{
    float *scale = input_of(p, layer, group)->scale;
    awq_search_result mean, duo;

    if (!search_by(p, AWQ_PRESET_LLM_AWQ, layer, group, scale, &mean)
        || !search_by(p, AWQ_PRESET_AUTOAWQ, layer, group, p->candidate, &duo))
        return false;
    if (duo.loss < mean.loss)
        memcpy(scale, p->candidate,
               linear_of(p, layer, group_first(group))->in_features * sizeof *scale);
    return true;
}

/*  scale: of the inputs, or NULL. */
static bool factor(pipeline *p, input *in, const float *scale, const linear *l)
{
    size_t size = awq_hessian_size(l->in_features);
    awq_where where = { 0, 0, 0 };

    if (!reserve(p, &p->hessian_memory, size)) return false;
    return check(p, awq_hessian_init(&p->kernels, &in->stats, scale, DAMPING, AWQ_ORDER_ACTIVATION,
                                     p->hessian_memory, size, &p->parallel, &p->hessian, &where),
                 where, l->name, "factoring the Gram matrix");
}

static bool balance_group(pipeline *p, size_t layer, input_group group)
{
    const linear *first = linear_of(p, layer, group_first(group));
    input *in = input_of(p, layer, group);
    size_t size = awq_balance_scratch_size(first->in_features), count;
    awq_matrix weights[LINEARS];
    awq_tie none = { 0, 0 };
    awq_where where = { 0, 0, 0 };

    if (!factor(p, in, NULL, first) || !reserve(p, &p->work, size)) return false;
    memcpy(in->importance, p->hessian.innovation, first->in_features * sizeof *in->importance);
    count = weights_of(p, layer, group, weights);
    return check(p, awq_balance(&p->kernels, p->options->quant, none, in->importance, weights, count,
                                p->work, size, &p->parallel, in->scale, &where),
                 where, first->name, "balancing");
}

/*  o's scale goes into the rows of v. The other inputs come out of norms that feed the residual too,
    and of a GELU: their scales stay with the linears, which divide x while they read it. */
static bool fold(pipeline *p, size_t layer)
{
    size_t dim = p->e->dim, group, i;
    linear *v = linear_of(p, layer, LINEAR_V), *first;
    float *weight = p->value + layer * dim * dim, *bias = p->value_bias + layer * dim;
    awq_tie none = { 0, 0 };
    awq_where where = { 0, 0, 0 };

    memcpy(weight, v->weight, dim * dim * sizeof *weight);
    memcpy(bias, v->bias, dim * sizeof *bias);
    v->weight = weight;
    v->bias = bias;
    for (group = 0; group < INPUTS; group++) {
        first = linear_of(p, layer, group_first((input_group)group));
        for (i = 0; group != INPUT_O && i < group_count((input_group)group); i++)
            first[i].input_scale = input_of(p, layer, group)->scale;
    }
    return check(p, awq_fold_linear(AWQ_FOLD, input_of(p, layer, INPUT_O)->scale, dim, none,
                                    awq_matrix_view(weight, AWQ_F32, dim, dim),
                                    awq_matrix_view(bias, AWQ_F32, 1, dim), &where),
                 where, v->name, "folding");
}

/* ---- clip, or better grids and integers ------------------------------------------------------ */

static bool clip(pipeline *p, const input *in, const linear *l)
{
    awq_clip_config config = awq_clip_preset(p->options->quant);
    awq_inputs inputs = { AWQ_LOSS_GRAM, &in->stats, { NULL, 0, 0, 0, AWQ_F32 }, NULL, NULL, NULL };
    size_t size = awq_clip_scratch_size(&inputs, weight_of(l), &config, &p->parallel);
    awq_where where = { 0, 0, 0 };

    if (!reserve(p, &p->work, size)) return false;
    return check(p, awq_clip_search(&p->kernels, &config, &inputs, weight_of(l), in->scale, p->work,
                                    size, &p->parallel, p->clip_max, &where),
                 where, l->name, "clip search");
}

/*  Quantizes a linear to p->tensor. */
static bool improve(pipeline *p, const input *in, const linear *l)
{
    awq_round_config config = { 2, 1 };
    awq_quant quant = p->options->quant;
    size_t size = awq_tensor_size(quant, l->out_features, l->in_features);
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (!reserve(p, &p->tensor_memory, size)) return false;
    status = awq_tensor_init(&p->tensor, quant, l->out_features, l->in_features, p->tensor_memory,
                             size);
    if (status == AWQ_OK)
        status = awq_fit(&p->kernels, weight_of(l), in->scale, in->importance, &p->tensor, 0,
                         l->out_features, &where);
    size = awq_round_scratch_size(l->in_features, &p->parallel);
    if (!reserve(p, &p->work, size)) return false;
    if (status == AWQ_OK)
        status = awq_round(&p->kernels, &config, &p->hessian, weight_of(l), in->scale, &p->tensor,
                           p->work, size, &p->parallel, &where);
    return check(p, status, where, l->name, "rounding");
}

/* ---- quantize and pack ----------------------------------------------------------------------- */

/*  tensor: what is quantized already, or NULL. */
static bool pack(pipeline *p, unsigned char **bytes, linear *l, awq_quant quant, const float *scale,
                 const float *clip_max, const awq_tensor *tensor)
{
    size_t rows = l->out_features, size = awq_packed_size(quant, rows, l->in_features);
    awq_where where = { 0, 0, 0 };
    awq_status status;

    *bytes = malloc(size + 1);
    if (!*bytes) return fail(p->why, "out of memory");
    status = awq_packed_init(quant, rows, l->in_features, *bytes, size);
    if (status == AWQ_OK)
        status = tensor ? awq_pack(&p->kernels, tensor, *bytes, size, 0, rows, &where)
                        : awq_quantize_packed(&p->kernels, weight_of(l), scale, clip_max, *bytes,
                                              size, 0, rows, &where);
    if (status == AWQ_OK) status = awq_packed_open(&l->packed, *bytes, size);
    return check(p, status, where, l->name, "packing");
}

/*  q and k keep their range: clipping them changes which tokens attention picks. */
static bool pack_group(pipeline *p, size_t layer, input_group group)
{
    bool plain = p->options->plain, better = !plain && p->options->improve;
    input *in = input_of(p, layer, group);
    size_t which = group_first(group), end = which + group_count(group);

    if (better && !factor(p, in, in->scale, linear_of(p, layer, which))) return false;
    for (; which < end; which++) {
        linear *l = linear_of(p, layer, which);
        bool clipped = !plain && !better && which != LINEAR_Q && which != LINEAR_K;
        if (better && !improve(p, in, l)) return false;
        if (clipped && !clip(p, in, l)) return false;
        if (!pack(p, &p->packed[layer * LINEARS + which], l, p->options->quant,
                  plain ? NULL : in->scale, clipped ? p->clip_max : NULL,
                  better ? &p->tensor : NULL))
            return false;
    }
    return true;
}

static bool quantize_layer(pipeline *p, size_t layer)
{
    size_t group;

    for (group = 0; !p->options->plain && group < INPUTS; group++)
        if (p->options->improve ? !balance_group(p, layer, (input_group)group)
                                : !search_group(p, layer, (input_group)group))
            return false;
    if (!p->options->plain && !fold(p, layer)) return false;
    for (group = 0; group < INPUTS; group++)
        if (!pack_group(p, layer, (input_group)group)) return false;
    return true;
}

static bool quantize_all(pipeline *p)
{
    awq_quant quant = p->options->quant;
    progress bar = progress_begin("quantizing", p->e->layers);
    size_t layer;

    for (layer = 0; layer < p->e->layers; layer++) {
        if (!quantize_layer(p, layer)) return false;
        progress_step(&bar, layer + 1);
    }
    quant.bits = p->options->embedding_bits;
    if (!pack(p, &p->packed[p->e->layers * LINEARS], &p->out.embedding, quant, NULL, NULL, NULL))
        return false;
    progress_end(&bar);
    return true;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static bool open_pipeline(pipeline *p)
{
    const encoder *e = p->e;
    size_t linears = e->layers * LINEARS, widest = e->dim > e->ffn_dim ? e->dim : e->ffn_dim;

    p->out = *e;
    p->out.linears = malloc(linears * sizeof *p->out.linears);
    p->inputs = calloc(e->layers * INPUTS, sizeof *p->inputs);
    p->packed = calloc(linears + 1, sizeof *p->packed);
    p->value = malloc(e->layers * e->dim * e->dim * sizeof *p->value);
    p->value_bias = malloc(e->layers * e->dim * sizeof *p->value_bias);
    p->clip_max = malloc(widest * e->dim * sizeof *p->clip_max);
    p->candidate = malloc(widest * sizeof *p->candidate);
    if (!p->out.linears || !p->inputs || !p->packed || !p->value || !p->value_bias || !p->clip_max
        || !p->candidate)
        return fail(p->why, "out of memory");
    memcpy(p->out.linears, e->linears, linears * sizeof *p->out.linears);
    return true;
}

static void close_pipeline(pipeline *p)
{
    size_t i;

    for (i = 0; p->inputs && i < p->e->layers * INPUTS; i++) {
        free(p->inputs[i].memory);
        free(p->inputs[i].scale);
        free(p->inputs[i].importance);
    }
    for (i = 0; p->packed && i <= p->e->layers * LINEARS; i++) free(p->packed[i]);
    free(p->out.linears);
    free(p->inputs);
    free(p->packed);
    free(p->value);
    free(p->value_bias);
    free(p->candidate);
    free(p->clip_max);
    free(p->hessian_memory);
    free(p->tensor_memory);
    free(p->work);
}

unsigned char *quantize_encoder(const encoder *e, parallel_pool *pool, const passages *calibration,
                                const quantize_options *options, size_t *size, failure *why)
{
    unsigned char *bytes = NULL;
    pipeline p;

    memset(&p, 0, sizeof p);
    p.e = e;
    p.options = options;
    p.kernels = awq_kernels_best();
    p.parallel.run = parallel_run;
    p.parallel.context = pool;
    p.parallel.workers = pool->workers;
    p.why = why;
    if (open_pipeline(&p) && (options->plain || calibrate(&p, calibration)) && quantize_all(&p))
        bytes = packed_model_make(&p.out, size, why);
    close_pipeline(&p);
    return bytes;
}
