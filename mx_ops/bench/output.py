"""What leaves the command: lines on stdout, how far it is on stderr, and files. What cannot be written is said plainly."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from ..command import CommandError, terminal_bar

QUIET_SECONDS = 30  # that may pass between two lines on how far it is
BAR = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {desc}"


def replace_unknown_letters() -> None:
    """Print a ? for what the terminal's encoding lacks: in "µs", it should cost no table."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def check(path: Path) -> None:
    """Find out before minutes of measuring whether a file can be written. Raises CommandError."""
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise CommandError(f"cannot write {path}: it is a folder")
        if not folder.is_dir():
            raise CommandError(f"cannot write {path}: its folder does not exist")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise CommandError(f"cannot write {path}: that is not permitted")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error


def write(path: Path, content: bytes) -> None:
    """Write a file. Raises CommandError."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error


class Progress:
    """How far it is, on stderr: a bar on a terminal, if tqdm is installed, else lines."""

    def __init__(self, what: str, steps: float) -> None:
        self.steps, self.done = steps, 0.0
        self.started = self.said = time.monotonic()
        bar = terminal_bar(steps, bar_format=BAR, dynamic_ncols=True)
        # A terminal that tells no width would show nothing.
        self.bar = bar if bar is not None and (bar.ncols is None or bar.ncols > 0) else None
        self.tell(what)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, steps: float) -> None:
        """Some steps more."""
        self.done += steps
        if self.bar is not None:
            self.bar.update(steps)
        elif time.monotonic() - self.said >= QUIET_SECONDS:
            self.tell(f"  {min(1.0, self.done / self.steps):.0%} after {time.monotonic() - self.started:.0f} s")

    def tell(self, what: str) -> None:
        """What comes next."""
        if self.bar is not None:
            self.bar.set_description_str(what)
        elif sys.stderr is not None:
            self.said = time.monotonic()
            with contextlib.suppress(OSError):  # it may be on a full disk
                print(what, file=sys.stderr, flush=True)
