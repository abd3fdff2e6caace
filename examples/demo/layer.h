/*  layer.h - one linear layer with inputs recorded from the model it is part of, from a file.
    The format is described in examples/data/README.md.                                           */
#ifndef DEMO_LAYER_H
#define DEMO_LAYER_H

#include "../common/files.h"
#include "../../awq.h"

typedef struct layer {
    size_t out_features, in_features;
    awq_matrix weight;          /* (out_features, in_features): y = W x + bias                    */
    awq_matrix calibration;     /* (tokens, in_features): inputs to choose the quantization by    */
    awq_matrix heldout;         /* (tokens, in_features): inputs of another text, to judge it by  */
    const float *bias;          /* [out_features]                                                 */
    float *memory;              /* all of the above, as fp32                                      */
} layer;

bool layer_load(layer *l, const char *path, failure *why);
void layer_free(layer *l);

#endif
