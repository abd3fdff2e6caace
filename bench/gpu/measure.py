#!/usr/bin/env python3
"""Checks awq_cuda.cuh on this GPU against float64, then times it beside torch's kernels (make gpu).

    measure.py --library libawq_cuda.so --json FILE [--check-only] [--quick]
    measure.py --dry-run [--json FILE]      the table from made-up times: no GPU, no torch

Times are of CUDA graphs that go round copies of the weights too large for the L2 cache together, by
events, the median of several; peers are timed the same way in the same process, turn by turn.
"""
import argparse
import json
import os
import subprocess
import sys

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


class MadeUp:
    """A clock that needs no GPU: every product takes three times its floor, cuBLAS five times."""

    has_wgmma = True
    about = {"device": "made-up times", "torch": None}

    def check(self):
        return True

    def floors(self):
        return {"copy TB/s": 4.0, "tensor TFLOP/s": 800.0}

    def set_up(self, out, inputs, tokens, dtype):
        self.floor = floor_us(out * inputs * 133 // 256, out, inputs, tokens, self.floors())
        return "gemv" if tokens <= 8 else "gemm" if tokens <= 64 else "wgmma", out * inputs * 133 // 256

    def awq(self, kernel):
        return 3 * self.floor

    def cublas(self):
        return 5 * self.floor

    def int4pack(self):
        return None

    def dequantize(self):
        return 6 * self.floor


# ---- rows ---------------------------------------------------------------------------------------

def floor_us(size, out, inputs, tokens, limits):
    return max(size / limits["copy TB/s"], 2 * tokens * out * inputs / limits["tensor TFLOP/s"]) / 1e6


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


def judged(row, target, us_factor, **changes):
    row = dict(row, target=target_text(target, us_factor), **changes)
    return dict(row, met=verdict(target, row, us_factor))


def measure(clock, dtype, limits, quick):
    us_factor = 1.0 if limits["copy TB/s"] > 3.6 else H100_TIME
    rows = []
    for name, out, inputs, tokens, target in WORK[:5] if quick else WORK:
        kernel, size = clock.set_up(out, inputs, tokens, dtype)
        row = {"work": name, "dtype": dtype, "kernel": kernel, "awq us": clock.awq(kernel),
               "cublas us": clock.cublas(), "int4pack us": clock.int4pack(),
               "floor us": floor_us(size, out, inputs, tokens, limits)}
        rows.append(judged(row, target, us_factor))
        for other in ("gemm", "wgmma") if clock.has_wgmma and tokens >= 64 else ():
            if other != kernel:
                rows.append(judged(row, None, us_factor, work=f"{name}, {other}", kernel=other,
                                   **{"awq us": clock.awq(other)}))
        if tokens >= 1024:
            rows.append(judged(row, DEQUANTIZE_TARGET, us_factor, work=f"{name}, dequantize + GEMM",
                               kernel="dequantize", **{"awq us": clock.dequantize()}))
    return rows


# ---- the table ----------------------------------------------------------------------------------

def show(rows):
    number = lambda v: "-" if v is None else f"{v:.1f}"
    print(f"{'work, g128, zero points':46}{'kernel':>11}{'awq us':>9}{'floor':>8}{'of it':>7}"
          f"{'cuBLAS':>9}{'ratio':>7}{'int4pack':>10}  target")
    for r in rows:
        met = "" if r["met"] is None else " met" if r["met"] else " MISSED"
        print(f"{r['work'] + ' ' + r['dtype']:46}{r['kernel']:>11}{number(r['awq us']):>9}"
              f"{number(r['floor us']):>8}{r['floor us'] / r['awq us']:>7.0%}{number(r['cublas us']):>9}"
              f"{r['cublas us'] / r['awq us']:>6.2f}x{number(r['int4pack us']):>10}  {r['target']}{met}")


def text_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def save(path, about, limits, rows):
    about = dict(about, nvcc=(text_of("nvcc", "--version") or "").splitlines()[-2:],
                 driver=text_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
                 commit=text_of("git", "rev-parse", "HEAD"), floors=limits)
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump({"about": about, "rows": rows}, f, indent=1)
    os.replace(path + ".new", path)
    print(f"wrote {path}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library")
    parser.add_argument("--json")
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the first five rows, fp16 only")
    parser.add_argument("--dry-run", action="store_true", help="made-up times: no GPU, no torch")
    options = parser.parse_args()
    if not options.library and not options.dry_run:
        parser.error("--library is missing")
    return options


def clock_of(options):
    if options.dry_run:
        return MadeUp()
    from gpu import Gpu
    return Gpu(options.library)


def main():
    options = parse()
    clock = clock_of(options)
    right = clock.check()
    if options.check_only or not right:
        sys.exit(0 if right else 1)
    limits = clock.floors()
    print(f"{clock.about['device']}, copy {limits['copy TB/s']:.2f} TB/s, "
          f"8192^3 fp16 {limits['tensor TFLOP/s']:.0f} TFLOP/s")
    rows = measure(clock, "float16", limits, options.quick)
    if not options.quick:
        rows += measure(clock, "bfloat16", limits, False)
    show(rows)
    if options.json:
        save(options.json, clock.about, limits, rows)


if __name__ == "__main__":
    main()
