"""dequantize in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from . import launch as launching
from .cases import Case, choose
from .grid import AHEAD, BLOCK, BLOCKS, MASKED, PARTS, ROWS, SIZES, UNIT, Cut, View, cut, lay_out, left, prepare, program_tile
from .launch import Launch, launch
from .rules import (
    BITS,
    CODES_PER_BYTE,
    decode,
    element_limit,
    from_float32,
    magnitude_code,
    scaled,
    usable,
    with_sign,
)
from .tile import GROUP, as_part, block_axes, numbers, part_axes, part_pointer, store_by_rows, store_part

# Only a GPU shows: unaligned words, and `prefetch` at the end of memory (test_on_gpu, "Addresses").

AHEAD_BYTES = 4 << 20  # of codes, that are fetched ahead; with 1, 2 and 8 MB up to 0.002 of a copy less (H100, torch 2.11, Triton 3.6)


# fmt: off
@triton.jit(**SIZES)
def dequantize_kernel(
    elements_ptr, scales_ptr, out_ptr,
    tensor_scale_ptr,  # None for formats whose scales are powers of two
    length, rows, length_tiles, row_tiles, size_a, size_b,
    stride_elements_length,  # from one byte to the next, however many codes it holds
    stride_elements_row, stride_elements_a, stride_elements_b, stride_elements_c,
    stride_scales_length,  # from one block to the next
    stride_scales_row, stride_scales_a, stride_scales_b, stride_scales_c,
    stride_out_length, stride_out_row, stride_out_a, stride_out_b, stride_out_c,
    FORMAT: tl.constexpr, TILE: tl.constexpr,
):
    # fmt: on
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, TILE)
    rows_left, elements_left = left(first_row, first, rows, length, TILE)
    elements_ptr += first // FORMAT[CODES_PER_BYTE] * stride_elements_length + first_row * stride_elements_row
    elements_ptr += a * stride_elements_a + b * stride_elements_b + c * stride_elements_c
    scales_ptr += first // TILE[BLOCK] * stride_scales_length + first_row * stride_scales_row
    scales_ptr += a * stride_scales_a + b * stride_scales_b + c * stride_scales_c
    out_ptr += first * stride_out_length + first_row * stride_out_row + a * stride_out_a + b * stride_out_b + c * stride_out_c

    if TILE[AHEAD] > 0:
        BYTES: tl.constexpr = TILE[BLOCKS] * TILE[BLOCK] // FORMAT[CODES_PER_BYTE]  # of a tile
        if tl.program_id(0) + TILE[AHEAD] < tl.num_programs(0):
            prefetch(elements_ptr + TILE[AHEAD] * BYTES, BYTES)
    if TILE[PARTS] == 1:
        codes = load_words(elements_ptr, stride_elements_row, rows_left, elements_left, FORMAT, TILE)
        row, block = block_axes(TILE)
        element = block * TILE[BLOCK]
    else:
        codes = load_codes(elements_ptr, stride_elements_row, stride_elements_length, rows_left, elements_left, FORMAT, TILE)
        row, element = part_axes(TILE)
        block = element // TILE[BLOCK]
    scale_ptr = scales_ptr + (row * stride_scales_row + block * stride_scales_length)
    if TILE[MASKED]:
        scale = tl.load(scale_ptr, mask=(row < rows_left) & (element < elements_left), other=0).to(tl.int32)
    else:
        scale = tl.load(scale_ptr).to(tl.int32)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    limit = element_limit(scale, tensor_scale, FORMAT)
    COUNT: tl.constexpr = TILE[PARTS]
    outs = ()
    for j in tl.static_range(COUNT):
        value = scaled(decode(magnitude_code(codes[j], FORMAT), limit, FORMAT), scale, tensor_scale, FORMAT)
        out = from_float32(with_sign(value, codes[j] << (32 - FORMAT[BITS])), out_ptr.dtype.element_ty)
        outs = outs + (as_part(out, TILE),)
    if COUNT == 1:
        pointer = part_pointer(0, out_ptr, stride_out_row, stride_out_length, TILE)
        store_part(0, pointer, outs[0], rows_left, elements_left, TILE)
    else:
        store_by_rows(out_ptr, outs, stride_out_row, stride_out_length, rows_left, elements_left, TILE)


@triton.jit
def load_words(ptr, stride_row, rows_left, elements_left, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """The codes of a tile of one part: a thread loads those of 16 bytes of values as one word."""
    BYTES: tl.constexpr = TILE[UNIT] // FORMAT[CODES_PER_BYTE]  # of a word
    WORD: tl.constexpr = tl.int64 if BYTES == 8 else tl.int32 if BYTES == 4 else tl.int16
    row, block = block_axes(TILE)
    word = block * (TILE[BLOCK] // TILE[UNIT]) + numbers(TILE[BLOCK] // TILE[UNIT], TILE)[None, None, :]
    pointer = ptr.to(tl.pointer_type(WORD), bitcast=True) + (row * (stride_row // BYTES) + word)
    if TILE[MASKED]:
        mask = (row < rows_left) & (word * TILE[UNIT] < elements_left)
        words = tl.load(pointer, mask=mask, other=0, eviction_policy="evict_first")
    else:
        words = tl.load(pointer, eviction_policy="evict_first")
    if BYTES == 2:
        words = words.to(tl.int32)
    CODE: tl.constexpr = 8 // FORMAT[CODES_PER_BYTE]  # bits from one code to the next
    shift = (tl.arange(0, TILE[UNIT]) * CODE)[None, None, None, :].to(words.dtype)
    codes = ((tl.expand_dims(words, 3) >> shift) & ((1 << CODE) - 1)).to(tl.int32)
    return (tl.reshape(codes, TILE[ROWS], TILE[BLOCKS], TILE[BLOCK]),)


@triton.jit
def load_codes(ptr, stride_row, stride_length, rows_left, elements_left, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """The codes of a tile of eight parts, byte by byte. The bits above a code may be those of the next one."""
    PER_BYTE: tl.constexpr = FORMAT[CODES_PER_BYTE]
    COUNT: tl.constexpr = GROUP // PER_BYTE  # of bytes
    CODE: tl.constexpr = 8 // PER_BYTE  # bits from one code to the next
    row, element = part_axes(TILE)
    codes = ()
    for j in tl.static_range(COUNT):
        byte = element // PER_BYTE + j
        pointer = ptr + (row * stride_row + byte * stride_length)
        if TILE[MASKED]:
            loaded = tl.load(pointer, mask=(row < rows_left) & (byte * PER_BYTE < elements_left), other=0).to(tl.int32)
        else:
            loaded = tl.load(pointer).to(tl.int32)
        for k in tl.static_range(PER_BYTE):
            codes = codes + (loaded >> (CODE * k),)
    return codes


@triton.jit
def prefetch(ptr, BYTES: tl.constexpr):
    """Fetch bytes into the L2 cache, by one thread. Where it has memory to read and to write at once, a GPU does better if told early."""
    tl.inline_asm_elementwise(
        """{
        .reg .pred first;
        .reg .u32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first cp.async.bulk.prefetch.L2.global [$1], $2;
        mov.u32 $0, 0;
        }""",
        "=r,l,r",
        [ptr.to(tl.int64), tl.full([], BYTES, tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


def find(
    elements: Tensor,
    scales: Tensor,
    out: Tensor,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    aligned: bool,
) -> Launch | None:
    """The launch for these tensors; None if their shape is beyond the kernel."""
    views = (View(elements.stride(), fmt.codes_per_byte), View(scales.stride(), block_size), View(out.stride()))
    words = aligned and known(out.shape[dim] % 8 == 0)
    layout = lay_out(out.shape, dim, block_size, views, 8 // fmt.codes_per_byte if words else 0)
    case = layout and choose("dequantize", layout.kind, out, False, fmt, dim, block_size)
    if layout is None or case is None:
        return None
    found = cut(layout, block_size, case)
    ahead = 0
    if launching.has_bf16x2(out.device) and is_flat(found, case):
        ahead = AHEAD_BYTES * fmt.codes_per_byte // case.elements
    return prepare(dequantize_kernel, found, fmt, dtype=out.dtype, unit=16 // out.itemsize, ahead=ahead)


def is_flat(found: Cut, case: Case) -> bool:
    """Whether the next program has the next bytes, as many as this one."""
    tile, rows = found.tile, found.sizes_and_strides[1]
    whole = tile.blocks * tile.block == case.elements and not tile.masked
    return whole and tile.parts == 1 and not tile.outer and known(rows == 1)


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
    return launch(find, (elements, scales, out, tensor_scale), (fmt, dim, block_size), traced)
