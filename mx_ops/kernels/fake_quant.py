"""fake_quant in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from .bf16x2 import round_packed, scale_up
from .cases import choose
from .grid import PACKED, PARTS, ROWS_INNERMOST, SIZES, WHOLE, View, cut, lay_out, left, places, prepare, program_tile
from .launch import Launch, launch, quantum
from .rules import (
    LARGEST,
    as_bits,
    block_scales,
    element_limit,
    from_float32,
    grid_exponent,
    round_to_value,
    scale_value,
    scaled,
    scaled_down,
    to_float32,
    usable,
    with_element_sign,
)
from .tile import amax_of_parts, load_tile, part_pointer, random_part, shared_words, store_by_rows, store_part

# Only a GPU shows: what is read from where x starts between multiples of 16 bytes (test_on_gpu::test_inputs_may_start_anywhere).


# fmt: off
@triton.jit(**SIZES)
def fake_quant_kernel(
    x_ptr, out_ptr,
    seed_ptr,  # None rounds to nearest
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length, rows, length_tiles, row_tiles, size_a, size_b,
    stride_x_length, stride_x_row, stride_x_a, stride_x_b, stride_x_c,
    stride_out_length, stride_out_row, stride_out_a, stride_out_b, stride_out_c,
    stride_place_length, stride_place_row, stride_place_a, stride_place_b, stride_place_c,
    FORMAT: tl.constexpr, TILE: tl.constexpr,
):
    # fmt: on
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, TILE)
    rows_left, elements_left = left(first_row, first, rows, length, TILE)
    x_ptr += first * stride_x_length + first_row * stride_x_row + a * stride_x_a + b * stride_x_b + c * stride_x_c
    out_ptr += first * stride_out_length + first_row * stride_out_row + a * stride_out_a + b * stride_out_b + c * stride_out_c
    place = first * stride_place_length + first_row * stride_place_row
    place += a * stride_place_a + b * stride_place_b + c * stride_place_c

    parts = load_tile(x_ptr, stride_x_row, stride_x_length, rows_left, elements_left, TILE)
    amax_bits = amax_of_parts(parts, TILE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    if TILE[PACKED]:
        amax_bits <<= 16
    byte, factor = block_scales(amax_bits, tensor_scale, FORMAT)
    limit = tl.minimum(element_limit(byte, tensor_scale, FORMAT), FORMAT[LARGEST])
    if seed_ptr is not None:
        seed = tl.load(seed_ptr)
        words = shared_words(seed, place, stride_place_row, TILE)
    COUNT: tl.constexpr = TILE[PARTS]
    # Stored as soon as it is made, a part leaves registers for the next ones; of 4 bytes an element Triton 3.6 then takes more.
    # Addresses of whole blocks follow from the last ones: made anew in the loop they take 86 registers for 75 (NVFP4). Those of eight parts
    # are made anew: one after the other they take 239 for 166 (NVFP4, float32, seeded: 0.67 of a copy for 0.84; H200, Triton 3.6).
    AT_ONCE: tl.constexpr = TILE[ROWS_INNERMOST] and out_ptr.dtype.element_ty.primitive_bitwidth == 16
    pointer = part_pointer(0, out_ptr, stride_out_row, stride_out_length, TILE)
    outs = ()
    for j in tl.static_range(COUNT):
        random = None
        if seed_ptr is not None:
            random = random_part(j, seed, words, place, stride_place_row, stride_place_length, TILE)
        out = fake_quant_part(parts[j], random, byte, factor, limit, tensor_scale, out_ptr.dtype.element_ty, FORMAT, TILE)
        if AT_ONCE:
            if not TILE[WHOLE]:
                pointer = part_pointer(j, out_ptr, stride_out_row, stride_out_length, TILE)
            store_part(j, pointer, out, rows_left, elements_left, TILE)
            if TILE[WHOLE]:
                pointer += stride_out_length
        else:
            outs = outs + (out,)
    if COUNT > 1 and not TILE[ROWS_INNERMOST]:
        store_by_rows(out_ptr, outs, stride_out_row, stride_out_length, rows_left, elements_left, TILE)
    elif not AT_ONCE:
        for j in tl.static_range(COUNT):
            pointer = part_pointer(j, out_ptr, stride_out_row, stride_out_length, TILE)
            store_part(j, pointer, outs[j], rows_left, elements_left, TILE)


@triton.jit
def fake_quant_part(x, random, byte, factor, limit, tensor_scale, DTYPE: tl.constexpr, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """What elements of blocks with these scales become. Quotients are float32s."""
    if TILE[PACKED] and tensor_scale is None:
        limit = from_float32(limit, tl.bfloat16).to(tl.int16, bitcast=True)
        rounded = round_packed(x, from_float32(factor, tl.bfloat16), limit, random, FORMAT)
        return scale_up(rounded, from_float32(scale_value(byte), tl.bfloat16), x, FORMAT)
    else:
        x = to_float32(x)
        y = scaled_down(tl.abs(x), factor, tensor_scale, random is not None, FORMAT)  # abs is a free modifier of what reads it
        rounded = tl.minimum(round_to_value(y, grid_exponent(y, FORMAT), random, FORMAT), limit)
        return from_float32(with_element_sign(scaled(rounded, byte, tensor_scale, FORMAT), as_bits(x), FORMAT), DTYPE)


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
    """The launch for these tensors; None if their shape is beyond the kernel."""
    views = (View(x.stride()), View(out.stride()), places(x.shape, seed is not None))
    layout = lay_out(x.shape, dim, block_size, views, quantum(x, aligned))
    case = layout and choose("fake_quant", layout.kind, x, seed is not None, fmt, dim, block_size)
    return layout and case and prepare(fake_quant_kernel, cut(layout, block_size, case), fmt, threshold, out.dtype)


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
    """Fill out; False if the shape is beyond the kernel."""
    return launch(find, (x, out, seed, tensor_scale), (fmt, dim, block_size, threshold), traced)
