"""quantize along the last two dims at once, in Triton.

A tile is in eight parts. Its blocks lie across the last dim: they are what `quantize` has of such a tile. Of the blocks along the last dim
each part has whole ones, side by side: `lines` are the rows of these, a part's first axis.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from .bf16x2 import amax_of_neighbours, parts_in_bfloat16
from .cases import choose
from .grid import BLOCK, BLOCKS, MASKED, PACKED, ROWS, SIZES, View, cut, lay_out, left, places, prepare, program_tile
from .launch import Launch, launch
from .quantize import bytes_of_blocks, code_scales, quantize, words_of_parts
from .rules import CODES_PER_BYTE, to_float32, usable
from .tile import (
    GROUP,
    amax_of_parts,
    block_maximum,
    by_rows,
    in_order,
    load_tile,
    matrix_axes,
    random_parts,
    store_scales,
    store_words,
)

# Only a GPU shows: where words and scales are stored, what `max_contiguous` claims (test_on_gpu, "Addresses").


# fmt: off
@triton.jit(**SIZES)
def quantize_both_kernel(
    x_ptr, elements_ptr, scales_ptr,
    across_ptr, across_scales_ptr,  # elements and scales of the blocks that lie across the last dim
    seed_ptr,  # None rounds to nearest
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length, rows,  # of the dim before the last, and of the last
    length_tiles, row_tiles, size_a, size_b,
    stride_x_length, stride_x_row, stride_x_a, stride_x_b, stride_x_c,
    stride_elements_length, stride_elements_row,  # from one byte to the next, however many codes it holds: 1
    stride_elements_a, stride_elements_b, stride_elements_c,
    stride_scales_length, stride_scales_row,  # from one block to the next: 1
    stride_scales_a, stride_scales_b, stride_scales_c,
    stride_across_length, stride_across_row, stride_across_a, stride_across_b, stride_across_c,
    stride_across_scales_length, stride_across_scales_row, stride_across_scales_a, stride_across_scales_b, stride_across_scales_c,
    stride_place_length, stride_place_row, stride_place_a, stride_place_b, stride_place_c,
    FORMAT: tl.constexpr, TILE: tl.constexpr,
):
    # fmt: on
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, TILE)
    rows_left, elements_left = left(first_row, first, rows, length, TILE)
    x_ptr += first * stride_x_length + first_row * stride_x_row + a * stride_x_a + b * stride_x_b + c * stride_x_c
    elements_ptr += first * stride_elements_length + first_row // FORMAT[CODES_PER_BYTE]
    elements_ptr += a * stride_elements_a + b * stride_elements_b + c * stride_elements_c
    scales_ptr += first * stride_scales_length + first_row // TILE[BLOCK]
    scales_ptr += a * stride_scales_a + b * stride_scales_b + c * stride_scales_c
    across_ptr += first // FORMAT[CODES_PER_BYTE] + first_row * stride_across_row
    across_ptr += a * stride_across_a + b * stride_across_b + c * stride_across_c
    across_scales_ptr += first // TILE[BLOCK] + first_row * stride_across_scales_row
    across_scales_ptr += a * stride_across_scales_a + b * stride_across_scales_b + c * stride_across_scales_c
    place = first * stride_place_length + first_row * stride_place_row
    place += a * stride_place_a + b * stride_place_b + c * stride_place_c

    parts = load_tile(x_ptr, stride_x_row, stride_x_length, rows_left, elements_left, TILE)
    if TILE[PACKED]:
        parts = parts_in_bfloat16(parts)  # of other dtypes it takes 3 instructions an element, and saves 8 to 10, and registers
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    randoms = random_parts(seed_ptr, place, stride_place_row, stride_place_length, TILE)
    LINES: tl.constexpr = TILE[BLOCKS] * TILE[BLOCK] // GROUP  # of a part
    BYTES: tl.constexpr = TILE[ROWS] // FORMAT[CODES_PER_BYTE]
    line, byte = matrix_axes(LINES, BYTES, TILE)
    NEIGHBOURS: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth  # in a thread
    # Said to be as contiguous as x's elements are in a thread, codes are stored from where they are made.
    byte = tl.max_contiguous(byte, [1, NEIGHBOURS // FORMAT[CODES_PER_BYTE]])
    scales = ()
    for j in tl.static_range(GROUP):
        x = tl.reshape(parts[j], LINES, TILE[ROWS] // TILE[BLOCK], TILE[BLOCK])
        random = None
        if seed_ptr is not None:
            random = tl.reshape(randoms[j], LINES, TILE[ROWS] // TILE[BLOCK], TILE[BLOCK])
        if TILE[PACKED]:
            amax_bits = amax_of_neighbours(x, NEIGHBOURS)
        else:
            amax_bits = block_maximum(tl.abs(to_float32(x)), 2)
        scale, factor, nan = code_scales(amax_bits, tensor_scale, FORMAT, TILE)
        codes = tl.reshape(bytes_of_blocks(x, random, tensor_scale, factor, nan, FORMAT, TILE), LINES, BYTES)
        scales = scales + (scale.to(tl.uint8),)
        pointer = elements_ptr + j * stride_elements_length + (line * (GROUP * stride_elements_length) + byte)
        if TILE[MASKED]:
            tl.store(pointer, codes, mask=(line * GROUP + j < elements_left) & (byte * FORMAT[CODES_PER_BYTE] < rows_left))
        else:
            tl.store(pointer, codes)

    # [LINES, ROWS / BLOCK, 1, 8] is stored as a matrix of the lines of all parts.
    stored = tl.reshape(tl.permute(in_order(scales, GROUP), (0, 3, 1, 2)), LINES * GROUP, TILE[ROWS] // TILE[BLOCK])
    store_scales(scales_ptr, stored, stride_scales_length, elements_left, rows_left, LINES * GROUP, TILE[ROWS] // TILE[BLOCK], TILE)

    scale, factor, nan = code_scales(amax_of_parts(parts, TILE), tensor_scale, FORMAT, TILE)
    words = words_of_parts(parts, randoms, tensor_scale, factor, nan, FORMAT, TILE)
    store_words(across_ptr, words, stride_across_row, 1, rows_left, elements_left, FORMAT, TILE)
    scale = by_rows(scale, TILE[BLOCKS], TILE)
    store_scales(across_scales_ptr, scale, stride_across_scales_row, rows_left, elements_left, TILE[ROWS], TILE[BLOCKS], TILE)


def find(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    elements_t: Tensor,
    scales_t: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    aligned: bool,
) -> Launch | None:
    """The launch for these tensors; None if their layout is beyond the kernel.

    It takes rows of x that are side by side, as they are wherever x is contiguous, and whole words of codes both ways.
    """
    length, rows = x.shape[dim - 1], x.shape[dim]
    if not (known(length % 8 == 0) and known(rows % 8 == 0)):
        return None
    views = (
        View(x.stride()),
        View(elements.stride()),
        View(scales.stride()),
        View(elements_t.stride(), fmt.codes_per_byte),
        View(scales_t.stride(), block_size),
        places(x.shape, seed is not None),
    )
    layout = lay_out(x.shape, dim - 1, block_size, views, 0)
    case = layout and choose("quantize_both", layout.kind, x, seed is not None, fmt, dim - 1, block_size)
    if layout is None or case is None or not (known(layout.length == length) and known(layout.rows == rows)):
        return None
    found = cut(layout, block_size, case)
    if found.tile.rows % block_size:
        return None
    return prepare(quantize_both_kernel, found, fmt, threshold)


def quantize_both(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    elements_t: Tensor,
    scales_t: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> bool:
    """Fill all four, from one read of x where its layout allows; False if the shape is beyond the kernels."""
    if launch(find, (x, elements, scales, elements_t, scales_t, seed, tensor_scale), (fmt, dim, block_size, threshold), traced):
        return True
    return quantize(x, elements, scales, seed, tensor_scale, fmt, dim, block_size, threshold, traced) and quantize(
        x, elements_t, scales_t, seed, tensor_scale, fmt, dim - 1, block_size, threshold, traced
    )
