"""The picture that ``python -m mx_ops.bench --plot`` draws: the right points, and every word to be read, on any page."""

from __future__ import annotations

import io
import itertools
import re
import sys
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import pytest
import torch
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.image import imread
from matplotlib.text import Text
from test_bench import OPS, call

from mx_ops import FORMATS
from mx_ops.bench import __main__ as command
from mx_ops.bench import peers, plot, rows
from mx_ops.bench.rows import Row, bytes_moved, default_rows

SIZES = [2.0**power for power in range(1, 9)]
HARDWARE = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (104 threads, AVX512, 105 MB of cache), 2026-11-28"
QUICK = ("--device", "cpu", "--quick")


def lines(names: int) -> plot.Series:
    """As many lines as there may be, which end at the same height."""
    found = [f"{op} {name}" for name in FORMATS for op in OPS][:names]
    return {name: [(size * (1 + index / 9), 1 - index / size / 40) for size in SIZES] for index, name in enumerate(found)}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows that have been measured, in no time: a row's share of a copy tells it apart from others."""
    found: list[Row] = []

    def measure(group: list[Row], device: torch.device, rounds: int, progress: object) -> list[command.Result]:
        found.extend(group)
        return [command.Result(row, bytes_moved(row), "clock", 1.0, share(row), "") for row in group]

    monkeypatch.setattr(command, "measure", measure)
    return found


def share(row: Row) -> float:
    """A number for a row."""
    return 1 + zlib.crc32(repr(row).encode()) / 2**32


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[plot.Series]:
    """The lines that have been drawn."""
    found: list[plot.Series] = []
    draw = plot.draw

    def record(series: plot.Series, *others: str) -> bytes:
        found.append(series)
        return draw(series, *others)

    monkeypatch.setattr(plot, "draw", record)
    return found


