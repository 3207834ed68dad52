"""How tensors of any shape and strides become a grid of tiles: the layout and its cut on the host, and a program's share on the device.

An op sees its tensors as [c, b, a, rows, length]: ``length`` is the blocked dim, ``rows`` the innermost in memory of the others, and
a, b, c the rest. Dims that one stride walks in every tensor are merged first, so most tensors have only rows and length, and a
contiguous one whose rows are whole blocks has only length. A program works on one tile of rows and length.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ..formats import Format
from ..symbols import known
from .cases import LONGEST_BLOCK, WHOLE_BLOCKS, Case
from .launch import Launch
from .rules import facts

# Only a GPU shows: offsets over 2^31, here and in all kernels (test_layouts::test_over_2_to_the_31_elements).

OUTER_DIMS = 3  # a, b and c
# Triton compiles a kernel anew for an integer that is 1, and for one that is, or is no, multiple of 16. For these it would gain nothing by
# the second, nor most of them by the first: to divide by `row_tiles` is saved where it is 1, as it is for a contiguous tensor.
SIZES = {
    "do_not_specialize": ["length_tiles", "size_a", "size_b"],
    "do_not_specialize_on_alignment": [
        "row_tiles",
        *(f"stride_{scales}_{dim}" for scales in ("scales", "across_scales") for dim in ("length", "row", "a", "b", "c")),
    ],
}


class View(NamedTuple):
    """One of an op's tensors: its strides, dim by dim, and how many elements along the blocked dim one of its entries stands for."""

    strides: tuple[int, ...]
    unit: int = 1


class Layout(NamedTuple):
    """How an op's tensors lie in memory: the sizes, and each tensor's strides, of length, rows, and of a, b and c."""

    kind: str  # a row of `cases.CASES` is for one of three
    length: int
    rows: int
    outer: list[tuple[int, list[int]]]
    length_strides: list[int]
    row_strides: list[int]
    rows_first: bool  # whether neighbours along rows are nearer in memory than those along length
    axis: int  # of a tile, along which places of random numbers are neighbours: 2 length, 0 rows, -1 neither


class Tile(NamedTuple):
    """What a kernel knows of its tile as it is compiled: TILE, a constexpr tuple, has these in order."""

    block: int
    blocks: int  # of a tile, along length
    rows: int
    parts: int  # in which a tile is held: `tile.py` says what they are
    rows_first: bool  # whether the next program has the next rows, or the next blocks
    rows_innermost: bool  # whether rows are side by side in memory
    whole: bool  # whether a part is one element of every block, and threads have whole blocks
    rows_per_thread: int  # of those
    outer: bool  # whether a tensor has dims beside rows and length
    masked: bool  # whether tiles overhang
    wide: bool  # whether offsets within a tile need 64 bits
    axis: int
    packed: bool  # whether bfloat16s are worked two at a time
    converted: bool  # whether an instruction rounds to FP8
    loads: int = 1  # by which a tile of one part is read
    words: bool = False  # whether every row's codes start at a multiple of eight of them
    unit: int = 1  # how many codes a thread loads as one word; if several, what it loads and stores leaves the L2 cache first
    ahead: int = 0  # how many programs ahead codes are fetched into the L2 cache


# Where TILE has each of them.
BLOCK, BLOCKS, ROWS, PARTS, ROWS_FIRST, ROWS_INNERMOST, WHOLE, ROWS_PER_THREAD = (tl.constexpr(i) for i in range(8))
OUTER, MASKED, WIDE, AXIS, PACKED, CONVERTED, LOADS, WORDS, UNIT, AHEAD = (tl.constexpr(i) for i in range(8, 18))


class Cut(NamedTuple):
    """A layout in tiles: programs, warps, the integers that kernels take after the pointers, and what they know of a tile."""

    programs: int
    warps: int
    sizes_and_strides: tuple[int, ...]  # length, rows, tiles of each, size_a, size_b; then length, rows, a, b, c of each view
    tile: Tile


def lay_out(
    shape: tuple[int, ...],
    dim: int,
    block_size: int,
    views: tuple[View, ...],
    row_quantum: int,
) -> Layout | None:
    """How tensors of this shape lie in memory; None if more of their dims refuse to merge than a kernel has room for.

    The first view is that of the tensor that is read, whose memory order the tiles follow, the last one where random numbers are. Where
    the first one's rows start at multiples of ``row_quantum`` entries a thread may read 16 bytes at once; 0 says that they do not, wherever
    the strides lead. Sizes and strides may be symbols: what is not known of them the layout does without, so that it serves all their
    values.
    """
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
    across = rows_first and known(row_strides[0] == 1)
    starts = [row_strides[0], *(strides[0] for _, strides in outer)]
    aligned = row_quantum > 0 and all(known(start % row_quantum == 0) for start in starts)
    along = aligned and known(length_strides[0] == 1)
    kind = "across" if across else "along" if along else "ragged"
    axis = 2 if known(length_strides[-1] == 1) else 0 if across and known(row_strides[-1] == 1) else -1
    return Layout(kind, length, rows, outer, length_strides, row_strides, rows_first, axis)


