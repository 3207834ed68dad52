"""quantize in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from .launch import launch
from .numerics import as_bits, pack, random_bits, round_to_code, scale_blocks, signed_code, to_float32, usable
from .tiling import View, inside, lanes, places, program_tile

# Elements in a tile. Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy: MXFP4 0.99, against 0.93 with
# 2048; MXFP8 1.01 with either; along dim 0 0.68 and 0.82, against 0.46 and 0.78.
TILE = 4096


@triton.jit
def quantize_kernel(
    x_ptr,
    elements_ptr,
    scales_ptr,
    seed_ptr,  # None rounds to nearest
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length,
    rows,
    length_tiles,
    row_tiles,
    size_a,
    size_b,
    x_length,
    x_row,
    x_a,
    x_b,
    x_c,
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
    place_length,
    place_row,
    place_a,
    place_b,
    place_c,
    THRESHOLD: tl.constexpr,
    BITS: tl.constexpr,
    CODES_PER_BYTE: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    LARGEST: tl.constexpr,
    LARGEST_CODE: tl.constexpr,
    NAN_CODE: tl.constexpr,
    NAN_SCALE: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
    AXIS: tl.constexpr,
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
    if CODES_PER_BYTE == 2:
        # Said to be contiguous by fours, bytes are stored from where they are made. Else Triton wants 16 a thread, and trades codes between
        # threads through shared memory to get them: 0.96 of a copy, against 0.99.
        byte = tl.max_contiguous(byte, [1, 1, 4])
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    elements_ptr += first_byte * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first_block * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c
    place = first * place_length + first_row * place_row + a * place_a + b * place_b + c * place_c

    if MASKED:
        x_mask = inside(row, element, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        byte_mask = inside(row, byte * CODES_PER_BYTE, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        block_mask = inside(row, block * BLOCK, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        x = to_float32(tl.load(x_ptr + (row * x_row + element * x_length), mask=x_mask, other=0))
    else:
        byte_mask = None
        block_mask = None
        x = to_float32(tl.load(x_ptr + (row * x_row + element * x_length)))
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    scale, y, exponent = scale_blocks(x, tensor_scale, THRESHOLD, EMIN, EMAX, LARGEST)
    random = None
    if AXIS is not None:
        random = random_bits(tl.load(seed_ptr), place, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK)
    code = round_to_code(y, exponent, random, MANTISSA_BITS, EMIN, LARGEST_CODE)
    code = signed_code(code, as_bits(x), BITS, TWOS_COMPLEMENT)
    code = tl.where(scale == NAN_SCALE, NAN_CODE, code)
    packed = pack(code, BITS, CODES_PER_BYTE)
    tl.store(elements_ptr + (row * elements_row + byte * elements_length), packed.to(tl.uint8), mask=byte_mask)
    tl.store(scales_ptr + (row * scales_row + block * scales_length), scale.to(tl.uint8), mask=block_mask)


def quantize(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> bool:
    """Fill elements and scales; False if the shape is beyond the kernel."""
    return launch(
        quantize_kernel,
        (x, elements, scales, seed, tensor_scale),
        (
            View(x.stride()),
            View(elements.stride(), fmt.codes_per_byte),
            View(scales.stride(), block_size),
        ),
        x.shape,
        dim,
        block_size,
        fmt,
        TILE,
        places(x.shape, seed is not None),
        traced,
        THRESHOLD=threshold,
    )
