"""A DTensor gives the bits of the tensor that it stands for: under every op, however it is sharded, and in training.

Four ranks that talk over gloo run all checks; as a script, this file is those ranks.
"""

from __future__ import annotations

import datetime
import doctest
import itertools
import json
import logging
import os
import pathlib
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
import torch.distributed as dist
from helpers import ALL_FORMATS, FORMATS, assert_same, scale_for, wild
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import mx_ops
import mx_ops.distributed
from mx_ops.distributed import agree_on_scale, keeps_blocks, split

RANKS = 4
ops = torch.ops.mx

# Sizes of the blocked dim, with block sizes, by the number of ranks: shards of whole blocks, shards that cut blocks, a last shard that
# ends in a short block, or is empty.
SIZES: dict[int, list[tuple[int, int | None]]] = {
    2: [(64, None), (123, None), (127, None), (62, 16), (33, 16)],
    4: [(128, None), (96, None), (42, None), (66, 16), (250, 64)],
}


# The arithmetic of shards needs no ranks.


@pytest.mark.parametrize("parts", [(2,), (3,), (4,), (8,), (2, 2), (3, 2), (2, 3), (40, 2), (2, 2, 2)])
def test_where_blocks_are_kept_everything_is_split_alike(parts: tuple[int, ...]) -> None:
    """Shards of values that hold whole blocks are, in bytes of codes and in scales, the shards that DTensor takes those to have."""
    kept = 0
    for length, block_size in itertools.product(range(700), (16, 32)):
        lengths = split(length, parts)
        assert lengths == [len(shard) for shard in chunk(torch.arange(length), parts)]
        if keeps_blocks(length, parts, block_size):
            kept += 1
            for unit in [block_size] + [2] * (length % 2 == 0):
                assert split(-(-length // unit), parts) == [-(-own // unit) for own in lengths]
    assert kept > 2


def chunk(whole: Tensor, parts: Sequence[int]) -> list[Tensor]:
    """The shards of a tensor of rank 1, those that `torch.chunk` leaves out too."""
    shards = [whole]
    for count in parts:
        shards = [own for shard in shards for own in [*shard.chunk(count), *[shard[:0]] * count][:count]]
    return shards


def test_the_example_of_the_module(tmp_path: pathlib.Path) -> None:
    """The docstring's example, on one rank."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        assert doctest.testmod(mx_ops.distributed, extraglobs={"mx_ops": mx_ops, "torch": torch}) == (0, 8)
    finally:
        dist.destroy_process_group()


def test_every_rank_gets_the_bits_of_the_whole(tmp_path: pathlib.Path) -> None:
    """All checks below, by four ranks at once."""
    root = pathlib.Path(mx_ops.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the machine's own name resolves to
    result = subprocess.run([sys.executable, __file__, str(tmp_path)], env=env, capture_output=True, text=True, timeout=300, check=False)
    told = [f"rank {path.name}: {failure}" for path in sorted(tmp_path.glob("[0-9]")) for failure in json.loads(path.read_text())]
    assert not told, f"{len(told)} failures\n" + "\n".join(told[:40]) + result.stderr[-4000:]
    assert result.returncode == 0, result.stderr


# The ranks. A check reports what fails and goes on; one that raises ends its rank.

failures: list[str] = []


def expect(condition: bool, label: str) -> None:
    """Report what does not hold."""
    if not condition:
        failures.append(label)


def place(x: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> DTensor:
    """A DTensor made where all ranks have the whole: they need not talk."""
    return distribute_tensor(x, mesh, placements, src_data_rank=None)


def same(label: str, actual: DTensor, expected: Tensor, placements: Sequence[Placement] | None = None, gather: bool = True) -> None:
    """Report a DTensor that is not ``expected``, in this rank's shard or as a whole, or not placed as promised."""
    if placements is not None:
        expect(actual.placements == tuple(placements), f"{label}: is {actual.placements}, not {placements}")
    expect(actual.stride() == expected.stride(), f"{label}: strides {actual.stride()}, not {expected.stride()}")
    pairs = [(actual.to_local(), place(expected, actual.device_mesh, actual.placements).to_local())]
    for have, want in pairs + [(actual.full_tensor(), expected)] * gather:
        try:
            assert_same(have, want)
        except AssertionError as error:
            failures.append(f"{label}: {error}" if str(error) else f"{label}: is of shape {tuple(have.shape)}, not {tuple(want.shape)}")


def kept(placements: Iterable[Placement], mesh: DeviceMesh, length: int, dim: int, block_size: int) -> list[Placement]:
    """The placements promised: by the positions of elements, not by arithmetic."""
    parts: list[int] = []
    promised: list[Placement] = []
    for count, placement in zip(mesh.shape, placements):
        if placement.is_partial():
            promised.append(Replicate())
        elif placement.is_shard(dim):
            whole = all(len(own) == 0 or own[0] % block_size == 0 for own in chunk(torch.arange(length), [*parts, count]))
            parts += [count] * whole
            promised.append(placement if whole else Replicate())
        else:
            promised.append(placement)
    return promised


def communications(function: Callable[[], object]) -> tuple[int, object]:
    """How often ranks talk in a call, and what it gives."""
    with CommDebugMode() as mode:
        result = function()
    return mode.get_total_counts(), result


def check_every_op(mesh: DeviceMesh) -> None:
    """Every op, placement, blocked dim, with a seed and without: the bits of the whole, shards where they can be, no needless talk."""
    plain = torch.tensor([7])
    seeds = itertools.cycle([(plain, 1), (place(plain, mesh, [Replicate()]), 0)])
    for (size, block_size), dim in itertools.product(SIZES[mesh.size()], (-1, 0)):
        x = wild((5, size) if dim else (size, 5), dim=dim)
        options = ({"dim": dim} if dim == 0 else {}) | ({} if block_size is None else {"block_size": block_size})
        for format, placement in zip(itertools.cycle(FORMATS[1:]), (Shard(0), Shard(-1), Replicate(), Partial())):
            format = FORMATS[0] if size % 2 == 0 else format
            given = place(x, mesh, [placement])
            whole = given.full_tensor()  # a sum of partial sums has no -0
            promised = kept(given.placements, mesh, size, dim % 2, block_size or 32)
            calls = [
                ("quantize", lambda x, *seed: ops.quantize(x, format, *seed, **options)),
                ("fake_quant", lambda x, *seed: ops.fake_quant(x, format, *seed, **options)),
                ("mxfp4_fake_quant", lambda x, *seed: ops.mxfp4_fake_quant(x, *seed, **options)),
                ("mxfp8_fake_quant", lambda x, *seed: ops.mxfp8_fake_quant(x, "e5m2", *seed, **options, scale_mode="even")),
            ]
            for op, call in calls:
                name = f"{op} on {mesh.size()} ranks, {tuple(x.shape)} {placement} {format} {options}"
                seed, told = next(seeds)
                once = communications(lambda: call(given)), call(whole), promised, int(promised != list(given.placements))
                seeded = communications(lambda: call(given, seed)), call(whole, plain), [Replicate()], told + (placement != Replicate())
                for (talks, results), expected, where, allowed in (once, seeded):
                    expect(talks == allowed, f"{name}: {talks} communications, not {allowed}")
                    for own, part in [(results, expected)] if isinstance(expected, Tensor) else zip(results, expected):
                        same(name, own, part, where, gather=op in ("quantize", "fake_quant"))
                if op == "quantize":
                    typed = options | {"dtype": torch.bfloat16}
                    talks, values = communications(lambda: ops.dequantize(*once[0][1], format, **typed))
                    same(f"de{name}", values, ops.dequantize(*once[1], format, **typed), promised, gather=False)
                    expect(talks == 0, f"de{name}: {talks} communications for what quantize gave")


def check_dequantize(mesh: DeviceMesh) -> None:
    """Elements and scales may come sharded each in its way: scales follow elements."""
    for format, (size, dim) in itertools.product(FORMATS, [(64, -1), (62, -1), (96, 0)]):
        x = wild((5, size) if dim else (size, 5), dim=dim)
        codes = ops.quantize(x, format, dim=dim, block_size=16)
        expected = ops.dequantize(*codes, format, dim=dim, block_size=16)
        for pair in itertools.product((Shard(0), Shard(1), Replicate()), repeat=2):
            elements, scales = (place(part, mesh, [placement]) for part, placement in zip(codes, pair))
            values = ops.dequantize(elements, scales, format, dim=dim, block_size=16)
            promised = kept(elements.placements, mesh, size, dim % 2, 16)
            same(f"dequantize {mesh.size()} ranks {tuple(x.shape)} {format} {pair}", values, expected, promised)


def check_functions(mesh: DeviceMesh) -> None:
    """The functions view DTensors as torch's own dtypes, and take ints as seeds."""
    x = wild((6, 128))
    given = place(x, mesh, [Shard(1)])
    for format in FORMATS:
        elements, scales = mx_ops.quantize(given, format)
        for own, expected in zip((elements, scales), mx_ops.quantize(x, format)):
            expect(own.dtype == expected.dtype, f"quantize {format}: {own.dtype}")
            same(f"functions: quantize {format}", own.view(torch.uint8), expected.view(torch.uint8), [Shard(1)])
        same(f"functions: dequantize {format}", mx_ops.dequantize(elements, scales, format), mx_ops.fake_quant(x, format), [Shard(1)])
        same(f"functions: fake_quant {format}", mx_ops.fake_quant(given, format, seed=7), mx_ops.fake_quant(x, format, seed=7))
    for format, dim in itertools.product(ALL_FORMATS, (0, 1)):
        options = {"dim": dim, **scale_for(x, format)}
        for part, own, expected in zip(
            ("elements", "scales"), mx_ops.quantize(given, format, **options), mx_ops.quantize(x, format, **options)
        ):
            data = own.view(torch.uint8)
            gathered = data.full_tensor().view(own.dtype), data.redistribute(placements=[Replicate()]).view(own.dtype).to_local()
            for have in gathered:
                expect(have.dtype == expected.dtype, f"gathered {part} of {format} along {dim}: {have.dtype}")
                expect(
                    torch.equal(have.view(torch.uint8), expected.view(torch.uint8)), f"gathered {part} of {format} along {dim}: other bytes"
                )
    for options in ({"block_size": 16}, {"dim": -2}, {"scale_mode": "ceil"}, {"dim": 0, "block_size": 64, "scale_mode": "rceil"}):
        same(f"functions: {options}", mx_ops.mxfp4_fake_quant(given, **options), mx_ops.mxfp4_fake_quant(x, **options))


def check_tensor_scale(line: DeviceMesh, grid: DeviceMesh) -> None:
    """NVFP4 has one scale for all shards, whether it is computed, given as a DTensor or given plain; a NaN on one rank is everybody's."""
    x = wild((7, 90), seed=2)
    x[6, 70] = -3e38  # on one rank alone
    scale = mx_ops.tensor_scale(x)
    for mesh, placements in [(line, [at]) for at in (Shard(0), Shard(1), Replicate(), Partial())] + [(grid, [Shard(0), Shard(1)])]:
        given = place(x, mesh, placements)
        whole = given.full_tensor()
        name = f"tensor_scale {tuple(mesh.shape)} {placements}"
        computed = mx_ops.tensor_scale(given)
        same(name, computed, scale, [Replicate()] * mesh.ndim)
        promised = kept(given.placements, mesh, 90, 1, 16)
        expected = mx_ops.nvfp4_fake_quant(whole)
        for values in (mx_ops.nvfp4_fake_quant(given), *(mx_ops.fake_quant(given, "nvfp4", tensor_scale=t) for t in (scale, computed))):
            same(name, values, expected, promised)
        same(name, mx_ops.nvfp4_fake_quant(given, seed=7), mx_ops.nvfp4_fake_quant(whole, seed=7), [Replicate()] * mesh.ndim)
        for t in (scale, computed):
            elements, scales = ops.quantize(given, "nvfp4", None, t)
            for own, part in zip((elements, scales), ops.quantize(whole, "nvfp4", None, scale)):
                same(name, own, part, promised)
            same(name, ops.dequantize(elements, scales, "nvfp4", t), expected, promised)
    spoilt = x.clone()
    spoilt[0, 0] = torch.nan
    given = place(spoilt, line, [Shard(0)])
    same("tensor_scale of a NaN", mx_ops.tensor_scale(given), torch.tensor([torch.nan]))
    expect(bool(mx_ops.nvfp4_fake_quant(given).to_local().isnan().all()), "tensor_scale: a NaN elsewhere")
    negative = torch.tensor([-0x400000], dtype=torch.int32).view(torch.float32)  # as integers, a NaN with a sign is less than any number
    for rank in (0, RANKS - 1):
        own = negative if dist.get_rank() == rank else torch.tensor([3e38])
        expect(bool(agree_on_scale(own, line).isnan().all()), f"agree_on_scale: rank {rank} alone has a negative NaN")
    spoilt[0, 0] = negative
    expect(bool(mx_ops.tensor_scale(place(spoilt, line, [Shard(0)])).to_local().isnan().all()), "tensor_scale: a negative NaN elsewhere")
    small = place(x[:3], line, [Shard(0)])  # the last rank has nothing
    same("tensor_scale of an empty shard", mx_ops.nvfp4_fake_quant(small), mx_ops.nvfp4_fake_quant(x[:3]), [Shard(0)])
    with pytest.raises(ValueError, match="nvfp4 has a scale for the whole tensor"):
        ops.quantize(given, "nvfp4")


def check_grid(grid: DeviceMesh) -> None:
    """Two dims of a mesh may split one dim of the tensor, or two."""
    shapes = [(5, 128), (127, 3), (5, 64), (6, 96), (64, 64), (130, 2)]
    for shape, dim, pair in itertools.product(shapes, (0, 1), itertools.product((Shard(0), Shard(1), Replicate(), Partial()), repeat=2)):
        x = wild(shape, dim=dim)
        name = f"grid {shape} dim {dim} {pair}"
        given = place(x, grid, pair)
        whole = given.full_tensor()
        promised = kept(pair, grid, shape[dim], dim, 32)
        same(f"fake_quant {name}", ops.fake_quant(given, "mxfp8_e4m3", dim=dim), ops.fake_quant(whole, "mxfp8_e4m3", dim=dim), promised)
        format = "mxfp8_e5m2" if shape[dim] % 2 else "mxfp4"
        for own, expected in zip(ops.quantize(given, format, dim=dim), ops.quantize(whole, format, dim=dim)):
            same(f"quantize {name}", own, expected, promised)
    given = place(wild((5, 128)), grid, (Shard(0), Shard(1)))
    same("grid seed", mx_ops.fake_quant(given, "mxfp4", seed=7), mx_ops.fake_quant(given.full_tensor(), "mxfp4", seed=7), [Replicate()] * 2)


def check_views(line: DeviceMesh, grid: DeviceMesh) -> None:
    """A view that merges a sharded dim with others leaves shards that are no `torch.chunk`: still the bits of the whole."""
    x = wild((4, 8, 64))
    sharded = [(line, (Shard(at),)) for at in range(3)] + [(grid, (Shard(at), Shard(to))) for at, to in ((0, 1), (1, 0), (1, 1), (1, 2))]
    views: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.flatten(0, 1),
        lambda x: x.flatten(1, 2),
        lambda x: x.transpose(0, 2).flatten(1, 2).T.contiguous(),
    ]
    for (mesh, placements), (i, view) in itertools.product(sharded, enumerate(views)):
        try:
            given = view(place(x, mesh, placements))
        except RuntimeError:
            continue  # DTensor refuses some
        for dim in (0, 1):
            values = ops.mxfp4_fake_quant(given, dim=dim)
            assert_same(values.full_tensor(), ops.mxfp4_fake_quant(view(x), dim=dim))
            for own, expected in zip(ops.quantize(given, "mxfp4", dim=dim), ops.quantize(view(x), "mxfp4", dim=dim)):
                assert_same(own.full_tensor(), expected)
            if placements == (Shard(1),) and i == 0:
                expect((values.placements == given.placements) == (dim == 1), f"view {i} {given.placements}: is {values.placements}")


def check_seeds(line: DeviceMesh) -> None:
    """All ranks round alike, whatever random state each is in; where their states are one, as a single process would."""
    x = wild((8, 64))
    for placement in (Shard(0), Replicate()):
        given = place(x, line, [placement])
        torch.manual_seed(dist.get_rank())
        values = mx_ops.fake_quant(given, "mxfp4", stochastic_rounding=True)
        drawn = []
        for rank in range(RANKS):
            torch.manual_seed(rank)
            drawn.append(torch.randint(2**63 - 1, (1,)))
        expect(len(torch.cat(drawn).unique()) == RANKS, "ranks drew the same seed")
        same(f"drawn apart {placement}", values, mx_ops.fake_quant(x, "mxfp4", seed=torch.cat(drawn).max()), [Replicate()])
        torch.manual_seed(1)
        values = mx_ops.fake_quant(given, "mxfp4", stochastic_rounding=True)
        torch.manual_seed(1)
        same(f"drawn alike {placement}", values, mx_ops.fake_quant(x, "mxfp4", stochastic_rounding=True))
        apart = DTensor.from_local(torch.tensor([3]), line, [Partial()])  # it stands for 12
        same("partial seed", mx_ops.fake_quant(given, "mxfp4", seed=apart), mx_ops.fake_quant(x, "mxfp4", seed=3 * RANKS))
    one = place(torch.tensor([42]), line, [Replicate()])
    same("fold_seed", mx_ops.fold_seed(one, 3, 100), mx_ops.fold_seed(torch.tensor([42]), 3, 100), [Replicate()])


def check_gradients(line: DeviceMesh) -> None:
    """The gradient passes straight through, in the shards that the values are in; optimizers take it."""
    x, w, seed = wild((5, 128)).clamp(-1e3, 1e3), torch.arange(5.0 * 128).reshape(5, 128), torch.tensor([7])

    def functions(x: Tensor) -> tuple[Tensor, ...]:
        return ops.mxfp4_fake_quant(x), mx_ops.mxfp4_fake_quant(x), mx_ops.mxfp4_fake_quant(x, seed=seed)

    promised = [[Shard(1)], [Shard(1)], [Replicate()]]
    given = place(x, line, [Shard(1)]).requires_grad_()
    for function in (functions, torch.compile(functions, backend="aot_eager", fullgraph=True)):
        results = function(given)
        for i, (values, expected, where) in enumerate(zip(results, functions(x), promised)):
            same(f"values {i}", values.detach(), expected, where)
            if function is functions:
                (grad,) = torch.autograd.grad(values, given, place(w, line, where))
                same(f"gradient {i}", grad, w, where)
        if function is not functions:  # one graph: its outputs have to be differentiated together
            (grad,) = torch.autograd.grad(results, given, [place(w, line, where) for where in promised])
            same("gradients, compiled", grad, 3 * w)
    for optimizer in (torch.optim.SGD, torch.optim.AdamW):
        weights = []
        for weight in (x, place(x, line, [Shard(0)]), place(x[:, :96], line, [Shard(1)])):
            weights.append(torch.nn.Parameter(weight.clone()))
            steps = optimizer([weights[-1]], lr=0.125)
            for _ in range(2):
                steps.zero_grad()
                (mx_ops.mxfp4_fake_quant(weights[-1]) * 0.5).sum().backward()
                steps.step()
        same(f"{optimizer.__name__} of kept shards", weights[1].detach(), weights[0].detach(), [Shard(0)])
        same(f"{optimizer.__name__} of moved shards", weights[2].detach(), weights[0].detach()[:, :96].contiguous(), [Shard(1)])


def check_swizzle(line: DeviceMesh) -> None:
    """Shards along the dims in front of a matrix stay; tiles cross the others."""
    scales = torch.arange(6 * 130 * 5, dtype=torch.uint8).view(6, 130, 5)
    for placement, promised in ((Shard(0), Shard(0)), (Shard(1), Replicate()), (Shard(2), Replicate()), (Replicate(), Replicate())):
        swizzled = ops.swizzle_scales(place(scales, line, [placement]))
        same(f"swizzle_scales {placement}", swizzled, ops.swizzle_scales(scales), [promised])
        given = place(ops.swizzle_scales(scales), line, [placement])
        same(f"unswizzle_scales {placement}", ops.unswizzle_scales(given, 130, 5), scales, [promised])
    given = place(scales.view(torch.float8_e8m0fnu), line, [Shard(0)])
    expect(mx_ops.swizzle_scales(given).dtype == torch.float8_e8m0fnu, "swizzle_scales gives another dtype")


def check_errors(line: DeviceMesh, grid: DeviceMesh) -> None:
    """Errors are those of the whole tensor, on every rank: the one that would be alone with its error does not leave others waiting."""
    x = wild((4, 64))
    given = place(x, line, [Shard(0)])
    elements, scales = ops.quantize(given, "mxfp8_e4m3")
    less = place(scales.full_tensor()[:3], line, [Shard(0)])  # the last rank has none of it
    elsewhere = place(scales.full_tensor(), grid, [Replicate()] * 2)
    asking = place(torch.ones(1), line, [Replicate()]).requires_grad_()
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, "unknown format 'fp4'", lambda: ops.fake_quant(given, "fp4")),
        (IndexError, "dim 2 is out of range", lambda: ops.fake_quant(given, "mxfp4", dim=2)),
        (ValueError, "seed is torch.float32", lambda: ops.fake_quant(given, "mxfp4", torch.ones(1))),
        (ValueError, "tensor_scale is torch.float32 of shape", lambda: ops.fake_quant(given, "nvfp4", None, torch.ones(2))),
        (ValueError, "nothing is differentiated by it", lambda: ops.fake_quant(given, "nvfp4", None, torch.ones(1, requires_grad=True))),
        (ValueError, "nothing is differentiated by it", lambda: ops.quantize(given, "nvfp4", None, asking)),
        (TypeError, "seed is of type bool", lambda: mx_ops.fake_quant(given, "mxfp4", seed=True)),
        (ValueError, "the length 33 of dim 1 must be even", lambda: ops.quantize(given[:, :33], "mxfp4")),
        (
            ValueError,
            r"scales of shape \(3, 2\) do not fit",
            lambda: ops.dequantize(elements, less, "mxfp8_e4m3"),
        ),
        (ValueError, "redistribute them to one mesh", lambda: ops.dequantize(elements, elsewhere, "mxfp8_e4m3")),
        (TypeError, "scales is a plain tensor", lambda: ops.dequantize(elements, scales.to_local(), "mxfp8_e4m3")),
        (TypeError, "input is a plain tensor", lambda: ops.fake_quant(x, "mxfp4", place(torch.tensor([1]), line, [Replicate()]))),
    ]
    for error, match, call in cases:
        with pytest.raises(error, match=match):
            call()


