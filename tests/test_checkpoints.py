"""Checkpoints are read whatever lies in them and wherever, in little memory, and what cannot be read is said in one line."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import ROOT, call
from safetensors.torch import save_file
from torch import Tensor

from mx_ops.report import checkpoints, figures


def test_tensors_are_found_in_nested_dicts_and_lists(tmp_path: Path, no_checks: None) -> None:
    """Names are keys joined with dots; what is no tensor is passed over."""
    torch.save(
        {"model": {"w": torch.nn.Parameter(torch.ones(2, 32))}, "ema": [torch.ones(4), ({"x": torch.ones(6)},)], "step": 3},
        tmp_path / "x.pt",
    )
    (file,) = json.loads(call("--json", "--tensors", tmp_path / "x.pt")[1])["files"]
    assert [tensor["name"] for tensor in file["by_tensor"]] == ["model.w", "ema.0", "ema.1.0.x"]
    assert (file["tensors"], file["values"]) == (3, 74)


def test_a_file_that_cannot_be_read_ends_with_one_line(tmp_path: Path) -> None:
    """Nothing is measured before all files have been opened."""
    good = tmp_path / "good.pt"
    torch.save(torch.ones(4), good)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "text.pt").write_text("no pickle")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "text.safetensors").write_text("no header at all")
    save_file({"x": torch.ones(64)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    (tmp_path / "model.gguf").touch()
    for name, reason in {
        "absent.safetensors": "no such file",
        "folder.pt": "a folder without safetensors files",
        "model.gguf": "its suffix is none of .safetensors, .pt, .pth, .bin",
        "module.pt": "as what torch.save writes, weights only: UnpicklingError: ",
        "cut.pt": "as what torch.save writes, weights only: ",
        "text.pt": "as what torch.save writes, weights only: ",
        "empty.pt": "as what torch.save writes, weights only: EOFError",
        "text.safetensors": "as safetensors: SafetensorError: ",
        "cut.safetensors": "as safetensors: SafetensorError: ",
    }.items():
        status, out, err = call(good, tmp_path / name)
        separator = " " if reason.startswith("as ") else ": "
        assert (status, out) == (2, ""), name
        assert err.startswith(f"mx_ops: cannot read {tmp_path / name}{separator}{reason}")
        assert err.count("\n") == 1, err


def test_missing_safetensors_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is in an extra."""
    save_file({"x": torch.ones(64)}, tmp_path / "x.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert call(tmp_path / "x.safetensors") == (
        2,
        "",
        f"mx_ops: cannot read {tmp_path / 'x.safetensors'}: safetensors is not installed: pip install 'mx_ops[checkpoints]'\n",
    )


def test_containers_are_visited_once(tmp_path: Path, no_checks: None) -> None:
    """Those that lie at many places, or in themselves, are named after the first; a tensor that lies at several has all its names."""

    def names(content: object) -> list[str]:
        torch.save(content, tmp_path / "x.pt")
        (file,) = json.loads(call("--json", "--tensors", tmp_path / "x.pt")[1])["files"]
        return [tensor["name"] for tensor in file["by_tensor"]]

    loop: dict[str, object] = {"w": torch.ones(8)}
    loop["loop"] = loop
    assert names(loop) == ["w"]  # first: what goes round in it fails, and does not go on
    nested: object = torch.ones(4)
    for _ in range(9):
        nested = [nested] * 10
    state = {"a": torch.ones(2), "b": nested}
    first = "model.b" + 8 * ".0"
    assert names({"model": state, "ema": state, "none": None}) == ["model.a", *(f"{first}.{index}" for index in range(10))]


def test_a_tensor_that_repeats_few_bytes_for_ever_is_refused(tmp_path: Path, no_checks: None) -> None:
    """What has no values to measure, or few, is not."""
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "x.pt")
    reason = "w repeats 4 bytes until they are 4000000000000"
    assert call(tmp_path / "x.pt") == (2, "", f"mx_ops: cannot read {tmp_path / 'x.pt'}: {reason}\n")
    tensors = {
        "few": torch.ones(3, 1).expand(3, 40),
        "none": torch.ones(1, 0).expand(10**12, 0),
        "ids": torch.zeros(1, dtype=torch.int64).expand(10**12),
    }
    torch.save(tensors, tmp_path / "y.pt")
    status, out, _ = call("--json", tmp_path / "y.pt")
    (file,) = json.loads(out)["files"]
    assert (status, file["tensors"], file["values"]) == (0, 2, 120)


