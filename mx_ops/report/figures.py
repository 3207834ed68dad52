"""What every format and scale mode does to tensors: bits stored, noise, largest error, values clipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

import mx_ops

from .. import library
from ..command import progress
from ..formats import FORMATS, Format
from ..threads import map_alone
from .checkpoints import Source, Stored

A = TypeVar("A")
B = TypeVar("B")

# A format with one rule for its scales has no mode: None.
COMBINATIONS: list[tuple[Format, str | None]] = [(fmt, mode) for fmt in FORMATS.values() for mode in fmt.scale_modes or (None,)]
CHUNK = 1 << 19  # values measured at a time: bounds the float64 temporaries, and keeps them in cache; whole blocks of every size
AT_ONCE = 16  # chunks in memory, and so threads that work on them: they raise the peak by 10 MB each or less


@dataclass
class Figures:
    """Sums over values. A block with a NaN or an Inf becomes NaN: only the first two sums and the last two count it."""

    values: int = 0
    stored_bytes: int = 0
    measured: int = 0
    clipped: int = 0
    signal: float = 0.0
    noise: float = 0.0
    largest_error: float = 0.0
    different: int = 0  # where fake_quant has other bits than dequantize(quantize)
    first_different: str = ""

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.values + other.values,
            self.stored_bytes + other.stored_bytes,
            self.measured + other.measured,
            self.clipped + other.clipped,
            self.signal + other.signal,
            self.noise + other.noise,
            max(self.largest_error, other.largest_error),
            self.different + other.different,
            self.first_different or other.first_different,
        )

    @property
    def bits(self) -> float:
        """Bits stored for a value: codes and scales, with what short blocks and odd rows leave unused."""
        return 8 * self.stored_bytes / self.values if self.values else math.nan

    @property
    def sqnr(self) -> float:
        """The signal-to-quantization-noise ratio in dB; infinite if every value is kept."""
        if self.noise == 0:
            return math.inf if self.measured else math.nan
        ratio = self.signal / self.noise
        return 10 * math.log10(ratio) if ratio > 0 else math.nan

    @property
    def wrong(self) -> str:
        """What is wrong with the ops' results, whatever the tensor; empty if nothing is."""
        if self.different:
            return f"{self.different} of {self.values} values differ, {self.first_different}"
        return "" if math.isfinite(self.noise) else "finite values did not stay finite"

    @property
    def clipped_share(self) -> float:
        """The share of values beyond the largest one that their block can hold."""
        return self.clipped / self.measured if self.measured else math.nan


class TensorReport(NamedTuple):
    """A tensor, and its figures in the order of COMBINATIONS."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    not_finite: int
    figures: list[Figures]


class Report(NamedTuple):
    """A source: the tensors measured, and names and reasons of those that were not."""

    name: str
    tensors: list[TensorReport]
    skipped: list[tuple[str, str]]

    @property
    def totals(self) -> list[Figures]:
        """The figures of all tensors as one."""
        return [sum((tensor.figures[index] for tensor in self.tensors), Figures()) for index in range(len(COMBINATIONS))]


def survey(source: Source, device: torch.device) -> Report:
    """Measure every tensor that holds floating-point values."""
    report = Report(source.name, [], [])
    total = sum(tensor.shape.numel() for tensor in source.tensors if not tensor.skipped)
    source.tensors.reverse()
    with progress(total, source.name, "values") as advance:
        while source.tensors:  # none is kept: a file is closed with its last tensor, and its pages leave memory
            tensor = source.tensors.pop()
            if tensor.skipped:
                report.skipped.append((tensor.name, tensor.skipped))
            else:
                report.tensors.append(survey_tensor(tensor, device, advance))
    return report


def map_chunks(function: Callable[[A], B], chunks: list[A], device: torch.device) -> list[B]:
    """The results of a function for chunks. The reference on CPU works on as many at a time as torch has threads, a thread each.

    torch's own threads wait for one another after every operation. On a busy machine that takes longer than the operation.
    """
    if device.type != "cpu" or library.kernels_for("cpu") is not None:
        return [function(chunk) for chunk in chunks]
    return map_alone(function, chunks)


def survey_tensor(tensor: Stored, device: torch.device, advance: Callable[[int], object]) -> TensorReport:
    """Measure a tensor in every format and scale mode. It is read twice: for its scale, then for the figures."""
    not_finite, scales = 0, scales_of_tensor(torch.zeros(1, device=device))

    def look_at(chunk: Chunk) -> tuple[int, dict[str, Tensor]]:
        finite = chunk.values.isfinite()
        return finite.numel() - int(finite.sum()), scales_of_tensor(chunk.values.masked_fill(~finite, 0))

    def survey_chunk(chunk: Chunk) -> list[Figures]:
        blocks = {size: Blocks(chunk.values, size) for size in {fmt.block_size for fmt in FORMATS.values()}}
        return [
            measure(chunk.values, blocks[fmt.block_size], fmt, mode, scales.get(fmt.name), tensor.shape, chunk.start)
            for fmt, mode in COMBINATIONS
        ]

    for chunks in windows(tensor, device):
        for unusable, of_chunk in map_chunks(look_at, chunks, device):
            not_finite += unusable
            scales = {name: torch.maximum(scale, of_chunk[name]) for name, scale in scales.items()}
    figures = [Figures() for _ in COMBINATIONS]
    for chunks in windows(tensor, device):
        for more in map_chunks(survey_chunk, chunks, device):
            figures = [have + new for have, new in zip(figures, more)]
        advance(sum(chunk.values.numel() for chunk in chunks))
    return TensorReport(tensor.name, tensor.dtype, tensor.shape, not_finite, figures)


def scales_of_tensor(x: Tensor) -> dict[str, Tensor]:
    """A tensor's own scale, for each format that has one. It grows with the largest magnitude, and with nothing else."""
    return {fmt.name: torch.ops.mx.tensor_scale(x, fmt.name) for fmt in FORMATS.values() if fmt.has_tensor_scale}


