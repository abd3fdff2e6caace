/*  to_gguf.c - a Llama's directory as one GGUF file: weights in blocks of Q4_1 or Q4_0, rows of q
    and k in the order in which llama.cpp turns them, metadata and vocabulary of config.json and
    tokenizer.json. */
#include "convert.h"

#include "../common/progress.h"
#include "../formats/gguf_metadata.h"
#include "../formats/tokenizer_json.h"
#include "../llm/hf_config.h"
#include "../llm/rope_order.h"

typedef struct gguf_job gguf_job;

/*  Where a tensor of the GGUF file comes from. */
typedef struct source {
    gguf_job *job;
    const hf_linear *linear;            /* or: */
    const safetensors_tensor *tensor;
    bool rotated;
    tensor_name name;
} source;

struct gguf_job {
    const hf_model *from;
    const convert_options *options;
    model shape;                        /* only what config.json says */
    vocabulary words;
    source *sources;
    gguf_output *outputs;
    size_t count;
    progress bar;
    size_t done;                        /* linears */
};

/* ---- metadata -------------------------------------------------------------------------------- */

static void add_size(gguf_metadata *data, const char *key, size_t value)
{
    gguf_add_u32(data, key, (uint32_t)value);
}

static void add_shape(gguf_metadata *data, const gguf_job *job)
{
    enum { MOSTLY_Q4_0 = 2, MOSTLY_Q4_1 = 3, BLOCKS_VERSION = 2 };
    const model *m = &job->shape;
    const char *slash = strrchr(job->from->path, '/');

    gguf_add_text(data, "general.architecture", "llama");
    gguf_add_text(data, "general.name", slash && slash[1] ? slash + 1 : job->from->path);
    add_size(data, "general.file_type",
             job->options->layout == AWQ_GGML_Q4_0 ? MOSTLY_Q4_0 : MOSTLY_Q4_1);
    add_size(data, "general.quantization_version", BLOCKS_VERSION);
    add_size(data, "llama.block_count", m->layers_count);
    add_size(data, "llama.context_length", m->context);
    add_size(data, "llama.embedding_length", m->dim);
    add_size(data, "llama.feed_forward_length", m->ffn_dim);
    add_size(data, "llama.attention.head_count", m->heads);
    add_size(data, "llama.attention.head_count_kv", m->kv_heads);
    add_size(data, "llama.attention.key_length", m->head_dim);
    add_size(data, "llama.attention.value_length", m->head_dim);
    gguf_add_float(data, "llama.attention.layer_norm_rms_epsilon", (float)m->norm_epsilon);
    add_size(data, "llama.rope.dimension_count", m->rope_dims);
    gguf_add_float(data, "llama.rope.freq_base", (float)m->rope.base);
    add_size(data, "llama.vocab_size", job->words.tokens_count);
    if (m->rope.scale != 1.0) {
        gguf_add_text(data, "llama.rope.scaling.type", "linear");
        gguf_add_float(data, "llama.rope.scaling.factor", (float)m->rope.scale);
    }
}

/*  Ids without a token get a name of their own, as llama.cpp wants every name once. */
static void add_tokens(gguf_metadata *data, const vocabulary *words)
{
    enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };
    static const int32_t types[] = { NORMAL, USER_DEFINED, CONTROL };
    char unused[32];
    size_t i;

    gguf_add_array(data, "tokenizer.ggml.tokens", GGUF_STRING, words->tokens_count);
    for (i = 0; i < words->tokens_count; i++) {
        gguf_string text = words->tokens[i].text;
        if (text.length == 0) {
            text.length = (size_t)snprintf(unused, sizeof unused, "[UNUSED%zu]", i);
            text.bytes = unused;
        }
        gguf_add_string_element(data, text);
    }
    gguf_add_array(data, "tokenizer.ggml.token_type", GGUF_S32, words->tokens_count);
    for (i = 0; i < words->tokens_count; i++)
        gguf_add_s32_element(data, words->tokens[i].text.length ? types[words->tokens[i].kind]
                                                                : UNUSED);
}

static void add_merges(gguf_metadata *data, const vocabulary *words)
{
    size_t i;

    gguf_add_array(data, "tokenizer.ggml.merges", GGUF_STRING, words->merges_count);
    for (i = 0; i < words->merges_count; i++) {
        const vocabulary_merge *merge = &words->merges[i];
        gguf_string text;
        char *bytes = malloc(merge->left.length + merge->right.length + 1);
        if (!bytes) {
            data->failed = true;
            return;
        }
        memcpy(bytes, merge->left.bytes, merge->left.length);
        bytes[merge->left.length] = ' ';
        memcpy(bytes + merge->left.length + 1, merge->right.bytes, merge->right.length);
        text.bytes = bytes;
        text.length = merge->left.length + merge->right.length + 1;
        gguf_add_string_element(data, text);
        free(bytes);
    }
}

