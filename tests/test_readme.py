"""The examples of README.md and CONTRIBUTING.md run as printed, and their links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from mx_ops.kernels import cases

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", ".github/CONTRIBUTING.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_python_example_prints_what_its_comments_say(page: str) -> None:
    """Each ``python`` block runs on its own; what it prints is the block's trailing ``# `` comments, line by line."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec"), {"__name__": "example"})
        expected = [match.group(1) for match in re.finditer(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)]
        assert printed.getvalue().splitlines() == expected


def anchors(text: str) -> set[str]:
    """The anchors that headings have on GitHub: in lower case, hyphens for spaces, without punctuation."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_and_headings_lead_somewhere(page: str) -> None:
    """Every link that is no address of the web: a file of the repository, a heading of it, or a heading of the page itself."""
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", (ROOT / page).read_text())
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text()), link


def test_the_readme_is_one_page() -> None:
    """What is longer belongs where it is looked for: a docstring, or the guide to contributors."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 125


def test_the_guide_names_files_that_are_there() -> None:
    """Every path of the house and of the tests."""
    paths = re.findall(r"`((?:mx_ops|tests)/[\w./]*)`", (ROOT / ".github/CONTRIBUTING.md").read_text())
    assert len(paths) > 50
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_guide_has_the_table_of_cases() -> None:
    """As `python -m mx_ops.kernels` prints it, and every condition with what it means."""
    guide = (ROOT / ".github/CONTRIBUTING.md").read_text()
    assert cases.table() in guide
    assert all(f"- *{name}*: {meaning}" in guide for name, meaning in cases.FACTS.items())
    assert {fact for case in cases.CASES for fact in case.facts} <= cases.FACTS.keys()
