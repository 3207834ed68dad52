"""torch.fx.symbolic_trace takes every function, and torch.jit.trace all that views no bytes: traced, they give eager's bits and errors."""

from __future__ import annotations

import operator
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_same, wild
from torch import Tensor

import mx_ops

Outputs = Tensor | tuple[Tensor, ...]


def dequantized(x: Tensor) -> Tensor:
    """Through both results of quantize."""
    elements, scales = mx_ops.quantize(x, "mxfp4", dim=0)
    return mx_ops.dequantize(elements, scales, "mxfp4", dim=0, dtype=torch.bfloat16)


def swizzled(x: Tensor) -> Tensor:
    """There and back."""
    return mx_ops.unswizzle_scales(mx_ops.swizzle_scales(mx_ops.quantize(x, "mxfp8_e4m3")[1]), 4, 2)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "quantize": lambda x: mx_ops.quantize(x, "mxfp8_e5m2", seed=7),
    "quantize nvfp4": lambda x: mx_ops.quantize(x, "nvfp4", tensor_scale=mx_ops.tensor_scale(x)),
    "quantize_both": lambda x: mx_ops.quantize_both(x, "mxfp6_e2m3", block_size=16, scale_mode="even"),
    "dequantize": dequantized,
    "swizzle_scales": swizzled,
    "fake_quant": lambda x: mx_ops.fake_quant(x, "mxint8", dim=0),
    "fake_quant by an int": lambda x: mx_ops.fake_quant(x, "mxfp4", seed=7),
    "fake_quant by a drawn seed": lambda x: mx_ops.fake_quant(x, "mxfp4", stochastic_rounding=True),
    "mxfp4_fake_quant": mx_ops.mxfp4_fake_quant,
    "mxfp8_fake_quant": lambda x: mx_ops.mxfp8_fake_quant(x, "e5m2", seed=7),
    "nvfp4_fake_quant": lambda x: mx_ops.nvfp4_fake_quant(x, tensor_scale=mx_ops.tensor_scale(x)),
    "tensor_scale": mx_ops.tensor_scale,
    "fake_quant_mxfp8": lambda x: mx_ops.fake_quant_mxfp8(x, True),
}


def check(traced: Outputs, expected: Outputs) -> None:
    """The same dtypes, strides and bits."""
    if isinstance(expected, Tensor):
        traced, expected = (traced,), (expected,)
    assert len(traced) == len(expected)
    for have, want in zip(traced, expected):
        assert (have.dtype, have.stride()) == (want.dtype, want.stride())
        byte = want.dtype.itemsize == 1
        assert_same(have.view(torch.uint8) if byte else have, want.view(torch.uint8) if byte else want)


@pytest.mark.parametrize("name", CALLS)
def test_symbolic_trace_gives_the_bits_of_eager_code(name: str) -> None:
    """And so does the traced module when it was pickled, for what stands in its graph is public."""
    traced = torch.fx.symbolic_trace(lambda x: CALLS[name](x))  # of what is annotated by strings, as functions here are, torch pickles none
    for module in (traced, pickle.loads(pickle.dumps(traced))):
        for x in (wild((4, 64)), wild((6, 34), torch.bfloat16)) if name != "swizzle_scales" else (wild((4, 64)),):
            torch.manual_seed(3)
            expected = CALLS[name](x)
            torch.manual_seed(3)
            check(module(x), expected)


