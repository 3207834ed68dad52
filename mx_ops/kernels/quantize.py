"""quantize in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from .fp8 import bytes_of_fp8, converts, words_of_fp8
from .lane_codes import bytes_in_lanes, bytes_of, code_bounds, words_in_lanes
from .lanes import LONGEST_BLOCK, amax_of_lanes, amax_of_pieces_in_lanes, in_lanes, lane_scales, load_lanes
from .launch import Launch, launch, prepare, quantum
from .numerics import (
    as_bits,
    block_maximum,
    block_scales,
    grid_exponent,
    random_bits,
    round_to_code,
    scale_blocks,
    scaled_down,
    signed_code,
    to_float32,
    usable,
)
from .pieces import (
    PIECES,
    amax_of_pieces,
    by_rows,
    in_order,
    load_pieces,
    matrix_axes,
    random_pieces,
    store_codes,
    store_scales,
    tile_axes,
    words_of_codes,
)
from .tiling import SIZES, Tile, View, lanes, left, places, plan, program_tile

# Only a GPU shows: where words and scales are stored, what `max_contiguous` claims (test_on_gpu, "Addresses").

# Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy. Along 1.01; by the formulas alone, as other GPUs
# have it, too, but an H200, whose memory is faster, has 0.86 to 0.91. Across, with the next blocks in the next program, MXFP8 0.88 and
# MXFP4 0.83; with the next rows 0.86 and 0.84.
TILE = Tile(along=8192, across=4096, rows_first=False)  # along over, and a thread's elements times, the codes in a byte
# Across, in lanes: MXFP8 0.97, MXFP4 and MXINT8 0.985; with half as many elements 0.97 and 0.98, with twice as many 0.98, 0.92 and 0.94.
LANES_TILE = TILE._replace(across=16384, rows=128)
# Quotients want registers. Along, NVFP4 0.88, float32 1.02; with twice as many elements a thread 0.03 and 0.06 less. Across, in lanes,
# 0.79, with 128 rows 0.72; float32 0.96, with twice as many a thread 0.82.
DIVIDED_TILE = TILE._replace(along=2048, a_thread=32)
DIVIDED_LANES_TILE = DIVIDED_TILE._replace(across=8192, a_thread=64)


@triton.jit(**SIZES)
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
    IN_LANES: tl.constexpr,
    CONVERTS: tl.constexpr,
    PARTS: tl.constexpr,
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
    row = lanes(ROWS, 0, WIDE)
    block = lanes(BLOCKS, 1, WIDE)
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    elements_ptr += first // CODES_PER_BYTE * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first // BLOCK * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c
    place = first * place_length + first_row * place_row + a * place_a + b * place_b + c * place_c

    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    x = load_blocks(x_ptr, row, block, x_row, x_length, rows_left, elements_left, PARTS, ROWS, BLOCKS, BLOCK, MASKED, WIDE)
    random = None
    if AXIS is not None:
        random = random_bits(tl.load(seed_ptr), place, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK)
    A_THREAD: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth  # neighbours
    scale, codes = quantize_blocks(
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
    byte = block * (BLOCK // CODES_PER_BYTE) + lanes(BLOCK // CODES_PER_BYTE, 2, WIDE)
    if IN_LANES:
        byte = tl.max_contiguous(byte, [1, 1, A_THREAD // CODES_PER_BYTE])
    if MASKED:
        byte_mask = (row < rows_left) & (byte * CODES_PER_BYTE < elements_left)
        block_mask = (row < rows_left) & (block * BLOCK < elements_left)
    else:
        byte_mask, block_mask = None, None
    tl.store(elements_ptr + (row * elements_row + byte * elements_length), codes, mask=byte_mask)
    tl.store(scales_ptr + (row * scales_row + block * scales_length), scale.to(tl.uint8), mask=block_mask)


@triton.jit
def quantize_blocks(
    x,
    random,
    tensor_scale,
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
    A_THREAD: tl.constexpr,
):
    """The scales of blocks along the last of three axes, of which a thread has so many neighbours, and their codes as bytes."""
    if CONVERTS:
        if IN_LANES:
            scale, factor = lane_scales(amax_of_lanes(x, A_THREAD), EMAX, THRESHOLD)
        else:
            scale, factor = block_scales(block_maximum(tl.abs(to_float32(x)), 2), None, THRESHOLD, EMAX, LARGEST)
            factor = tl.where(scale == NAN_SCALE, float("nan"), factor)
        codes = bytes_of_fp8(x, factor, MANTISSA_BITS)
    elif IN_LANES:
        amax = amax_of_lanes(x, A_THREAD)
        scale, factor = lane_scales(amax, EMAX, THRESHOLD)
        limit, kept = code_bounds(amax, LARGEST_CODE, NAN_CODE)
        codes = bytes_in_lanes(x, random, factor, limit, kept, BITS, CODES_PER_BYTE, MANTISSA_BITS, EMIN, EMAX, TWOS_COMPLEMENT)
    else:
        x = to_float32(x)
        scale, y, exponent = scale_blocks(x, tensor_scale, THRESHOLD, EMIN, EMAX, LARGEST, random is not None)
        code = round_to_code(y, exponent, random, MANTISSA_BITS, EMIN, LARGEST_CODE)
        code = signed_code(code, as_bits(x), BITS, TWOS_COMPLEMENT)
        if CODES_PER_BYTE == 1:
            codes = tl.where(scale == NAN_SCALE, NAN_CODE, code).to(tl.uint8)
        else:
            first, second = tl.split(tl.reshape(code, x.shape[0], x.shape[1], x.shape[2] // 2, 2))
            codes = tl.where(scale == NAN_SCALE, 0, first | (second << BITS)).to(tl.uint8)  # half a byte is never NaN
    return scale, codes


@triton.jit
def load_blocks(
    x_ptr,
    row,
    block,
    x_row,
    x_length,
    rows_left,
    elements_left,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """A tile [ROWS, BLOCKS, BLOCK]. A warp reads a part of its blocks at once: if that is 16 bytes of each, a thread has all of them."""
    if PARTS == 1:
        return load_part(x_ptr, row, block, x_row, x_length, rows_left, elements_left, 0, PARTS, BLOCK, MASKED, WIDE)
    else:
        parts = ()
        for j in tl.static_range(PARTS):
            part = load_part(x_ptr, row, block, x_row, x_length, rows_left, elements_left, j, PARTS, BLOCK, MASKED, WIDE)
            parts = parts + (part,)
        return tl.reshape(tl.permute(in_order(parts, PARTS), (0, 1, 3, 2)), ROWS, BLOCKS, BLOCK)


@triton.jit
def load_part(
    x_ptr,
    row,
    block,
    x_row,
    x_length,
    rows_left,
    elements_left,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """A part of each block."""
    element = block * BLOCK + (PART * (BLOCK // PARTS) + lanes(BLOCK // PARTS, 2, WIDE))
    pointer = x_ptr + (row * x_row + element * x_length)
    if MASKED:
        return tl.load(pointer, mask=(row < rows_left) & (element < elements_left), other=0)
    else:
        return tl.load(pointer)


@triton.jit
def quantize_pieces(
    pieces,
    randoms,
    tensor_scale,
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
    ROWS_INNERMOST: tl.constexpr,
):
    """The scales of the blocks of a tile in pieces, and the words of its groups' codes."""
    if IN_LANES:
        amax = amax_of_pieces_in_lanes(pieces, 1 if ROWS_INNERMOST else 2)
        scale, factor = lane_scales(amax, EMAX, THRESHOLD)
    else:
        scale, factor = block_scales(amax_of_pieces(pieces, ROWS_INNERMOST), tensor_scale, THRESHOLD, EMAX, LARGEST)
        if CONVERTS:
            factor = tl.where(scale == NAN_SCALE, float("nan"), factor)
    if CONVERTS:
        words = words_of_fp8(pieces, factor, MANTISSA_BITS)
    elif IN_LANES:
        limit, kept = code_bounds(amax, LARGEST_CODE, NAN_CODE)
        words = words_in_lanes(pieces, randoms, factor, limit, kept, BITS, CODES_PER_BYTE, MANTISSA_BITS, EMIN, EMAX, TWOS_COMPLEMENT)
    else:
        words = words_by_formulas(
            pieces,
            randoms,
            tensor_scale,
            scale,
            factor,
            BITS,
            CODES_PER_BYTE,
            MANTISSA_BITS,
            EMIN,
            LARGEST,
            LARGEST_CODE,
            NAN_CODE,
            NAN_SCALE,
            TWOS_COMPLEMENT,
        )
    return scale, words


