/*  fuzz_config.c - any text as config.json, over weights in a layout of three; behind a NUL byte,
    any text as model.safetensors.index.json. */
#include "../examples/formats/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/*  A linear of 64 x 128 in groups of 32: what its tensors are called, of which dtype and shape. */
static const struct { const char *name, *dtype, *shape; size_t size; } parts[3][4] = {
    { { "qweight", "I32", "128, 8", 4096 }, { "qzeros", "I32", "4, 8", 128 },
      { "scales", "F16", "4, 64", 512 } },
    { { "qweight", "I32", "16, 64", 4096 }, { "qzeros", "I32", "4, 8", 128 },
      { "scales", "F16", "4, 64", 512 }, { "g_idx", "I32", "128", 512 } },
    { { "weight_packed", "I32", "64, 16", 4096 }, { "weight_scale", "BF16", "64, 4", 512 },
      { "weight_zero_point", "I32", "8, 4", 128 }, { "weight_shape", "I64", "2", 16 } }
};

static uint8_t weights[3][6000];
static size_t weights_size[3];

static void make_weights(int layout)
{
    char *header = (char *)weights[layout] + 8;
    size_t used = 1, data = 0, i;

    header[0] = '{';
    for (i = 0; i < 4 && parts[layout][i].name; i++) {
        used += (size_t)sprintf(header + used, "%s\"a.b.%s\":{\"dtype\":\"%s\",\"shape\":[%s],"
                                "\"data_offsets\":[%zu,%zu]}", i ? "," : "", parts[layout][i].name,
                                parts[layout][i].dtype, parts[layout][i].shape, data,
                                data + parts[layout][i].size);
        data += parts[layout][i].size;
    }
    header[used++] = '}';
    weights[layout][0] = (uint8_t)used;
    weights[layout][1] = (uint8_t)(used >> 8);
    weights_size[layout] = 8 + used + data;
    if (layout == 2) {                          /* weight_shape, which lies last */
        weights[layout][weights_size[layout] - 16] = 64;
        weights[layout][weights_size[layout] - 8] = 128;
    } else {
        memset(header + used, 0, data);
    }
}

static void write_back(const hf_model *model)
{
    const awq_foreign *weight = &model->linears[0].weight;
    json_t *config = hf_quantization_config(weight->layout, weight->quant, model->excluded);

    if (!config) abort();
    json_decref(config);
}

static void read_config(const uint8_t *bytes, size_t size)
{
    hf_model model;
    failure why;
    int layout = (int)(size % 3);

    if (!weights_size[layout]) make_weights(layout);
    if (!hf_read(&model, bytes, size, weights[layout], weights_size[layout], &why)) return;
    if (model.linears_count) write_back(&model);
    hf_close(&model);
}

static void read_index(const uint8_t *bytes, size_t size)
{
    failure why;
    json_t *index = json_read(bytes, size, "index", &why);

    if (index) hf_check_index(index, "index", &why);
    json_decref(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint8_t *nul = size ? memchr(bytes, 0, size) : NULL;
    size_t config = nul ? (size_t)(nul - bytes) : size;

    read_config(bytes, config);
    if (nul) read_index(nul + 1, size - config - 1);
    return 0;
}
