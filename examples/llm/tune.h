/*  tune.h - after quantizing: the scales of groups and the weights of norms, made better by gradients
    of what the whole model says. The integers and the size stay as they are. */
#ifndef LLM_TUNE_H
#define LLM_TUNE_H

#include "quantize.h"

/*  Minimises the Kullback-Leibler divergence of the quantized model's next tokens from those of m on
    windows of the text: `steps` steps of Adam over two windows each, the windows in a fixed order
    that mixes them. No token of the text is a target: only what m predicts. q->divergence: the mean
    of the first and of the last quarter of the steps. */
bool tune_model(quantized_model *q, const model *m, compute *c, const token_list *text, size_t steps,
                failure *why);

#endif
