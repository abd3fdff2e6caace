/*  source.h - the two kinds of files that a model is read from. What must hold for both is checked
    by model.c. */
#ifndef LLM_SOURCE_H
#define LLM_SOURCE_H

#include "model.h"

typedef struct model_source {
    tensor_name (*name)(size_t layer, size_t which, const char *suffix);
    bool (*open)(model *m, const char *path, failure *why);
    /*  Sizes, rope, words, whether the head is tied. */
    bool (*describe)(model *m, failure *why);
    /*  A norm or a bias in fp32, for the caller to free; *out stays NULL if there is none. */
    bool (*vector)(const model *m, size_t layer, size_t which, const char *suffix, size_t length,
                   float **out, failure *why);
    /*  The weight of a linear whose in_features and out_features are set. */
    bool (*weight)(model *m, size_t layer, size_t which, linear *l, failure *why);
} model_source;

extern const model_source gguf_source, hf_source;

#endif
