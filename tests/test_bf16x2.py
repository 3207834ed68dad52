"""bfloat16 two at a time, and the conversion to FP8, give the reference's bits: the kernels, interpreted, with their PTX."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from conftest import INTERPRETED
from helpers import ALL_FORMATS, FORMATS, SCALE_MODES, assert_same, wild
from torch import Tensor

import mx_ops
from mx_ops import library
from mx_ops.formats import get_threshold
from mx_ops.kernels import bf16x2, bf16x2_codes, cases
from mx_ops.kernels import launch as launching
from mx_ops.kernels.rules import LARGEST, LARGEST_CODE, facts
from mx_ops.reference import rules

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")


def every_bfloat16() -> Tensor:
    """All of them, in blocks of their like, so that most blocks hold no NaN; each block once more, with other signs, as it comes."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(2, 2**15)
    by_magnitude = bits.t().reshape(256, 256)
    return by_magnitude[torch.randperm(256, generator=torch.Generator().manual_seed(1))]


def data() -> dict[str, Tensor]:
    """bfloat16s in shapes that are whole tiles, whole blocks, or neither."""
    special = wild((64, 64), torch.bfloat16)
    special[3, 5], special[40, 7], special[9, 60] = float("inf"), float("nan"), float("-inf")
    return {
        "every": every_bfloat16(),
        "special": special,
        "whole blocks": wild((96, 72), torch.bfloat16, dim=0),
        "odd": wild((33, 42), torch.bfloat16),
        "short": wild((1, 6), torch.bfloat16),
    }


def between_bfloat16s() -> Tensor:
    """All bfloat16s, and the float32s beside them and halfway to the next."""
    bits = every_bfloat16().to(torch.float32).view(torch.int32)
    offsets = torch.tensor([0, 1, -1, 0x8000, 0x7FFF, 0x8001])
    return (bits + offsets[torch.randint(6, bits.shape, generator=torch.Generator().manual_seed(2))].to(torch.int32)).view(torch.float32)


CASES = [(name, None) for name in data()] + [(name, 2**40 + 3) for name in ("special", "whole blocks", "odd")]


class Results(list):
    """What Triton's frontend takes results from."""

    get_result = list.__getitem__


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Kernels take packed instructions, and Triton's interpreter their PTX; how often it did."""
    import ptx
    from triton.runtime import interpreter

    runs = {"count": 0}
    numpy_types = {"int16": np.int16, "int32": np.int32, "uint8": np.uint8, "bf16": np.uint16, "fp32": np.float32}

    def create_inline_asm(builder: Any, asm: str, constraints: str, values: list, types: list, is_pure: bool, pack: int) -> Results:
        runs["count"] += 1
        dtypes = [np.dtype(numpy_types[kind.scalar.name]) for kind in types]
        arrays = ptx.run(asm, constraints, [value.data for value in values], dtypes, pack)
        return Results(interpreter.TensorHandle(array, kind.scalar) for array, kind in zip(arrays, types))

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", create_inline_asm)
    monkeypatch.setattr(launching, "has_bf16x2", lambda device: True)
    monkeypatch.setattr(cases, "LARGE", 1)
    return runs


