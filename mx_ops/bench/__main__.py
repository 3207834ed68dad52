"""``python -m mx_ops.bench``: a table of every op's speed, as a share of a copy of the same bytes."""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..command import CommandError, emit, run_command
from ..formats import FORMATS
from ..report.machine import describe_machine, pick_device
from ..report.text import align, count
from . import costs, output, peers, plot
from .rows import OPS, Pools, Row, bytes_moved, default_rows, function, narrowed, sweep_rows
from .timing import Contender, Copies, cache_bytes, compare, last_level_cache, rate

COLUMNS = ("op", "by", "format", "mode", "dim", "shape", "dtype", "timed by", "µs", "GB/s", "of copy")
NUMBERS = ("µs", "GB/s", "of copy", "to bare launch", "seconds")
ROUNDS, QUICK_ROUNDS = 30, 7

HELP = """\
How fast the ops are on this machine, as a share of a copy within the device's memory that moves the same bytes in the same run.
"""

HELP_MORE = """\
Columns:
  by        "eager", "compiled" (torch.compile) or a peer: torchao, eager and compiled, or the formulas in ATen, compiled for a GPU
  shape     of the values; transposed or sliced ones are not contiguous
  timed by  "events" of the device, a "graph" of several calls replayed (CUDA; what moves less than 256 MB), or the host's "clock" (CPU)
  µs        median time of a call
  GB/s      each input read once and each output written once, over that time
  of copy   median time of the copy, over that time

Exit status: 0 all rows ran (peers may not), 1 some did not, 2 an argument is wrong.

Examples:
  python -m mx_ops.bench --quick
  python -m mx_ops.bench --peers --json bench.json --plot bench.svg
  python -m mx_ops.bench --op quantize --format mxfp4 --shape 4096x14336
"""


class Result(NamedTuple):
    """A row, and what was measured of it."""

    row: Row
    moved: int
    timed: str
    seconds: float | None
    copy_seconds: float
    failure: str

    @property
    def share(self) -> float | None:
        """Of the speed of a copy."""
        return self.copy_seconds / self.seconds if self.seconds else None


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    output.replace_unknown_letters()
    return run_command("mx_ops.bench", lambda: bench(parse(arguments)))


def bench(options: argparse.Namespace) -> int:
    """Do what is asked for; the exit status."""
    device = pick_device(options.device)
    check_files(options)
    if options.host or options.first_calls:
        return run_costs(device, options)
    return run(device, options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mx_ops.bench", description=HELP, epilog=HELP_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="default: the GPU if there is one, else the CPU")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: within a minute")
    parser.add_argument("--peers", action="store_true", help="torchao, if it is installed, and compiled ATen on the same tensors")
    parser.add_argument("--op", action="append", choices=OPS, help="only this op; may be repeated")
    parser.add_argument("--format", action="append", choices=list(FORMATS), help="only this format; may be repeated")
    parser.add_argument("--shape", type=parse_shape, metavar="ROWSxCOLUMNS", help="instead of the device's own")
    parser.add_argument("--rounds", type=positive, help=f"repetitions of each row (default: {ROUNDS}; {QUICK_ROUNDS} if quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="measure more sizes, and draw shares of a copy against size")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--host", action="store_true", help="instead: what a small eager call costs the host of a GPU, in µs")
    only.add_argument("--first-calls", action="store_true", help="instead: what first calls cost with all caches empty, in seconds")
    return parser.parse_args(arguments)


