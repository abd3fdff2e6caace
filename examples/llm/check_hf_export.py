#!/usr/bin/env python3
"""Reads an exported Hugging Face directory as others do, and compares it with the saved model.

    pip install numpy safetensors tokenizers
    build/llm/llm MODEL.gguf --group 64 --export-hf DIR --save SAVED.gguf
    build/llm/llm SAVED.gguf --ids --text TEXT > IDS
    python3 examples/llm/check_hf_export.py DIR SAVED.gguf [IDS TEXT [PERPLEXITY]]

Tensors come from the safetensors package; AutoAWQ's "gemm" layout, its dequantize formula, the
rows of rotated heads and awq.h's packed bytes are read here by code of their own. Integers, scales
and zeros of every linear must be identical, norms and biases too. With IDS, the tokenizers package
must cut TEXT into the same tokens. With PERPLEXITY, as llm prints it for DIR, a forward pass written here
after Hugging Face's conventions must give it within 0.1 %. Ends with status 77 where numpy or
safetensors is not installed.
"""
import json
import os
import struct
import sys

from gguf_tensors import read_gguf

try:
    import numpy as np
    from safetensors import safe_open
except ImportError as missing:
    print(f"skipped: {missing}; pip install numpy safetensors")
    sys.exit(77)

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}
WINDOW = 512
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


# ---- the saved model -----------------------------------------------------------------------------

