"""Under torch's modes (autocast, inference, no gradients), in eager and in compiled code, the ops are what they are without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import DTYPES, assert_same, wild
from torch import Tensor

import mx_ops


def calls(x: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
    """Every op, and the Python functions, which a compiler takes too."""
    elements, scales = torch.ops.mx.quantize(x, "mxfp4")
    return (
        elements,
        scales,
        torch.ops.mx.dequantize(elements, scales, "mxfp4"),
        torch.ops.mx.dequantize(elements, scales, "mxfp4", dtype=torch.float16),
        torch.ops.mx.fake_quant(x, "mxfp8_e4m3", dim=0),
        mx_ops.fake_quant(x, "mxfp4", seed=seed),
        mx_ops.mxfp4_fake_quant(x),
        mx_ops.mxfp8_fake_quant(x),
    )


@pytest.fixture(params=["eager", "aot_eager"])
def run(request: pytest.FixtureRequest) -> Callable[..., tuple[Tensor, ...]]:
    """The calls as they are, and compiled as one graph."""
    torch.compiler.reset()
    return calls if request.param == "eager" else torch.compile(calls, backend=request.param, fullgraph=True)


def check(values: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """The same dtypes and bits."""
    for have, want in zip(values, expected):
        assert have.dtype == want.dtype
        assert_same(have, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_casts_nothing(run: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype, device: str) -> None:
    """Inputs of every dtype are quantized as they are, and values come in the dtype that they come in elsewhere."""
    x, seed = wild((4, 42), dtype).to(device), torch.tensor([5], device=device)
    expected = calls(x, seed)
    with torch.autocast(device, torch.bfloat16):
        check(run(x, seed), expected)


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_autocast_of_a_layer_leaves_its_quantization_alone(how: str, device: str) -> None:
    """The matmul of a fake-quantized layer is in autocast's dtype; what it multiplies was quantized in float32, and so are gradients."""

    def layer(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device, torch.bfloat16):
            q = mx_ops.fake_quant(x, "mxfp8_e4m3"), mx_ops.fake_quant(weight, "mxfp4")
            return *q, torch.nn.functional.linear(*q)

    x, weight = wild((4, 42)).clamp(-8, 8).to(device), wild((7, 42), seed=1).clamp(-8, 8).to(device).requires_grad_()
    torch.compiler.reset()
    q, q_weight, y = (layer if how == "eager" else torch.compile(layer, backend=how, fullgraph=True))(x, weight)
    assert y.dtype == torch.bfloat16
    assert q.dtype == q_weight.dtype == torch.float32
    assert_same(q, mx_ops.fake_quant(x, "mxfp8_e4m3"))
    assert_same(q_weight, mx_ops.fake_quant(weight, "mxfp4"))
    (gradient,) = torch.autograd.grad(q_weight.sum() + 0 * y.sum(), weight)
    assert gradient.dtype == torch.float32
    assert_same(gradient, torch.ones(7, 42))


def test_inference_mode(run: Callable[..., tuple[Tensor, ...]], device: str) -> None:
    """The same bits, in inference tensors, of inputs from inside and from outside, which may require a gradient."""
    x, seed = wild((4, 42)).to(device), torch.tensor([5], device=device)
    expected = calls(x, seed)
    with torch.inference_mode():
        for given in (x, x.clone(), x.clone().requires_grad_()):
            values = run(given, seed)
            check(values, expected)
            assert all(value.is_inference() and not value.requires_grad for value in values)
            values[-1].mul_(2)  # fresh memory, to write to
    check(run(x, seed), expected)


def test_inference_tensors_are_inputs_as_others_are(run: Callable[..., tuple[Tensor, ...]], device: str) -> None:
    """Outside of inference mode, inference tensors give normal ones; and an inference seed does not stand in a gradient's way."""
    x = wild((4, 42)).to(device)
    with torch.inference_mode():
        inference, seed = x.clone(), torch.tensor([5], device=device)
    for given in (inference, x):
        values = run(given, seed)
        check(values, calls(x, seed))
        assert not any(value.is_inference() or value.requires_grad for value in values)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(sum(run(x, seed)[4:]).sum(), x)
    assert_same(gradient, torch.full((4, 42), 4.0))


def test_what_requires_a_gradient(run: Callable[..., tuple[Tensor, ...]], device: str) -> None:
    """A fake-quant's output does if and only if its input does, outside of no_grad; codes, scales and their values never do."""
    x, seed = wild((4, 42)).to(device), torch.tensor([5], device=device)
    expected = calls(x, seed)
    for requires, enabled in ((False, True), (True, True), (True, False), (False, False)):
        with torch.set_grad_enabled(enabled):
            values = run(x.clone().requires_grad_(requires), seed)
        check(values, expected)
        assert [value.requires_grad for value in values] == [False] * 4 + [requires and enabled] * 4
        assert all(value.is_leaf != (requires and enabled) for value in values[4:])


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_native_dtypes_require_no_gradient(how: str, device: str) -> None:
    """Of an input that requires a gradient, mx_ops.quantize gives FP8 or FP4 elements and scales that do not, compiled or not."""

    def quantize(x: Tensor) -> tuple[Tensor, ...]:
        return *mx_ops.quantize(x, "mxfp4"), *mx_ops.quantize(x, "mxfp8_e4m3"), mx_ops.fake_quant(x, "mxfp4")

    x = wild((4, 42)).to(device).requires_grad_()
    torch.compiler.reset()
    *codes, values = (quantize if how == "eager" else torch.compile(quantize, backend=how, fullgraph=True))(x)
    assert [code.dtype for code in codes] == [torch.float4_e2m1fn_x2, torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.float8_e8m0fnu]
    assert not any(code.requires_grad for code in codes)
    assert values.requires_grad
    assert_same(mx_ops.dequantize(*codes[:2], "mxfp4"), values)
