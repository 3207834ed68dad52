"""What a launch is found by: the kind of its tensors, their device, its instructions, offsets that may need 64 bits. By stand-ins, on CPU.

`test_on_gpu.py` holds the same promises on the device itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton

import mx_ops
from mx_ops.kernels import grid
from mx_ops.kernels import launch as launching

MODULES = {op: sys.modules[f"mx_ops.kernels.{op}"] for op in ("fake_quant", "quantize", "quantize_both", "dequantize")}
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


class Compiled(triton.compiler.CompiledKernel):
    """What Triton gives of a launch; there is no module to unload."""

    module = None

    def __init__(self, runs: list[tuple]) -> None:
        self.runs = runs

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args: self.runs.append(args)


class Kernel:
    """A kernel of two tensors, which notes how it is launched."""

    arg_names = ("x_ptr", "out_ptr", "length", "BLOCK")

    def __init__(self) -> None:
        self.compiled: list[tuple] = []
        self.runs: list[tuple] = []

    def __getitem__(self, grid: Any) -> Any:
        def first(*args: Any, **constants: Any) -> Compiled:
            self.compiled.append(args)
            return Compiled(self.runs)

        return first


def tensor(**other: Any) -> SimpleNamespace:
    """As much of a tensor as a launch looks at: on a GPU, 32 by 64, of float32, at a multiple of 16, unless told otherwise."""
    facts = {"shape": (32, 64), "strides": (64, 1), "dtype": torch.float32, "device": FIRST, "address": 1 << 20} | other
    methods = {"stride": lambda: facts["strides"], "data_ptr": lambda: facts["address"]}
    return SimpleNamespace(shape=facts["shape"], dtype=facts["dtype"], device=facts["device"], **methods)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """No launch is known yet, and the first GPU is current; the devices that are made current."""
    devices: list[torch.device] = []

    @contextlib.contextmanager
    def enter(device: torch.device) -> Iterator[None]:
        devices.append(device)
        yield

    monkeypatch.setattr(launching, "runners", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", enter)
    return devices


class Finder:
    """What finds launches of a kernel; it notes whether it was told that tensors are at multiples of 16."""

    def __init__(self) -> None:
        self.kernel, self.aligned = Kernel(), []

    def __call__(self, *args: Any, aligned: bool) -> launching.Launch:
        """The launch."""
        self.aligned.append(aligned)
        return launching.Launch(self.kernel, (1, 1, 1), (7,), {"BLOCK": 32, "num_warps": 4})


def test_a_call_like_an_earlier_one_runs_what_was_compiled_for_that(entered: list) -> None:
    """Other memory and nothing else: with the numbers and constants that the kernel takes, in its order."""
    find = Finder()
    for address in (1 << 20, 1 << 21, 3 << 20):
        x, out = tensor(address=address), tensor(address=address + 64)
        assert launching.launch(find, (x, out), ("rule",), False)
    assert len(find.aligned) == len(find.kernel.compiled) == 1
    assert [args[2:] for args in find.kernel.runs] == [(7, 32)] * 2
    assert find.kernel.runs[-1][:2] == (x, out)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "other",
    [{"shape": (32, 65)}, {"strides": (1, 32)}, {"dtype": torch.bfloat16}, {"address": (1 << 20) + 4}, {"device": SECOND}, None],
    ids=["shape", "strides", "dtype", "address", "device", "no tensor"],
)
def test_what_a_kernel_is_compiled_for_is_told_apart(other: dict[str, Any] | None, place: int, entered: list) -> None:
    """A call that differs in one fact about one tensor finds a launch of its own. (A call's tensors are on one device.)"""
    find, given, changed = Finder(), [tensor(), tensor()], [tensor(), tensor()]
    if other is None:
        if place == 0:
            return  # there always is an input
        changed[1] = None
    elif "device" in other:
        changed = [tensor(**other), tensor(**other)]
    else:
        changed[place] = tensor(**other)
    for tensors in (given, changed, given, changed):
        launching.launch(find, tuple(tensors), ("rule",), False)
    assert len(find.aligned) == 2
    assert find.aligned == [True, not (place == 0 and other == {"address": (1 << 20) + 4})]


def test_rules_and_ops_are_told_apart(entered: list) -> None:
    """The same tensors under another rule, or of another op."""
    find, another = Finder(), Finder()
    for _ in range(2):
        for finder, rule in ((find, ("mxfp4", 1)), (find, ("mxfp4", 0)), (another, ("mxfp4", 1))):
            launching.launch(finder, (tensor(), tensor()), rule, False)
    assert len(find.aligned) == 2
    assert len(another.aligned) == 1


def test_no_more_launches_are_kept_than_allowed(entered: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sizes never end, all are forgotten in turn, and found anew."""
    monkeypatch.setattr(launching, "KNOWN_CALLS", 3)
    find = Finder()
    for size in (*range(10), 9, 0):
        launching.launch(find, (tensor(shape=(32, 1 + size)), tensor()), ("rule",), False)
        assert 1 <= len(launching.runners) <= 3
    assert len(find.aligned) == 11


def test_launches_are_on_the_device_of_their_tensors(entered: list) -> None:
    """It is made current for the first call and for those like it; what is current already is left alone."""
    find = Finder()
    for _ in range(3):
        launching.launch(find, (tensor(), tensor()), ("rule",), False)
    assert entered == []
    for _ in range(3):
        launching.launch(find, (tensor(device=SECOND), tensor(device=SECOND)), ("rule",), False)
    assert entered == [SECOND] * 3


def test_nothing_is_launched_for_nothing(entered: list) -> None:
    """An empty tensor is done at once."""
    find = Finder()
    for traced in (False, True):
        assert launching.launch(find, (tensor(shape=(0, 64)), tensor()), ("rule",), traced)
    assert find.aligned == []


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 3), True)])
def test_packed_instructions_are_for_gpus_that_have_them(capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of NVIDIA, from Hopper on: on an A100 the PTX would not assemble."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert launching.has_bf16x2(FIRST) == has
    assert not launching.has_bf16x2(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not launching.has_bf16x2(FIRST)


def find_on_meta(op: str, shape: tuple[int, ...], dim: int, aligned: bool = True, dtype: torch.dtype = torch.bfloat16) -> launching.Launch:
    """The launch for tensors of any size, which need no memory."""
    fmt = mx_ops.FORMATS["mxfp8_e4m3"]
    x = torch.empty(shape, dtype=dtype, device="meta")
    elements, scales = torch.ops.mx.quantize(x, fmt.name, dim=dim)
    if op == "dequantize":
        out = x.new_empty(x.movedim(dim, -1).shape).movedim(-1, dim)
        return MODULES[op].find(elements, scales, out, None, fmt, dim, 32, aligned=aligned)
    outputs = (torch.empty_like(x),) if op == "fake_quant" else (elements, scales)
    return MODULES[op].find(x, *outputs, None, None, fmt, dim, 32, 0, aligned=aligned)


def tile_of(found: launching.Launch) -> grid.Tile:
    """What a launch tells its kernel of a tile."""
    return grid.Tile(*found.constants["TILE"])


@pytest.mark.parametrize("op", ["fake_quant", "quantize"])
def test_offsets_in_a_tile_are_64_bits_wide_where_they_must_be(op: str) -> None:
    """Where a tile's last element is 2^31 entries or more from its first, and nowhere else: they cost registers."""
    for columns, wide in ((2**20, False), (2**26, True)):
        assert tile_of(find_on_meta(op, (4096, columns), 0)).wide == wide
    assert not tile_of(find_on_meta(op, (2**16, 2**17), 1)).wide


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_words_of_codes_are_loaded_only_from_where_words_may_be(dtype: torch.dtype) -> None:
    """Of codes that start at a multiple of 16 bytes, in rows of whole words; elsewhere byte by byte: a GPU loads no word from between."""
    for columns, dim, aligned, words in ((4096, 1, True, True), (4096, 1, False, False), (4100, 1, True, False), (4096, 0, True, True)):
        found = find_on_meta("dequantize", (64, columns), dim, aligned, dtype)  # codes along dim 0 lie as those along dim 1
        assert (tile_of(found).parts == 1) == words
