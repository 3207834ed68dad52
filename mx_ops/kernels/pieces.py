"""Tiles in eight pieces, for tensors that a warp cannot read 16 bytes a thread along their blocks.

Piece j holds element 8 i + j of every group i of eight, so a group is in one thread, whatever the tensor's strides. A block's maximum is
then taken within a thread for the most part, and else within a warp; and eight codes become a word where they are made. A tile is

- [BLOCKS, GROUPS, ROWS] where neighbouring rows are neighbours in memory (blocks lie across it): a warp reads rows together, and words are
  transposed, not bytes one by one;
- [ROWS, BLOCKS, GROUPS] elsewhere: where rows start anywhere, a thread would read one element, and have one of a block.

GROUPS is of a block; ``row`` and ``group`` are a tile's own row and group numbers, each along its axes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .numerics import as_bits, larger, philox, random_at, to_float32, words_in_order

# Only a GPU shows: the alignment that `store_scales` claims (test_on_gpu::test_scales_are_stored_where_rows_of_them_start).

PIECES = tl.constexpr(8)  # and as many neighbours as share a counter of Philox


@triton.jit
def tile_axes(ROWS: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, ROWS_INNERMOST: tl.constexpr, WIDE: tl.constexpr):
    """The numbers of a tile's rows and groups, along the axes of a matrix: Triton 3.6 and 3.9 order the threads of three axes otherwise."""
    if ROWS_INNERMOST:
        group, row = matrix_axes(BLOCKS * BLOCK // PIECES, ROWS, WIDE)
    else:
        row, group = matrix_axes(ROWS, BLOCKS * BLOCK // PIECES, WIDE)
    return row, group


@triton.jit
def matrix_axes(ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    """The numbers of the rows and the columns of a matrix."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    if WIDE:
        row, column = row.to(tl.int64), column.to(tl.int64)
    return row, column


@triton.jit
def as_tile(matrix, ROWS: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, ROWS_INNERMOST: tl.constexpr):
    """A matrix of rows and groups, with an axis for the blocks."""
    if ROWS_INNERMOST:
        return tl.reshape(matrix, BLOCKS, BLOCK // PIECES, ROWS)
    else:
        return tl.reshape(matrix, ROWS, BLOCKS, BLOCK // PIECES)


@triton.jit
def load_pieces(
    x_ptr,
    x_row,
    x_length,
    rows_left,
    elements_left,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The pieces of a tile: each by itself where rows are neighbours; else together, as a warp reads them best, and then dealt out."""
    if ROWS_INNERMOST:
        row, group = tile_axes(ROWS, BLOCKS, BLOCK, ROWS_INNERMOST, WIDE)
        offset = row * x_row + group * (PIECES * x_length)  # of all pieces: what differs is one number for all threads
        pieces = ()
        for j in tl.static_range(PIECES):
            if MASKED:
                piece = tl.load(x_ptr + offset, mask=(row < rows_left) & (group * PIECES + j < elements_left), other=0)
            else:
                piece = tl.load(x_ptr + offset)
            pieces = pieces + (as_tile(piece, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST),)
            x_ptr += x_length
        return pieces
    else:
        row, element = matrix_axes(ROWS, BLOCKS * BLOCK, WIDE)
        pointer = x_ptr + (row * x_row + element * x_length)
        if MASKED:
            if (rows_left == ROWS) & (elements_left == BLOCKS * BLOCK):
                x = tl.load(pointer)
            else:
                x = tl.load(pointer, mask=(row < rows_left) & (element < elements_left), other=0)
        else:
            x = tl.load(pointer)
        p0, p2, p4, p6 = quarters(tl.reshape(x, ROWS, BLOCKS, BLOCK // PIECES, 4, 2), 0)
        p1, p3, p5, p7 = quarters(tl.reshape(x, ROWS, BLOCKS, BLOCK // PIECES, 4, 2), 1)
        return (p0, p1, p2, p3, p4, p5, p6, p7)


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


@triton.jit
def amax_of_pieces(pieces, ROWS_INNERMOST: tl.constexpr):
    """The bits of the largest magnitude of each block of a tile."""
    magnitude = magnitude_of_piece(pieces[0])
    for j in tl.static_range(1, PIECES):
        if pieces[0].dtype == tl.float32:
            magnitude = larger(magnitude, tl.abs(pieces[j]))
        else:
            magnitude = tl.maximum(magnitude, magnitude_of_piece(pieces[j]))
    AXIS: tl.constexpr = 1 if ROWS_INNERMOST else 2
    if pieces[0].dtype == tl.float32:
        return tl.max(as_bits(magnitude), AXIS, keep_dims=True)
    else:
        amax = tl.max(magnitude, AXIS, keep_dims=True)
        return as_bits(to_float32(amax.to(tl.int16).to(pieces[0].dtype, bitcast=True)))


@triton.jit
def magnitude_of_piece(x):
    """|x|: float32s, of which one instruction takes the larger; of 16 bits the integers that are in the order of the magnitudes."""
    if x.dtype == tl.float32:
        return tl.abs(x)
    else:
        return x.to(tl.int16, bitcast=True) & 0x7FFF


@triton.jit
def shared_words(seed_ptr, place, row, group, place_row, AXIS: tl.constexpr):
    """The seed, and the random words of each group where its elements' places are neighbours. Elsewhere the seed alone is meant."""
    seed = tl.load(seed_ptr)
    if AXIS == 2:
        words = philox(seed, (place >> 3) + (row.to(tl.int64) * (place_row >> 3) + group))
    else:
        words = (seed, seed, seed, seed)
    return seed, words


@triton.jit
def random_piece(
    j: tl.constexpr,
    seed,
    words,
    place,
    row,
    group,
    place_row,
    place_length,
    AXIS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
):
    """`numerics.random_bits` for a piece. Under AXIS 0 the places of rows are neighbours."""
    if AXIS == 2:
        if j % 2 == 0:
            bits = words[j // 2] & 0xFFFF
        else:
            bits = words[j // 2] >> 16
    else:
        element = (group * PIECES + j).to(tl.int64) * place_length
        if AXIS == 0:
            counter = (place >> 3) + ((element >> 3) + tl.arange(0, ROWS // 8)[None, :])
            w0, w1, w2, w3 = philox(seed, counter)
            bits = tl.reshape(words_in_order(w0, w1, w2, w3), group.shape[0], ROWS)
        else:
            bits = random_at(seed, place + (row.to(tl.int64) * place_row + element))
    return as_tile(bits.to(tl.int32), ROWS, BLOCKS, BLOCK, ROWS_INNERMOST)


@triton.jit
def random_pieces(
    seed_ptr,
    place,
    row,
    group,
    place_row,
    place_length,
    AXIS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """`random_piece` for all of them, as integers of a dtype; nothing where there is no axis."""
    pieces = ()
    if AXIS is not None:
        seed, words = shared_words(seed_ptr, place, row, group, place_row, AXIS)
        for j in tl.static_range(PIECES):
            bits = random_piece(j, seed, words, place, row, group, place_row, place_length, AXIS, ROWS, BLOCKS, BLOCK, ROWS_INNERMOST)
            pieces = pieces + (bits.to(DTYPE),)
    return pieces


@triton.jit
def in_order(pieces, PER_GROUP: tl.constexpr):
    """Pieces in a new last axis; there are 2, 4 or 8."""
    if PER_GROUP == 8:
        even = tl.join(tl.join(pieces[0], pieces[4]), tl.join(pieces[2], pieces[6]))
        odd = tl.join(tl.join(pieces[1], pieces[5]), tl.join(pieces[3], pieces[7]))
    elif PER_GROUP == 4:
        even, odd = tl.join(pieces[0], pieces[2]), tl.join(pieces[1], pieces[3])
    else:
        even, odd = pieces[0], pieces[1]
    if len(pieces[0].shape) == 3:
        return tl.reshape(tl.join(even, odd), even.shape[0], even.shape[1], even.shape[2], PER_GROUP)
    else:
        return tl.reshape(tl.join(even, odd), even.shape[0], even.shape[1], PER_GROUP)


@triton.jit
def by_rows(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ROWS_INNERMOST: tl.constexpr):
    """What has a tile's axes, and perhaps one more, as [ROWS, COLUMNS]: innermost is what lies along the blocks."""
    if ROWS_INNERMOST:
        if len(values.shape) == 4:
            values = tl.permute(values, (2, 0, 1, 3))
        else:
            values = tl.permute(values, (2, 0, 1))
    return tl.reshape(values, ROWS, COLUMNS)


@triton.jit
def store_pieces(
    out_ptr,
    pieces,
    out_row,
    out_length,
    rows_left,
    elements_left,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Store pieces of values together."""
    row, element = matrix_axes(ROWS, BLOCKS * BLOCK, WIDE)
    pointer = out_ptr + (row * out_row + element * out_length)
    values = by_rows(in_order(pieces, PIECES), ROWS, BLOCKS * BLOCK, ROWS_INNERMOST)
    if MASKED:
        if (rows_left == ROWS) & (elements_left == BLOCKS * BLOCK):
            tl.store(pointer, values)
        else:
            tl.store(pointer, values, mask=(row < rows_left) & (element < elements_left))
    else:
        tl.store(pointer, values)


@triton.jit
def store_piece(
    j: tl.constexpr,
    out_ptr,
    piece,
    out_row,
    out_length,
    rows_left,
    elements_left,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Store one piece of values where rows are neighbours."""
    row, group = tile_axes(ROWS, BLOCKS, BLOCK, True, WIDE)
    element = group * PIECES + j
    pointer = out_ptr + (row * out_row + element * out_length)
    piece = tl.reshape(piece, BLOCKS * BLOCK // PIECES, ROWS)
    if MASKED:
        tl.store(pointer, piece, mask=(row < rows_left) & (element < elements_left))
    else:
        tl.store(pointer, piece)


@triton.jit
def words_of_codes(codes, CODES_PER_BYTE: tl.constexpr):
    """A tuple of codes as words of 32 bits, in which they lie in memory: of pieces one or two for a group."""
    CODES: tl.constexpr = 4 * CODES_PER_BYTE
    words = ()
    for j in tl.static_range(len(codes) // CODES):
        word = codes[CODES * j]
        for k in tl.static_range(1, CODES):
            word |= codes[CODES * j + k] << (32 // CODES * k)
        words = words + (word,)
    return words


@triton.jit
def store_codes(
    elements_ptr,
    words,
    elements_row,
    elements_length,
    rows_left,
    elements_left,
    CODES_PER_BYTE: tl.constexpr,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Store the words of each group, as one where every row starts with one."""
    if WORDS:
        word = words[0]
        if CODES_PER_BYTE == 1:
            word = (words[0].to(tl.int64) & 0xFFFFFFFF) | (words[1].to(tl.int64) << 32)
        store_words(
            elements_ptr,
            word,
            elements_row,
            elements_length,
            rows_left,
            elements_left,
            CODES_PER_BYTE,
            ROWS,
            COLUMNS,
            ROWS_INNERMOST,
            MASKED,
            WIDE,
        )
    else:
        # Four codes stay together until they are dealt out: a thread stores one byte, as a warp stores them best. (Of one word Triton would
        # not give the bytes to other threads, but have these compute all of it again.)
        BYTES: tl.constexpr = COLUMNS // CODES_PER_BYTE
        TOGETHER: tl.constexpr = 4 // CODES_PER_BYTE
        if CODES_PER_BYTE == 1:
            fours = in_order(words, 2)
        else:
            fours = in_order((words[0], words[0] >> 16), 2)
        fours = by_rows(fours, ROWS, BYTES // TOGETHER, ROWS_INNERMOST)
        packed = tl.reshape((fours[:, :, None] >> (tl.arange(0, TOGETHER) * 8)[None, None, :]).to(tl.uint8), ROWS, BYTES)
        row, byte = matrix_axes(ROWS, BYTES, WIDE)
        pointer = elements_ptr + (row * elements_row + byte * elements_length)
        if MASKED:
            if (rows_left == ROWS) & (elements_left == COLUMNS):
                tl.store(pointer, packed)
            else:
                tl.store(pointer, packed, mask=(row < rows_left) & (byte * CODES_PER_BYTE < elements_left))
        else:
            tl.store(pointer, packed)


@triton.jit
def store_words(
    elements_ptr,
    words,
    elements_row,
    elements_length,
    rows_left,
    elements_left,
    CODES_PER_BYTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS_INNERMOST: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Store the words of a tile's groups."""
    row, word = matrix_axes(ROWS, COLUMNS // PIECES, WIDE)
    words_ptr = elements_ptr.to(tl.pointer_type(words.dtype), bitcast=True)
    # A word has 8 / CODES_PER_BYTE bytes.
    pointer = words_ptr + (row * (elements_row // (8 // CODES_PER_BYTE)) + word * elements_length)
    words = by_rows(words, ROWS, COLUMNS // PIECES, ROWS_INNERMOST)
    if MASKED:
        tl.store(pointer, words, mask=(row < rows_left) & (word * PIECES < elements_left))
    else:
        tl.store(pointer, words)


@triton.jit
def store_scales(
    scales_ptr,
    scales,
    scales_row,
    rows_left,
    elements_left,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Store the scales of a tile, [ROWS, BLOCKS]: those of a row are neighbours.

    A program has but a few bytes of a row. Kept in the L2 cache until their neighbours are there, they go to memory as whole sectors:
    `quantize_both` takes 204 us for 210 in MXFP8. (With elements kept there too, 204; with x to be evicted first, 241.)
    """
    row, block = matrix_axes(ROWS, BLOCKS, WIDE)
    pointer = scales_ptr + (row * scales_row + block)
    if MASKED:
        mask = (row < rows_left) & (block * BLOCK < elements_left)
        tl.store(pointer, scales.to(tl.uint8), mask=mask, eviction_policy="evict_last")
    else:  # rows are whole tiles then, whose scales start at multiples of as many bytes, up to those at which tensors start
        tl.store(tl.multiple_of(pointer, [1, BLOCKS if BLOCKS < 16 else 16]), scales.to(tl.uint8), eviction_policy="evict_last")
