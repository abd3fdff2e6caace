#!/usr/bin/env python3
"""Checks awq_cuda.cuh on this GPU against float64, then times it beside torch's kernels (make gpu).

    measure.py --library libawq_cuda.so --json FILE [--check-only] [--quick]

Times are of CUDA graphs that go round copies of the weights too large for the L2 cache together, by
events, the median of several; peers are timed the same way in the same process, turn by turn.
"""
import argparse
import json
import statistics
import subprocess
import sys

import torch

from binding import KERNELS, Library, Linear

ROTATE = 512 << 20          # bytes of weights a graph goes round
REPLAYS = 9

# name, out_features, in_features, tokens, target: ("us", most) or ("cublas", least ratio)
WORK = [
    ("1 x 8192 x 8192", 8192, 8192, 1, ("us", 13)),
    ("1 x K16384 N8192", 8192, 16384, 1, ("us", 23)),
    ("1 x N8192 K81920", 8192, 81920, 1, ("us", 90)),
    ("1 x 4096 x 4096", 4096, 4096, 1, ("cublas", 2.5)),
    ("2 x 8192 x 8192", 8192, 8192, 2, None),
    ("4 x 8192 x 8192", 8192, 8192, 4, None),
    ("8 x 8192 x 8192", 8192, 8192, 8, None),
    ("16 x 8192 x 8192", 8192, 8192, 16, ("cublas", 2.4)),
    ("32 x 8192 x 8192", 8192, 8192, 32, None),
    ("64 x 8192 x 8192", 8192, 8192, 64, ("cublas", 1.6)),
    ("128 x 8192 x 8192", 8192, 8192, 128, None),
    ("256 x 8192 x 8192", 8192, 8192, 256, None),
    ("1024 x 8192 x 8192", 8192, 8192, 1024, ("cublas", 0.90)),
    ("4096 x 8192 x 8192", 8192, 8192, 4096, ("cublas", 0.90)),
]
DEQUANTIZE_TARGET = ("cublas", 0.97)
H100_TIME = 1.43            # targets in microseconds are for an H200


# ---- is it right? -------------------------------------------------------------------------------

def tolerance(kernel, tokens, dtype):
    """Of sum |x w|, beside the rounding of y: fp32 sums, and weights rounded to dtype where they are."""
    rounded = kernel == "wgmma" or (kernel == "gemm" and tokens > 16)
    return 2e-5 + (1.0 * torch.finfo(dtype).eps if rounded else 0)


def worst_error(y, expected, size, dtype, bound):
    """The largest error as a part of what is allowed; NaN counts as infinite."""
    allowed = torch.finfo(dtype).eps * expected.abs() + bound * size + 1e-7
    worst = ((y.double() - expected).abs() / allowed).nan_to_num(nan=float("inf")).max()
    return worst.item()


def check_product(library, linear, kernel, tokens, with_extras):
    out, inputs = linear.q.shape
    x = torch.randn(tokens, inputs + 8, device="cuda").to(linear.dtype)[:, :inputs]
    bias = torch.randn(out, device="cuda").to(linear.dtype) if with_extras else None
    residual = torch.randn(tokens, out, device="cuda").to(linear.dtype) if with_extras else None
    y = torch.full((tokens, out), float("nan"), device="cuda", dtype=linear.dtype)
    library.matmul(linear, x, y, kernel, bias, residual)
    w = linear.weights()
    expected, size = x.double() @ w.T, x.double().abs() @ w.abs().T
    for extra in (bias, residual):
        if extra is not None:
            expected, size = expected + extra.double(), size + extra.double().abs()
    worst = worst_error(y, expected, size, linear.dtype, tolerance(kernel, tokens, linear.dtype))
    again = torch.empty_like(y)
    library.matmul(linear, x, again, kernel, bias, residual)
    return worst, torch.equal(y, again)


def check_dequantize(library, linear):
    out = torch.full(linear.q.shape, float("nan"), device="cuda", dtype=linear.dtype)
    library.dequantize(linear, out)
    return torch.equal(out, linear.weights().to(linear.dtype))


