"""lesson.py - what AWQ does to one real layer: the table of `make demo` from Python, and a picture
of why it works. docs/python.md goes through it slowly.
"""
import argparse
import os
from math import floor, log10
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import awq

DATA = Path(__file__).resolve().parents[1] / "data" / "layer.bin"
METHODS = {"round to nearest": None, "AWQ max (paper)": awq.PRESET_PAPER,
           "AWQ mean (llm-awq)": awq.PRESET_LLM_AWQ, "AWQ duo (AutoAWQ)": awq.PRESET_AUTOAWQ}
GREY, ORANGE, BLUE = "0.6", "tab:orange", "tab:blue"
BATCH = 64                      # tokens that a runtime might have at hand at a time


def load_layer(path=DATA):
    """One linear with inputs recorded from its model; examples/data/README.md has the format."""
    _, out, cols, *tokens = np.fromfile(path, "<u4", 6)[1:].tolist()
    values = np.fromfile(path, "<f2", offset=24).astype(np.float32)
    weight, bias, x, heldout = np.split(values, np.cumsum([out * cols, out, tokens[0] * cols]))
    return SimpleNamespace(weight=weight.reshape(out, cols), bias=bias, x=x.reshape(-1, cols),
                           heldout=heldout.reshape(-1, cols))


def relative_error(y, exact, power):
    return float(np.square(y.astype(np.float64) - exact).sum() / power)


def study(layer, quant, threads):
    """Every method, without and with clipping: dicts of what is printed and drawn."""
    w, heldout = layer.weight, layer.heldout
    product = heldout.astype(np.float64) @ w.astype(np.float64).T
    exact, power = (product + layer.bias).astype(np.float32), np.square(product).sum()

    stats = awq.Stats(w.shape[1])
    for i in range(0, len(layer.x), BATCH):
        stats.add(layer.x[i:i + BATCH])
    known = awq.inputs(stats, rows=layer.x)
    size = awq.output_error(known, w)

    for name, preset in METHODS.items():
        found, scale = None, None
        if preset is not None:
            found = awq.search(known, [w], quant, preset, threads)
            scale = found.scale
        for clip_max in None, awq.clip(known, w, quant, scale, threads):
            linear = awq.Linear.quantize(w, quant, scale, clip_max)
            stored = linear.dequantize(scale)
            y = linear(heldout, input_scale=scale, bias=layer.bias)
            yield SimpleNamespace(
                name=name if clip_max is None else "  + clip", method=name,
                label=name if clip_max is None else name + " + clip", found=found,
                scale=scale, linear=linear, stored=stored,
                curve=found and found.curve / size,
                loss=awq.output_error(known, w, stored, threads) / size,
                error=relative_error(y, exact, power))


def print_table(rows):
    nearest = rows[0].error
    digits = max(0, 3 - floor(log10(100 * nearest + 1e-9)))
    print(f"  {'':20} {'':>6} {'calibration':>14} {'held-out':>11} {'against':>9} {'bits per':>10}")
    print(f"  {'method':20} {'ratio':>6} {'error':>14} {'error':>11} {'nearest':>9} {'weight':>10}")
    for row in rows:
        ratio, change = "", ""
        if row.found and row.name == row.method:
            ratio = "none" if row.found.is_identity else f"{row.found.ratio:.2f}"
        if row is not rows[0]:
            change = f"{100 * (row.error / nearest - 1):+.0f} %"
        bits = 8 * row.linear.data.size / row.stored.size
        print(f"  {row.name:20} {ratio:>6} {100 * row.loss:12.{digits}f} % "
              f"{100 * row.error:9.{digits}f} % {change:>9} {bits:10.3f}")


def channel_errors(layer, row):
    """What the rounding of each channel's weights adds to the error of y, in percent."""
    weight_error = np.square(row.stored - layer.weight).sum(axis=0)
    power = np.square(layer.x @ layer.weight.T).sum(axis=1).mean()
    return 100 * np.square(layer.x).mean(axis=0) * weight_error / power


def draw_channels(axes, size, salient):
    axes.vlines(np.arange(size.size), 0, size, color=GREY, linewidth=0.4)
    axes.vlines(salient, 0, size[salient], color=ORANGE, linewidth=1.2,
                label=f"salient: the {salient.size} largest, 1 %")
    axes.set(title="1  A few inputs are much larger than the rest", xlabel="input channel",
             ylabel="root mean square of x", xlim=(0, size.size), ylim=(0, None))


def draw_search(axes, rows):
    axes.axhline(100 * rows[0].loss, color=GREY, linestyle="--", label=rows[0].method)
    for row in rows[2::2]:
        ratio = np.arange(row.curve.size) / row.curve.size
        line, = axes.plot(ratio, 100 * row.curve, label=row.method)
        axes.plot(row.found.ratio, 100 * row.curve[row.found.index], "o", color=line.get_color())
    axes.set(title="2  Let s follow their size: how far?", xlabel="ratio: s = |x| ^ ratio",
             ylabel="error of y, %", ylim=(0, 250 * rows[0].loss))


def draw_errors(axes, layer, size, salient, rows, best):
    for row, color in ((rows[0], GREY), (best, BLUE)):
        error = channel_errors(layer, row)
        axes.plot(size, error, ".", color=color, markersize=2, alpha=0.6)
        axes.plot(size[salient], error[salient], "o", color=color, markersize=5,
                  label=f"{row.label}: {error.sum():.2f} %, salient {error[salient].sum():.2f} %")
    axes.set(title="3  Finer for the large, coarser for the small",
             xlabel="root mean square of the channel", ylabel="its part in the error of y, %",
             xscale="log", yscale="log")


def draw(layer, rows, best, path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    size = np.sqrt(np.square(layer.x).mean(axis=0))
    salient = np.argsort(-size)[:size.size // 100]
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    draw_channels(axes[0], size, salient)
    draw_search(axes[1], rows)
    draw_errors(axes[2], layer, size, salient, rows, best)
    for each in axes:
        each.legend(frameon=False, fontsize=8)
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def write_whole(path, data):
    """All of it or nothing: under another name, then renamed."""
    partial = f"{path}.part"
    Path(partial).write_bytes(data)
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4, help="bits per weight: 2, 3, 4 or 8")
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale, or -1")
    parser.add_argument("--picture", metavar="FILE", help="PNG or SVG; needs matplotlib")
    parser.add_argument("--save", metavar="FILE", help="the best packed weights, followed by s")
    options = parser.parse_args()

    layer, quant = load_layer(), awq.Quant(options.bits, options.group)
    rows = list(study(layer, quant, awq.Threads()))
    best = min(rows[1::2], key=lambda row: row.loss)
    print_table(rows)
    if options.save:
        write_whole(options.save, best.linear.data.tobytes()
                    + (b"" if best.scale is None else best.scale.astype("<f4").tobytes()))
    if options.picture:
        draw(layer, rows, best, options.picture)
        print(f"\nwrote {options.picture}")


if __name__ == "__main__":
    try:
        main()
    except (awq.Error, ImportError, OSError) as error:
        raise SystemExit(f"lesson: {error}")
