/*  hf.c - the reading half of hf.h. What comes from a file is checked before it is used. */
#include "hf.h"

#include <limits.h>
#include <strings.h>

/* ---- quantization_config --------------------------------------------------------------------- */

/*  An object of a config file: its fields may be absent or null, but not of another type. */
typedef struct fields {
    const json_t *object;
    const char *name;           /* of the file */
    failure *why;
} fields;

static const json_t *find(const fields *in, const char *key)
{
    const json_t *value = json_object_get(in->object, key);
    return json_is_null(value) ? NULL : value;
}

static bool wrong(const fields *in, const char *key, const char *expected)
{
    return fail(in->why, "%s: quantization_config: %s is not %s", in->name, key, expected);
}

static bool get_int(const fields *in, const char *key, int *out)
{
    const json_t *value = find(in, key);
    json_int_t number = json_integer_value(value);

    if (!value) return true;
    if (!json_is_integer(value) || number < INT_MIN || number > INT_MAX)
        return wrong(in, key, "an integer");
    *out = (int)number;
    return true;
}

static bool get_bool(const fields *in, const char *key, int *out)
{
    const json_t *value = find(in, key);

    if (!value) return true;
    if (!json_is_boolean(value)) return wrong(in, key, "true or false");
    *out = json_is_true(value);
    return true;
}

static bool get_string(const fields *in, const char *key, const char **out)
{
    const json_t *value = find(in, key);

    if (!value) return true;
    if (!json_is_string(value)) return wrong(in, key, "a string");
    *out = json_string_value(value);
    return true;
}

static bool get_modules(const fields *in, const char *key, json_t **out)
{
    const json_t *value = find(in, key);
    size_t i;

    if (!value) return true;
    if (!json_is_array(value)) return wrong(in, key, "a list of names");
    for (i = 0; i < json_array_size(value); i++)
        if (!json_is_string(json_array_get(value, i))) return wrong(in, key, "a list of names");
    *out = json_deep_copy(value);
    return *out || fail(in->why, "%s: out of memory", in->name);
}

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (strcasecmp(word, *words) == 0) return true;
    return false;
}

static bool find_awq_layout(const fields *in, const char *version, awq_layout *layout)
{
    static const char *const gemm[] = { "gemm", "exllama", "exllamav2", "ipex", NULL };
    static const char *const gemv[] = { "gemv", NULL }, *const fast[] = { "gemv_fast", NULL };
    static const char *const marlin[] = { "marlin", NULL }, *const zp[] = { "awq_marlin", NULL };

    if (is_one_of(version, gemm)) *layout = AWQ_GEMM;
    else if (is_one_of(version, gemv)) *layout = AWQ_GEMV;
    else if (is_one_of(version, fast)) *layout = AWQ_GEMV_FAST;
    else if (is_one_of(version, marlin)) *layout = AWQ_MARLIN;
    else if (is_one_of(version, zp)) *layout = AWQ_MARLIN_ZP;
    else
        return fail(in->why, "%s: quantization_config: unknown version \"%s\"; gemm, gemv, "
                    "gemv_fast, marlin, awq_marlin, exllama and ipex are read", in->name,
                    json_show(version).text);
    return true;
}

/*  Today's spelling, and that of quant_config.json. */
static bool read_awq(const fields *in, hf_model *model)
{
    const char *version = "gemm";
    int zero_point = 1;

    model->quant.group_size = 128;
    if (!get_int(in, "w_bit", &model->quant.bits) || !get_int(in, "bits", &model->quant.bits)
        || !get_int(in, "q_group_size", &model->quant.group_size)
        || !get_int(in, "group_size", &model->quant.group_size)
        || !get_bool(in, "zero_point", &zero_point) || !get_string(in, "version", &version)
        || !get_modules(in, "modules_to_not_convert", &model->excluded))
        return false;
    model->quant.symmetric = !zero_point;
    return find_awq_layout(in, version, &model->layout);
}