def parse_shape(text: str) -> tuple[int, int]:
    """ROWSxCOLUMNS."""
    rows, times, columns = text.partition("x")
    if not (times and rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 4096x14336")
    return int(rows), int(columns)


def positive(text: str) -> int:
    """A number of repetitions."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def check_files(options: argparse.Namespace) -> None:
    """Find out before minutes of measuring whether the results can be written. Raises CommandError."""
    for path in filter(None, (options.json, options.plot)):
        output.check(path)
    if options.plot and (options.host or options.first_calls):
        raise CommandError("--plot draws the table of speeds; leave out --host and --first-calls")
    if options.plot:
        plot.check(options.plot)


# The table.


def run(device: torch.device, options: argparse.Namespace) -> int:
    """Measure, print and write the table; the exit status."""
    rows = chosen(default_rows(device.type, options.quick, options.shape), options)
    if options.peers:
        rows += peers.peer_rows(rows, device.type, options.quick)
    sweep = chosen(sweep_rows(device.type, options.format or narrowed(FORMATS)[:1]), options) if options.plot else []
    rows = list(dict.fromkeys([*rows, *sweep]))
    if not rows:
        raise CommandError("nothing to measure: no row is of that op, format and shape")
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    header = describe(device, rounds, options)
    emit(first_line(header))
    results = measure_all(rows, device, rounds, header["hardware"])
    fastest = max(rate(result.moved, result.copy_seconds) for result in results)
    header["copy_gb_s"] = round(fastest, 1)
    copy = f"copy: {header['copy_gb_s']:.0f} GB/s read and written"
    emit(copy, header["method"], "", *align([COLUMNS, *map(cells, results)], NUMBERS), *failures(results))
    if options.json:
        output.write(options.json, as_document({**header, "rows": [*map(as_json, results)]}))
    if options.plot:
        lines = series(result for result in results if result.row in sweep)
        if not lines:
            raise CommandError(f"cannot draw {options.plot}: no row to draw was measured")
        subtitle = f"{header['hardware']}, {header['date']}"
        output.write(options.plot, plot.draw(lines, "mx_ops: speed as a share of a copy", subtitle, plot.ending(options.plot)))
    return int(any(result.failure for result in results if result.row.by in ("eager", "compiled")))


def chosen(rows: list[Row], options: argparse.Namespace) -> list[Row]:
    """Those of the ops and formats that are asked for."""
    return [row for row in rows if row.op in (options.op or OPS) and row.format in (options.format or FORMATS)]


def measure_all(rows: list[Row], device: torch.device, rounds: int, hardware: str) -> list[Result]:
    """Time all rows, group after group of those on the same tensors."""
    groups = [list(group) for _, group in itertools.groupby(sorted(rows, key=tensors_of), key=tensors_of)]
    results = []
    with output.Progress(f"{count(len(rows), 'row')}, {count(rounds, 'round')} each, on {hardware}", len(rows)) as progress:
        for number, group in enumerate(groups, 1):
            progress.tell(f"{number} of {len(groups)}: {count(len(group), 'row')} of {group[0].size} {group[0].dtype_name}")
            results += measure(group, device, rounds, progress)
    return sorted(results, key=lambda result: rows.index(result.row))


def tensors_of(row: Row) -> tuple:
    """What rows that take turns have in common: tensors of a shape, dtype and layout."""
    return (row.shape, str(row.dtype), row.layout)


def measure(rows: list[Row], device: torch.device, rounds: int, progress: Callable[[float], None]) -> list[Result]:
    """Time rows on the same tensors, and the copies that they are compared with."""
    cache = cache_bytes(device)
    pools, copies = Pools(device, cache), Copies(device, cache)
    moved = [bytes_moved(row) for row in rows]
    compared = [copies.of(size) for size in moved]
    copies.allocate()
    contenders = [contender(row, pools, size) for row, size in zip(rows, moved)]
    ahead = sorted(copies.made.values(), key=lambda copy: -copy.moved)
    steps = len(rows) / (len(rows) + len(ahead))
    compare([*ahead, *contenders], device, cache, rounds, lambda step: progress(step * steps))
    return [
        Result(row, size, one.timed, None if one.failure else one.median, copy.median, one.failure)
        for row, size, one, copy in zip(rows, moved, contenders, compared)
    ]


def contender(row: Row, pools: Pools, moved: int) -> Contender:
    """A row's call on tensors of its pool, in turn."""
    pool, call = pools.of(row), function(row)
    return Contender(lambda: call(*pool.take()), len(pool), moved)


def describe(device: torch.device, rounds: int, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, where and how."""
    cache = cache_bytes(device)
    if device.type == "cpu":
        names = [line.partition(":")[2].strip() for line in read_lines("/proc/cpuinfo") if line.startswith("model name")]
        capability = torch.backends.cpu.get_cpu_capability()
        model = names[0] if names else platform.processor() or platform.machine()
        hardware = f"{model} ({torch.get_num_threads()} threads, {capability}, {last_level_cache() >> 20} MB of cache)"
        timed = "the host's clock"
    else:
        hardware = f"{torch.get_device_module(device).get_device_name(device)} ({(cache // 2) >> 20} MB of L2)"
        timed = "the device's events, or CUDA graphs of several calls for what moves less than 256 MB"
    machine = describe_machine(device)
    return {
        "hardware": hardware,
        **{name: machine[name] for name in ("mx_ops", "torch", "triton", "device")},
        "torchao": peers.torchao_version() if options.peers else None,
        "date": datetime.date.today().isoformat(),
        "method": f"medians of {rounds} rounds by {timed}; in a round all rows on the same tensors take turns, and copies of the bytes"
        f" that each moves; random inputs; inputs and outputs rotate through more than {cache >> 20} MB each",
    }


def read_lines(path: str) -> list[str]:
    """The lines of a file; none if there is no such file."""
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def first_line(header: dict[str, Any]) -> str:
    """What was measured, where and when: known, and printed, before it is."""
    versions = ", ".join(f"{name} {header[name]}" for name in ("mx_ops", "torch", "triton", "torchao") if header[name])
    return f"{header['hardware']}; {versions}; {header['date']}"


def cells(result: Result) -> tuple[str, ...]:
    """The cells of a row of the table."""
    row = result.row
    what = (row.op, row.by, row.format, row.mode, "both" if row.dim is None else str(row.dim), row.size, row.dtype_name)
    if result.seconds is None:
        return (*what, "-", "-", "-", "-")
    return (*what, result.timed, f"{result.seconds * 1e6:.1f}", f"{rate(result.moved, result.seconds):.1f}", f"{result.share:.3f}")


def failures(results: list[Result]) -> list[str]:
    """Why rows are empty."""
    failed = [result for result in results if result.failure]
    return ["", "not run:"] * bool(failed) + [f"  {' '.join(cells(result)[:7])}: {result.failure[:120]}" for result in failed]


def as_json(result: Result) -> dict[str, Any]:
    """A row as JSON's types; null for what was not measured."""
    row = result.row
    return {
        "op": row.op,
        "by": row.by,
        "format": row.format,
        "mode": row.mode,
        "dim": row.dim,
        "shape": list(row.shape),
        "layout": row.layout,
        "dtype": row.dtype_name,
        "bytes": result.moved,
        "timed_by": result.timed,
        "us": result.seconds and result.seconds * 1e6,
        "gb_s": result.seconds and rate(result.moved, result.seconds),
        "copy_us": result.copy_seconds * 1e6,
        "share_of_copy": result.share,
        "failure": result.failure or None,
    }


def as_document(content: dict[str, Any]) -> bytes:
    """A JSON file."""
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def series(results: Iterable[Result]) -> plot.Series:
    """The plot's lines: what differs in size alone."""
    lines: plot.Series = {}
    for result in results:
        if result.share is not None:
            lines.setdefault(f"{result.row.op} {result.row.format}", []).append((result.moved / 1e6, result.share))
    return {name: sorted(points) for name, points in lines.items()}


# Costs of calls.


def run_costs(device: torch.device, options: argparse.Namespace) -> int:
    """Measure, print and write what calls cost besides their work; the exit status."""
    rounds = options.rounds or ROUNDS
    header = describe(device, rounds, options)
    found: list[Any]
    if options.host:
        costs.check_host(device)
        emit(first_line(header))
        header["method"] = (
            f"medians of {rounds} rounds, in which the ways to call an op take turns, of {costs.HOST_CALLS} calls each, launched and not"
            f" waited for; {costs.HOST_SHAPE[0]}x{costs.HOST_SHAPE[1]} bfloat16; a bare launch is kernel[grid](...) with the op's own"
            " arguments"
        )
        columns: tuple[str, ...] = ("op", "call", "µs", "to bare launch")
        with output.Progress(f"calls of {len(OPS)} ops, {count(rounds, 'round')} each, on {header['hardware']}", len(OPS)) as progress:
            found = list(costs.host_costs(device, rounds, progress))
        table = [(one.op, one.call, f"{one.us:.1f}", f"{one.ratio:.2f}") for one in found]
    else:
        emit(first_line(header))
        shape = "x".join(map(str, costs.FIRST_SHAPE))
        header["method"] = f"each in a new process with empty caches; {shape} bfloat16; imports of compilers included"
        columns = ("op", "format", "by", "seconds")
        with output.Progress(f"first calls of {len(OPS)} ops, eager and compiled, on {header['hardware']}", 2 * len(OPS)) as progress:
            found = list(costs.first_calls(device, progress))
        table = [(one.op, one.format, one.by, f"{one.seconds:.2f}") for one in found]
    emit(header["method"], "", *align([columns, *table], NUMBERS))
    if options.json:
        output.write(options.json, as_document({**header, "host" if options.host else "first_calls": [one._asdict() for one in found]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
