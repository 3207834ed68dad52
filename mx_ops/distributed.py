"""Sharding rules: after ``import mx_ops.distributed`` the ops, and the functions over them, take and give DTensors.

A DTensor gives the bits of the whole tensor that it stands for. A shard along a dim that is not blocked stays where it is; so does one
along the blocked dim if blocks do not straddle shards. Whatever else there is (other shards along the blocked dim, partial sums) is
redistributed to replicas first. Under a seed everything is, for the noise depends on the position in the whole tensor: to keep shards,
give each rank noise of its own, with `fold_seed` on its ``to_local()``. A seed that is a plain tensor or an int is agreed on by a
reduction of its eight bytes; a replicated DTensor needs none. A scale of the whole tensor that is not given is that of all shards, which
takes a reduction of four bytes; one that is given may be a DTensor, or a plain tensor, which is taken as it is on each rank. Weights that
`fully_shard` gathers for its layers are plain tensors there, and need no such import.

What `mx_ops.quantize` gives of a DTensor, ranks exchange as bytes: gloo sends no FP8, FP4 or E8M0 («Invalid scalar type»). So spell
``elements.full_tensor()`` as ``elements.view(torch.uint8).full_tensor().view(elements.dtype)``, and `redistribute` likewise, or call
``torch.ops.mx.quantize``, which gives bytes. Every function here does so itself, and takes either.

>>> import mx_ops.distributed
>>> from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
>>> mesh = init_device_mesh("cpu", (1,))
>>> x = distribute_tensor(torch.tensor([[0.6, 2.4, -5.1]]), mesh, [Shard(0)])
>>> y = mx_ops.mxfp4_fake_quant(x)
>>> y.placements, y.full_tensor()
((Shard(dim=0),), tensor([[ 0.5000,  2.0000, -6.0000]]))
>>> elements, scales = mx_ops.quantize(x, "mxfp8_e4m3")
>>> elements.view(torch.uint8).full_tensor().view(elements.dtype).dtype
torch.float8_e4m3fn
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from . import library


def split(length: int, parts: Sequence[int]) -> list[int]:
    """The lengths of a dim's shards: `torch.chunk` into ``parts[0]``, each of those into ``parts[1]``, and so on; the last may be empty."""
    lengths = [length]
    for count in parts:
        chunks = [(whole, -(-whole // count)) for whole in lengths]
        lengths = [min(max(whole - i * chunk, 0), chunk) for whole, chunk in chunks for i in range(count)]
    return lengths


def keeps_blocks(length: int, parts: Sequence[int], block_size: int) -> bool:
    """Whether every shard of a blocked dim starts with a block.

    Then DTensor splits the dim's scales, and its elements packed two a byte, where it splits the values. The converse is false: 31 bytes
    of MXFP4 are split as 16 and 15, but their 62 values as 31 and 31. So ``length`` counts values.
    """
    lengths = split(length, parts)
    return all(start % block_size == 0 for start, own in zip(itertools.accumulate(lengths, initial=0), lengths) if own)


def keep(placements: Sequence[Placement], mesh: DeviceMesh, lengths: dict[int, int], block_size: int) -> list[Placement]:
    """The placements nearest to these under which every rank can work alone, mesh dim by mesh dim: all others become replicas.

    ``lengths`` are those of the blocked dims, in values.
    """
    dims = [getattr(placement, "dim", None) for placement in placements]
    # Placements like Shard that are none (a view makes them, and FSDP over tensor parallelism) split a dim out of order. Where there are
    # several, DTensor keeps the order apart from them, and a DTensor made of the same placements would be another one.
    unclear = {at for at, placement in zip(dims, placements) if type(placement) is not Shard and dims.count(at) > 1}
    kept: list[Placement] = []
    parts: dict[int, list[int]] = {dim: [] for dim in lengths}
    for count, placement, at in zip(mesh.shape, placements, dims):
        alone = at not in unclear and not placement.is_partial()
        if alone and at in lengths:
            alone = type(placement) is Shard and keeps_blocks(lengths[at], [*parts[at], count], block_size)
            parts[at] += [count] * alone
        kept.append(placement if alone else Replicate())
    return kept


def agree(seed: Tensor, mesh: DeviceMesh) -> Tensor:
    """One seed for all ranks. Where plain tensors differ, as drawn ones do, the largest counts; where they do not, that is the seed."""
    if not isinstance(seed, DTensor):
        seed = DTensor.from_local(seed, mesh, [Partial("max")] * mesh.ndim, run_check=False)
    return seed.full_tensor()


def agree_on_scale(scale: Tensor, mesh: DeviceMesh) -> Tensor:
    """The scale of the whole tensor: the largest of those of its shards, as integers, of which NaN is the largest."""
    bits = DTensor.from_local(scale.view(torch.int32) & 0x7FFFFFFF, mesh, [Partial("max")] * mesh.ndim, run_check=False)
    return bits.full_tensor().view(torch.float32)


def scale_of_shards(cls: type, op: Callable, types: tuple, args: tuple, kwargs: Any = None) -> Any:
    """``mx::tensor_scale`` of a DTensor, which is a replicated one."""
    x, *rest = args
    placements = [Replicate() if placement.is_partial() else placement for placement in x.placements]
    with torch.no_grad():
        scale = op(x.detach().redistribute(placements=placements).to_local(), *rest)
        if any(placement != Replicate() for placement in placements):
            scale = agree_on_scale(scale, x.device_mesh)
        return DTensor.from_local(scale, x.device_mesh, [Replicate()] * x.device_mesh.ndim, run_check=False)


def distribute(
    function: Callable[..., library.Call], names: list[str], cls: type, op: Callable, types: tuple, args: tuple, kwargs: Any = None
) -> Any:
    """An op on DTensors: redistribute what has to be, run the op on every rank's own part, and wrap what comes out.

    ``function`` is the op's in `library`: given tensors of the global shapes on the meta device, it checks the call as a whole, and its
    outputs have the shapes and strides of the whole results.
    """
    arguments = dict(zip(names, args)) | (kwargs or {})
    seed = arguments.pop("seed", None)
    scale = arguments.get("tensor_scale")
    blocked = {name: arguments[name] for name in ("input", "elements", "scales") if name in arguments}
    for name, tensor in blocked.items():
        if not isinstance(tensor, DTensor):
            raise TypeError(f"{name} is a plain tensor beside DTensors: make it one, by distribute_tensor or DTensor.from_local")
    first, *others = blocked.values()
    mesh = first.device_mesh
    if any(other.device_mesh != mesh for other in others):
        raise ValueError(f"elements are on {mesh}, scales on {others[0].device_mesh}: redistribute them to one mesh")

    with torch.no_grad():  # the gradient is the op's own, and it is above this
        if isinstance(scale, DTensor):
            scale = arguments["tensor_scale"] = scale.full_tensor()
        given = blocked if scale is None else blocked | {"tensor_scale": scale}
        whole = {name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for name, t in given.items()}
        call = function(**arguments | whole)
        assert isinstance(call.rule, library.Encoding | library.Decoding), f"mx::{call.name} has no rule for shards: its rule has no format"
        if seed is None:
            dims = (call.rule.dim, call.rule.dim - 1) if call.name == "quantize_both" else (call.rule.dim,)
            lengths = {dim: max(tensor.shape[dim] for tensor in call.tensors) for dim in dims}  # of the values: nothing is longer
            placements = keep(first.placements, mesh, lengths, call.rule.block_size)
        else:
            placements = [Replicate()] * mesh.ndim
            arguments["seed"] = agree(seed, mesh)
        # Detached: what is redistributed of a tensor that requires a gradient requires one too, which torch 2.11 cannot undo in here.
        local = {name: tensor.detach().redistribute(placements=placements).to_local() for name, tensor in blocked.items()}
        if scale is None and call.rule.fmt.has_tensor_scale:
            arguments["tensor_scale"] = torch.ops.mx.tensor_scale(local["input"], call.rule.fmt.name)
            if any(placement != Replicate() for placement in placements):
                arguments["tensor_scale"] = agree_on_scale(arguments["tensor_scale"], mesh)
        outputs = op(**arguments | local)

        def wrap(output: Tensor, whole: Tensor) -> DTensor:
            return DTensor.from_local(output, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())

        return wrap(outputs, call.outputs) if isinstance(outputs, Tensor) else tuple(map(wrap, outputs, call.outputs))


# `torch.distributed.tensor.experimental.register_sharding` would not do: DTensor then caches what a call gives by its tensors and ints,
# not by its format, so that a second format gets the shapes of the first; and a rule for one dim of a mesh does not see the others.
fake_quants = (library.fake_quant, library.mxfp4_fake_quant, library.mxfp8_fake_quant, library.nvfp4_fake_quant)
for function in (library.quantize, library.quantize_both, library.dequantize, *fake_quants):
    rule = functools.partial(distribute, function, inspect.getfullargspec(function).args)
    torch.library.register_torch_dispatch(f"mx::{function.__name__}", DTensor, rule, lib=library.library)
torch.library.register_torch_dispatch("mx::tensor_scale", DTensor, scale_of_shards, lib=library.library)


def distribute_matrices(
    function: Callable[..., library.Call], cls: type, op: Callable, types: tuple, args: tuple, kwargs: Any = None
) -> DTensor:
    """An op on [..., rows, columns]: shards along the dims in front stay; tiles cross all others, which become replicas first."""
    arguments = inspect.getcallargs(function, *args, **(kwargs or {}))
    name, matrices = next(iter(arguments.items()))
    mesh, outer = matrices.device_mesh, matrices.ndim - 2
    call = function(**arguments | {name: torch.empty(matrices.shape, dtype=matrices.dtype, device="meta")})
    kept = [placement if type(placement) is Shard and placement.dim < outer else Replicate() for placement in matrices.placements]
    output = op(**arguments | {name: matrices.redistribute(placements=kept).to_local()})
    return DTensor.from_local(output, mesh, kept, run_check=False, shape=call.outputs.shape, stride=call.outputs.stride())


for function in (library.swizzle_scales, library.unswizzle_scales):
    torch.library.register_torch_dispatch(
        f"mx::{function.__name__}", DTensor, functools.partial(distribute_matrices, function), lib=library.library
    )
