/*  layer.c - see layer.h.                                                                        */
#include "layer.h"

#include <math.h>

#define HEADER_SIZE 24          /* magic, then out_features, in_features and two counts of tokens */
#define LARGEST (1u << 20)      /* keeps every product below within 64 bits                       */

static uint32_t load_le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static float load_half(const unsigned char *p)
{
    unsigned half = p[0] | (unsigned)p[1] << 8;
    int exponent = (int)(half >> 10 & 31), mantissa = (int)(half & 1023);
    float magnitude;

    if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
    else if (exponent) magnitude = ldexpf((float)(mantissa + 1024), exponent - 25);
    else magnitude = ldexpf((float)mantissa, -24);
    return half & 0x8000u ? -magnitude : magnitude;
}

static bool check_header(const mapped_file *file, const char *path, uint32_t shape[4], failure *why)
{
    uint64_t needed;
    int i;

    if (file->size < HEADER_SIZE || memcmp(file->bytes, "AWQLAYR1", 8) != 0)
        return fail(why, "%s: not a layer file (it would begin with AWQLAYR1)", path);
    for (i = 0; i < 4; i++) {
        shape[i] = load_le32(file->bytes + 8 + 4 * i);
        if (shape[i] == 0 || shape[i] > LARGEST)
            return fail(why, "%s: corrupt: a shape of %lu", path, (unsigned long)shape[i]);
    }
    needed = ((uint64_t)shape[0] + shape[2] + shape[3]) * shape[1] + shape[0];
    needed = HEADER_SIZE + 2 * needed;
    if (file->size != needed)
        return fail(why, "%s: %s: its shapes need %llu bytes, it has %llu", path,
                    file->size < needed ? "truncated" : "too long", (unsigned long long)needed,
                    (unsigned long long)file->size);
    return true;
}

/*  The four arrays stand one after the other in the file, and so they do in memory.              */
static bool read_layer(layer *l, const mapped_file *file, const char *path, failure *why)
{
    uint32_t shape[4];
    size_t count, i;
    float *next;

    if (!check_header(file, path, shape, why)) return false;
    count = (file->size - HEADER_SIZE) / 2;
    l->memory = count <= SIZE_MAX / sizeof(float) ? malloc(count * sizeof(float)) : NULL;
    if (!l->memory) return fail(why, "%s: not enough memory for it", path);
    for (i = 0; i < count; i++) {
        l->memory[i] = load_half(file->bytes + HEADER_SIZE + 2 * i);
        if (!isfinite(l->memory[i]))
            return fail(why, "%s: corrupt: the value at byte %zu is not finite", path,
                        HEADER_SIZE + 2 * i);
    }

    l->out_features = shape[0];
    l->in_features = shape[1];
    next = l->memory;
    l->weight = awq_matrix_view(next, AWQ_F32, shape[0], shape[1]);
    l->bias = next += (size_t)shape[0] * shape[1];
    l->calibration = awq_matrix_view(next += shape[0], AWQ_F32, shape[2], shape[1]);
    l->heldout = awq_matrix_view(next + (size_t)shape[2] * shape[1], AWQ_F32, shape[3], shape[1]);
    return true;
}

bool layer_load(layer *l, const char *path, failure *why)
{
    mapped_file file;
    bool loaded;

    memset(l, 0, sizeof *l);
    if (!file_map(&file, path, why)) return false;
    loaded = read_layer(l, &file, path, why);
    file_unmap(&file);
    if (!loaded) layer_free(l);
    return loaded;
}

void layer_free(layer *l)
{
    free(l->memory);
    memset(l, 0, sizeof *l);
}
