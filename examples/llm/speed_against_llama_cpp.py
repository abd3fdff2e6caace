#!/usr/bin/env python3
"""Compares the speed of a quantized model with llama.cpp's on the GGUF file it was made from.

    pip install llama-cpp-python                (builds llama.cpp for this processor: minutes)
    build/llm/llm MODEL.gguf --save AWQ.gguf
    python3 examples/llm/speed_against_llama_cpp.py build/llm/llm MODEL.gguf AWQ.gguf TEXT [THREADS]

Tokens per second for the first 512 tokens of TEXT, up to the logits of the last one, and for 128
more, each the likeliest. The programs take turns, five times; medians are printed. llama.cpp runs
twice: with weights as they lie in the file, and repacked for this processor (which crashes on
some virtual machines; the table says so).
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time

PROMPT, TOKENS, ROUNDS = 512, 128, 5


def llama_rates(path, text, threads, repack):
    from llama_cpp_python import open_llama, token_ids

    llama = open_llama(path, repack, context=PROMPT + TOKENS, n_threads=threads,
                       n_threads_batch=threads)
    ids = token_ids(llama, text)[:PROMPT]
    for _ in range(2):  # the first is not timed
        llama.reset()
        started = time.perf_counter()
        llama.eval(ids)
        prompt = PROMPT / (time.perf_counter() - started)
    started = time.perf_counter()
    for _ in range(TOKENS):
        llama.eval([llama.sample(temp=0.0)])
    return prompt, TOKENS / (time.perf_counter() - started)


def run_llama(path, text, threads, repack):
    """In a process of its own, which may die."""
    command = [sys.executable, __file__, "--llama", path, text, str(threads), str(int(repack))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def run_ours(program, path, text, threads, *options):
    line = subprocess.check_output([program, path, "--text", text, "--threads", str(threads),
                                    "--speed", *options], text=True)
    return [float(rate) for rate in re.findall(r"([0-9.]+) tokens/s", line)]


def main():
    program, model, quantized, text = sys.argv[1:5]
    threads = int(sys.argv[5]) if len(sys.argv) > 5 else os.cpu_count()
    runs = {
        "awq.h, activations of 16 bits": lambda: run_ours(program, quantized, text, threads),
        "awq.h, activations of 8 bits": lambda: run_ours(program, quantized, text, threads, "--a8"),
        "llama.cpp": lambda: run_llama(model, text, threads, False),
        "llama.cpp, repacked": lambda: run_llama(model, text, threads, True),
    }
    rates = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            rates[name].append(run())
    print(f"{f'{threads} threads':30}| prompt tok/s | generation tok/s |")
    for name, pairs in rates.items():
        if None in pairs:
            print(f"{name:30}: crashed {pairs.count(None)} of {ROUNDS} times")
            continue
        prompt, generation = (statistics.median(column) for column in zip(*pairs))
        print(f"{name:30}| {prompt:12.0f} | {generation:16.1f} |")


if sys.argv[1:2] == ["--llama"]:
    print(json.dumps(llama_rates(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "1")))
else:
    main()
