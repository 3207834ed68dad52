"""What others have for the same work: torchao, eager and compiled, and plain ATen compiled."""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import config
from ..formats import Format

if TYPE_CHECKING:
    from .rows import Row

TORCHAO = ("torchao", "torchao compiled")
ATEN = "ATen compiled"


def torchao_version() -> str | None:
    """Its version; None where it is not installed."""
    if importlib.util.find_spec("torchao") is None:
        return None
    import torchao

    return torchao.__version__


def peer_rows(rows: list[Row], device_type: str, quick: bool) -> list[Row]:
    """The peers' counterparts of eager rows, nearest and contiguous, of the largest shape."""
    names = list(TORCHAO) if torchao_version() else []
    if device_type != "cpu":  # there it is what the rows by "compiled" are
        names.append(ATEN)
    if quick:  # to compile takes longer than a minute
        names = [name for name in names if "compiled" not in name]
    mine = [row for row in rows if (row.by, row.mode, row.layout) == ("eager", "nearest", "contiguous")]
    largest = max((row.shape for row in mine), default=None)
    mine = [row for row in mine if row.shape == largest]
    return [replace(row, by=name) for row in mine for name in names if name not in TORCHAO or torchao_has(row)]


def torchao_element(fmt: Format) -> torch.dtype | str | None:
    """Torchao's name for the elements of a format; None if it has none."""
    from torchao.prototype.mx_formats.constants import SUPPORTED_ELEM_DTYPES

    names = (fmt.dtype, f"fp{fmt.bits}_{fmt.element.lower()}") if fmt.name.startswith("mx") else ()
    return next((name for name in names if name in SUPPORTED_ELEM_DTYPES), None)


def torchao_has(row: Row) -> bool:
    """Whether torchao has functions for a row's work on any device: it takes blocks along the last dim."""
    return torchao_element(row.fmt) is not None and (row.dim == -1 or (row.op == "quantize" and row.dim == 0))


def torchao_function(row: Row) -> Callable[..., Any]:
    """What a user of torchao calls for a row's work."""
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    element, block_size, dtype, along_rows = torchao_element(row.fmt), row.fmt.block_size, row.dtype, row.dim == 0
    stored = element if isinstance(element, torch.dtype) and row.fmt.codes_per_byte == 1 else torch.uint8

    def quantize(x: Tensor) -> tuple[Tensor, ...]:
        return to_mx(x.t().contiguous() if along_rows else x, element, block_size)

    def dequantize(elements: Tensor, scales: Tensor) -> Tensor:
        return to_dtype(elements.view(stored), scales.view(torch.float8_e8m0fnu), element, block_size, dtype)

    def fake_quant(x: Tensor) -> Tensor:
        scales, elements = to_mx(x, element, block_size)
        return to_dtype(elements, scales, element, block_size, dtype)

    calls: dict[str, Callable[..., Any]] = {"quantize": quantize, "dequantize": dequantize, "fake_quant": fake_quant}
    return compiled(calls[row.op]) if row.by == "torchao compiled" else calls[row.op]


def compiled(call: Any) -> Callable[..., Any]:
    """A function under torch.compile, with a code object of its own: Dynamo compiles one of those eight times, and then no more."""
    alone = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, call.__defaults__, call.__closure__)
    return torch.compile(alone, dynamic=False)


def with_lowering(lowering: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function that is compiled under a setting of `config.lowering`."""

    def run(*tensors: Tensor) -> Any:
        before, config.lowering = config.lowering, lowering
        try:
            return call(*tensors)
        finally:
            config.lowering = before

    return run
