/*  names.c - see names.h. */
#include "names.h"

#include <stdio.h>

static const struct {
    char gguf[16], hf[32];
} names[NAMED_TENSORS] = {
    { "attn_q", "self_attn.q_proj" },       { "attn_k", "self_attn.k_proj" },
    { "attn_v", "self_attn.v_proj" },       { "attn_output", "self_attn.o_proj" },
    { "ffn_gate", "mlp.gate_proj" },        { "ffn_up", "mlp.up_proj" },
    { "ffn_down", "mlp.down_proj" },        { "attn_norm", "input_layernorm" },
    { "ffn_norm", "post_attention_layernorm" },
    { "token_embd", "model.embed_tokens" }, { "output_norm", "model.norm" },
    { "output", "lm_head" }
};

bool is_rotated(size_t which)
{
    return which == LINEAR_Q || which == LINEAR_K;
}

tensor_name gguf_name(size_t layer, size_t which, const char *suffix)
{
    tensor_name name;

    if (which < LAYER_TENSORS)
        snprintf(name.text, sizeof name.text, "blk.%zu.%s%s", layer, names[which].gguf, suffix);
    else
        snprintf(name.text, sizeof name.text, "%s%s", names[which].gguf, suffix);
    return name;
}

tensor_name hf_name(size_t layer, size_t which, const char *suffix)
{
    tensor_name name;

    if (which < LAYER_TENSORS)
        snprintf(name.text, sizeof name.text, "model.layers.%zu.%s%s", layer, names[which].hf,
                 suffix);
    else
        snprintf(name.text, sizeof name.text, "%s%s", names[which].hf, suffix);
    return name;
}
