/*  fuzz_safetensors.c - any bytes as model.safetensors, alone and under each kind of config.json.
    An input that begins with { is the header's JSON and what follows; its length is put before. */
#include "../examples/formats/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define AWQ_CONFIG(version, group_size)                                                            \
    "{\"quantization_config\": {\"quant_method\": \"awq\", \"version\": \"" version "\","          \
    " \"group_size\": " #group_size "}}"
#define GPTQ_CONFIG(format)                                                                        \
    "{\"quantization_config\": {\"quant_method\": \"gptq\", \"checkpoint_format\": \"" format "\","\
    " \"group_size\": 32}}"
#define COMPRESSED_CONFIG(symmetric)                                                               \
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\":"             \
    " \"pack-quantized\", \"config_groups\": {\"group_0\": {\"weights\": {\"num_bits\": 4,"        \
    " \"group_size\": 32, \"symmetric\": " symmetric "}}}}}"

static const char *const configs[] = {
    AWQ_CONFIG("gemm", 32), AWQ_CONFIG("gemv", 32), AWQ_CONFIG("gemv_fast", 32),
    AWQ_CONFIG("marlin", -1), AWQ_CONFIG("awq_marlin", 32), GPTQ_CONFIG("gptq"),
    GPTQ_CONFIG("gptq_v2"), COMPRESSED_CONFIG("true"), COMPRESSED_CONFIG("false"), "{}"
};

static volatile unsigned char sink;

/*  A view that reaches outside the file faults here. */
static void touch(const void *data, size_t size)
{
    if (!size) return;
    sink = ((const unsigned char *)data)[0];
    sink = ((const unsigned char *)data)[size - 1];
}

static bool read_alone(const uint8_t *bytes, size_t size)
{
    safetensors_file file;
    failure why;
    size_t i;

    if (!safetensors_read(&file, bytes, size, "input", &why)) return false;
    for (i = 0; i < file.count; i++) {
        touch(file.tensors[i].data, file.tensors[i].size);
        safetensors_show(&file.tensors[i]);
        if (safetensors_find(&file, file.tensors[i].name) != &file.tensors[i]) abort();
    }
    safetensors_close(&file);
    return true;
}

static void touch_linear(const hf_model *model, const hf_linear *linear)
{
    touch(linear->weight.weights.data, awq_plane_size(&linear->weight.weights));
    touch(linear->weight.scales.data, awq_plane_size(&linear->weight.scales));
    touch(linear->weight.zeros.data, awq_plane_size(&linear->weight.zeros));
    if (linear->weight.group_index)
        touch(linear->weight.group_index, 4 * linear->weight.in_features);
    if (linear->bias) touch(linear->bias->data, linear->bias->size);
    if (hf_find_linear(model, linear->name) != linear) abort();
}

static void read_model(const char *config, const uint8_t *bytes, size_t size)
{
    hf_model model;
    failure why;
    size_t i;

    if (!hf_read(&model, config, strlen(config), bytes, size, &why)) return;
    for (i = 0; i < model.linears_count; i++) touch_linear(&model, &model.linears[i]);
    for (i = 0; i < model.tensors_count; i++) hf_owner(&model, model.tensors[i]);
    hf_close(&model);
}

static void read_file(const uint8_t *bytes, size_t size)
{
    if (read_alone(bytes, size))
        read_model(configs[size % (sizeof configs / sizeof configs[0])], bytes, size);
}

static size_t header_size(const uint8_t *bytes, size_t size)
{
    while (size && bytes[size - 1] != '}') size--;
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t *file;
    size_t header, i;

    if (!size || bytes[0] != '{') {
        read_file(bytes, size);
        return 0;
    }
    file = malloc(size + 8);
    if (!file) abort();
    header = header_size(bytes, size);
    for (i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header >> (8 * i));
    memcpy(file + 8, bytes, size);
    read_file(file, size + 8);
    free(file);
    return 0;
}
