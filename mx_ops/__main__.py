"""``python -m mx_ops [FILE ...]``: what every format and scale mode does to a checkpoint, and whether all ways to run the ops agree."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
from typing import Any

import torch

import mx_ops

from . import library
from .checkpoints import CONVERTED, Source, make_sample, open_checkpoint
from .command import CommandError, emit, one_line, run_command
from .formats import FORMATS, Format
from .report import COMBINATIONS, Check, Figures, Report, check_fake_quant, check_ops, survey

SHOWN = 10  # differences printed a check, and names a note; --json has them all
WIDTH = 100  # characters of names a note
COLUMNS = ("format", "scale mode", "bits/value", "SQNR dB", "largest error", "clipped %")
NUMBERS = range(2, 6)

HELP = """\
Quantize the floating-point tensors of checkpoints, in blocks along their last dim, in every format and scale mode.
Without a FILE: those of a small transformer made on the spot. Then run the ops under torch.compile and torch.export.
"""

HELP_MORE = """\
Columns:
  bits/value     what is stored, codes and scales, for each value
  SQNR dB        10 log10(sum x^2 / sum (x - q)^2) over all values; "exact" if every value is kept (null in JSON)
  largest error  max |x - q|
  clipped %      share of values beyond the largest one that their block can hold

A format with one rule for its scales has no scale mode. One with a scale for the whole tensor has that of the tensor's finite values.
A NaN or an Inf turns its block into NaN: those blocks count for bits/value alone.

Exit status: 0 all bits agree, 1 some differ, 2 a file cannot be read, nothing can be printed, or an argument is wrong.

Example:
  python -m mx_ops model.safetensors --tensors
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""

    def body() -> int:
        options = parse(arguments)
        device = pick_device(options.device)
        return run([open_checkpoint(file) for file in options.files] or make_sample(), device, options)

    return run_command("mx_ops", body)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mx_ops", description=HELP, epilog=HELP_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="a checkpoint: .safetensors, or a folder of such, or .pt, .pth or .bin by torch.save"
    )
    parser.add_argument("--tensors", action="store_true", help="figures for each tensor too")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument("--device", help="where the ops run (default: the GPU if there is one, else the CPU)")
    return parser.parse_args(arguments)


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or this machine's GPU, or its CPU. Raises CommandError."""
    if name is None:
        name = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise CommandError(f"cannot use the device {name!r}: {one_line(error)}") from error
    return device


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions, and what runs the ops where."""
    try:
        import triton
    except ImportError:
        triton = None
    kernels = "ATen reference" if library.kernels_for(device.type) is None else "Triton kernels"
    if kernels == "Triton kernels" and os.environ.get("TRITON_INTERPRET") == "1":
        kernels += ", interpreted,"
    if device.type == "cpu":
        hardware = f"CPU ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
    else:
        hardware = f"{torch.get_device_module(device).get_device_name(device)} ({device})"
    return {
        "mx_ops": mx_ops.__version__,
        "torch": torch.__version__,
        "triton": triton and triton.__version__,
        "device": str(device),
        "backend": f"{kernels} on {hardware}",
    }


def run(sources: list[Source], device: torch.device, options: argparse.Namespace) -> int:
    """Do the job, and print as it goes; the exit status."""

    def say(*lines: str) -> None:
        if not options.json:
            emit(*lines)

    machine = describe_machine(device)
    say(f"mx_ops {machine['mx_ops']}, torch {machine['torch']}, triton {machine['triton'] or 'not installed'}")
    say(f"backend: {machine['backend']}")
    reports, checks = [], []
    while sources:  # none is kept, nor what it has in memory
        reports.append(survey(sources.pop(0), device))
        say("", *describe(reports[-1], options.tensors))
    say("")
    for check in itertools.chain([check_fake_quant(reports)], check_ops(device)):
        checks.append(check)
        say(*describe_check(check))
    ok = all(check.ok for check in checks)
    if options.json:
        files = [as_json(report, options.tensors) for report in reports]
        document = {**machine, "files": files, "checks": [check._asdict() for check in checks], "ok": ok}
        emit(*json.dumps(document, indent=2, allow_nan=False).splitlines())
    return 0 if ok else 1


# As text.


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
    return [f"{report.name}: {count(len(tensors), 'tensor')}, {count(values, 'value')}", *notes(report), *align(table)]


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


def align(table: list[list[str]]) -> list[str]:
    """Lines with the columns below one another: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for cells in table:
        padded = [cell.rjust(width) if column in NUMBERS else cell.ljust(width) for column, (cell, width) in enumerate(zip(cells, widths))]
        lines.append(("  " + "  ".join(padded)).rstrip())
    return lines


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


# As JSON.


def as_json(report: Report, by_tensor: bool) -> dict[str, Any]:
    """A report as JSON's types."""
    document = {
        "name": report.name,
        "tensors": len(report.tensors),
        "values": sum(tensor.shape.numel() for tensor in report.tensors),
        "not_finite": sum(tensor.not_finite for tensor in report.tensors),
        "skipped": [{"name": name, "reason": reason} for name, reason in report.skipped],
        "converted": {tensor.name: str(tensor.dtype) for tensor in report.tensors if tensor.dtype in CONVERTED},
        "rows": rows_as_json(report.totals),
    }
    if by_tensor:
        document["by_tensor"] = [
            {
                "name": tensor.name,
                "dtype": str(tensor.dtype),
                "shape": list(tensor.shape),
                "not_finite": tensor.not_finite,
                "rows": rows_as_json(tensor.figures),
            }
            for tensor in report.tensors
        ]
    return document


def rows_as_json(figures: list[Figures]) -> list[dict[str, Any]]:
    """A table's rows; null for a number that is none."""
    return [
        {
            "format": fmt.name,
            "scale_mode": scale_mode,
            "bits_per_value": finite_or_none(sums.bits),
            "sqnr_db": finite_or_none(sums.sqnr),
            "largest_error": finite_or_none(sums.largest_error if sums.measured else math.nan),
            "clipped": finite_or_none(sums.clipped_share),
        }
        for (fmt, scale_mode), sums in zip(COMBINATIONS, figures)
    ]


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
