#!/usr/bin/env python3
"""Compares token ids and fp32 perplexity with llama.cpp's, for one GGUF file and one text.

    pip install llama-cpp-python numpy          (builds llama.cpp: minutes)
    python3 examples/llm/check_against_llama_cpp.py build/llm/llm MODEL.gguf TEXT

Perplexity over windows of 512 tokens, no BOS, tokens 1 to 511 of each scored. llama.cpp rounds the
activations of quantized weights to 8 bits, so only an F32 file agrees to more than a few tenths of
a percent.
"""
import subprocess
import sys

import llama_cpp
import numpy as np

WINDOW = 512


def open_llama(path):
    # weight repacking is left out: it crashes on some virtual machines and changes nothing here
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def without_repacking():
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    llama_cpp.llama_cpp.llama_model_default_params = without_repacking
    return llama_cpp.Llama(path, n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=WINDOW, logits_all=True,
                           verbose=False)


def perplexity(llama, ids):
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


def main():
    program, model, text = sys.argv[1:]
    with open(text, "rb") as file:
        content = file.read()
    llama = open_llama(model)
    ids = llama.tokenize(content, add_bos=False, special=False)
    ours = subprocess.check_output([program, model, "--text", text, "--ids"], text=True)
    print("token ids equal:", ids == [int(line) for line in ours.split()], f"({len(ids)} tokens)")
    table = subprocess.check_output([program, model, "--text", text, "--measure", "--tokens", "1"],
                                    text=True)
    row = next(line for line in table.splitlines() if line.startswith("| fp32"))
    mine, theirs = float(row.split("|")[2]), perplexity(llama, ids)
    print(f"perplexity: {mine:.4f}, llama.cpp {theirs:.4f}, difference {mine / theirs - 1:+.4%}")


main()
