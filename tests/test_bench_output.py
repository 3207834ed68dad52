"""``python -m mx_ops.bench`` says how far it is, and plainly what it cannot write."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_bench import OPS, ROOT, call, table

from mx_ops.bench import __main__ as command
from mx_ops.bench import costs, output
from mx_ops.bench.rows import Row

QUICK = ("--device", "cpu", "--quick", "--shape", "64x128", "--format", "mxfp8_e4m3")


class Terminal(io.StringIO):
    """A stderr that someone watches."""

    def isatty(self) -> bool:
        """It is one."""
        return True


class Broken(io.StringIO):
    """An output that takes nothing."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def write(self, text: str) -> int:
        """Fails as a device does."""
        if text:
            raise OSError(self.code, os.strerror(self.code))
        return 0


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[Row]]:
    """The groups that have been measured, in no time."""
    groups: list[list[Row]] = []

    def measure(rows: list[Row], device: torch.device, rounds: int, progress: output.Progress) -> list[command.Result]:
        groups.append(rows)
        progress(len(rows))
        return [command.Result(row, 1, "clock", 1.0, 1.0, "") for row in rows]

    monkeypatch.setattr(command, "measure", measure)
    return groups


def test_a_redirected_run_says_what_it_measures_where_and_how_far_it_is(measured: list[list[Row]]) -> None:
    """On stderr, a line at the start and one a group: stdout has the table alone."""
    status, out, err = call("--device", "cpu", "--format", "mxfp8_e4m3", "--op", "quantize")
    assert status == 0
    hardware, _ = out.splitlines()[0].split("; mx_ops ")
    assert err.splitlines() == [
        f"6 rows, 30 rounds each, on {hardware}",
        "1 of 2: 4 rows of 2048x4096 bfloat16",
        "2 of 2: 2 rows of 2048x4096 float32",
    ]
    assert [len(group) for group in measured] == [4, 2]
    assert len(table(out)) == 6


def test_no_group_is_silent_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line follows another after 30 seconds at the latest, if anything was done meanwhile."""
    now = 1000.0
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: now))
    with contextlib.redirect_stderr(io.StringIO()) as err:
        progress = output.Progress("8 rows", 8)
        for seconds in (29, 1, 29, 1, 10, 50):
            now += seconds
            progress(1)
        progress.tell("the next group")
    assert err.getvalue().splitlines() == ["8 rows", "  25% after 30 s", "  50% after 60 s", "  75% after 120 s", "the next group"]


def test_a_terminal_shows_a_bar_and_then_the_table_alone(measured: list[list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    """By tqdm; on one line that is cleared at the end, however it ends."""
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command.main([*QUICK, "--op", "quantize"]) == 0
    assert len(table(out.getvalue())) == 1
    assert "0%|" in err.getvalue()
    assert "1 of 1: 1 row of 64x128 bfloat16" in err.getvalue()
    assert "\n" not in err.getvalue()
    assert err.getvalue().endswith(" \r")
    monkeypatch.setattr(costs, "first_calls", fail)
    with contextlib.redirect_stdout(io.StringIO()):
        assert command.main(["--device", "cpu", "--first-calls"]) == 2
    *_, bar, message = err.getvalue().split("\r")
    assert (bar.strip(), message) == ("", "mx_ops.bench: no such compiler\n")


def fail(*arguments: object) -> None:
    """Fails as a measurement does."""
    raise command.CommandError("no such compiler")


def test_a_terminal_without_tqdm_shows_lines(measured: list[list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    with contextlib.redirect_stdout(io.StringIO()):
        assert command.main([*QUICK, "--op", "quantize"]) == 0
    assert err.getvalue().splitlines()[1:] == ["1 of 1: 1 row of 64x128 bfloat16"]


def test_a_terminal_that_tells_no_width_shows_lines(measured: list[list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    """In no columns there is no bar."""
    shown, slave = os.openpty()
    with open(slave, "w") as terminal, contextlib.redirect_stdout(io.StringIO()):
        monkeypatch.setattr(sys, "stderr", terminal)
        assert command.main([*QUICK, "--op", "quantize"]) == 0
    text = b""
    with open(shown, "rb", buffering=0) as screen, contextlib.suppress(OSError):  # which is how a screen ends
        while piece := screen.read(1000):
            text += piece
    assert text.decode().endswith("1 of 1: 1 row of 64x128 bfloat16\r\n")


def test_without_stderr_the_table_is_the_same(measured: list[list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python has it where it is closed."""
    _, expected, _ = call(*QUICK)
    monkeypatch.setattr(sys, "stderr", None)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command.main([*QUICK]) == 0
    assert out.getvalue() == expected


def test_an_output_that_takes_nothing_is_said_before_anything_is_measured(measured: list[list[Row]]) -> None:
    """In one line, with exit status 2."""
    with contextlib.redirect_stdout(Broken(errno.ENOSPC)), contextlib.redirect_stderr(io.StringIO()) as err:
        assert command.main([*QUICK]) == 2
    assert (err.getvalue(), measured) == ("mx_ops.bench: cannot write to stdout: No space left on device\n", [])


def test_progress_that_cannot_be_shown_stops_nothing(measured: list[list[Row]]) -> None:
    """The table is what is wanted."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(Broken(errno.ENOSPC)):
        assert command.main([*QUICK]) == 0
    assert len(measured) == 1
    assert "of copy" in out.getvalue()


def test_a_reader_that_has_seen_enough_ends_it_silently() -> None:
    """As `head` does; exit status 1."""
    with contextlib.redirect_stdout(Broken(errno.EPIPE)), contextlib.redirect_stderr(io.StringIO()) as err:
        assert command.main([*QUICK]) == 1
    assert err.getvalue() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [QUICK, ("--help",)], ids=["table", "help"])
def test_a_process_on_a_full_device_ends_with_one_line(arguments: tuple[str, ...]) -> None:
    """Nothing is left in a buffer that the interpreter would stumble over on its way out."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mx_ops.bench", *arguments]
        result = subprocess.run(command, cwd=ROOT, env=variables, stdout=full, stderr=subprocess.PIPE, text=True, timeout=500, check=False)
    assert (result.returncode, result.stderr) == (2, "mx_ops.bench: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize("arguments", [QUICK, ("--help",)], ids=["table", "help"])
def test_letters_that_the_encoding_lacks_are_question_marks(
    arguments: tuple[str, ...], measured: list[list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal without a µ should cost no table."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            status = command.main([*arguments])
        except SystemExit as end:  # argparse's, after the help
            status = int(end.code or 0)
    assert status == 0
    assert b"?s" in sys.stdout.buffer.getvalue()


def test_files_that_cannot_be_written_are_said_before_anything_is_measured(
    measured: list[list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with exit status 2; a file that is there is as it was."""
    (there := tmp_path / "there.json").write_text("{}")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in (there, tmp_path / "new.json"):
        assert call(*QUICK, "--json", path) == (2, "", f"mx_ops.bench: cannot write {path}: that is not permitted\n")
    assert (measured, there.read_text(), len(list(tmp_path.iterdir()))) == ([], "{}", 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_after_the_table(measured: list[list[Row]]) -> None:
    """It costs the file, and nothing that was measured."""
    status, out, err = call(*QUICK, "--json", "/dev/full")
    assert (status, len(table(out))) == (2, len(OPS) + 1)
    assert err.splitlines()[2:] == ["mx_ops.bench: cannot write /dev/full: No space left on device"]
