"""Compiled code is kept between processes for the numbers it was compiled from, and for no others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import INTERPRETED

import mx_ops
from mx_ops.library import backends, tracing

SCRIPT = """
import torch, mx_ops
from torch._dynamo.utils import counters

x = torch.linspace(-3, 3, 64).reshape(2, 32)
for lowering in {lowerings!r}:
    mx_ops.config.lowering = lowering
    torch.compiler.reset()
    counters.clear()
    y = torch.compile(lambda x: mx_ops.fake_quant(x * 2, "mxfp4"), fullgraph=True)(x)
    assert y.unique().tolist() == {expected!r}, y.unique().tolist()
    print(counters["aot_autograd"]["autograd_cache_hit"], counters["aot_autograd"]["autograd_cache_miss"])
"""
# Neither does Inductor then try out what this machine's compiler can do, nor compile its headers first: most of the time of a new cache.
QUICK = {"TORCHINDUCTOR_VEC_ISA_OK": "0", "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}


def run(package: Path, cache: Path, expected: list[float], lowerings: tuple[str, ...] = ("auto",)) -> list[str]:
    """Compile a call in a process of its own, with this copy of the package and this cache; how often the cache hit and missed.

    Once under each setting.
    """
    environment = {**os.environ, **QUICK, "PYTHONPATH": str(package), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    script = SCRIPT.format(lowerings=lowerings, expected=expected)
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=cache, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-len(lowerings) :]


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
def test_changed_numbers_never_meet_old_compiled_code(tmp_path: Path) -> None:
    """With one cache, a second process reuses the first one's code; after an edit of the rules, or under another setting, none does."""
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copytree(Path(mx_ops.__file__).parent, tmp_path / "mx_ops", ignore=shutil.ignore_patterns("__pycache__"))
    grid = [-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert run(tmp_path, cache, grid) == ["0 1"]
    assert run(tmp_path, cache, grid, ("auto", "aten")) == ["1 0", "0 1"]

    rules = tmp_path / "mx_ops" / "reference" / "rules.py"
    text = rules.read_text()
    edited = text.replace("return rounded - anchor.view(torch.float32)", "return (rounded - anchor.view(torch.float32)) * 0.5")
    assert edited != text
    rules.write_text(edited)
    assert run(tmp_path, cache, [value / 2 for value in grid]) == ["0 1"]


def test_a_setting_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the settings there are."""
    monkeypatch.setattr(mx_ops.config, "lowering", "fast")
    with pytest.raises(ValueError, match=r"lowering is .fast.; it may be .auto., .aten., .triton."):
        mx_ops.config.get_lowering()


def test_every_file_that_says_what_an_op_computes_is_in_the_key(tmp_path: Path) -> None:
    """A change of any file, in any folder of the package, is another key; and so is a file more, in each folder and in a new one."""
    package = tmp_path / "mx_ops"
    shutil.copytree(Path(mx_ops.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(package.rglob("*.py"))
    folders = {file.parent for file in files}
    assert {folder.name for folder in folders} >= {"mx_ops", "kernels", "library", "reference"}
    (package / "new").mkdir()
    keys = {tracing.source_hash.__wrapped__(package)}
    for file in (*files, *(folder / "more.py" for folder in folders), package / "new" / "more.py"):
        file.write_text((file.read_text() if file.exists() else "") + "# more\n")
        keys.add(tracing.source_hash.__wrapped__(package))
    assert len(keys) == 1 + len(files) + len(folders) + 1


def test_settings_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph holds depends on the setting, and on whether Triton is interpreted."""
    keys = set()
    for lowering in mx_ops.config.LOWERINGS:
        for interpreted in (False, True):
            monkeypatch.setattr(mx_ops.config, "lowering", lowering)
            monkeypatch.setattr(backends, "interpreted", lambda: interpreted)
            keys.add(tracing.Digest().src)
    assert len(keys) == 6
