"""Scales as matrix units read them: in tiles, each of which is 512 bytes in a row.

Eager code works by views: one copy, if tiles are whole. A traced graph works by places, of which a compiler makes one loop as well: for
views torch would make guards, on whether there is one tile and whether all are whole, which an AOTInductor package ignores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .inductor import write


def tiles_of(swizzled: Tensor, row_tiles: int, column_tiles: int) -> Tensor:
    """Swizzled bytes as [..., row tiles, 4, 32, column tiles, 4]: the row and the column of each, in order.

    A tile of 128 rows and 4 columns is 512 bytes: 32 times four groups of rows, of 4 bytes each; the tiles are row-major. So the byte of
    row i and column j is at (i // 128 * column tiles + j // 4) * 512 + i % 32 * 16 + i % 128 // 32 * 4 + j % 4. Source: cuBLAS, "1D block
    scaling factors layout".
    """
    return swizzled.view(*swizzled.shape[:-2], row_tiles, column_tiles, 32, 4, 4).transpose(-4, -2)


def rows_and_columns(matrix: Tensor, row_tiles: int, column_tiles: int) -> Tensor:
    """A matrix of whole tiles as `tiles_of` has it."""
    return matrix.unflatten(-1, (column_tiles, 4)).unflatten(-3, (row_tiles, 4, 32))


def places(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of each place in a matrix."""
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape[-2:])
    return rows.unsqueeze(-1), columns


def swizzle_scales(scales: Tensor, out: Tensor, row_tiles: int, column_tiles: int, traced: bool = False) -> Tensor:
    """Fill out with scales, tile by tile, and zeros where a tile has none."""
    *_, rows, columns = scales.shape
    if traced:
        i, j = places(out)
        place = i * (4 * column_tiles) + j
        tile = place // 512
        i = tile // column_tiles * 128 + place % 16 // 4 * 32 + place % 512 // 16
        j = tile % column_tiles * 4 + place % 4
        inside = (i < rows) & (j < columns)
        bytes_there = scales[..., i.clamp_max(rows - 1), j.clamp_max(columns - 1)]
        return write(out, out, out.ndim - 1, lambda there, inside: torch.where(inside, there, 0), bytes_there, inside.expand_as(out))
    whole = (rows, columns) == (128 * row_tiles, 4 * column_tiles)
    if not (whole and scales.is_contiguous() and scales.storage_offset() % 4 == 0):
        scales = torch.nn.functional.pad(scales, (0, 4 * column_tiles - columns, 0, 128 * row_tiles - rows)).contiguous()
    # The four columns of a tile stay together: copied as one int32, 4 MB take 2.0 ms of a CPU's core, and byte by byte 10.3 ms.
    tiles, matrix = tiles_of(out, row_tiles, column_tiles), rows_and_columns(scales, row_tiles, column_tiles)
    tiles.view(torch.int32).copy_(matrix.view(torch.int32))
    return out


def unswizzle_scales(swizzled: Tensor, out: Tensor, row_tiles: int, column_tiles: int, traced: bool = False) -> Tensor:
    """Fill out with the scales that are swizzled."""
    *_, rows, columns = out.shape
    if traced:
        i, j = places(out)
        place = (i // 128 * column_tiles + j // 4) * 512 + i % 32 * 16 + i % 128 // 32 * 4 + j % 4
        return write(out, out, out.ndim - 1, lambda byte: byte | 0, swizzled[..., place // (4 * column_tiles), place % (4 * column_tiles)])
    tiles = tiles_of(swizzled.contiguous(), row_tiles, column_tiles)
    if (rows, columns) == (128 * row_tiles, 4 * column_tiles) and tiles.storage_offset() % 4 == 0:
        rows_and_columns(out, row_tiles, column_tiles).view(torch.int32).copy_(tiles.view(torch.int32))
    else:
        out.copy_(tiles.flatten(-5, -3).flatten(-2)[..., :rows, :columns])
    return out
