"""What only a GPU shows, all of it by `pytest -m gpu`: the instructions themselves, addresses, devices, and what Inductor is given there.

The interpreter has no alignment, no memory that may not be read, no second device, and PTX by our own emulation. So the kernels give here,
on the device, the bytes of the reference on CPU, where each of these decides. With the same marker: `test_quotients.py` (the steps of a
quotient), `test_layouts.py` (offsets over 2^31), `test_random_compiled.py` (CUDA graphs).
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import ALL_FORMATS, DTYPES, FORMATS, assert_same, wild
from test_bf16x2 import between_bfloat16s, every_bfloat16
from torch import Tensor
from torch._inductor.utils import fresh_cache, run_and_get_code

import mx_ops
from mx_ops.kernels import grid
from mx_ops.kernels import launch as launching

pytestmark = pytest.mark.gpu

ops = torch.ops.mx
NAMES = ("fake_quant", "quantize", "dequantize", "quantize_both")
QUANTIZERS = ("fake_quant", "quantize", "quantize_both")
SCALE = 0.0371  # of tensors in formats that have one for the whole


@pytest.fixture(autouse=True, scope="module")
def started() -> None:
    """Triton has found the GPU before a test says that it is another one."""
    ops.fake_quant(torch.ones(1, 32, device="cuda"), "mxfp4")


def calls(
    x: Tensor, format: str, seed: int | None = None, names: tuple[str, ...] = NAMES, dims: tuple[int, ...] = (0, 1)
) -> dict[str, Tensor]:
    """What ops of these names give of a tensor, on its device; dequantize of its codes."""
    row = mx_ops.FORMATS[format]
    noise = None if seed is None else torch.tensor([seed], device=x.device)
    scale = torch.tensor([SCALE], device=x.device) if row.has_tensor_scale else None
    results = {}
    for dim in dims:
        if "fake_quant" in names:
            results[f"fake_quant {dim}"] = ops.fake_quant(x, format, noise, scale, dim=dim)
        if "quantize" in names:
            elements, scales = ops.quantize(x, format, noise, scale, dim=dim)
            results |= {f"elements {dim}": elements, f"scales {dim}": scales}
            if "dequantize" in names:
                results[f"values {dim}"] = ops.dequantize(elements, scales, format, scale, dim=dim, dtype=x.dtype)
    if "quantize_both" in names:
        results |= {f"both {i}": part for i, part in enumerate(ops.quantize_both(x, format, noise, scale))}
    return results


def check(x: Tensor, there: Tensor, *args: Any, **kwargs: Any) -> None:
    """`calls` of a tensor on CPU and of the same one on the GPU give the same bytes."""
    have, want = calls(there, *args, **kwargs), calls(x, *args, **kwargs)
    for name, value in want.items():
        try:
            assert_same(have[name], value)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def moved(x: Tensor, offset: int) -> Tensor:
    """A tensor on the GPU, so many entries after a multiple of 16 bytes."""
    memory = torch.zeros(x.numel() + offset, dtype=x.dtype, device="cuda")
    assert memory.data_ptr() % 16 == 0
    return memory[offset:].view(x.shape).copy_(x)


# Instructions.


@pytest.mark.parametrize("format", ALL_FORMATS)
def test_every_bfloat16_by_packed_instructions(format: str) -> None:
    """All of them, nearest and stochastic: what PTX does is what `ptx.py`, by which the interpreter runs it, says."""
    x = every_bfloat16()
    check(x, x.cuda(), format, names=QUANTIZERS)
    if format in ("mxfp4", "mxfp8_e5m2", "mxint8"):
        check(x, x.cuda(), format, 2**40 + 3, names=QUANTIZERS)


@pytest.mark.parametrize("format", FORMATS)
def test_float32s_beside_every_bfloat16(format: str) -> None:
    """Rounded to odd first, or converted: rounded once."""
    x = between_bfloat16s()
    check(x, x.cuda(), format, names=("quantize", "quantize_both"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", ["mxfp4", "nvfp4"])
def test_a_nan_or_an_inf_is_seen(format: str, dtype: torch.dtype) -> None:
    """One in a block of numbers, wherever it is there."""
    x = torch.linspace(-3, 5, 64 * 96).view(64, 96).to(dtype)
    for i, bad in enumerate((torch.nan, -torch.nan, torch.inf, -torch.inf)):
        x[torch.arange(i, 64, 9), torch.arange(i * 24, i * 24 + 8)[: len(range(i, 64, 9))]] = bad
    check(x, x.cuda(), format)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [None, 3])
def test_a_quotient_beyond_float32_is_the_largest(seed: int | None, dtype: torch.dtype) -> None:
    """It is an infinity on the way, from which a remainder is NaN."""
    x = torch.zeros(2, 64, dtype=dtype)
    x[0, :3] = torch.tensor([torch.finfo(dtype).max, -torch.finfo(dtype).max, 1.0])
    scale, noise = torch.tensor([1e-37]), None if seed is None else torch.tensor([seed])
    on_gpu = [None if tensor is None else tensor.cuda() for tensor in (noise, scale)]
    for dim in (0, 1):
        want = ops.fake_quant(x, "nvfp4", noise, scale, dim=dim)
        assert want.isfinite().all()
        assert_same(ops.fake_quant(x.cuda(), "nvfp4", *on_gpu, dim=dim), want)
        for have, part in zip(ops.quantize(x.cuda(), "nvfp4", *on_gpu, dim=dim), ops.quantize(x, "nvfp4", noise, scale, dim=dim)):
            assert_same(have, part)


@pytest.mark.parametrize("format", ["mxfp4", "mxfp8_e4m3", "nvfp4"])
def test_older_gpus_have_the_formulas(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said to be an A100, the GPU runs no instruction that an A100 has not, and gives the same bytes."""
    found: list[launching.Launch] = []
    prepare = grid.prepare

    def note(*args: Any, **kwargs: Any) -> launching.Launch:
        found.append(prepare(*args, **kwargs))
        return found[-1]

    for op in ("fake_quant", "quantize", "quantize_both", "dequantize"):
        monkeypatch.setattr(sys.modules[f"mx_ops.kernels.{op}"], "prepare", note)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(launching, "runners", {})
    for dtype in (torch.bfloat16, torch.float32):
        x = wild((64, 96), dtype)
        check(x, x.cuda(), format)
    assert len(found) >= 2 * 7
    for launch in found:
        tile = grid.Tile(*launch.constants["TILE"])
        assert not any((tile.packed, tile.converted, tile.whole, tile.ahead))