# In chunks.

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "a scalar": lambda: torch.tensor(2.0),
    "a vector": lambda: torch.randn(5000),
    "every third": lambda: torch.randn(5000)[::3],
    "no rows": lambda: torch.randn(0, 3),
    "no columns": lambda: torch.randn(3, 0),
    "a matrix": lambda: torch.randn(90, 70),
    "long rows": lambda: torch.randn(3, 2500),
    "rows of one": lambda: torch.randn(3000, 1),
    "transposed": lambda: torch.randn(90, 170).t(),
    "long rows, transposed": lambda: torch.randn(2500, 3).t(),
    "sliced": lambda: torch.randn(100, 200)[::2, 5:150:3],
    "of rank 4": lambda: torch.randn(7, 5, 9, 13),
    "permuted": lambda: torch.randn(7, 15, 9, 13).permute(2, 0, 3, 1),
    "channels last": lambda: torch.randn(9, 40, 3, 3).contiguous(memory_format=torch.channels_last),
    "repeated": lambda: torch.randn(40, 1, 6).expand(40, 30, 6),
    "all one value": lambda: torch.randn(1).expand(40, 66),
    "a parameter": lambda: torch.nn.Parameter(torch.randn(7, 70)),
    "float64": lambda: torch.randn(90, 70, dtype=torch.float64).t(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at_once", [1, 3])
def test_chunks_are_those_of_the_matrix(layout: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, whole rows or parts of one, none large, whatever is mapped of the file at a time."""
    monkeypatch.setattr(figures, "CHUNK", 512)
    monkeypatch.setattr(figures, "AT_ONCE", at_once)
    monkeypatch.setattr(checkpoints, "MAPPED", 4096)
    monkeypatch.setattr(checkpoints, "AROUND", 512)
    tensor = LAYOUTS[layout]()
    torch.save([torch.randn(3), tensor], tmp_path / "x.pt")
    stored = checkpoints.open_checkpoint(str(tmp_path / "x.pt")).tensors[1]
    matrix = tensor.float().reshape(stored.rows, stored.length)
    end = 0
    for chunks in figures.windows(stored, torch.device("cpu")):
        assert len(chunks) <= at_once
        for start, values in chunks:
            assert (start, values.dtype, values.requires_grad) == (end, torch.float32, False)
            assert values.numel() <= 512
            assert values.shape[1] in (stored.length, 512, stored.length % 512)
            assert torch.equal(values.flatten(), matrix.flatten()[start : start + values.numel()])
            end += values.numel()
    assert end == matrix.numel()


def test_no_more_of_a_file_is_mapped_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of what lies across it: nothing is read that spans more, and the file is opened again before all together do."""
    monkeypatch.setattr(checkpoints, "MAPPED", 1 << 16)
    monkeypatch.setattr(checkpoints, "AROUND", 0)
    torch.save(torch.randn(300, 400).t(), tmp_path / "x.pt")
    (stored,) = checkpoints.open_checkpoint(str(tmp_path / "x.pt")).tensors
    fetch, spans, load, loads = stored.fetch, [], torch.load, []
    stored.fetch = lambda size: spans.append(size) or fetch(size)
    monkeypatch.setattr(torch, "load", lambda *files, **options: loads.append(len(spans)) or load(*files, **options))
    stored.read(slice(0, 400), slice(0, 300))
    assert max(spans) <= 1 << 16
    since = [0, *(count - 1 for count in loads), len(spans)]  # the first that follows is among those counted
    assert all(sum(spans[start:end]) <= 1 << 16 for start, end in itertools.pairwise(since))
    assert sum(spans) == 300 * 400 * 4


LIMIT_MB = 300

# In a fresh process: how far reading a source, with nothing measured, raises the peak of what the process has in memory.
CODE = """
import sys, torch, mx_ops
from mx_ops.report import checkpoints, figures
def memory(field):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(field))
figures.measure = lambda *arguments: figures.Figures()
figures.Blocks = lambda *arguments: None
torch.save(torch.randn(64, 64), sys.argv[2])
for path in sys.argv[2:0:-1]:
    source = checkpoints.open_checkpoint(path)
    before = memory("VmRSS")
    figures.survey(source, torch.device("cpu"))
print(memory("VmHWM") - before)
"""


def sparse_safetensors(path: Path, dtype: str, shape: list[int], size: int) -> None:
    """A file of zeros that takes no room on the disk."""
    header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def make_float32(folder: Path) -> Path:
    """256 MB in one tensor."""
    sparse_safetensors(folder / "x.safetensors", "F32", [16384, 4096], 1 << 28)
    return folder / "x.safetensors"


def make_float64(folder: Path) -> Path:
    """512 MB in one row."""
    sparse_safetensors(folder / "x.safetensors", "F64", [1 << 26], 1 << 29)
    return folder / "x.safetensors"


def make_transposed(folder: Path) -> Path:
    """256 MB that lie across the file."""
    torch.save(torch.zeros(8192, 8192).t(), folder / "x.pt")
    return folder / "x.pt"


def make_shards(folder: Path) -> Path:
    """320 MB in ten files."""
    for number in range(10):
        sparse_safetensors(folder / f"{number}.safetensors", "F32", [2048, 4096], 1 << 25)
    return folder


@pytest.mark.parametrize("make", [make_float32, make_float64, make_transposed, make_shards])
def test_peak_memory_does_not_grow_with_the_file(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """A file's pages count, too."""
    path, small = make(tmp_path), tmp_path / "small.pt"
    result = subprocess.run([sys.executable, "-c", CODE, path, small], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(result.stdout) < LIMIT_MB


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are of one file."""
    monkeypatch.setattr(checkpoints, "MAPPED", 1)
    save_file({"x": torch.ones(64)}, tmp_path / "x.safetensors")
    (tensor,) = checkpoints.open_checkpoint(str(tmp_path / "x.safetensors")).tensors
    tensor.read(slice(0, 1), slice(0, 64))
    save_file({"x": torch.zeros(64)}, tmp_path / "y.safetensors")
    os.replace(tmp_path / "y.safetensors", tmp_path / "x.safetensors")
    with pytest.raises(checkpoints.CommandError, match=r"x\.safetensors: it changed while it was read$"):
        tensor.read(slice(0, 1), slice(0, 64))


# Folders.


def test_a_folder_of_shards_is_one_checkpoint(tmp_path: Path, no_checks: None) -> None:
    """Of the files that its index names, or where it has none of all; in the order of the files."""
    save_file({"b": torch.ones(2, 32), "ids": torch.arange(3)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"a": torch.ones(4, 32)}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "._model-00001-of-00002.safetensors").write_text("a Mac's")
    (file,) = json.loads(call("--json", "--tensors", tmp_path)[1])["files"]
    assert (file["name"], [tensor["name"] for tensor in file["by_tensor"]]) == (str(tmp_path), ["b", "a"])
    assert file["skipped"] == [{"name": "ids", "reason": "torch.int64"}]
    assert f"\n{tmp_path}: 2 tensors, 192 values\n" in call(tmp_path)[1]

    save_file({"a": torch.ones(4, 32)}, tmp_path / "consolidated.safetensors")
    weight_map = {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "model.fp16.safetensors.index.json").write_text("another")
    assert json.loads(call("--json", "--tensors", tmp_path)[1])["files"] == [file]


def test_a_folder_that_is_no_whole_checkpoint_ends_with_one_line(tmp_path: Path) -> None:
    """It is said what is missing."""

    def refusal() -> str:
        status, out, err = call(tmp_path)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err.removeprefix(f"mx_ops: cannot read {tmp_path}").rstrip("\n")

    assert refusal() == ": a folder without safetensors files"
    torch.save(torch.ones(3), tmp_path / "pytorch_model.bin")
    assert refusal() == ": a folder without safetensors files: name files instead"
    save_file({"x": torch.ones(64)}, tmp_path / "model-00002-of-00003.safetensors")
    save_file({"x": torch.ones(64)}, tmp_path / "model-00003-of-00003.safetensors")
    assert refusal() == ": model-00001-of-00003.safetensors is missing"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "model-00002-of-00003.safetensors", "y": "model-00001-of-00003.safetensors"}}))
    assert refusal() == ": model-00001-of-00003.safetensors is missing"
    index.write_text(json.dumps({"weight_map": {"x": "model-00002-of-00003.safetensors", "y": "model-00003-of-00003.safetensors"}}))
    assert refusal() == ": y is not in model-00003-of-00003.safetensors"
    index.write_text(json.dumps({"weight": 3}))
    assert refusal() == f"{os.sep}{index.name} as an index of safetensors files: KeyError: 'weight_map'"
    index.rename(tmp_path / "a.safetensors.index.json")
    (tmp_path / "b.safetensors.index.json").touch()
    assert refusal() == ": it has several indexes, a.safetensors.index.json, b.safetensors.index.json: name files instead"
    (tmp_path / "b.safetensors.index.json").unlink()
    (tmp_path / "a.safetensors.index.json").unlink()
    (tmp_path / "model-00001-of-00003.safetensors").write_text("cut")
    assert refusal().startswith(f"{os.sep}model-00001-of-00003.safetensors as safetensors: SafetensorError: ")