def by_reference(monkeypatch: pytest.MonkeyPatch, op: Any, *args: Any, **kwargs: Any) -> Any:
    """A call without kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(library.backends, "kernels_for", lambda device_type: None)
        return op(*args, **kwargs)


@pytest.mark.filterwarnings("ignore:overflow")  # of quotients, which saturate
@pytest.mark.parametrize(("name", "seed"), CASES)
@pytest.mark.parametrize("format", ALL_FORMATS)
def test_packed_kernels_give_the_reference_s_bits(
    name: str, format: str, seed: int | None, packed: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every op in every format, along both dims, nearest and stochastic; of all bfloat16s, NaN blocks, odd shapes."""
    x = data()[name]
    row = mx_ops.FORMATS[format]
    given = None if seed is None else torch.tensor([seed])
    scale = torch.tensor([0.0371]) if row.has_tensor_scale else None
    mode = "even" if row.scale_modes and name == "odd" else None
    calls: list[tuple[Any, dict[str, Any]]] = [(torch.ops.mx.fake_quant, {"dim": dim}) for dim in (0, 1)]
    calls += [(torch.ops.mx.quantize, {"dim": dim}) for dim in (0, 1) if x.shape[dim] % row.codes_per_byte == 0]
    calls += [(torch.ops.mx.quantize_both, {})] if all(size % row.codes_per_byte == 0 for size in x.shape) else []
    for op, kwargs in calls:
        have = op(x, format, given, scale, scale_mode=mode, **kwargs)
        want = by_reference(monkeypatch, op, x, format, given, scale, scale_mode=mode, **kwargs)
        for one, other in zip(have, want) if isinstance(have, tuple) else [(have, want)]:
            assert_same(one, other)
    assert packed["count"] > 0 or row.divides  # whose elements are quotients


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("mode", SCALE_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("format", FORMATS)
def test_other_dtypes_are_rounded_once(format: str, dtype: torch.dtype, mode: str, packed: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes a bfloat16 first, or is converted, has the reference's code: all float16s, and float32s beside all bfloat16s."""
    if dtype == torch.float16:
        x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).view(2, 2**15).t().reshape(256, 256)
    else:
        x = between_bfloat16s()
    for op, kwargs in (torch.ops.mx.quantize_both, {}), (torch.ops.mx.quantize, {"dim": 0}):
        have = op(x, format, scale_mode=mode, **kwargs)
        for one, other in zip(have, by_reference(monkeypatch, op, x, format, scale_mode=mode, **kwargs)):
            assert_same(one, other)
    assert (packed["count"] > 0) == (mx_ops.FORMATS[format].converts or mx_ops.FORMATS[format].rounds_from_odd)


@triton.jit
def scales_of_all(amax_ptr, bytes_ptr, inverses_ptr, format: tl.constexpr) -> None:
    """The scales of blocks with these largest magnitudes."""
    i = tl.arange(0, 2**15)
    byte, inverse = bf16x2.packed_scales(tl.load(amax_ptr + i), format)
    tl.store(bytes_ptr + i, byte)
    tl.store(inverses_ptr + i, inverse)


@pytest.mark.parametrize("mode", SCALE_MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_amax_has_the_reference_s_scale(format: str, mode: str) -> None:
    """All 2^15 magnitudes, in every mode: the largest, where a scale of 2^128 would be NaN's byte, and the NaNs too."""
    row, threshold = mx_ops.FORMATS[format], get_threshold(mx_ops.FORMATS[format], mode, False)
    amax = torch.arange(2**15, dtype=torch.int32)
    scales, inverses = torch.empty(2**15, dtype=torch.int32), torch.empty(2**15, dtype=torch.bfloat16)
    scales_of_all[(1,)](amax, scales, inverses, facts(row, threshold))
    expected = rules.scale_byte(amax << 16, row, threshold)
    assert_same(scales, expected)
    assert_same(inverses, torch.where(expected == 255, torch.nan, rules.inverse_scale(expected)))


@triton.jit
def round_all(
    x_ptr,
    random_ptr,
    values_ptr,
    codes_ptr,
    format: tl.constexpr,
) -> None:
    """Round by random bits, under a scale of 1."""
    i = tl.arange(0, 2**15)
    x, random = tl.load(x_ptr + i), tl.load(random_ptr + i)
    one = bf16x2.both(0x3F80).to(tl.bfloat16, bitcast=True)
    limit = (tl.full([], format[LARGEST], tl.float32).to(tl.int32, bitcast=True) >> 16).to(tl.int16)
    tl.store(values_ptr + i, bf16x2.round_packed(x, one, limit, random, format))
    tl.store(codes_ptr + i, bf16x2_codes.packed_codes(x, random, one, bf16x2.both(0x4300 + format[LARGEST_CODE]), format))


@pytest.mark.parametrize("format", FORMATS)
def test_random_bits_decide_as_in_the_reference(format: str, packed: dict) -> None:
    """Each bfloat16 up to the format's largest number, by the random bits at which it is decided: values and codes."""
    row = mx_ops.FORMATS[format]
    magnitude = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = torch.where(magnitude <= row.largest, magnitude, row.largest)
    y = x.to(torch.float32)
    exponent = rules.grid_exponent(y.view(torch.int32), row)
    step = exponent.view(torch.float32).to(torch.float64) * 2.0**-row.mantissa_bits
    units = torch.floor(y / step * 2**17).to(torch.int32) % 2**17
    upwards = (2**17 - units) // 2  # the first random bits that round up
    for random in (upwards, upwards - 1, torch.zeros_like(units), torch.full_like(units, 2**16 - 1)):
        random = random.clamp(0, 2**16 - 1)
        values, codes = torch.empty(2**15, dtype=torch.int16), torch.empty(2**15, dtype=torch.int16)
        round_all[(1,)](x, random.to(torch.int16), values, codes, facts(row))
        assert_same(values.view(torch.bfloat16), rules.round_to_value(y, exponent, random, row).to(torch.bfloat16))
        assert_same(codes & 0xFF, rules.round_to_code(y, exponent, random, row))


@pytest.mark.parametrize(("dtype", "rows"), [(torch.bfloat16, 9), (torch.float32, 9), (torch.bfloat16, 2), (torch.bfloat16, 1)])
def test_codes_are_fetched_ahead_up_to_the_last_and_no_further(dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte from the first that is so far ahead on, once, and none beyond the tensor: there may be no memory."""
    from triton.runtime import interpreter

    fetched: list[tuple[int, int]] = []

    def create_inline_asm(builder: Any, asm: str, constraints: str, values: list, types: list, is_pure: bool, pack: int) -> list:
        assert "prefetch" in asm
        fetched.append(tuple(int(value.data.item()) for value in values))
        return Results([interpreter.TensorHandle(np.zeros(1, np.int32), types[0].scalar)])

    kernels = sys.modules["mx_ops.kernels.dequantize"]
    tile = 256 * 16 // dtype.itemsize  # elements of a program, and as many bytes
    elements, scales = torch.ops.mx.quantize(wild((rows, tile), dtype), "mxfp8_e4m3")
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", create_inline_asm)
    monkeypatch.setattr(launching, "has_bf16x2", lambda device: True)
    monkeypatch.setattr(kernels, "AHEAD_BYTES", 2 * tile)
    torch.ops.mx.dequantize(elements, scales, "mxfp8_e4m3", dtype=dtype)
    assert sorted(fetched) == [(elements.data_ptr() + row * tile, tile) for row in range(2, rows)]
