/*  source_hf.c - a model from a Hugging Face directory whose linears are AWQ: their integers, zeros
    and scales go from the files' layout straight into packed memory. */
#include "../formats/tokenizer_json.h"
#include "hf_config.h"
#include "rope_order.h"
#include "source.h"

static bool open_hf(model *m, const char *path, failure *why)
{
    return hf_open(&m->hf, path, why);
}

/* ---- the configuration ----------------------------------------------------------------------- */

/*  All packed linears lie in one piece of memory. */
static bool reserve_packed(model *m, failure *why)
{
    size_t i, size = 0;

    for (i = 0; i < m->hf.linears_count; i++) {
        const awq_foreign *weight = &m->hf.linears[i].weight;
        size += awq_packed_size(weight->quant, weight->out_features, weight->in_features);
    }
    m->imported = malloc(size + 1);
    return m->imported ? true : fail(why, "out of memory");
}

/*  What the file has bounds what is made for it. */
static bool check_rows(const model *m, size_t rows, failure *why)
{
    tensor_name name = hf_name(0, EMBEDDING, ".weight");
    const safetensors_tensor *tensor = hf_find_tensor(&m->hf, name.text);

    if (!tensor) return fail(why, "it has no tensor \"%s\"", name.text);
    if (tensor->rank == 2 && tensor->shape[0] == rows) return true;
    return fail(why, "tensor \"%s\" is %s, but the model needs %zu rows", name.text,
                safetensors_show(tensor).text, rows);
}

static bool describe_hf(model *m, failure *why)
{
    const char *slash = strrchr(m->hf.path, '/');
    size_t rows;

    snprintf(m->name, sizeof m->name, "%s", slash && slash[1] ? slash + 1 : m->hf.path);
    if (!hf_config_read(m->hf.config, m, &rows, why)) return false;
    if (m->layers_count > m->hf.linears_count)
        return fail(why, "config.json promises %zu layers, but only %zu linears are AWQ",
                    m->layers_count, m->hf.linears_count);
    if (!check_rows(m, rows, why)) return false;
    if (!tokenizer_json_read(&m->words, m->hf.path, rows, why)) return false;
    hf_config_read_ids(m->hf.config, &m->words);
    return reserve_packed(m, why);
}

/* ---- the weights ----------------------------------------------------------------------------- */

/*  A type of plain numbers, as awq.h and as GGUF call it. */
typedef struct number_type {
    safetensors_dtype here;
    awq_dtype dtype;
    uint32_t gguf;
} number_type;

/*  NULL and a message for others. */
static const number_type *type_of(const safetensors_tensor *tensor, failure *why)
{
    static const number_type types[] = { { SAFETENSORS_F32, AWQ_F32, GGUF_F32 },
                                         { SAFETENSORS_F16, AWQ_F16, GGUF_F16 },
                                         { SAFETENSORS_BF16, AWQ_BF16, GGUF_BF16 } };
    size_t i;

    for (i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].here == tensor->dtype) return &types[i];
    fail(why, "tensor \"%s\" is %s; F32, F16 and BF16 are read", json_show(tensor->name).text,
         safetensors_dtype_name(tensor->dtype));
    return NULL;
}

static bool hf_vector(const model *m, size_t layer_index, size_t which, const char *suffix,
                      size_t length, float **out, failure *why)
{
    tensor_name name = hf_name(layer_index, which, suffix);
    const safetensors_tensor *tensor = hf_find_tensor(&m->hf, name.text);
    const number_type *type = tensor ? type_of(tensor, why) : NULL;

    if (!tensor) return true;
    if (!type) return false;
    if (tensor->rank != 1 || tensor->shape[0] != length)
        return fail(why, "tensor \"%s\" is %s, but the model needs %zu numbers", name.text,
                    safetensors_show(tensor).text, length);
    *out = malloc(length * sizeof **out);
    if (!*out) return fail(why, "out of memory");
    awq_convert(awq_matrix_view(tensor->data, type->dtype, 1, length),
                awq_matrix_view(*out, AWQ_F32, 1, length));
    return !is_rotated(which)
           || reorder_rows(*out, length, sizeof **out, m->head_dim, ORDER_GGUF, why);
}

/*  The embedding or the head: rows are decoded from the file as they are used. */
static bool dense_weight(model *m, const char *name, gguf_tensor *dense, linear *l, failure *why)
{
    const safetensors_tensor *tensor = hf_find_tensor(&m->hf, name);
    const number_type *type = tensor ? type_of(tensor, why) : NULL;

    if (!tensor) return fail(why, "it has no tensor \"%s\"", name);
    if (!type) return false;
    if (tensor->rank != 2 || tensor->shape[0] != l->out_features
        || tensor->shape[1] != l->in_features)
        return fail(why, "tensor \"%s\" is %s, but the model needs [%zu, %zu]", name,
                    safetensors_show(tensor).text, l->out_features, l->in_features);
    dense->columns = l->in_features;
    dense->rows = l->out_features;
    dense->type = type->gguf;
    dense->row_bytes = l->in_features * awq_dtype_size(type->dtype);
    dense->data = tensor->data;
    l->stored = dense;
    return true;
}

static bool import_linear(model *m, const hf_linear *from, linear *l, failure *why)
{
    const awq_foreign *weight = &from->weight;
    awq_kernels kernels = awq_kernels_best();
    size_t size = awq_packed_size(weight->quant, l->out_features, l->in_features);
    unsigned char *memory = m->imported + m->imported_size;
    awq_where where = { 0, 0, 0 };
    awq_status status =
        awq_packed_init(weight->quant, l->out_features, l->in_features, memory, size);

    if (status == AWQ_OK)
        status = awq_import(&kernels, weight, memory, size, 0, l->out_features, &where);
    if (status == AWQ_OK) status = awq_packed_open(&l->packed, memory, size);
    m->imported_size += size;
    return status == AWQ_OK ? true
                            : fail(why, "\"%s\": %s (row %zu, column %zu)", from->name,
                                   awq_status_string(status), where.row, where.col);
}

static bool hf_weight(model *m, size_t layer_index, size_t which, linear *l, failure *why)
{
    tensor_name name = hf_name(layer_index, which, "");
    const hf_linear *from = hf_find_linear(&m->hf, name.text);

    if (which >= LINEARS)
        return dense_weight(m, hf_name(0, which, ".weight").text, &m->dense[which == HEAD], l, why);
    if (!from)
        return fail(why, "\"%s\" is not AWQ; this program runs models whose layers all are",
                    name.text);
    if (from->weight.out_features != l->out_features || from->weight.in_features != l->in_features)
        return fail(why, "\"%s\" is %zu x %zu, but the model needs %zu x %zu", name.text,
                    from->weight.out_features, from->weight.in_features, l->out_features,
                    l->in_features);
    if (!import_linear(m, from, l, why)) return false;
    return !is_rotated(which)
           || reorder_packed(&l->packed, m->head_dim, ORDER_GGUF,
                             (void *)(uintptr_t)l->packed.data, why);
}

const model_source hf_source = { hf_name, open_hf, describe_hf, hf_vector, hf_weight };
