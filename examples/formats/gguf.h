/*  gguf.h - reads GGUF files (versions 2 and 3, little-endian) without trusting them.

    gguf_open() checks the whole header: counts, lengths, types, alignment, offsets, duplicate
    names, overlaps. After it succeeds, nothing below can read outside the file. */
#ifndef FORMATS_GGUF_H
#define FORMATS_GGUF_H

#include "../common/files.h"

#include <stdint.h>

#define GGUF_MAX_DIMS 4

enum gguf_type {                /* of tensors; the numbers are those in the file */
    GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_0 = 2, GGUF_Q4_1 = 3, GGUF_Q8_0 = 8, GGUF_Q6_K = 14,
    GGUF_I8 = 24, GGUF_BF16 = 30
};

enum gguf_value_type {          /* of metadata */
    GGUF_U8 = 0, GGUF_S8, GGUF_U16, GGUF_S16, GGUF_U32, GGUF_S32, GGUF_FLOAT, GGUF_BOOL,
    GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_S64, GGUF_DOUBLE
};

typedef struct gguf_string {
    const char *bytes;          /* not terminated */
    size_t length;
} gguf_string;

typedef struct gguf_value {
    gguf_string key;
    uint32_t type;              /* of the value, or of the elements of an array */
    bool is_array;
    uint64_t count;             /* elements; 1 unless an array */
    const unsigned char *data;  /* the elements, packed and unaligned */
    size_t size;                /* bytes at data */
} gguf_value;

typedef struct gguf_tensor {
    gguf_string name;
    uint32_t type;
    uint32_t dims_count;
    uint64_t dims[GGUF_MAX_DIMS];   /* innermost first; 1 beyond dims_count */
    size_t columns, rows;           /* dims[0], and the product of the others */
    size_t row_bytes;
    const unsigned char *data;      /* rows * row_bytes bytes, unaligned */
} gguf_tensor;

typedef struct gguf_file {
    mapped_file file;
    bool is_mapped;                 /* by gguf_open */
    uint32_t version;
    size_t alignment;
    gguf_value *values;             /* both sorted by name */
    size_t values_count;
    const unsigned char *metadata;  /* all keys and values, as they lie in the file */
    size_t metadata_size;
    gguf_tensor *tensors;
    size_t tensors_count;
} gguf_file;

bool gguf_open(gguf_file *gguf, const char *path, failure *why);
/*  The same from memory that stays the caller's; `name` is for messages. */
bool gguf_read(gguf_file *gguf, const void *bytes, size_t size, const char *name, failure *why);
void gguf_close(gguf_file *gguf);

/*  NULL if there is none of that name. */
const gguf_value *gguf_find_value(const gguf_file *gguf, const char *key);
const gguf_tensor *gguf_find_tensor(const gguf_file *gguf, const char *name);

/*  False if the key is absent or its value is of another kind or does not fit; *out is then as it
    was, so that a default can stand there. */
bool gguf_get_size(const gguf_file *gguf, const char *key, size_t *out);
bool gguf_get_double(const gguf_file *gguf, const char *key, double *out);
bool gguf_get_bool(const gguf_file *gguf, const char *key, bool *out);
bool gguf_get_string(const gguf_file *gguf, const char *key, gguf_string *out);

/*  The elements of an array of strings, one after the other: start with cursor = value->data. */
gguf_string gguf_next_string(const unsigned char **cursor);
/*  Element `index` of an array of 32-bit integers. */
uint32_t gguf_u32_at(const gguf_value *value, size_t index);

/*  A string from the file, shortened and made safe to print. */
typedef struct gguf_shown { char text[64]; } gguf_shown;
gguf_shown gguf_show(gguf_string name);

bool gguf_string_is(gguf_string string, const char *text);
const char *gguf_type_name(uint32_t type);
size_t gguf_tensor_bytes(const gguf_tensor *tensor);

/*  Decodes one row to fp32; not for GGUF_I8, which holds bytes. */
void gguf_row_to_f32(const gguf_tensor *tensor, size_t row, float *out);

/* ---- writing: a copy of a file with some tensors replaced ------------------------------------ */

typedef struct gguf_output {
    gguf_string name;
    uint32_t type, dims_count;
    uint64_t dims[GGUF_MAX_DIMS];
    const void *data;           /* or NULL: */
    bool (*make)(const struct gguf_output *output, void *bytes, failure *why);
    const void *context;        /* whatever make() wants to know */
    size_t size;
} gguf_output;

gguf_output gguf_output_copy(const gguf_tensor *tensor);

/*  A number in the metadata, in place of what the original has under that key. */
typedef struct gguf_number {
    const char *key;
    uint32_t value;
} gguf_number;

/*  Writes `from`'s metadata with these numbers, and these tensors in this order; those to be made are
    made one by one. */
bool gguf_write(const char *path, const gguf_file *from, const gguf_number *numbers,
                size_t numbers_count, const gguf_output *tensors, size_t count, failure *why);

#endif
