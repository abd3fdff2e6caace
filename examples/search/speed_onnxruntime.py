#!/usr/bin/env python3
"""Sentences per second of the same encoder in ONNX Runtime, in fp32 and with dynamic int8 weights.

    pip install numpy onnx onnxruntime safetensors tokenizers
    search compare MODEL FOLDER --write-questions questions.txt
    python speed_onnxruntime.py MODEL questions.txt

The graph is built here from model.safetensors. Sentences are sorted by length and padded in batches;
the fastest of several batch sizes counts. Rates are medians of 5 in processor time on one thread and
include tokenizing, as those of `search compare --threads 1` do.
"""
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.numpy import load_file
    from tokenizers import BertWordPieceTokenizer
except ImportError as missing:
    sys.exit(f"{missing}: pip install numpy onnx onnxruntime safetensors tokenizers")

ROUNDS = 5
BATCHES = (1, 8, 32)


class Graph:
    """Nodes and weights of a model, in the order in which they are computed."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = load_file(folder / "model.safetensors")
        self.nodes, self.weights = [], {}

    def weight(self, name, value=None):
        value = self.tensors[name] if value is None else value
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, operator, *inputs, **attributes):
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def linear(self, name, x):
        weight = self.weight(name + ".weight", self.tensors[name + ".weight"].T)
        return self.node("Add", self.node("MatMul", x, weight), self.weight(name + ".bias"))

    def norm(self, name, x):
        return self.node("LayerNormalization", x, self.weight(name + ".weight"),
                         self.weight(name + ".bias"), epsilon=self.config["layer_norm_eps"])

    def heads(self, x, order):
        split = self.weight("heads", np.array(
            [0, 0, self.config["num_attention_heads"], -1], np.int64))
        return self.node("Transpose", self.node("Reshape", x, split), perm=order)

    def layer(self, index, x, mask):
        name = f"encoder.layer.{index}"
        attention = name + ".attention.self."
        query = self.heads(self.linear(attention + "query", x), [0, 2, 1, 3])
        key = self.heads(self.linear(attention + "key", x), [0, 2, 3, 1])
        value = self.heads(self.linear(attention + "value", x), [0, 2, 1, 3])
        root = (self.config["hidden_size"] / self.config["num_attention_heads"]) ** 0.5
        scores = self.node("Div", self.node("MatMul", query, key),
                           self.weight("root", np.array(root, np.float32)))
        share = self.node("Softmax", self.node("Add", scores, mask), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", share, value), perm=[0, 2, 1, 3])
        joined = self.node("Reshape", mixed, self.weight(
            "joined", np.array([0, 0, self.config["hidden_size"]], np.int64)))
        out = self.linear(name + ".attention.output.dense", joined)
        x = self.norm(name + ".attention.output.LayerNorm", self.node("Add", out, x))
        wide = self.linear(name + ".intermediate.dense", x)
        erf = self.node("Erf", self.node("Div", wide, self.weight("sqrt2", np.array(2 ** 0.5, np.float32))))
        grown = self.node("Mul", wide, self.node("Add", erf, self.weight("one", np.array(1, np.float32))))
        active = self.node("Mul", grown, self.weight("half", np.array(0.5, np.float32)))
        out = self.linear(name + ".output.dense", active)
        return self.norm(name + ".output.LayerNorm", self.node("Add", out, x))

    def build(self, path):
        """Inputs ids, positions [batch][tokens] and mask [batch][1][1][tokens], 0 or -1e9."""
        types = self.tensors["embeddings.token_type_embeddings.weight"][0]
        x = self.node("Gather", self.weight("embeddings.word_embeddings.weight"), "ids")
        places = self.tensors["embeddings.position_embeddings.weight"] + types
        x = self.node("Add", x, self.node("Gather", self.weight("positions_and_type", places), "positions"))
        x = self.norm("embeddings.LayerNorm", x)
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(index, x, "mask")
        self.nodes.append(helper.make_node("Identity", [x], ["hidden"]))
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"]),
                  helper.make_tensor_value_info("positions", TensorProto.INT64, ["batch", "tokens"]),
                  helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, 1, "tokens"])]
        output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "tokens", "dim"])
        graph = helper.make_graph(self.nodes, "encoder", inputs, [output], list(self.weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)


def encode(session, tokenizer, sentences, batch):
    vectors = [None] * len(sentences)
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(sentences)]
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for first in range(0, len(order), batch):
        here = order[first:first + batch]
        longest = max(len(tokens[i]) for i in here)
        ids = np.zeros((len(here), longest), np.int64)
        mask = np.zeros((len(here), longest), np.float32)
        for row, i in enumerate(here):
            ids[row, :len(tokens[i])] = tokens[i]
            mask[row, :len(tokens[i])] = 1
        positions = np.broadcast_to(np.arange(longest), ids.shape)
        hidden = session.run(None, {"ids": ids, "positions": np.ascontiguousarray(positions),
                                    "mask": (mask[:, None, None, :] - 1) * np.float32(1e9)})[0]
        mean = (hidden * mask[:, :, None]).sum(1)
        for row, i in enumerate(here):
            vectors[i] = mean[row] / np.linalg.norm(mean[row])
    return np.array(vectors)


def rate(session, tokenizer, sentences):
    best = 0
    for batch in BATCHES:
        seconds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            encode(session, tokenizer, sentences, batch)
            seconds.append(time.process_time() - start)
        best = max(best, len(sentences) / statistics.median(seconds))
    return best


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    sentences = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as work:
        fp32, int8 = f"{work}/fp32.onnx", f"{work}/int8.onnx"
        Graph(folder).build(fp32)
        quantize_dynamic(fp32, int8, weight_type=QuantType.QInt8)
        exact = None
        for name, path in (("fp32", fp32), ("int8, dynamic", int8)):
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            vectors = encode(session, tokenizer, sentences, 8)
            exact = vectors if exact is None else exact
            cosine = (vectors * exact).sum(1)
            print(f"ONNX Runtime {onnxruntime.__version__}, {name:14} "
                  f"{rate(session, tokenizer, sentences):8.0f} sentences/s   cosine "
                  f"{cosine.mean():.5f}, least {cosine.min():.5f}   "
                  f"{Path(path).stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
