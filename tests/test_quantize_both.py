"""quantize_both gives what two calls of quantize give, to the bit and the stride, whatever the layout and the number of reads."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import INTERPRETED
from helpers import DTYPES, FORMATS, assert_same, wild
from torch import Tensor

import mx_ops

# Sizes that are whole tiles, that overhang one, that hold no whole word of codes, that are shorter than a block; batches.
OVERHANGING = (41, 133) if INTERPRETED else (123, 431)
SHAPES = [(64, 128), (72, 104), (8, 8), OVERHANGING, (33, 42), (6, 1), (1, 31), (2, 3, 40, 72), (3, 0, 32), (5, 130, 8)]
CASES = (
    list(zip(SHAPES, itertools.cycle(FORMATS), itertools.cycle(DTYPES)))
    if INTERPRETED
    else list(itertools.product(SHAPES, FORMATS, DTYPES))
)


def check(x: Tensor, format: str, seed: Tensor | None = None, block_size: int | None = None, scale_mode: str | None = None) -> None:
    """The four outputs against two calls."""
    have = torch.ops.mx.quantize_both(x, format, seed, block_size=block_size, scale_mode=scale_mode)
    want = [t for dim in (-1, -2) for t in torch.ops.mx.quantize(x, format, seed, dim=dim, block_size=block_size, scale_mode=scale_mode)]
    assert len(have) == len(want) == 4
    for one, other in zip(have, want):
        assert_same(one, other)
        assert one.stride() == other.stride()
        assert one.dtype == other.dtype


def fitting(shape: tuple[int, ...], format: str) -> tuple[int, ...]:
    """The shape, with the last two sizes rounded up to whole bytes of codes."""
    unit = mx_ops.FORMATS[format].codes_per_byte
    return (*shape[:-2], *(-(-size // unit) * unit for size in shape[-2:]))


@pytest.mark.parametrize(("shape", "format", "dtype"), CASES)
@pytest.mark.parametrize("seeded", [False, True])
def test_it_is_two_calls(shape: tuple[int, ...], format: str, dtype: torch.dtype, seeded: bool, device: str) -> None:
    """Nearest and stochastic: an element has the same noise along either dim."""
    x = wild(fitting(shape, format), dtype).to(device)
    check(x, format, torch.tensor([-(2**40) - 3], device=device) if seeded else None)


@pytest.mark.parametrize("format", FORMATS)
def test_large_tensors(format: str, device: str) -> None:
    """On a GPU, 2^25 elements, from where on tiles may be larger; of rows that fill those, and rows that do not."""
    for rows in (4096, 4160) if device == "cuda" else (256, 320):
        check(wild((rows, 2 * rows), torch.bfloat16).to(device), format)


@pytest.mark.parametrize("block_size", [16, 64, 128, 256])
def test_every_block_size(block_size: int, device: str) -> None:
    """Those for which a tile is too small are two reads."""
    check(wild((136, 264), torch.bfloat16).to(device), "mxfp4", block_size=block_size, scale_mode="ceil")


@pytest.mark.parametrize("format", FORMATS[:2])
def test_every_layout(format: str, device: str) -> None:
    """Transposed, sliced, expanded and permuted tensors, and rows that start anywhere."""
    x = wild((2, 34, 40) if INTERPRETED else (4, 66, 74)).to(device)
    for view in (x.mT, x[:, ::3, 1:-9], x[1:2].expand(3, -1, -1), x.permute(1, 0, 2), x[..., ::2][:, :, :32], x[:, 2:]):
        check(view, format)


def test_nan_and_inf_stay_in_their_blocks(device: str) -> None:
    """Along both dims a block with one of them is NaN, and no other."""
    x = torch.ones(96, 96)
    x[3, 40], x[70, 2] = torch.nan, -torch.inf
    check(x.to(device), "mxfp8_e4m3")
    _, scales, _, scales_t = torch.ops.mx.quantize_both(x.to(device), "mxfp8_e4m3")
    assert (scales == 255).nonzero().tolist() == [[3, 1], [70, 0]]
    assert (scales_t == 255).nonzero().tolist() == [[0, 40], [2, 2]]


def test_rank_1_is_refused() -> None:
    """There is no dim before the last."""
    with pytest.raises(IndexError, match="last two dims"):
        mx_ops.quantize_both(torch.ones(32), "mxfp4")


@pytest.mark.parametrize("in_dim", [0, 1])
def test_slices_of_rank_1_are_refused_under_vmap(in_dim: int, device: str) -> None:
    """A batch is no dim to take blocks along, whichever of a matrix's it is, with a seed or without; of matrices it is a loop."""
    x = wild((64, 34)).to(device)
    for seed in (None, torch.tensor([7], device=device)):
        for function in (torch.ops.mx.quantize_both, mx_ops.quantize_both):
            with pytest.raises(IndexError, match="last two dims, and this tensor's rank is 1"):
                torch.vmap(lambda row: function(row, "mxfp8_e4m3", seed=seed), in_dims=in_dim)(x)
            with pytest.raises(IndexError, match="last two dims, and this tensor's rank is 1"):
                torch.vmap(torch.vmap(lambda row: function(row, "mxfp8_e4m3", seed=seed), in_dims=in_dim))(x[None])
        batched = torch.vmap(lambda part: torch.ops.mx.quantize_both(part, "mxfp4", seed), in_dims=in_dim)(x.view(2, 2, 16, 34))
        for part, *outputs in zip(x.view(2, 2, 16, 34).unbind(in_dim), *batched):
            for have, want in zip(outputs, torch.ops.mx.quantize_both(part, "mxfp4", seed)):
                assert_same(have, want)


def test_odd_lengths_along_either_dim_are_refused() -> None:
    """Codes that share bytes fill them both ways."""
    for shape in ((32, 33), (33, 32)):
        with pytest.raises(ValueError, match="must be even"):
            mx_ops.quantize_both(torch.ones(shape), "mxfp4")
