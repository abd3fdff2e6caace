/*  tiny.h - small random models and crooked files, for the tests. */
#ifndef CONVERT_TINY_H
#define CONVERT_TINY_H

#include "../convert.h"

typedef struct tiny_options {
    awq_layout layout;
    int group_size, symmetric;
    size_t out_features, in_features;
    int least_zero;                 /* zero points are least_zero .. 15; symmetric: 8 */
    size_t shard_size;
} tiny_options;

/*  64 x 128 in groups of 32, asymmetric, gemm, one file. */
tiny_options tiny_default(void);

/*  Writes a directory with three quantized linears (one with a bias) and three other tensors. */
bool tiny_model(const char *path, const tiny_options *options, failure *why);

/*  A Llama of one layer: heads of 32, vocabulary of 5; down_proj, embedding and head are not
    quantized, k_proj has a bias. Shapes in options do not matter. */
bool tiny_llama(const char *path, const tiny_options *options, failure *why);

/*  A whole file, for configs. */
bool tiny_text(const char *folder, const char *name, const char *text, failure *why);

/*  A safetensors file: this header, with its length before and zero bytes behind. *size: of all. */
unsigned char *tiny_safetensors(const char *header, size_t data_size, size_t *size);

/*  How many entries a folder has whose names begin so. */
size_t tiny_count(const char *folder, const char *begin);
void tiny_remove(const char *folder);

#endif
