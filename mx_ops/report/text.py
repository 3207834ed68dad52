"""A report as lines of text, and what the commands share to make such lines."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from ..formats import FORMATS, Format
from .checkpoints import CONVERTED
from .checks import Check
from .figures import COMBINATIONS, Figures, Report

SHOWN = 10  # differences printed a check, and names a note; --json has them all
WIDTH = 100  # characters of names a note
COLUMNS = ("format", "scale mode", "bits/value", "SQNR dB", "largest error", "clipped %")
NUMBERS = COLUMNS[2:]


def describe(report: Report, by_tensor: bool) -> list[str]:
    """A report as lines."""
    tensors = report.tensors
    if not tensors:
        return [f"{report.name}: no floating-point tensors", *notes(report)]
    values = sum(tensor.shape.numel() for tensor in tensors)
    table = [list(COLUMNS)]
    table += [row(*combination, figures) for combination, figures in zip(COMBINATIONS, report.totals)]
    if by_tensor:
        table[0].append("tensor")
        for cells in table[1:]:
            cells.append("(all)")
        for tensor in tensors:
            table += [[*row(*combination, figures), tensor.name] for combination, figures in zip(COMBINATIONS, tensor.figures)]
    heading = f"{report.name}: {count(len(tensors), 'tensor')}, {count(values, 'value')}"
    return [heading, *notes(report), *(f"  {line}" for line in align(table, NUMBERS))]


def notes(report: Report) -> list[str]:
    """What was not measured as it stands."""
    lines = []
    for reason in sorted({reason for _, reason in report.skipped}):
        names = [name for name, other in report.skipped if other == reason]
        lines.append(f"  skipped, {reason}: {shorten(names)}")
    for dtype in CONVERTED:
        names = [tensor.name for tensor in report.tensors if tensor.dtype == dtype]
        if names:
            lines.append(f"  converted from {dtype} to torch.float32: {shorten(names)}")
    for fmt in FORMATS.values():
        names = [tensor.name for tensor in report.tensors if tensor.figures[0].values and (tensor.shape or [1])[-1] % fmt.codes_per_byte]
        if names:
            lines.append(f"  padded by a zero a row for {fmt.name}, which packs {fmt.codes_per_byte} values a byte: {shorten(names)}")
    not_finite = [tensor for tensor in report.tensors if tensor.not_finite]
    if not_finite:
        found = count(sum(tensor.not_finite for tensor in not_finite), "value")
        names = [tensor.name for tensor in not_finite]
        lines.append(f"  {found} NaN or infinite, whose blocks are left out of the figures: {shorten(names)}")
    return lines


def count(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shorten(names: list[str]) -> str:
    """The first few names: as many as a line has room for."""
    shown = names[:SHOWN]
    while len(shown) > 1 and len(", ".join(shown)) > WIDTH:
        shown.pop()
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def row(fmt: Format, scale_mode: str | None, figures: Figures) -> list[str]:
    """The cells of a table's row."""
    sqnr = "exact" if figures.sqnr == math.inf else f"{figures.sqnr:.2f}"
    error = f"{figures.largest_error:#.4g}" if figures.measured else "nan"
    cells = [f"{figures.bits:.3f}", sqnr, error, f"{100 * figures.clipped_share:.3f}"]
    return [fmt.name, scale_mode or "-", *("-" if cell == "nan" else cell for cell in cells)]


def align(table: Iterable[Iterable[str]], numbers: Collection[str]) -> list[str]:
    """Lines with the columns below one another: words to the left, and to the right what stands below a header of ``numbers``."""
    columns = [list(column) for column in zip(*table)]
    for column in columns:
        width = max(map(len, column))
        column[:] = [cell.rjust(width) if column[0].strip() in numbers else cell.ljust(width) for cell in column]
    return ["  ".join(cells).rstrip() for cells in zip(*columns)]


def describe_check(check: Check) -> list[str]:
    """A check as lines: the verdict, then what differed."""
    verdicts = {
        "same bits": f"same bits as {check.against}",
        "differs": f"DIFFERS from {check.against}",
        "failed": "FAILED",
        "not run": "not run",
    }
    line = f"{check.name}: {verdicts[check.status]}"
    if check.status != "differs":
        return [f"{line}: {check.details[0]}" if check.details else line]
    more = len(check.details) - SHOWN
    return [line, *(f"  {detail}" for detail in check.details[:SHOWN]), *([f"  and {more} more"] if more > 0 else [])]
