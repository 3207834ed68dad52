"""Layout is no input: whatever the strides, offset, rank and dim, the bytes are those of the contiguous tensor with that dim last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import oracle
import pytest
import torch
from conftest import INTERPRETED
from helpers import ALL_FORMATS, FORMATS, assert_same, exact, name_of, scale_for, wild
from torch import Tensor

import mx_ops

WIDTHS = ["mxfp4", "mxfp8_e4m3"]  # interpreted, formats whose codes are as wide stand for each other
BLOCKED, OTHERS = 34, (2, 4, 2)  # sizes of the blocked dim, which is more than a block, and of the others


def blocked(dim: int, rank: int = 4, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A contiguous tensor of this rank whose long dim is ``dim``."""
    others = OTHERS[4 - rank :]
    dim %= rank
    return wild((*others[:dim], BLOCKED, *others[dim:]), dtype, dim, seed=rank)


def permuted(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same tensor, with its dims in this order in memory."""
    return x.permute(order).contiguous().permute([order.index(dim) for dim in range(x.ndim)])


def sliced(x: Tensor) -> Tensor:
    """The same tensor, as every second or third element of a larger one along each dim."""
    steps = [2 + dim % 2 for dim in range(x.ndim)]
    larger = torch.full([size * step for size, step in zip(x.shape, steps)], torch.inf, dtype=x.dtype, device=x.device)
    view = larger[tuple(slice(1, None, step) for step in steps)]
    return view.copy_(x)


def offset(x: Tensor) -> Tensor:
    """The same tensor, starting in the middle of its storage, at no multiple of anything."""
    return torch.full((x.numel() + 12,), torch.inf, dtype=x.dtype, device=x.device)[7:-5].view(x.shape).copy_(x)


def two_apart(x: Tensor) -> Tensor:
    """The same bytes, two apart in memory."""
    return torch.zeros(*x.shape, 2, dtype=x.dtype, device=x.device)[..., 0].copy_(x)


def expanded(x: Tensor) -> Tensor:
    """A tensor whose every second dim has stride 0."""
    return x[tuple(slice(0, 1) if dim % 2 else slice(None) for dim in range(x.ndim))].expand(x.shape)


def overlapping(x: Tensor) -> Tensor:
    """A tensor whose rows overlap in memory."""
    return x.flatten().as_strided(x.shape, [1] * x.ndim)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "sliced": sliced,
    "offset": offset,
    "expanded": expanded,
    "all expanded": lambda x: x[(slice(0, 1),) * x.ndim].expand(x.shape),
    "overlapping": overlapping,
}


def check(x: Tensor, format: str, dim: int) -> None:
    """The ops along a dim of this very tensor against the oracle on its values; strides as promised; nothing written but the outputs."""
    before = x.clone()
    given = scale_for(x, format)
    options = {
        "dim": dim,
        "block_size": mx_ops.FORMATS[format].block_size,
        "tensor_scale": oracle.tensor_scale(exact(x)) if given else None,
    }
    expected_elements, expected_scales = oracle.quantize(exact(x), format, **options)
    expected = oracle.fake_quant(exact(x), format, dtype=name_of(x.dtype), **options)
    values = torch.ops.mx.fake_quant(x, format, dim=dim)
    assert_same(values, expected)
    assert values.stride() == torch.empty_like(x).stride()

    elements, scales = torch.ops.mx.quantize(x, format, dim=dim, **given)
    again = torch.ops.mx.dequantize(elements, scales, format, dim=dim, dtype=x.dtype, **given)
    for actual, wanted in ((elements, expected_elements), (scales, expected_scales), (again, expected)):
        assert_same(actual, wanted)
        assert actual.stride() == torch.empty(np.moveaxis(wanted, dim, -1).shape).movedim(-1, dim).stride()
    assert_same(x, before)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_of_dims_in_memory(order: tuple[int, ...], device: str) -> None:
    """All 24 orders that the dims of a rank-4 tensor can have in memory, along each dim."""
    for dim in (sum(order[:2]) % 4,) if INTERPRETED else range(4):
        check(permuted(blocked(dim).to(device), order), "mxfp4", dim)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", WIDTHS if INTERPRETED else ALL_FORMATS)
def test_every_layout(format: str, layout: str, device: str) -> None:
    """Steps, offsets, strides of 0 and overlapping rows, for every rank from 1 to 4 and every dim, counted from either end."""
    for rank in range(1, 5):
        for dim in range(0 if INTERPRETED else -rank, rank):
            check(LAYOUTS[layout](blocked(dim, rank).to(device)), format, dim)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (31, 33), (123, 5), (7, 1, 39)])
@pytest.mark.parametrize("format", ["mxfp8_e4m3", "mxfp8_e5m2"])
def test_ragged_and_single(format: str, shape: tuple[int, ...], device: str) -> None:
    """Odd lengths and single elements, contiguous and transposed, along every dim."""
    for dim in range(len(shape)):
        x = wild(shape, torch.float16, dim).to(device)
        check(x, format, dim)
        check(permuted(x, tuple(reversed(range(len(shape))))), format, dim)


@pytest.mark.parametrize("shape", [(0,), (0, 32), (4, 0), (2, 0, 6), (0, 0), (2, 34, 0)])
@pytest.mark.parametrize("format", ALL_FORMATS)
def test_empty(format: str, shape: tuple[int, ...], device: str) -> None:
    """A size of 0 in any dim gives empty results of the right shapes, dtypes and strides."""
    for dim in range(len(shape)):
        check(torch.empty(shape, dtype=torch.bfloat16, device=device), format, dim)


def test_the_dim_moved_last_gives_the_same_bytes(device: str) -> None:
    """Along any dim, the bytes are those of the contiguous tensor that has that dim last, in the same places in memory."""
    for dim in range(4):
        x = blocked(dim).to(device)
        for along, last in zip(
            torch.ops.mx.quantize(x, "mxfp4", dim=dim),
            torch.ops.mx.quantize(x.movedim(dim, -1).contiguous(), "mxfp4"),
        ):
            assert along.movedim(dim, -1).is_contiguous()
            assert_same(along.movedim(dim, -1), last)


# Half a million elements; interpreted, where the kernels have no pieces, as many programs as the clock allows.
LARGE = [(9_001,), (2, 1_103), (1_103, 2), (2, 33, 35)] if INTERPRETED else [(600_001,), (3, 200_003), (200_003, 3), (3, 451, 449)]


@pytest.mark.parametrize("shape", LARGE)
def test_more_than_fits_in_cache(shape: tuple[int, ...], device: str) -> None:
    """Work cut into pieces has no seams: large tensors along every dim, contiguous and not."""
    for dim in range(len(shape)):
        x = wild(shape, torch.bfloat16, dim).to(device)
        check(x, "mxfp8_e4m3", dim)
        check(permuted(x, tuple(reversed(range(len(shape))))), "mxfp8_e5m2", dim)


def test_rank_7_shuffled(device: str) -> None:
    """A tensor of so many dims, none of which merge, that no kernel takes it still gives its bytes."""
    for dim in (0, 3, 6):
        x = permuted(wild((2, 4, 2, 6, 2, 4, 2), torch.float32, dim).to(device), (5, 2, 0, 6, 3, 1, 4))
        check(sliced(x), "mxfp4", dim)
        check(x, "mxfp8_e4m3", dim)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("format", WIDTHS if INTERPRETED else FORMATS)
def test_dequantize_takes_any_strides(format: str, dim: int, device: str) -> None:
    """Elements and scales may each have strides of their own."""
    x = wild((6, 2, 70), torch.float32).movedim(-1, dim).to(device)
    elements, scales = torch.ops.mx.quantize(x, format, dim=dim)
    expected = torch.ops.mx.dequantize(elements, scales, format, dim=dim)
    layouts = [lambda t: t.contiguous(), lambda t: permuted(t, (2, 0, 1)), lambda t: permuted(t, (1, 2, 0)), two_apart]
    for of_elements, of_scales in zip([*layouts, *layouts], [*layouts, *reversed(layouts)]):
        values = torch.ops.mx.dequantize(of_elements(elements), of_scales(scales), format, dim=dim)
        assert_same(values, expected)
        assert values.stride() == expected.stride()
    one = scales[:1, :1, :1].expand_as(scales)
    assert_same(
        torch.ops.mx.dequantize(elements, one, format, dim=dim),
        oracle.dequantize(elements.cpu().numpy(), one.cpu().numpy(), format, dim),
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2**31 + 64,), 0), ((2**20 + 1, 2048 + 32), 1), ((70000, 32768), 0), ((70000, 32768), 1), ((34, 2**26), 0)],
)
@pytest.mark.parametrize("seed", [None, 2**40 + 7])
def test_over_2_to_the_31_elements(shape: tuple[int, ...], dim: int, seed: int | None) -> None:
    """Offsets are 64 bits wide where they must be: the first and the last blocks of a huge tensor are right, stochastic or not."""
    assert math.prod(shape) > 2**31
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(generator=torch.Generator("cuda").manual_seed(0))
    noise = None if seed is None else torch.tensor([seed], device="cuda")
    for format in ("mxfp4", "mxfp8_e4m3"):
        values = torch.ops.mx.fake_quant(x, format, noise, dim=dim)
        elements, scales = torch.ops.mx.quantize(x, format, noise, dim=dim)
        for start in (slice(0, 96), slice(shape[0] // 2 // 32 * 32, shape[0] // 2 // 32 * 32 + 96), slice(-64 - shape[0] % 32, None)):
            for end in (slice(0, 96), slice(-64, None)) if len(shape) > 1 else (None,):
                place = (start,) if end is None else (start, end)
                random = None if seed is None else random_bits_at(seed, shape, place)
                expected = oracle.fake_quant(exact(x[place]), format, random, dim, dtype="bfloat16")
                assert_same(values[place], expected)
                codes, bytes_of_scales = oracle.quantize(exact(x[place]), format, random, dim)
                part = tuple(narrowed(s, shape[d], 32) if d == dim else s for d, s in enumerate(place))
                assert_same(scales[part], bytes_of_scales)
                part = tuple(narrowed(s, shape[d], oracle.ROWS[format].codes_per_byte) if d == dim else s for d, s in enumerate(place))
                assert_same(elements[part], codes)
        again = torch.ops.mx.dequantize(elements, scales, format, dim=dim, dtype=torch.bfloat16)
        assert torch.equal(again, values)
        del values, elements, scales, again


def narrowed(part: slice, size: int, unit: int) -> slice:
    """A slice of whole units of a dim, in units."""
    start, stop, _ = part.indices(size)
    return slice(start // unit, -(-stop // unit))


def random_bits_at(seed: int, shape: tuple[int, ...], place: tuple[slice, ...]) -> np.ndarray:
    """The oracle's random bits of a part of a tensor."""
    index = [np.arange(*part.indices(size)) for part, size in zip(place, shape)]
    if len(shape) == 1:
        return oracle.random_at(seed, shape[0], np.zeros_like(index[0]), index[0])
    return oracle.random_at(seed, shape[1], *np.broadcast_arrays(index[0][:, None], index[1][None, :]))
