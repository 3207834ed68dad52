"""Under the transforms of torch.func the ops are what they are in a Python loop, and their derivatives those of the identity."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from conftest import INTERPRETED
from helpers import FORMATS, assert_same, wild
from torch import Tensor
from torch.autograd import forward_ad

import mx_ops

FAKE_QUANTS: dict[str, Callable[..., Tensor]] = {
    "op": lambda x, **options: torch.ops.mx.fake_quant(x, "mxfp4", **options),
    "op mxfp4": torch.ops.mx.mxfp4_fake_quant,
    "op mxfp8": torch.ops.mx.mxfp8_fake_quant,
    "op nvfp4": lambda x, scale_mode=None, **options: torch.ops.mx.nvfp4_fake_quant(x, **options),
    "function": lambda x, **options: mx_ops.fake_quant(x, "mxfp4", **options),
    "function mxfp4": mx_ops.mxfp4_fake_quant,
    "function mxfp8": mx_ops.mxfp8_fake_quant,
}


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_vmap_of_fake_quant_is_a_loop(name: str, seed: int | None, device: str) -> None:
    """Whatever dim is the batch and whatever dim is blocked; an unbatched seed repeats its noise a slice."""
    x = wild((2, 2, 3) if INTERPRETED else (3, 6, 34), dim=1).to(device)
    options = {} if seed is None else {"seed": torch.tensor([seed], device=device)}
    for in_dim in (0, -2, 2):
        for dim in (0, 1, -1):
            values = torch.vmap(lambda part: FAKE_QUANTS[name](part, dim=dim, **options), in_dims=in_dim)(x)
            assert_same(values, torch.stack([FAKE_QUANTS[name](part, dim=dim, **options) for part in x.unbind(in_dim)]))


@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_vmap_over_seeds_is_a_loop(name: str, device: str) -> None:
    """A batch of seeds gives each slice the noise of its own seed, with or without a batch of inputs."""
    x, seeds = wild((3, 42)).to(device), torch.arange(3, device=device)[:, None]
    values = torch.vmap(lambda part, seed: FAKE_QUANTS[name](part, seed=seed))(x, seeds)
    assert_same(values, torch.stack([FAKE_QUANTS[name](part, seed=seed) for part, seed in zip(x, seeds)]))
    options = {"dim": 0, "block_size": 16, "scale_mode": "even"}
    columns = wild((42, 3, 2), dim=0).to(device)
    values = torch.vmap(lambda part, seed: FAKE_QUANTS[name](part, seed=seed, **options), in_dims=(1, 0))(columns, seeds)
    assert_same(values, torch.stack([FAKE_QUANTS[name](part, seed=seed, **options) for part, seed in zip(columns.unbind(1), seeds)]))
    values = torch.vmap(lambda seed: FAKE_QUANTS[name](x, seed=seed))(seeds)
    assert_same(values, torch.stack([FAKE_QUANTS[name](x, seed=seed) for seed in seeds]))
    assert not torch.equal(values[0], values[1])


@pytest.mark.parametrize("format", FORMATS)
def test_vmap_of_quantize_and_dequantize_is_a_loop(format: str, device: str) -> None:
    """Both results and both arguments may be batched; scales may be shared by all slices, or elements."""
    x = wild((4, 2, 6) if INTERPRETED else (4, 6, 34), dim=0).to(device)
    one, each = torch.tensor([3], device=device), torch.arange(4, device=device)[:, None]
    for in_dim, dim, seed in ((0, 0, None), (1, 0, None), (2, -1, None), (0, 1, one), (0, 0, each)):
        quantize = functools.partial(torch.ops.mx.quantize, dim=dim)
        in_dims = (in_dim, None, 0 if seed is each else None)
        elements, scales = torch.vmap(quantize, in_dims)(x, format, seed)
        for i, part in enumerate(x.unbind(in_dim)):
            for batched, alone in zip((elements[i], scales[i]), quantize(part, format, each[i] if seed is each else seed)):
                assert_same(batched, alone)
        for unbatched, in_dims in ((None, (0, 0)), ("scales", (0, None)), ("elements", (None, 0))):
            codes = elements[0] if unbatched == "elements" else elements
            shared = scales[0] if unbatched == "scales" else scales
            values = torch.vmap(lambda e, s: torch.ops.mx.dequantize(e, s, format, dim=dim), in_dims)(codes, shared)
            for i, value in enumerate(values):
                e, s = (codes if unbatched == "elements" else codes[i]), (shared if unbatched == "scales" else shared[i])
                assert_same(value, torch.ops.mx.dequantize(e, s, format, dim=dim))


def test_vmap_over_nothing_is_an_empty_batch(device: str) -> None:
    """Of the shapes and dtypes that a slice would have: with seeds, with scales of whole tensors, and without."""
    ops, seed = torch.ops.mx, torch.tensor([3], device=device)
    scale = torch.ones(1, device=device)
    calls: dict[str, Callable[[Tensor], Tensor | tuple[Tensor, ...]]] = {
        "fake_quant": lambda x: ops.fake_quant(x, "mxfp4"),
        "seeded": lambda x: ops.fake_quant(x, "mxfp8_e4m3", seed, dim=0),
        "nvfp4": ops.nvfp4_fake_quant,
        "tensor_scale": ops.tensor_scale,
        "quantize": lambda x: ops.quantize(x, "mxfp4", dim=-1),
        "quantize nvfp4": lambda x: ops.quantize(x, "nvfp4", None, scale, dim=-2),
        "quantize_both": lambda x: ops.quantize_both(x, "mxint8", seed),
        "dequantize": lambda x: ops.dequantize(*ops.quantize(x, "nvfp4", None, scale), "nvfp4", scale),
        "swizzle": lambda x: ops.swizzle_scales(ops.quantize(x, "mxfp8_e4m3")[1]),
    }
    x = torch.randn(2, 34, 36, device=device)
    for name, call in calls.items():
        for in_dim in (0, 1):
            one = call(x.select(in_dim, 0))
            none = torch.vmap(call, in_dims=in_dim)(x.narrow(in_dim, 0, 0))
            for have, want in zip(*(leaf if isinstance(leaf, tuple) else (leaf,) for leaf in (none, one))):
                assert have.shape == (0, *want.shape), name
                assert have.dtype == want.dtype
    seeds = torch.empty(0, 1, dtype=torch.int64, device=device)
    assert torch.vmap(lambda seed: ops.fake_quant(x, "mxfp4", seed))(seeds).shape == (0, *x.shape)


def test_vmap_within_vmap_is_two_loops(device: str) -> None:
    """Batches nest."""
    x = wild((2, 3, 42)).to(device)
    for name in FAKE_QUANTS:
        loops = torch.stack([torch.stack([FAKE_QUANTS[name](row) for row in part]) for part in x])
        assert_same(torch.vmap(torch.vmap(FAKE_QUANTS[name]))(x), loops)


@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_backward_through_vmap_is_that_of_the_identity(name: str, device: str) -> None:
    """Autograd outside of vmap, as in a training step: the gradient that comes in goes out, of the ops too."""
    x = wild((3, 42)).to(device).requires_grad_()
    incoming = torch.arange(3 * 42.0, device=device).view(3, 42)
    (grad,) = torch.autograd.grad(torch.vmap(FAKE_QUANTS[name])(x), x, incoming)
    assert_same(grad, incoming)


def test_vmap_of_fold_seed_is_a_loop(device: str) -> None:
    """Seeds, values, or both may be batched."""
    seeds, values = torch.arange(3, device=device)[:, None], torch.arange(7, 10, device=device)
    fold = mx_ops.fold_seed
    assert_same(torch.vmap(fold)(seeds, values), torch.stack([fold(seed, value) for seed, value in zip(seeds, values)]))
    assert_same(torch.vmap(fold, (0, None))(seeds, values[0]), torch.stack([fold(seed, values[0]) for seed in seeds]))
    assert_same(torch.vmap(fold, (None, 0, None))(seeds[0], values, 3), torch.stack([fold(seeds[0], value, 3) for value in values]))


@pytest.mark.parametrize("dim", [2, -3])
def test_vmap_hides_the_batch(dim: int, device: str) -> None:
    """A dim that only the batched tensor has is out of range."""
    for fake_quant in FAKE_QUANTS.values():
        with pytest.raises(IndexError, match=f"dim {dim} is out of range for a tensor of rank 2"):
            torch.vmap(lambda part: fake_quant(part, dim=dim))(torch.ones(3, 4, 32, device=device))


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_derivatives_are_those_of_the_identity(name: str, seed: int | None, device: str) -> None:
    """grad, vjp, jvp, jacobians, vmap of grad and hessian, in eager code."""

    def f(x: Tensor) -> Tensor:
        return FAKE_QUANTS[name](x, **({} if seed is None else {"seed": torch.tensor([seed], device=device)}))

    def energy(x: Tensor) -> Tensor:
        return f(x).square().sum()

    x = wild((3, 5) if INTERPRETED else (3, 42), seed=1).clamp(-1e3, 1e3).to(device)
    rows = torch.stack([f(row) for row in x])
    assert_same(torch.func.grad(energy)(x), 2 * f(x))
    assert_same(torch.vmap(torch.func.grad(energy))(x), 2 * rows)
    value, pull = torch.func.vjp(f, x)
    assert_same(value, f(x))
    assert_same(pull(x)[0], x)
    value, tangent = torch.func.jvp(f, (x,), (x.neg(),))
    assert_same(value, f(x))
    assert_same(tangent, x.neg())
    identity = torch.eye(x.shape[1], device=device)
    assert_same(torch.func.jacrev(f)(x[0]), identity)
    assert_same(torch.func.jacfwd(f)(x[0]), identity)
    assert_same(torch.func.hessian(energy)(x[0]), 2 * identity)


TRANSFORMS: dict[str, Callable[..., Tensor]] = {
    "vmap": lambda f, x: torch.vmap(f, in_dims=1, out_dims=1)(x),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).square().sum())(x),
    "vmap of grad": lambda f, x: torch.vmap(torch.func.grad(lambda x: f(x).square().sum()))(x),
    "grad of vmap": lambda f, x: torch.func.grad(lambda x: torch.vmap(f)(x).square().sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](x.neg())[0],
    "jvp": lambda f, x: torch.stack(torch.func.jvp(f, (x,), (x.neg(),))),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x[0]),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x[0]),
    "hessian": lambda f, x: torch.func.hessian(lambda x: f(x).square().sum())(x[0]),
}


@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_forward_mode(name: str, device: str) -> None:
    """Dual tensors, without torch.func: the tangent is that of the input, also where that requires a gradient."""
    x = wild((3, 5)).to(device)
    for requires in (False, True):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.clone().requires_grad_(requires), x.neg())
            value, tangent = forward_ad.unpack_dual(FAKE_QUANTS[name](dual))
            assert_same(value, FAKE_QUANTS[name](x))
            assert_same(tangent, x.neg())
            assert value.requires_grad == requires


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["op", "function mxfp8"])
def test_transforms_within_compiled_code(name: str, transform: str, device: str) -> None:
    """A function that transforms a fake-quant compiles as one graph, which gives what it gives in eager code."""
    x, seed = wild((3, 5), seed=1).clamp(-1e3, 1e3).to(device), torch.tensor([5], device=device)

    def transformed(x: Tensor, seed: Tensor) -> Tensor:
        return TRANSFORMS[transform](lambda x: FAKE_QUANTS[name](x, seed=seed), x)

    torch.compiler.reset()
    assert_same(torch.compile(transformed, backend="aot_eager", fullgraph=True)(x, seed), transformed(x, seed))


@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_derivatives_over_seeds_are_a_loop(name: str, device: str) -> None:
    """A batch of seeds beside one input gives each slice the gradient, and the value beside a tangent, of its own seed."""
    x, seeds = wild((3, 5), seed=1).clamp(-1e3, 1e3).to(device), torch.arange(3, device=device)[:, None]

    def gradient(x: Tensor, seed: Tensor) -> Tensor:
        return torch.func.grad(lambda x: FAKE_QUANTS[name](x, seed=seed).square().sum())(x)

    def value_and_tangent(x: Tensor, seed: Tensor) -> Tensor:
        return torch.stack(torch.func.jvp(lambda x: FAKE_QUANTS[name](x, seed=seed), (x,), (x.neg(),)))

    rows = [FAKE_QUANTS[name](x, seed=seed) for seed in seeds]
    assert_same(torch.vmap(gradient, (None, 0))(x, seeds), 2 * torch.stack(rows))
    assert_same(torch.vmap(value_and_tangent, (None, 0))(x, seeds), torch.stack([torch.stack([row, x.neg()]) for row in rows]))
    assert not torch.equal(rows[0], rows[1])


def test_compiled_derivatives_are_those_of_the_identity(device: str) -> None:
    """Under torch.compile as one graph the gradient still passes straight through."""
    x = wild((6, 42)).to(device).requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(lambda x: mx_ops.fake_quant(x, "mxfp8_e4m3"), fullgraph=True, backend="aot_eager")
    values = compiled(x)
    assert_same(values, mx_ops.fake_quant(x, "mxfp8_e4m3"))
    (grad,) = torch.autograd.grad(values, x, torch.arange(42.0, device=device).expand(6, 42))
    assert_same(grad, torch.arange(42.0).expand(6, 42))
