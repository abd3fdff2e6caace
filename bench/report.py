#!/usr/bin/env python3
"""Measures; writes the tables of docs/performance.md and docs/img/roofline.svg (make bench-report).

    report.py --bench AWQ_BENCH [--peers PYTHON] --results FOLDER [--repeats N] [--only-write]

The square shape is measured N times, ours and the peers in turn; a ratio is the median of those of
the turns. --only-write takes the JSON files that are in FOLDER.
"""
import argparse
import glob
import json
import os
import re
import statistics
import subprocess
import sys

import roofline

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "..", "docs", "performance.md")
PICTURE = os.path.join(HERE, "..", "docs", "img", "roofline.svg")

SQUARE = "4096x4096"
SHAPES = [SQUARE, "14336x4096", "4096x14336"]
SMALL = ["576x576", "1536x576", "576x1536", "1024x1024", "2048x2048"]
TOKENS = [1, 4, 16, 64, 512]
THREADS = [1, 2]
PRODUCT = re.compile(r"matmul/([^/]+)/([^/]+)/([^/]+)/(\d+x\d+)/g\d+/tokens:(\d+)/threads:(\d+)$")
TITLES = {"openvino": "OpenVINO", "openvino-avx512": "OpenVINO held to AVX-512",
          "openvino-amx": "OpenVINO's own choice, AMX in bf16", "onnxruntime": "ONNX Runtime",
          "ggml": "llama.cpp's ggml", "openblas": "OpenBLAS fp32", "awq": "awq.h"}


# ---- measuring ----------------------------------------------------------------------------------

def run(command, what):
    print(f"== {what}", file=sys.stderr)
    if subprocess.run(command).returncode != 0:
        sys.exit(f"report.py: {what} failed: {' '.join(command)}")


def measure(options):
    """Turn 0 has everything, the others only the shape whose ratios are quoted."""
    os.makedirs(options.results, exist_ok=True)
    for old in glob.glob(os.path.join(options.results, "*.json")):
        os.remove(old)
    for turn in range(options.repeats):
        for shape in SHAPES if turn == 0 else [SQUARE]:
            measure_shape(options, turn, shape)
    small_shapes = "|".join(SMALL)
    bench(options, "0-rest", f"^(prepare|stats|search|quantize_pack|convert)/|/({small_shapes}|240x4096)/")
    if options.peers:
        peers(options, "0-search", "^search/")


def measure_shape(options, turn, shape):
    bench(options, f"{turn}-{shape}", f"^limit/|^matmul/.*/{shape}/")
    if options.peers:
        peers(options, f"{turn}-{shape}", f"^matmul/.*/{shape}/")


def bench(options, name, pattern):
    run([options.bench, f"--benchmark_filter={pattern}", "--benchmark_out_format=json",
         f"--benchmark_out={options.results}/bench-{name}.json"], f"awq_bench, {name}")


def peers(options, name, pattern):
    run([options.peers, os.path.join(HERE, "peers.py"), "--filter", pattern,
         "--out", f"{options.results}/peers-{name}.json"], f"peers.py, {name}")


# ---- what was measured --------------------------------------------------------------------------

class Results:
    """rows[turn][name]; context of the last file that has one."""

    def __init__(self, folder):
        self.rows, self.context, self.skipped = {}, {}, []
        for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
            with open(path) as file:
                content = json.load(file)
            turn = int(re.search(r"-(\d+)-", os.path.basename(path)).group(1))
            self.context = content.get("context", self.context)
            for row in content["benchmarks"]:
                if row.get("error_occurred"):
                    self.skipped.append((row["name"], row["error_message"]))
                else:
                    self.rows.setdefault(turn, {})[row["name"]] = row
        if not self.rows:
            sys.exit(f"report.py: no measurements in {folder}: run make bench-report")

    def values(self, name, column):
        return [rows[name][column] for rows in self.rows.values()
                if name in rows and column in rows[name]]

    def median(self, name, column="GOP/s"):
        values = self.values(name, column)
        return statistics.median(values) if values else None

    def ratio(self, name, other, column="GOP/s"):
        """Median over the turns of name / other."""
        ratios = [rows[name][column] / rows[other][column] for rows in self.rows.values()
                  if name in rows and other in rows]
        return statistics.median(ratios) if ratios else None

    def names(self):
        return sorted({name for rows in self.rows.values() for name in rows})

    def products(self, **wanted):
        """Names of the products whose parts are as wanted."""
        keys = ["library", "kernel", "precision", "shape", "tokens", "threads"]
        found = []
        for name in self.names():
            match = PRODUCT.match(name)
            parts = dict(zip(keys, match.groups())) if match else None
            if parts and all(parts[key] == str(value) for key, value in wanted.items()):
                found.append(name)
        return found

    def kernel(self):
        return self.context["kernels"]

    def kernels(self):
        order = {}
        for name in [n for rows in self.rows.values() for n in rows]:
            match = PRODUCT.match(name)
            if match and match.group(1) == "awq":
                order.setdefault(match.group(2))
        return list(order)

    def ours(self, precision, shape, tokens, threads, kernel=None):
        return (f"matmul/awq/{kernel or self.kernel()}/{precision}/{shape}/g128"
                f"/tokens:{tokens}/threads:{threads}")

    def best_peer(self, shape, tokens, threads, precision):
        """Name of the fastest line of another library in this precision, or None."""
        names = [n for n in self.products(shape=shape, tokens=tokens, threads=threads,
                                          precision=precision) if not n.startswith("matmul/awq/")]
        return max(names, key=self.median, default=None)

    def limit(self, what, threads):
        """The highest rate of limit/<what>...: for int8 and fp32 that of the best instruction."""
        column = "GB/s" if what == "read" else "GOP/s"
        values = [self.median(n, column) for n in self.names()
                  if n.startswith(f"limit/{what}") and n.endswith(f"threads:{threads}")]
        return max(values, default=None)