static void add_id(gguf_metadata *data, const char *key, uint32_t id)
{
    if (id != NO_TOKEN) gguf_add_u32(data, key, id);
}

static void add_vocabulary(gguf_metadata *data, const vocabulary *words)
{
    gguf_add_text(data, "tokenizer.ggml.model", "gpt2");
    gguf_add_text(data, "tokenizer.ggml.pre", pre_tokenizer_name(words->pre));
    add_tokens(data, words);
    add_merges(data, words);
    add_id(data, "tokenizer.ggml.bos_token_id", words->bos);
    add_id(data, "tokenizer.ggml.eos_token_id", words->eos);
    add_id(data, "tokenizer.ggml.eot_token_id", words->eot);
    add_id(data, "tokenizer.ggml.unknown_token_id", words->unknown);
    add_id(data, "tokenizer.ggml.padding_token_id", words->padding);
    gguf_add_bool(data, "tokenizer.ggml.add_bos_token", words->add_bos);
    if (words->chat_template.length)
        gguf_add_string(data, "tokenizer.chat_template", words->chat_template);
}

/* ---- making tensors -------------------------------------------------------------------------- */

static size_t head_dim(const source *from)
{
    return from->job->shape.head_dim;
}

/*  Linears in blocks have a group for every 32: a group of AWQ's becomes several. */
static awq_status describe_blocks(const source *from, awq_foreign *blocks)
{
    const awq_foreign *weight = &from->linear->weight;
    awq_quant quant = weight->quant;

    quant.group_size = 32;
    quant.scale_dtype = AWQ_F16;
    return awq_foreign_init(blocks, from->job->options->layout, quant, weight->out_features,
                            weight->in_features);
}

static awq_status fill_blocks(const source *from, const awq_foreign *blocks, awq_where *where)
{
    const awq_foreign *weight = &from->linear->weight;
    size_t rows = weight->out_features;
    size_t size = awq_packed_size(weight->quant, rows, weight->in_features);
    awq_kernels kernels = awq_kernels_best();
    void *memory = malloc(size);
    awq_status status = AWQ_ERR_MEMORY;
    awq_packed packed;

    if (memory) status = awq_packed_init(weight->quant, rows, weight->in_features, memory, size);
    if (status == AWQ_OK) status = awq_import(&kernels, weight, memory, size, 0, rows, where);
    if (status == AWQ_OK) status = awq_packed_open(&packed, memory, size);
    if (status == AWQ_OK)
        status = awq_export(&kernels, &packed, blocks, from->job->options->allow_rounding, 0, rows,
                            where);
    free(memory);
    return status;
}

static bool reorder(const gguf_output *output, void *bytes, failure *why)
{
    const source *from = output->context;
    size_t rows = (size_t)output->dims[output->dims_count - 1];

    if (!from->rotated) return true;
    return reorder_rows(bytes, rows, output->size / rows, head_dim(from), ORDER_GGUF, why);
}

static bool make_blocks(const gguf_output *output, void *bytes, failure *why)
{
    const source *from = output->context;
    awq_where where = { 0, 0, 0 };
    awq_foreign blocks;
    awq_status status = describe_blocks(from, &blocks);

    blocks.weights.data = bytes;
    if (status == AWQ_OK) status = fill_blocks(from, &blocks, &where);
    if (status != AWQ_OK) return hf_refuse(from->linear->name, &blocks, status, &where, why);
    if (convert_interrupted) return fail(why, "interrupted");
    progress_step(&from->job->bar, ++from->job->done);
    return reorder(output, bytes, why);
}

static bool make_copy(const gguf_output *output, void *bytes, failure *why)
{
    const source *from = output->context;
    memcpy(bytes, from->tensor->data, output->size);
    return reorder(output, bytes, why);
}

static awq_dtype float_dtype(const safetensors_tensor *tensor)
{
    return tensor->dtype == SAFETENSORS_F32 ? AWQ_F32
           : tensor->dtype == SAFETENSORS_F16 ? AWQ_F16 : AWQ_BF16;
}

/*  Norms and biases are fp32 in GGUF files. */
static bool make_vector(const gguf_output *output, void *bytes, failure *why)
{
    const source *from = output->context;
    size_t count = from->tensor->shape[0];

    awq_convert(awq_matrix_view(from->tensor->data, float_dtype(from->tensor), 1, count),
                awq_matrix_view(bytes, AWQ_F32, 1, count));
    return reorder(output, bytes, why);
}

