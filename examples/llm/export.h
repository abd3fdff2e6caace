/*  export.h - writes a quantized model that was read from a GGUF file: for this program, for
    llama.cpp, for Hugging Face's libraries. Files and directories appear whole or not at all. */
#ifndef LLM_EXPORT_H
#define LLM_EXPORT_H

#include "model.h"

/*  Whether the linears of a model, quantized like this, fit the layout of an export; if not, which
    rule they break. To be asked before the work is done. */
bool export_check_gguf(const model *m, awq_quant quant, failure *why);
bool export_check_hf(const model *m, awq_quant quant, failure *why);

/*  A GGUF file that model_open() reads: everything of the original, with each linear's weight
    replaced by its packed bytes (type I8, name *.awq) and the folded norms and biases. Where the
    head is the embedding, the packed head replaces both. */
bool save_model(const model *m, const char *path, failure *why);

/*  A GGUF file that llama.cpp reads: the layers' linears in blocks of Q4_1 (Q4_0 if symmetric), the
    folded norms and biases; head and embedding as in the original. Q4_1 holds a group's minimum,
    -scale zero, in fp16: that is what it rounds. */
bool export_gguf(const model *m, const char *path, failure *why);

/*  A directory that transformers, vLLM and AutoAWQ read: the layers' linears in AutoAWQ's layout
    "gemm", nothing rounded; norms, biases, head and embedding as in the exported model (below), in
    F16 or BF16 where that holds every value, else in F32. */
bool export_hf(const model *m, const char *path, failure *why);

/*  What the exports hold: the linears of `m` with head, embedding of the original it was made from,
    and with the positions that config.json can say. It borrows from both; free its
    rope_frequencies. */
bool exported_model(model *out, const model *m, const model *original, failure *why);

#endif
