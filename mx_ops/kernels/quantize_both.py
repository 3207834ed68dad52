"""quantize along the last two dims at once, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from .fp8 import converts
from .lanes import has_lanes, in_lanes, pieces_in_bfloat16
from .launch import Launch, launch, prepare
from .numerics import (
    usable,
)
from .pieces import (
    PIECES,
    by_rows,
    in_order,
    load_pieces,
    matrix_axes,
    random_pieces,
    store_codes,
    store_scales,
    tile_axes,
)
from .quantize import quantize, quantize_blocks, quantize_pieces
from .tiling import SIZES, Tile, View, left, places, plan, program_tile

# Only a GPU shows: where words and scales are stored, what `max_contiguous` claims (test_on_gpu, "Addresses").

# Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy. What tiles lack for 0.93 to 0.97 are the scales: a
# program has but a few bytes of each row and each column of them, and these the L2 cache takes for a whole sector's time each. (Scales put
# where whole sectors are written, in wrong places, MXFP8 0.93 and MXFP4 0.97.) MXFP4 0.88 to 0.91, MXFP6 and MXINT8 0.87 to 0.89; float32
# 0.95 to 0.97, 0.94 and 0.945, MXFP8 0.955. With the next blocks in the next program 0.86, 0.875, float32 0.91 and 0.93; 64 rows 0.86.
TILE = Tile(along=0, across=8192, rows=128)
# Quotients want registers: NVFP4 0.40, float32 0.66, with 64 elements a thread 0.38 and 0.48.
DIVIDED_TILE = TILE._replace(across=4096, rows=64, a_thread=32)
# Where an instruction converts 16-bit numbers, a thread has registers for 128: MXFP8 0.89 to 0.90, with half as many lines 0.89. With 64 a
# thread 0.87, and with twice as many lines and threads 0.885; with 256 rows 0.87.
CONVERTED_TILE = TILE._replace(across=16384, a_thread=128, rows_first=False)
LARGE, LARGE_CONVERTED_TILE = 1 << 25, CONVERTED_TILE._replace(across=32768)  # whole tiles of smaller tensors have one size


@triton.jit(**SIZES)
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
    IN_LANES: tl.constexpr,
    CONVERTS: tl.constexpr,
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
    if IN_LANES:
        pieces = pieces_in_bfloat16(pieces)  # of other dtypes it takes 3 instructions an element, and saves 8 to 10, and registers
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    INTEGER: tl.constexpr = tl.int16 if IN_LANES else tl.int32
    randoms = random_pieces(seed_ptr, place, row, group, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK, True, INTEGER)
    LINES: tl.constexpr = BLOCKS * BLOCK // PIECES  # of a piece: a line is a row of the blocks along the last dim
    BYTES: tl.constexpr = ROWS // CODES_PER_BYTE
    line, byte = matrix_axes(LINES, BYTES, WIDE)
    A_THREAD: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth  # neighbours
    # Said to be as contiguous as x's elements are in a thread, codes are stored from where they are made.
    byte = tl.max_contiguous(byte, [1, A_THREAD // CODES_PER_BYTE])
    scales = ()
    for j in tl.static_range(PIECES):
        x = tl.reshape(pieces[j], LINES, ROWS // BLOCK, BLOCK)
        random = None
        if AXIS is not None:
            random = tl.reshape(randoms[j], LINES, ROWS // BLOCK, BLOCK)
        along, stored = quantize_blocks(
            x,
            random,
            tensor_scale,
            THRESHOLD,
            BITS,
            CODES_PER_BYTE,
            MANTISSA_BITS,
            EMIN,
            EMAX,
            LARGEST,
            LARGEST_CODE,
            NAN_CODE,
            NAN_SCALE,
            TWOS_COMPLEMENT,
            IN_LANES,
            CONVERTS,
            A_THREAD,
        )
        scales = scales + (along.to(tl.uint8),)
        pointer = elements_ptr + j * elements_length + (line * (PIECES * elements_length) + byte)
        stored = tl.reshape(stored, LINES, BYTES)
        if MASKED:
            tl.store(pointer, stored, mask=(line * PIECES + j < elements_left) & (byte * CODES_PER_BYTE < rows_left))
        else:
            tl.store(pointer, stored)

    # [LINES, ROWS / BLOCK, 1, 8] is stored as a matrix of all lines.
    stored = tl.reshape(tl.permute(in_order(scales, PIECES), (0, 3, 1, 2)), LINES * PIECES, ROWS // BLOCK)
    store_scales(scales_ptr, stored, scales_length, elements_left, rows_left, LINES * PIECES, ROWS // BLOCK, BLOCK, MASKED, WIDE)

    scale, words = quantize_pieces(
        pieces,
        randoms,
        tensor_scale,
        THRESHOLD,
        BITS,
        CODES_PER_BYTE,
        MANTISSA_BITS,
        EMIN,
        EMAX,
        LARGEST,
        LARGEST_CODE,
        NAN_CODE,
        NAN_SCALE,
        TWOS_COMPLEMENT,
        IN_LANES,
        CONVERTS,
        True,
    )
    COLUMNS: tl.constexpr = BLOCKS * BLOCK
    store_codes(across_ptr, words, across_row, 1, rows_left, elements_left, CODES_PER_BYTE, True, ROWS, COLUMNS, True, MASKED, WIDE)
    scale = by_rows(scale, ROWS, BLOCKS, True)
    store_scales(across_scales_ptr, scale, across_scales_row, rows_left, elements_left, ROWS, BLOCKS, BLOCK, MASKED, WIDE)


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
    lanes = not fmt.divides and (in_lanes(x) or (has_lanes(x.device) and seed is None and fmt.rounds_from_odd))
    converted = converts(fmt, seed, x.device)
    tile = DIVIDED_TILE if fmt.divides else TILE
    if converted and x.itemsize == 2:
        whole = known(length % (LARGE_CONVERTED_TILE.across // LARGE_CONVERTED_TILE.rows) == 0)
        tile = LARGE_CONVERTED_TILE if lanes and whole and known(x.numel() >= LARGE) else CONVERTED_TILE
    found = plan(x.shape, dim - 1, block_size, tile, views, 0, places(x.shape, seed is not None))
    if found is None or not found.constants["ROWS_INNERMOST"] or found.constants["ROWS"] % block_size:
        return None
    if not (known(found.sizes_and_strides[0] == length) and known(found.sizes_and_strides[1] == rows)):
        return None
    return prepare(quantize_both_kernel, found, fmt, THRESHOLD=threshold, IN_LANES=lanes, CONVERTS=converted)


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
