/*  quantize.c - see quantize.h and pipeline.h. */
#include "pipeline.h"

#include "../common/dense.h"
#include "../common/progress.h"
#include "calibrate.h"
#include "tune.h"

#define NO_LAYER SIZE_MAX

static bool check(awq_status status, const awq_where *where, size_t layer_index, const char *what,
                  failure *why)
{
    if (status == AWQ_OK) return true;
    if (layer_index == NO_LAYER)
        return fail(why, "%s: %s (row %zu, column %zu)", what, awq_status_string(status),
                    where->row, where->col);
    return fail(why, "layer %zu: %s: %s (matrix %zu, row %zu, column %zu)", layer_index, what,
                awq_status_string(status), where->matrix, where->row, where->col);
}

static bool reserve_scratch(scratch *memory, size_t size, failure *why)
{
    if (size == 0) return fail(why, "the calibration would need more memory than can be addressed");
    if (size <= memory->size) return true;
    free(memory->bytes);
    memory->bytes = malloc(size);
    memory->size = memory->bytes ? size : 0;
    return memory->bytes ? true : fail(why, "out of memory (%zu MB)", size >> 20);
}

size_t group_inputs(const model *m, size_t group)
{
    return m->layers[0].linears[group_first((input_group)group)].in_features;
}

awq_quant head_quant(const quantize_options *options)
{
    awq_quant quant = options->quant;
    quant.bits = options->head_bits;
    return quant;
}