def blocks_of(packed, rows, words, dtype, start):
    """[rows][words] of numbers that stand as [rows / 16][words][16]."""
    padded = (rows + 15) // 16 * 16
    flat = np.frombuffer(packed, dtype, padded * words, start)
    return flat.reshape(padded // 16, words, 16).swapaxes(1, 2).reshape(padded, words)[:rows]


def read_packed(packed):
    """(q, scales, zeros) of awq.h's layout ROWS16, 4 bits, asymmetric, whole groups of 8."""
    bits, symmetric, dtype = packed[7], packed[8], packed[9]
    group, rows, columns = struct.unpack_from("<iQQ", packed, 12)
    assert packed[:4] == b"AWQ1" and (bits, symmetric, dtype) == (4, 0, 1)
    group = columns if group < 0 else group
    groups = columns // group
    assert columns % group == 0 and group % 8 == 0
    blocks = (rows + 15) // 16
    scales_at = (64 + blocks * 64 * (columns // 8) + 63) // 64 * 64
    zeros_at = (scales_at + blocks * 32 * groups + 63) // 64 * 64
    words = blocks_of(packed, rows, columns // 8, "<u4", 64)
    q = np.empty((rows, columns // 8, 8), np.uint8)
    for k in range(8):      # input k: byte k % 4, nibble k / 4
        q[:, :, k] = words >> (8 * (k % 4) + 4 * (k // 4)) & 15
    scales = blocks_of(packed, rows, groups, "<f2", scales_at)
    nibbles = np.frombuffer(packed, np.uint8, blocks * groups * 8, zeros_at)
    nibbles = nibbles.reshape(blocks, groups, 8)
    zeros = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    zeros = zeros.swapaxes(1, 2).reshape(blocks * 16, groups)[:rows]
    return q.reshape(rows, columns), scales, zeros


# ---- the directory -------------------------------------------------------------------------------

def nibbles_of(words):
    """AutoAWQ's words: 8 columns each, whose nibbles hold columns 0 2 4 6 1 3 5 7."""
    out = np.empty(words.shape + (8,), np.int32)
    for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        out[..., column] = words.view(np.uint32) >> np.uint32(4 * nibble) & 15
    return out.reshape(words.shape[0], -1)


class Directory:
    def __init__(self, path):
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        self.quantization = self.config["quantization_config"]
        index = os.path.join(path, "model.safetensors.index.json")
        shards = ["model.safetensors"]
        if os.path.exists(index):
            with open(index, encoding="utf-8") as file:
                shards = sorted(set(json.load(file)["weight_map"].values()))
        self.files = [safe_open(os.path.join(path, shard), "np") for shard in shards]
        self.where = {name: file for file in self.files for name in file.keys()}

    def tensor(self, name):
        return self.where[name].get_tensor(name)

    def linear(self, name):
        """(q, scales, zeros), transposed to [out_features][...]"""
        return (nibbles_of(self.tensor(name + ".qweight")).T,
                self.tensor(name + ".scales").T, nibbles_of(self.tensor(name + ".qzeros")).T)

    def dequantize(self, name):
        """(iweights - izeros) * scales, every group's repeated for its inputs."""
        q, scales, zeros = self.linear(name)
        group = self.quantization["group_size"]
        group = q.shape[1] if group < 0 else group
        return ((q - zeros.repeat(group, axis=1)).astype(np.float32)
                * scales.astype(np.float32).repeat(group, axis=1))


def interleave(rows, heads):
    """From Hugging Face's order of a rotated head's rows to GGUF's."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def heads_of(config, name):
    if name == "self_attn.q_proj":
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if name == "self_attn.k_proj" else None


# ---- the comparison ------------------------------------------------------------------------------

def compare_linear(directory, saved, layer, here, there):
    name, heads = f"model.layers.{layer}.{here}", heads_of(directory.config, here)
    theirs, mine = directory.linear(name), read_packed(saved[f"blk.{layer}.{there}.awq"][2])
    for part, a, b in zip(("integers", "scales", "zeros"), theirs, mine):
        a = interleave(a, heads) if heads else a
        assert a.shape == b.shape and np.array_equal(a, b), f"{name}: {part} differ"
    q, scales, zeros = mine
    group = q.shape[1] // scales.shape[1]
    weight = ((q.astype(np.int32) - zeros.repeat(group, axis=1)).astype(np.float32)
              * scales.astype(np.float32).repeat(group, axis=1))
    found = directory.dequantize(name)
    found = interleave(found, heads) if heads else found
    assert np.array_equal(found, weight), f"{name}: dequantized weights differ"
    bias = saved.get(f"blk.{layer}.{there}.bias")
    if bias:
        found = directory.tensor(name + ".bias").astype(np.float32)
        found = interleave(found, heads) if heads else found
        assert np.array_equal(found, np.frombuffer(bias[2], "<f4", bias[1])), f"{name}.bias differs"
    return q.size


def compare(path, saved_path):
    directory, saved = Directory(path), read_gguf(saved_path)
    weights = 0
    for layer in range(directory.config["num_hidden_layers"]):
        for here, there in NAMES.items():
            weights += compare_linear(directory, saved, layer, here, there)
        for here, there in NORMS.items():
            name = f"model.layers.{layer}.{here}.weight"
            _, count, content = saved[f"blk.{layer}.{there}.weight"]
            assert np.array_equal(directory.tensor(name).astype(np.float32),
                                  np.frombuffer(content, "<f4", count)), f"{name} differs"
    print(f"identical integers, scales, zeros of {weights} weights, groups of "
          f"{directory.quantization['group_size']}")


# ---- the forward pass, as Hugging Face defines it ------------------------------------------------

class Llama:
    def __init__(self, directory):
        config = directory.config
        assert config["rope_scaling"] is None, "rope scaling is not computed here"
        self.epsilon = config["rms_norm_eps"]
        self.head_dim = config["head_dim"]
        self.shared = config["num_attention_heads"] // config["num_key_value_heads"]
        half = np.arange(0, self.head_dim, 2) / self.head_dim
        self.frequencies = np.tile(config["rope_theta"] ** -half, 2)
        self.layers = [self.layer(directory, index) for index in range(config["num_hidden_layers"])]
        self.norm = directory.tensor("model.norm.weight").astype(np.float32)
        self.embedding = directory.tensor("model.embed_tokens.weight").astype(np.float32)
        self.head = self.embedding
        if not config["tie_word_embeddings"]:
            self.head = directory.tensor("lm_head.weight").astype(np.float32)

    @staticmethod
    def layer(directory, index):
        found = {}
        for name in NAMES:
            full = f"model.layers.{index}.{name}"
            bias = directory.tensor(full + ".bias") if full + ".bias" in directory.where else 0
            found[name.split(".")[1]] = directory.dequantize(full), np.float32(bias)
        for name in NORMS:
            found[name] = directory.tensor(f"model.layers.{index}.{name}.weight").astype(np.float32)
        return found

    def normed(self, x, weight):
        return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + self.epsilon) * weight

    def rotated(self, x):
        """[tokens][heads][head_dim]; channel i turns with channel i + head_dim / 2"""
        angles = np.outer(np.arange(len(x)), self.frequencies)[:, None]
        half = self.head_dim // 2
        turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return (x * np.cos(angles) + turned * np.sin(angles)).astype(np.float32)

    def attention(self, layer, x):
        q, k, v = ((x @ layer[name][0].T + layer[name][1]).reshape(len(x), -1, self.head_dim)
                   for name in ("q_proj", "k_proj", "v_proj"))
        q = self.rotated(q).swapaxes(0, 1)
        k = self.rotated(k).swapaxes(0, 1).repeat(self.shared, axis=0)
        v = v.swapaxes(0, 1).repeat(self.shared, axis=0)
        scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(self.head_dim))
        scores += np.triu(np.full(scores.shape[1:], -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        out = scores / scores.sum(axis=2, keepdims=True) @ v
        return out.swapaxes(0, 1).reshape(len(x), -1) @ layer["o_proj"][0].T + layer["o_proj"][1]

    @staticmethod
    def mlp(layer, x):
        gate, up = (x @ layer[name][0].T + layer[name][1] for name in ("gate_proj", "up_proj"))
        return gate / (1 + np.exp(-gate)) * up @ layer["down_proj"][0].T + layer["down_proj"][1]

    def logits(self, ids):
        x = self.embedding[ids]
        for layer in self.layers:
            x = x + self.attention(layer, self.normed(x, layer["input_layernorm"]))
            x = x + self.mlp(layer, self.normed(x, layer["post_attention_layernorm"]))
        return self.normed(x, self.norm) @ self.head.T

    def perplexity(self, ids):
        total, scored = 0.0, 0
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            window = np.array(ids[start:start + WINDOW])
            logits = self.logits(window)[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(WINDOW - 1), window[1:]]
            total += (np.log(np.exp(logits).sum(axis=1)) - chosen).sum()
            scored += WINDOW - 1
        return np.exp(total / scored)


def compare_perplexity(path, ids, expected):
    found = Llama(Directory(path)).perplexity(ids)
    print(f"perplexity {found:.4f}, llm says {expected:.4f}: {found / expected - 1:+.4%}")
    assert abs(found / expected - 1) < 1e-3, "perplexity differs"


# ---- all of it -----------------------------------------------------------------------------------

def compare_tokens(path, mine, text_path):
    try:
        from tokenizers import Tokenizer
    except ImportError:
        print("token ids not compared: pip install tokenizers")
        return
    with open(text_path, encoding="utf-8", newline="") as file:
        text = file.read()
    tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    theirs = tokenizer.encode(text, add_special_tokens=False).ids
    assert mine == theirs, "token ids differ"
    assert tokenizer.decode(theirs, skip_special_tokens=False) == text, "decoding loses something"
    print(f"identical ids of {len(mine)} tokens")


def main():
    path, saved = sys.argv[1:3]
    compare(path, saved)
    if len(sys.argv) > 3:
        with open(sys.argv[3], encoding="ascii") as file:
            ids = [int(line) for line in file]
        compare_tokens(path, ids, sys.argv[4])
        if len(sys.argv) > 5:
            compare_perplexity(path, ids, float(sys.argv[5]))


main()
