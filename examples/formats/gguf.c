/*  gguf.c - see gguf.h. Every number that comes from the file is checked before it is used. */
#include "gguf.h"

typedef struct tensor_type {
    uint32_t id;
    const char *name;
    size_t block_columns, block_bytes;
} tensor_type;

static const tensor_type tensor_types[] = {
    { GGUF_F32, "F32", 1, 4 },       { GGUF_F16, "F16", 1, 2 },     { GGUF_BF16, "BF16", 1, 2 },
    { GGUF_Q4_0, "Q4_0", 32, 18 },   { GGUF_Q4_1, "Q4_1", 32, 20 }, { GGUF_Q8_0, "Q8_0", 32, 34 },
    { GGUF_Q6_K, "Q6_K", 256, 210 }, { GGUF_I8, "I8", 1, 1 }
};

/*  Bytes of one metadata element, by type; 0 for strings and arrays. */
static const unsigned char value_sizes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

static const tensor_type *find_type(uint32_t id)
{
    size_t i;
    for (i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++)
        if (tensor_types[i].id == id) return &tensor_types[i];
    return NULL;
}

const char *gguf_type_name(uint32_t type)
{
    const tensor_type *known = find_type(type);
    return known ? known->name : "unknown";
}

/* ---- little-endian numbers at any address ---------------------------------------------------- */

