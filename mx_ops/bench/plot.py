"""A picture of the table, by matplotlib: shares of copy speed against size, a line an op."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..command import CommandError, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c6d31"]  # Okabe and Ito's, told apart by all
DASHES = ["-", "--", ":", "-."]  # for more lines than there are colors
INK, GREY, PALE = "#24292f", "#57606a", "#d0d7de"
COPY = "a copy"
STYLE = {
    "svg.fonttype": "none",  # text as text: small files, and the reader's font
    "svg.hashsalt": "mx_ops",  # the same figures give the same file
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.markersize": 5,
    "lines.markeredgecolor": "white",
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.12,
    "figure.constrained_layout.w_pad": 0.12,
    "savefig.dpi": 150,
}

Series = dict[str, list[tuple[float, float]]]  # by name: megabytes moved, and the share of a copy, by ascending size


def check(path: Path) -> None:
    """Find out before minutes of measuring whether a picture can be drawn for a file of this name. Raises CommandError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise CommandError(f"--plot needs matplotlib ({error}): pip install 'mx_ops[bench]'") from None
    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if ending(path) not in known:
        raise CommandError(f"cannot draw {path}: matplotlib writes none but .{', .'.join(known)}")
    try:
        draw({"line": [(1, 1)]}, "title", "subtitle", ending(path))  # some endings need what may not be there, as .pgf a LaTeX
    except Exception as error:
        raise CommandError(f"cannot draw {path}: {one_line(error)}") from error


def ending(path: Path) -> str:
    """Of a file's name, as matplotlib has it."""
    return path.suffix.lower().removeprefix(".")


def draw(series: Series, title: str, subtitle: str, ending: str) -> bytes:
    """The picture as a file with this ending."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        file = io.BytesIO()
        figure(series, title, subtitle).savefig(file, format=ending, metadata={"Date": None} if ending in ("svg", "svgz") else None)
    return file.getvalue()


def figure(series: Series, title: str, subtitle: str) -> Figure:
    """The picture: lines, and beside them their names in the order in which they end."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    picture = Figure(figsize=(8.6, max(4.3, 1.5 + 0.2 * len(series))), layout="constrained")
    axes = picture.subplots()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=26)
    axes.annotate(subtitle, (0, 1), (0, 11), xycoords="axes fraction", textcoords="offset points", color=GREY, in_layout=False)
    axes.set_xlabel("MB read and written")
    axes.set_ylabel("share of the speed of a copy")
    axes.set_prop_cycle(linestyle=[dash for dash in DASHES for _ in COLORS], color=COLORS * len(DASHES))
    lines = {COPY: axes.axhline(1, color=GREY, linestyle="-", linewidth=1.2, label=COPY)}
    for name, points in series.items():
        lines[name] = axes.plot(*zip(*points), marker="o", label=name)[0]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(2, numticks=16))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.1 * max([1.0, *(share for points in series.values() for _, share in points)]))
    ends = {COPY: 1.0, **{name: points[-1][1] for name, points in series.items()}}
    names = sorted(ends, key=ends.__getitem__, reverse=True)
    axes.legend(handles=[lines[name] for name in names], loc="upper left", bbox_to_anchor=(1, 1))
    return picture
