/*  convert.c - see convert.h. The packed tensor of awq.h is the hub: every layout is imported into
    it and exported from it, a linear at a time, straight from the input's map to the output's. */
#include "convert.h"

#include "../common/progress.h"

volatile sig_atomic_t convert_interrupted;

/* ---- one linear ------------------------------------------------------------------------------ */

typedef struct pass {
    const awq_kernels *kernels;
    const awq_foreign *from, *to;       /* to = NULL: only read */
    awq_packed packed;
    void *memory;
    int allow_rounding;
    pthread_mutex_t lock;               /* of what follows: the failure of the lowest row */
    awq_status status;
    bool exporting;
    awq_where where;
} pass;

static void report(pass *p, awq_status status, bool exporting, awq_where where)
{
    pthread_mutex_lock(&p->lock);
    if (p->status == AWQ_OK || where.row < p->where.row) {
        p->status = status;
        p->exporting = exporting;
        p->where = where;
    }
    pthread_mutex_unlock(&p->lock);
}

/*  Rows [begin, end) of one linear: in, and out. */
static void convert_rows(void *arg, size_t begin, size_t end, size_t worker)
{
    pass *p = arg;
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_import(p->kernels, p->from, p->memory, p->packed.size, begin, end,
                                   &where);
    bool imported = status == AWQ_OK;
    (void)worker;

    if (imported && p->to)
        status = awq_export(p->kernels, &p->packed, p->to, p->allow_rounding, begin, end, &where);
    if (status != AWQ_OK) report(p, status, imported, where);
}

static bool convert_linear(pass *p, parallel_pool *pool, const char *name, awq_quant quant,
                           failure *why)
{
    const awq_foreign *from = p->from;
    size_t size = awq_packed_size(quant, from->out_features, from->in_features);

    p->status = awq_packed_init(quant, from->out_features, from->in_features, p->memory, size);
    if (p->status == AWQ_OK) p->status = awq_packed_open(&p->packed, p->memory, size);
    if (p->status == AWQ_OK)
        parallel_run(pool, from->out_features, AWQ_EXPORT_STEP, convert_rows, p);
    if (p->status == AWQ_OK) return true;
    return hf_refuse(name, p->exporting ? p->to : from, p->status, &p->where, why);
}

/* ---- all linears ----------------------------------------------------------------------------- */

/*  Where a linear goes; to.layout = 0: nowhere, it is only read. */
typedef struct linear_target {
    awq_foreign to;
    size_t first_part, parts;           /* in the list of tensors */
} linear_target;

static awq_quant packed_quant(const awq_foreign *from, int group_size)
{
    awq_quant quant = from->quant;
    if (group_size) quant.group_size = group_size;
    return quant;
}

static size_t weights_of(const awq_foreign *weight)
{
    return weight->out_features * weight->in_features;
}

static void *packed_memory(const hf_model *model, int group_size)
{
    size_t most = 1, i;

    for (i = 0; i < model->linears_count; i++) {
        const awq_foreign *from = &model->linears[i].weight;
        size_t size = awq_packed_size(packed_quant(from, group_size), from->out_features,
                                      from->in_features);
        if (size > most) most = size;
    }
    return malloc(most);
}

static bool run(const hf_model *model, const linear_target *targets, const convert_options *options,
                parallel_pool *pool, pass *p, failure *why)
{
    progress bar = progress_begin(targets ? "converting" : "checking", 0);
    size_t done = 0, i;
    bool converted = true;

    for (i = 0; i < model->linears_count; i++) bar.total += weights_of(&model->linears[i].weight);
    for (i = 0; converted && i < model->linears_count; i++) {
        const hf_linear *linear = &model->linears[i];
        p->from = &linear->weight;
        p->to = targets ? &targets[i].to : NULL;
        converted = convert_linear(p, pool, linear->name,
                                   packed_quant(p->from, options->group_size), why);
        if (converted && convert_interrupted) converted = fail(why, "interrupted");
        done += weights_of(p->from);
        progress_step(&bar, done);
    }
    progress_end(&bar);
    return converted;
}