static uint16_t load_u16(const unsigned char *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load_u32(const unsigned char *p)
{
    return load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

static uint64_t load_u64(const unsigned char *p)
{
    return load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

static float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float load_bf16(const unsigned char *p)
{
    return float_from_bits((uint32_t)load_u16(p) << 16);
}

static float load_f16(const unsigned char *p)
{
    uint32_t half = load_u16(p), sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;

    if (rest >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x0400u) return float_from_bits(sign | ((rest << 13) + 0x38000000u));
    return (sign ? -1.0f : 1.0f) * (float)rest * 0x1p-24f;
}

static double load_double(const unsigned char *p)
{
    uint64_t bits = load_u64(p);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- reading the header ---------------------------------------------------------------------- */

typedef struct reader {
    const unsigned char *at, *end;
    const char *path;
    failure *why;
} reader;

/*  The next `size` bytes, or NULL and a message if the file ends first. */
static const unsigned char *take(reader *in, uint64_t size, const char *what)
{
    const unsigned char *bytes = in->at;

    if (size > (size_t)(in->end - in->at)) {
        fail(in->why, "%s: truncated or corrupt GGUF: the file ends inside %s", in->path, what);
        return NULL;
    }
    in->at += (size_t)size;
    return bytes;
}

static bool take_u32(reader *in, uint32_t *out, const char *what)
{
    const unsigned char *bytes = take(in, 4, what);
    if (bytes) *out = load_u32(bytes);
    return bytes != NULL;
}

static bool take_u64(reader *in, uint64_t *out, const char *what)
{
    const unsigned char *bytes = take(in, 8, what);
    if (bytes) *out = load_u64(bytes);
    return bytes != NULL;
}

static bool take_string(reader *in, gguf_string *out, const char *what)
{
    uint64_t length;
    if (!take_u64(in, &length, what)) return false;
    out->bytes = (const char *)take(in, length, what);
    out->length = (size_t)length;
    return out->bytes != NULL;
}

gguf_shown gguf_show(gguf_string name)
{
    gguf_shown shown;
    size_t i, length = name.length < sizeof shown.text ? name.length : sizeof shown.text - 1;

    for (i = 0; i < length; i++) {
        char c = name.bytes[i];
        shown.text[i] = c >= ' ' && c <= '~' ? c : '?';
    }
    shown.text[length] = '\0';
    return shown;
}

static bool skip_strings(reader *in, uint64_t count)
{
    gguf_string string;
    uint64_t i;
    for (i = 0; i < count; i++)
        if (!take_string(in, &string, "an array of strings")) return false;
    return true;
}

static bool take_elements(reader *in, gguf_value *value)
{
    const unsigned char *begin = in->at;

    if (value->type > GGUF_DOUBLE || value->type == GGUF_ARRAY)
        return fail(in->why,
                    "%s: metadata \"%s\" has type %u, which GGUF 2 and 3 do not allow here",
                    in->path, gguf_show(value->key).text, (unsigned)value->type);
    if (value->type == GGUF_STRING) {
        if (!skip_strings(in, value->count)) return false;
    } else {
        uint64_t size = value_sizes[value->type];
        if (value->count > UINT64_MAX / size)
            return fail(in->why, "%s: metadata \"%s\" has an impossible length", in->path,
                        gguf_show(value->key).text);
        if (!take(in, size * value->count, "a metadata value")) return false;
    }
    value->data = begin;
    value->size = (size_t)(in->at - begin);
    return true;
}

static bool take_value(reader *in, gguf_value *value)
{
    value->count = 1;
    value->is_array = false;
    if (!take_string(in, &value->key, "a metadata key")) return false;
    if (!take_u32(in, &value->type, "a metadata type")) return false;
    if (value->type == GGUF_ARRAY) {
        value->is_array = true;
        if (!take_u32(in, &value->type, "an array type")) return false;
        if (!take_u64(in, &value->count, "an array length")) return false;
    }
    return take_elements(in, value);
}

static bool take_dims(reader *in, gguf_tensor *tensor)
{
    uint32_t i;

    if (!take_u32(in, &tensor->dims_count, "a tensor's dimensions")) return false;
    if (tensor->dims_count > GGUF_MAX_DIMS)
        return fail(in->why, "%s: tensor \"%s\" has %u dimensions; at most %d are possible",
                    in->path, gguf_show(tensor->name).text, (unsigned)tensor->dims_count,
                    GGUF_MAX_DIMS);
    for (i = 0; i < GGUF_MAX_DIMS; i++) tensor->dims[i] = 1;
    for (i = 0; i < tensor->dims_count; i++)
        if (!take_u64(in, &tensor->dims[i], "a tensor's dimensions")) return false;
    return true;
}

/*  Fills columns, rows and row_bytes; their product fits in size_t afterwards. */
static bool measure(reader *in, gguf_tensor *tensor)
{
    const tensor_type *type = find_type(tensor->type);
    uint64_t rows = 1, row_bytes;
    uint32_t i;

    if (!type)
        return fail(in->why,
                    "%s: tensor \"%s\" has type %u; this program reads F32, F16, BF16, Q8_0, "
                    "Q4_0, Q4_1 and Q6_K: convert the file to one of these",
                    in->path, gguf_show(tensor->name).text, (unsigned)tensor->type);
    if (tensor->dims[0] % type->block_columns != 0)
        return fail(in->why, "%s: tensor \"%s\": rows of %llu are not whole %s blocks of %zu",
                    in->path, gguf_show(tensor->name).text, (unsigned long long)tensor->dims[0],
                    type->name, type->block_columns);
    for (i = 0; i < GGUF_MAX_DIMS; i++) {
        uint64_t dim = i ? tensor->dims[i] : tensor->dims[0] / type->block_columns;
        uint64_t limit = (SIZE_MAX >> 1) / type->block_bytes;
        if (dim == 0 || dim > limit || (i && rows > limit / dim))
            return fail(in->why, "%s: tensor \"%s\" has an impossible shape", in->path,
                        gguf_show(tensor->name).text);
        if (i) rows *= dim;
    }
    row_bytes = tensor->dims[0] / type->block_columns * type->block_bytes;
    if (row_bytes > (SIZE_MAX >> 1) / rows)
        return fail(in->why, "%s: tensor \"%s\" has an impossible shape", in->path,
                    gguf_show(tensor->name).text);
    tensor->columns = (size_t)tensor->dims[0];
    tensor->rows = (size_t)rows;
    tensor->row_bytes = (size_t)row_bytes;
    return true;
}

/*  `offset` is kept in *offset until the start of the data is known. */
static bool take_tensor(reader *in, gguf_tensor *tensor, uint64_t *offset)
{
    return take_string(in, &tensor->name, "a tensor name") && take_dims(in, tensor)
           && take_u32(in, &tensor->type, "a tensor type")
           && take_u64(in, offset, "a tensor offset") && measure(in, tensor);
}

static int compare_strings(gguf_string a, gguf_string b)
{
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common ? memcmp(a.bytes, b.bytes, common) : 0;
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_values(const void *a, const void *b)
{
    return compare_strings(((const gguf_value *)a)->key, ((const gguf_value *)b)->key);
}

static int compare_tensors(const void *a, const void *b)
{
    return compare_strings(((const gguf_tensor *)a)->name, ((const gguf_tensor *)b)->name);
}

static bool take_counts(gguf_file *gguf, reader *in)
{
    const unsigned char *magic = take(in, 4, "the magic number");
    uint64_t tensors, values;

    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return fail(in->why, "%s: not a GGUF file (it does not start with \"GGUF\")", in->path);
    if (!take_u32(in, &gguf->version, "the version")) return false;
    if (gguf->version != 0 && (gguf->version & 0xffffu) == 0)
        return fail(in->why, "%s: a big-endian GGUF file; only little-endian ones are read",
                    in->path);
    if (gguf->version != 2 && gguf->version != 3)
        return fail(in->why, "%s: GGUF version %u; only 2 and 3 are read", in->path,
                    (unsigned)gguf->version);
    if (!take_u64(in, &tensors, "the counts") || !take_u64(in, &values, "the counts")) return false;

    /* the shortest possible entries bound the counts before anything is allocated */
    if (tensors > (uint64_t)(in->end - in->at) / 24 || values > (uint64_t)(in->end - in->at) / 13)
        return fail(in->why,
                    "%s: truncated or corrupt GGUF: %llu tensors and %llu metadata entries "
                    "cannot fit in the file",
                    in->path, (unsigned long long)tensors, (unsigned long long)values);
    gguf->tensors_count = (size_t)tensors;
    gguf->values_count = (size_t)values;
    gguf->values = calloc(gguf->values_count + 1, sizeof *gguf->values);
    gguf->tensors = calloc(gguf->tensors_count + 1, sizeof *gguf->tensors);
    if (!gguf->values || !gguf->tensors) return fail(in->why, "%s: out of memory", in->path);
    return true;
}

static bool read_values(gguf_file *gguf, reader *in)
{
    size_t i;

    gguf->metadata = in->at;
    for (i = 0; i < gguf->values_count; i++)
        if (!take_value(in, &gguf->values[i])) return false;
    gguf->metadata_size = (size_t)(in->at - gguf->metadata);
    qsort(gguf->values, gguf->values_count, sizeof *gguf->values, compare_values);
    for (i = 1; i < gguf->values_count; i++)
        if (compare_values(&gguf->values[i - 1], &gguf->values[i]) == 0)
            return fail(in->why, "%s: metadata \"%s\" occurs twice", in->path,
                        gguf_show(gguf->values[i].key).text);
    return true;
}

static bool read_alignment(gguf_file *gguf, reader *in)
{
    const gguf_value *value = gguf_find_value(gguf, "general.alignment");

    gguf->alignment = 32;
    if (!value) return true;
    if (!gguf_get_size(gguf, "general.alignment", &gguf->alignment) || gguf->alignment == 0
        || (gguf->alignment & (gguf->alignment - 1)) != 0 || gguf->alignment > (1u << 20))
        return fail(in->why, "%s: general.alignment is not a power of two up to 2^20", in->path);
    return true;
}

static size_t align_up(size_t size, size_t alignment)
{
    return (size + alignment - 1) / alignment * alignment;
}

static bool place_tensor(const gguf_file *gguf, reader *in, gguf_tensor *tensor, size_t data_start,
                         uint64_t offset)
{
    size_t room = gguf->file.size - data_start, size = gguf_tensor_bytes(tensor);

    if (offset % gguf->alignment != 0)
        return fail(in->why, "%s: tensor \"%s\" starts at %llu, not a multiple of %zu", in->path,
                    gguf_show(tensor->name).text, (unsigned long long)offset, gguf->alignment);
    if (offset > room || size > room - offset)
        return fail(in->why,
                    "%s: truncated or corrupt GGUF: tensor \"%s\" reaches beyond the end of "
                    "the file",
                    in->path, gguf_show(tensor->name).text);
    tensor->data = gguf->file.bytes + data_start + (size_t)offset;
    return true;
}

static int compare_places(const void *a, const void *b)
{
    const gguf_tensor *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

static bool check_overlaps(gguf_file *gguf, reader *in)
{
    size_t i;

    qsort(gguf->tensors, gguf->tensors_count, sizeof *gguf->tensors, compare_places);
    for (i = 1; i < gguf->tensors_count; i++) {
        const gguf_tensor *before = &gguf->tensors[i - 1], *tensor = &gguf->tensors[i];
        if ((size_t)(tensor->data - before->data) < gguf_tensor_bytes(before))
            return fail(in->why, "%s: corrupt GGUF: tensors \"%s\" and \"%s\" overlap", in->path,
                        gguf_show(before->name).text, gguf_show(tensor->name).text);
    }
    return true;
}

static bool read_tensors(gguf_file *gguf, reader *in, uint64_t *offsets)
{
    size_t i, data_start;

    for (i = 0; i < gguf->tensors_count; i++)
        if (!take_tensor(in, &gguf->tensors[i], &offsets[i])) return false;
    data_start = align_up((size_t)(in->at - gguf->file.bytes), gguf->alignment);
    if (gguf->tensors_count && data_start > gguf->file.size)
        return fail(in->why, "%s: truncated GGUF: the file ends before its tensors", in->path);
    for (i = 0; i < gguf->tensors_count; i++)
        if (!place_tensor(gguf, in, &gguf->tensors[i], data_start, offsets[i])) return false;
    if (!check_overlaps(gguf, in)) return false;
    qsort(gguf->tensors, gguf->tensors_count, sizeof *gguf->tensors, compare_tensors);
    for (i = 1; i < gguf->tensors_count; i++)
        if (compare_tensors(&gguf->tensors[i - 1], &gguf->tensors[i]) == 0)
            return fail(in->why, "%s: tensor \"%s\" occurs twice", in->path,
                        gguf_show(gguf->tensors[i].name).text);
    return true;
}

static bool read_header(gguf_file *gguf, reader *in)
{
    uint64_t *offsets;
    bool read;

    if (!take_counts(gguf, in) || !read_values(gguf, in) || !read_alignment(gguf, in)) return false;
    offsets = malloc((gguf->tensors_count + 1) * sizeof *offsets);
    if (!offsets) return fail(in->why, "%s: out of memory", in->path);
    read = read_tensors(gguf, in, offsets);
    free(offsets);
    return read;
}

bool gguf_read(gguf_file *gguf, const void *bytes, size_t size, const char *name, failure *why)
{
    reader in;

    memset(gguf, 0, sizeof *gguf);
    gguf->file.bytes = in.at = bytes;
    gguf->file.size = size;
    in.end = in.at + size;
    in.path = name;
    in.why = why;
    if (read_header(gguf, &in)) return true;
    gguf_close(gguf);
    return false;
}

bool gguf_open(gguf_file *gguf, const char *path, failure *why)
{
    mapped_file file;

    memset(gguf, 0, sizeof *gguf);
    if (!file_map(&file, path, why)) return false;
    if (!gguf_read(gguf, file.bytes, file.size, path, why)) {
        file_unmap(&file);
        return false;
    }
    gguf->is_mapped = true;
    return true;
}

void gguf_close(gguf_file *gguf)
{
    free(gguf->values);
    free(gguf->tensors);
    if (gguf->is_mapped) file_unmap(&gguf->file);
    memset(gguf, 0, sizeof *gguf);
}

/* ---- looking things up ----------------------------------------------------------------------- */

static gguf_string string_of(const char *text)
{
    gguf_string string;
    string.bytes = text;
    string.length = strlen(text);
    return string;
}

bool gguf_string_is(gguf_string string, const char *text)
{
    return compare_strings(string, string_of(text)) == 0;
}

const gguf_value *gguf_find_value(const gguf_file *gguf, const char *key)
{
    gguf_value wanted = { 0 };
    wanted.key = string_of(key);
    return bsearch(&wanted, gguf->values, gguf->values_count, sizeof wanted, compare_values);
}

const gguf_tensor *gguf_find_tensor(const gguf_file *gguf, const char *name)
{
    gguf_tensor wanted = { 0 };
    wanted.name = string_of(name);
    return bsearch(&wanted, gguf->tensors, gguf->tensors_count, sizeof wanted, compare_tensors);
}

static const gguf_value *find_scalar(const gguf_file *gguf, const char *key)
{
    const gguf_value *value = gguf_find_value(gguf, key);
    return value && !value->is_array ? value : NULL;
}

bool gguf_get_size(const gguf_file *gguf, const char *key, size_t *out)
{
    const gguf_value *value = find_scalar(gguf, key);
    uint64_t number = 0, sign;
    size_t i;

    if (!value || value->type == GGUF_FLOAT || value->type == GGUF_BOOL
        || value->type == GGUF_STRING || value->type == GGUF_DOUBLE)
        return false;
    for (i = 0; i < value->size; i++) number |= (uint64_t)value->data[i] << (8 * i);
    sign = (uint64_t)1 << (8 * value->size - 1);
    if ((value->type == GGUF_S8 || value->type == GGUF_S16 || value->type == GGUF_S32
         || value->type == GGUF_S64)
        && (number & sign))
        return false;
    if (number > SIZE_MAX) return false;
    *out = (size_t)number;
    return true;
}

bool gguf_get_double(const gguf_file *gguf, const char *key, double *out)
{
    const gguf_value *value = find_scalar(gguf, key);

    if (!value || (value->type != GGUF_FLOAT && value->type != GGUF_DOUBLE)) return false;
    *out = value->type == GGUF_FLOAT ? (double)float_from_bits(load_u32(value->data))
                                     : load_double(value->data);
    return true;
}

bool gguf_get_bool(const gguf_file *gguf, const char *key, bool *out)
{
    const gguf_value *value = find_scalar(gguf, key);
    if (!value || value->type != GGUF_BOOL) return false;
    *out = value->data[0] != 0;
    return true;
}

bool gguf_get_string(const gguf_file *gguf, const char *key, gguf_string *out)
{
    const gguf_value *value = find_scalar(gguf, key);
    const unsigned char *cursor;

    if (!value || value->type != GGUF_STRING) return false;
    cursor = value->data;
    *out = gguf_next_string(&cursor);
    return true;
}

gguf_string gguf_next_string(const unsigned char **cursor)
{
    gguf_string string;
    string.length = (size_t)load_u64(*cursor);
    string.bytes = (const char *)*cursor + 8;
    *cursor += 8 + string.length;
    return string;
}

uint32_t gguf_u32_at(const gguf_value *value, size_t index)
{
    return load_u32(value->data + 4 * index);
}

size_t gguf_tensor_bytes(const gguf_tensor *tensor)
{
    return tensor->rows * tensor->row_bytes;
}

/* ---- decoding rows --------------------------------------------------------------------------- */

static void decode_q4_0(const unsigned char *block, float *out)
{
    float d = load_f16(block);
    size_t j;
    for (j = 0; j < 16; j++) {
        out[j] = (float)((block[2 + j] & 15) - 8) * d;
        out[j + 16] = (float)((block[2 + j] >> 4) - 8) * d;
    }
}

static void decode_q4_1(const unsigned char *block, float *out)
{
    float d = load_f16(block), m = load_f16(block + 2);
    size_t j;
    for (j = 0; j < 16; j++) {
        out[j] = (float)(block[4 + j] & 15) * d + m;
        out[j + 16] = (float)(block[4 + j] >> 4) * d + m;
    }
}

static void decode_q8_0(const unsigned char *block, float *out)
{
    float d = load_f16(block);
    size_t j;
    for (j = 0; j < 32; j++) out[j] = (float)(signed char)block[2 + j] * d;
}

/*  Half of a Q6_K block, 128 elements: low 4 bits in ql, high 2 in qh, a scale for every 16. */
static void decode_q6_k_half(const unsigned char *ql, const unsigned char *qh,
                             const signed char *scales, float d, float *out)
{
    size_t l;
    for (l = 0; l < 32; l++) {
        int high = qh[l];
        int q0 = (ql[l] & 15) | (high & 3) << 4;
        int q1 = (ql[l + 32] & 15) | (high >> 2 & 3) << 4;
        int q2 = ql[l] >> 4 | (high >> 4 & 3) << 4;
        int q3 = ql[l + 32] >> 4 | (high >> 6 & 3) << 4;
        out[l] = d * (float)(scales[l / 16] * (q0 - 32));
        out[l + 32] = d * (float)(scales[l / 16 + 2] * (q1 - 32));
        out[l + 64] = d * (float)(scales[l / 16 + 4] * (q2 - 32));
        out[l + 96] = d * (float)(scales[l / 16 + 6] * (q3 - 32));
    }
}

static void decode_q6_k(const unsigned char *block, float *out)
{
    const signed char *scales = (const signed char *)block + 192;
    float d = load_f16(block + 208);
    decode_q6_k_half(block, block + 128, scales, d, out);
    decode_q6_k_half(block + 64, block + 160, scales + 8, d, out + 128);
}

void gguf_row_to_f32(const gguf_tensor *tensor, size_t row, float *out)
{
    const unsigned char *in = tensor->data + row * tensor->row_bytes;
    size_t i, n = tensor->columns;

    switch (tensor->type) {
    case GGUF_F32:
        for (i = 0; i < n; i++) out[i] = float_from_bits(load_u32(in + 4 * i));
        break;
    case GGUF_F16:
        for (i = 0; i < n; i++) out[i] = load_f16(in + 2 * i);
        break;
    case GGUF_BF16:
        for (i = 0; i < n; i++) out[i] = load_bf16(in + 2 * i);
        break;
    case GGUF_Q4_0:
        for (i = 0; i < n / 32; i++) decode_q4_0(in + 18 * i, out + 32 * i);
        break;
    case GGUF_Q4_1:
        for (i = 0; i < n / 32; i++) decode_q4_1(in + 20 * i, out + 32 * i);
        break;
    case GGUF_Q8_0:
        for (i = 0; i < n / 32; i++) decode_q8_0(in + 34 * i, out + 32 * i);
        break;
    case GGUF_Q6_K:
        for (i = 0; i < n / 256; i++) decode_q6_k(in + 210 * i, out + 256 * i);
        break;
    default:
        for (i = 0; i < n; i++) out[i] = 0.0f;
        break;
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

gguf_output gguf_output_copy(const gguf_tensor *tensor)
{
    gguf_output output;
    output.name = tensor->name;
    output.type = tensor->type;
    output.dims_count = tensor->dims_count;
    memcpy(output.dims, tensor->dims, sizeof output.dims);
    output.data = tensor->data;
    output.make = NULL;
    output.context = NULL;
    output.size = gguf_tensor_bytes(tensor);
    return output;
}

/*  A file being written and how far it has come, so that padding can be computed. */
typedef struct sink {
    file_writer file;
    size_t written;
    failure *why;
} sink;

static bool put(sink *out, const void *bytes, size_t size)
{
    out->written += size;
    return file_write(&out->file, bytes, size, out->why);
}

static bool put_number(sink *out, uint64_t number, size_t size)
{
    unsigned char bytes[8];
    size_t i;
    for (i = 0; i < size; i++) bytes[i] = (unsigned char)(number >> (8 * i));
    return put(out, bytes, size);
}

static bool put_padding(sink *out, size_t alignment)
{
    static const unsigned char zeros[64];
    size_t left = align_up(out->written, alignment) - out->written;

    while (left) {
        size_t some = left < sizeof zeros ? left : sizeof zeros;
        if (!put(out, zeros, some)) return false;
        left -= some;
    }
    return true;
}

static bool put_tensor_info(sink *out, const gguf_output *tensor, size_t offset)
{
    uint32_t i;

    if (!put_number(out, tensor->name.length, 8)) return false;
    if (!put(out, tensor->name.bytes, tensor->name.length)) return false;
    if (!put_number(out, tensor->dims_count, 4)) return false;
    for (i = 0; i < tensor->dims_count; i++)
        if (!put_number(out, tensor->dims[i], 8)) return false;
    return put_number(out, tensor->type, 4) && put_number(out, offset, 8);
}

static bool put_tensor(sink *out, const gguf_output *tensor)
{
    void *made;
    bool done;

    if (tensor->data) return put(out, tensor->data, tensor->size);
    made = malloc(tensor->size);
    if (!made) {
        file_write_abandon(&out->file);
        return fail(out->why, "out of memory");
    }
    done = tensor->make(tensor, made, out->why);
    if (!done) file_write_abandon(&out->file);
    done = done && put(out, made, tensor->size);
    free(made);
    return done;
}

static bool put_entry(sink *out, const gguf_number *number)
{
    size_t length = strlen(number->key);
    return put_number(out, length, 8) && put(out, number->key, length)
           && put_number(out, GGUF_U32, 4) && put_number(out, number->value, 4);
}

/*  Everything else keeps its order; the numbers come last. */
static bool put_metadata(sink *out, const gguf_file *from, const gguf_number *numbers, size_t count)
{
    const unsigned char *at = from->metadata, *end = at + from->metadata_size;
    size_t i;

    while (at < end) {
        const unsigned char *stop = end, *next = end;
        for (i = 0; i < count; i++) {
            const gguf_value *old = gguf_find_value(from, numbers[i].key);
            const unsigned char *begin = old ? (const unsigned char *)old->key.bytes - 8 : end;
            if (begin < at || begin >= stop) continue;
            stop = begin;
            next = old->data + old->size;
        }
        if (!put(out, at, (size_t)(stop - at))) return false;
        at = next;
    }
    for (i = 0; i < count; i++)
        if (!put_entry(out, &numbers[i])) return false;
    return true;
}

static size_t count_values(const gguf_file *from, const gguf_number *numbers, size_t count)
{
    size_t i, values = from->values_count;
    for (i = 0; i < count; i++) values += !gguf_find_value(from, numbers[i].key);
    return values;
}

static bool put_file(sink *out, const gguf_file *from, const gguf_number *numbers,
                     size_t numbers_count, const gguf_output *tensors, size_t count)
{
    size_t i, offset = 0;

    if (!put(out, "GGUF", 4) || !put_number(out, 3, 4) || !put_number(out, count, 8)) return false;
    if (!put_number(out, count_values(from, numbers, numbers_count), 8)) return false;
    if (!put_metadata(out, from, numbers, numbers_count)) return false;
    for (i = 0; i < count; i++) {
        if (!put_tensor_info(out, &tensors[i], offset)) return false;
        offset += align_up(tensors[i].size, from->alignment);
    }
    for (i = 0; i < count; i++)
        if (!put_padding(out, from->alignment) || !put_tensor(out, &tensors[i])) return false;
    return put_padding(out, from->alignment);
}

bool gguf_write(const char *path, const gguf_file *from, const gguf_number *numbers,
                size_t numbers_count, const gguf_output *tensors, size_t count, failure *why)
{
    sink out;
    out.written = 0;
    out.why = why;
    return file_write_begin(&out.file, path, why)
           && put_file(&out, from, numbers, numbers_count, tensors, count)
           && file_write_end(&out.file, why);
}
