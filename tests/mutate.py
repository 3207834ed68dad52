"""Whether tests would notice: ``python -m tests.mutate`` breaks the package in one place at a time, and runs the tests that should see it.

Each row of `mutations.py` is a change of one line, and the test that fails of it. A row is tried in a copy of the checkout: the files
here stay as they are. First its tests run there unchanged: what fails anyway would kill every mutation. ``--list`` names the rows,
``--only`` takes those in which a pattern is found, ``--gpu`` those that only a GPU kills, which are left out otherwise. Status 1 says that
one survived, or could not be tried.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations import MODES, MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
COPIED = ("mx_ops", "tests", "pyproject.toml")
SECONDS = 600  # that the tests of a row may take; alone on two cores most take ten


def mutated(row: Mutation, text: str) -> str:
    """A file's text with the row's change. Raises LookupError where what it replaces is gone, or is there twice."""
    if row.after and text.count(row.after) != 1:
        raise LookupError(f"{row}\n  what it stands after is {text.count(row.after)} times in the file, not once: {row.after!r}")
    before, after = text[: text.index(row.after)], text[text.index(row.after) :]
    if row.old not in after or (not row.after and after.count(row.old) != 1):
        raise LookupError(f"{row}\n  what it replaces is {after.count(row.old)} times in the file, not once: {row.old!r}")
    return before + after.replace(row.old, row.new, 1)


def copy_checkout(folder: Path) -> None:
    """What tests need of the checkout, without what they leave in it."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(ROOT / name, folder / name)


def run_tests(folder: Path, tests: str, mode: str) -> tuple[str, str]:
    """What tests say of the package in a folder ("passed", "failed", "timeout" or "error"), and their output."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        # Caches of their own: a mutation of a cache's key is to spoil no other's.
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }
    if mode == "interpreted":
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests.split())]
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests start
                process.wait()
    said = (folder / "output").read_text()
    ran = re.search(r"^[.sxF]*[.F]", said, re.M)  # or all were skipped
    return {None: "timeout", 0: "passed" if ran else "error", 1: "failed"}.get(status, "error"), said


def try_tests(tests: str, mode: str, row: Mutation | None = None) -> tuple[str, str, float]:
    """`run_tests` in a copy, with a row's change or with none, and the seconds it took."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        copy_checkout(Path(name))
        if row is not None:
            file = Path(name, row.file)
            file.write_text(mutated(row, file.read_text()))
        result, said = run_tests(Path(name), tests, mode)
    return result, said, time.monotonic() - start


def main(arguments: list[str] | None = None) -> int:
    """Try the rows that are asked for; the status to exit with."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutate", description="Break the package in one place at a time: do tests notice?"
    )
    parser.add_argument("--only", metavar="PATTERN", default="", help="rows in whose file, text, tests or promise this pattern is found")
    parser.add_argument("--list", action="store_true", help="name the rows, and try none")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time")
    parser.add_argument("--gpu", action="store_true", help="the rows that only a GPU kills, and no others")
    asked = parser.parse_args(arguments)

    rows = [row for row in MUTATIONS if (row.mode == "gpu") == asked.gpu and re.search(asked.only, " ".join(row))]
    try:
        for row in rows:
            mutated(row, (ROOT / row.file).read_text())
    except LookupError as error:  # before anything runs
        parser.error(error.args[0])
    if asked.list:
        print(*rows, f"{len(rows)} rows", sep="\n")
        return 0

    kinds = list(dict.fromkeys((row.tests, row.mode) for row in rows))
    print(f"{len(rows)} mutations; first the {len(kinds)} tests that they name, without one", flush=True)
    with ThreadPoolExecutor(asked.jobs) as pool:
        sound = dict(zip(kinds, pool.map(lambda kind: try_tests(*kind), kinds)))
        for kind, (result, said, _) in sound.items():
            if result != "passed":
                print(f"{result} without a mutation: {kind[0]} ({kind[1]})\n{said[-2000:]}", flush=True)
        ready = [row for row in rows if sound[row.tests, row.mode][0] == "passed"]
        results = {}
        for row, (result, said, seconds) in zip(ready, pool.map(lambda row: try_tests(row.tests, row.mode, row), ready)):
            results[row] = {"failed": "killed", "passed": "SURVIVED"}.get(result, result)
            print(f"{results[row]:8} {seconds:4.0f} s  {row}", flush=True)
            if result == "error":
                print(said[-2000:], flush=True)
    print(*score(rows, results), sep="\n")
    return 0 if all(results.get(row) in ("killed", "timeout") for row in rows) else 1


def score(rows: list[Mutation], results: dict[Mutation, str]) -> Iterable[str]:
    """A line for each mode: how many rows were killed. A test that never ends notices, too."""
    for mode in MODES:
        of_mode = [row for row in rows if row.mode == mode]
        found = [results.get(row, "not tried") for row in of_mode]
        if of_mode:
            counts = ", ".join(f"{found.count(result)} {result}" for result in dict.fromkeys(found))
            yield f"{mode}: {len(of_mode)} mutations: {counts}"


if __name__ == "__main__":
    sys.exit(main())
