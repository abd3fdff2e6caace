#!/usr/bin/env python3
"""Loads an exported GGUF file in llama.cpp and compares it with llama.cpp's own 4-bit types.

    pip install llama-cpp-python numpy          (builds llama.cpp: minutes)
    build/llm/llm MODEL.gguf --group 64 --export-gguf EXPORT.gguf
    python3 examples/llm/check_gguf_export.py build/llm/llm MODEL.gguf EXPORT.gguf TEXT

MODEL.gguf is decoded to F32 and quantized by llama.cpp; head and embedding are Q8_0 in all files.
Perplexity twice: by llama.cpp, which rounds activations to 8 bits, and by llm, which does not (and
does not read Q4_K). Fails if they differ by more than 1 % for EXPORT.gguf. Bits count the linears
of the layers only.
"""
import os
import subprocess
import sys
import tempfile

from check_against_llama_cpp import our_perplexity
from gguf_tensors import read_gguf
from llama_cpp_python import open_llama, perplexity, quantize, raw, token_ids

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def bits_per_weight(path):
    linears = [(count, len(content)) for name, (_, count, content) in read_gguf(path).items()
               if name.split(".")[-2] in LINEARS and name.endswith(".weight")]
    return 8 * sum(size for _, size in linears) / sum(count for count, _ in linears)


def measure(program, name, path, text):
    llama = open_llama(path, logits_all=True)
    theirs = perplexity(llama, token_ids(llama, text))
    llama.close()
    try:
        ours = our_perplexity(program, path, text)
    except subprocess.CalledProcessError:
        ours = None
    print(f"| {name:24} | {bits_per_weight(path):5.2f} | {theirs:9.3f} | "
          f"{f'{ours:.3f}' if ours else '':>8} |", flush=True)
    return ours, theirs


def main():
    program, model, export, text = sys.argv[1:]
    types = {"Q4_0": raw.LLAMA_FTYPE_MOSTLY_Q4_0, "Q4_1": raw.LLAMA_FTYPE_MOSTLY_Q4_1,
             "Q4_K_M": raw.LLAMA_FTYPE_MOSTLY_Q4_K_M}
    print(f"| {'linears':24} |  bits | llama.cpp | {'llm':>8} |\n"
          f"|{'-' * 26}|------:|----------:|---------:|")
    ours, theirs = measure(program, "AWQ, exported", export, text)
    with tempfile.TemporaryDirectory() as folder:
        decoded = os.path.join(folder, "F32.gguf")
        quantize(model, decoded, raw.LLAMA_FTYPE_ALL_F32)
        measure(program, "as they were, decoded", decoded, text)
        for name, file_type in types.items():
            path = os.path.join(folder, name + ".gguf")
            quantize(decoded, path, file_type)
            measure(program, f"llama.cpp's {name}", path, text)
            os.remove(path)
    difference = theirs / ours - 1
    print(f"exported: llama.cpp differs by {difference:+.3%}")
    sys.exit(abs(difference) > 0.01)


main()
