"""vmap equals a Python loop to the bit; a seed that is not batched repeats its noise a slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_same, wild
from torch import Tensor

import mx_ops

CALLS: dict[str, Callable[..., Any]] = {
    "fake_quant": lambda x, seed: torch.ops.mx.fake_quant(x, "mxfp8_e4m3", seed),
    "mxfp4_fake_quant": lambda x, seed: mx_ops.mxfp4_fake_quant(x, seed=seed, dim=0),
    "mxfp8_fake_quant": lambda x, seed: mx_ops.mxfp8_fake_quant(x, "e5m2", seed=seed, block_size=16),
    "quantize": lambda x, seed: torch.ops.mx.quantize(x, "mxfp4", seed, dim=0),
    "dequantize": lambda x, seed: torch.ops.mx.dequantize(*torch.ops.mx.quantize(x, "mxfp4", seed), "mxfp4"),
}


def check(call: Callable[..., Any], x: Tensor, in_dim: int, seed: Tensor | None, seed_dim: int | None) -> None:
    """One vmap over a dim of x, and perhaps of the seed, against the loop."""
    loop = [call(part, seed if seed is None or seed_dim is None else seed[index]) for index, part in enumerate(x.unbind(in_dim))]
    mapped = torch.vmap(call, in_dims=(in_dim, seed_dim))(x, seed)
    if isinstance(mapped, Tensor):
        mapped, loop = (mapped,), [(part,) for part in loop]
    for have, want in zip(mapped, zip(*loop)):
        assert_same(have, torch.stack(want))


@pytest.mark.parametrize("in_dim", [0, 1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_vmap_is_a_loop(name: str, in_dim: int, device: str) -> None:
    """Over each dim of the input: without a seed, with one for all slices, and with one a slice."""
    x = wild((4, 6, 34)).to(device)
    check(CALLS[name], x, in_dim, None, None)
    check(CALLS[name], x, in_dim, torch.tensor([7], device=device), None)
    check(CALLS[name], x, in_dim, torch.arange(x.shape[in_dim], device=device)[:, None], 0)


def test_one_seed_repeats_its_noise(device: str) -> None:
    """Equal slices under one seed stay equal; under seeds of their own they do not."""
    x = wild((6, 34)).to(device).expand(3, 6, 34)
    same = torch.vmap(CALLS["fake_quant"], in_dims=(0, None))(x, torch.tensor([7], device=device))
    assert_same(same[0], same[1])
    own = torch.vmap(CALLS["fake_quant"], in_dims=(0, 0))(x, torch.arange(3, device=device)[:, None])
    assert not torch.equal(own[0], own[1])


def test_vmap_of_gradients(device: str) -> None:
    """The gradient under vmap is the incoming one."""
    x = wild((4, 34)).to(device).requires_grad_()
    out = torch.vmap(lambda row: mx_ops.fake_quant(row, "mxfp4"))(x)
    gradient = torch.arange(4 * 34.0, device=device).view(4, 34)
    (received,) = torch.autograd.grad(out, x, gradient)
    assert_same(received, gradient)
