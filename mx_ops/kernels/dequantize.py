"""dequantize in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import Format
from ..symbols import known
from .lanes import has_lanes
from .launch import Launch, launch, prepare
from .numerics import decode, element_limit, from_float32, magnitude_code, scaled, unpack, usable, with_sign
from .pieces import PIECES, as_tile, store_pieces, tile_axes
from .tiling import SIZES, Plan, Tile, View, inside, lanes, left, plan, program_tile

# Only a GPU shows: unaligned words, and `prefetch` at the end of memory (test_on_gpu, "Addresses").

# Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy. Across: 0.89 both; with 64 rows 0.84 and 0.89, where
# the next program has the next rows 0.85 and 0.83.
TILE = Tile(along=0, across=4096, rows=128, rows_first=False)
# Along, a thread writes 16 bytes, and loads the codes of these as one word: MXFP8 0.99 and MXFP4 0.98, float32 0.98 and 0.97; with half as
# many threads 0.985 and 0.98, float32 0.98 and 0.97; without `prefetch` 0.975 and 0.975, float32 0.975 and 0.97. What is loaded and what is
# stored leaves the L2 cache first: if not, all have 0.004 to 0.007 less. (Kernels that only cast have, in float32, 0.967 and 0.959.)
THREADS = 256
AHEAD = 4 << 20  # bytes of codes; with 1, 2 and 8 MB up to 0.002 less


@triton.jit(**SIZES)
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
    UNIT: tl.constexpr,  # codes that a thread loads as one word
    PROGRAMS_AHEAD: tl.constexpr,  # whose codes are fetched into the L2 cache; 0: none
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    OUTER: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, BLOCK, BLOCKS, ROWS, ROWS_FIRST, OUTER)
    row, block = lanes(ROWS, 0, WIDE), lanes(BLOCKS, 1, WIDE)
    word, element = block * (BLOCK // UNIT) + lanes(BLOCK // UNIT, 2, WIDE), block * BLOCK + lanes(BLOCK, 2, WIDE)
    elements_ptr += first // CODES_PER_BYTE * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first // BLOCK * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c
    out_ptr += first * out_length + first_row * out_row + a * out_a + b * out_b + c * out_c

    if PROGRAMS_AHEAD > 0:
        TILE_BYTES: tl.constexpr = BLOCKS * BLOCK // CODES_PER_BYTE
        if tl.program_id(0) + PROGRAMS_AHEAD < tl.num_programs(0):
            prefetch(elements_ptr + PROGRAMS_AHEAD * TILE_BYTES, TILE_BYTES)
    BYTES: tl.constexpr = UNIT // CODES_PER_BYTE  # of a word
    WORD: tl.constexpr = tl.int64 if BYTES == 8 else tl.int32 if BYTES == 4 else tl.int16
    words_ptr = elements_ptr.to(tl.pointer_type(WORD), bitcast=True) + (row * (elements_row // BYTES) + word)
    if MASKED:
        mask = inside(row, element, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        word_mask = inside(row, word * UNIT, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        block_mask = inside(row, block * BLOCK, first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
        words = tl.load(words_ptr, mask=word_mask, other=0, eviction_policy="evict_first")
        scale = tl.load(scales_ptr + (row * scales_row + block * scales_length), mask=block_mask, other=0).to(tl.int32)
    else:
        mask = None
        words = tl.load(words_ptr, eviction_policy="evict_first")
        scale = tl.load(scales_ptr + (row * scales_row + block * scales_length)).to(tl.int32)
    code = unpack(words, UNIT, CODES_PER_BYTE)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    limit = element_limit(scale, tensor_scale, DTYPE_MAX)
    value = decode(magnitude_code(code, BITS, TWOS_COMPLEMENT), limit, BITS, MANTISSA_BITS, EMIN, LARGEST_CODE, HAS_SPECIAL_CODES)
    out = from_float32(with_sign(scaled(value, scale, tensor_scale, DTYPE_MAX), code << (32 - BITS)), out_ptr.dtype.element_ty)
    tl.store(out_ptr + (row * out_row + element * out_length), out, mask=mask, eviction_policy="evict_first")


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


@triton.jit(**SIZES)
def dequantize_pieces_kernel(
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
    ROWS_INNERMOST: tl.constexpr,
    OUTER: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    first, first_row, a, b, c = program_tile(length_tiles, row_tiles, size_a, size_b, BLOCK, BLOCKS, ROWS, ROWS_FIRST, OUTER)
    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    row, group = tile_axes(ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, WIDE)
    elements_ptr += first // CODES_PER_BYTE * elements_length + first_row * elements_row + a * elements_a + b * elements_b + c * elements_c
    scales_ptr += first // BLOCK * scales_length + first_row * scales_row + a * scales_a + b * scales_b + c * scales_c
    out_ptr += first * out_length + first_row * out_row + a * out_a + b * out_b + c * out_c

    scale_ptr = scales_ptr + (row * scales_row + group // (BLOCK // PIECES) * scales_length)
    if MASKED:
        scale = tl.load(scale_ptr, mask=(row < rows_left) & (group * PIECES < elements_left), other=0).to(tl.int32)
    else:
        scale = tl.load(scale_ptr).to(tl.int32)
    tensor_scale = None
    if tensor_scale_ptr is not None:
        tensor_scale = usable(tl.load(tensor_scale_ptr))
    limit = element_limit(scale, tensor_scale, DTYPE_MAX)
    outs = ()
    for j in tl.static_range(PIECES // CODES_PER_BYTE):
        byte = group * (PIECES // CODES_PER_BYTE) + j
        byte_ptr = elements_ptr + (row * elements_row + byte * elements_length)
        if MASKED:
            codes = tl.load(byte_ptr, mask=(row < rows_left) & (byte * CODES_PER_BYTE < elements_left), other=0).to(tl.int32)
        else:
            codes = tl.load(byte_ptr).to(tl.int32)
        for k in tl.static_range(CODES_PER_BYTE):
            code = codes >> (8 // CODES_PER_BYTE * k)
            value = decode(magnitude_code(code, BITS, TWOS_COMPLEMENT), limit, BITS, MANTISSA_BITS, EMIN, LARGEST_CODE, HAS_SPECIAL_CODES)
            out = from_float32(with_sign(scaled(value, scale, tensor_scale, DTYPE_MAX), code << (32 - BITS)), out_ptr.dtype.element_ty)
            outs = outs + (as_tile(out, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST),)
    store_pieces(out_ptr, outs, out_row, out_length, rows_left, elements_left, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, MASKED, WIDE)


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
    """The launch for these tensors; None if their shape is beyond the kernels."""
    views = (View(elements.stride(), fmt.codes_per_byte), View(scales.stride(), block_size), View(out.stride()))
    words = aligned and known(out.shape[dim] % 8 == 0)
    unit = 16 // out.itemsize
    tile = TILE._replace(along=THREADS * unit, along_a_thread=unit)
    found = plan(out.shape, dim, block_size, tile, views, 8 // fmt.codes_per_byte if words else 0)
    if found is None:
        return None
    kernel = dequantize_pieces_kernel if found.in_pieces else dequantize_kernel
    ahead = 0
    if has_lanes(out.device) and is_flat(found, tile):
        ahead = AHEAD * fmt.codes_per_byte // tile.along
    return prepare(kernel, found, fmt, DTYPE_MAX=torch.finfo(out.dtype).max, UNIT=unit, PROGRAMS_AHEAD=ahead)


def is_flat(found: Plan, tile: Tile) -> bool:
    """Whether the next program has the next bytes, as many as this one."""
    rows, constants = found.sizes_and_strides[1], found.constants
    whole = constants["BLOCKS"] * constants["BLOCK"] == tile.along and not constants["MASKED"]
    return whole and not found.in_pieces and not constants["OUTER"] and known(rows == 1)


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
    """Fill out; False if the shape is beyond the kernels."""
    return launch(find, (elements, scales, out, tensor_scale), (fmt, dim, block_size), traced)