class Layer(torch.nn.Module):
    """A linear layer whose weights are small multiples of 1/4, fake-quantized at every use."""

    def __init__(self, inputs: int, outputs: int, **options: int) -> None:
        super().__init__()
        weight = torch.randint(-24, 25, (outputs, inputs), generator=torch.Generator().manual_seed(outputs)) / 4.0
        self.weight, self.options = torch.nn.Parameter(weight), options

    def forward(self, x: Tensor) -> Tensor:
        """A sum that is exact, for few bits are in its terms."""
        return x @ mx_ops.mxfp4_fake_quant(self.weight, **self.options).T


def check_fsdp(line: DeviceMesh) -> None:
    """Training steps under fully_shard are the bits of those of one process that sees all batches."""
    untrained, alone, sharded = (torch.nn.Sequential(Layer(64, 6, seed=3), torch.nn.ReLU(), Layer(6, 5, dim=0)) for _ in range(3))
    for module in (*sharded, sharded):
        fully_shard(module, mesh=line)
    batches = torch.randint(-2, 3, (RANKS, 3, 64), generator=torch.Generator().manual_seed(9)).float()
    targets = torch.randint(-2, 3, (RANKS, 3, 5), generator=torch.Generator().manual_seed(10)).float()
    rank = dist.get_rank()
    for model, batch, target in ((alone, batches, targets), (sharded, batches[rank], targets[rank])):
        steps = torch.optim.SGD(model.parameters(), lr=2**-7)
        for _ in range(3):
            loss = (model(batch) * target).sum() / (RANKS if model is alone else 1)  # FSDP averages over ranks
            loss.backward()
            steps.step()
            steps.zero_grad()
    for (name, weight), expected, old in zip(sharded.named_parameters(), alone.parameters(), untrained.parameters()):
        expect(not torch.equal(expected, old), f"FSDP: {name} was not trained")
        same(f"FSDP: {name}", weight.detach(), expected.detach(), [Shard(0)])
        same(f"FSDP: {name} at rest", mx_ops.mxfp4_fake_quant(weight).detach(), mx_ops.mxfp4_fake_quant(expected).detach(), [Shard(0)])


def run(rank: int, folder: pathlib.Path) -> None:
    """One rank: every check in turn."""
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=datetime.timedelta(seconds=60))
    line, grid = init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    pair = grid["columns"]
    try:
        check_functions(line)
        check_seeds(line)
        check_errors(line, grid)
        check_swizzle(line)
        check_fsdp(line)
        check_tensor_scale(line, grid)
        for mesh in (pair, line):
            check_every_op(mesh)
            check_dequantize(mesh)
        check_grid(grid)
        check_views(line, grid)
        check_gradients(line)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        failures.append(traceback.format_exc())
    finally:
        (folder / str(rank)).write_text(json.dumps(failures))


if __name__ == "__main__":
    logging.getLogger("torch").setLevel(logging.ERROR)  # DTensor warns where two dims of a mesh split one of the tensor
    torch.compiler.reset()  # this imports the compiler
    torch.set_num_threads(1)  # threads would not outlive the fork, which saves importing torch four times
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            run(rank, pathlib.Path(sys.argv[1]))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
