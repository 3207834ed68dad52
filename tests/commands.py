"""How the tests run ``python -m mx_ops``."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from mx_ops import __main__ as command

ROOT = Path(__file__).parent.parent


def call(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command.main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def spawn(*arguments: object, **variables: str) -> tuple[int, str, str]:
    """The command in a process of its own, with environment variables set."""
    result = subprocess.run(
        [sys.executable, "-m", "mx_ops", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=500,
    )
    return result.returncode, result.stdout, result.stderr