static awq_matrix weight_view(const pipeline *p, size_t which)
{
    const linear *l = &p->m->layers[0].linears[which];
    return awq_matrix_view(p->weights[which], AWQ_F32, l->out_features, l->in_features);
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool find_word(const char *word, const char names[][9], int count, int *found)
{
    for (*found = 0; *found < count; ++*found)
        if (strcmp(word, names[*found]) == 0) return true;
    return false;
}

bool parse_method(const char *word, quantize_options *options, failure *why)
{
    static const char names[METHODS][9] = { "nearest", "awq", "best", "tuned" };
    int found;

    if (!find_word(word, names, METHODS, &found))
        return fail(why, "--method: \"%s\" is none of nearest, awq, best, tuned", word);
    options->method = (method)found;
    return true;
}

bool parse_scale_rule(const char *word, quantize_options *options, failure *why)
{
    static const char names[SCALE_RULES][9] = { "mean", "max", "duo", "better", "balanced" };
    int found;

    if (!find_word(word, names, SCALE_RULES, &found))
        return fail(why, "--scale: \"%s\" is none of mean, max, duo, better, balanced", word);
    options->scale = (scale_rule)found;
    return true;
}

quantize_options quantize_defaults(void)
{
    quantize_options options;

    memset(&options, 0, sizeof options);
    options.quant.bits = 4;
    options.quant.group_size = 128;
    options.quant.scale_dtype = AWQ_F16;
    options.head_bits = 8;
    options.method = METHOD_BEST;
    options.scale = SCALE_BALANCED;
    options.clip = true;
    options.weigh_tokens = true;
    options.damping = 0.1;
    options.round.passes = 2;
    options.round.refit = 1;
    options.tune_steps = 128;
    return options;
}

bool rounds_by_hessian(const quantize_options *options)
{
    return options->method >= METHOD_BEST;
}

/* ---- calibrate ------------------------------------------------------------------------------- */

bool see_inputs(void *context, size_t layer_index, input_group group, const float *rows,
                size_t tokens, const float *received, failure *why)
{
    pipeline *p = context;
    float weight[WINDOW];
    awq_where where = { 0, 0, 0 };
    awq_status status;

    weigh_tokens(received, tokens, weight);
    status = awq_stats_add(&p->c->kernels, &p->stats[group],
                           awq_matrix_view(rows, AWQ_F32, tokens, group_inputs(p->m, group)),
                           p->options->weigh_tokens ? weight : NULL, &p->c->parallel, &where);
    return check(status, &where, layer_index, "calibration", why);
}

bool start_stats(pipeline *p, awq_stats *stats, scratch *memory, failure *why)
{
    bool with_gram = rounds_by_hessian(p->options);
    size_t group;

    memset(p->hessian, 0, sizeof p->hessian);

    for (group = 0; group < INPUTS; group++) {
        size_t inputs = group_inputs(p->m, group);
        size_t size = awq_stats_size(inputs, SKETCH_ROWS, with_gram);
        awq_where where = { 0, 0, 0 };
        awq_status status;
        if (!reserve_scratch(&memory[group], size, why)) return false;
        status = awq_stats_init(&stats[group], inputs, SKETCH_ROWS, with_gram, group + 1,
                                memory[group].bytes, memory[group].size);
        if (!check(status, &where, 0, "statistics", why)) return false;
    }
    return true;
}

static bool calibrate_layer(pipeline *p, calibration *inputs, size_t index, failure *why)
{
    observer watch;

    watch.see = see_inputs;
    watch.context = p;
    return start_stats(p, p->stats, p->stats_memory, why)
           && calibration_windows(inputs, index, 0, inputs->windows, &watch, why);
}

/* ---- search and fold ------------------------------------------------------------------------- */

static awq_inputs inputs_of(const pipeline *p, size_t group)
{
    awq_inputs inputs;
    memset(&inputs, 0, sizeof inputs);
    inputs.loss = AWQ_LOSS_SKETCH;
    inputs.stats = &p->stats[group];
    return inputs;
}

/*  Query heads that share a kv head read the same v channels: their scales are tied. */
static awq_tie attention_tie(const model *m)
{
    awq_tie tie;
    tie.repeat = m->heads / m->kv_heads;
    tie.head_dim = m->head_dim;
    return tie;
}

static bool search_by(pipeline *p, awq_preset preset, size_t index, input_group group,
                      awq_search_result *result, failure *why)
{
    awq_search_config config = awq_search_preset(preset, p->options->quant);
    awq_inputs inputs = inputs_of(p, group);
    size_t first = group_first(group), count = group_count(group), i, size;
    awq_matrix weights[LINEARS];
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (group == INPUT_O) config.tie = attention_tie(p->m);
    for (i = 0; i < count; i++) weights[i] = weight_view(p, first + i);
    size = awq_search_scratch_size(&inputs, weights, count, &p->c->parallel);
    if (!reserve_scratch(&p->work, size, why)) return false;
    status = awq_search(&p->c->kernels, &config, &inputs, weights, count, p->work.bytes,
                        p->work.size, &p->c->parallel, p->candidate, NULL, result, &where);
    return check(status, &where, index, "search", why);
}

static bool factor_group(pipeline *p, size_t index, input_group group, failure *why)
{
    size_t size = awq_hessian_size(group_inputs(p->m, group));
    scratch *memory = &p->hessian_memory[group];
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (!reserve_scratch(memory, size, why)) return false;
    status = awq_hessian_init(&p->c->kernels, &p->stats[group], NULL, p->options->damping,
                              AWQ_ORDER_ACTIVATION, memory->bytes, memory->size, &p->c->parallel,
                              &p->hessian[group], &where);
    return check(status, &where, index, "factoring the Gram matrix", why);
}

/*  From what the factor knows of each channel, without a search: the result stays empty. */
static bool balance_group(pipeline *p, size_t index, input_group group, failure *why)
{
    size_t count = group_count(group), inputs = group_inputs(p->m, group), i;
    size_t size = awq_balance_scratch_size(inputs);
    awq_tie tie = { 0, 0 };
    awq_matrix weights[LINEARS];
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (group == INPUT_O) tie = attention_tie(p->m);
    for (i = 0; i < count; i++) weights[i] = weight_view(p, group_first(group) + i);
    if (!factor_group(p, index, group, why) || !reserve_scratch(&p->work, size, why)) return false;
    status = awq_balance(&p->c->kernels, p->options->quant, tie, p->hessian[group].innovation,
                         weights, count, p->work.bytes, p->work.size, &p->c->parallel,
                         p->scale[group], &where);
    return check(status, &where, index, "balancing", why);
}

bool search_group(pipeline *p, size_t index, input_group group, awq_search_result *result,
                  failure *why)
{
    static const struct { size_t count; awq_preset presets[2]; } rules[] = {
        { 1, { AWQ_PRESET_LLM_AWQ } }, { 1, { AWQ_PRESET_PAPER } }, { 1, { AWQ_PRESET_AUTOAWQ } },
        { 2, { AWQ_PRESET_LLM_AWQ, AWQ_PRESET_AUTOAWQ } },
        { 2, { AWQ_PRESET_LLM_AWQ, AWQ_PRESET_AUTOAWQ } }, /* balanced: without a Gram matrix */
    };
    awq_search_result found;
    size_t i;

    memset(result, 0, sizeof *result);
    if (p->options->scale == SCALE_BALANCED && rounds_by_hessian(p->options))
        return balance_group(p, index, group, why);
    for (i = 0; i < rules[p->options->scale].count; i++) {
        if (!search_by(p, rules[p->options->scale].presets[i], index, group, &found, why))
            return false;
        if (i > 0 && !(found.loss < result->loss)) continue;
        *result = found;
        memcpy(p->scale[group], p->candidate, group_inputs(p->m, group) * sizeof(float));
    }
    return true;
}

static awq_matrix vector_view(const float *data, size_t length)
{
    awq_matrix view = awq_matrix_view(data, AWQ_F32, 1, length);
    if (!data) memset(&view, 0, sizeof view);
    return view;
}

static bool fold_norm(pipeline *p, size_t index, input_group group, float *norm, failure *why)
{
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_fold_norm(AWQ_FOLD, p->scale[group], p->m->dim,
                                      vector_view(norm, p->m->dim), vector_view(NULL, 0), &where);
    return check(status, &where, index, "folding into the norm", why);
}

/*  The scale of `group` goes into the rows of the linear that makes its input. */
static bool fold_linear(pipeline *p, size_t index, input_group group, size_t producer, failure *why)
{
    const linear *l = &p->out->m.layers[index].linears[producer];
    awq_tie tie = { 0, 0 };
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (group == INPUT_O) tie = attention_tie(p->m);
    status =
        awq_fold_linear(AWQ_FOLD, p->scale[group], group_inputs(p->m, group), tie,
                        weight_view(p, producer), vector_view(l->bias, l->out_features), &where);
    return check(status, &where, index, "folding into the linear before", why);
}

bool fold_layer(pipeline *p, size_t index, failure *why)
{
    layer *l = &p->out->m.layers[index];

    return fold_norm(p, index, INPUT_QKV, l->attention_norm, why)
           && fold_norm(p, index, INPUT_GATE_UP, l->ffn_norm, why)
           && fold_linear(p, index, INPUT_O, LINEAR_V, why)
           && fold_linear(p, index, INPUT_DOWN, LINEAR_UP, why);
}

/*  Scales are all searched on the weights as they are; folding afterwards only rescales whole rows,
    which rounding does not notice. */
static bool search_and_fold(pipeline *p, size_t index, failure *why)
{
    awq_search_result result;
    size_t group;

    for (group = 0; group < INPUTS; group++) {
        if (!search_group(p, index, (input_group)group, &result, why)) return false;
        p->out->loss += result.loss;
        p->out->plain_loss += result.identity_loss;
    }
    return fold_layer(p, index, why);
}

/* ---- better grids, better integers ----------------------------------------------------------- */

/*  Rows of one linear: [begin, end), from a multiple of AWQ_ROW_STEP. */
typedef struct row_job {
    pipeline *p;
    awq_matrix weight;
    const float *scale, *clip_max;
    const awq_hessian *hessian; /* of its inputs */
    const awq_tensor *tensor;   /* what is already quantized, or NULL */
    awq_quant quant;
    size_t begin, end;
    unsigned char *memory;      /* of the packed linear */
    size_t index;
    const char *name;
} row_job;

/*  Its rows over all threads: the tasks leave their failures in c->status and c->where. */
static bool run_rows(row_job *job, size_t step, parallel_task *task, failure *why)
{
    compute *c = job->p->c;
    size_t i;

    for (i = 0; i < c->pool.workers; i++) c->status[i] = AWQ_OK;
    parallel_run(&c->pool, job->end - job->begin, step, task, job);
    for (i = 0; i < c->pool.workers; i++)
        if (!check(c->status[i], &c->where[i], job->index, job->name, why)) return false;
    return true;
}

static void fit_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const row_job *job = arg;
    compute *c = job->p->c;
    awq_status status = awq_fit(&c->kernels, job->weight, job->scale, job->hessian->innovation,
                                &job->p->tensor, job->begin + begin, job->begin + end,
                                &c->where[worker]);
    if (status != AWQ_OK) c->status[worker] = status;
}

