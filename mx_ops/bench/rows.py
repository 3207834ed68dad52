"""What is measured: the rows of the table, the tensors each works on, and the bytes that it has to move."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..formats import FORMATS, Format
from . import peers

OPS = ("fake_quant", "quantize", "dequantize", "quantize_both")
LARGE = {"cpu": (2048, 4096)}  # by device type
LARGE_ON_GPUS = (8192, 16384)
SMALL_ON_GPUS = ((4096, 4096), (1024, 4096))
SWEEP = {"cpu": [2**power for power in range(6, 13)]}  # the numbers of rows that --plot measures
SWEEP_ON_GPUS = [2**power for power in range(8, 16)]
SWEEP_COLUMNS = 4096
EDGE = 8  # what a sliced tensor leaves out on either side

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "sliced": lambda x: torch.nn.functional.pad(x, (EDGE, EDGE))[:, EDGE:-EDGE],
}


@dataclass(frozen=True)
class Row:
    """An op, on tensors of a kind, run in a way."""

    op: str
    format: str
    shape: tuple[int, int]
    dtype: torch.dtype = torch.bfloat16
    mode: str = "nearest"  # or "stochastic"
    dim: int | None = -1  # None: both
    layout: str = "contiguous"
    by: str = "eager"  # or "compiled", or by a peer

    @property
    def fmt(self) -> Format:
        """The format's row in the table of formats."""
        return FORMATS[self.format]

    @property
    def size(self) -> str:
        """Of its values, and how they lie in memory."""
        return "x".join(map(str, self.shape)) + ("" if self.layout == "contiguous" else f" {self.layout}")

    @property
    def dtype_name(self) -> str:
        """Without the module."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def possible(self) -> bool:
        """Whether the op is there, and the length along the dim can be packed in whole bytes."""
        lengths = self.shape if self.dim is None else (self.shape[self.dim],)
        whole = self.op == "fake_quant" or all(length % self.fmt.codes_per_byte == 0 for length in lengths)
        return hasattr(torch.ops.mx, self.op) and whole


def narrowed(formats: Iterable[str]) -> list[str]:
    """The first format of each width of codes: what stands for all where the format matters little."""
    first: dict[int, str] = {}
    for name in formats:
        first.setdefault(FORMATS[name].bits, name)
    return list(first.values())


def default_rows(device_type: str, quick: bool = False, shape: tuple[int, int] | None = None) -> list[Row]:
    """The rows for a type of device: all of them, or what a minute suffices for; at a shape, if one is given."""
    large = shape or LARGE.get(device_type, LARGE_ON_GPUS)
    if quick:
        rows = [Row(op, name, large) for name in narrowed(FORMATS) for op in OPS]
        rows += [Row("fake_quant", name, large, mode="stochastic") for name in narrowed(FORMATS)]
    elif device_type == "cpu":
        rows = [replace(row, by=by) for by in ("eager", "compiled") for row in [*every_format(large), *in_float32(large)]]
    else:
        rows = [replace(row, dtype=dtype) for dtype in (torch.bfloat16, torch.float32) for row in every_format(large)]
        rows += [Row("fake_quant", name, size) for name in narrowed(FORMATS) for size in SMALL_ON_GPUS if not shape]
        for name, op in itertools.product(narrowed(FORMATS), OPS[:3]):
            rows.append(Row(op, name, (large[0], large[1] - 1)))
            rows += [Row(op, name, large, layout=layout) for layout in ("transposed", "sliced")]
    return those_possible(rows)


def sweep_rows(device_type: str, formats: Iterable[str]) -> list[Row]:
    """What --plot draws: each op at sizes that differ in the number of rows alone."""
    sizes = [(count, SWEEP_COLUMNS) for count in SWEEP.get(device_type, SWEEP_ON_GPUS)]
    return those_possible([Row(op, name, size) for name in formats for op in OPS for size in sizes])


def those_possible(rows: list[Row]) -> list[Row]:
    """Those that can be run, each once; of what quantizes along both dims."""
    rows = [replace(row, dim=None) if row.op == "quantize_both" else row for row in rows]
    return [row for row in dict.fromkeys(rows) if row.possible]


def every_format(shape: tuple[int, int]) -> list[Row]:
    """Every op in every format along either dim, and what there is of stochastic rounding."""
    rows = []
    for name, dim in itertools.product(FORMATS, (-1, 0)):
        rows += [Row("fake_quant", name, shape, mode=mode, dim=dim) for mode in ("nearest", "stochastic")]
        rows += [Row(op, name, shape, dim=dim) for op in OPS[1:]]
    return rows


def in_float32(shape: tuple[int, int]) -> list[Row]:
    """Every op in float32."""
    return [Row(op, name, shape, torch.float32) for name in narrowed(FORMATS) for op in OPS]


# The tensors.


class Pool:
    """Sets of tensors that calls take in turn: together they are larger than the caches."""

    def __init__(self, sets: list[tuple[Tensor, ...]]) -> None:
        self.sets = sets
        self.turns = itertools.cycle(sets)

    def __len__(self) -> int:
        return len(self.sets)

    def take(self) -> tuple[Tensor, ...]:
        """The set whose turn it is: the one that was used longest ago."""
        return next(self.turns)


class Pools:
    """The pools of rows on the same tensors; made when first asked for."""

    def __init__(self, device: torch.device, cache: int) -> None:
        self.device, self.cache = device, cache
        self.pools: dict[Any, Pool] = {}

    def of(self, row: Row) -> Pool:
        """The pool of a row: inputs; the same inputs beside seeds; or elements and scales."""
        kind = (row.format, row.dim) if row.op == "dequantize" else row.mode
        if kind not in self.pools:
            self.pools[kind] = self.make(row)
        return self.pools[kind]

    def make(self, row: Row) -> Pool:
        """A pool of random numbers."""
        if row.op == "dequantize":
            inputs = self.of(replace(row, op="quantize"))
            return self.fill(lambda: relaid(row, quantized(row, *inputs.take())))
        if row.mode == "stochastic":
            return Pool([(x, torch.randint(2**63 - 1, (1,), device=self.device)) for (x,) in self.of(replace(row, mode="nearest")).sets])
        return self.fill(lambda: relaid(row, (torch.randn(row.shape, device=self.device, dtype=row.dtype),)))

    def fill(self, make: Callable[[], tuple[Tensor, ...]]) -> Pool:
        """As many sets as exceed the caches when one of them is left out."""
        first = make()
        return Pool([first] + [make() for _ in range(self.cache // nbytes(first) + 1)])


def relaid(row: Row, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors in a row's layout; contiguous are codes as quantize gives them, with the blocked dim innermost."""
    return tensors if row.layout == "contiguous" else tuple(map(LAYOUTS[row.layout], tensors))