static bool convert_linears(const hf_model *model, const linear_target *targets,
                            const convert_options *options, failure *why)
{
    awq_kernels kernels = awq_kernels_best();
    parallel_pool pool;
    pass p;
    bool converted;

    memset(&p, 0, sizeof p);
    p.memory = packed_memory(model, options->group_size);
    if (!p.memory) return fail(why, "%s: out of memory", model->path);
    p.kernels = &kernels;
    p.allow_rounding = options->allow_rounding;
    pthread_mutex_init(&p.lock, NULL);
    parallel_start(&pool, options->threads);
    converted = run(model, targets, options, &pool, &p, why);
    parallel_stop(&pool);
    pthread_mutex_destroy(&p.lock);
    free(p.memory);
    return converted;
}

bool convert_check(const hf_model *model, size_t threads, failure *why)
{
    convert_options options;
    memset(&options, 0, sizeof options);
    options.threads = threads;
    return convert_linears(model, NULL, &options, why);
}

/* ---- what the output holds ------------------------------------------------------------------- */

typedef struct conversion {
    linear_target *targets;             /* one per linear of the model */
    safetensors_tensor *tensors;        /* parts of linears first, then what is copied */
    size_t parts_count, count;
    const safetensors_tensor **copied;  /* sources of the tensors after the parts */
} conversion;

static void free_plan(conversion *plan)
{
    size_t i;
    for (i = 0; i < plan->parts_count; i++) free((char *)(uintptr_t)plan->tensors[i].name);
    free(plan->targets);
    free(plan->tensors);
    free(plan->copied);
}

/*  Symmetric weights stay declared as such where the layout leaves the choice. */
static awq_quant target_quant(const hf_model *model, const awq_foreign *from,
                              const convert_options *options)
{
    awq_layout_rules rules = awq_layout_rules_of(options->layout);
    awq_quant quant = packed_quant(from, options->group_size);

    quant.symmetric = model->quant.symmetric;
    if (!(rules.scale_dtypes >> quant.scale_dtype & 1)) quant.scale_dtype = AWQ_F16;
    return quant;
}

static bool plan_linear(const hf_model *model, size_t index, const convert_options *options,
                        conversion *plan, failure *why)
{
    const hf_linear *linear = &model->linears[index];
    linear_target *target = &plan->targets[index];
    awq_foreign wanted = linear->weight;
    awq_status status;

    wanted.layout = options->layout;
    wanted.quant = target_quant(model, &linear->weight, options);
    status = awq_foreign_init(&target->to, wanted.layout, wanted.quant, wanted.out_features,
                              wanted.in_features);
    if (status != AWQ_OK) return hf_refuse(linear->name, &wanted, status, NULL, why);
    target->first_part = plan->count;
    target->parts = hf_describe(&target->to, linear->name, plan->tensors + plan->count);
    plan->count += target->parts;
    plan->parts_count = plan->count;
    return target->parts || fail(why, "%s: out of memory", model->path);
}

static bool make_plan(const hf_model *model, const convert_options *options, conversion *plan,
                      failure *why)
{
    size_t most = model->linears_count * HF_MAX_PARTS + model->tensors_count + 1, i;

    memset(plan, 0, sizeof *plan);
    plan->targets = calloc(model->linears_count + 1, sizeof *plan->targets);
    plan->tensors = calloc(most, sizeof *plan->tensors);
    plan->copied = calloc(most, sizeof *plan->copied);
    if (!plan->targets || !plan->tensors || !plan->copied)
        return fail(why, "%s: out of memory", model->path);
    for (i = 0; i < model->linears_count; i++)
        if (!plan_linear(model, i, options, plan, why)) return false;
    for (i = 0; i < model->tensors_count; i++) {
        if (hf_owner(model, model->tensors[i])) continue;
        plan->copied[plan->count] = model->tensors[i];
        plan->tensors[plan->count++] = *model->tensors[i];
    }
    return true;
}

