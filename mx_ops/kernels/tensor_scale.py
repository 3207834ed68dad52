"""tensor_scale in Triton: the largest magnitude of a tensor, by one read of its memory in whatever order its dims are."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from .launch import Launch, launch
from .rules import as_bits, as_float, larger, to_float32

# Only a GPU shows: that all programs' numbers are there for the second kernel (test_on_gpu, "Launches").

TILE, WARPS = 4096, 4
PROGRAMS = 1024  # at most: each leaves a number


@triton.jit
def amax_kernel(x_ptr, amax_bits_ptr, count, programs, TILE: tl.constexpr):
    amax = tl.zeros([TILE], tl.float32)
    for start in range(tl.program_id(0).to(tl.int64) * TILE, count, programs * TILE):
        place = start + tl.arange(0, TILE)
        amax = larger(amax, tl.abs(to_float32(tl.load(x_ptr + place, mask=place < count, other=0))))
    tl.store(amax_bits_ptr + tl.program_id(0), tl.max(as_bits(amax), 0))


@triton.jit
def scale_kernel(amax_bits_ptr, scale_ptr, programs, LARGEST: tl.constexpr, TILE: tl.constexpr):
    program = tl.arange(0, TILE)
    amax = as_float(tl.max(tl.load(amax_bits_ptr + program, mask=program < programs, other=0), 0))
    tl.store(scale_ptr, tl.div_rn(amax, tl.full([], LARGEST, tl.float32)))


def find_amax(x: Tensor, amax_bits: Tensor, aligned: bool) -> Launch:
    """The launch that leaves each program's largest magnitude."""
    programs = amax_bits.numel()
    return Launch(amax_kernel, (programs, 1, 1), (x.numel(), programs), {"TILE": TILE, "num_warps": WARPS})


def find_scale(amax_bits: Tensor, out: Tensor, largest: float, aligned: bool) -> Launch:
    """The launch that divides the largest of these."""
    return Launch(scale_kernel, (1, 1, 1), (amax_bits.numel(),), {"LARGEST": largest, "TILE": PROGRAMS, "num_warps": WARPS})


def tensor_scale(x: Tensor, out: Tensor, fmt: Format, traced: bool = False) -> bool:
    """Fill out; False if x has gaps, or nothing in it, or if it is traced: its formula then fuses with what comes before."""
    assert fmt.scale is not None
    if traced or x.numel() == 0:
        return False
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    if not x.permute(order).is_contiguous():
        return False
    amax_bits = x.new_empty(min(PROGRAMS, -(-x.numel() // TILE)), dtype=torch.int32)
    launch(find_amax, (x, amax_bits), (), traced)
    launch(find_scale, (amax_bits, out), (fmt.largest * fmt.scale.largest,), traced)
    return True
