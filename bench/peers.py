#!/usr/bin/env python3
"""The same products by the kernels of other libraries, from their PyPI packages (make bench-peers).

    peers.py [--filter REGEX] [--out FILE]   lines and JSON with the names and columns of awq_bench

A library that is not installed costs a line that says so. Every library runs in a process of its
own, pinned to as many processors as it has threads. A model is copies of one linear that share an
input: a run walks over all their weights, past the caches, and its time is divided by their number.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

from peer_ggml import compile_ggml

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336)]
TOKENS = [1, 4, 16, 64, 512]
CHECKED_TOKENS = [0, 3, 15, 63, 511]
GROUP = 128
FEW_TOKENS = 16         # up to here memory is the limit, so copies fill ROTATION bytes; else 4 do
FEW_COPIES = 4
SECONDS = float(os.environ.get("BENCH_SECONDS", 0.5))

# library in the names: module, kernel, precision, environment. OpenVINO rounds activations to int8
# by the group when asked for fp32. Where there is AMX it is asked twice more: held to the
# instructions that ours uses, and in its own choice, which is bf16 there.
LIBRARIES = {
    "openvino": ("openvino", "u4-dynamic", "a8", {"PRECISION": "f32"}),
    "onnxruntime": ("onnxruntime", "MatMulNBits-4", "a8", {}),
    "ggml-q4_0": ("llama_cpp", "q4_0", "a8", {}),
    "ggml-q4_k": ("llama_cpp", "q4_k", "a8", {}),
    "torch": ("torch", "", "", {}),
}
WITH_AMX = {
    "openvino-avx512": ("openvino", "u4-dynamic", "a8",
                        {"PRECISION": "f32", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}),
    "openvino-amx": ("openvino", "u4", "bf16", {}),
}


def has_amx():
    try:
        with open("/proc/cpuinfo") as file:
            return "amx_bf16" in file.read()
    except OSError:
        return False


if has_amx():
    LIBRARIES.update(WITH_AMX)


def cache_bytes():
    """The largest cache, as the system names it."""
    sizes = [0]
    for index in range(8):
        try:
            with open(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size") as file:
                sizes.append(int(file.read().strip().rstrip("K")) << 10)
        except (OSError, ValueError):
            break
    return max(sizes)


def rotation_bytes():
    """As rotation_size() of layers.c."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(max(320 << 20, 2 * cache_bytes() + (32 << 20)), memory // 4)


def line_name(library, out_features, in_features, tokens, threads):
    _, kernel, precision, _ = LIBRARIES[library]
    library = library.split("-q4_")[0]      # ggml's kernels are of one library
    return (f"matmul/{library}/{kernel}/{precision}/{out_features}x{in_features}/g{GROUP}"
            f"/tokens:{tokens}/threads:{threads}")


def search_name(threads):
    return f"search/torch/fp32/rows:512/4096x4096/g{GROUP}/threads:{threads}"


# ---- a linear, quantized ------------------------------------------------------------------------

