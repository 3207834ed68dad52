"""How tensors of any shape and strides become a grid of tiles: the plan on the host, and a program's share of it on the device.

An op sees its tensors as [c, b, a, rows, length]: ``length`` is the blocked dim, ``rows`` the innermost in memory of the others, and
a, b, c the rest. Dims that one stride walks in every tensor are merged first, so most tensors have only rows and length, and a
contiguous one whose rows are whole blocks has only length. A program works on one tile [ROWS, BLOCKS, BLOCK] of rows and length.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..symbols import known

# Only a GPU shows: offsets over 2^31, here and in all kernels (test_layouts::test_over_2_to_the_31_elements).

OUTER_DIMS = 3  # a, b and c
# Triton compiles a kernel anew for an integer that is 1, and for one that is, or is no, multiple of 16. For these it would gain nothing by
# the second, nor most of them by the first: to divide by `row_tiles` is saved where it is 1, as it is for a contiguous tensor.
SIZES = {
    "do_not_specialize": ["length_tiles", "size_a", "size_b"],
    "do_not_specialize_on_alignment": [
        "row_tiles",
        *(f"{scales}_{dim}" for scales in ("scales", "across_scales") for dim in ("length", "row", "a", "b", "c")),
    ],
}

# Measured on an H100 (torch 2.11, Triton 3.6), bf16 8192x16384, as a share of a copy. With 16 elements a thread fake_quant reaches 1.00 and
# 0.99 stochastic; with 8, 1.00 and 0.81; with 32, 0.98 and 0.89. To pack two codes a byte a thread wants twice as many.
ELEMENTS_A_THREAD = 16


class View(NamedTuple):
    """One of an op's tensors: its strides, dim by dim, and how many elements along the blocked dim one of its entries stands for."""

    strides: tuple[int, ...]
    unit: int = 1


class Tile(NamedTuple):
    """How an op's tensors are cut: how many elements a tile has, by where they are in memory."""

    along: int  # where elements are side by side, and rows start at multiples of 16 bytes
    across: int  # where rows are side by side
    rows: int = 64  # of a tile there
    rows_first: bool = True  # whether the next program there has the next rows, or the next blocks
    a_thread: int = 64  # and how many of them a thread has
    along_a_thread: int = ELEMENTS_A_THREAD  # and where elements are side by side
    # Elsewhere. So cut, a row of 16383 has, quantized, fake-quantized and dequantized, 0.85, 0.92 and 0.92 of a copy; with 1024 elements
    # 0.825, 0.90 and 0.86, with 4096 0.80, 0.93 and 0.85.
    ragged: int = 2048


class Plan(NamedTuple):
    """A launch: its programs and warps, and the kernel's arguments after the pointers."""

    programs: int
    warps: int
    sizes_and_strides: tuple[int, ...]  # length, rows, tiles of each, size_a, size_b; then length, rows, a, b, c of each view
    constants: dict[str, Any]
    in_pieces: bool


