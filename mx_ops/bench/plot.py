"""A picture of the table: shares of copy speed against size, a line an op, as SVG. It follows the reader's light or dark theme."""

from __future__ import annotations

import itertools
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 210, 64, 58  # margins: what is right of the lines has their names
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c6d31")  # Okabe and Ito's, told apart by all
DASHES = ("", "7 3", "2 3")  # for more lines than there are colors
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-size: 16px; font-weight: 600 } .small { font-size: 12px }
  .paper { fill: #ffffff } .grid { stroke: #d0d7de; stroke-width: 1 } .copy { stroke: #57606a; stroke-width: 1.5 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round } .dot { stroke: #ffffff; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .paper { fill: #0d1117 } .grid { stroke: #30363d } .copy { stroke: #8b949e } .dot { stroke: #0d1117 }
  }
"""

Series = dict[str, list[tuple[float, float]]]  # by name: megabytes moved, and the share of a copy, by ascending size


def draw(series: Series, title: str, subtitle: str) -> str:
    """The picture as a document."""
    sizes = [size for points in series.values() for size, _ in points]
    top = max([1.0, *(share for points in series.values() for _, share in points)])
    ceiling = math.ceil(top * 5 + 0.25) / 5  # a step of 0.2 with some room
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    high = max(high, low + 1)

    def x(size: float) -> float:
        return LEFT + (math.log2(size) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share / ceiling * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="28">{escape(title)}</text>',
        f'<text class="small" x="{LEFT}" y="47">{escape(subtitle)}</text>',
    ]
    for step in range(round(ceiling * 5) + 1):
        share = step / 5
        kind = "copy" if share == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text class="small" x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.1f}</text>')
    for power in range(low, high + 1, max(1, (high - low) // 8)):
        at = x(2.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="small" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{2.0**power:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="small" x="{middle}" y="{HEIGHT - 16}" text-anchor="middle">MB read and written</text>')
    parts.append(f'<text class="small" x="16" y="{TOP - 10}">share of a copy</text>')
    labels = spread([y(points[-1][1]) for points in series.values()])
    for index, ((name, points), label) in enumerate(zip(series.items(), labels)):
        color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
        path = " ".join(f"{x(size):.1f},{y(share):.1f}" for size, share in points)
        parts.append(f'<polyline class="line" stroke="{color}" stroke-dasharray="{dash}" points="{path}"/>')
        parts += [f'<circle class="dot" r="3.5" cx="{x(size):.1f}" cy="{y(share):.1f}" fill="{color}"/>' for size, share in points]
        end_x, end_y = x(points[-1][0]), y(points[-1][1])
        to_x = WIDTH - RIGHT + 14
        parts.append(f'<polyline class="grid" fill="none" points="{end_x + 5:.1f},{end_y:.1f} {to_x - 3},{label:.1f}"/>')
        parts.append(f'<circle r="4" cx="{to_x + 4}" cy="{label:.1f}" fill="{color}"/>')
        parts.append(f'<text class="small" x="{to_x + 14}" y="{label + 4:.1f}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def spread(heights: list[float], gap: float = 17) -> list[float]:
    """Where to put labels that want to be at these heights, none of them on another, and all on the paper."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    places = list(heights)
    for above, below in itertools.pairwise(order):
        places[below] = max(places[below], places[above] + gap)
    limit = HEIGHT - 12.0
    for index in reversed(order):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places
