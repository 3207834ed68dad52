"""Shapes and strides of outputs: the blocked dim is the innermost in memory, as matrix units read it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..symbols import check, known
from .call import Encoding, Tiles

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # sizes, and strides

KNOWN_SHAPES = 4096  # then those used longest ago are forgotten
TILE = (128, 4)  # rows and columns of the tiles in which matrix units read scales


def count_blocks(length: int, block_size: int) -> int:
    """How many blocks there are in a row, the last perhaps short: one quotient, for the reason that `symbols.groups` gives."""
    return (length + block_size - 1) // block_size


def blocked(shape: torch.Size, dim: int, length: int) -> Layout:
    """The sizes of a shape, but ``length`` along the blocked dim, and their strides."""
    strides, stride = [1] * len(shape), 1 if known(length == 0) else length  # torch too counts an empty dim as 1 in strides
    for outer in reversed(range(len(shape))):
        if outer != dim:
            strides[outer] = stride
            stride = stride if known(shape[outer] == 0) else stride * shape[outer]
    return (*shape[:dim], length, *shape[dim + 1 :]), tuple(strides)


def code_layouts(shape: torch.Size, rule: Encoding) -> tuple[Layout, Layout]:
    """`blocked` for the elements and the scales of a shape. Raises ValueError where its length does not fill whole bytes."""
    length, per_byte = shape[rule.dim], rule.fmt.codes_per_byte
    check(
        length % per_byte == 0,
        lambda: (
            f"{rule.fmt.name} packs {per_byte} elements a byte, so the length {length} of dim {rule.dim} must be even: pad the input,"
            " or use fake_quant, which takes any length"
        ),
    )
    return blocked(shape, rule.dim, length // per_byte), blocked(shape, rule.dim, count_blocks(length, rule.block_size))


known_layouts = functools.lru_cache(KNOWN_SHAPES)(code_layouts)


def empty_codes(x: Tensor, rule: Encoding) -> tuple[Tensor, Tensor]:
    """Elements and scales for x. Raises ValueError where its length does not fill whole bytes."""
    try:
        elements, scales = known_layouts(x.shape, rule)  # to compute them anew takes longer than both allocations
    except TypeError:  # symbols have no hash
        elements, scales = code_layouts(x.shape, rule)
    return x.new_empty_strided(*elements, dtype=torch.uint8), x.new_empty_strided(*scales, dtype=torch.uint8)


def tiles_for(rows: int, columns: int) -> Tiles:
    """How many tiles hold a matrix of scales, the last ones perhaps in part."""
    return Tiles(-(-rows // TILE[0]), -(-columns // TILE[1]))


def tiled(tiles: Tiles) -> tuple[int, int]:
    """The rows and columns that tiles fill."""
    return tiles.rows * TILE[0], tiles.columns * TILE[1]