@triton.jit
def words_by_formulas(
    x,
    randoms,
    tensor_scale,
    scale,
    factor,
    BITS: tl.constexpr,
    CODES_PER_BYTE: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    LARGEST: tl.constexpr,
    LARGEST_CODE: tl.constexpr,
    NAN_CODE: tl.constexpr,
    NAN_SCALE: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """The codes of a tuple of elements of blocks with these scales, as words. ``randoms`` is as long, or empty."""
    codes = ()
    for j in tl.static_range(len(x)):
        random = None
        if len(randoms) > 0:
            random = randoms[j]
        element = to_float32(x[j])
        y = scaled_down(tl.abs(element), factor, tensor_scale, LARGEST, random is not None)
        code = round_to_code(y, grid_exponent(as_bits(y), EMIN), random, MANTISSA_BITS, EMIN, LARGEST_CODE)
        codes = codes + (signed_code(code, as_bits(element), BITS, TWOS_COMPLEMENT),)
    words = words_of_codes(codes, CODES_PER_BYTE)
    finite = ()
    for j in tl.static_range(len(words)):
        finite = finite + (tl.where(scale == NAN_SCALE, bytes_of(NAN_CODE), words[j]),)  # half a byte is never NaN
    return finite


@triton.jit(**SIZES)
def quantize_pieces_kernel(
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
    WORDS: tl.constexpr,  # whether every row's codes start at a multiple of eight of them
    IN_LANES: tl.constexpr,
    CONVERTS: tl.constexpr,
    AXIS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
    OUTER: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, BLOCK, BLOCKS, ROWS, ROWS_FIRST, OUTER)
    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    row, group = tile_axes(ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, WIDE)
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    elements_ptr += first // CODES_PER_BYTE * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first // BLOCK * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c
    place = first * place_length + first_row * place_row + a * place_a + b * place_b + c * place_c

    pieces = load_pieces(x_ptr, x_row, x_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, MASKED, WIDE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    INTEGER: tl.constexpr = tl.int16 if IN_LANES else tl.int32
    randoms = random_pieces(seed_ptr, place, row, group, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, INTEGER)
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
        ROWS_INNERMOST,
    )
    COLUMNS: tl.constexpr = BLOCKS * BLOCK
    store_codes(
        elements_ptr,
        words,
        elements_row,
        elements_length,
        rows_left,
        elements_left,
        CODES_PER_BYTE,
        WORDS,
        ROWS,
        COLUMNS,
        ROWS_INNERMOST,
        MASKED,
        WIDE,
    )
    scale = by_rows(scale, ROWS, BLOCKS, ROWS_INNERMOST)
    store_scales(scales_ptr, scale, scales_row, rows_left, elements_left, ROWS, BLOCKS, BLOCK, MASKED, WIDE)


@triton.jit(**SIZES)
def quantize_lanes_kernel(
    x_ptr,
    elements_ptr,
    scales_ptr,
    seed_ptr,  # None
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
    CONVERTS: tl.constexpr,
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
    elements_ptr += first // CODES_PER_BYTE * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first // BLOCK * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c

    elements, amax = load_lanes(x_ptr, x_row, x_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, 2, MASKED, WIDE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
        scale, factor = block_scales(amax << 16, tensor_scale, THRESHOLD, EMAX, LARGEST)
    else:
        scale, factor = lane_scales(amax, EMAX, THRESHOLD)
    if CONVERTS:
        words = words_of_fp8(elements, factor, MANTISSA_BITS)
    elif tensor_scale is not None:
        words = words_by_formulas(
            elements,
            (),
            tensor_scale,
            scale,
            factor,
            BITS,
            CODES_PER_BYTE,
            MANTISSA_BITS,
            EMIN,
            LARGEST,
            LARGEST_CODE,
            NAN_CODE,
            NAN_SCALE,
            TWOS_COMPLEMENT,
        )
    else:
        limit, kept = code_bounds(amax, LARGEST_CODE, NAN_CODE)
        words = words_in_lanes(elements, (), factor, limit, kept, BITS, CODES_PER_BYTE, MANTISSA_BITS, EMIN, EMAX, TWOS_COMPLEMENT)
    CODES: tl.constexpr = 4 * CODES_PER_BYTE  # of a word
    row, word = matrix_axes(ROWS, BLOCKS * BLOCK // CODES, WIDE)
    pointer = elements_ptr.to(tl.pointer_type(tl.int32), bitcast=True) + (row * (elements_row // 4) + word * elements_length)
    words = tl.reshape(tl.permute(in_order(words, BLOCK // CODES), (1, 0, 2)), ROWS, BLOCKS * BLOCK // CODES)
    if MASKED:
        tl.store(pointer, words, mask=(row < rows_left) & (word * CODES < elements_left))
    else:
        tl.store(pointer, words)
    store_scales(scales_ptr, tl.trans(scale), scales_row, rows_left, elements_left, ROWS, BLOCKS, BLOCK, MASKED, WIDE)


def find(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    aligned: bool,
) -> Launch | None:
    """The launch for these tensors; None if their shape is beyond the kernels."""
    views = (View(x.stride()), View(elements.stride(), fmt.codes_per_byte), View(scales.stride(), block_size))
    words = known(x.shape[dim] % 8 == 0)  # rows of codes then start at multiples of eight: nothing is between them
    lanes = not fmt.divides and in_lanes(x)
    whole = in_lanes(x) and seed is None and words and block_size <= LONGEST_BLOCK
    if fmt.divides:
        tile = DIVIDED_LANES_TILE if whole else DIVIDED_TILE
    else:
        tile = LANES_TILE if whole else TILE
        tile = tile._replace(along=tile.along // fmt.codes_per_byte, along_a_thread=tile.along_a_thread * fmt.codes_per_byte)
    found = plan(x.shape, dim, block_size, tile, views, quantum(x, aligned), places(x.shape, seed is not None))
    if found is None:
        return None
    if whole and found.constants["ROWS_INNERMOST"]:
        kernel = quantize_lanes_kernel
    else:
        kernel = quantize_pieces_kernel if found.in_pieces else quantize_kernel
    # Where a block's scale takes long to compute, a thread has whole blocks, so that no two compute the same one.
    parts = min(PIECES.value, block_size * x.itemsize // 16) if fmt.divides else 1
    more = {"WORDS": words, "IN_LANES": lanes, "CONVERTS": converts(fmt, seed, x.device), "PARTS": parts}
    return prepare(kernel, found, fmt, THRESHOLD=threshold, **more)


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
    """Fill elements and scales; False if the shape is beyond the kernels."""
    return launch(find, (x, elements, scales, seed, tensor_scale), (fmt, dim, block_size, threshold), traced)