def check(library, kernels):
    shapes = [(64, 128), (256, 512), (1, 8), (200, 424), (1000, 1400), (4096, 4096), (4099, 2056)]
    token_counts = {"portable": [1, 5], "gemv": range(1, 9), "gemm": [1, 9, 16, 17, 32, 50, 64, 65, 200],
                    "wgmma": [1, 64, 129, 300]}
    bad, done = [], 0
    for number, (out, inputs) in enumerate(shapes):
        for group_size in (32, 64, 128, -1):
            dtype = (torch.float16, torch.bfloat16)[(number + group_size) % 2]
            for symmetric in (False, True):
                linear = Linear(library, out, inputs, group_size, symmetric, dtype)
                name = f"{out} x {inputs} g{group_size} {'sym ' if symmetric else ''}{dtype}"
                if not check_dequantize(library, linear):
                    bad.append(f"dequantize {name}")
                for kernel in kernels:
                    for tokens in token_counts[kernel]:
                        worst, same = check_product(library, linear, kernel, tokens, tokens % 2 == 1)
                        done += 1
                        if worst > 1 or not same:
                            bad.append(f"{kernel} {tokens} tokens {name}: {worst:.2f} of the allowed "
                                       f"error{'' if same else ', other bits the second time'}")
    for line in bad[:20]:
        print("WRONG", line)
    print(f"{done} products against float64: {len(bad)} wrong")
    return not bad


# ---- how fast? ----------------------------------------------------------------------------------

