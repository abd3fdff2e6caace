/*  convert.h - moves the quantized weights of a model from one layout into another. */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include "../formats/gguf.h"
#include "../formats/hf.h"

#include "../common/parallel.h"

#include <signal.h>

typedef struct convert_options {
    awq_layout layout;          /* of the output */
    int group_size;             /* of the output; 0: that of the input */
    bool allow_rounding;        /* of scales and minima that the layout cannot hold */
    size_t shard_size;          /* bytes */
    size_t threads;             /* 0: one per processor */
} convert_options;

/*  Set by a signal: the conversion then fails at the next linear, and leaves nothing. */
extern volatile sig_atomic_t convert_interrupted;

/*  Writes the directory `path`: weights in the new layout, everything else as it was. */
bool convert_directory(const hf_model *model, const char *path, const convert_options *options,
                       failure *why);
/*  Writes the file `path` for llama.cpp: the layout is AWQ_GGML_Q4_0 or Q4_1. Llamas only. */
bool convert_gguf(const hf_model *model, const char *path, const convert_options *options,
                  failure *why);
/*  Reads every quantized value of a model, as a conversion would. */
bool convert_check(const hf_model *model, size_t threads, failure *why);

/*  Tables on standard output. */
bool list_directory(const hf_model *model, size_t threads, failure *why);
bool list_gguf(const gguf_file *gguf, failure *why);

#endif
