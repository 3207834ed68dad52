"""A large tensor in chunks, each worked on by one thread of the CPU; and a row in blocks.

A chunk is given by its slices along all dims, or by None: the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..symbols import first, groups, has_unbacked, known
from ..threads import map_alone

Where = tuple[slice, ...] | None  # a chunk's slices

# On CPU an op works through a large tensor in chunks of CHUNK elements, so that every intermediate stays in cache. Each chunk has one
# thread: threads that share an operation wait for each other after it, and where another process has a core, all wait for that core.
# All in ms, bfloat16 2048x4096 along the last dim, two cores (AMD EPYC, torch 2.13):
#   with other work on both cores, fake_quant to MXFP4: 748 to 872 with all threads on each chunk of 2^17, 78 to 94 with a thread a chunk;
#   without, quantize to MXFP8:  chunks of      2^16  2^17  2^18  2^19
#                                two threads     57    36    30    30
#                                one thread      49    40    36    45
#   along dim 0, where chunks are half of CHUNK: 51 in chunks of 2^17 and 63 in chunks of 2^18; in one thread 62 and 106.
CHUNK = 1 << 18
IN_FLIGHT = 1 << 20  # elements in all threads together: intermediates take some 30 bytes an element, and a call may take 64 MB


def chunks_of(like: Tensor, dim: int, block_size: int, times: int = 1, together: bool = False) -> Iterator[Where]:
    """The chunks in which an op works: whole blocks and whole groups of eight, cut across the outermost dims in memory.

    They are ``times`` as large as usual; with all threads ``together`` on one chunk, their number does not matter.
    """
    if like.device.type != "cpu":
        yield None
        return
    most = times * CHUNK
    if not together:
        most = min(most // (1 if like.stride(dim) == 1 else 2), IN_FLIGHT // torch.get_num_threads())
    sizes = list(like.shape)
    quanta = [1] * (like.ndim - 1) + [8]
    quanta[dim] = block_size
    steps = list(sizes)
    for outer in sorted(range(like.ndim), key=like.stride, reverse=True):
        rest = max(1, math.prod(steps) // max(1, steps[outer]))
        steps[outer] = min(steps[outer], max(1, most // rest // quanta[outer]) * quanta[outer])
    starts = [range(0, size, max(1, step)) for size, step in zip(sizes, steps)]
    for index in range(math.prod(map(len, starts))):
        slices = []
        for start, size, step in zip(reversed(starts), reversed(sizes), reversed(steps)):
            index, place = divmod(index, len(start))
            slices.append(slice(start[place], min(start[place] + step, size)))
        yield tuple(reversed(slices))


def share_out(work: Callable[[Where], Any], chunks: Iterable[Where], together: bool = False) -> None:
    """Work on chunks: as many at a time as torch has threads, and each in one thread; or ``together`` on one after the other."""
    todo = list(chunks)
    if together or len(todo) == 1:
        for where in todo:
            work(where)
        return

    def alone(where: Where) -> None:
        with torch.inference_mode():  # outputs may be tensors of that mode, and inputs need no graph
            work(where)

    map_alone(alone, todo)


def cut(tensor: Tensor, where: Where, dim: int, divisor: int = 1) -> Tensor:
    """A chunk of a tensor that has a ``divisor``-th of the length along ``dim``; ``dim`` is moved last."""
    if where is not None:
        along = slice(where[dim].start // divisor, -(-where[dim].stop // divisor))
        tensor = tensor[(*where[:dim], along, *where[dim + 1 :])]
    return tensor.movedim(dim, -1)


def fill_up(tensor: Tensor, length: int) -> Tensor:
    """The last dim filled up to a length with zeros, which change no maximum."""
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[-1]))


def in_blocks(tensor: Tensor, block_size: int) -> Tensor:
    """The last dim as [blocks, block_size], filled up where the last block may be short."""
    count, whole = groups(tensor.shape[-1], block_size)
    return (tensor if whole else fill_up(tensor, count * block_size)).unflatten(-1, (count, block_size))


def in_rows(tensor: Tensor, length: int) -> Tensor:
    """The inverse of `in_blocks`.

    It is a view by as_strided, for two reasons. Inductor stores what as_strided views, so it fuses the consumers of an op into the kernel
    that has the blocks; behind a flatten, they get a kernel of their own, which reads the input again (fake_quant -> relu then runs at 0.34
    to 0.44 of a copy: H100, torch 2.11). And no loop over a row then divides by the block size: Inductor's C++ leaves out the end of such a
    loop where the row is no multiple of it (torch 2.11 to 2.15).
    """
    *outer, _, block = tensor.shape
    *strides, along, step = tensor.stride()
    if known(along == block * step) and not has_unbacked(tensor.stride()):
        return tensor.as_strided((*outer, length), (*strides, step))
    return first(tensor.flatten(-2), length)
