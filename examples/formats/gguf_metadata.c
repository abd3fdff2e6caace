/*  gguf_metadata.c - see gguf_metadata.h. */
#include "gguf_metadata.h"

enum { HEADER = 24 };               /* magic, version, counts of tensors and of entries */

static void put(gguf_metadata *data, const void *bytes, size_t size)
{
    if (size > data->capacity - data->size) {
        size_t capacity = 2 * data->capacity + size;
        unsigned char *grown = realloc(data->bytes, capacity);
        data->failed = data->failed || !grown;
        if (!grown) return;
        data->bytes = grown;
        data->capacity = capacity;
    }
    if (size) memcpy(data->bytes + data->size, bytes, size);
    data->size += size;
}

static void put_number(gguf_metadata *data, uint64_t number, size_t size)
{
    unsigned char bytes[8];
    size_t i;
    for (i = 0; i < size; i++) bytes[i] = (unsigned char)(number >> (8 * i));
    put(data, bytes, size);
}

static void put_string(gguf_metadata *data, gguf_string string)
{
    put_number(data, string.length, 8);
    put(data, string.bytes, string.length);
}

static gguf_string string_of(const char *text)
{
    gguf_string string;
    string.bytes = text;
    string.length = strlen(text);
    return string;
}

static void put_key(gguf_metadata *data, const char *key, enum gguf_value_type type)
{
    put_string(data, string_of(key));
    put_number(data, (uint64_t)type, 4);
    data->count++;
}

void gguf_begin(gguf_metadata *data)
{
    memset(data, 0, sizeof *data);
    put(data, "GGUF", 4);
    put_number(data, 3, 4);
    put_number(data, 0, 8);
    put_number(data, 0, 8);         /* the count, when it is known */
}

void gguf_add_string(gguf_metadata *data, const char *key, gguf_string value)
{
    put_key(data, key, GGUF_STRING);
    put_string(data, value);
}

void gguf_add_text(gguf_metadata *data, const char *key, const char *value)
{
    gguf_add_string(data, key, string_of(value));
}

void gguf_add_u32(gguf_metadata *data, const char *key, uint32_t value)
{
    put_key(data, key, GGUF_U32);
    put_number(data, value, 4);
}

void gguf_add_float(gguf_metadata *data, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(data, key, GGUF_FLOAT);
    put_number(data, bits, 4);
}

void gguf_add_bool(gguf_metadata *data, const char *key, bool value)
{
    put_key(data, key, GGUF_BOOL);
    put_number(data, value, 1);
}

void gguf_add_array(gguf_metadata *data, const char *key, enum gguf_value_type type, size_t count)
{
    put_key(data, key, GGUF_ARRAY);
    put_number(data, (uint64_t)type, 4);
    put_number(data, count, 8);
}

void gguf_add_string_element(gguf_metadata *data, gguf_string value)
{
    put_string(data, value);
}

void gguf_add_s32_element(gguf_metadata *data, int32_t value)
{
    put_number(data, (uint32_t)value, 4);
}

bool gguf_finish(gguf_metadata *data, gguf_file *file, failure *why)
{
    size_t i;

    memset(file, 0, sizeof *file);
    if (data->failed) return fail(why, "out of memory");
    for (i = 0; i < 8; i++)
        data->bytes[HEADER - 8 + i] = (unsigned char)(data->count >> (8 * i));
    return gguf_read(file, data->bytes, data->size, "new metadata", why);
}

void gguf_free(gguf_metadata *data)
{
    free(data->bytes);
    memset(data, 0, sizeof *data);
}
