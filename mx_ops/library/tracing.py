"""What a graph gets of an op: the op itself when exported, its Triton kernel or its formulas when compiled."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import config
from ..symbols import groups, has_unbacked, known, unspecialized
from . import backends
from .call import Call, Encoding
from .private import are_tensors, as_if_unbacked, functionalized, keeps_ops, name_dtypes

PACKAGE = Path(__file__).parents[1]

functions: dict[Any, Callable[..., Call]] = {}  # by op


def lower(function: Callable[..., Call], mode: Any, overload: Any, types: Any, args: tuple, kwargs: dict | None) -> Any:
    """What a graph gets in place of an op: the op itself when it is exported, and when it is compiled, what the op does.

    So a compiler sees through the op: Inductor fuses it, and AOTInductor packages it with nothing of mx left in it. Interpreted kernels
    cannot be traced: the op then stays.
    """
    name_dtypes()
    if backends.interpreted() or keeps_ops():
        return mode.__torch_dispatch__(overload, types, args, kwargs)
    if not are_tensors(types):
        return NotImplemented  # a subclass of Tensor first does what it does
    with mode, as_if_unbacked():  # AOTInductor would not check the guards
        return trace(function(*args, **(kwargs or {})))


def trace(call: Call) -> Any:
    """Put a call into the graph that is traced. It may give other tensors than the call's outputs, in their place."""
    call = call.with_tensor_scale(trace)
    kernel = call.kernel
    if kernel is None or fuses(call) or not kernel(*call.arguments, traced=True):
        return formulas(call)
    return call.outputs


def formulas(call: Call) -> Any:
    """What the reference makes of a call in the graph that is traced."""
    return call.twin(*call.arguments, traced=True)


def fuses(call: Call) -> bool:
    """Whether a compiled graph gets a call's formulas, for Inductor to fuse with their neighbours, and not its Triton kernel.

    It does unless Inductor's code is slower than the kernel. Measured on an H100 (torch 2.11, Triton 3.6, bf16 8192x14336), in shares of
    a copy of the same bytes: fused into what comes before, fake_quant runs at 1.00 to 1.02, with the kernel beside it at 0.6. But

    - Inductor packs two codes a byte at 0.24 to 0.42, the kernel at 0.96;
    - along a dim that is not innermost in memory, or whose last block may be short, it makes two kernels, which both read the input;
    - it makes a kernel of its own for random numbers, and stores and loads 4 bytes an element for them;
    - for blocks along two dims it makes at least two kernels;
    - where a stride depends on the data, the formulas go through one dim, and divide for each element; and for an empty tensor torch 2.11
      divides by zero when it launches them;
    - it rounds quotients correctly in float64 only (`reference.rules.divide`): where elements are quotients, the kernel is taken under any
      setting.

    The second and third were read from the code that torch 2.13 generates. Along an innermost dim that code takes 18 to 20 instructions an
    element for fake_quant and a consumer (sm_90), and a copy of bfloat16 leaves time for about 38.
    """
    x, rule = call.inputs[0], call.rule
    if isinstance(rule, Encoding) and rule.fmt.divides and backends.kernels_for(x.device.type) is not None:
        return False
    if config.get_lowering() != "auto":
        return config.lowering == "aten"
    if has_unbacked(x.stride()):
        return False
    if not isinstance(rule, Encoding):
        return True
    if call.name == "quantize_both":
        return False
    packs = call.name == "quantize" and rule.fmt.codes_per_byte > 1
    _, whole_blocks = groups(x.shape[rule.dim], rule.block_size)
    return whole_blocks and known(x.stride(rule.dim) == 1) and not packs and call.seed is None


def fake_outputs(call: Call) -> Any:
    """What a call gives, without its values.

    torch.export asks of each size of a tensor whether it is 1. If a size follows from a symbol, as the number of blocks does, it makes a
    guard of the example's answer, and the exported program refuses other numbers of blocks. For `unspecialized` sizes it makes none.
    """
    if not torch.compiler.is_exporting():
        return call.outputs
    if isinstance(call.outputs, Tensor):
        return unspecialized(call.outputs)
    return tuple(map(unspecialized, call.outputs))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The ops in ATen, for ``ExportedProgram.run_decompositions``: a program lowered by them runs where there is no mx_ops.

    With torch's own table, ``{**torch.export.default_decompositions(), **mx_ops.decompositions()}`` lowers the rest of the program too.
    The bits stay the same.

    >>> class Model(torch.nn.Module):
    ...     def forward(self, x):
    ...         return mx_ops.fake_quant(x, "mxfp4")
    >>> program = torch.export.export(Model(), (torch.ones(2, 42),)).run_decompositions(mx_ops.decompositions())
    >>> {node.target.namespace for node in program.graph.nodes if node.op == "call_function"}
    {'aten'}
    >>> torch.equal(program.module()(torch.arange(84.0).view(2, 42)), mx_ops.fake_quant(torch.arange(84.0).view(2, 42), "mxfp4"))
    True
    """
    return {overload: functionalized(functools.partial(decompose, function)) for overload, function in functions.items()}


def decompose(function: Callable[..., Call], *args: Any, **kwargs: Any) -> Any:
    """What an op does, by its formulas.

    A program may be given inputs of any strides, but its graph holds the strides that they had when it was traced. So the formulas work on
    contiguous copies.
    """

    def copy(tensor: Any) -> Any:
        return None if tensor is None else tensor.clone(memory_format=torch.contiguous_format)

    with as_if_unbacked():
        call = function(*args, **kwargs)
        call = call._replace(inputs=tuple(map(copy, call.inputs)), seed=copy(call.seed), tensor_scale=copy(call.tensor_scale))
        return formulas(call.with_tensor_scale(formulas))


# The cache of compiled graphs.


class Digest:
    """Stands for the numbers of the ops in the keys of torch.compile's cache, so that changed numbers never meet old compiled code.

    The cache does not know what an op is traced into. But it hashes the source of an op's Triton kernels, and it takes this for one.
    """

    __name__ = "mx_ops"
    fn = staticmethod(lambda: None)

    @property
    def src(self) -> str:
        """What decides the code that an op becomes: the source of the package, and the settings."""
        return f"# {source_hash(PACKAGE)} {config.get_lowering()} {backends.interpreted()}"


@functools.cache
def source_hash(package: Path) -> str:
    """A hash of all files of the package: those that decide bits or graphs are among them, in whatever folder."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(package.rglob("*.py")))).hexdigest()