/* ---- which tensors there are ----------------------------------------------------------------- */

static gguf_output *add_output(gguf_job *job, tensor_name name)
{
    source *from = &job->sources[job->count];
    gguf_output *output = &job->outputs[job->count++];

    from->job = job;
    from->name = name;
    output->name.bytes = from->name.text;
    output->name.length = strlen(from->name.text);
    output->context = from;
    return output;
}

static void set_shape(gguf_output *output, uint32_t type, size_t columns, size_t rows, size_t size)
{
    output->type = type;
    output->dims_count = rows ? 2 : 1;
    output->dims[0] = columns;
    output->dims[1] = rows;
    output->size = size;
}

static bool is_float(const safetensors_tensor *tensor)
{
    return tensor->dtype == SAFETENSORS_F32 || tensor->dtype == SAFETENSORS_F16
           || tensor->dtype == SAFETENSORS_BF16;
}

static bool wrong_shape(const char *name, size_t rows, size_t columns, failure *why)
{
    return fail(why, "%s is not what config.json promises: %zu x %zu", name, rows, columns);
}

static bool add_blocks(gguf_job *job, size_t index, size_t which, const hf_linear *found,
                       failure *why)
{
    gguf_output *output = add_output(job, gguf_name(index, which, ".weight"));
    source *from = &job->sources[job->count - 1];
    bool symmetric = job->options->layout == AWQ_GGML_Q4_0;
    size_t rows = found->weight.out_features, columns = found->weight.in_features;
    awq_foreign blocks = found->weight;
    awq_status status;

    from->linear = found;
    from->rotated = is_rotated(which);
    status = describe_blocks(from, &blocks);
    blocks.layout = job->options->layout;
    if (status != AWQ_OK) return hf_refuse(found->name, &blocks, status, NULL, why);
    set_shape(output, symmetric ? GGUF_Q4_0 : GGUF_Q4_1, columns, rows,
              rows * (columns / 32) * (symmetric ? 18 : 20));
    output->make = make_blocks;
    job->bar.total++;
    return true;
}

/*  A matrix that is not quantized; without rows to turn it is copied straight from its file. */
static bool add_matrix(gguf_job *job, size_t index, size_t which, size_t rows, size_t columns,
                       failure *why)
{
    tensor_name name = hf_name(index, which, ".weight");
    const safetensors_tensor *tensor = hf_find_tensor(job->from, name.text);
    static const uint32_t types[] = { GGUF_F32, GGUF_F16, GGUF_BF16 };
    gguf_output *output;

    if (!tensor) return fail(why, "%s: no tensor \"%s\"", job->from->path, name.text);
    if (!is_float(tensor) || tensor->rank != 2 || tensor->shape[0] != rows
        || tensor->shape[1] != columns)
        return wrong_shape(name.text, rows, columns, why);
    output = add_output(job, gguf_name(index, which, ".weight"));
    job->sources[job->count - 1].tensor = tensor;
    job->sources[job->count - 1].rotated = is_rotated(which);
    set_shape(output, types[float_dtype(tensor)], columns, rows, tensor->size);
    if (is_rotated(which)) output->make = make_copy;
    else output->data = tensor->data;
    return true;
}

static bool add_vector(gguf_job *job, size_t index, size_t which, const char *suffix, size_t length,
                       failure *why)
{
    tensor_name name = hf_name(index, which, suffix);
    const safetensors_tensor *tensor = hf_find_tensor(job->from, name.text);
    gguf_output *output;

    if (!tensor) return strcmp(suffix, ".bias") == 0
                        || fail(why, "%s: no tensor \"%s\"", job->from->path, name.text);
    if (!is_float(tensor) || tensor->rank != 1 || tensor->shape[0] != length)
        return wrong_shape(name.text, 1, length, why);
    output = add_output(job, gguf_name(index, which, suffix));
    job->sources[job->count - 1].tensor = tensor;
    job->sources[job->count - 1].rotated = is_rotated(which);
    set_shape(output, GGUF_F32, length, 0, length * sizeof(float));
    output->make = make_vector;
    return true;
}

static bool add_linear(gguf_job *job, size_t index, size_t which, failure *why)
{
    const model *m = &job->shape;
    size_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    size_t rows[] = { q, kv, kv, m->dim, m->ffn_dim, m->ffn_dim, m->dim };
    size_t columns[] = { m->dim, m->dim, m->dim, q, m->dim, m->dim, m->ffn_dim };
    tensor_name name = hf_name(index, which, "");
    const hf_linear *found = hf_find_linear(job->from, name.text);

    if (!add_vector(job, index, which, ".bias", rows[which], why)) return false;
    if (!found) return add_matrix(job, index, which, rows[which], columns[which], why);
    if (found->weight.out_features != rows[which] || found->weight.in_features != columns[which])
        return wrong_shape(name.text, rows[which], columns[which], why);
    return add_blocks(job, index, which, found, why);
}

