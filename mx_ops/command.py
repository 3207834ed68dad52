"""What the package's commands share: how they print, show progress, and end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


class CommandError(Exception):
    """What ends a command with one line and exit status 2."""


def run_command(name: str, body: Callable[[], int]) -> int:
    """The exit status of a command whose work is ``body``: its own, or that of what ended it."""
    try:
        try:
            return body()
        finally:
            with writing():  # argparse's help, too, which argparse lets fail without a word
                if sys.stdout is not None:
                    sys.stdout.flush()
    except CommandError as error:
        complain(name, str(error))
        status = 2
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        status = 1
    except OSError as error:  # the machine's, as where a GPU's kernels cannot be kept
        complain(name, one_line(error))
        status = 2
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # what it holds cannot be written on the way out either
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def complain(name: str, error: str) -> None:
    """Say on stderr what ended a command."""
    with contextlib.suppress(OSError):  # it may be on the same full disk as stdout
        print(escaped(f"{name}: {error}"), file=sys.stderr, flush=True)


def emit(*lines: str) -> None:
    """Print lines at once. Raises CommandError."""
    with writing():
        print("\n".join(map(escaped, lines)), flush=True)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns what goes wrong with stdout inside into a CommandError, but for a reader that left."""
    try:
        yield
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        what = ascii(error.object[error.start : error.end])
        raise CommandError(f"cannot print {what} in stdout's encoding, {error.encoding}: set PYTHONIOENCODING=utf-8") from error
    except OSError as error:
        raise CommandError(f"cannot write to stdout: {error.strerror or error}") from error


def escaped(line: str) -> str:
    """A line as a terminal may be sent it: names of tensors and files can hold line ends, and sequences that make terminals do things."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in line)


def one_line(error: BaseException) -> str:
    """What an exception says, cut to the sentence that tells the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    cause = next((line for line in lines if line.startswith("WeightsUnpickler error: ")), lines[0])
    if cause.endswith(":") and len(lines) > 1:
        cause += " " + lines[1]
    return f"{type(error).__name__}: {cause.split('. ')[0]}".rstrip(": ")


def terminal_bar(total: float, **options: Any) -> Any:
    """The bar of tqdm on stderr; None where stderr is no terminal, or without tqdm."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, leave=False, **options)


@contextlib.contextmanager
def progress(total: int, what: str, unit: str) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, to be told of every few units done; none where stderr is no terminal, or without tqdm."""
    bar = terminal_bar(total, desc=escaped(what), unit=f" {unit}", unit_scale=True)
    if bar is None:
        yield lambda done: None
        return
    with bar:
        yield bar.update
