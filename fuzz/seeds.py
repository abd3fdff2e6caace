#!/usr/bin/env python3
"""seeds.py - writes the valid tiny files that fuzzing starts from into corpus/."""
import json
import pathlib
import struct

corpus = pathlib.Path(__file__).parent / "corpus"


def write(target, name, content):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


# ---- safetensors ---------------------------------------------------------------------------------

SIZES = {"I32": 4, "I16": 2, "F16": 2, "BF16": 2, "F32": 4, "I64": 8, "U8": 1, "BOOL": 1}


def product(shape):
    count = 1
    for dim in shape:
        count *= dim
    return count


def safetensors(tensors, metadata=None, raw=True):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, *content) in tensors.items():
        size = product(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += content[0] if content else bytes(size)
    text = json.dumps(header, separators=(",", ":")).encode()
    return (struct.pack("<Q", len(text)) if raw else b"") + text + data


def pad_to(content, remainder, modulus=10):
    """fuzz_safetensors chooses a config by size % 10: blanks in the header select one."""
    length, = struct.unpack("<Q", content[:8])
    blanks = (remainder - len(content)) % modulus
    return struct.pack("<Q", length + blanks) + content[8:8 + length] + b" " * blanks + content[8 + length:]


out_features, in_features, group_size = 32, 64, 32
groups = in_features // group_size
GEMM = {"a.b.qweight": ("I32", [in_features, out_features // 8]), "a.b.qzeros": ("I32", [groups, out_features // 8]),
        "a.b.scales": ("F16", [groups, out_features]), "a.b.bias": ("F16", [out_features])}
GPTQ = {"a.b.qweight": ("I32", [in_features // 8, out_features]), "a.b.qzeros": ("I32", [groups, out_features // 8]),
        "a.b.scales": ("F16", [groups, out_features]), "a.b.g_idx": ("I32", [in_features])}
GEMV = {"a.b.qweight": ("I32", [out_features, in_features // 8]), "a.b.qzeros": ("I32", [out_features, 4]),
        "a.b.scales": ("F16", [out_features, 32])}
FAST = {"a.b.qweight": ("I16", [out_features // 4, in_features]), "a.b.qzeros": ("F16", [32, out_features]),
        "a.b.scales": ("F16", [32, out_features])}
COMPRESSED = {"a.b.weight_packed": ("I32", [out_features, in_features // 8]),
              "a.b.weight_scale": ("BF16", [out_features, groups]),
              "a.b.weight_zero_point": ("I32", [out_features // 8, groups]),
              "a.b.weight_shape": ("I64", [2], struct.pack("<2Q", out_features, in_features))}

for number, (name, tensors) in enumerate([("gemm", GEMM), ("gemv", GEMV), ("gemv_fast", FAST)]):
    write("safetensors", name, pad_to(safetensors(tensors), number))
write("safetensors", "awq_marlin", pad_to(safetensors(GEMM), 4))
write("safetensors", "gptq", pad_to(safetensors(GPTQ), 5))
write("safetensors", "gptq_v2", pad_to(safetensors(GPTQ), 6))
write("safetensors", "compressed", pad_to(safetensors(COMPRESSED), 8))
plain = {"norm": ("F32", [4]), "one": ("F16", []), "none": ("U8", [0, 7]), "flags": ("BOOL", [3, 1])}
write("safetensors", "plain", pad_to(safetensors(plain, {"format": "pt"}), 9))
write("safetensors", "text", safetensors(plain, {"format": "pt"}, raw=False))
write("safetensors", "empty", safetensors({}))

# ---- config.json, model.safetensors.index.json ---------------------------------------------------

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
       "modules_to_not_convert": ["lm_head"]}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
          "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
              "num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}}}}
CONFIGS = {
    "awq": AWQ, "legacy": {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False,
             "checkpoint_format": "gptq_v2"},
    "marlin": {"bits": 4, "sym": True, "is_marlin_format": True, "group_size": -1},
    "compressed": PACKED}
INDEX = {"metadata": {"total_size": 1}, "weight_map": {"a.b.qweight": "model-00001-of-00001.safetensors"}}
for number, (name, config) in zip([0, 0, 1, 1, 2], CONFIGS.items()):   # the weights: size % 3
    text = json.dumps({"hidden_size": 64, "rms_norm_eps": 1e-5, "tie": None, "quantization_config": config})
    write("config", name, (text + " " * ((number - len(text)) % 3)).encode())
write("config", "index", b"{}\0" + json.dumps(INDEX).encode())

# ---- GGUF ----------------------------------------------------------------------------------------

U32, FLOAT, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def value(key, kind, content):
    return string(key) + struct.pack("<I", kind) + content


def gguf(values, tensors, alignment=32, version=3):
    infos, data = b"", b""
    for name, kind, dims, size in tensors:
        data += bytes(-len(data) % alignment)
        infos += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        infos += struct.pack("<IQ", kind, len(data))
        data += bytes(range(size))
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + b"".join(values) + infos
    return head + bytes(-len(head) % alignment) + data


VALUES = [value("general.architecture", STRING, string("llama")), value("general.alignment", U32, struct.pack("<I", 32)),
          value("llama.rope.freq_base", FLOAT, struct.pack("<f", 1e4)), value("flag", BOOL, b"\1"),
          value("size", U64, struct.pack("<Q", 7)),
          value("tokens", ARRAY, struct.pack("<IQ", STRING, 2) + string("a") + string("bc")),
          value("types", ARRAY, struct.pack("<IQ2I", U32, 2, 1, 3))]
write("gguf", "values", gguf(VALUES, [("norm", 0, [4], 16)]))
write("gguf", "types", gguf([], [("q4_0", 2, [32, 2], 36), ("q4_1", 3, [32, 1, 2], 40), ("f16", 1, [3], 6),
                                 ("bf16", 30, [2, 2], 8), ("q8_0", 8, [32], 34), ("q6_k", 14, [256], 210),
                                 ("i8", 24, [5], 5)]))
write("gguf", "version2", gguf([VALUES[0]], [], version=2))
