"""quantize along the last two dims at once, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from .lanes import LONGEST_BLOCK, amax_of_lanes, bytes_of, in_lanes, quantize_lanes
from .launch import Launch, launch, prepare
from .numerics import (
    as_bits,
    block_scales,
    grid_exponent,
    pack,
    round_to_code,
    scale_blocks,
    scaled_down,
    signed_code,
    to_float32,
    usable,
)
from .pieces import PIECES, amax_of_pieces, by_rows, in_order, load_pieces, matrix_axes, random_piece, shared_words, store_words, tile_axes
from .quantize import quantize, quantize_across
from .tiling import COUNTS, Tile, View, left, places, plan, program_tile

# Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy: MXFP8 0.70 and MXFP4 0.62; with
# 64 rows 0.66 and 0.60.
TILE = Tile(along=0, across=8192, rows=128, rows_first=False)
# In lanes: 0.83 and 0.80; with 64 rows 0.81 and 0.78, with 256 rows 0.81 and 0.78. Where the blocks along the last dim were read after the
# others were done, 0.81 and 0.78.
LANES_TILE = Tile(along=0, across=16384, rows=128, rows_first=False)


@triton.jit(do_not_specialize_on_alignment=COUNTS)
def quantize_both_kernel(
    x_ptr,
    elements_ptr,
    scales_ptr,
    across_ptr,  # elements and scales of the blocks that lie across the last dim
    across_scales_ptr,
    seed_ptr,  # None rounds to nearest
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length,  # of the dim before the last
    rows,  # the length of the last dim: what is a row of the blocks across it is an element of those along it
    length_tiles,
    row_tiles,
    size_a,
    size_b,
    x_length,
    x_row,
    x_a,
    x_b,
    x_c,
    elements_length,
    elements_row,  # from one byte to the next, however many codes it holds
    elements_a,
    elements_b,
    elements_c,
    scales_length,
    scales_row,  # from one block to the next
    scales_a,
    scales_b,
    scales_c,
    across_length,  # from one byte to the next
    across_row,
    across_a,
    across_b,
    across_c,
    across_scales_length,  # from one block to the next
    across_scales_row,
    across_scales_a,
    across_scales_b,
    across_scales_c,
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
    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    row, group = tile_axes(ROWS, BLOCKS, BLOCK, True, WIDE)
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    elements_ptr += first * elements_length + first_row // CODES_PER_BYTE + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first * scales_length + first_row // BLOCK + a * scales_a + b * scales_b + c * scales_c
    across_ptr += first // CODES_PER_BYTE + first_row * across_row + a * across_a + b * across_b + c * across_c
    across_scales_ptr += first // BLOCK + first_row * across_scales_row + a * across_scales_a + b * across_scales_b + c * across_scales_c
    place = first * place_length + first_row * place_row + a * place_a + b * place_b + c * place_c

    pieces = load_pieces(x_ptr, x_row, x_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, True, MASKED, WIDE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    scale, factor = block_scales(amax_of_pieces(pieces, True), tensor_scale, THRESHOLD, EMAX, LARGEST)
    if AXIS is not None:
        seed, shared = shared_words(seed_ptr, place, row, group, place_row, AXIS)
    LINES: tl.constexpr = BLOCKS * BLOCK // PIECES  # of a piece: a line is a row of the blocks along the last dim
    SLOT: tl.constexpr = 8 // CODES_PER_BYTE  # bits of a code in memory, and bytes of a word of eight
    UNIT: tl.constexpr = PIECES if CODES_PER_BYTE > 1 else 1  # codes that are stored as one, along the last dim
    line, unit = matrix_axes(LINES, ROWS // UNIT, WIDE)
    # Said to be as contiguous as x's elements are in a thread, codes are stored from where they are made.
    unit = tl.max_contiguous(unit, [1, 128 // x_ptr.dtype.element_ty.primitive_bitwidth // UNIT])
    WORD: tl.constexpr = tl.int64 if CODES_PER_BYTE == 1 else tl.int32
    words = tl.zeros([BLOCKS, BLOCK // PIECES, ROWS], WORD)
    scales = ()
    for j in tl.static_range(PIECES):
        random = None
        if AXIS is not None:
            random = random_piece(j, seed, shared, place, row, group, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK, True)
        x = to_float32(pieces[j])
        y = scaled_down(tl.abs(x), factor, tensor_scale, LARGEST)
        code = round_to_code(y, grid_exponent(as_bits(y), EMIN), random, MANTISSA_BITS, EMIN, LARGEST_CODE)
        code = tl.where(scale == NAN_SCALE, NAN_CODE, signed_code(code, as_bits(x), BITS, TWOS_COMPLEMENT))
        words |= code.to(WORD) << (SLOT * j)

        x = tl.reshape(x, LINES, ROWS // BLOCK, BLOCK)
        if AXIS is not None:
            random = tl.reshape(random, LINES, ROWS // BLOCK, BLOCK)
        along, y, exponent = scale_blocks(x, tensor_scale, THRESHOLD, EMIN, EMAX, LARGEST)
        code = round_to_code(y, exponent, random, MANTISSA_BITS, EMIN, LARGEST_CODE)
        code = tl.where(along == NAN_SCALE, NAN_CODE, signed_code(code, as_bits(x), BITS, TWOS_COMPLEMENT))
        scales = scales + (along.to(tl.uint8),)
        if CODES_PER_BYTE > 1:
            stored = pack(code, CODES_PER_BYTE)
            pointer = elements_ptr.to(tl.pointer_type(stored.dtype), bitcast=True)
            step = elements_length // SLOT
        else:
            stored = code.to(tl.uint8)
            pointer = elements_ptr
            step = elements_length
        pointer += j * step
        pointer += line * (PIECES * step) + unit
        stored = tl.reshape(stored, LINES, ROWS // UNIT)
        if MASKED:
            tl.store(pointer, stored, mask=(line * PIECES + j < elements_left) & (unit * UNIT < rows_left))
        else:
            tl.store(pointer, stored)

    # [LINES, ROWS / BLOCK, 1, 8] as a matrix of all lines
    stored = tl.reshape(tl.permute(in_order(scales, PIECES), (0, 3, 1, 2)), LINES * PIECES, ROWS // BLOCK)
    line, block = matrix_axes(LINES * PIECES, ROWS // BLOCK, WIDE)
    pointer = scales_ptr + (line * scales_length + block)
    if MASKED:
        tl.store(pointer, stored, mask=(line < elements_left) & (block * BLOCK < rows_left))
    else:
        tl.store(pointer, stored)
    store_words(across_ptr, words, across_row, 1, rows_left, elements_left, CODES_PER_BYTE, ROWS, BLOCKS * BLOCK, True, MASKED, WIDE)
    row, block = matrix_axes(ROWS, BLOCKS, WIDE)
    pointer = across_scales_ptr + (row * across_scales_row + block)
    if MASKED:
        tl.store(pointer, by_rows(scale, ROWS, BLOCKS, True).to(tl.uint8), mask=(row < rows_left) & (block * BLOCK < elements_left))
    else:
        tl.store(pointer, by_rows(scale, ROWS, BLOCKS, True).to(tl.uint8))


@triton.jit(do_not_specialize_on_alignment=COUNTS)
def quantize_both_lanes_kernel(
    x_ptr,
    elements_ptr,
    scales_ptr,
    across_ptr,  # elements and scales of the blocks that lie across the last dim
    across_scales_ptr,
    seed_ptr,  # None
    tensor_scale_ptr,  # None
    length,  # of the dim before the last
    rows,  # the length of the last dim: what is a row of the blocks across it is an element of those along it
    length_tiles,
    row_tiles,
    size_a,
    size_b,
    x_length,
    x_row,
    x_a,
    x_b,
    x_c,
    elements_length,
    elements_row,  # from one byte to the next, however many codes it holds
    elements_a,
    elements_b,
    elements_c,
    scales_length,
    scales_row,  # from one block to the next
    scales_a,
    scales_b,
    scales_c,
    across_length,  # from one byte to the next
    across_row,
    across_a,
    across_b,
    across_c,
    across_scales_length,  # from one block to the next
    across_scales_row,
    across_scales_a,
    across_scales_b,
    across_scales_c,
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
    NAN_CODE: tl.constexpr,
    NAN_SCALE: tl.constexpr,
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
    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    elements_ptr += first * elements_length + first_row // CODES_PER_BYTE + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first * scales_length + first_row // BLOCK + a * scales_a + b * scales_b + c * scales_c
    across_ptr += first // CODES_PER_BYTE + first_row * across_row + a * across_a + b * across_b + c * across_c
    across_scales_ptr += first // BLOCK + first_row * across_scales_row + a * across_scales_a + b * across_scales_b + c * across_scales_c
    # The tile is read twice, the second time from the L1 cache: 16 bytes a thread for the blocks along the last dim, and by `load_lanes`.
    LINES: tl.constexpr = BLOCKS * BLOCK
    line, element = matrix_axes(LINES, ROWS, WIDE)
    pointer = x_ptr + (line * x_length + element * x_row)
    if MASKED:
        x = tl.load(pointer, mask=(line < elements_left) & (element < rows_left), other=0)
    else:
        x = tl.load(pointer)
    quantize_across(
        x_ptr,
        across_ptr,
        across_scales_ptr,
        x_length,
        x_row,
        1,
        across_row,
        1,
        across_scales_row,
        rows_left,
        elements_left,
        THRESHOLD,
        BITS,
        CODES_PER_BYTE,
        MANTISSA_BITS,
        EMIN,
        EMAX,
        LARGEST,
        NAN_CODE,
        NAN_SCALE,
        TWOS_COMPLEMENT,
        BLOCK,
        BLOCKS,
        ROWS,
        MASKED,
        WIDE,
    )

    x = tl.reshape(x, LINES, ROWS // BLOCK, BLOCK)
    scale, factor = block_scales(amax_of_lanes(x), None, THRESHOLD, EMAX, LARGEST)
    code = quantize_lanes(
        x,
        scale,
        factor,
        BITS,
        MANTISSA_BITS,
        EMIN,
        LARGEST,
        NAN_CODE,
        NAN_SCALE,
        TWOS_COMPLEMENT,
    )
    BYTES: tl.constexpr = ROWS // CODES_PER_BYTE
    stored = tl.reshape(bytes_of(code, CODES_PER_BYTE, MANTISSA_BITS), LINES, BYTES)
    line, byte = matrix_axes(LINES, BYTES, WIDE)
    byte = tl.max_contiguous(byte, [1, PIECES // CODES_PER_BYTE])  # as x's elements in a thread: codes are stored where they are made
    pointer = elements_ptr + (line * elements_length + byte)
    if MASKED:
        tl.store(pointer, stored, mask=(line < elements_left) & (byte * CODES_PER_BYTE < rows_left))
    else:
        tl.store(pointer, stored)
    line, block = matrix_axes(LINES, ROWS // BLOCK, WIDE)
    pointer = scales_ptr + (line * scales_length + block)
    scale = tl.reshape(scale, LINES, ROWS // BLOCK).to(tl.uint8)
    if MASKED:
        tl.store(pointer, scale, mask=(line < elements_left) & (block * BLOCK < rows_left))
    else:
        tl.store(pointer, scale)


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
    )
    lanes = not fmt.divides and block_size <= LONGEST_BLOCK and in_lanes(x, seed)
    found = plan(x.shape, dim - 1, block_size, LANES_TILE if lanes else TILE, views, 0, places(x.shape, seed is not None))
    if found is None or not found.constants["ROWS_INNERMOST"] or found.constants["ROWS"] % block_size:
        return None
    if not (known(found.sizes_and_strides[0] == length) and known(found.sizes_and_strides[1] == rows)):
        return None
    return prepare(quantize_both_lanes_kernel if lanes else quantize_both_kernel, found, fmt, THRESHOLD=threshold)


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
