"""fake_quant in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from .lanes import LONGEST_BLOCK, amax_of_pieces_in_lanes, fake_quant_lanes, in_lanes, lane_axes, load_lanes
from .launch import Launch, launch, prepare, quantum
from .numerics import (
    as_bits,
    block_scales,
    element_limit,
    from_float32,
    grid_exponent,
    random_bits,
    round_to_value,
    scale_blocks,
    scaled,
    scaled_down,
    to_float32,
    usable,
    with_element_sign,
)
from .pieces import (
    PIECES,
    amax_of_pieces,
    load_pieces,
    random_piece,
    shared_words,
    store_piece,
    store_pieces,
    tile_axes,
)
from .tiling import SIZES, Tile, View, inside, lanes, left, places, plan, program_tile

# Only a GPU shows: what is read from where x starts between multiples of 16 bytes (test_on_gpu::test_inputs_may_start_anywhere).

# Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy. Along: nearest 1.00, stochastic 1.00; with 2048, 1.00
# and 0.99; with 4096 and 8192, 0.99 and 0.93. Across, stochastic, in lanes: 0.985 to 0.99; with 128 rows 0.98, with 32 elements a thread
# 0.82 to 0.90, where the next program has the next blocks 0.89.
TILE = Tile(along=1024, across=2048)
# Across, in lanes: 0.99; with 2 rows a thread 0.98, with 64 rows 0.97.
LANES_TILE = Tile(along=1024, across=4096, rows=128, a_thread=128)
# Quotients want registers. Nearest 1.00 along, 0.99 across, in float32 both 1.00; stochastic 0.81 and 0.68, in float32 1.00 and 0.99. With
# 32 elements a thread along 0.79, with 8 0.71; in float32, across, stochastic, with 64 rows 0.90, with 2048 elements 0.87 to 0.93.
DIVIDED_TILE = TILE._replace(along=512, across=4096, rows=128)
DIVIDED_LANES_TILE = LANES_TILE._replace(along=512, a_thread=64)


@triton.jit(**SIZES)
def fake_quant_kernel(
    x_ptr,
    out_ptr,
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
    out_length,
    out_row,
    out_a,
    out_b,
    out_c,
    place_length,
    place_row,
    place_a,
    place_b,
    place_c,
    THRESHOLD: tl.constexpr,
    DTYPE_MAX: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    LARGEST: tl.constexpr,
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
    row = lanes(ROWS, 0, WIDE)
    element = lanes(BLOCKS, 1, WIDE) * BLOCK + lanes(BLOCK, 2, WIDE)
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    out_ptr += first * out_length + first_row * out_row + a * out_a + b * out_b + c * out_c
    place = first * place_length + first_row * place_row + a * place_a + b * place_b + c * place_c

    if MASKED:
        mask = inside(row, element, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        x = to_float32(tl.load(x_ptr + (row * x_row + element * x_length), mask=mask, other=0))
    else:
        mask = None
        x = to_float32(tl.load(x_ptr + (row * x_row + element * x_length)))
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    byte, y, exponent = scale_blocks(x, tensor_scale, THRESHOLD, EMIN, EMAX, LARGEST, AXIS is not None)
    random = None
    if AXIS is not None:
        random = random_bits(tl.load(seed_ptr), place, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK)
    limit = tl.minimum(element_limit(byte, tensor_scale, DTYPE_MAX), LARGEST)
    rounded = tl.minimum(round_to_value(y, exponent, random, MANTISSA_BITS), limit)
    value = with_element_sign(scaled(rounded, byte, tensor_scale, DTYPE_MAX), as_bits(x), TWOS_COMPLEMENT)
    out = from_float32(value, out_ptr.dtype.element_ty)
    tl.store(out_ptr + (row * out_row + element * out_length), out, mask=mask)


@triton.jit(**SIZES)
def fake_quant_pieces_kernel(
    x_ptr,
    out_ptr,
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
    out_length,
    out_row,
    out_a,
    out_b,
    out_c,
    place_length,
    place_row,
    place_a,
    place_b,
    place_c,
    THRESHOLD: tl.constexpr,
    DTYPE_MAX: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    LARGEST: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
    IN_LANES: tl.constexpr,
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
    out_ptr += first * out_length + first_row * out_row + a * out_a + b * out_b + c * out_c
    place = first * place_length + first_row * place_row + a * place_a + b * place_b + c * place_c

    pieces = load_pieces(x_ptr, x_row, x_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, MASKED, WIDE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    if IN_LANES:
        amax_bits = amax_of_pieces_in_lanes(pieces, 1 if ROWS_INNERMOST else 2) << 16
    else:
        amax_bits = amax_of_pieces(pieces, ROWS_INNERMOST)
    byte, factor = block_scales(amax_bits, tensor_scale, THRESHOLD, EMAX, LARGEST)
    limit = tl.minimum(element_limit(byte, tensor_scale, DTYPE_MAX), LARGEST)
    if AXIS is not None:
        seed, words = shared_words(seed_ptr, place, row, group, place_row, AXIS)
    outs = ()
    # Stored as soon as it is made, a piece leaves registers for the next ones; of 4 bytes an element Triton 3.6 then takes more.
    AT_ONCE: tl.constexpr = ROWS_INNERMOST and out_ptr.dtype.element_ty.primitive_bitwidth == 16
    for j in tl.static_range(PIECES):
        random = None
        if AXIS is not None:
            random = random_piece(j, seed, words, place, row, group, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST)
        if IN_LANES:
            out = fake_quant_lanes(
                pieces[j], random, byte, factor, tensor_scale, DTYPE_MAX, MANTISSA_BITS, EMIN, EMAX, LARGEST, TWOS_COMPLEMENT
            )
        else:
            x = to_float32(pieces[j])
            y = scaled_down(tl.abs(x), factor, tensor_scale, LARGEST, random is not None)
            rounded = tl.minimum(round_to_value(y, grid_exponent(as_bits(y), EMIN), random, MANTISSA_BITS), limit)
            value = with_element_sign(scaled(rounded, byte, tensor_scale, DTYPE_MAX), as_bits(x), TWOS_COMPLEMENT)
            out = from_float32(value, out_ptr.dtype.element_ty)
        if AT_ONCE:
            store_piece(j, out_ptr, out, out_row, out_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, MASKED, WIDE)
        else:
            outs = outs + (out,)
    if ROWS_INNERMOST:
        if not AT_ONCE:
            for j in tl.static_range(PIECES):
                store_piece(j, out_ptr, outs[j], out_row, out_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, MASKED, WIDE)
    else:
        store_pieces(out_ptr, outs, out_row, out_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, False, MASKED, WIDE)


@triton.jit(**SIZES)
def fake_quant_lanes_kernel(
    x_ptr,
    out_ptr,
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
    out_length,
    out_row,
    out_a,
    out_b,
    out_c,
    place_length,
    place_row,
    place_a,
    place_b,
    place_c,
    THRESHOLD: tl.constexpr,
    DTYPE_MAX: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    LARGEST: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_A_THREAD: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    OUTER: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, BLOCK, BLOCKS, ROWS, ROWS_FIRST, OUTER)
    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    x_ptr += first * x_length + first_row * x_row + a * x_a + b * x_b + c * x_c
    out_ptr += first * out_length + first_row * out_row + a * out_a + b * out_b + c * out_c

    elements, amax = load_lanes(x_ptr, x_row, x_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, ROWS_A_THREAD, MASKED, WIDE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    byte, factor = block_scales(amax << 16, tensor_scale, THRESHOLD, EMAX, LARGEST)
    block, row = lane_axes(ROWS, BLOCKS, ROWS_A_THREAD, WIDE)
    pointer = out_ptr + (row * out_row + block * BLOCK * out_length)
    for j in tl.static_range(BLOCK):
        out = fake_quant_lanes(
            elements[j], None, byte, factor, tensor_scale, DTYPE_MAX, MANTISSA_BITS, EMIN, EMAX, LARGEST, TWOS_COMPLEMENT
        )
        if MASKED:
            tl.store(pointer, out, mask=(row < rows_left) & (block * BLOCK + j < elements_left))
        else:
            tl.store(pointer, out)
        pointer += out_length


def find(
    x: Tensor,
    out: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    aligned: bool,
) -> Launch | None:
    """The launch for these tensors; None if their shape is beyond the kernels."""
    views = (View(x.stride()), View(out.stride()))
    lanes = in_lanes(x) and (seed is None or not fmt.divides)
    whole = lanes and seed is None and block_size <= LONGEST_BLOCK
    if fmt.divides:
        tile = DIVIDED_LANES_TILE if whole else DIVIDED_TILE
    else:
        tile = LANES_TILE if whole else TILE
    found = plan(x.shape, dim, block_size, tile, views, quantum(x, aligned), places(x.shape, seed is not None))
    if found is None:
        return None
    if whole and found.constants["ROWS_INNERMOST"]:
        kernel = fake_quant_lanes_kernel
    else:
        kernel = fake_quant_pieces_kernel if found.in_pieces else fake_quant_kernel
    more = {"DTYPE_MAX": torch.finfo(out.dtype).max, "IN_LANES": lanes, "ROWS_A_THREAD": tile.a_thread // LONGEST_BLOCK}
    return prepare(kernel, found, fmt, THRESHOLD=threshold, **more)


def fake_quant(
    x: Tensor,
    out: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> bool:
    """Fill out; False if the shape is beyond the kernels."""
    return launch(find, (x, out, seed, tensor_scale), (fmt, dim, block_size, threshold), traced)
