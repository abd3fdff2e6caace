#!/usr/bin/env python3
"""Compares token ids and fp32 perplexity with llama.cpp's, for one GGUF file and one text.

    pip install llama-cpp-python numpy          (builds llama.cpp: minutes)
    python3 examples/llm/check_against_llama_cpp.py build/llm/llm MODEL.gguf TEXT

llama.cpp rounds the activations of quantized weights to 8 bits, so only an F32 file agrees to more
than a few tenths of a percent.
"""
import subprocess
import sys

from llama_cpp_python import open_llama, perplexity, token_ids


def our_perplexity(program, model, text):
    table = subprocess.check_output([program, model, "--text", text, "--measure", "--tokens", "1"],
                                    text=True)
    row = next(line for line in table.splitlines() if line.startswith(("| fp32", "| AWQ")))
    return float(row.split("|")[2])


def main():
    program, model, text = sys.argv[1:]
    llama = open_llama(model, logits_all=True)
    ids = token_ids(llama, text)
    ours = subprocess.check_output([program, model, "--text", text, "--ids"], text=True)
    print("token ids equal:", ids == [int(line) for line in ours.split()], f"({len(ids)} tokens)")
    mine, theirs = our_perplexity(program, model, text), perplexity(llama, ids)
    print(f"perplexity: {mine:.4f}, llama.cpp {theirs:.4f}, difference {mine / theirs - 1:+.4%}")


if __name__ == "__main__":
    main()
