/*  ggml.h - llama.cpp's types of 4 bits, by its own quantizer: libggml-base, loaded where there is
    one. With an importance matrix, as llama.cpp calls mean x^2 of every input. */
#ifndef QUALITY_GGML_H
#define QUALITY_GGML_H

#include "../../awq.h"

#include "../common/failure.h"

typedef struct ggml_type {
    const char *name, *decoder; /* the library's function */
    int number;                 /* in ggml.h of llama.cpp */
    size_t block;               /* weights of a row that share a scale, or scales of scales */
} ggml_type;

#define GGML_TYPES 5
extern const ggml_type ggml_types[GGML_TYPES];

typedef struct ggml_library {
    void *handle;
    size_t (*quantize)(int type, const float *from, void *to, int64_t first, int64_t rows,
                       int64_t row_length, const float *importance);
    size_t (*row_size)(int type, int64_t row_length);
} ggml_library;

bool ggml_open(ggml_library *ggml, const char *path, failure *why);
void ggml_close(ggml_library *ggml);

/*  Rounds fp32 weight, dense, into out of the same shape; *bytes: what the type takes. */
bool ggml_round(const ggml_library *ggml, const ggml_type *type, awq_matrix weight,
                const float *importance, float *out, size_t *bytes, failure *why);

#endif