def library(name):
    return PRODUCT.match(name).group(1)


# ---- tables -------------------------------------------------------------------------------------

def number(value):
    if value is None:
        return ""
    return f"{value:.2f}" if value < 3 else f"{value:.1f}" if value < 30 else f"{value:.0f}"


def share(value):
    return "" if value is None else f"{100 * value:.0f} %"


def ratio(value):
    return "" if value is None else f"{value:.2f}x"


def spaced(shape):
    return shape.replace("x", " x ")


def counted(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


def token_heads():
    return [f"{t} token{'' if t == 1 else 's'}" for t in TOKENS]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def machine(results):
    names = [("cpu", "processor"), ("compiler", "compiler"), ("flags", "flags"),
             ("kernels", "fastest kernel set"), ("pages", "pages"), ("rotated", "weights rotated"),
             ("pinned to", "threads pinned to processors")]
    return table(["", ""], [[title, str(results.context.get(key, ""))] for key, title in names])


def limits(results):
    rows = []
    for name in results.names():
        if name.startswith("limit/") and name.endswith("threads:1"):
            other = name.replace("threads:1", "threads:2")
            column = "GB/s" if "limit/read" in name else "GOP/s"
            rates = [results.median(n, column) for n in (name, other)]
            rows.append([name.split("/threads")[0]]
                        + [f"{number(rate)} {column}" if rate else "" for rate in rates])
    return table(["limit", "1 thread", "2 threads"], rows)


def products(results):
    lines = []
    for shape in SHAPES:
        for threads in THREADS:
            rows = [product_row(results, shape, tokens, threads) for tokens in TOKENS]
            rows = [row for row in rows if any(row[1:])]
            if rows:
                lines += ["", f"**{spaced(shape)}, {counted(threads)}**", ""]
                lines += table(["tokens", "A8", "of limit", "A16", "of limit", "best int8 peer",
                                "A8 / it", "OpenBLAS fp32", "A16 / it"], rows)
    return lines[1:]


def product_row(results, shape, tokens, threads):
    a8, a16 = (results.ours(p, shape, tokens, threads) for p in ("a8", "a16"))
    peer = results.best_peer(shape, tokens, threads, "a8")
    blas = results.best_peer(shape, tokens, threads, "f32")
    return [str(tokens), number(results.median(a8)), share(results.median(a8, "of_limit")),
            number(results.median(a16)), share(results.median(a16, "of_limit")),
            f"{number(results.median(peer))} {TITLES[library(peer)]}" if peer else "",
            ratio(results.ratio(a8, peer)) if peer else "",
            number(results.median(blas)) if blas else "",
            ratio(results.ratio(a16, blas)) if blas else ""]


def kernel_sets(results):
    rows = []
    for kernel in results.kernels():
        for precision in ("a8", "a16"):
            rates = [results.median(results.ours(precision, SQUARE, tokens, 1, kernel))
                     for tokens in TOKENS]
            rows.append([f"{kernel}, {precision.upper()}"] + [number(rate) for rate in rates])
    return table([f"{spaced(SQUARE)}, 1 thread"] + token_heads(), rows)


def errors(results):
    rows = {}
    for name in results.products(shape=SQUARE, tokens=64, threads=1):
        lib, kernel, precision = PRODUCT.match(name).groups()[:3]
        rows[f"{TITLES.get(lib, lib)}, {kernel}, {precision.upper()}"] = [
            f"{results.median(name, column):.1e}" for column in ("rms_error", "max_error")]
    return table(["", "root mean square", "largest"], [[key] + row for key, row in rows.items()])


def small(results):
    rows = []
    for shape in SMALL:
        row = [spaced(shape)]
        for precision in ("a8", "a16"):
            name = results.ours(precision, shape, 1, 1)
            row += [number(results.median(name)), share(results.median(name, "of_slice"))]
        rows.append(row)
    return table(["1 token, 1 thread", "A8", "of the slice", "A16", "of the slice"], rows)


def before(results):
    rows = []
    for name in results.names():
        if re.match(r"(search|quantize_pack|stats|convert)/", name):
            copy = results.median(name, "of_copy") if name.startswith("convert/") else None
            rows.append([name, f"{number(results.median(name, 'real_time') / 1000)} ms",
                         share(copy)])
    return table(["line", "time", "speed of a copy"], rows)


def slower(results):
    """Every line of a peer that is faster than ours of the same shape, tokens and threads."""
    against = {"a8": "a8", "bf16": "a8", "f32": "a16"}
    found = []
    for name in results.products():
        lib, _, precision, shape, tokens, threads = PRODUCT.match(name).groups()
        mine = results.ours(against.get(precision, "a8"), shape, tokens, threads)
        value = results.ratio(mine, name)
        if lib != "awq" and value is not None and value < 1:
            found.append((TITLES.get(lib, lib), shape, int(threads), int(tokens), value))
    if not found:
        return ["None of the lines measured here."]
    rows = {}
    for lib, shape, threads, tokens, value in sorted(found, reverse=True):
        rows.setdefault((lib, shape, threads), {})[tokens] = ratio(value)   # the worst comes last
    return table(["ours / theirs, where below 1"] + token_heads(),
                 [[f"{lib}, {spaced(shape)}, {counted(threads)}"]
                  + [cells.get(t, "") for t in TOKENS]
                  for (lib, shape, threads), cells in sorted(rows.items())])


def skipped(results):
    reasons = sorted({f"{PRODUCT.match(name).group(1) if PRODUCT.match(name) else name}: {why}"
                      for name, why in results.skipped})
    return [f"Not measured: {reason}." for reason in reasons] or ["Everything was measured."]


TABLES = {"machine": machine, "limits": limits, "products": products, "kernel-sets": kernel_sets,
          "errors": errors, "small": small, "before": before, "slower": slower, "skipped": skipped}


def write_page(results):
    with open(PAGE) as file:
        text = file.read()
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: written by make bench-report -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            sys.exit(f"report.py: {PAGE} lacks the lines {begin} and {end}")
        head, rest = text.split(begin)
        text = head + begin + "\n" + "\n".join(make(results)) + "\n" + end + rest.split(end)[1]
    with open(PAGE, "w") as file:
        file.write(text)


def write_picture(results):
    def line(make_name):
        return [(t, results.median(make_name(t))) for t in TOKENS if results.median(make_name(t))]

    def peer_line(precision):
        return lambda t: results.best_peer(SQUARE, t, 1, precision) or ""

    bits = 1e9 * results.median(results.ours("a8", SQUARE, 1, 1), "GB/s") / (
        1e9 * results.median(results.ours("a8", SQUARE, 1, 1)) / 2)     # bytes of a weight
    with open(PICTURE, "w") as file:
        file.write(roofline.draw(
            title=f"{spaced(SQUARE)}, one thread: how far below the roof",
            subtitle=f"billions of operations per second; {results.context.get('cpu', '')},"
                     f" kernel set {results.kernel()}",
            by_bytes=2 * results.limit("read", 1) / bits, peak=results.limit("int8", 1),
            tokens=TOKENS,
            lines=[("a8", "awq.h, A8", line(lambda t: results.ours("a8", SQUARE, t, 1))),
                   ("a16", "awq.h, A16", line(lambda t: results.ours("a16", SQUARE, t, 1))),
                   ("peer", "best int8 peer", line(peer_line("a8"))),
                   ("fp32", "OpenBLAS fp32", line(peer_line("f32")))]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", help="the program awq_bench")
    parser.add_argument("--peers", help="a python that has the peers' packages")
    parser.add_argument("--results", required=True, help="folder of the JSON files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-write", action="store_true")
    options = parser.parse_args()
    if not options.only_write:
        if not options.bench:
            parser.error("--bench is needed to measure")
        measure(options)
    results = Results(options.results)
    write_page(results)
    write_picture(results)


if __name__ == "__main__":
    main()
