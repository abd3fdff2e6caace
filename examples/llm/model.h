/*  model.h - a Llama-architecture transformer from a GGUF file or a Hugging Face AWQ directory, run
    in fp32 or quantized. */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H

#include "../formats/hf.h"
#include "linear.h"
#include "names.h"
#include "rope.h"
#include "tokenizer.h"

/*  The inputs: attn_norm(x) for q, k, v; attention's output for o; ffn_norm(x) for gate, up;
    silu(gate) * up for down. */
typedef enum input_group { INPUT_QKV, INPUT_O, INPUT_GATE_UP, INPUT_DOWN, INPUTS } input_group;

size_t group_first(input_group group);      /* its first linear ... */
size_t group_count(input_group group);      /* ... and how many there are */
input_group linear_group(size_t which);

typedef struct layer {
    float *attention_norm, *ffn_norm;
    linear linears[LINEARS];
} layer;

typedef struct model {
    gguf_file gguf;                 /* where it comes from: ... */
    hf_model hf;                    /* ... one of these two is open */
    char name[64];
    vocabulary words;
    tokenizer tok;
    size_t dim, ffn_dim, heads, kv_heads, head_dim, rope_dims, vocabulary, context;
    double norm_epsilon;
    rope_rule rope;
    double *rope_frequencies;       /* [rope_dims / 2], radians per position */
    linear embedding;               /* its rows are the tokens' vectors */
    layer *layers;
    size_t layers_count;
    float *output_norm;
    linear head;
    bool tied;                      /* the head is the embedding */
    unsigned char *imported;        /* packed linears, if the files have them in another layout */
    size_t imported_size;
    gguf_tensor dense[2];           /* embedding and head, if they are in no GGUF file */
    float *decoded;                 /* weights in fp32, if they were asked for */
} model;

/*  A GGUF file, or a directory with config.json, tokenizer.json and *.safetensors. */
bool model_open(model *m, const char *path, failure *why);
void model_close(model *m);

size_t model_weights(const model *m);       /* how many there are */

/*  Decodes all linears to fp32 once: faster, 4 bytes per weight. Without it rows are decoded as
    they are used. */
bool model_decode(model *m, compute *c, failure *why);
size_t model_decoded_size(const model *m);
bool model_is_quantized(const model *m);

/*  Attention is computed for so many tokens at a time, with so many keys at a time. The
    keys of a block stand side by side, channel by channel: what is read is one stream. */
#define QUERIES 16
#define KEYS 64

/* ---- running --------------------------------------------------------------------------------- */

/*  Watches the inputs of linears go by. received[t]: the attention that token t of the batch got in
    this layer, summed over heads and later tokens. */
typedef struct observer {
    bool (*see)(void *context, size_t layer, input_group group, const float *rows, size_t tokens,
                const float *received, failure *why);
    void *context;
} observer;

/*  One sequence of tokens with its key and value cache; scratch for `batch` tokens at a time. */
typedef struct session {
    const model *m;
    compute *c;
    size_t context, batch;
    size_t position;                /* tokens in the cache */
    size_t row;                     /* context, rounded up to whole blocks of KEYS */
    float *keys;                    /* [layer][kv_head][row / KEYS][head_dim][KEYS] */
    float *values;                  /* [layer][kv_head][row][head_dim] */
    float *cosines, *sines;         /* [position][rope_dims / 2] */
    float *hidden;                  /* [batch][dim], the residual stream */
    float *normed, *q, *k, *v, *attended, *gate, *up, *delta;
    float *scores;                  /* [worker][heads per kv head][QUERIES][row] */
    float *received;                /* [head][batch], then summed into the first; only if watched */
    bool (*add_up)(void *team, float *x, size_t count, failure *why);
    void *team;                     /* NULL, or processes that have a part of every layer each */
} session;

bool session_open(session *s, const model *m, compute *c, size_t context, size_t batch,
                  failure *why);
void session_close(session *s);

bool session_embed(session *s, const uint32_t *ids, size_t tokens, failure *why);
/*  Runs one layer on hidden [tokens][dim] at the session's position; `watch` may be NULL. */
bool session_layer(session *s, size_t index, float *hidden, size_t tokens, const observer *watch,
                   failure *why);
/*  out = norm(x) * weight. */
void session_norm(const session *s, const float *x, size_t tokens, const float *weight, float *out);
/*  Rotates adjacent pairs of channels (GGUF stores q and k rows in that order) of every head. */
void session_rotate(const session *s, float *x, size_t heads, size_t position, bool back);
/*  Runs tokens <= batch through all layers and moves on; their hidden states stay in s->hidden. */
bool session_forward(session *s, const uint32_t *ids, size_t tokens, failure *why);
/*  Logits [tokens][vocabulary] of the tokens first ... of the last session_forward. */
bool session_logits(session *s, size_t first, size_t tokens, float *logits, failure *why);

#endif
