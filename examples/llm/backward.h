/*  backward.h - gradients through a transformer, for one window of tokens: with respect to the
    logarithms of its norms' weights and of the scales of its linears' groups. The linears' weights
    stand in memory in fp32. */
#ifndef LLM_BACKWARD_H
#define LLM_BACKWARD_H

#include "model.h"

/*  What a layer made on its way, [tokens][...]. */
typedef struct kept {
    float *hidden, *attention_in, *q, *k, *v, *attended; /* q and k rotated */
    float *middle, *ffn_in, *gate, *up, *product;        /* product: silu(gate) * up */
} kept;

/*  They are added to. */
typedef struct layer_gradients {
    float *attention_norm, *ffn_norm;   /* [dim] */
    float *scales[LINEARS];             /* [out_features][groups] */
} layer_gradients;

typedef struct tape {
    session s;
    size_t tokens, group_size;
    kept *layers;
    float *memory;                      /* of all of them */
    kept back;                          /* gradients of the layer at work, by the same names */
    float *rooms;                       /* [worker] of products */
} tape;

/*  Windows of `tokens`, groups as in awq_quant. To be closed even if it fails. */
bool tape_open(tape *t, const model *m, compute *c, size_t tokens, int group_size, failure *why);
void tape_close(tape *t);

/*  All layers; their output is left in t->s.hidden. */
bool tape_forward(tape *t, const uint32_t *ids, failure *why);
/*  gradient [tokens][dim]: of that output; becomes that of the embeddings. */
void tape_backward(tape *t, float *gradient, const layer_gradients *layers);

/*  gradient += that of x, where y = x / sqrt(mean x^2 + epsilon) * weight and d_y is y's gradient;
    d_weight [dim], if not NULL, += that of log weight. */
void norm_backward(const float *x, const float *weight, const float *y, const float *d_y,
                   size_t tokens, size_t dim, float epsilon, float *gradient, float *d_weight);
/*  d_x = sum over linears of d_y[i] W[i]. */
void linears_backward(compute *c, const linear *linears, size_t count, const float *const *d_y,
                      size_t tokens, float *d_x);

#endif
