"""What needs a GPU: awq_cuda.cuh against float64, and times of it and of torch's kernels."""
import statistics
import sys

import torch

from binding import KERNELS, Library, Linear

ROTATE = 512 << 20          # bytes of weights a graph goes round
REPLAYS = 9


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


def ours(library, linear, x, y, kernel):
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


class Gpu:
    """The clock of measure.py: each method times one product of the work that was set up."""

    def __init__(self, path):
        if not torch.cuda.is_available():
            sys.exit("measure.py: torch sees no GPU here")
        self.library, self.linear = Library(path), None
        self.has_wgmma = bool(self.library.cuda.has_wgmma)
        self.about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}

    def check(self):
        kernels = [name for name in KERNELS if name == "portable" or self.library.cuda.code_sm >= 80]
        if not self.has_wgmma and "wgmma" in kernels:
            kernels.remove("wgmma")
        return check(self.library, kernels)

    def floors(self):
        return floors()

    def set_up(self, out, inputs, tokens, dtype):
        """The kernel that is picked for it, and how many bytes the quantized linear has."""
        dtype = getattr(torch, dtype)
        if self.linear is None or (self.linear.q.shape, self.linear.dtype) != ((out, inputs), dtype):
            self.linear = Linear(self.library, out, inputs, dtype=dtype)
        self.x = torch.randn(tokens, inputs, device="cuda").to(dtype)
        self.y = torch.empty(tokens, out, device="cuda", dtype=dtype)
        return self.library.pick(self.linear, tokens), self.linear.memory.numel()

    def awq(self, kernel):
        return ours(self.library, self.linear, self.x, self.y, kernel)

    def cublas(self):
        return cublas(self.x, self.y.shape[1], self.y.dtype)

    def int4pack(self):
        return attempt(int4pack, self.x, self.y.shape[1])

    def dequantize(self):
        return dequantize_and_cublas(self.library, self.linear, self.x, self.y)
