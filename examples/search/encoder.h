/*  encoder.h - BERT as a sentence encoder, such as all-MiniLM-L6-v2: texts to vectors of length 1
    whose products say how alike the texts are. In fp32 or quantized, any linear for itself.

    A workspace belongs to one thread; several may run one encoder at once. No files, no threads:
    the same code runs in a browser. */
#ifndef SEARCH_ENCODER_H
#define SEARCH_ENCODER_H

#include "../../awq.h"
#include "wordpiece.h"

/*  y = x W^T + bias, in the first form that is there: packed, then fp32. A host may set weight to
    an array of its own to try other weights. */
typedef struct linear {
    char name[64];                      /* in the model's files, without ".weight" */
    size_t out_features, in_features;
    awq_packed packed;                  /* data = NULL: not quantized */
    const float *input_scale;           /* packed: x is divided by it first; or NULL */
    const float *weight;                /* [out_features][in_features] */
    const float *bias;
} linear;

enum { LINEAR_Q, LINEAR_K, LINEAR_V, LINEAR_O, LINEAR_UP, LINEAR_DOWN, LINEARS };

/*  What enters: the layer's input for q, k, v; attention's output for o; attention's norm for up;
    gelu(up) for down. The two norms also go round the linears, so no scale can be folded into
    them. */
typedef enum input_group { INPUT_QKV, INPUT_O, INPUT_UP, INPUT_DOWN, INPUTS } input_group;

size_t group_first(input_group group);  /* its first linear ... */
size_t group_count(input_group group);  /* ... and how many there are */

typedef struct norm { const float *weight, *bias; } norm;

/*  Matrix products in fp32, as matmul_f32 of dense.h. */
typedef void encoder_matmul(const float *w, size_t w_stride, size_t rows, const float *x,
                            size_t x_stride, size_t tokens, size_t n, float *y, size_t y_stride);

typedef struct encoder {
    size_t dim, ffn_dim, heads, layers, vocabulary;
    size_t room;                        /* tokens of a text, [CLS] and [SEP] included */
    float norm_epsilon;
    wordpiece words;
    linear embedding;                   /* its rows are the tokens' vectors */
    const float *positions;             /* [room][dim], the vector of token type 0 added */
    norm embedding_norm;
    norm *attention_norms, *ffn_norms;  /* [layers] */
    linear *linears;                    /* [layers][LINEARS] */
    encoder_matmul *matmul;
    awq_kernels kernels;
    awq_precision precision;            /* of the activations that quantized linears see */
} encoder;

/*  Sets shapes and names of all linears and the defaults, once dim ... room are known and if they
    make sense; weights are the caller's to fill in. */
bool encoder_open(encoder *e, failure *why);
void encoder_close(encoder *e);

/*  Watches inputs of linears go by: x (tokens, in_features) of some texts. token_weight [tokens]:
    the square root of the attention that each receives in this layer. */
typedef struct observer {
    bool (*see)(void *context, size_t layer, input_group group, awq_matrix x,
                const float *token_weight, failure *why);
    void *context;
} observer;

/*  Scratch for `room` tokens at a time, at least those of one text. */
typedef struct workspace {
    size_t room;
    float *hidden, *q, *k, *v, *attended, *wide;    /* wide: [room][ffn_dim] */
    float *keys;                        /* [head_dim][encoder room], of one head of one text */
    float *scores;                      /* [encoder room][encoder room], of the same */
    float *received;                    /* [room], then made weights */
    void *prepared;
    size_t prepared_size;
    uint32_t *ids;                      /* [room], for callers */
} workspace;

bool workspace_open(workspace *w, const encoder *e, size_t room, failure *why);
void workspace_close(workspace *w);

/*  Texts as tokens: text i is ids [ends[i - 1] .. ends[i]). All of them go through each linear
    together; a text's vector does not depend on the others. */
typedef struct batch {
    const uint32_t *ids;
    const size_t *ends;
    size_t texts;
} batch;

/*  vectors [texts][dim]; tokens of all texts <= the workspace's room; watch may be NULL. */
bool encoder_run(const encoder *e, workspace *w, const batch *b, float *vectors,
                 const observer *watch, failure *why);

/*  One text from its words; what does not fit is left out. */
bool encoder_text(const encoder *e, workspace *w, const char *text, size_t size, float *vector,
                  failure *why);

#endif
