/*  names.h - what a model's tensors are called in GGUF files and in Hugging Face's safetensors. */
#ifndef LLM_NAMES_H
#define LLM_NAMES_H

#include <stdbool.h>
#include <stddef.h>

/*  Linears that read the same input stand side by side. */
enum {
    LINEAR_Q, LINEAR_K, LINEAR_V, LINEAR_O, LINEAR_GATE, LINEAR_UP, LINEAR_DOWN, LINEARS,
    ATTENTION_NORM = LINEARS, FFN_NORM, LAYER_TENSORS,
    EMBEDDING = LAYER_TENSORS, OUTPUT_NORM, HEAD, NAMED_TENSORS
};

/*  q and k: rotated, and so in another order of rows here and there (rope_order.h). */
bool is_rotated(size_t which);

typedef struct tensor_name { char text[96]; } tensor_name;

/*  "blk.3.attn_q.weight"; `layer` does not matter from EMBEDDING on. */
tensor_name gguf_name(size_t layer, size_t which, const char *suffix);
/*  "model.layers.3.self_attn.q_proj.weight" */
tensor_name hf_name(size_t layer, size_t which, const char *suffix);

#endif
