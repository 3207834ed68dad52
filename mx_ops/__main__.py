"""``python -m mx_ops [FILE ...]``: what every format and scale mode does to a checkpoint, and whether all ways to run the ops agree."""

from __future__ import annotations

import argparse
import itertools
import json
import sys

import torch

from .command import emit, run_command
from .report.checkpoints import Source, make_sample, open_checkpoint
from .report.checks import check_fake_quant, check_ops
from .report.document import as_json
from .report.figures import survey
from .report.machine import describe_machine, pick_device
from .report.text import describe, describe_check

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


if __name__ == "__main__":
    sys.exit(main())