def cut(layout: Layout, block_size: int, case: Case) -> Cut:
    """A layout in the tiles of a case."""
    length, rows, outer = layout.length, layout.rows, layout.outer
    across, whole = layout.kind == "across", case.parts == WHOLE_BLOCKS
    if across:
        tile_rows = min(case.rows, max(8, _power_of_2(rows)))
        tile_blocks = min(_power_of_2(-(-length // block_size)), max(1, case.elements // (block_size * tile_rows)))
    else:
        tile_blocks = min(_power_of_2(-(-length // block_size)), max(1, case.elements // block_size))
        tile_rows = min(_power_of_2(rows), max(1, case.elements // (block_size * tile_blocks)))
    tile_length = tile_blocks * block_size
    length_tiles, row_tiles = -(-length // tile_length), -(-rows // tile_rows)
    none = [0] * len(layout.length_strides)
    abc = outer[::-1] + [(1, none)] * (OUTER_DIMS - len(outer))
    offsets = zip(layout.row_strides, layout.length_strides)
    return Cut(
        length_tiles * row_tiles * math.prod(size for size, _ in abc),
        min(8, max(1, tile_rows * tile_length // (32 * case.elements_per_thread))),
        (
            *(length, rows, length_tiles, row_tiles, abc[0][0], abc[1][0]),
            *itertools.chain.from_iterable(zip(layout.length_strides, layout.row_strides, *(strides for _, strides in abc))),
        ),
        Tile(
            block=block_size,
            blocks=tile_blocks,
            rows=tile_rows,
            parts=block_size if whole else case.parts,
            rows_first=(layout.rows_first and (case.rows_first or not across)) or known(row_tiles == 1),
            rows_innermost=across,
            whole=whole,
            rows_per_thread=case.elements_per_thread // LONGEST_BLOCK,
            outer=len(outer) > 0,
            masked=not (known(length % tile_length == 0) and known(rows % tile_rows == 0)),
            wide=not all(known(tile_rows * row + tile_length * along < 2**31) for row, along in offsets),
            axis=layout.axis,
            packed=case.packed,
            converted=case.converted,
        ),
    )


def prepare(
    kernel: triton.JITFunction, found: Cut, fmt: Format, threshold: int = 0, dtype: torch.dtype | None = None, **tile: Any
) -> Launch:
    """The launch of a kernel in these tiles, of which ``tile`` says more; ``dtype`` is that of values that it writes."""
    dtype_max = 0.0 if dtype is None else torch.finfo(dtype).max
    constants = {"FORMAT": facts(fmt, threshold, dtype_max), "TILE": tuple(found.tile._replace(**tile)), "num_warps": found.warps}
    return Launch(kernel, (found.programs, 1, 1), found.sizes_and_strides, constants)


def places(shape: tuple[int, ...], seeded: bool) -> View:
    """Where an op's random numbers are, as `tile.random_bits` counts: row-major, each row rounded up to a multiple of eight.

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
def program_tile(length_tiles, row_tiles, size_a, size_b, TILE: tl.constexpr):
    """This program's tile: its first element along length, its first row, and its a, b and c; all int64."""
    # Each division that is not needed is left out: one costs a thread as much as two of its elements.
    program = tl.program_id(0)
    outer = 0
    if TILE[ROWS_FIRST]:
        row_tile, length_tile = program % row_tiles, program // row_tiles
        if TILE[OUTER]:
            outer, length_tile = length_tile // length_tiles, length_tile % length_tiles
    else:
        length_tile, row_tile = program % length_tiles, program // length_tiles
        if TILE[OUTER]:
            outer, row_tile = row_tile // row_tiles, row_tile % row_tiles
    first, first_row = length_tile.to(tl.int64) * (TILE[BLOCKS] * TILE[BLOCK]), row_tile.to(tl.int64) * TILE[ROWS]
    if TILE[OUTER]:
        a, b, c = outer % size_a, (outer // size_a) % size_b, outer // size_a // size_b
        return first, first_row, a.to(tl.int64), b.to(tl.int64), c.to(tl.int64)
    else:
        return first, first_row, 0, 0, 0


@triton.jit
def left(first_row, first, rows, length, TILE: tl.constexpr):
    """How many rows and elements there are from a tile's first on, and no more than it has."""
    return tl.minimum(rows - first_row, TILE[ROWS]).to(tl.int32), tl.minimum(length - first, TILE[BLOCKS] * TILE[BLOCK]).to(tl.int32)