class Chunk(NamedTuple):
    """Whole rows of a tensor seen as a matrix, or whole blocks of one row, and the flat index of their first value."""

    start: int
    values: Tensor


def windows(tensor: Stored, device: torch.device) -> Iterator[list[Chunk]]:
    """A tensor's chunks, as many at a time as may be in memory."""
    length = tensor.length
    step = max(1, CHUNK // max(1, length))
    height = step * AT_ONCE if length <= CHUNK else 1
    for row in range(0, tensor.rows if length else 0, height):
        for column in range(0, length, CHUNK * AT_ONCE):
            rows, columns = slice(row, min(row + height, tensor.rows)), slice(column, min(column + CHUNK * AT_ONCE, length))
            window = tensor.read(rows, columns).to(device)
            yield [
                Chunk((row + down) * length + column + right, window[down : down + step, right : right + CHUNK])
                for down in range(0, window.shape[0], step)
                for right in range(0, window.shape[1], CHUNK)
            ]


class Blocks:
    """A matrix in blocks along its rows, where float64 sums can be taken; zeros where a block is short or not finite."""

    def __init__(self, x: Tensor, block_size: int) -> None:
        self.length, self.block_size = x.shape[-1], block_size
        values = self.split(x).float()
        self.finite = values.isfinite().all(-1, keepdim=True)
        self.all_finite = bool(self.finite.all())
        values = self.clear(values)
        self.magnitudes, self.values = values.abs(), values.double()
        self.signal = self.values.square().sum()
        self.measured = self.finite.expand_as(values).flatten(-2)[:, : self.length].sum()

    def split(self, x: Tensor) -> Tensor:
        """X as [rows, blocks, block_size]. Not every GPU has float64, but NVIDIA's and AMD's do."""
        x = x if x.device.type == "cuda" else x.cpu()
        return pad(x, (0, -self.length % self.block_size)).unflatten(-1, (-1, self.block_size))

    def clear(self, blocks: Tensor) -> Tensor:
        """Zeros for the blocks that are not finite."""
        return blocks if self.all_finite else blocks.masked_fill(~self.finite, 0)


def measure(
    x: Tensor, blocks: Blocks, fmt: Format, scale_mode: str | None, tensor_scale: Tensor | None, shape: torch.Size, start: int
) -> Figures:
    """The figures of a chunk of a tensor of this shape, from this flat index on."""
    # quantize takes whole bytes of codes; a zero more changes no block's maximum.
    elements, scales = mx_ops.quantize(
        pad(x, (0, -blocks.length % fmt.codes_per_byte)), fmt.name, scale_mode=scale_mode, tensor_scale=tensor_scale
    )
    restored = mx_ops.dequantize(elements, scales, fmt.name, dtype=x.dtype, tensor_scale=tensor_scale)[:, : blocks.length]
    different, first = compare(mx_ops.fake_quant(x, fmt.name, scale_mode=scale_mode, tensor_scale=tensor_scale), restored, shape, start)

    error = blocks.values - blocks.clear(blocks.split(restored))
    reach = scales.to(error.device).float().unsqueeze(-1) * fmt.largest  # exact, or infinite where nothing can be beyond it
    if tensor_scale is not None:
        reach = reach.double() * tensor_scale.to(error.device)
    sums = (blocks.measured, (blocks.magnitudes > reach).sum(), blocks.signal, error.square().sum(), error.abs().max())
    measured, clipped, signal, noise, largest = torch.stack([value.double() for value in sums]).tolist()  # one wait for a GPU
    stored_bytes = elements.nbytes + scales.nbytes
    return Figures(x.numel(), stored_bytes, int(measured), int(clipped), signal, noise, largest, different, first)


def compare(have: Tensor, want: Tensor, shape: torch.Size, start: int = 0) -> tuple[int, str]:
    """How many values differ in their bits, and the first of them. Two NaNs do not differ.

    The values are those of a tensor of ``shape`` from its flat index ``start`` on.
    """
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[want.element_size()]
    if torch.equal(have.view(integer), want.view(integer)):
        return 0, ""
    differ = ((have.view(integer) != want.view(integer)) & ~(have.isnan() & want.isnan())).flatten()
    count = int(differ.sum())
    if not count:
        return 0, ""
    first = int(differ.nonzero()[0])
    index = [int(i) for i in torch.unravel_index(torch.tensor(start + first), shape)]
    return count, f"first at {index}: {have.flatten()[first].item():.9g}, not {want.flatten()[first].item():.9g}"
