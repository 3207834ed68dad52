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
    """Run the work of a command; its exit status is the body's, or says what ended it."""
    try:
        try:
            return body()
        finally:
            with writing():  # the help too, for argparse says nothing where it cannot write
                if sys.stdout is not None:
                    sys.stdout.flush()
    except CommandError as error:
        complain(name, str(error))
        status = 2
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        status = 1
    except OSError as error:  # a limit of the machine: a GPU's compiled kernels cannot be stored, for one
        complain(name, one_line(error))
        status = 2
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # the interpreter would fail to write it as it exits
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
    """Turn a failure of stdout inside into a CommandError, unless the reader left."""
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
    """A line that is safe on a terminal: names of tensors and files can hold line ends, and sequences that control terminals."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in line)


def one_line(error: BaseException) -> str:
    """The sentence of an exception that tells the cause."""
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
    """A bar on stderr; what it gives is called with the units done. There is no bar without a terminal or without tqdm."""
    bar = terminal_bar(total, desc=escaped(what), unit=f" {unit}", unit_scale=True)
    if bar is None:
        yield lambda done: None
        return
    with bar:
        yield bar.update