class Linear:
    """4-bit integers with zero points and fp16 scales; normal weights."""

    def __init__(self, out_features, in_features):
        import numpy as np
        self.out_features, self.in_features = out_features, in_features
        self.x = np.random.default_rng(2).standard_normal((max(TOKENS), in_features), np.float32)
        w = self.normal_weights().reshape(out_features, in_features // GROUP, GROUP)
        low, high = w.min(-1, keepdims=True), w.max(-1, keepdims=True)
        self.scale = ((high - low) / 15).astype(np.float16)
        scale = self.scale.astype(np.float32)
        self.zero = np.clip(np.rint(-low / scale), 0, 15).astype(np.uint8)
        self.q = np.clip(np.rint(w / scale) + self.zero, 0, 15).astype(np.uint8)
        what = (self.q.astype(np.float32) - self.zero) * scale
        self.stands_for(what.reshape(out_features, in_features),
                        self.q.size // 2 + self.scale.size * 2 + self.zero.size // 2)

    def normal_weights(self):
        import numpy as np
        shape = self.out_features, self.in_features
        return np.random.default_rng(1).standard_normal(shape, np.float32)

    def stands_for(self, what, packed_bytes):
        """From now on errors are against these weights, and a pass reads so many bytes."""
        import numpy as np
        self.packed_bytes = packed_bytes
        # float64 piece by piece: a whole copy would be half a gigabyte
        x = self.x[CHECKED_TOKENS].astype(np.float64)
        self.exact = np.concatenate([x @ part.astype(np.float64).T
                                     for part in np.array_split(what, 16)], axis=1)

    def rotated(self, copy):
        """Copy number `copy`, rows rotated: no library can find two copies to be equal."""
        import numpy as np
        return [np.roll(a, 16 * copy, axis=0) for a in (self.q, self.zero, self.scale)]

    def errors(self, y, tokens):
        """Largest and root mean square, relative to the root mean square of the product."""
        import numpy as np
        checked = [t for t in CHECKED_TOKENS if t < tokens]
        exact = self.exact[:len(checked)]
        error, power = y[checked] - exact, np.sqrt(np.mean(exact ** 2))
        return float(np.abs(error).max() / power), float(np.sqrt(np.mean(error ** 2)) / power)


def pack_nibbles(q):
    """Pairs of the last axis to bytes, the first one low."""
    return q[..., 0::2] | q[..., 1::2] << 4


# ---- libraries: compile(kernel, linear, copies, threads) returns run and a note
# run(x) multiplies by all copies and returns the product of the first

def compile_openvino(_, linear, copies, threads):
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    kept = []   # a constant only refers to its bytes

    def u4(array):
        packed = np.ascontiguousarray(pack_nibbles(array.reshape(-1)))
        kept.append(packed)
        tensor = ov.Tensor(packed, ov.Shape(array.shape), ov.Type.u4)
        return op.convert(ov.op.Constant(tensor), "f16")

    x = op.parameter([-1, linear.in_features], np.float32, name="x")
    results = []
    for copy in range(copies):
        q, zero, scale = linear.rotated(copy)
        w = op.multiply(op.subtract(u4(q), u4(zero)), op.constant(scale))
        w = op.convert(op.reshape(w, [linear.out_features, linear.in_features], False), "f32")
        results.append(op.result(op.matmul(x, w, False, True)))
    config = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP), "INFERENCE_NUM_THREADS": threads,
              "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if "PRECISION" in os.environ:
        config["INFERENCE_PRECISION_HINT"] = os.environ["PRECISION"]
    compiled = ov.Core().compile_model(ov.Model(results, [x], "linears"), "CPU", config)
    request = compiled.create_infer_request()

    def run(values):
        request.infer({0: values}, share_inputs=True, share_outputs=True)
        return request.get_output_tensor(0).data
    run.kept = kept     # the weights are repacked in the first run
    return run, f"openvino {ov.__version__.split('-')[0]}"


def compile_onnxruntime(_, linear, copies, threads):
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    nodes, constants, outputs = [], [], []
    for copy in range(copies):
        q, zero, scale = linear.rotated(copy)
        zero = zero.reshape(linear.out_features, -1)
        names = [f"q{copy}", f"s{copy}", f"z{copy}"]
        arrays = [pack_nibbles(q), scale.astype(np.float32).reshape(-1),
                  pack_nibbles(zero).reshape(-1)]
        constants += [numpy_helper.from_array(a, n) for a, n in zip(arrays, names)]
        nodes.append(helper.make_node("MatMulNBits", ["x"] + names, [f"y{copy}"],
                                      domain="com.microsoft", K=linear.in_features,
                                      N=linear.out_features, bits=4, block_size=GROUP,
                                      accuracy_level=4))
        outputs.append(helper.make_tensor_value_info(f"y{copy}", onnx.TensorProto.FLOAT,
                                                     ["tokens", linear.out_features]))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["tokens", linear.in_features])
    graph = helper.make_graph(nodes, "linears", [x], outputs, constants)
    model = helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return (lambda values: session.run(None, {"x": values})[0],
            f"onnxruntime {onnxruntime.__version__}")


COMPILE = {"openvino": compile_openvino, "onnxruntime": compile_onnxruntime,
           "llama_cpp": compile_ggml}


# ---- measuring, in the process of one library ---------------------------------------------------

