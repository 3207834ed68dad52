"""dequantize in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from .launch import launch
from .numerics import decode, element_limit, from_float32, magnitude_code, scaled, unpack, usable, with_sign
from .tiling import View, inside, lanes, program_tile

# Elements in a tile. Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy: 0.98 to 0.99. In a slower form of
# the kernel, 1024 and 4096 were within 1% of it.
TILE = 2048


@triton.jit
def dequantize_kernel(
    elements_ptr,
    scales_ptr,
    out_ptr,
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length,
    rows,
    length_tiles,
    row_tiles,
    size_a,
    size_b,
    elements_length,  # from one byte to the next, however many codes it holds
    elements_row,
    elements_a,
    elements_b,
    elements_c,
    scales_length,  # from one block to the next
    scales_row,
    scales_a,
    scales_b,
    scales_c,
    out_length,
    out_row,
    out_a,
    out_b,
    out_c,
    DTYPE_MAX: tl.constexpr,
    BITS: tl.constexpr,
    CODES_PER_BYTE: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    LARGEST_CODE: tl.constexpr,
    HAS_SPECIAL_CODES: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    OUTER: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, BLOCK, BLOCKS, ROWS, ROWS_FIRST, OUTER)
    first_byte, first_block = first // CODES_PER_BYTE, first // BLOCK
    row = lanes(ROWS, 0, WIDE)
    block = lanes(BLOCKS, 1, WIDE)
    element = block * BLOCK + lanes(BLOCK, 2, WIDE)
    byte = block * (BLOCK // CODES_PER_BYTE) + lanes(BLOCK // CODES_PER_BYTE, 2, WIDE)
    elements_ptr += first_byte * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first_block * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c
    out_ptr += first * out_length + first_row * out_row + a * out_a + b * out_b + c * out_c

    if MASKED:
        mask = inside(row, element, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        byte_mask = inside(row, byte * CODES_PER_BYTE, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        block_mask = inside(row, block * BLOCK, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        packed = tl.load(elements_ptr + (row * elements_row + byte * elements_length), mask=byte_mask, other=0)
        scale = tl.load(scales_ptr + (row * scales_row + block * scales_length), mask=block_mask, other=0).to(tl.int32)
    else:
        mask = None
        packed = tl.load(elements_ptr + (row * elements_row + byte * elements_length))
        scale = tl.load(scales_ptr + (row * scales_row + block * scales_length)).to(tl.int32)
    code = unpack(packed, BITS, CODES_PER_BYTE).to(tl.int32)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    limit = element_limit(scale, tensor_scale, DTYPE_MAX)
    value = decode(magnitude_code(code, BITS, TWOS_COMPLEMENT), limit, BITS, MANTISSA_BITS, EMIN, LARGEST_CODE, HAS_SPECIAL_CODES)
    out = from_float32(with_sign(scaled(value, scale, tensor_scale, DTYPE_MAX), code << (32 - BITS)), out_ptr.dtype.element_ty)
    tl.store(out_ptr + (row * out_row + element * out_length), out, mask=mask)


def dequantize(
    elements: Tensor,
    scales: Tensor,
    out: Tensor,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    traced: bool = False,
) -> bool:
    """Fill out; False if the shape is beyond the kernel."""
    return launch(
        dequantize_kernel,
        (elements, scales, out, tensor_scale),
        (View(elements.stride(), fmt.codes_per_byte), View(scales.stride(), block_size), View(out.stride())),
        out.shape,
        dim,
        block_size,
        fmt,
        TILE,
        traced=traced,
        DTYPE_MAX=torch.finfo(out.dtype).max,
    )
