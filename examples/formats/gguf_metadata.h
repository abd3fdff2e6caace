/*  gguf_metadata.h - makes the metadata of a new GGUF file, entry by entry. */
#ifndef FORMATS_GGUF_METADATA_H
#define FORMATS_GGUF_METADATA_H

#include "gguf.h"

typedef struct gguf_metadata {
    unsigned char *bytes;           /* a GGUF file without tensors */
    size_t size, capacity;
    uint64_t count;
    bool failed;                    /* out of memory: seen at the end, once for all */
} gguf_metadata;

void gguf_begin(gguf_metadata *data);
void gguf_add_string(gguf_metadata *data, const char *key, gguf_string value);
void gguf_add_text(gguf_metadata *data, const char *key, const char *value);
void gguf_add_u32(gguf_metadata *data, const char *key, uint32_t value);
void gguf_add_float(gguf_metadata *data, const char *key, float value);
void gguf_add_bool(gguf_metadata *data, const char *key, bool value);
/*  An array; its elements follow. */
void gguf_add_array(gguf_metadata *data, const char *key, enum gguf_value_type type, size_t count);
void gguf_add_string_element(gguf_metadata *data, gguf_string value);
void gguf_add_s32_element(gguf_metadata *data, int32_t value);

/*  As gguf_write() takes it; checked like any file. data must outlive it. */
bool gguf_finish(gguf_metadata *data, gguf_file *file, failure *why);
void gguf_free(gguf_metadata *data);

#endif