/*  Some rows of a tensor, as awq_matrix_rows() has them of a matrix. */
static awq_tensor tensor_rows(awq_tensor tensor, size_t begin, size_t end)
{
    size_t groups = awq_group_count(tensor.in_features, tensor.quant.group_size);

    tensor.out_features = end - begin;
    tensor.q += begin * tensor.in_features;
    tensor.zeros += begin * groups;
    tensor.scales = (unsigned char *)tensor.scales
                    + begin * groups * awq_dtype_size(tensor.quant.scale_dtype);
    return tensor;
}

/*  Quantizes rows of one linear to p->tensor. */
static bool improve_rows(row_job *job, failure *why)
{
    pipeline *p = job->p;
    compute *c = p->c;
    size_t out = job->weight.rows, in = job->weight.cols;
    awq_where where = { 0, 0, 0 };
    awq_status status;
    awq_tensor rows;

    if (!reserve_scratch(&p->tensor_memory, awq_tensor_size(job->quant, out, in), why)
        || !reserve_scratch(&p->work, awq_round_scratch_size(in, &c->parallel), why))
        return false;
    status = awq_tensor_init(&p->tensor, job->quant, out, in, p->tensor_memory.bytes,
                             p->tensor_memory.size);
    if (!check(status, &where, job->index, job->name, why)) return false;
    if (!run_rows(job, 1, fit_task, why)) return false;
    rows = tensor_rows(p->tensor, job->begin, job->end);
    status = awq_round(&c->kernels, &p->options->round, job->hessian,
                       awq_matrix_rows(job->weight, job->begin, job->end), job->scale, &rows,
                       p->work.bytes, p->work.size, &c->parallel, &where);
    job->tensor = &p->tensor;
    return check(status, &where, job->index, "rounding", why);
}