static void fill_in(conversion *plan, size_t linears)
{
    size_t i;

    for (i = plan->parts_count; i < plan->count; i++)
        if (plan->tensors[i].size)
            memcpy(plan->tensors[i].data, plan->copied[i]->data, plan->tensors[i].size);
    for (i = 0; i < linears; i++)
        hf_attach(&plan->targets[i].to, plan->tensors + plan->targets[i].first_part,
                  plan->targets[i].parts);
}

/* ---- config.json ----------------------------------------------------------------------------- */

static bool is_awq(awq_layout layout)
{
    return layout >= AWQ_GEMM && layout <= AWQ_MARLIN_ZP;
}

static bool is_gptq(awq_layout layout)
{
    return layout == AWQ_GPTQ || layout == AWQ_GPTQ_V2;
}

/*  Each method has its own way to say what is not quantized, so for another one it is said anew:
    the matrices that are not, and a head that shares the embedding's. */
static json_t *list_excluded(const hf_model *model)
{
    json_t *excluded = json_array();
    size_t i;

    for (i = 0; i < model->tensors_count; i++) {
        const char *name = model->tensors[i]->name, *end = strrchr(name, '.');
        if (model->tensors[i]->rank == 2 && end && strcmp(end, ".weight") == 0
            && !strstr(name, "embed"))
            json_array_append_new(excluded, json_stringn(name, (size_t)(end - name)));
    }
    if (!hf_find_tensor(model, "lm_head.weight") && !hf_find_linear(model, "lm_head"))
        json_array_append_new(excluded, json_string("lm_head"));
    return excluded;
}

static json_t *make_config(const hf_model *model, const conversion *plan,
                           const convert_options *options)
{
    awq_layout_rules rules = awq_layout_rules_of(options->layout);
    bool same = model->excluded && is_awq(model->layout) == is_awq(options->layout)
                && is_gptq(model->layout) == is_gptq(options->layout);
    json_t *excluded = same ? json_incref(model->excluded) : list_excluded(model);
    json_t *config = json_deep_copy(model->config);
    awq_quant quant = plan->targets[0].to.quant;

    if (rules.symmetric == 0) quant.symmetric = model->quant.symmetric;     /* z = 8, but stored */
    json_object_set_new(config, "quantization_config",
                        hf_quantization_config(options->layout, quant, excluded));
    json_decref(excluded);
    return config;
}

/* ---- the directory --------------------------------------------------------------------------- */

static bool write_rest(hf_writer *writer, const hf_model *model, const conversion *plan,
                       const convert_options *options, failure *why)
{
    json_t *config = make_config(model, plan, options);
    bool written = json_object_get(config, "quantization_config")
                       ? hf_write_json(writer, "config.json", config, why)
                       : fail(why, "%s: out of memory", model->path);
    json_decref(config);
    return written && hf_copy_others(writer, model->path, why);
}

static bool write_directory(const hf_model *model, conversion *plan, const char *path,
                            const convert_options *options, failure *why)
{
    hf_writer writer;

    if (!hf_write_begin(&writer, path, plan->tensors, plan->count, options->shard_size, why))
        return false;
    fill_in(plan, model->linears_count);
    if (convert_linears(model, plan->targets, options, why)
        && write_rest(&writer, model, plan, options, why))
        return hf_write_end(&writer, why);
    hf_write_abandon(&writer);
    return false;
}

bool convert_directory(const hf_model *model, const char *path, const convert_options *options,
                       failure *why)
{
    conversion plan;
    bool written;

    if (model->linears_count == 0)
        return fail(why, "%s: nothing in this model is quantized", model->path);
    written = make_plan(model, options, &plan, why)
              && write_directory(model, &plan, path, options, why);
    free_plan(&plan);
    return written;
}
