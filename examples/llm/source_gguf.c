/*  source_gguf.c - a model from a GGUF file: as llama.cpp has it, or as quantize.c saved it. */
#include "source.h"

static bool open_gguf(model *m, const char *path, failure *why)
{
    return gguf_open(&m->gguf, path, why);
}

/* ---- the configuration ----------------------------------------------------------------------- */

static bool need_size(const model *m, const char *key, size_t *out, failure *why)
{
    if (gguf_get_size(&m->gguf, key, out) && *out > 0 && *out < (size_t)1 << 30) return true;
    return fail(why, "the GGUF file has no usable number \"%s\"", key);
}

/*  What this program would compute wrongly is refused by name. */
static bool check_architecture(const model *m, failure *why)
{
    gguf_string text;
    size_t number;

    if (!gguf_get_string(&m->gguf, "general.architecture", &text) || !gguf_string_is(text, "llama"))
        return fail(why, "only models with general.architecture = llama are run");
    if (gguf_get_size(&m->gguf, "llama.expert_count", &number) && number > 0)
        return fail(why, "mixture-of-experts models are not run by this program");
    if (gguf_get_string(&m->gguf, "llama.rope.scaling.type", &text) && !gguf_string_is(text, "none")
        && !gguf_string_is(text, "linear"))
        return fail(why, "rope scaling \"%s\" is not known; none and linear are",
                    gguf_show(text).text);
    return true;
}

static bool read_sizes(model *m, failure *why)
{
    size_t value_length;

    if (!need_size(m, "llama.block_count", &m->layers_count, why)) return false;
    if (m->layers_count > m->gguf.tensors_count)
        return fail(why, "the GGUF file promises %zu layers but has only %zu tensors",
                    m->layers_count, m->gguf.tensors_count);
    if (!need_size(m, "llama.embedding_length", &m->dim, why)) return false;
    if (!need_size(m, "llama.feed_forward_length", &m->ffn_dim, why)) return false;
    if (!need_size(m, "llama.attention.head_count", &m->heads, why)) return false;
    m->kv_heads = m->heads;
    gguf_get_size(&m->gguf, "llama.attention.head_count_kv", &m->kv_heads);
    m->head_dim = m->dim / m->heads;
    gguf_get_size(&m->gguf, "llama.attention.key_length", &m->head_dim);
    value_length = m->head_dim;
    gguf_get_size(&m->gguf, "llama.attention.value_length", &value_length);
    if (value_length != m->head_dim)
        return fail(why, "heads with keys of %zu and values of %zu channels are not run",
                    m->head_dim, value_length);
    m->rope_dims = m->head_dim;
    gguf_get_size(&m->gguf, "llama.rope.dimension_count", &m->rope_dims);
    gguf_get_double(&m->gguf, "llama.attention.layer_norm_rms_epsilon", &m->norm_epsilon);
    m->context = 2048;
    gguf_get_size(&m->gguf, "llama.context_length", &m->context);
    return true;
}

static const gguf_tensor *check_shape(const gguf_tensor *tensor, size_t columns, size_t rows,
                                      failure *why)
{
    if (tensor->columns == columns && tensor->rows == rows) return tensor;
    fail(why, "tensor \"%s\" is %zu x %zu, but the model needs %zu x %zu",
         gguf_show(tensor->name).text, tensor->rows, tensor->columns, rows, columns);
    return NULL;
}

static bool read_vector(const model *m, const char *name, size_t length, float **out, failure *why)
{
    const gguf_tensor *tensor = gguf_find_tensor(&m->gguf, name);

    if (!tensor || tensor->type == GGUF_I8) return true;
    if (!check_shape(tensor, length, 1, why)) return false;
    *out = malloc(length * sizeof **out);
    if (!*out) return fail(why, "out of memory");
    gguf_row_to_f32(tensor, 0, *out);
    return true;
}

static bool read_rope(model *m, failure *why)
{
    gguf_string scaling;

    m->rope.base = 10000.0;
    m->rope.scale = 1.0;
    gguf_get_double(&m->gguf, "llama.rope.freq_base", &m->rope.base);
    if (gguf_get_string(&m->gguf, "llama.rope.scaling.type", &scaling)
        && gguf_string_is(scaling, "linear"))
        gguf_get_double(&m->gguf, "llama.rope.scaling.factor", &m->rope.scale);
    return read_vector(m, "rope_freqs.weight", m->rope_dims / 2, &m->rope.factors, why);
}

static void read_name(model *m)
{
    gguf_string name = { "a model without a name", 22 };

    gguf_get_string(&m->gguf, "general.name", &name);
    strcpy(m->name, gguf_show(name).text);
}

static bool describe_gguf(model *m, failure *why)
{
    read_name(m);
    m->tied = !gguf_find_tensor(&m->gguf, "output.weight")
              && !gguf_find_tensor(&m->gguf, "output.awq");
    return check_architecture(m, why) && read_sizes(m, why) && read_rope(m, why)
           && vocabulary_from_gguf(&m->words, &m->gguf, why);
}

/* ---- the weights ----------------------------------------------------------------------------- */

static bool gguf_vector(const model *m, size_t layer_index, size_t which, const char *suffix,
                        size_t length, float **out, failure *why)
{
    return read_vector(m, gguf_name(layer_index, which, suffix).text, length, out, why);
}

/*  A quantized linear stands in the file as bytes. */
static bool open_packed(linear *l, const gguf_tensor *tensor, failure *why)
{
    gguf_shown name = gguf_show(tensor->name);
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_packed_open(&l->packed, tensor->data, gguf_tensor_bytes(tensor));

    if (status == AWQ_OK) status = awq_packed_check(&l->packed, &where);
    if (status != AWQ_OK)
        return fail(why, "tensor \"%s\": %s (row %zu, group %zu)", name.text,
                    awq_status_string(status), where.row, where.col);
    if (l->packed.in_features != l->in_features || l->packed.out_features != l->out_features)
        return fail(why, "tensor \"%s\" is %zu x %zu, but the model needs %zu x %zu", name.text,
                    l->packed.out_features, l->packed.in_features, l->out_features, l->in_features);
    return true;
}

/*  W stands in the file as NAME.awq, packed, or as NAME.weight. */
static bool gguf_weight(model *m, size_t layer_index, size_t which, linear *l, failure *why)
{
    tensor_name name = gguf_name(layer_index, which, ".weight");
    const gguf_tensor *packed =
        gguf_find_tensor(&m->gguf, gguf_name(layer_index, which, ".awq").text);
    const gguf_tensor *plain = gguf_find_tensor(&m->gguf, name.text);

    if (packed && packed->type == GGUF_I8) return open_packed(l, packed, why);
    if (!plain || plain->type == GGUF_I8)
        return fail(why, "the GGUF file has no tensor \"%s\"", name.text);
    l->stored = check_shape(plain, l->in_features, l->out_features, why);
    return l->stored != NULL;
}

const model_source gguf_source = { gguf_name, open_gguf, describe_gguf, gguf_vector, gguf_weight };