static bool add_layer(gguf_job *job, size_t index, failure *why)
{
    size_t which;

    if (!add_vector(job, index, ATTENTION_NORM, ".weight", job->shape.dim, why)
        || !add_vector(job, index, FFN_NORM, ".weight", job->shape.dim, why))
        return false;
    for (which = 0; which < LINEARS; which++)
        if (!add_linear(job, index, which, why)) return false;
    return true;
}

static bool add_head(gguf_job *job, failure *why)
{
    const model *m = &job->shape;
    const hf_linear *found = hf_find_linear(job->from, "lm_head");

    if (m->tied) return true;
    if (!found) return add_matrix(job, 0, HEAD, job->words.tokens_count, m->dim, why);
    if (found->weight.out_features != job->words.tokens_count
        || found->weight.in_features != m->dim)
        return wrong_shape("lm_head", job->words.tokens_count, m->dim, why);
    return add_blocks(job, 0, HEAD, found, why);
}

/*  Llama 3's rotations have factors of their own. */
static void add_factors(gguf_job *job)
{
    const rope_rule *rope = &job->shape.rope;
    size_t count = job->shape.rope_dims / 2;
    tensor_name name = { "rope_freqs.weight" };
    gguf_output *output;

    if (!rope->factors) return;
    output = add_output(job, name);
    set_shape(output, GGUF_F32, count, 0, count * sizeof(float));
    output->data = rope->factors;
}

static bool add_tensors(gguf_job *job, failure *why)
{
    size_t most = job->shape.layers_count * (2 + 2 * LINEARS) + 4, i;

    job->sources = calloc(most, sizeof *job->sources);
    job->outputs = calloc(most, sizeof *job->outputs);
    if (!job->sources || !job->outputs) return fail(why, "out of memory");
    add_factors(job);
    if (!add_matrix(job, 0, EMBEDDING, job->words.tokens_count, job->shape.dim, why)) return false;
    for (i = 0; i < job->shape.layers_count; i++)
        if (!add_layer(job, i, why)) return false;
    return add_vector(job, 0, OUTPUT_NORM, ".weight", job->shape.dim, why) && add_head(job, why);
}

/* ---- the file -------------------------------------------------------------------------------- */

static bool read_shape(gguf_job *job, failure *why)
{
    const hf_model *from = job->from;
    tensor_name name = hf_name(0, EMBEDDING, ".weight");
    const safetensors_tensor *embedding = hf_find_tensor(from, name.text);
    model *m = &job->shape;
    size_t rows;

    if (!hf_config_read(from->config, m, &rows, why)) return false;
    if (!embedding || embedding->rank != 2 || embedding->shape[0] != rows)
        return fail(why, "%s: config.json promises %zu tokens, but there is no embedding of them",
                    from->path, rows);
    if (m->context > UINT32_MAX)
        return fail(why, "%s: %zu positions are too many for GGUF", from->path, m->context);
    if (m->layers_count > from->tensors_count)
        return fail(why, "%s: config.json promises %zu layers, but there are only %zu tensors",
                    from->path, m->layers_count, from->tensors_count);
    if (!tokenizer_json_read(&job->words, from->path, rows, why)) return false;
    hf_config_read_ids(from->config, &job->words);
    return true;
}

static bool write_gguf(gguf_job *job, const char *path, failure *why)
{
    gguf_metadata data;
    gguf_file metadata;
    bool written = false;

    gguf_begin(&data);
    add_shape(&data, job);
    add_vocabulary(&data, &job->words);
    if (gguf_finish(&data, &metadata, why)) {
        written = gguf_write(path, &metadata, NULL, 0, job->outputs, job->count, why);
        gguf_close(&metadata);
    }
    gguf_free(&data);
    return written;
}

bool convert_gguf(const hf_model *from, const char *path, const convert_options *options,
                  failure *why)
{
    gguf_job job;
    bool written;

    memset(&job, 0, sizeof job);
    job.from = from;
    job.options = options;
    job.bar = progress_begin("converting", 0);
    written = read_shape(&job, why) && add_tensors(&job, why) && write_gguf(&job, path, why);
    if (written) progress_end(&job.bar);
    vocabulary_close(&job.words);
    free(job.shape.rope.factors);
    free(job.sources);
    free(job.outputs);
    return written;
}
