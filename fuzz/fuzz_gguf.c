/*  fuzz_gguf.c - any bytes as a GGUF file: the header, then every value and the tensors' rows. */
#include "../examples/formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static volatile unsigned char sink;

static void read_value(const gguf_file *gguf, const gguf_value *value)
{
    const unsigned char *cursor = value->data;
    uint64_t i;

    if (value->size) sink = value->data[value->size - 1];
    if (value->type == GGUF_STRING)
        for (i = 0; i < value->count; i++) {
            gguf_string string = gguf_next_string(&cursor);
            if (string.length) sink = (unsigned char)string.bytes[string.length - 1];
        }
    if (value->is_array && (value->type == GGUF_U32 || value->type == GGUF_S32) && value->count)
        sink = (unsigned char)gguf_u32_at(value, (size_t)value->count - 1);
    if (memchr(value->key.bytes, 0, value->key.length) == NULL && value->key.length < 64) {
        gguf_shown key = gguf_show(value->key);
        double number;
        size_t whole;
        bool flag;
        gguf_string text;
        gguf_get_size(gguf, key.text, &whole);
        gguf_get_double(gguf, key.text, &number);
        gguf_get_bool(gguf, key.text, &flag);
        gguf_get_string(gguf, key.text, &text);
    }
}

static void read_tensor(const gguf_tensor *tensor)
{
    float row[1024];

    sink = tensor->data[gguf_tensor_bytes(tensor) - 1];
    if (tensor->columns > 1024) return;
    gguf_row_to_f32(tensor, 0, row);
    gguf_row_to_f32(tensor, tensor->rows - 1, row);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    gguf_file gguf;
    failure why;
    size_t i;

    if (!gguf_read(&gguf, bytes, size, "input", &why)) return 0;
    for (i = 0; i < gguf.values_count; i++) read_value(&gguf, &gguf.values[i]);
    for (i = 0; i < gguf.tensors_count; i++) read_tensor(&gguf.tensors[i]);
    gguf_close(&gguf);
    return 0;
}
