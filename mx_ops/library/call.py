"""A checked call of an op: what it works on, its allocated outputs, and what fills them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..formats import Format
from . import backends


class Encoding(NamedTuple):
    """How values become codes: the rule of quantize, quantize_both and fake_quant."""

    fmt: Format
    dim: int  # not negative
    block_size: int
    threshold: int  # of the scale mode


class Decoding(NamedTuple):
    """How codes become values: the rule of dequantize."""

    fmt: Format
    dim: int
    block_size: int


class WholeTensor(NamedTuple):
    """The rule of tensor_scale."""

    fmt: Format


class Tiles(NamedTuple):
    """How many tiles hold the scales: the rule of swizzle_scales and unswizzle_scales."""

    rows: int
    columns: int


class Call(NamedTuple):
    """A checked call."""

    name: str  # of the kernel, and of its twin in the reference
    inputs: tuple[Tensor, ...]
    outputs: Any  # a Tensor, or a tuple of them
    rule: Encoding | Decoding | WholeTensor | Tiles
    seed: Tensor | None = None
    tensor_scale: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs, then outputs."""
        return self.inputs + (self.outputs if isinstance(self.outputs, tuple) else (self.outputs,))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the kernel and its twin take, in their order."""
        _, inputs, outputs, rule, seed, tensor_scale = self
        tensors = inputs + (outputs if isinstance(outputs, tuple) else (outputs,))
        if isinstance(rule, Encoding):
            return tensors + (seed, tensor_scale) + rule
        if isinstance(rule, Decoding):
            return tensors + (tensor_scale,) + rule
        return tensors + rule

    @property
    def kernel(self) -> Callable[..., bool] | None:
        """The Triton kernel, if there is one for the device; it gives False, and fills nothing, where it does not take the shapes."""
        return getattr(backends.kernels_for(self.inputs[0].device.type), self.name, None)

    @property
    def twin(self) -> Callable[..., Any]:
        """The reference's function."""
        return getattr(reference, self.name)

    def run(self) -> Any:
        """Fill the outputs: by the kernel if it can, else by the reference."""
        call = self.with_tensor_scale(Call.run)
        kernel = self.kernel
        if kernel is None or not kernel(*call.arguments, traced=False):
            call.twin(*call.arguments)
        return call.outputs

    def with_tensor_scale(self, run: Callable[[Call], Any]) -> Call:
        """The same call with the scale of the whole tensor, which ``run`` computes if the format has one and none was given."""
        rule = self.rule
        if self.tensor_scale is not None or not isinstance(rule, Encoding) or not rule.fmt.has_tensor_scale:
            return self
        found = run(find_tensor_scale(self.inputs[0], rule.fmt))
        return Call(self.name, self.inputs, self.outputs, rule, self.seed, found)  # _replace takes three times as long


def find_tensor_scale(x: Tensor, fmt: Format) -> Call:
    """The call that computes the scale of a whole tensor."""
    return Call("tensor_scale", (x,), x.new_empty(1, dtype=torch.float32), WholeTensor(fmt))