/* ---- clip, quantize, pack -------------------------------------------------------------------- */

static bool clip_rows(row_job *job, input_group group, failure *why)
{
    pipeline *p = job->p;
    awq_clip_config config = awq_clip_preset(job->quant);
    awq_inputs inputs = inputs_of(p, group);
    awq_matrix weight = awq_matrix_rows(job->weight, job->begin, job->end);
    size_t groups = awq_group_count(weight.cols, job->quant.group_size);
    awq_where where = { 0, 0, 0 };
    awq_status status;

    if (!reserve_scratch(&p->work, awq_clip_scratch_size(&inputs, weight, &config, &p->c->parallel),
                         why))
        return false;
    status = awq_clip_search(&p->c->kernels, &config, &inputs, weight, job->scale, p->work.bytes,
                             p->work.size, &p->c->parallel, p->clip_max + job->begin * groups,
                             &where);
    job->clip_max = p->clip_max;
    return check(status, &where, job->index, "clip search", why);
}

static void pack_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const row_job *job = arg;
    compute *c = job->p->c;
    size_t size = awq_packed_size(job->quant, job->weight.rows, job->weight.cols);
    size_t first = job->begin + begin, last = job->begin + end;
    awq_status status =
        job->tensor ? awq_pack(&c->kernels, job->tensor, job->memory, size, first, last,
                               &c->where[worker])
                    : awq_quantize_packed(&c->kernels, job->weight, job->scale, job->clip_max,
                                          job->memory, size, first, last, &c->where[worker]);
    if (status != AWQ_OK) c->status[worker] = status;
}

/*  The improvers need a factor of the Gram matrix, which the linears of a group share. */
bool ready_group(pipeline *p, size_t index, input_group group, failure *why)
{
    return p->options->method != METHOD_BEST || p->hessian[group].gram
           || factor_group(p, index, group, why);
}

/*  q and k keep their range: clipping them changes which tokens attention picks. */
bool is_clipped(const quantize_options *options, size_t which)
{
    return options->method == METHOD_AWQ && options->clip && which != LINEAR_Q && which != LINEAR_K;
}

bool quantize_rows(pipeline *p, size_t index, size_t which, size_t begin, size_t end,
                   unsigned char *memory, failure *why)
{
    const quantize_options *options = p->options;
    input_group group = linear_group(which);
    tensor_name name = gguf_name(index, which, "");
    row_job job = { p, weight_view(p, which), p->scale[group], NULL, &p->hessian[group], NULL,
                    options->quant, begin, end, memory, index, name.text };

    if (options->method == METHOD_NEAREST) job.scale = NULL;
    if (is_clipped(options, which) && !clip_rows(&job, group, why)) return false;
    if (rounds_by_hessian(options) && !improve_rows(&job, why)) return false;
    return run_rows(&job, AWQ_ROW_STEP, pack_task, why);
}