def test_a_line_joins_what_differs_in_size_alone(
    tmp_path: Path, measured: list[Row], drawn: list[plot.Series], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An op's rows at the sweep's columns, by ascending size: none of other columns, modes, dims, layouts or dtypes."""
    monkeypatch.setattr(rows, "SWEEP", {"cpu": rows.SWEEP_ON_GPUS})
    monkeypatch.setattr(command, "default_rows", lambda *others: default_rows("cuda"))
    assert call(*QUICK, "--plot", tmp_path / "bench.svg")[0] == 0
    assert any(row.shape[1] == rows.LARGE_ON_GPUS[1] - 1 for row in measured)
    expected = {
        f"{op} mxfp4": [
            (bytes_moved(row) / 1e6, share(row))
            for count in rows.SWEEP_ON_GPUS
            for row in [Row(op, "mxfp4", (count, rows.SWEEP_COLUMNS), dim=None if op == "quantize_both" else -1)]
        ]
        for op in OPS
    }
    assert drawn[-1] == expected


def test_ops_and_formats_that_are_asked_for_are_drawn(tmp_path: Path, measured: list[Row], drawn: list[plot.Series]) -> None:
    """The first format stands for all where none is."""
    file = tmp_path / "bench.png"
    assert call(*QUICK, "--plot", file)[0] == 0
    assert list(drawn[-1]) == [f"{op} mxfp4" for op in OPS]
    assert call(*QUICK, "--plot", file, "--op", "quantize", "--format", "nvfp4", "--format", "mxint8")[0] == 0
    assert list(drawn[-1]) == ["quantize nvfp4", "quantize mxint8"]


def test_peers_are_measured_where_they_are_without_a_plot(tmp_path: Path, measured: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep, which has larger tensors on CPU, draws none of them."""
    monkeypatch.setattr(peers, "torchao_version", lambda: "0.1")
    monkeypatch.setattr(peers, "torchao_element", lambda fmt: fmt.dtype)
    found = []
    for arguments in ((), ("--plot", tmp_path / "bench.svg")):
        measured.clear()
        assert call(*QUICK, "--peers", *arguments)[0] == 0
        found.append({row for row in measured if row.by == "torchao"})
    assert found[0] == found[1]
    assert {row.shape for row in found[0]} == {rows.LARGE["cpu"]}


@pytest.mark.parametrize("names", [1, 4, len(OPS) * len(FORMATS)])
def test_no_word_lies_on_another(names: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor beyond the paper: title, hardware, axes, their numbers, and the names of lines."""
    words: list[Text] = []
    monkeypatch.setattr(RendererAgg, "draw_text", lambda *others, mtext, **more: words.append(mtext))
    with style.context(["default", plot.STYLE]):
        picture = plot.figure(lines(names), "mx_ops: speed as a share of a copy", HARDWARE)
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        boxes = {word.get_text(): word.get_window_extent(canvas.get_renderer()) for word in words}
    (axes,) = picture.axes
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())  # where the lines are
    assert {*lines(names), plot.COPY, HARDWARE, "MB read and written", "1.0", "64"} <= set(boxes)
    assert len(boxes) == len(words)
    paper = picture.bbox
    for word, box in boxes.items():
        assert paper.x0 <= box.x0 < box.x1 <= paper.x1, word
        assert paper.y0 <= box.y0 < box.y1 <= paper.y1, word
    for (one, here), (other, there) in itertools.combinations(boxes.items(), 2):
        assert not here.overlaps(there), (one, other)


def test_points_lie_where_their_numbers_are() -> None:
    """On axes of powers of two and from zero; a copy at 1; no two lines look alike; names in the order in which lines end."""
    series = lines(len(OPS) * len(FORMATS))
    (axes,) = plot.figure(series, "title", "subtitle").axes
    copy, *others = axes.lines
    assert (axes.get_xscale(), axes.xaxis.get_transform().base) == ("log", 2)
    assert axes.get_ylim()[0] == 0
    assert set(copy.get_ydata()) == {1}
    assert [line.get_label() for line in others] == list(series)
    for line, points in zip(others, series.values()):
        assert [tuple(point) for point in line.get_xydata()] == points
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(series) + 1
    (axes,) = plot.figure({"slow": [(1, 0.9), (2, 0.2)], "fast": [(1, 0.1), (2, 1.2)]}, "title", "subtitle").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["fast", plot.COPY, "slow"]


def test_an_svg_is_small_the_same_every_time_and_has_its_words_as_text() -> None:
    """Whatever the user's own settings of matplotlib are."""
    picture = plot.draw(lines(4), "title <&>", "subtitle", "svg")
    with style.context("dark_background"):
        assert plot.draw(lines(4), "title <&>", "subtitle", "svg") == picture
    assert len(picture) < 25_000
    assert not re.search(rb"<dc:date>|\d\d\d\d-\d\d-\d\d", picture)
    words = [element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"title <&>", "subtitle", *lines(4)} <= set(words)
    assert b"sans-serif" in picture


def test_the_paper_is_opaque() -> None:
    """Dark words are to be read on dark pages, too."""
    pixels = imread(io.BytesIO(plot.draw(lines(4), "title", "subtitle", "png")))
    assert pixels.shape[2] == 3 or pixels[:, :, 3].min() == 1
    assert pixels[0, 0, :3].min() == pixels[-1, -1, :3].min() == 1
    background = plot.draw(lines(4), "title", "subtitle", "svg").partition(b'<g id="patch_1">')[2]
    assert b"fill: #ffffff" in background.partition(b"</g>")[0]


def test_endings_are_those_that_matplotlib_writes_in_either_case(tmp_path: Path, measured: list[Row], drawn: list[plot.Series]) -> None:
    """And files are what their endings say."""
    for name, start in (("a.svg", b"<?xml"), ("b.PNG", b"\x89PNG"), ("c.pdf", b"%PDF"), ("d.svgz", b"\x1f\x8b")):
        assert call(*QUICK, "--op", "quantize", "--plot", tmp_path / name)[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)


def test_what_cannot_be_drawn_is_said_before_anything_is_measured(measured: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with exit status 2: what an ending needs beside matplotlib, and matplotlib."""

    def draw(*arguments: object) -> bytes:
        raise RuntimeError("'xelatex' not found; install it")

    monkeypatch.setattr(plot, "draw", draw)
    assert call(*QUICK, "--plot", "x.pgf") == (2, "", "mx_ops.bench: cannot draw x.pgf: RuntimeError: 'xelatex' not found; install it\n")
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    status, out, err = call(*QUICK, "--plot", "x.svg")
    assert (status, out, err.count("\n"), measured) == (2, "", 1, [])
    assert err.startswith("mx_ops.bench: --plot needs matplotlib (")
    assert err.endswith("): pip install 'mx_ops[bench]'\n")


def test_a_plot_of_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every row of the sweep failed; in one line, after the table."""
    failed = lambda group, *others: [command.Result(row, 1, "clock", None, 1.0, "too large") for row in group]  # noqa: E731
    monkeypatch.setattr(command, "measure", failed)
    file = tmp_path / "bench.svg"
    status, out, err = call(*QUICK, "--plot", file)
    assert (status, file.exists()) == (2, False)
    assert "not run:" in out
    assert err.splitlines()[-1] == f"mx_ops.bench: cannot draw {file}: no row to draw was measured"
