/*  packed_model.h - a quantized encoder as one file: sections of a container.

        0       numbers: dim, ffn_dim, heads, layers, vocabulary, room
        1       fp32: the epsilon of norms, then the vectors in the order of packed_model.c
        2       the vocabulary, as vocab.txt
        3       embedding, a packed tensor of awq.h
        4 ...   the linears, packed, layer by layer                                              */
#ifndef SEARCH_PACKED_MODEL_H
#define SEARCH_PACKED_MODEL_H

#include "container.h"
#include "encoder.h"

typedef struct packed_model {
    encoder e;                  /* packed tensors and words lie in the caller's bytes */
    container file;
    float *floats;
} packed_model;

/*  bytes stay the caller's and are not written: a mapped file, or memory. */
bool packed_model_open(packed_model *m, const void *bytes, size_t size, failure *why);
void packed_model_close(packed_model *m);

/*  The bytes of the file, to be freed; all linears of e are packed. NULL on failure. */
unsigned char *packed_model_make(const encoder *e, size_t *size, failure *why);

#endif
