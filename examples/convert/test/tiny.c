/*  tiny.c - see tiny.h. */
#include "tiny.h"

#include <dirent.h>

#define MOST 64                     /* tensors of a model */

/*  A quantized linear, or with out = 0 the end of a list. */
typedef struct tiny_linear {
    const char *name;
    size_t out, in;
} tiny_linear;

tiny_options tiny_default(void)
{
    tiny_options options = { AWQ_GEMM, 32, 0, 64, 128, 0, (size_t)1 << 40 };
    return options;
}

static uint32_t random_bits(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/*  Random integers, zero points and scales, packed; NULL if awq.h refuses. */
static void *random_weights(const tiny_options *options, awq_quant quant, size_t out, size_t in,
                            awq_packed *packed)
{
    size_t i, groups = awq_group_count(in, quant.group_size);
    size_t size = awq_packed_size(quant, out, in);
    awq_kernels kernels = awq_kernels_portable();
    uint8_t *q = malloc(out * in), *zeros = malloc(out * groups);
    uint16_t *scales = malloc(out * groups * sizeof *scales);
    void *memory = malloc(size);
    awq_tensor tensor;

    for (i = 0; i < out * in; i++) q[i] = random_bits() % 16;
    for (i = 0; i < out * groups; i++) {
        uint32_t range = (uint32_t)(16 - options->least_zero);
        zeros[i] = (uint8_t)((uint32_t)options->least_zero + random_bits() % range);
        scales[i] = (uint16_t)(0x2000 + random_bits() % 1024);
        if (options->symmetric) zeros[i] = 8;
    }
    memset(&tensor, 0, sizeof tensor);
    tensor.out_features = out;
    tensor.in_features = in;
    tensor.quant = quant;
    tensor.q = q;
    tensor.scales = scales;
    tensor.zeros = quant.symmetric ? NULL : zeros;
    if (awq_packed_init(quant, out, in, memory, size) != AWQ_OK
        || awq_pack(&kernels, &tensor, memory, size, 0, out, NULL) != AWQ_OK
        || awq_packed_open(packed, memory, size) != AWQ_OK) {
        free(memory);
        memory = NULL;
    }
    free(q);
    free(zeros);
    free(scales);
    return memory;
}

static bool fill(const tiny_options *options, awq_foreign *weight, failure *why)
{
    awq_quant quant = { 4, 0, 0, AWQ_F16 };
    awq_kernels kernels = awq_kernels_portable();
    awq_packed packed;
    awq_status status;
    void *memory;

    quant.group_size = options->group_size;
    memory = random_weights(options, quant, weight->out_features, weight->in_features, &packed);
    if (!memory) return fail(why, "no random weights");
    status = awq_export(&kernels, &packed, weight, 0, 0, weight->out_features, NULL);
    free(memory);
    return status == AWQ_OK || fail(why, "%s", awq_status_string(status));
}

/*  Takes the config, and adds what says how the weights are quantized. */
static bool write_config(hf_writer *writer, const tiny_options *options, json_t *config,
                         failure *why)
{
    awq_quant quant = { 4, 0, 0, AWQ_F16 };
    bool written;

    quant.group_size = options->group_size;
    quant.symmetric = options->symmetric;
    json_object_set_new(config, "quantization_config",
                        hf_quantization_config(options->layout, quant, NULL));
    written = hf_write_json(writer, "config.json", config, why);
    json_decref(config);
    return written;
}

typedef struct tiny_plan {
    awq_foreign weights[MOST];
    safetensors_tensor tensors[MOST];
    size_t first[MOST], linears, parts, count;
} tiny_plan;

static bool describe(tiny_plan *plan, const tiny_options *options, const tiny_linear *linears,
                     failure *why)
{
    awq_quant quant = { 4, 0, 0, AWQ_F16 };

    memset(plan, 0, sizeof *plan);
    quant.group_size = options->group_size;
    quant.symmetric = options->symmetric;
    for (; linears->out; linears++) {
        awq_foreign *weight = &plan->weights[plan->linears];
        awq_status status = awq_foreign_init(weight, options->layout, quant, linears->out,
                                             linears->in);
        if (status != AWQ_OK) return hf_refuse(linears->name, weight, status, NULL, why);
        plan->first[plan->linears++] = plan->count;
        plan->count += hf_describe(weight, linears->name, plan->tensors + plan->count);
    }
    plan->first[plan->linears] = plan->parts = plan->count;
    return true;
}

/*  Small numbers of the tensor's dtype: bytes for others than floats. */
static void fill_other(safetensors_tensor *tensor)
{
    static const unsigned char ones[][4] = { { 0, 0, 0x80, 0x3f }, { 0, 0x3c }, { 0x80, 0x3f } };
    size_t dtype = tensor->dtype == SAFETENSORS_F32 ? 0 : tensor->dtype == SAFETENSORS_F16 ? 1 : 2;
    size_t width = dtype == 0 ? 4 : 2, i;

    if (tensor->dtype == SAFETENSORS_U8) width = 1;
    for (i = 0; i < tensor->size; i++) tensor->data[i] = ones[dtype][i % width];
    for (i = 0; i < tensor->size; i += width) tensor->data[i] = (unsigned char)random_bits();
}

static bool write_model(const char *path, tiny_plan *plan, const tiny_options *options,
                        json_t *config, const char *tokenizer, failure *why)
{
    hf_writer writer;
    bool written;
    size_t i;

    if (!hf_write_begin(&writer, path, plan->tensors, plan->count, options->shard_size, why))
        return false;
    for (i = plan->parts; i < plan->count; i++) fill_other(&plan->tensors[i]);
    for (written = true, i = 0; written && i < plan->linears; i++) {
        hf_attach(&plan->weights[i], plan->tensors + plan->first[i],
                  plan->first[i + 1] - plan->first[i]);
        written = fill(options, &plan->weights[i], why);
    }
    written = written && write_config(&writer, options, config, why)
              && hf_write_bytes(&writer, "tokenizer.json", tokenizer, strlen(tokenizer), why)
              && hf_write_end(&writer, why);
    if (!written) hf_write_abandon(&writer);
    for (i = 0; i < plan->parts; i++) free((char *)(uintptr_t)plan->tensors[i].name);
    return written;
}

static void add(tiny_plan *plan, const char *name, safetensors_dtype dtype, size_t rank,
                size_t rows, size_t columns)
{
    plan->tensors[plan->count++] = safetensors_describe(name, dtype, rank, rows, columns);
}

bool tiny_model(const char *path, const tiny_options *options, failure *why)
{
    size_t out = options->out_features, in = options->in_features;
    tiny_linear linears[] = { { "model.layers.0.mlp.up_proj", 0, 0 },
                              { "model.layers.0.self_attn.q_proj", 0, 0 },
                              { "model.layers.1.self_attn.q_proj", 0, 0 }, { NULL, 0, 0 } };
    static tiny_plan plan;
    size_t i;

    for (i = 0; i < 3; i++) {
        linears[i].out = out;
        linears[i].in = in;
    }
    if (!describe(&plan, options, linears, why)) return false;
    add(&plan, "model.layers.0.mlp.up_proj.bias", SAFETENSORS_F16, 1, out, 0);
    add(&plan, "model.norm.weight", SAFETENSORS_F32, 1, 5, 0);
    add(&plan, "model.embed_tokens.weight", SAFETENSORS_BF16, 2, 7, 3);
    add(&plan, "odd", SAFETENSORS_U8, 1, 3, 0);
    return write_model(path, &plan, options,
                       json_pack("{s:i, s:f, s:b}", "hidden_size", 128, "rms_norm_eps", 1e-5,
                                 "tie_word_embeddings", 1), "{}", why);
}

bool tiny_llama(const char *path, const tiny_options *options, failure *why)
{
    static const tiny_linear linears[] = {
        { "model.layers.0.self_attn.q_proj", 64, 64 },
        { "model.layers.0.self_attn.k_proj", 32, 64 },
        { "model.layers.0.self_attn.v_proj", 32, 64 },
        { "model.layers.0.self_attn.o_proj", 64, 64 },
        { "model.layers.0.mlp.gate_proj", 128, 64 },
        { "model.layers.0.mlp.up_proj", 128, 64 },
        { NULL, 0, 0 }
    };
    static const char tokenizer[] =
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": "
        "[\"a b\"]}, \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"special\": true}], "
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
        "\"trim_offsets\": true, \"use_regex\": true}}";
    static tiny_plan plan;

    if (!describe(&plan, options, linears, why)) return false;
    add(&plan, "model.layers.0.mlp.down_proj.weight", SAFETENSORS_F16, 2, 64, 128);
    add(&plan, "model.layers.0.self_attn.k_proj.bias", SAFETENSORS_F16, 1, 32, 0);
    add(&plan, "model.layers.0.input_layernorm.weight", SAFETENSORS_BF16, 1, 64, 0);
    add(&plan, "model.layers.0.post_attention_layernorm.weight", SAFETENSORS_F32, 1, 64, 0);
    add(&plan, "model.norm.weight", SAFETENSORS_F16, 1, 64, 0);
    add(&plan, "model.embed_tokens.weight", SAFETENSORS_F16, 2, 5, 64);
    add(&plan, "lm_head.weight", SAFETENSORS_BF16, 2, 5, 64);
    return write_model(path, &plan, options,
                       json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:i, s:i}",
                                 "model_type", "llama", "hidden_size", 64, "intermediate_size", 128,
                                 "num_hidden_layers", 1, "num_attention_heads", 2,
                                 "num_key_value_heads", 1, "vocab_size", 5, "rms_norm_eps", 1e-5,
                                 "rope_theta", 5e4, "tie_word_embeddings", 0,
                                 "max_position_embeddings", 77, "eos_token_id", 3),
                       tokenizer, why);
}

bool tiny_text(const char *folder, const char *name, const char *text, failure *why)
{
    char *path = join(folder, "/", name);
    bool written = file_write_whole(path, text, strlen(text), why);
    free(path);
    return written;
}

unsigned char *tiny_safetensors(const char *header, size_t data_size, size_t *size)
{
    size_t length = strlen(header), i;
    unsigned char *bytes;

    *size = 8 + length + data_size;
    bytes = calloc(1, *size);
    for (i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    return bytes;
}

size_t tiny_count(const char *folder, const char *begin)
{
    DIR *directory = opendir(folder);
    struct dirent *entry;
    size_t count = 0;

    while (directory && (entry = readdir(directory)) != NULL)
        count += strncmp(entry->d_name, begin, strlen(begin)) == 0;
    if (directory) closedir(directory);
    return count;
}

void tiny_remove(const char *folder)
{
    DIR *directory = opendir(folder);
    struct dirent *entry;

    while (directory && (entry = readdir(directory)) != NULL) {
        char *path = join(folder, "/", entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            if (unlink(path) != 0) tiny_remove(path);
        }
        free(path);
    }
    if (directory) closedir(directory);
    rmdir(folder);
}
