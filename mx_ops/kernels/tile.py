"""A tile in parts: loading, the largest magnitudes of its blocks, random bits, storing.

A part is a tensor; part j holds element j of each of its stretches of a block. In how many parts a tile is held follows from how it lies in
memory (`cases.py`), and so does the order of a part's axes:

- 1 part: [ROWS, BLOCKS, BLOCK]. A warp reads 16 bytes a thread along the blocks.
- 8 parts, rows side by side in memory: [BLOCKS, GROUPS, ROWS]. Part j holds element 8 i + j of every group i of eight. A warp reads rows
  together, a group is in one thread, and its codes become a word where they are made: words are transposed, not bytes one by one.
- 8 parts, else: [ROWS, BLOCKS, GROUPS]. Where rows start anywhere, a thread would read one element, and have one of a block.
- a block's parts, rows side by side: [BLOCKS, ROWS]. Part j holds element j of every block: each thread has whole blocks.

What is one number a block (scales, largest magnitudes) has a part's axes, with 1 for those along a block.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .bf16x2 import amax_of_neighbours, bits_of, larger_magnitude
from .grid import AXIS, BLOCK, BLOCKS, MASKED, PACKED, PARTS, ROWS, ROWS_INNERMOST, ROWS_PER_THREAD, UNIT, WHOLE, WIDE
from .rules import CODES_PER_BYTE, INTERPRETED, as_bits, larger, philox, random_at, to_float32, words_in_order

# Only a GPU shows: the alignment that `store_scales` claims (test_on_gpu::test_scales_are_stored_where_rows_of_them_start).

GROUP = tl.constexpr(8)  # of elements, as many as share a counter of Philox


# Where a tile's elements are.


@triton.jit
def numbers(COUNT: tl.constexpr, TILE: tl.constexpr):
    """0 .. COUNT - 1."""
    if TILE[WIDE]:
        return tl.arange(0, COUNT).to(tl.int64)
    else:
        return tl.arange(0, COUNT)


@triton.jit
def matrix_axes(LINES: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr):
    """The numbers of the lines and the columns of a matrix."""
    return numbers(LINES, TILE)[:, None], numbers(COLUMNS, TILE)[None, :]


@triton.jit
def block_axes(TILE: tl.constexpr):
    """The numbers of the rows and the blocks of a tile of one part, along its axes."""
    return numbers(TILE[ROWS], TILE)[:, None, None], numbers(TILE[BLOCKS], TILE)[None, :, None]


@triton.jit
def part_axes(TILE: tl.constexpr):
    """The numbers of the rows and of the elements of part 0; those of part j are j further on.

    But for a tile of one part they are along the axes of a matrix, as which parts are loaded and stored: Triton 3.6 and 3.9 order the
    threads of three axes otherwise.
    """
    if TILE[PARTS] == 1:
        row, block = block_axes(TILE)
        element = block * TILE[BLOCK] + numbers(TILE[BLOCK], TILE)[None, None, :]
    elif TILE[WHOLE]:
        TOGETHER: tl.constexpr = TILE[ROWS_PER_THREAD]
        block, row = matrix_axes(TILE[BLOCKS], TILE[ROWS], TILE)
        row, element = tl.max_contiguous(row, [1, TOGETHER]), block * TILE[BLOCK]
    elif TILE[ROWS_INNERMOST]:
        group, row = matrix_axes(TILE[BLOCKS] * TILE[BLOCK] // GROUP, TILE[ROWS], TILE)
        element = group * GROUP
    else:
        row, group = matrix_axes(TILE[ROWS], TILE[BLOCKS] * TILE[BLOCK] // GROUP, TILE)
        element = group * GROUP
    return row, element


@triton.jit
def as_part(matrix, TILE: tl.constexpr):
    """What was loaded for a part, with the part's axes."""
    if TILE[PARTS] == 1 or TILE[WHOLE]:
        return matrix
    elif TILE[ROWS_INNERMOST]:
        return tl.reshape(matrix, TILE[BLOCKS], TILE[BLOCK] // GROUP, TILE[ROWS])
    else:
        return tl.reshape(matrix, TILE[ROWS], TILE[BLOCKS], TILE[BLOCK] // GROUP)


@triton.jit
def by_rows(values, COLUMNS: tl.constexpr, TILE: tl.constexpr):
    """What has a part's axes, and perhaps one more, as [ROWS, COLUMNS]: innermost is what lies along the blocks."""
    if TILE[ROWS_INNERMOST]:
        if TILE[WHOLE]:
            if len(values.shape) == 3:
                values = tl.permute(values, (1, 0, 2))
            else:
                values = tl.trans(values)
        elif len(values.shape) == 4:
            values = tl.permute(values, (2, 0, 1, 3))
        else:
            values = tl.permute(values, (2, 0, 1))
    return tl.reshape(values, TILE[ROWS], COLUMNS)


@triton.jit
def in_order(parts, COUNT: tl.constexpr):
    """Tensors in a new last axis; there are 1, 2, 4 or 8."""
    if COUNT == 1:
        return tl.expand_dims(parts[0], len(parts[0].shape))
    else:
        if COUNT == 8:
            even = tl.join(tl.join(parts[0], parts[4]), tl.join(parts[2], parts[6]))
            odd = tl.join(tl.join(parts[1], parts[5]), tl.join(parts[3], parts[7]))
        elif COUNT == 4:
            even, odd = tl.join(parts[0], parts[2]), tl.join(parts[1], parts[3])
        else:
            even, odd = parts[0], parts[1]
        if len(parts[0].shape) == 3:
            return tl.reshape(tl.join(even, odd), even.shape[0], even.shape[1], even.shape[2], COUNT)
        else:
            return tl.reshape(tl.join(even, odd), even.shape[0], even.shape[1], COUNT)


# Loading.


@triton.jit
def load_tile(ptr, stride_row, stride_length, rows_left, elements_left, TILE: tl.constexpr):
    """The parts of a tile: each by itself; or, of eight where rows are no neighbours, all as a warp reads them best, then dealt out."""
    COUNT: tl.constexpr = TILE[PARTS]
    if COUNT > 1 and not TILE[ROWS_INNERMOST]:
        row, element = matrix_axes(TILE[ROWS], TILE[BLOCKS] * TILE[BLOCK], TILE)
        pointer = ptr + (row * stride_row + element * stride_length)
        if TILE[MASKED]:
            if (rows_left == TILE[ROWS]) & (elements_left == TILE[BLOCKS] * TILE[BLOCK]):
                x = tl.load(pointer)
            else:
                x = tl.load(pointer, mask=(row < rows_left) & (element < elements_left), other=0)
        else:
            x = tl.load(pointer)
        x = tl.reshape(x, TILE[ROWS], TILE[BLOCKS], TILE[BLOCK] // GROUP, 4, 2)
        p0, p2, p4, p6 = quarters(x, 0)
        p1, p3, p5, p7 = quarters(x, 1)
        return (p0, p1, p2, p3, p4, p5, p6, p7)
    else:
        row, element = part_axes(TILE)
        offset = row * stride_row + element * stride_length  # of all parts: what differs is one number for all threads
        parts = ()
        for j in tl.static_range(COUNT):
            if TILE[MASKED]:
                part = tl.load(ptr + offset, mask=(row < rows_left) & (element + j < elements_left), other=0)
            else:
                part = tl.load(ptr + offset)
            parts = parts + (as_part(part, TILE),)
            ptr += stride_length
        return parts


@triton.jit
def quarters(x, ODD: tl.constexpr):
    """The last axis but one of x, [.., 4, 2], at 0 or 1 of the last."""
    even, odd = tl.split(x)
    if ODD:
        half = odd
    else:
        half = even
    p02, p13 = tl.split(tl.reshape(half, half.shape[0], half.shape[1], half.shape[2], 2, 2))
    p0, p2 = tl.split(p02)
    p1, p3 = tl.split(p13)
    return p0, p1, p2, p3


# The largest magnitudes of blocks.


@triton.jit
def amax_of_parts(parts, TILE: tl.constexpr):
    """The bits of the largest magnitude of each block of a tile, of NaN if it holds one: as float32, for packed parts as bfloat16."""
    COUNT: tl.constexpr = TILE[PARTS]
    ALONG: tl.constexpr = 2 if COUNT == 1 or not TILE[ROWS_INNERMOST] else 1  # the axis of a part that is left of a block
    if TILE[PACKED]:
        if COUNT == 1:
            return amax_of_neighbours(parts[0], 8)
        else:
            amax = tl.zeros(parts[0].shape, tl.bfloat16)
            for j in tl.static_range(COUNT):
                amax = larger_magnitude(amax, parts[j])
            if TILE[WHOLE]:
                return bits_of(amax)
            else:
                return tl.max(bits_of(amax), ALONG, keep_dims=True)
    elif COUNT == 1:
        return block_maximum(tl.abs(to_float32(parts[0])), ALONG)
    else:
        amax = magnitude_of(parts[0])
        for j in tl.static_range(1, COUNT):
            if amax.dtype == tl.float32:
                amax = larger(amax, tl.abs(parts[j]))
            else:
                amax = tl.maximum(amax, magnitude_of(parts[j]))
        if amax.dtype == tl.float32:
            return tl.max(as_bits(amax), ALONG, keep_dims=True)
        else:
            amax = tl.max(amax, ALONG, keep_dims=True)
            return as_bits(to_float32(amax.to(tl.int16).to(parts[0].dtype, bitcast=True)))


@triton.jit
def block_maximum(magnitude, ALONG: tl.constexpr):
    """The bits of the largest magnitude along an axis, which stays."""
    if INTERPRETED:  # Triton's interpreter calls a function of ours once an element; bits of magnitudes are in the order of the floats
        return tl.max(as_bits(magnitude), ALONG, keep_dims=True)
    else:
        return as_bits(tl.reduce(magnitude, ALONG, larger, keep_dims=True))


@triton.jit
def magnitude_of(x):
    """|x|: float32s, of which one instruction takes the larger; of 16 bits the integers that are in the order of the magnitudes."""
    if x.dtype == tl.float32:
        return tl.abs(x)
    else:
        return x.to(tl.int16, bitcast=True) & 0x7FFF


# Random bits: 16 for each element. A place is a position in row-major order, each row of x rounded up to a multiple of eight: so place // 8
# is the counter of Philox, and place % 8 the half of a word of what it gives.


@triton.jit
def shared_words(seed, place, stride_row, TILE: tl.constexpr):
    """The random words of each group of a tile whose elements' places are neighbours. Elsewhere the seed alone is meant."""
    if TILE[AXIS] == 2:
        if TILE[PARTS] == 1:
            row = tl.arange(0, TILE[ROWS])[:, None, None]
            block, group = tl.arange(0, TILE[BLOCKS])[None, :, None], tl.arange(0, TILE[BLOCK] // GROUP)[None, None, :]
            group = block * (TILE[BLOCK] // GROUP) + group
        else:
            row, element = part_axes(TILE)
            group = element // GROUP
        return philox(seed, (place >> 3) + (row.to(tl.int64) * (stride_row >> 3) + group))
    else:
        return (seed, seed, seed, seed)


@triton.jit
def random_part(j: tl.constexpr, seed, words, place, stride_row, stride_length, TILE: tl.constexpr):
    """The bits for part j. Under AXIS 2 the places of elements are neighbours, under AXIS 0 those of rows."""
    if TILE[PARTS] == 1:
        if TILE[AXIS] == 2:
            w0, w1, w2, w3 = words
            return tl.reshape(words_in_order(w0, w1, w2, w3), TILE[ROWS], TILE[BLOCKS], TILE[BLOCK]).to(tl.int32)
        else:
            row, element = part_axes(TILE)
            return random_at(seed, place + (row.to(tl.int64) * stride_row + element.to(tl.int64) * stride_length))
    else:
        row, element = part_axes(TILE)
        if TILE[AXIS] == 2:
            if j % 2 == 0:
                bits = words[j // 2] & 0xFFFF
            else:
                bits = words[j // 2] >> 16
        else:
            offset = (element + j).to(tl.int64) * stride_length
            if TILE[AXIS] == 0:
                w0, w1, w2, w3 = philox(seed, (place >> 3) + ((offset >> 3) + tl.arange(0, TILE[ROWS] // GROUP)[None, :]))
                bits = tl.reshape(words_in_order(w0, w1, w2, w3), element.shape[0], TILE[ROWS])
            else:
                bits = random_at(seed, place + (row.to(tl.int64) * stride_row + offset))
        return as_part(bits.to(tl.int32), TILE)


@triton.jit
def random_parts(seed_ptr, place, stride_row, stride_length, TILE: tl.constexpr):
    """`random_part` for all of them; for packed ones as 16-bit integers. Nothing without a seed."""
    COUNT: tl.constexpr = TILE[PARTS]
    parts = ()
    if seed_ptr is not None:
        seed = tl.load(seed_ptr)
        words = shared_words(seed, place, stride_row, TILE)
        for j in tl.static_range(COUNT):
            bits = random_part(j, seed, words, place, stride_row, stride_length, TILE)
            if TILE[PACKED]:
                bits = bits.to(tl.int16)
            parts = parts + (bits,)
    return parts


# Storing.


@triton.jit
def part_pointer(j: tl.constexpr, ptr, stride_row, stride_length, TILE: tl.constexpr):
    """Where the elements of part j are, in a tile whose first element is at ``ptr``."""
    row, element = part_axes(TILE)
    return ptr + (row * stride_row + (element + j) * stride_length)


@triton.jit
def store_part(j: tl.constexpr, pointer, part, rows_left, elements_left, TILE: tl.constexpr):
    """Store part j of values from where it is; of eight parts, where rows are neighbours."""
    EVICTION: tl.constexpr = "evict_first" if TILE[UNIT] > 1 else ""
    row, element = part_axes(TILE)
    if TILE[PARTS] > 1 and not TILE[WHOLE]:
        part = tl.reshape(part, TILE[BLOCKS] * TILE[BLOCK] // GROUP, TILE[ROWS])
    if TILE[MASKED]:
        tl.store(pointer, part, mask=(row < rows_left) & (element + j < elements_left), eviction_policy=EVICTION)
    else:
        tl.store(pointer, part, eviction_policy=EVICTION)


@triton.jit
def store_by_rows(ptr, parts, stride_row, stride_length, rows_left, elements_left, TILE: tl.constexpr):
    """Store the eight parts of a tile together, as rows of values."""
    row, element = matrix_axes(TILE[ROWS], TILE[BLOCKS] * TILE[BLOCK], TILE)
    pointer = ptr + (row * stride_row + element * stride_length)
    values = by_rows(in_order(parts, GROUP), TILE[BLOCKS] * TILE[BLOCK], TILE)
    if TILE[MASKED]:
        if (rows_left == TILE[ROWS]) & (elements_left == TILE[BLOCKS] * TILE[BLOCK]):
            tl.store(pointer, values)
        else:
            tl.store(pointer, values, mask=(row < rows_left) & (element < elements_left))
    else:
        tl.store(pointer, values)


@triton.jit
def store_words(ptr, words, stride_row, stride_length, rows_left, elements_left, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """Store a tuple of words of codes, those of a group or of a block, where every row starts with one: those of a group as one."""
    CODES: tl.constexpr = 4 * FORMAT[CODES_PER_BYTE] if TILE[WHOLE] else GROUP  # of a word as it is stored
    if TILE[WHOLE]:
        word = in_order(words, len(words))
    elif len(words) == 1:
        word = words[0]
    else:
        word = (words[0].to(tl.int64) & 0xFFFFFFFF) | (words[1].to(tl.int64) << 32)
    COLUMNS: tl.constexpr = TILE[BLOCKS] * TILE[BLOCK] // CODES
    row, column = matrix_axes(TILE[ROWS], COLUMNS, TILE)
    words_ptr = ptr.to(tl.pointer_type(word.dtype), bitcast=True)
    pointer = words_ptr + (row * (stride_row // (CODES // FORMAT[CODES_PER_BYTE])) + column * stride_length)
    word = by_rows(word, COLUMNS, TILE)
    if TILE[MASKED]:
        tl.store(pointer, word, mask=(row < rows_left) & (column * CODES < elements_left))
    else:
        tl.store(pointer, word)


@triton.jit
def store_bytes(ptr, words, stride_row, stride_length, rows_left, elements_left, FORMAT: tl.constexpr, TILE: tl.constexpr):
    """Store the words of each group of eight parts byte by byte, where rows start anywhere.

    Four codes stay together until they are dealt out: a thread stores one byte, as a warp stores them best. (Of one word Triton would not
    give the bytes to other threads, but have these compute all of it again.)
    """
    BYTES: tl.constexpr = TILE[BLOCKS] * TILE[BLOCK] // FORMAT[CODES_PER_BYTE]
    TOGETHER: tl.constexpr = 4 // FORMAT[CODES_PER_BYTE]
    if FORMAT[CODES_PER_BYTE] == 1:
        fours = in_order(words, 2)
    else:
        fours = in_order((words[0], words[0] >> 16), 2)
    fours = by_rows(fours, BYTES // TOGETHER, TILE)
    packed = tl.reshape((fours[:, :, None] >> (tl.arange(0, TOGETHER) * 8)[None, None, :]).to(tl.uint8), TILE[ROWS], BYTES)
    row, byte = matrix_axes(TILE[ROWS], BYTES, TILE)
    pointer = ptr + (row * stride_row + byte * stride_length)
    if TILE[MASKED]:
        if (rows_left == TILE[ROWS]) & (elements_left == TILE[BLOCKS] * TILE[BLOCK]):
            tl.store(pointer, packed)
        else:
            tl.store(pointer, packed, mask=(row < rows_left) & (byte * FORMAT[CODES_PER_BYTE] < elements_left))
    else:
        tl.store(pointer, packed)


@triton.jit
def store_scales(ptr, scales, stride_row, rows_left, elements_left, ROWS_STORED: tl.constexpr, COUNT: tl.constexpr, TILE: tl.constexpr):
    """Store the scales of rows, [ROWS_STORED, COUNT]: those of a row are neighbours.

    A program has but a few bytes of a row. Kept in the L2 cache until their neighbours are there, they go to memory as whole sectors:
    `quantize_both` takes 204 us for 210 in MXFP8. (With elements kept there too, 204; with x to be evicted first, 241.)
    """
    row, block = matrix_axes(ROWS_STORED, COUNT, TILE)
    pointer = ptr + (row * stride_row + block)
    if TILE[MASKED]:
        mask = (row < rows_left) & (block * TILE[BLOCK] < elements_left)
        tl.store(pointer, scales.to(tl.uint8), mask=mask, eviction_policy="evict_last")
    else:  # rows are whole tiles then, whose scales start at multiples of as many bytes, up to those at which tensors start
        tl.store(tl.multiple_of(pointer, [1, COUNT if COUNT < 16 else 16]), scales.to(tl.uint8), eviction_policy="evict_last")
