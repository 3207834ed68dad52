"""quantize in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from .bf16x2 import is_nan, packed_scales
from .bf16x2_codes import bytes_of, bytes_of_packed, code_bounds, words_of_packed
from .cases import choose
from .fp8 import bytes_of_fp8, words_of_fp8
from .grid import (
    BLOCK,
    BLOCKS,
    CONVERTED,
    LOADS,
    MASKED,
    PACKED,
    PARTS,
    ROWS,
    SIZES,
    WHOLE,
    WORDS,
    View,
    cut,
    lay_out,
    left,
    places,
    prepare,
    program_tile,
)
from .launch import Launch, launch, quantum
from .rules import (
    BITS,
    CODES_PER_BYTE,
    NAN_CODE,
    NAN_SCALE,
    as_bits,
    block_scales,
    grid_exponent,
    round_to_code,
    scaled_down,
    signed_code,
    to_float32,
    usable,
)
from .tile import (
    GROUP,
    amax_of_parts,
    block_axes,
    by_rows,
    in_order,
    load_tile,
    numbers,
    random_parts,
    store_bytes,
    store_scales,
    store_words,
)

# Only a GPU shows: where words and scales are stored, what `max_contiguous` claims (test_on_gpu, "Addresses").


# fmt: off
@triton.jit(**SIZES)
def quantize_kernel(
    x_ptr, elements_ptr, scales_ptr,
    seed_ptr,  # None rounds to nearest
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length, rows, length_tiles, row_tiles, size_a, size_b,
    stride_x_length, stride_x_row, stride_x_a, stride_x_b, stride_x_c,
    stride_elements_length,  # from one byte to the next, however many codes it holds
    stride_elements_row, stride_elements_a, stride_elements_b, stride_elements_c,
    stride_scales_length,  # from one block to the next
    stride_scales_row, stride_scales_a, stride_scales_b, stride_scales_c,
    stride_place_length, stride_place_row, stride_place_a, stride_place_b, stride_place_c,
    FORMAT: tl.constexpr, TILE: tl.constexpr,
):
    # fmt: on
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, TILE)
    rows_left, elements_left = left(first_row, first, rows, length, TILE)
    x_ptr += first * stride_x_length + first_row * stride_x_row + a * stride_x_a + b * stride_x_b + c * stride_x_c
    elements_ptr += first // FORMAT[CODES_PER_BYTE] * stride_elements_length + first_row * stride_elements_row
    elements_ptr += a * stride_elements_a + b * stride_elements_b + c * stride_elements_c
    scales_ptr += first // TILE[BLOCK] * stride_scales_length + first_row * stride_scales_row
    scales_ptr += a * stride_scales_a + b * stride_scales_b + c * stride_scales_c
    place = first * stride_place_length + first_row * stride_place_row
    place += a * stride_place_a + b * stride_place_b + c * stride_place_c

    if TILE[LOADS] > 1:
        parts = (load_blocks(x_ptr, stride_x_row, stride_x_length, rows_left, elements_left, TILE),)
    else:
        parts = load_tile(x_ptr, stride_x_row, stride_x_length, rows_left, elements_left, TILE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    randoms = random_parts(seed_ptr, place, stride_place_row, stride_place_length, TILE)
    scale, factor, nan = code_scales(amax_of_parts(parts, TILE), tensor_scale, FORMAT, TILE)
    if TILE[PARTS] == 1:
        random = None
        if seed_ptr is not None:
            random = randoms[0]
        codes = bytes_of_blocks(parts[0], random, tensor_scale, factor, nan, FORMAT, TILE)
        row, block = block_axes(TILE)
        BYTES: tl.constexpr = TILE[BLOCK] // FORMAT[CODES_PER_BYTE]  # of a block
        byte = block * BYTES + numbers(BYTES, TILE)[None, None, :]
        if TILE[PACKED]:
            NEIGHBOURS: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth  # in a thread
            byte = tl.max_contiguous(byte, [1, 1, NEIGHBOURS // FORMAT[CODES_PER_BYTE]])
        if TILE[MASKED]:
            byte_mask = (row < rows_left) & (byte * FORMAT[CODES_PER_BYTE] < elements_left)
            block_mask = (row < rows_left) & (block * TILE[BLOCK] < elements_left)
        else:
            byte_mask, block_mask = None, None
        tl.store(elements_ptr + (row * stride_elements_row + byte * stride_elements_length), codes, mask=byte_mask)
        tl.store(scales_ptr + (row * stride_scales_row + block * stride_scales_length), scale.to(tl.uint8), mask=block_mask)
    else:
        words = words_of_parts(parts, randoms, tensor_scale, factor, nan, FORMAT, TILE)
        if TILE[WORDS] or TILE[WHOLE]:
            store_words(elements_ptr, words, stride_elements_row, stride_elements_length, rows_left, elements_left, FORMAT, TILE)
        else:
            store_bytes(elements_ptr, words, stride_elements_row, stride_elements_length, rows_left, elements_left, FORMAT, TILE)
        scale = by_rows(scale, TILE[BLOCKS], TILE)
        store_scales(scales_ptr, scale, stride_scales_row, rows_left, elements_left, TILE[ROWS], TILE[BLOCKS], TILE)


@triton.jit
def load_blocks(ptr, stride_row, stride_length, rows_left, elements_left, TILE: tl.constexpr):
    """A tile of one part by several loads. A warp reads as many times less of its blocks at once: if that is 16 bytes of each, a thread
    has all of them.
    """
    COUNT: tl.constexpr = TILE[LOADS]
    LENGTH: tl.constexpr = TILE[BLOCK] // COUNT
    row, block = block_axes(TILE)
    loaded = ()
    for j in tl.static_range(COUNT):
        element = block * TILE[BLOCK] + (j * LENGTH + numbers(LENGTH, TILE)[None, None, :])
        pointer = ptr + (row * stride_row + element * stride_length)
        if TILE[MASKED]:
            x = tl.load(pointer, mask=(row < rows_left) & (element < elements_left), other=0)
        else:
            x = tl.load(pointer)
        loaded = loaded + (x,)
    return tl.reshape(tl.permute(in_order(loaded, COUNT), (0, 1, 3, 2)), TILE[ROWS], TILE[BLOCKS], TILE[BLOCK])


@triton.jit
def code_scales(amax_bits, tensor_scale, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """`rules.block_scales`, and which blocks are NaN. Where the factor alone makes their codes those of NaN, it is NaN."""
    if TILE[PACKED] and tensor_scale is None:
        scale, factor = packed_scales(amax_bits, FORMAT)
        return scale, factor, is_nan(amax_bits)
    else:
        if TILE[PACKED]:
            amax_bits <<= 16
        scale, factor = block_scales(amax_bits, tensor_scale, FORMAT)
        nan = scale == FORMAT[NAN_SCALE]
        if TILE[CONVERTED]:
            factor = tl.where(nan, float("nan"), factor)
        return scale, factor, nan


@triton.jit
def bytes_of_blocks(x, random, tensor_scale, factor, nan, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """The codes of blocks that lie along the last of three axes, as bytes along it."""
    if TILE[CONVERTED]:
        return bytes_of_fp8(x, factor, FORMAT)
    elif TILE[PACKED]:
        limit, kept = code_bounds(nan, FORMAT)
        return bytes_of_packed(x, random, factor, limit, kept, FORMAT)
    else:
        code = code_of(x, random, tensor_scale, factor, FORMAT)
        if FORMAT[CODES_PER_BYTE] == 2:
            first, second = tl.split(tl.reshape(code, x.shape[0], x.shape[1], x.shape[2] // 2, 2))
            code = first | (second << FORMAT[BITS])
        return tl.where(nan, FORMAT[NAN_CODE], code).to(tl.uint8)  # half a byte is never NaN: its code is 0


@triton.jit
def words_of_parts(parts, randoms, tensor_scale, factor, nan, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """The codes of parts as words of 32 bits, as they lie in memory. ``randoms`` are as many, or none."""
    if TILE[CONVERTED]:
        return words_of_fp8(parts, factor, FORMAT)
    elif TILE[PACKED] and tensor_scale is None:
        limit, kept = code_bounds(nan, FORMAT)
        return words_of_packed(parts, randoms, factor, limit, kept, FORMAT)
    else:
        codes = ()
        for j in tl.static_range(len(parts)):
            random = None
            if len(randoms) > 0:
                random = randoms[j]
            codes = codes + (code_of(parts[j], random, tensor_scale, factor, FORMAT),)
        words = words_of_codes(codes, FORMAT)
        finite = ()
        for j in tl.static_range(len(words)):
            finite = finite + (tl.where(nan, bytes_of(FORMAT[NAN_CODE]), words[j]),)
        return finite


@triton.jit
def code_of(x, random, tensor_scale, factor, FORMAT: tl.constexpr):
    """The codes of elements, by the float32 rules."""
    x = to_float32(x)
    y = scaled_down(tl.abs(x), factor, tensor_scale, random is not None, FORMAT)  # abs is a free modifier of what reads it
    return signed_code(round_to_code(y, grid_exponent(y, FORMAT), random, FORMAT), as_bits(x), FORMAT)


@triton.jit
def words_of_codes(codes, FORMAT: tl.constexpr):
    """A tuple of codes, neighbours in memory, as words of 32 bits."""
    COUNT: tl.constexpr = 4 * FORMAT[CODES_PER_BYTE]
    words = ()
    for j in tl.static_range(len(codes) // COUNT):
        word = codes[COUNT * j]
        for k in tl.static_range(1, COUNT):
            word |= codes[COUNT * j + k] << (32 // COUNT * k)
        words = words + (word,)
    return words


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
    """The launch for these tensors; None if their shape is beyond the kernel."""
    views = (
        View(x.stride()),
        View(elements.stride(), fmt.codes_per_byte),
        View(scales.stride(), block_size),
        places(x.shape, seed is not None),
    )
    layout = lay_out(x.shape, dim, block_size, views, quantum(x, aligned))
    case = layout and choose("quantize", layout.kind, x, seed is not None, fmt, dim, block_size)
    if layout is None or case is None:
        return None
    words = known(x.shape[dim] % 8 == 0)  # rows of codes then start at multiples of eight: nothing is between them
    # Where a block's scale takes long to compute, a thread has whole blocks, so that no two compute the same one.
    loads = min(GROUP.value, block_size * x.itemsize // 16) if fmt.divides and case.parts == 1 else 1
    return prepare(quantize_kernel, cut(layout, block_size, case), fmt, threshold, words=words, loads=loads)


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
    return launch(find, (x, elements, scales, seed, tensor_scale), (fmt, dim, block_size, threshold), traced)
