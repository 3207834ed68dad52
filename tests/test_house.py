"""The house is kept: imports point one way, and a contributor's checks are the gate's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mx_ops

ROOT = Path(__file__).parent.parent
PACKAGE = Path(mx_ops.__file__).parent
# A room may import those of lower floors, and what is on its own floor only if it is itself.
FLOORS = (
    ("formats", "config", "symbols", "threads", "command"),
    ("reference", "kernels"),
    ("library",),
    ("arguments",),
    ("seeds",),
    ("functional",),
    ("compat", "distributed"),
    ("report",),
    ("bench",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported(file: Path) -> set[str]:
    """The rooms of the package that a file imports by relative names, which are the only way here to import one."""
    inside = file.relative_to(PACKAGE).parent.parts
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            path = [*inside[: len(inside) + 1 - node.level], *(node.module or "").split(".")]
            names = [name for name in path if name] or [alias.name for alias in node.names]
            rooms |= {names[0]} if any(path) else set(names)
    return rooms


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(file: Path) -> None:
    """To lower floors, or within a room. The package's own names are for whoever comes last: the commands."""
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    above = {other for other in imported(file) if other != room and FLOOR[other] >= FLOOR[room]}
    assert not above, f"{file.name} of {room} imports {above}"
    if FLOOR[room] < FLOOR["report"]:
        assert "mx_ops" not in re.findall(r"^(?:import|from) (\w+)", file.read_text(), re.MULTILINE)


def test_pre_commit_and_the_hosted_ci_run_what_the_gate_runs() -> None:
    """The same linters with the same options; the workflow has no list of its own."""
    gate = (ROOT / ".ci" / "run").read_text()
    hooks = re.findall(r"^ +entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert hooks == re.findall(r'^step "(?:ruff|ruff format|types)" (.*)$', gate, re.MULTILINE) != []
    runs = re.findall(r"^ +-? ?run: (.*)$", (ROOT / ".github" / "workflows" / "ci.yml").read_text(), re.MULTILINE)
    assert runs == [".ci/run"]


def test_type_checkers_may_read_the_annotations() -> None:
    """The file that tells them so is there, and is packaged."""
    assert (PACKAGE / "py.typed").is_file()
    assert 'mx_ops = ["py.typed"]' in (ROOT / "pyproject.toml").read_text()


def test_files_and_kernels_are_short() -> None:
    """400 lines, and 25 of parameters."""
    files = {file: file.read_text() for file in PACKAGE.rglob("*.py")}
    assert [file.name for file, text in files.items() if text.count("\n") > 400] == []
    kernels = [match for text in files.values() for match in re.findall(r"^def (\w+_kernel)\((.*?)^\):", text, re.MULTILINE | re.DOTALL)]
    assert len(kernels) >= 4
    assert [name for name, parameters in kernels if parameters.count("\n") > 25] == []