def median_seconds(call):
    call()
    samples, begin = [], time.perf_counter()
    while len(samples) < 301 and (len(samples) < 3 or time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def emit(row):
    print(json.dumps(row), flush=True)


def measure_products(library, threads, wanted):
    for out_features, in_features in SHAPES:
        tokens = [t for t in TOKENS
                  if wanted(line_name(library, out_features, in_features, t, threads))]
        if not tokens:
            continue
        linear = Linear(out_features, in_features)
        copies = max(2, rotation_bytes() // linear.packed_bytes)
        for few in (True, False):
            some = [t for t in tokens if (t <= FEW_TOKENS) == few]
            if some:
                measure_model(library, threads, linear, copies if few else FEW_COPIES, some)


def measure_model(library, threads, linear, copies, tokens_list):
    module, kernel = LIBRARIES[library][:2]
    run, note = COMPILE[module](kernel, linear, copies, threads)
    for tokens in tokens_list:
        x = linear.x[:tokens]
        worst, rms = linear.errors(run(x), tokens)
        seconds = median_seconds(lambda: run(x)) / copies
        emit({"name": line_name(library, linear.out_features, linear.in_features, tokens, threads),
              "real_time": seconds * 1e6, "time_unit": "us",
              "GOP/s": 2e-9 * linear.q.size * tokens / seconds,
              "GB/s": 1e-9 * linear.packed_bytes / seconds,
              "max_error": worst, "rms_error": rms, "label": note})


def measure_search(threads):
    """The search of llm-awq and AutoAWQ: 20 ratios, fake quantization, output error, in torch."""
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    w, x = torch.randn(4096, 4096), torch.randn(512, 4096)

    def fake_quantize(u):
        groups = u.reshape(-1, GROUP)
        high, low = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
        scale = ((high - low).clamp(min=1e-5) / 15)
        zero = (-torch.round(low / scale)).clamp(0, 15)
        q = torch.clamp(torch.round(groups / scale) + zero, 0, 15)
        return ((q - zero) * scale).reshape(u.shape)

    def search():
        exact, x_mean, losses = x @ w.T, x.abs().mean(0), []
        for i in range(20):
            s = x_mean.pow(i / 20).clamp(min=1e-4)
            s = s / (s.max() * s.min()).sqrt()
            losses.append((x @ (fake_quantize(w * s) / s).T - exact).pow(2).mean().item())
        return losses.index(min(losses))

    with torch.no_grad():
        seconds = median_seconds(search)
    emit({"name": search_name(threads), "real_time": seconds * 1e6, "time_unit": "us",
          "ms": seconds * 1e3, "Mweights/s": 1e-6 * w.numel() / seconds,
          "label": f"torch {torch.__version__}"})


def child(library, threads, pattern):
    wanted = re.compile(pattern).search
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        __import__(LIBRARIES[library][0])
        if library == "torch":
            measure_search(threads)
        else:
            measure_products(library, threads, wanted)
    except ImportError as why:
        package = LIBRARIES[library][0].replace("llama_cpp", "llama-cpp-python")
        emit({"name": library, "error_occurred": True,
              "error_message": f"not installed ({why}): make bench-peers PEERS={package}"})


# ---- the driver ---------------------------------------------------------------------------------

def show(row):
    if row.get("error_occurred"):
        print(f"{row['name']}  skipped: {row['error_message']}", file=sys.stderr)
        return
    columns = [f"{key} {value:.4g}" for key, value in row.items()
               if isinstance(value, float) and key != "real_time"]
    print(f"{row['name']:<72} {row['real_time']:11.1f} us  {'  '.join(columns)}  {row['label']}",
          file=sys.stderr)


def lines_of(library, threads):
    if library == "torch":
        return [search_name(threads)]
    return [line_name(library, out, in_, t, threads) for out, in_ in SHAPES for t in TOKENS]


def run_child(library, threads, pattern):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), **LIBRARIES[library][3])
    command = [sys.executable, __file__, "--child", library, str(threads), "--filter", pattern]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    rows = []
    for line in process.stdout:
        if line.startswith("{"):
            rows.append(json.loads(line))
            show(rows[-1])
    if process.wait() != 0:
        rows.append({"name": library, "error_occurred": True,
                     "error_message": f"its process ended with {process.returncode}"})
        show(rows[-1])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--filter", default=".", help="lines to run, a regular expression")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--child", nargs=2, metavar=("LIBRARY", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], int(options.child[1]), options.filter)
    rows = []
    most = min(2, len(os.sched_getaffinity(0)))
    for threads in range(1, most + 1):
        for library in LIBRARIES:
            if library == "torch" and threads < most:
                continue    # a search takes ten seconds
            if any(re.search(options.filter, name) for name in lines_of(library, threads)):
                rows += run_child(library, threads, options.filter)
    if options.out:
        with open(options.out, "w") as file:
            json.dump({"benchmarks": rows}, file, indent=1)


if __name__ == "__main__":
    main()
