"""The rows of `mutations.py` are of the package as it is, and name tests that are there; `python -m tests.mutate` tries them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutate import ROOT, main, mutated
from tests.mutations import MODES, MUTATIONS, Mutation


def test_every_row_changes_its_file() -> None:
    """What it replaces is there, once; what comes of it is still Python; no row is there twice."""
    for row in MUTATIONS:
        text = (ROOT / row.file).read_text()
        changed = mutated(row, text)
        assert changed != text
        ast.parse(changed)
        assert row.mode in MODES
    assert len({(row.file, row.after, row.old, row.new, row.mode) for row in MUTATIONS}) == len(MUTATIONS) > 120


def test_every_row_names_tests_that_are_there() -> None:
    """By file, and by function where it names one."""
    for row in MUTATIONS:
        for test in row.tests.split():
            file, _, function = test.partition("::")
            text = Path(__file__).with_name(file).read_text()
            assert not function or f"def {function.partition('[')[0]}(" in text, row


@pytest.mark.parametrize(
    ("old", "after", "said"),
    [("gone", "", "0 times"), ("a", "", "2 times"), ("a", "gone", "0 times"), ("b", "a", "2 times"), ("a = 1", "b", "0 times")],
)
def test_a_row_whose_text_is_gone_is_named(old: str, after: str, said: str) -> None:
    """Nothing is tried then: a row that changes nothing, or another place, would say nothing."""
    row = Mutation("some/file.py", old, "c", "test_x.py", "a promise", after=after)
    with pytest.raises(LookupError, match=rf"(?s)^some/file.py: a promise.*is {said} in the file, not once"):
        mutated(row, "a = 1\nb = a\n")


def test_a_row_may_stand_after_a_text() -> None:
    """The first of several places behind it is changed."""
    row = Mutation("some/file.py", "a", "c", "test_x.py", "a promise", after="b")
    assert mutated(row, "a = 1\nb = a\nd = a\n") == "a = 1\nb = c\nd = a\n"


def test_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a pattern; the GPU's apart."""
    assert main(["--list", "--only", r"launch\.py"]) == 0
    *rows, count = capsys.readouterr().out.splitlines()
    assert count == f"{len(rows)} rows"
    assert len(rows) >= 8
    assert all(re.match(r"mx_ops/kernels/launch.py: .* \[cpu: test_launches.py::", row) for row in rows)
    assert main(["--list", "--gpu"]) == 0
    *rows, _ = capsys.readouterr().out.splitlines()
    assert rows
    assert all("[gpu: " in row for row in rows)


def test_a_survivor_is_told_from_one_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a package of one line: killed, survived, and tests that fail of no mutation or that run nowhere; the status says so."""
    for name, text in {
        "mx_ops/number.py": "ONE, TWO = 1, 2\n",
        "tests/test_number.py": "from mx_ops.number import ONE\ndef test_one(): assert ONE == 1\ndef test_two(): assert ONE == 2\n",
        "tests/test_skipped.py": "import pytest\n\n\n@pytest.mark.skip\ndef test_one():\n    pass\n",
        "pyproject.toml": "",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr("tests.mutate.ROOT", tmp_path)

    def try_row(old: str, tests: str) -> tuple[int, list[str]]:
        row = Mutation("mx_ops/number.py", old, "7", tests, "a promise")
        monkeypatch.setattr("tests.mutate.MUTATIONS", (row,))
        return main([]), capsys.readouterr().out.splitlines()

    one, two, skipped = "test_number.py::test_one", "test_number.py::test_two", "test_skipped.py"
    assert try_row("1", one)[0] == 0
    assert try_row("2\n", one)[0] == 1
    status, said = try_row("1", two)
    assert (status, said[1], said[-1]) == (1, f"failed without a mutation: {two} (cpu)", "cpu: 1 mutations: 1 not tried")
    status, said = try_row("1", skipped)
    assert (status, said[1]) == (1, f"error without a mutation: {skipped} (cpu)")
    assert (tmp_path / "mx_ops" / "number.py").read_text() == "ONE, TWO = 1, 2\n"