static bool read_gptq(const fields *in, hf_model *model)
{
    const char *format = "gptq";
    int is_marlin = 0;

    model->quant.symmetric = 1;
    model->quant.group_size = -1;
    if (!get_int(in, "bits", &model->quant.bits)
        || !get_int(in, "group_size", &model->quant.group_size)
        || !get_bool(in, "sym", &model->quant.symmetric)
        || !get_bool(in, "is_marlin_format", &is_marlin)
        || !get_string(in, "checkpoint_format", &format)
        || !get_modules(in, "modules_to_not_convert", &model->excluded))
        return false;
    if (is_marlin || strcmp(format, "marlin") == 0) model->layout = AWQ_MARLIN;
    else if (strcmp(format, "gptq") == 0) model->layout = AWQ_GPTQ;
    else if (strcmp(format, "gptq_v2") == 0) model->layout = AWQ_GPTQ_V2;
    else
        return fail(in->why, "%s: quantization_config: checkpoint_format \"%s\"; gptq, gptq_v2 and "
                    "marlin are read", in->name, json_show(format).text);
    return true;
}

static bool read_group(const fields *in, hf_model *model)
{
    const char *type = "int", *strategy = "group";

    model->quant.group_size = -1;
    if (!get_int(in, "num_bits", &model->quant.bits)
        || !get_int(in, "group_size", &model->quant.group_size)
        || !get_bool(in, "symmetric", &model->quant.symmetric) || !get_string(in, "type", &type)
        || !get_string(in, "strategy", &strategy))
        return false;
    if (strcmp(type, "int") != 0) return wrong(in, "type", "\"int\"");
    if (strcmp(strategy, "channel") == 0) model->quant.group_size = -1;
    else if (strcmp(strategy, "group") != 0)
        return wrong(in, "strategy", "\"group\" or \"channel\"");
    return true;
}

/*  Several groups of modules are fine as long as they are quantized alike. */
static bool read_compressed(const fields *in, hf_model *model)
{
    json_t *groups = json_object_get(in->object, "config_groups"), *group;
    const char *format = "", *key;
    awq_quant first = { 0, 0, 0, AWQ_F16 };

    model->layout = AWQ_COMPRESSED;
    if (!get_string(in, "format", &format) || !get_modules(in, "ignore", &model->excluded))
        return false;
    if (strcmp(format, "pack-quantized") != 0)
        return fail(in->why, "%s: quantization_config: format \"%s\"; only pack-quantized is read",
                    in->name, json_show(format).text);
    if (json_object_size(groups) == 0) return wrong(in, "config_groups", "an object of groups");
    json_object_foreach(groups, key, group) {
        fields weights = *in;
        weights.object = json_object_get(group, "weights");
        if (!json_is_object(weights.object)) return wrong(in, "config_groups", "weights only");
        model->quant.symmetric = 1;
        if (!read_group(&weights, model)) return false;
        if (first.bits && (first.bits != model->quant.bits
                           || first.group_size != model->quant.group_size
                           || first.symmetric != model->quant.symmetric))
            return fail(in->why, "%s: quantization_config: groups of modules are quantized "
                        "differently, which is not read", in->name);
        first = model->quant;
    }
    return true;
}

/*  Old files do not name their method, but each has fields of its own. */
static const char *guess_method(const json_t *config)
{
    if (json_object_get(config, "w_bit") || json_object_get(config, "zero_point")) return "awq";
    if (json_object_get(config, "sym") || json_object_get(config, "desc_act")) return "gptq";
    return "unnamed";
}