bool round_rows(pipeline *p, awq_matrix weight, awq_quant quant, size_t begin, size_t end,
                unsigned char *memory, failure *why)
{
    row_job job = { p, weight, NULL, NULL, NULL, NULL, quant, begin, end, memory, NO_LAYER,
                    "output head" };
    return run_rows(&job, AWQ_ROW_STEP, pack_task, why);
}

bool place_linear(linear *l, awq_quant quant, unsigned char *memory, failure *why)
{
    size_t size = awq_packed_size(quant, l->out_features, l->in_features);
    awq_status status = awq_packed_init(quant, l->out_features, l->in_features, memory, size);

    if (status == AWQ_OK) status = awq_packed_open(&l->packed, memory, size);
    return status == AWQ_OK ? true : fail(why, "packing: %s", awq_status_string(status));
}

/*  The next free place among the packed bytes. */
static unsigned char *place_next(pipeline *p, linear *l, awq_quant quant, failure *why)
{
    unsigned char *memory = p->out->packed + p->packed_used;

    if (!place_linear(l, quant, memory, why)) return NULL;
    p->packed_used += l->packed.size;
    return memory;
}

static bool pack_group(pipeline *p, size_t index, input_group group, failure *why)
{
    size_t which = group_first(group), end = which + group_count(group);

    if (!ready_group(p, index, group, why)) return false;
    for (; which < end; which++) {
        linear *l = &p->out->m.layers[index].linears[which];
        unsigned char *memory = place_next(p, l, p->options->quant, why);
        if (!memory || !quantize_rows(p, index, which, 0, l->out_features, memory, why))
            return false;
    }
    return true;
}

/*  Eight bits lose next to nothing without any search. */
static bool pack_head(pipeline *p, failure *why)
{
    model *m = &p->out->m;
    size_t rows = m->head.out_features, columns = m->head.in_features;
    float *weight = malloc(rows * columns * sizeof *weight);
    unsigned char *memory;
    bool packed;

    if (!weight) return fail(why, "out of memory");
    linear_decode(p->c, &p->m->head, weight);
    memory = place_next(p, &m->head, head_quant(p->options), why);
    packed = memory
             && round_rows(p, awq_matrix_view(weight, AWQ_F32, rows, columns),
                           head_quant(p->options), 0, rows, memory, why);
    if (packed && m->tied) m->embedding = m->head;
    free(weight);
    return packed;
}

/* ---- the layers ------------------------------------------------------------------------------ */

void decode_linear(pipeline *p, size_t index, size_t which)
{
    linear_decode(p->c, &p->m->layers[index].linears[which], p->weights[which]);
}

static bool quantize_layer(pipeline *p, calibration *inputs, size_t index, failure *why)
{
    size_t group, which;
    bool awq = p->options->method != METHOD_NEAREST;

    if (awq && !calibrate_layer(p, inputs, index, why)) return false;
    for (which = 0; which < LINEARS; which++) decode_linear(p, index, which);
    if (awq && !search_and_fold(p, index, why)) return false;
    for (group = 0; group < INPUTS; group++)
        if (!pack_group(p, index, (input_group)group, why)) return false;
    return true;
}

