"""A roofline as SVG, for light and dark pages; report.py draws with it."""
import math

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 560, 84, 356

STYLE = """
.panel { fill: #ffffff; } text { fill: #4b5563; } .title { fill: #111827; }
.grid { stroke: #e5e7eb; } .line { fill: none; stroke-width: 2.5; }
.roof { fill: none; stroke: #9ca3af; stroke-width: 2; } .half { stroke-dasharray: 5 4; }
.line.a8 { stroke: #0072b2; } .name.a8, .dot.a8 { fill: #0072b2; }
.line.a16 { stroke: #007a5a; } .name.a16, .dot.a16 { fill: #007a5a; }
.line.peer { stroke: #b8590b; } .name.peer, .dot.peer { fill: #b8590b; }
.line.fp32 { stroke: #6b7280; } .name.fp32, .dot.fp32 { fill: #6b7280; }
@media (prefers-color-scheme: dark) {
.panel { fill: #161b22; } text { fill: #9ca3af; } .title { fill: #f0f6fc; }
.grid { stroke: #30363d; } .roof { stroke: #6e7681; }
.line.a8 { stroke: #56b4e9; } .name.a8, .dot.a8 { fill: #56b4e9; }
.line.a16 { stroke: #3fc99a; } .name.a16, .dot.a16 { fill: #3fc99a; }
.line.peer { stroke: #f0a35e; } .name.peer, .dot.peer { fill: #f0a35e; }
.line.fp32 { stroke: #b1bac4; } .name.fp32, .dot.fp32 { fill: #b1bac4; }
}
"""


class Axes:
    """Both axes logarithmic: tokens to the right, billions of operations per second upwards."""

    def __init__(self, tokens, low, high):
        self.tokens, self.low, self.high = tokens, low, high

    def x(self, tokens):
        span = math.log(self.tokens[-1] / self.tokens[0])
        return LEFT + (RIGHT - LEFT) * math.log(tokens / self.tokens[0]) / span

    def y(self, rate):
        return BOTTOM - (BOTTOM - TOP) * math.log(rate / self.low) / math.log(self.high / self.low)

    def ticks(self):
        """1, 2, 5, 10, 20 ... between the ends."""
        steps = [m * 10 ** e for e in range(-3, 7) for m in (1, 2, 5)]
        return [step for step in steps if self.low <= step <= self.high]


def points(axes, values):
    return " ".join(f"{axes.x(t):.1f},{axes.y(rate):.1f}" for t, rate in values)


def grid(axes):
    parts = []
    for tick in axes.ticks():
        y = axes.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tokens in axes.tokens:
        x = axes.x(tokens)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{BOTTOM}"'
                     f' y2="{BOTTOM + 5}"/><text x="{x:.1f}" y="{BOTTOM + 22}"'
                     f' text-anchor="middle">{tokens}</text>')
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{BOTTOM + 48}" text-anchor="middle">tokens: how often a '
                 'weight that was read is used</text>')
    return parts


def roof(axes, by_bytes, peak, kind):
    """min(tokens * by_bytes, peak), with its corner."""
    corner = min(max(peak / by_bytes, axes.tokens[0]), axes.tokens[-1])
    tokens = sorted({axes.tokens[0], corner, axes.tokens[-1]})
    values = [(t, min(t * by_bytes, peak)) for t in tokens]
    return f'<polyline class="roof {kind}" points="{points(axes, values)}"/>'


def slope_label(axes, by_bytes, peak, text):
    """Along the rising part of the roof, above it."""
    ends = [(t, t * by_bytes) for t in (axes.tokens[0], max(peak / by_bytes, axes.tokens[0] * 2))]
    (x0, y0), (x1, y1) = [(axes.x(t), axes.y(rate)) for t, rate in ends]
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return (f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle"'
            f' transform="rotate({angle:.1f} {x:.1f} {y:.1f})">{text}</text>')


def spread(heights, least):
    """The same order of heights, no two closer than `least`."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    result = list(heights)
    for before, after in zip(order, order[1:]):
        result[after] = max(result[after], result[before] + least)
    return result


def draw(title, subtitle, by_bytes, peak, tokens, lines):
    """lines: (style, label, [(tokens, rate)]); by_bytes: the rate that reading allows one token"""
    lines = [line for line in lines if line[2]]
    rates = [rate for line in lines for _, rate in line[2]]
    axes = Axes(tokens, min(rates + [by_bytes]) / 1.3, max(rates + [peak]) * 1.25)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
             f' width="{WIDTH}" font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif"'
             ' font-size="13">', f"<style>{STYLE}</style>",
             f'<rect class="panel" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
             f'<text class="title" x="24" y="34" font-size="17" font-weight="bold">{title}</text>',
             f'<text x="24" y="56">{subtitle}</text>']
    parts += grid(axes)
    parts += [roof(axes, by_bytes, peak, ""), roof(axes, by_bytes, peak / 2, "half")]
    parts.append(slope_label(axes, by_bytes, peak, "weights read from memory"))
    labels = [("", "int8 peak", axes.y(peak)), ("", "half of it, for A16", axes.y(peak / 2))]
    for style, label, values in lines:
        parts.append(f'<polyline class="line {style}" points="{points(axes, values)}"/>')
        parts += [f'<circle class="dot {style}" cx="{axes.x(t):.1f}" cy="{axes.y(r):.1f}" r="3.5"/>'
                  for t, r in values]
        labels.append((style, label, axes.y(values[-1][1])))
    for (style, label, _), y in zip(labels, spread([label[2] for label in labels], 17)):
        parts.append(f'<text class="name {style}" x="{RIGHT + 14}" y="{y + 4:.1f}">{label}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"