def time_rounds(calls):
    """Microseconds per call of a graph of them, by events."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    times = []
    for _ in range(REPLAYS + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(calls))
    return statistics.median(times[2:])


def rotation(size):
    return max(4, min(64, -(-ROTATE // size)))


def floors():
    source = torch.randint(0, 255, (1 << 32,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / time_rounds([lambda: target.copy_(source)] * 4) / 1e6
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    c = torch.empty_like(a)
    peak = 2 * 8192 ** 3 / time_rounds([lambda: torch.matmul(a, b, out=c)] * 8) / 1e6
    return {"copy TB/s": copy, "tensor TFLOP/s": peak}


def ours(library, linear, x, y, kernel=None):
    kernel = kernel or library.pick(linear, x.shape[0])
    copies = [linear.copy() for _ in range(rotation(linear.memory.numel()))]
    return time_rounds([lambda l=l: library.matmul(l, x, y, kernel) for l in copies])


def cublas(x, out, dtype):
    inputs = x.shape[1]
    copies = [torch.randn(out, inputs, device="cuda", dtype=dtype)
              for _ in range(rotation(2 * out * inputs))]
    x, y = x.to(dtype), torch.empty(x.shape[0], out, device="cuda", dtype=dtype)
    return time_rounds([lambda w=w: torch.matmul(x, w.T, out=y) for w in copies])


def int4pack(x, out):
    """torch's own 4-bit kernel: bf16, scale and zero point in bf16."""
    inputs = x.shape[1]
    q = torch.randint(0, 255, (out, inputs // 2), device="cuda", dtype=torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(q, 8)
    grids = torch.randn(inputs // 128, out, 2, device="cuda", dtype=torch.bfloat16)
    copies = [(packed.clone(), grids.clone()) for _ in range(rotation(q.numel()))]
    x = x.to(torch.bfloat16)
    return time_rounds([lambda w=w, g=g: torch.ops.aten._weight_int4pack_mm(x, w, 128, g)
                        for w, g in copies])


def dequantize_and_cublas(library, linear, x, y):
    weights = torch.empty(linear.q.shape, device="cuda", dtype=linear.dtype)
    copies = [linear.copy() for _ in range(rotation(linear.memory.numel()))]

    def call(copy):
        library.dequantize(copy, weights)
        torch.matmul(x, weights.T, out=y)
    return time_rounds([lambda l=l: call(l) for l in copies])


def attempt(measure, *arguments):
    """A peer that does not run here is a hole in the table, with its reason on stderr."""
    try:
        return measure(*arguments)
    except (RuntimeError, AttributeError, NotImplementedError) as reason:
        print(f"note: {measure.__name__}: {str(reason).splitlines()[0]}", file=sys.stderr)
        return None


def verdict(target, row, us_factor):
    if target is None:
        return None
    kind, value = target
    if kind == "us":
        return row["awq us"] <= value * us_factor
    return row["cublas us"] / row["awq us"] >= value


def target_text(target, us_factor):
    if target is None:
        return ""
    return f"<= {target[1] * us_factor:.1f} us" if target[0] == "us" else f">= {target[1]:.2f} x cuBLAS"


def measure(library, dtype, limits, quick):
    us_factor = 1.0 if limits["copy TB/s"] > 3.6 else H100_TIME
    rows, last = [], None
    for name, out, inputs, tokens, target in WORK[:5] if quick else WORK:
        if last is None or last.q.shape != (out, inputs):
            last = Linear(library, out, inputs, dtype=dtype)
        x = torch.randn(tokens, inputs, device="cuda").to(dtype)
        y = torch.empty(tokens, out, device="cuda", dtype=dtype)
        row = {"work": name, "dtype": str(dtype)[6:], "kernel": library.pick(last, tokens),
               "awq us": ours(library, last, x, y), "cublas us": cublas(x, out, dtype),
               "int4pack us": attempt(int4pack, x, out)}
        floor = max(last.memory.numel() / limits["copy TB/s"],
                    2 * tokens * out * inputs / limits["tensor TFLOP/s"]) / 1e6
        row.update({"floor us": floor, "target": target_text(target, us_factor),
                    "met": verdict(target, row, us_factor)})
        rows.append(row)
        if library.cuda.has_wgmma and tokens >= 64 and row["kernel"] != "wgmma":
            rows.append(dict(row, work=name + ", wgmma", kernel="wgmma", target="", met=None,
                             **{"awq us": ours(library, last, x, y, "wgmma")}))
        if tokens >= 1024:
            row = dict(row, work=name + ", dequantize + GEMM", kernel="dequantize",
                       target=target_text(DEQUANTIZE_TARGET, us_factor))
            row["awq us"] = dequantize_and_cublas(library, last, x, y)
            row["met"] = verdict(DEQUANTIZE_TARGET, row, us_factor)
            rows.append(row)
    return rows


# ---- the table ----------------------------------------------------------------------------------

def show(rows):
    number = lambda v: "-" if v is None else f"{v:.1f}"
    print(f"{'work, g128, zero points':36}{'kernel':>11}{'awq us':>9}{'floor':>8}{'of it':>7}"
          f"{'cuBLAS':>9}{'ratio':>7}{'int4pack':>10}  target")
    for r in rows:
        met = "" if r["met"] is None else " met" if r["met"] else " MISSED"
        print(f"{r['work'] + ' ' + r['dtype']:36}{r['kernel']:>11}{number(r['awq us']):>9}"
              f"{number(r['floor us']):>8}{r['floor us'] / r['awq us']:>7.0%}{number(r['cublas us']):>9}"
              f"{r['cublas us'] / r['awq us']:>6.2f}x{number(r['int4pack us']):>10}  {r['target']}{met}")


def text_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--json")
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the first five rows, fp16 only")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("measure.py: torch sees no GPU here")
    library = Library(options.library)
    kernels = [name for name in KERNELS if name == "portable" or library.cuda.code_sm >= 80]
    if not library.cuda.has_wgmma and "wgmma" in kernels:
        kernels.remove("wgmma")
    right = check(library, kernels)
    if options.check_only or not right:
        sys.exit(0 if right else 1)
    limits = floors()
    print(f"{torch.cuda.get_device_name()}, copy {limits['copy TB/s']:.2f} TB/s, "
          f"8192^3 fp16 {limits['tensor TFLOP/s']:.0f} TFLOP/s")
    rows = measure(library, torch.float16, limits, options.quick)
    if not options.quick:
        rows += measure(library, torch.bfloat16, limits, False)
    show(rows)
    if options.json:
        about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                 "nvcc": (text_of("nvcc", "--version") or "").splitlines()[-2:],
                 "driver": text_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
                 "commit": text_of("git", "rev-parse", "HEAD"), "floors": limits}
        with open(options.json, "w", encoding="utf-8") as f:
            json.dump({"about": about, "rows": rows}, f, indent=1)
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