static bool read_quantization(hf_model *model, const json_t *config, const char *name,
                              failure *why)
{
    fields in = { config, name, why };
    const char *method = guess_method(config);
    bool read;

    if (!json_is_object(config))
        return fail(why, "%s: quantization_config is not an object", name);
    model->quant.bits = 4;
    if (!get_string(&in, "quant_method", &method)) return false;
    if (strcasecmp(method, "awq") == 0) read = read_awq(&in, model);
    else if (strcasecmp(method, "gptq") == 0) read = read_gptq(&in, model);
    else if (strcasecmp(method, "compressed-tensors") == 0) read = read_compressed(&in, model);
    else
        return fail(why, "%s: quant_method \"%s\"; awq, gptq and compressed-tensors are read", name,
                    json_show(method).text);
    if (!read) return false;
    if (model->quant.bits != 4)
        return fail(why, "%s: quantized to %d bits; only 4 are read", name, model->quant.bits);
    if (model->quant.group_size < 1 && model->quant.group_size != -1)
        return fail(why, "%s: group_size %d; possible are sizes, and -1 for the whole row", name,
                    model->quant.group_size);
    return true;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static int compare_tensors(const void *a, const void *b)
{
    const safetensors_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static bool collect_tensors(hf_model *model, failure *why)
{
    size_t count = 0, i, j;

    for (i = 0; i < model->shards_count; i++) count += model->shards[i].count;
    model->tensors = malloc((count + 1) * sizeof *model->tensors);
    if (!model->tensors) return fail(why, "%s: out of memory", model->path);
    for (i = 0; i < model->shards_count; i++)
        for (j = 0; j < model->shards[i].count; j++)
            model->tensors[model->tensors_count++] = &model->shards[i].tensors[j];
    qsort(model->tensors, count, sizeof *model->tensors, compare_tensors);
    for (i = 1; i < count; i++)
        if (compare_tensors(&model->tensors[i - 1], &model->tensors[i]) == 0)
            return fail(why, "%s: tensor \"%s\" is in two shards", model->path,
                        json_show(model->tensors[i]->name).text);
    return true;
}

const safetensors_tensor *hf_find_tensor(const hf_model *model, const char *name)
{
    safetensors_tensor wanted;
    const safetensors_tensor *key = &wanted, **found;

    wanted.name = name;
    found = bsearch(&key, model->tensors, model->tensors_count, sizeof key, compare_tensors);
    return found ? *found : NULL;
}

/* ---- linears --------------------------------------------------------------------------------- */

/*  What a layout's tensors are called behind the linear's name. */
typedef struct part_names {
    const char *weights, *scales, *zeros, *group_index, *shape;
} part_names;

static part_names names_of(awq_layout layout)
{
    static const part_names awq = { "qweight", "scales", "qzeros", "g_idx", "" };
    static const part_names compressed = { "weight_packed", "weight_scale", "weight_zero_point",
                                           "weight_g_idx", "weight_shape" };
    return layout == AWQ_COMPRESSED ? compressed : awq;
}

/*  The whole of the name is before the last dot, or empty. */
static size_t prefix_length(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? (size_t)(dot - name) : 0;
}

static bool is_part(const safetensors_tensor *tensor, const char *part)
{
    size_t length = prefix_length(tensor->name);
    return length && strcmp(tensor->name + length + 1, part) == 0;
}

/*  Who wrote the file decides between two spellings. */
static part_names names_in(const hf_model *model)
{
    part_names names = names_of(model->layout);
    size_t i;

    for (i = 0; i < model->tensors_count; i++) {
        if (model->layout == AWQ_MARLIN && is_part(model->tensors[i], "B")) {
            names.weights = "B";
            names.scales = "s";
        }
        if (model->layout == AWQ_GEMV_FAST && is_part(model->tensors[i], "scaled_zeros"))
            names.zeros = "scaled_zeros";
    }
    return names;
}

typedef struct linear_reader {
    const hf_model *model;
    part_names names;
    const char *linear;
    failure *why;
} linear_reader;

/*  NULL, and a message if it is missing but needed. */
static const safetensors_tensor *part(const linear_reader *in, const char *name, bool needed)
{
    char *whole = join(in->linear, ".", name);
    const safetensors_tensor *tensor = whole ? hf_find_tensor(in->model, whole) : NULL;

    free(whole);
    if (!tensor && needed)
        fail(in->why, "%s: linear \"%s\" has no %s, which layout %s needs", in->model->path,
             json_show(in->linear).text, name, awq_layout_rules_of(in->model->layout).name);
    return tensor;
}

static bool wrong_part(const linear_reader *in, const safetensors_tensor *tensor,
                       const char *expected)
{
    return fail(in->why, "%s: tensor \"%s\" is %s; expected is %s", in->model->path,
                json_show(tensor->name).text, safetensors_show(tensor).text, expected);
}

/*  The linear's shape, from that of its integers; all other tensors are then checked against it. */
static void infer_shape(awq_layout layout, const size_t *shape, awq_foreign *weight)
{
    size_t rows = shape[0], columns = shape[1];

    weight->out_features = rows;
    weight->in_features = columns * 8;
    switch (layout) {
    case AWQ_GEMM:
        weight->out_features = columns * 8;
        weight->in_features = rows;
        break;
    case AWQ_GEMV_FAST:
        weight->out_features = rows * 4;
        weight->in_features = columns;
        break;
    case AWQ_MARLIN:
    case AWQ_MARLIN_ZP:
        weight->out_features = columns / 2;
        weight->in_features = rows * 16;
        break;
    case AWQ_GPTQ:
    case AWQ_GPTQ_V2:
        weight->out_features = columns;
        weight->in_features = rows * 8;
        break;
    default:
        break;
    }
}

static uint64_t load_u64(const unsigned char *p)
{
    uint64_t number = 0;
    size_t i;
    for (i = 0; i < 8; i++) number |= (uint64_t)p[i] << (8 * i);
    return number;
}

/*  compressed-tensors fills rows up to whole words and says in weight_shape how long they are. */
static bool read_shape(const linear_reader *in, awq_foreign *weight)
{
    const safetensors_tensor *shape = part(in, in->names.shape, true);
    uint64_t rows, columns;

    if (!shape) return false;
    if (shape->dtype != SAFETENSORS_I64 || shape->rank != 1 || shape->shape[0] != 2)
        return wrong_part(in, shape, "I64 [2]");
    rows = load_u64(shape->data);
    columns = load_u64(shape->data + 8);
    if (rows != weight->out_features || columns > weight->in_features
        || weight->in_features - columns > 7)
        return fail(in->why, "%s: linear \"%s\": weight_shape is [%llu, %llu], but weight_packed "
                    "is [%zu, %zu]", in->model->path, json_show(in->linear).text,
                    (unsigned long long)rows, (unsigned long long)columns, weight->out_features,
                    weight->in_features / 8);
    weight->in_features = (size_t)columns;
    return true;
}

static bool find_scale_dtype(const linear_reader *in, const safetensors_tensor *scales,
                             awq_dtype *dtype)
{
    if (scales->dtype == SAFETENSORS_F16) *dtype = AWQ_F16;
    else if (scales->dtype == SAFETENSORS_BF16) *dtype = AWQ_BF16;
    else if (scales->dtype == SAFETENSORS_F32) *dtype = AWQ_F32;
    else return wrong_part(in, scales, "F16, BF16 or F32");
    return true;
}

static bool place(const linear_reader *in, const safetensors_tensor *tensor,
                  safetensors_dtype dtype, awq_plane *plane)
{
    safetensors_tensor expected = safetensors_describe("", dtype, 2, plane->rows, plane->cols);

    if (tensor->dtype != dtype || tensor->rank != 2 || tensor->shape[0] != plane->rows
        || tensor->shape[1] != plane->cols)
        return wrong_part(in, tensor, safetensors_show(&expected).text);
    plane->data = tensor->data;
    return true;
}

static safetensors_dtype integers_of(const awq_plane *plane)
{
    return plane->element_size == 2 ? SAFETENSORS_I16 : SAFETENSORS_I32;
}

/*  gemv_fast stores zeros times scales, in the scales' dtype. */
static safetensors_dtype zeros_dtype(awq_layout layout, safetensors_dtype scales)
{
    return layout == AWQ_GEMV_FAST ? scales : SAFETENSORS_I32;
}

static bool place_planes(const linear_reader *in, awq_foreign *weight,
                         const safetensors_tensor *integers, const safetensors_tensor *scales)
{
    const safetensors_tensor *zeros = NULL;

    if (weight->zeros.rows) {
        zeros = part(in, in->names.zeros, true);
        if (!zeros) return false;
    }
    return place(in, integers, integers_of(&weight->weights), &weight->weights)
           && place(in, scales, scales->dtype, &weight->scales)
           && (!zeros || place(in, zeros, zeros_dtype(weight->layout, scales->dtype),
                               &weight->zeros));
}

static bool read_vectors(const linear_reader *in, hf_linear *linear)
{
    const safetensors_tensor *index = part(in, in->names.group_index, false);
    const safetensors_tensor *bias = part(in, "bias", false);

    if (index) {
        if (index->dtype != SAFETENSORS_I32 || index->rank != 1
            || index->shape[0] != linear->weight.in_features)
            return wrong_part(in, index, "I32 [in_features]");
        linear->weight.group_index = index->data;
    }
    if (bias && (bias->rank != 1 || bias->shape[0] != linear->weight.out_features))
        return wrong_part(in, bias, "[out_features]");
    linear->bias = bias;
    return true;
}

static bool read_linear(const linear_reader *in, hf_linear *linear)
{
    const hf_model *model = in->model;
    const safetensors_tensor *integers = part(in, in->names.weights, true);
    const safetensors_tensor *scales = part(in, in->names.scales, true);
    awq_foreign *weight = &linear->weight;
    awq_quant quant = model->quant;
    awq_layout layout = model->layout;
    awq_status status;

    if (!integers || !scales || !find_scale_dtype(in, scales, &quant.scale_dtype)) return false;
    if (integers->rank != 2 || scales->rank != 2)
        return wrong_part(in, integers->rank != 2 ? integers : scales, "a matrix");
    /* files that say awq_marlin are mostly gemm, which vLLM repacks when it loads them */
    if (layout == AWQ_MARLIN_ZP && scales->shape[1] / 8 == integers->shape[1]) layout = AWQ_GEMM;
    infer_shape(layout, integers->shape, weight);
    if (layout == AWQ_COMPRESSED && !read_shape(in, weight)) return false;
    status = awq_foreign_init(weight, layout, quant, weight->out_features, weight->in_features);
    if (status != AWQ_OK) {
        awq_foreign refused = *weight;
        refused.layout = layout;
        refused.quant = quant;
        return hf_refuse(in->linear, &refused, status, NULL, in->why);
    }
    return place_planes(in, weight, integers, scales) && read_vectors(in, linear);
}

static bool read_linears(hf_model *model, failure *why)
{
    linear_reader in = { NULL, { NULL, NULL, NULL, NULL, NULL }, NULL, NULL };
    size_t i;

    in.model = model;
    in.names = names_in(model);
    in.why = why;
    model->linears = calloc(model->tensors_count + 1, sizeof *model->linears);
    if (!model->linears) return fail(why, "%s: out of memory", model->path);
    for (i = 0; i < model->tensors_count; i++) {
        hf_linear *linear = &model->linears[model->linears_count];
        const char *name = model->tensors[i]->name;
        if (!is_part(model->tensors[i], in.names.weights)) continue;
        linear->name = strndup(name, prefix_length(name));
        if (!linear->name) return fail(why, "%s: out of memory", model->path);
        model->linears_count++;
        in.linear = linear->name;
        if (!read_linear(&in, linear)) return false;
    }
    return true;
}

static int compare_linears(const void *a, const void *b)
{
    return strcmp(((const hf_linear *)a)->name, ((const hf_linear *)b)->name);
}

static bool find_linears(hf_model *model, failure *why)
{
    size_t i;

    for (i = 0; !model->layout && i < model->tensors_count; i++)
        if (is_part(model->tensors[i], "qweight") || is_part(model->tensors[i], "weight_packed"))
            return fail(why, "%s: tensor \"%s\" is quantized, but there is no quantization_config",
                        model->path, json_show(model->tensors[i]->name).text);
    if (!model->layout) return true;
    if (!read_linears(model, why)) return false;
    if (model->linears_count == 0)
        return fail(why, "%s: quantization_config says %s, but no tensor is quantized so",
                    model->path, awq_layout_rules_of(model->layout).name);
    qsort(model->linears, model->linears_count, sizeof *model->linears, compare_linears);
    return true;
}

const hf_linear *hf_find_linear(const hf_model *model, const char *name)
{
    hf_linear wanted;
    if (model->linears_count == 0) return NULL;     /* there is no array either */
    wanted.name = (char *)(uintptr_t)name;
    return bsearch(&wanted, model->linears, model->linears_count, sizeof wanted, compare_linears);
}

const hf_linear *hf_owner(const hf_model *model, const safetensors_tensor *tensor)
{
    static const char *const parts[] = {
        "qweight", "qzeros", "scales", "g_idx", "scaled_zeros", "B", "s", "workspace",
        "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"
    };
    size_t length = prefix_length(tensor->name), i;
    const hf_linear *linear = NULL;
    char *name;

    for (i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (is_part(tensor, parts[i])) break;
    if (i == sizeof parts / sizeof parts[0]) return NULL;
    name = strndup(tensor->name, length);
    if (name) linear = hf_find_linear(model, name);
    free(name);
    return linear;
}

/* ---- refusals -------------------------------------------------------------------------------- */

/*  "32, 64 or 128"; what a reader of the message can choose from. */
static void list_group_sizes(const awq_layout_rules *rules, char *text, size_t size)
{
    size_t i, used = 0;

    text[0] = '\0';
    for (i = 0; i < 4 && rules->group_sizes[i] && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%d", i ? ", " : "",
                                 rules->group_sizes[i]);
    if (rules->group_from && used < size)
        snprintf(text + used, size - used, "%sfrom %d in steps of 8", used ? ", " : "",
                 rules->group_from);
}

static const char *way_out(awq_status status)
{
    switch (status) {
    case AWQ_ERR_OUT_FEATURES:
    case AWQ_ERR_IN_FEATURES:
        return "; choose another layout (compressed-tensors has the fewest rules)";
    case AWQ_ERR_GROUP_SIZE:
    case AWQ_ERR_SHORT_GROUP:
        return "; quantize with another group size";
    case AWQ_ERR_ASYMMETRIC:
        return "; choose a layout with zero points (gemm, gptq_v2, compressed-tensors)";
    case AWQ_ERR_ZERO_POINT:
        return "; gptq_v2, gemm and compressed-tensors hold every zero point";
    case AWQ_ERR_ROUNDING:
        return "; allow rounding (convert --allow-rounding), or choose a layout that keeps zero "
               "points as integers";
    case AWQ_ERR_ACT_ORDER:
        return "; quantize without act order (desc_act)";
    default:
        return "";
    }
}

bool hf_refuse(const char *name, const awq_foreign *weight, awq_status status,
               const awq_where *where, failure *why)
{
    awq_layout_rules rules = awq_layout_rules_of(weight->layout);
    char groups[64], place[80] = "";

    list_group_sizes(&rules, groups, sizeof groups);
    if (where) snprintf(place, sizeof place, " (row %zu, column %zu)", where->row, where->col);
    return fail(why, "%s: %s%s: out_features %zu, in_features %zu, group_size %d; %s needs "
                "multiples of %zu and %zu, and group_size %s%s", json_show(name).text,
                awq_status_string(status), place, weight->out_features, weight->in_features,
                weight->quant.group_size, rules.name, rules.out_multiple, rules.in_multiple, groups,
                way_out(status));
}

/* ---- opening --------------------------------------------------------------------------------- */

/*  Legacy directories keep the quantization in a file of its own. */
static json_t *find_quantization(const hf_model *model, failure *why)
{
    static const char *const names[] = { "quant_config.json", "quantize_config.json" };
    json_t *config = json_object_get(model->config, "quantization_config");
    size_t i;

    why->text[0] = '\0';
    if (config && !json_is_null(config)) return json_incref(config);
    for (i = 0; i < 2; i++) {
        char *path = join(model->path, "/", names[i]);
        config = path && access(path, F_OK) == 0 ? json_read_file(path, why) : NULL;
        free(path);
        if (config || why->text[0]) return config;
    }
    return NULL;
}

static bool read_config(hf_model *model, failure *why)
{
    json_t *config = find_quantization(model, why);
    bool read = config ? read_quantization(model, config, model->path, why) : !why->text[0];
    json_decref(config);
    return read;
}

static bool is_plain_shard_name(const char *name)
{
    size_t length = strlen(name);
    return name[0] != '.' && !strpbrk(name, "/\\") && length > 12
           && strcmp(name + length - 12, ".safetensors") == 0;
}

bool hf_check_index(const json_t *index, const char *name, failure *why)
{
    json_t *map = json_object_get(index, "weight_map"), *shard;
    const char *tensor;

    if (json_object_size(map) == 0) return fail(why, "%s: no weight_map of tensors", name);
    json_object_foreach(map, tensor, shard)
        if (!json_is_string(shard) || !is_plain_shard_name(json_string_value(shard)))
            return fail(why, "%s: tensor \"%s\" is said to be in \"%s\", which is no name of a "
                        ".safetensors file in this directory", name, json_show(tensor).text,
                        json_is_string(shard) ? json_show(json_string_value(shard)).text : "");
    return true;
}

static bool open_shard(hf_model *model, const char *name, failure *why)
{
    safetensors_file *grown = realloc(model->shards,
                                      (model->shards_count + 1) * sizeof *model->shards);
    char *path = join(model->path, "/", name);
    bool opened = false;

    if (grown) model->shards = grown;
    if (!grown || !path) fail(why, "%s: out of memory", model->path);
    else opened = safetensors_open(&model->shards[model->shards_count], path, why);
    model->shards_count += opened;
    free(path);
    return opened;
}

/*  `opened` maps the names of the shards that are open to their numbers. */
static bool open_mapped_shard(hf_model *model, json_t *opened, const char *tensor,
                              const char *shard, failure *why)
{
    json_t *number = json_object_get(opened, shard);

    if (!number) {
        number = json_integer((json_int_t)model->shards_count);
        if (json_object_set_new(opened, shard, number) != 0)
            return fail(why, "%s: out of memory", model->path);
        if (!open_shard(model, shard, why)) return false;
    }
    if (!safetensors_find(&model->shards[json_integer_value(number)], tensor))
        return fail(why, "%s: tensor \"%s\" is not in %s, where the index says it is", model->path,
                    json_show(tensor).text, json_show(shard).text);
    return true;
}

static bool open_indexed(hf_model *model, const char *path, failure *why)
{
    json_t *index = json_read_file(path, why), *opened = json_object(), *shard;
    bool done = index && opened && hf_check_index(index, path, why);
    const char *tensor;

    if (done)
        json_object_foreach(json_object_get(index, "weight_map"), tensor, shard) {
            done = open_mapped_shard(model, opened, tensor, json_string_value(shard), why);
            if (!done) break;
        }
    json_decref(opened);
    json_decref(index);
    return done;
}

static bool open_shards(hf_model *model, failure *why)
{
    char *index = join(model->path, "/", "model.safetensors.index.json");
    char *single = join(model->path, "/", "model.safetensors");
    bool opened;

    if (!index || !single) opened = fail(why, "%s: out of memory", model->path);
    else if (access(index, F_OK) == 0) opened = open_indexed(model, index, why);
    else if (access(single, F_OK) == 0) opened = open_shard(model, "model.safetensors", why);
    else
        opened = fail(why, "%s: neither model.safetensors nor model.safetensors.index.json is "
                      "there", model->path);
    free(index);
    free(single);
    return opened;
}

static json_t *open_config(const char *path, failure *why)
{
    char *whole = join(path, "/", "config.json");
    json_t *config = whole ? json_read_file(whole, why) : NULL;
    free(whole);
    return config;
}

static bool begin(hf_model *model, const char *path, failure *why)
{
    memset(model, 0, sizeof *model);
    model->path = strdup(path);
    return model->path || fail(why, "%s: out of memory", path);
}

static bool read_model(hf_model *model, failure *why)
{
    return read_config(model, why) && collect_tensors(model, why) && find_linears(model, why);
}

bool hf_open(hf_model *model, const char *path, failure *why)
{
    if (begin(model, path, why)) {
        model->config = open_config(path, why);
        if (model->config && open_shards(model, why) && read_model(model, why)) return true;
    }
    hf_close(model);
    return false;
}

bool hf_read(hf_model *model, const void *config, size_t config_size, const void *weights,
             size_t weights_size, failure *why)
{
    if (begin(model, "memory", why)) {
        model->shards = calloc(1, sizeof *model->shards);
        model->config = json_read(config, config_size, "config.json", why);
        if (!model->shards) fail(why, "out of memory");
        else if (model->config && safetensors_read(model->shards, weights, weights_size,
                                                   "model.safetensors", why)) {
            model->shards_count = 1;
            if (read_model(model, why)) return true;
        }
    }
    hf_close(model);
    return false;
}

void hf_close(hf_model *model)
{
    size_t i;

    for (i = 0; i < model->linears_count; i++) free(model->linears[i].name);
    for (i = 0; i < model->shards_count; i++) safetensors_close(&model->shards[i]);
    free(model->linears);
    free(model->tensors);
    free(model->shards);
    json_decref(model->excluded);
    json_decref(model->config);
    free(model->path);
    memset(model, 0, sizeof *model);
}
