/*  tiny.c - see tiny.h. */
#include "tiny.h"

#include <dirent.h>

enum { LINEARS = 3, OTHERS = 4, PARTS = LINEARS * HF_MAX_PARTS + OTHERS };

static const char *const names[LINEARS] = { "model.layers.0.mlp.up_proj",
                                            "model.layers.0.self_attn.q_proj",
                                            "model.layers.1.self_attn.q_proj" };

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
static void *random_weights(const tiny_options *options, awq_quant quant, awq_packed *packed)
{
    size_t out = options->out_features, in = options->in_features, i;
    size_t groups = awq_group_count(in, quant.group_size), size = awq_packed_size(quant, out, in);
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
    memory = random_weights(options, quant, &packed);
    if (!memory) return fail(why, "no random weights");
    status = awq_export(&kernels, &packed, weight, 0, 0, options->out_features, NULL);
    free(memory);
    return status == AWQ_OK || fail(why, "%s", awq_status_string(status));
}

static bool write_config(hf_writer *writer, const tiny_options *options, failure *why)
{
    awq_quant quant = { 4, 0, 0, AWQ_F16 };
    json_t *config;
    bool written;

    quant.group_size = options->group_size;
    quant.symmetric = options->symmetric;
    config = json_pack("{s:i, s:f, s:b, s:o}", "hidden_size", 128, "rms_norm_eps", 1e-5,
                       "tie_word_embeddings", 1, "quantization_config",
                       hf_quantization_config(options->layout, quant, NULL));
    written = hf_write_json(writer, "config.json", config, why)
              && hf_write_bytes(writer, "tokenizer.json", "{}", 2, why);
    json_decref(config);
    return written;
}

static bool describe(const tiny_options *options, awq_foreign *weights, safetensors_tensor *tensors,
                     size_t *first, size_t *count, failure *why)
{
    awq_quant quant = { 4, 0, 0, AWQ_F16 };
    size_t i;

    quant.group_size = options->group_size;
    quant.symmetric = options->symmetric;
    for (*count = i = 0; i < LINEARS; i++) {
        awq_status status = awq_foreign_init(&weights[i], options->layout, quant,
                                             options->out_features, options->in_features);
        if (status != AWQ_OK) return hf_refuse(names[i], &weights[i], status, NULL, why);
        first[i] = *count;
        *count += hf_describe(&weights[i], names[i], tensors + *count);
    }
    first[LINEARS] = *count;
    return true;
}

bool tiny_model(const char *path, const tiny_options *options, failure *why)
{
    safetensors_tensor tensors[PARTS];
    awq_foreign weights[LINEARS];
    size_t first[LINEARS + 1] = { 0 }, count = 0, i, j;
    hf_writer writer;
    bool written = false;

    if (!describe(options, weights, tensors, first, &count, why)) return false;
    tensors[count++] = safetensors_describe("model.layers.0.mlp.up_proj.bias", SAFETENSORS_F16, 1,
                                            options->out_features, 0);
    tensors[count++] = safetensors_describe("model.norm.weight", SAFETENSORS_F32, 1, 5, 0);
    tensors[count++] = safetensors_describe("model.embed_tokens.weight", SAFETENSORS_BF16, 2, 7, 3);
    tensors[count++] = safetensors_describe("odd", SAFETENSORS_U8, 1, 3, 0);
    if (hf_write_begin(&writer, path, tensors, count, options->shard_size, why)) {
        for (i = first[LINEARS]; i < count; i++)
            for (j = 0; j < tensors[i].size; j++) tensors[i].data[j] = (unsigned char)(i + j);
        for (written = true, i = 0; written && i < LINEARS; i++) {
            hf_attach(&weights[i], tensors + first[i], first[i + 1] - first[i]);
            written = fill(options, &weights[i], why);
        }
        written = written && write_config(&writer, options, why) && hf_write_end(&writer, why);
        if (!written) hf_write_abandon(&writer);
    }
    for (i = 0; i < first[LINEARS]; i++) free((char *)(uintptr_t)tensors[i].name);
    return written;
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
