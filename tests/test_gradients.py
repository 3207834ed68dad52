"""The fake-quant ops pass the gradient straight through; codes and scales have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import DTYPES, assert_same, wild
from torch import Tensor

import mx_ops

FAKE_QUANTS: dict[str, Callable[..., Tensor]] = {
    "op": lambda x, **options: torch.ops.mx.fake_quant(x, "mxfp4", **options),
    "mxfp4 op": torch.ops.mx.mxfp4_fake_quant,
    "mxfp8 op": torch.ops.mx.mxfp8_fake_quant,
    "mxfp8 op, e5m2": lambda x, **options: torch.ops.mx.mxfp8_fake_quant(x, "e5m2", **options),
    "nvfp4 op": lambda x, scale_mode=None, **options: torch.ops.mx.nvfp4_fake_quant(x, **options),
    "function": lambda x, **options: mx_ops.fake_quant(x, "mxfp8_e4m3", **options),
    "mxfp4 function": mx_ops.mxfp4_fake_quant,
    "mxfp8 function": mx_ops.mxfp8_fake_quant,
}
CALLS: list[dict[str, Any]] = [{}, {"dim": 0, "block_size": 16, "scale_mode": "rceil"}, {"seed": 7}]

over_all = pytest.mark.parametrize("name", FAKE_QUANTS)


def call(name: str, x: Tensor, options: dict[str, Any]) -> Tensor:
    """A fake-quant; an op's seed is a tensor."""
    if "seed" in options:
        options = options | {"seed": torch.tensor([options["seed"]], device=x.device)}
    return FAKE_QUANTS[name](x, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", CALLS, ids=str)
@over_all
def test_straight_through(name: str, options: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    """The gradient of the input is that of the output, to the bit, where values clip, round to zero or are not finite too."""
    x = wild((6, 42), dtype).to(device)
    x[0, 3], x[1, 40] = torch.nan, torch.inf
    x.requires_grad_()
    gradient = wild((6, 42), dtype, seed=1).to(device)
    out = call(name, x, options)
    assert out.requires_grad
    out.backward(gradient)
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert_same(x.grad, gradient)


@over_all
def test_gradients_of_any_strides(name: str, device: str) -> None:
    """Transposed, stepped and expanded gradients (stride 0, as sum() sends) pass as they are, to inputs of any strides."""
    x = wild((6, 42)).to(device)
    for layout in (x, x.t().contiguous().t(), torch.zeros(6, 42, 2, device=device)[..., 0].copy_(x)):
        layout = layout.detach().requires_grad_()
        gradients = (wild((42, 6), seed=1).t(), wild((12, 84), seed=2)[::2, ::2], torch.tensor(3.0).expand(6, 42))
        for gradient in gradients:
            (received,) = torch.autograd.grad(call(name, layout, {}), layout, gradient.to(device))
            assert_same(received, gradient)
        (received,) = torch.autograd.grad(call(name, layout, {}).sum(), layout)
        assert_same(received, torch.ones(6, 42))


@over_all
def test_double_backward(name: str, device: str) -> None:
    """The gradient of the gradient is that of the identity: differentiating twice runs, and is right."""
    x = (torch.arange(-48.0, 48.0, device=device).view(3, 32) / 8).requires_grad_()  # all sums below are exact
    q = call(name, x.detach(), {})
    (first,) = torch.autograd.grad((call(name, x, {}) * x**2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert_same(first, x.detach() ** 2 + q * 2 * x.detach())
    assert_same(second, 4 * x.detach() + 2 * q)


@pytest.mark.parametrize("options", CALLS, ids=str)
@over_all
def test_the_square_has_second_derivative_two(name: str, options: dict[str, Any], device: str) -> None:
    """The gradient of a fake-quant's square is twice the fake-quant, and that gradient's is 2, to the bit: and the third is zero."""
    x = wild((6, 42), seed=1).clamp(-1e3, 1e3).to(device).requires_grad_()
    (first,) = torch.autograd.grad((call(name, x, options) ** 2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    assert_same(first, 2 * call(name, x.detach(), options))
    assert_same(second, torch.full((6, 42), 2.0))
    if second.requires_grad:
        (third,) = torch.autograd.grad(second.sum(), x)
        assert_same(third, torch.zeros(6, 42))


@over_all
def test_gradient_through_a_model(name: str, device: str) -> None:
    """A layer with fake-quantized weights and inputs gets the gradients of one that multiplies the quantized numbers."""
    x, weight = wild((5, 64)).clamp(-4, 4).to(device), wild((7, 64), seed=1).clamp(-4, 4).to(device).requires_grad_()
    torch.nn.functional.linear(call(name, x, {}), call(name, weight, {})).sum().backward()
    quantized = call(name, weight.detach(), {}).requires_grad_()
    torch.nn.functional.linear(call(name, x, {}), quantized).sum().backward()
    assert weight.grad is not None
    assert quantized.grad is not None
    assert_same(weight.grad, quantized.grad)


@over_all
def test_no_gradient_asked_none_kept(name: str, device: str) -> None:
    """An input that requires no gradient, and no_grad, give outputs that require none."""
    x = wild((6, 42)).to(device)
    assert not call(name, x, {}).requires_grad
    with torch.no_grad():
        assert not call(name, x.requires_grad_(), {}).requires_grad
    with torch.inference_mode():
        assert not call(name, wild((6, 42)).to(device), {}).requires_grad


def test_codes_and_scales_have_no_gradient(device: str) -> None:
    """Quantizing an input that requires a gradient gives codes and scales that do not, and so does dequantize of these."""
    x = wild((6, 42)).to(device).requires_grad_()
    for outputs in (torch.ops.mx.quantize(x, "mxfp4"), mx_ops.quantize(x, "mxfp4"), mx_ops.quantize(x, "mxfp8_e4m3", seed=1)):
        assert not any(output.requires_grad for output in outputs)
    elements, scales = torch.ops.mx.quantize(x, "mxfp4")
    assert not torch.ops.mx.dequantize(elements, scales, "mxfp4").requires_grad
