/*  ggml.c - see ggml.h. */
#include "ggml.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

const ggml_type ggml_types[GGML_TYPES] = {
    { "Q4_0", "dequantize_row_q4_0", 2, 32 },
    { "Q4_1", "dequantize_row_q4_1", 3, 32 },
    { "IQ4_NL", "dequantize_row_iq4_nl", 20, 32 },
    { "Q4_K", "dequantize_row_q4_K", 12, 256 },
    { "IQ4_XS", "dequantize_row_iq4_xs", 23, 256 },
};

typedef void decoder(const void *from, float *to, int64_t count);

/*  POSIX lets a data pointer hold a function's address; C does not say so. */
static bool find(const ggml_library *ggml, const char *name, void *function, failure *why)
{
    void *address = dlsym(ggml->handle, name);

    if (!address) return fail(why, "libggml-base has no %s; is it another version?", name);
    memcpy(function, &address, sizeof address);
    return true;
}

bool ggml_open(ggml_library *ggml, const char *path, failure *why)
{
    memset(ggml, 0, sizeof *ggml);
    ggml->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!ggml->handle) return fail(why, "cannot load libggml-base: %s", dlerror());
    return find(ggml, "ggml_quantize_chunk", &ggml->quantize, why)
           && find(ggml, "ggml_row_size", &ggml->row_size, why);
}

void ggml_close(ggml_library *ggml)
{
    if (ggml->handle) dlclose(ggml->handle);
    memset(ggml, 0, sizeof *ggml);
}

bool ggml_round(const ggml_library *ggml, const ggml_type *type, awq_matrix weight,
                const float *importance, float *out, size_t *bytes, failure *why)
{
    int64_t rows = (int64_t)weight.rows, cols = (int64_t)weight.cols;
    decoder *decode = NULL;
    void *packed;

    *bytes = weight.rows * ggml->row_size(type->number, cols);
    if (!find(ggml, type->decoder, &decode, why)) return false;
    packed = malloc(*bytes);
    if (!packed) return fail(why, "out of memory");
    ggml->quantize(type->number, weight.data, packed, 0, rows, cols, importance);
    decode(packed, out, rows * cols);
    free(packed);
    return true;
}