def quantized(row: Row, x: Tensor) -> tuple[Tensor, ...]:
    """Elements and scales."""
    return torch.ops.mx.quantize(x, row.format, None, tensor_scale(row, x.device), dim=row.dim)


def tensor_scale(row: Row, device: torch.device) -> Tensor | None:
    """The scale of the whole tensor, where the format has one: given, so that no row reads its input twice."""
    return of_normal_numbers(device) if row.fmt.has_tensor_scale else None


@functools.cache
def of_normal_numbers(device: torch.device) -> Tensor:
    """The scale of a tensor whose largest magnitude is 6."""
    return torch.full((1,), 6 / 2688, device=device)


def nbytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of all elements, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bytes_moved(row: Row) -> int:
    """What the op has to read and to write: each element of its inputs once, and each of its outputs. Read off its fake."""
    x = torch.empty(row.shape, dtype=row.dtype, device="meta")
    inputs = quantized(row, x) if row.op == "dequantize" else (x,)
    outputs = function(replace(row, mode="nearest", by="eager"))(*inputs)
    return nbytes(inputs) + nbytes(leaves(outputs))


def leaves(outputs: Any) -> tuple[Tensor, ...]:
    """One or several outputs as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


# The calls.


def function(row: Row) -> Callable[..., Any]:
    """What a row calls on a set of its pool."""
    if row.by in peers.TORCHAO:
        return peers.torchao_function(row)
    if row.by == "compiled":
        return peers.compiled(function(replace(row, by="eager")))
    if row.by == peers.ATEN:
        return peers.with_lowering("aten", function(replace(row, by="compiled")))
    op, name, dim, dtype = getattr(torch.ops.mx, row.op), row.format, row.dim, row.dtype
    if row.op == "quantize_both":
        return lambda x, seed=None: op(x, name, seed, tensor_scale(row, x.device))
    if row.op == "dequantize":
        return lambda elements, scales: op(elements, scales, name, tensor_scale(row, elements.device), dim=dim, dtype=dtype)
    return lambda x, seed=None: op(x, name, seed, tensor_scale(row, x.device), dim=dim)