def test_symbolic_trace_takes_proxies_beside_tensors() -> None:
    """A seed or a scale may be traced where what is quantized is not."""
    x, one = wild((4, 64)), torch.tensor([0.5])
    calls: list[Callable[[Tensor], Any]] = [
        lambda seed: mx_ops.fake_quant(x, "mxfp4", seed=mx_ops.fold_seed(seed, 3)),
        lambda seed: mx_ops.quantize(x, "mxfp4", seed=seed),
        lambda seed: mx_ops.quantize_both(x, "nvfp4", seed=seed, tensor_scale=one),
        lambda seed: mx_ops.fold_seed(torch.tensor([-3]), 1, seed),
    ]
    for call in calls:
        for seed in (torch.tensor([7]), torch.tensor([-8])):
            check(torch.fx.symbolic_trace(call)(seed), call(seed))
    codes = mx_ops.quantize(x, "nvfp4", tensor_scale=one)
    scaled: list[Callable[[Tensor], Any]] = [
        lambda scale: mx_ops.quantize(x, "nvfp4", tensor_scale=scale),
        lambda scale: mx_ops.fake_quant(x, "nvfp4", tensor_scale=scale),
        lambda scale: mx_ops.dequantize(*codes, "nvfp4", tensor_scale=scale),
    ]
    for call in scaled:
        check(torch.fx.symbolic_trace(call)(one), call(one))


def test_functions_that_look_at_dtypes_are_one_node() -> None:
    """Passes over a graph find them by the names that users call."""
    graph = torch.fx.symbolic_trace(swizzled).graph
    targets = [node.target for node in graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    assert targets == [mx_ops.quantize, mx_ops.swizzle_scales, mx_ops.unswizzle_scales]


def test_a_symbolically_traced_module_compiles_and_exports() -> None:
    """To the bits of eager code."""
    x = wild((4, 64))
    traced = torch.fx.symbolic_trace(dequantized)
    torch.compiler.reset()
    check(torch.compile(traced, backend="aot_eager", fullgraph=True)(x), dequantized(x))
    check(torch.export.export(traced, (x,)).module()(x), dequantized(x))


def test_errors_of_what_is_traced_are_those_of_eager_code() -> None:
    """What can be known of the arguments is said when the traced module runs, if not before."""
    traced = torch.fx.symbolic_trace(lambda x: mx_ops.dequantize(x, x, "mxfp4"))
    with pytest.raises(
        TypeError, match=re.escape("elements of mxfp4 are torch.float32; they may be torch.float4_e2m1fn_x2 or torch.uint8")
    ):
        traced(wild((4, 64)))
    with pytest.raises(TypeError, match="seed is of type bool"):
        torch.fx.symbolic_trace(lambda x: mx_ops.fake_quant(x, "mxfp4", seed=True))


@pytest.mark.parametrize("name", [name for name in CALLS if "quantize" not in name and "scales" not in name])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_gives_the_bits_of_eager_code(name: str) -> None:
    """Of all functions whose results are no views of bytes."""
    x, other = wild((4, 64)), wild((4, 64), seed=1)
    traced = torch.jit.trace(CALLS[name], (x,), check_trace=False)
    for given in (x, other):
        torch.manual_seed(3)
        expected = CALLS[name](given)
        torch.manual_seed(3)
        check(traced(given), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_takes_bytes_and_refuses_views_of_them() -> None:
    """It knows no view of a dtype: the error names the ops, which it traces."""
    x = wild((4, 64))
    for function in (
        lambda x: mx_ops.quantize(x, "mxfp4"),
        lambda x: mx_ops.quantize_both(x, "mxfp6_e2m3"),
        lambda x: mx_ops.dequantize(torch.zeros(4, 32).to(torch.float8_e4m3fn), torch.ones(4, 1, dtype=torch.uint8), "mxfp8_e4m3"),
        lambda x: mx_ops.swizzle_scales(torch.ones(4, 1, dtype=torch.uint8).view(torch.float8_e8m0fnu)),
    ):
        with pytest.raises(NotImplementedError, match=re.escape("trace the ops, such as torch.ops.mx.quantize, which take and give bytes")):
            torch.jit.trace(function, (x,))

    def by_bytes(x: Tensor) -> tuple[Tensor, ...]:
        elements, scales = torch.ops.mx.quantize(x, "mxfp4")
        return mx_ops.dequantize(elements, scales, "mxfp4"), mx_ops.unswizzle_scales(mx_ops.swizzle_scales(scales), 4, 2)

    check(torch.jit.trace(by_bytes, (x,))(wild((4, 64), seed=1)), by_bytes(wild((4, 64), seed=1)))