def plan(
    shape: tuple[int, ...],
    dim: int,
    block_size: int,
    tile: Tile,
    views: tuple[View, ...],
    row_quantum: int,
    places: View | None = None,
) -> Plan | None:
    """How to cover a tensor of this shape; None if more of its dims refuse to merge than a kernel has room for.

    The first view is that of the tensor that is read, whose memory order the tiles follow. Where its rows start at multiples of
    ``row_quantum`` entries a thread may read 16 bytes at once; 0 says that they do not, wherever the strides lead. Sizes and strides may be
    symbols: what is not known of them the plan does without, so that it serves all their values.
    """
    views = (*views, places) if places else views
    length, length_strides = shape[dim], [view.strides[dim] for view in views]
    outer = _merge(shape, dim, views)
    rows, row_strides = outer.pop() if outer else (1, [0] * len(views))
    merges = all(known(row * view.unit == length * along) for row, along, view in zip(row_strides, length_strides, views))
    if known(length % block_size == 0) and merges:
        length *= rows
        rows, row_strides = outer.pop() if outer else (1, [0] * len(views))
    if len(outer) > OUTER_DIMS:
        return None

    rows_first = known(rows > 1) and known(row_strides[0] < length_strides[0])
    rows_innermost = rows_first and known(row_strides[0] == 1)
    starts = [row_strides[0], *(strides[0] for _, strides in outer)]
    aligned = row_quantum > 0 and all(known(start % row_quantum == 0) for start in starts)
    in_pieces = not (aligned and known(length_strides[0] == 1))
    if rows_innermost:
        tile_rows = min(tile.rows, max(8, _power_of_2(rows)))
        tile_blocks = min(_power_of_2(-(-length // block_size)), max(1, tile.across // (block_size * tile_rows)))
    else:
        size = tile.ragged if in_pieces else tile.along
        tile_blocks = min(_power_of_2(-(-length // block_size)), max(1, size // block_size))
        tile_rows = min(_power_of_2(rows), max(1, size // (block_size * tile_blocks)))
    tile_length = tile_blocks * block_size
    elements_a_thread = tile.a_thread if rows_innermost else 32 if in_pieces else tile.along_a_thread
    warps = tile_rows * tile_length // (32 * elements_a_thread)
    length_tiles, row_tiles = -(-length // tile_length), -(-rows // tile_rows)
    abc = outer[::-1] + [(1, [0] * len(views))] * (OUTER_DIMS - len(outer))
    strides = zip(length_strides, row_strides, *(entry[1] for entry in abc))
    axis = None
    if places and places.strides[-1]:
        axis = 2 if known(length_strides[-1] == 1) else 0 if rows_innermost and known(row_strides[-1] == 1) else -1
    return Plan(
        length_tiles * row_tiles * math.prod(size for size, _ in abc),
        min(8, max(1, warps)),
        (length, rows, length_tiles, row_tiles, abc[0][0], abc[1][0], *itertools.chain.from_iterable(strides)),
        {
            "AXIS": axis,
            "BLOCK": block_size,
            "BLOCKS": tile_blocks,
            "ROWS": tile_rows,
            "ROWS_FIRST": (rows_first and (tile.rows_first or not rows_innermost)) or known(row_tiles == 1),
            "ROWS_INNERMOST": rows_innermost,
            "OUTER": len(outer) > 0,
            "MASKED": not (known(length % tile_length == 0) and known(rows % tile_rows == 0)),
            "WIDE": not all(known(tile_rows * row + tile_length * along < 2**31) for row, along in zip(row_strides, length_strides)),
        },
        in_pieces,
    )


def places(shape: tuple[int, ...], seeded: bool) -> View:
    """Where an op's random numbers are, as `numerics.random_bits` counts: row-major, each row rounded up to a multiple of eight.

    All strides are 0 if it has none.
    """
    if not seeded:
        return View((0,) * len(shape))
    strides = [1]
    for size in reversed((*shape[1:-1], -(-shape[-1] // 8) * 8) if len(shape) > 1 else ()):
        strides.append(strides[-1] * size)
    return View(tuple(reversed(strides)))


def _merge(shape: tuple[int, ...], dim: int, views: tuple[View, ...]) -> list[tuple[int, list[int]]]:
    """All dims but ``dim`` as (size, stride in each view), outermost in memory first, merged where one stride walks two in every view."""
    dims = [(shape[d], [view.strides[d] for view in views]) for d in range(len(shape)) if d != dim and not known(shape[d] == 1)]
    dims.sort(key=functools.cmp_to_key(_compare))
    merged: list[tuple[int, list[int]]] = []
    for size, strides in dims:
        if merged and all(known(outer == size * inner) for outer, inner in zip(merged[-1][1], strides)):
            size *= merged.pop()[0]
        merged.append((size, strides))
    return merged


def _compare(one: tuple[int, list[int]], other: tuple[int, list[int]]) -> int:
    """The order of two dims in memory, by the first view."""
    return _is_outside(other[1][0], one[1][0]) - _is_outside(one[1][0], other[1][0])


def _is_outside(stride: int, other: int) -> bool:
    """Whether a dim of one stride is known to be outside one of another in memory; an expanded dim, of stride 0, is outermost."""
    return not known(other == 0) and (known(stride == 0) or known(stride > other))


def _power_of_2(count: int) -> int:
    """The first power of two from a count on; for a symbol, one beyond every tile."""
    return triton.next_power_of_2(count) if isinstance(count, int) else 1 << 30


@triton.jit
def program_tile(
    length_tiles,
    row_tiles,
    size_a,
    size_b,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    OUTER: tl.constexpr,
):
    """This program's tile: its first element along length, its first row, and its a, b and c; all int64."""
    # Each division that is not needed is left out: one costs a thread as much as two of its elements.
    program = tl.program_id(0)
    if ROWS_FIRST:
        row_tile, length_tile = program % row_tiles, program // row_tiles
        outer = length_tile // length_tiles if OUTER else 0
        length_tile = length_tile % length_tiles if OUTER else length_tile
    else:
        length_tile, row_tile = program % length_tiles, program // length_tiles
        outer = row_tile // row_tiles if OUTER else 0
        row_tile = row_tile % row_tiles if OUTER else row_tile
    first, row = length_tile.to(tl.int64) * (BLOCKS * BLOCK), row_tile.to(tl.int64) * ROWS
    if OUTER:
        a, b, c = outer % size_a, (outer // size_a) % size_b, outer // size_a // size_b
        return first, row, a.to(tl.int64), b.to(tl.int64), c.to(tl.int64)
    else:
        return first, row, 0, 0, 0


@triton.jit
def left(first_row, first, rows, length, ROWS: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """How many rows and elements there are from a tile's first on, and no more than it has."""
    return tl.minimum(rows - first_row, ROWS).to(tl.int32), tl.minimum(length - first, BLOCKS * BLOCK).to(tl.int32)


@triton.jit
def inside(
    row,
    element,
    first_row,
    first,
    rows,
    length,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The mask of a tile that overhangs."""
    rows_left, elements_left = left(first_row, first, rows, length, ROWS, BLOCKS, BLOCK)
    return (row < rows_left) & (element < elements_left)


@triton.jit
def lanes(COUNT: tl.constexpr, AXIS: tl.constexpr, WIDE: tl.constexpr):
    """0 .. COUNT - 1 along an axis of a tile."""
    lane = tl.arange(0, COUNT)
    if WIDE:
        lane = lane.to(tl.int64)
    if AXIS == 0:
        return lane[:, None, None]
    elif AXIS == 1:
        return lane[None, :, None]
    else:
        return lane[None, None, :]
