"""What the scripts beside this one need of llama-cpp-python: a model, perplexity, the quantizer.

    pip install llama-cpp-python numpy          (builds llama.cpp: minutes)
"""
import llama_cpp
import numpy as np

WINDOW = 512
raw = llama_cpp.llama_cpp
default_parameters = raw.llama_model_default_params


def open_llama(path, repack=False, context=WINDOW, **options):
    """repack: lay weights out for this processor, which crashes on some virtual machines and
    changes only the speed."""
    def parameters():
        chosen = default_parameters()
        chosen.use_extra_bufts = repack
        return chosen

    raw.llama_model_default_params = parameters
    return llama_cpp.Llama(path, n_ctx=context, n_batch=WINDOW, n_ubatch=WINDOW, verbose=False,
                           **options)


def token_ids(llama, path):
    with open(path, "rb") as file:
        return llama.tokenize(file.read(), add_bos=False, special=False)


def perplexity(llama, ids):
    """Over windows of 512 tokens, no BOS, tokens 1 to 511 of each scored, as llm does. Needs
    logits_all."""
    total, scored = 0.0, 0
    for start in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = ids[start:start + WINDOW]
        llama.reset()
        llama.eval(window)
        logits = np.array(llama.scores[:WINDOW - 1], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(WINDOW - 1), window[1:]]
        total += (np.log(np.exp(logits).sum(axis=1)) - chosen).sum()
        scored += WINDOW - 1
    return np.exp(total / scored)


def quantize(source, target, file_type):
    """The layers only: head and embedding become Q8_0, whatever the type."""
    parameters = raw.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.allow_requantize = True
    parameters.output_tensor_type = raw.GGML_TYPE_Q8_0
    parameters.token_embedding_type = raw.GGML_TYPE_Q8_0
    if raw.llama_model_quantize(source.encode(), target.encode(), parameters) != 0:
        raise SystemExit(f"error: llama.cpp cannot quantize {source}")
