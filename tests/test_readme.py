"""The README's examples run as printed."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_every_python_example_in_the_readme_prints_what_its_comments_say() -> None:
    """Each ``python`` block runs on its own; what it prints is the block's trailing ``# `` comments, line by line."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(README), "exec"), {"__name__": "readme"})
        expected = [match.group(1) for match in re.finditer(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)]
        assert printed.getvalue().splitlines() == expected