# Addresses.


@pytest.mark.parametrize("columns", [128, 136])
@pytest.mark.parametrize("format", ["mxfp4", "mxfp8_e4m3"])
def test_scales_are_stored_where_rows_of_them_start(format: str, columns: int) -> None:
    """A row of scales starts at any byte, where tiles overhang, and at the multiples that kernels lean on, where they do not."""
    for blocks in (1, 2, 3, 4, 5, 8, 33):
        x = wild((32 * blocks, columns), torch.bfloat16, dim=0)
        check(x, x.cuda(), format, names=("quantize", "quantize_both"), dims=(0,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("format", "seed"), [("mxfp4", None), ("mxfp8_e4m3", 3)])
def test_inputs_may_start_anywhere(format: str, seed: int | None, dtype: torch.dtype) -> None:
    """After a call at a multiple of 16 bytes, of the very same shape: what was compiled for that is not run for others."""
    x = wild((128, 256), dtype)
    for offset in (0, *range(1, 16 // dtype.itemsize), 0):
        check(x, moved(x, offset), format, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", ["mxfp4", "mxfp8_e4m3"])
def test_codes_may_start_anywhere(format: str, dtype: torch.dtype) -> None:
    """No word is loaded from between its multiples: elements and scales at each of 16 bytes, after a call at a multiple."""
    for dim in (0, 1):
        x = wild((128, 512), dtype, dim)
        elements, scales = ops.quantize(x, format, dim=dim)
        want = ops.dequantize(elements, scales, format, dim=dim, dtype=dtype)
        for offset in (0, *range(1, 16), 0):
            e, s = (moved(codes.movedim(dim, -1), offset).movedim(-1, dim) for codes in (elements, scales))
            assert_same(ops.dequantize(e, s, format, dim=dim, dtype=dtype), want)
            assert_same(ops.dequantize(e, scales.cuda(), format, dim=dim, dtype=dtype), want)


@pytest.mark.parametrize("format", ["mxfp4", "mxfp8_e4m3"])
def test_codes_are_fetched_ahead_up_to_the_last(format: str) -> None:
    """Of codes that fill their memory to its end, just less and just more than what is fetched ahead; NaN's, too, are as given."""
    per_byte = mx_ops.FORMATS[format].codes_per_byte
    for megabytes in (2, 4, 6, 20):
        torch.cuda.empty_cache()  # from 10 MB on a tensor has memory of its own, in whole 2 MB
        elements = torch.empty(megabytes << 20, dtype=torch.uint8, device="cuda").random_(generator=torch.Generator("cuda").manual_seed(1))
        elements = elements.view(-1, 4096)
        scales = torch.full((elements.shape[0], 4096 * per_byte // 32), 120, dtype=torch.uint8, device="cuda")
        for dtype in (torch.bfloat16, torch.float32):
            values = ops.dequantize(elements, scales, format, dtype=dtype)
            torch.cuda.synchronize()
            for rows in (slice(0, 4), slice(-4, None)):
                assert_same(values[rows], ops.dequantize(elements[rows].cpu(), scales[rows].cpu(), format, dtype=dtype))
            few = ops.dequantize(elements[:64], scales[:64], format, dtype=dtype)
            assert torch.equal(few.nan_to_num(7.0), values[:64].nan_to_num(7.0))


# Launches.


def kinds(device: str) -> list[tuple[Tensor, str, int | None]]:
    """Calls that differ in one fact each: format, seed, dtype, strides, shape, place."""
    x = wild((64, 96)).to(device)
    first = (x, "mxfp4", None)
    return [
        first,
        (x, "mxfp8_e4m3", None),
        (x, "mxfp4", 7),
        (x.bfloat16(), "mxfp4", None),
        (x.view(96, 64).t(), "mxfp4", None),
        (x[:, :64], "mxfp4", None),
        (x.view(-1)[1:-95].view(63, 96)[:32], "mxfp4", None),
        first,
    ]


@pytest.mark.parametrize("most", [1, 3, 4096])
def test_launches_are_told_apart_and_forgotten(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of calls in turn, again and again, each with its own bytes; also where no more than one or three launches are kept."""
    monkeypatch.setattr(launching, "KNOWN_CALLS", most)
    monkeypatch.setattr(launching, "runners", {})
    for _ in range(3):
        for (x, *options), (there, *_) in zip(kinds("cpu"), kinds("cuda")):
            check(x, there, *options)
            assert 1 <= len(launching.runners) <= most
    assert most < 4096 or len(launching.runners) > 40


def test_the_device_of_the_input_is_made_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the first call of a kind, and for those like it; then the device is as it was. (By the device's own guard, and a counter.)"""
    monkeypatch.setattr(launching, "runners", {})
    entered: list[torch.device] = []

    class Guard(torch.cuda.device):
        def __init__(self, device: torch.device) -> None:
            entered.append(device)
            super().__init__(device)

    x = wild((64, 96))
    there, expected = x.cuda(), ops.fake_quant(x, "mxfp4")
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "device", Guard)
            patch.setattr(torch.cuda, "current_device", lambda: -1)  # so that the input's is another one
            values = ops.fake_quant(there, "mxfp4")
        assert_same(values, expected)
        assert there.device in entered
        entered.clear()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_program_counts_for_the_tensor_scale(dtype: torch.dtype) -> None:
    """The second kernel sees what all programs of the first have left, the last and the first of them too; so does a second call."""
    for count in (1, 4096, 4097, 1024 * 4096, 1024 * 4096 + 5):
        x = torch.ones(count, dtype=dtype, device="cuda")
        for place in (0, count // 2, count - 1):
            x[place] = -2688
            assert_same(mx_ops.tensor_scale(x), torch.ones(1))
            x[place] = 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_inputs_on_another_than_the_current_device() -> None:
    """Each op on the second GPU, while the first is current: twice, and the first stays current."""
    for _ in range(2):
        for (x, *options), (there, *_) in zip(kinds("cpu"), kinds("cuda:1")):
            with torch.cuda.device(0):
                check(x, there, *options)
                assert torch.cuda.current_device() == 0


# What a compiled graph holds.

IN_A_GRAPH: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "fake_quant": (lambda x: mx_ops.fake_quant(x, "mxfp8_e4m3"), False),
    "fake_quant, two codes a byte": (lambda x: mx_ops.fake_quant(x, "mxfp4"), False),
    "fake_quant, dim 0": (lambda x: mx_ops.fake_quant(x, "mxfp4", dim=0), True),
    "fake_quant, a short block": (lambda x: mx_ops.fake_quant(x[:, :42], "mxfp8_e4m3"), True),
    "fake_quant, a seed": (lambda x: mx_ops.fake_quant(x, "mxfp4", seed=torch.tensor([7], device=x.device)), True),
    "fake_quant, quotients": (lambda x: mx_ops.nvfp4_fake_quant(x), True),
    "quantize": (lambda x: ops.quantize(x, "mxfp8_e5m2"), False),
    "quantize, two codes a byte": (lambda x: ops.quantize(x, "mxfp4"), True),
    "quantize, dim 0": (lambda x: ops.quantize(x, "mxfp8_e4m3", dim=0), True),
    "quantize_both": (lambda x: ops.quantize_both(x, "mxfp8_e4m3"), True),
    "dequantize": (lambda x: ops.dequantize(*ops.quantize(x, "mxfp8_e4m3"), "mxfp8_e4m3", dtype=x.dtype), False),
}


@pytest.mark.parametrize(("name", "dtype"), list(zip(IN_A_GRAPH, itertools.cycle(DTYPES))))
def test_a_graph_holds_what_is_faster(name: str, dtype: torch.dtype) -> None:
    """Under "auto" the Triton kernel of this package where Inductor's code is slower, and nowhere else; the bits are eager's."""
    call, kernel = IN_A_GRAPH[name]
    x = wild((64, 96), dtype).cuda()
    assert mx_ops.config.lowering == "auto"
    torch.compiler.reset()
    with fresh_cache():
        have, codes = run_and_get_code(torch.compile(call, fullgraph=True), x)
    want = call(x)
    for one, other in zip(have, want) if isinstance(want, tuple) else [(have, want)]:
        assert_same(one, other)
        assert one.stride() == other.stride()
    names = {found for code in codes for found in re.findall(r"(\w+_kernel)_\d+\.run\(", code)}
    assert bool(names) == kernel, names


def test_quotients_in_formulas_are_those_of_a_division() -> None:
    """Inductor multiplies by the reciprocal of what it knows to be constant: the scale of a tensor is eager's, whatever its maximum."""
    torch.compiler.reset()
    scale = torch.compile(lambda x: mx_ops.tensor_scale(x * 0.75), fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for amax in 1 + torch.rand(200, generator=generator):
        x = torch.zeros(2, 64, device="cuda")
        x[1, 5] = amax
        assert_same(scale(x), mx_ops.tensor_scale(x * 0.75))
        assert_same(scale(x), (amax * 0.75 / 2688).view(1))