static bool quantize_layers(pipeline *p, calibration *inputs, failure *why)
{
    progress bar = progress_begin(p->options->method == METHOD_NEAREST ? "rounding to nearest"
                                                                       : "quantizing with AWQ",
                                  p->m->layers_count);
    size_t i;

    for (i = 0; i < p->m->layers_count; i++) {
        if (!quantize_layer(p, inputs, i, why)) return false;
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    return p->options->head_bits < 16 ? pack_head(p, why) : true;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static float *copy_floats(const float *from, size_t count)
{
    float *copy = malloc(count * sizeof *copy);
    if (copy) memcpy(copy, from, count * sizeof *copy);
    return copy;
}

/*  Norms and biases of the quantized model are its own, because folding changes them. */
static bool copy_layer(layer *to, const layer *from, size_t dim, failure *why)
{
    size_t which;
    bool copied;

    *to = *from;
    to->attention_norm = copy_floats(from->attention_norm, dim);
    to->ffn_norm = copy_floats(from->ffn_norm, dim);
    copied = to->attention_norm && to->ffn_norm;
    for (which = 0; which < LINEARS; which++) {
        linear *l = &to->linears[which];
        if (!l->bias) continue;
        l->bias = copy_floats(l->bias, l->out_features);
        copied = copied && l->bias;
    }
    return copied ? true : fail(why, "out of memory");
}

/*  Bytes of all packed linears; 0 and a message if there is no such quantization. */
static size_t packed_size(const model *m, const quantize_options *options, failure *why)
{
    size_t which, size = 0, bytes = 1, head = 0;

    for (which = 0; which < LINEARS && bytes; which++) {
        const linear *l = &m->layers[0].linears[which];
        bytes = awq_packed_size(options->quant, l->out_features, l->in_features);
        size += bytes * m->layers_count;
    }
    if (options->head_bits < 16)
        head = awq_packed_size(head_quant(options), m->head.out_features, m->head.in_features);
    if (bytes && (head || options->head_bits >= 16)) return size + head;
    fail(why, "no such quantization: %d bits (the head %d), groups of %d", options->quant.bits,
         options->head_bits, options->quant.group_size);
    return 0;
}

static bool open_output(quantized_model *q, const model *m, const quantize_options *options,
                        failure *why)
{
    size_t i;

    memset(q, 0, sizeof *q);
    q->packed_size = packed_size(m, options, why);
    if (!q->packed_size) return false;
    q->packed = malloc(q->packed_size);
    q->m = *m;
    q->m.layers = calloc(m->layers_count, sizeof *q->m.layers);
    if (!q->packed || !q->m.layers) return fail(why, "out of memory");
    for (i = 0; i < m->layers_count; i++)
        if (!copy_layer(&q->m.layers[i], &m->layers[i], m->dim, why)) return false;
    return true;
}

void quantized_model_close(quantized_model *q)
{
    size_t i, which;

    for (i = 0; q->m.layers && i < q->m.layers_count; i++) {
        layer *l = &q->m.layers[i];
        free(l->attention_norm);
        free(l->ffn_norm);
        for (which = 0; which < LINEARS; which++) free((void *)(uintptr_t)l->linears[which].bias);
    }
    free(q->m.layers);
    free(q->packed);
    memset(q, 0, sizeof *q);
}

static bool open_scales(pipeline *p, failure *why)
{
    size_t group;

    for (group = 0; group < INPUTS; group++) {
        p->scale[group] = malloc(group_inputs(p->m, group) * sizeof(float));
        if (!p->scale[group]) return fail(why, "out of memory");
    }
    return true;
}

static bool open_weights(pipeline *p, failure *why)
{
    size_t which, clips = 0, widest = 0;

    for (which = 0; which < LINEARS; which++) {
        const linear *l = &p->m->layers[0].linears[which];
        size_t groups = awq_group_count(l->in_features, p->options->quant.group_size);
        if (l->out_features * groups > clips) clips = l->out_features * groups;
        if (l->in_features > widest) widest = l->in_features;
        p->weights[which] = malloc(l->out_features * l->in_features * sizeof(float));
        if (!p->weights[which]) return fail(why, "out of memory");
    }
    p->clip_max = malloc(clips * sizeof *p->clip_max);
    p->candidate = malloc(widest * sizeof *p->candidate);
    return p->clip_max && p->candidate ? true : fail(why, "out of memory");
}

void pipeline_close(pipeline *p)
{
    size_t i;

    for (i = 0; i < LINEARS; i++) free(p->weights[i]);
    for (i = 0; i < INPUTS; i++) {
        free(p->scale[i]);
        free(p->stats_memory[i].bytes);
        free(p->hessian_memory[i].bytes);
    }
    free(p->clip_max);
    free(p->candidate);
    free(p->tensor_memory.bytes);
    free(p->work.bytes);
}

bool pipeline_open(pipeline *p, quantized_model *out, const model *m, compute *c,
                   const quantize_options *options, failure *why)
{
    memset(p, 0, sizeof *p);
    p->m = m;
    p->c = c;
    p->options = options;
    p->out = out;
    return open_output(out, m, options, why) && open_weights(p, why) && open_scales(p, why);
}

bool quantize_model(quantized_model *out, const model *m, compute *c, const token_list *text,
                    const quantize_options *options, failure *why)
{
    calibration inputs;
    pipeline p;
    bool done;

    memset(&inputs, 0, sizeof inputs);
    done = pipeline_open(&p, out, m, c, options, why)
           && (options->method == METHOD_NEAREST || calibration_open(&inputs, m, c, text, why))
           && quantize_layers(&p, &inputs, why);
    pipeline_close(&p);
    calibration_close(&inputs);
    done = done && (options->method != METHOD_TUNED
                    || tune_model(out, m, c, text, options->tune_steps, why));
    if (!done) quantized_model_close(out);
    return done;
}
