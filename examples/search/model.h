/*  model.h - an encoder from wherever it is: a directory in fp32, or one quantized file. */
#ifndef SEARCH_MODEL_H
#define SEARCH_MODEL_H

#include "bert.h"
#include "packed_model.h"

typedef struct model {
    bert fp32;                  /* one of these two is open */
    packed_model packed;
    mapped_file file;
    encoder *e;
    uint64_t id;                /* of a quantized model; 0: fp32 */
    size_t size;                /* bytes of its weights on disk */
} model;

bool model_open(model *m, const char *path, failure *why);
void model_close(model *m);

#endif
