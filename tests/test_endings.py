"""The command ``python -m mx_ops`` prints what terminals can be sent, and ends plainly."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, call, spawn
from safetensors.torch import save_file


def test_an_unknown_device_is_said() -> None:
    """In one line too."""
    for device in ("abacus", "meta"):
        status, out, err = call("--device", device)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"mx_ops: cannot use the device '{device}': ")


def test_a_process_ends_with_the_exit_status_of_the_command(tmp_path: Path) -> None:
    """And with its one line on stderr."""
    status, out, err = spawn(tmp_path / "absent.pt")
    assert (status, out, err) == (2, "", f"mx_ops: cannot read {tmp_path / 'absent.pt'}: no such file\n")


def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path: Path) -> None:
    """As `head` does."""
    torch.save(torch.ones(4), tmp_path / "x.pt")
    process = subprocess.Popen(
        [sys.executable, "-m", "mx_ops", tmp_path / "x.pt"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == ""
    assert process.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here is always full")
@pytest.mark.parametrize("arguments", [["x.pt"], ["--json", "x.pt"], ["--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_ends_with_one_line(arguments: list[str], unbuffered: str, tmp_path: Path) -> None:
    """Of the report, of the document and of the help; where stderr is as full, with the exit status alone."""
    torch.save([], tmp_path / "x.pt")
    if arguments == ["--help"] and unbuffered:
        pytest.skip("argparse keeps it to itself")
    if "--json" in arguments:  # is written last: nothing is to be compiled before
        run = "import sys, mx_ops.__main__ as m; m.check_ops = lambda device: iter(()); sys.exit(m.main())"
        command = [sys.executable, "-c", run]
    else:
        command = [sys.executable, "-m", "mx_ops"]
    arguments = [str(tmp_path / argument) if argument == "x.pt" else argument for argument in arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        result = subprocess.run([*command, *arguments], cwd=ROOT, env=env, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (result.returncode, result.stderr) == (2, "mx_ops: cannot write to stdout: No space left on device\n")
        result = subprocess.run([*command, *arguments], cwd=ROOT, env=env, stdout=full, stderr=full)
        assert result.returncode == 2


def test_a_name_that_the_encoding_of_stdout_does_not_have_ends_with_one_line(tmp_path: Path) -> None:
    """In text; a JSON document is ASCII."""
    save_file({"größe": torch.ones(64)}, tmp_path / "x.safetensors")
    status, _, err = spawn("--tensors", tmp_path / "x.safetensors", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (status, err) == (2, "mx_ops: cannot print '\\xf6\\xdf' in stdout's encoding, ascii: set PYTHONIOENCODING=utf-8\n")


def test_names_are_shown_with_their_control_characters_escaped(tmp_path: Path, no_checks: None) -> None:
    """Of tensors and of files, in tables, notes and errors: none can clear a screen, start a line, or turn the text around."""
    name, shown = "w\x1b[2J\n\x9b1m\u202eö", "w\\x1b[2J\\n\\x9b1m\\u202eö"
    torch.save({name: torch.ones(3), "i" + name: torch.arange(2)}, tmp_path / "x\x1b[2J.pt")
    status, out, err = call("--tensors", tmp_path / "x\x1b[2J.pt")
    assert (status, err) == (0, "")
    assert all(character.isprintable() for line in out.split("\n") for character in line)
    assert f"{tmp_path}/x\\x1b[2J.pt: 1 tensor, 3 values\n  skipped, torch.int64: i{shown}\n" in out
    assert f"  padded by a zero a row for mxfp4, which packs 2 values a byte: {shown}\n" in out
    assert f"0.000  {shown}\n" in out
    assert call(tmp_path / "no\x1b[2J.pt") == (2, "", f"mx_ops: cannot read {tmp_path}/no\\x1b[2J.pt: no such file\n")


def test_without_numpy_nothing_is_said_of_it(tmp_path: Path) -> None:
    """The command needs none. Other warnings are shown, and so is this one where the package is imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys, warnings\nsys.modules['numpy'] = None\natexit.register(warnings.warn, 'another', UserWarning)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    status, _, err = spawn(tmp_path / "x.pt", PYTHONPATH=path)
    said, *others = err.splitlines()
    assert (status, said) == (2, f"mx_ops: cannot read {tmp_path / 'x.pt'}: no such file")
    assert len(others) == 1
    assert "UserWarning: another" in others[0]
    env = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run([sys.executable, "-c", "import mx_ops"], env=env, capture_output=True, text=True, check=True)
    assert "Failed to initialize NumPy" in result.stderr


class Terminal(io.StringIO):
    """What a bar is drawn on."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_a_bar_is_drawn_on_a_terminal_alone(tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By tqdm, where it is installed; it reaches its end and is then gone. What is printed is the same with and without."""
    torch.save({"a": torch.ones(3, 1000), "b": torch.ones(1000), "ids": torch.arange(9)}, tmp_path / "x.pt")
    plain = call(tmp_path / "x.pt")
    assert plain[0] == 0
    assert plain[2] == ""
    from mx_ops.__main__ import main

    for installed in (True, False):
        if not installed:
            monkeypatch.setitem(sys.modules, "tqdm", None)
        out, err = io.StringIO(), Terminal()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert main([str(tmp_path / "x.pt")]) == 0
        assert out.getvalue() == plain[1]
        drawn = err.getvalue()
        assert ("0.00/4.00k" in drawn and drawn.endswith("\r")) if installed else drawn == ""
