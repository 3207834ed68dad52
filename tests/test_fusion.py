"""Under Inductor an op and its neighbours are one kernel, which gives the bits of the op on its neighbour's result.

Here for this machine's devices: C++ on CPU, Triton on a GPU. What Inductor writes for a GPU is tested without one in test_inductor_triton.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import DEVICES, INTERPRETED
from helpers import FORMATS, SCALE_MODES, assert_same, float32, wild
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache, run_and_get_code, run_fw_bw_and_get_code
from torch.nn.functional import layer_norm, rms_norm, silu

import mx_ops

VECTORS = json.loads(pathlib.Path(__file__).with_name("mx_vectors.json").read_text())

Function = Callable[..., Any]


def add(a: Tensor, b: Tensor) -> Tensor:
    """A residual connection."""
    return a + b


def gate(a: Tensor, b: Tensor) -> Tensor:
    """SwiGLU's activation."""
    return silu(a) * b


def affine(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A consumer that a compiler may contract to a fused multiply-add."""
    return a * y + b


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """To MXFP8, as bytes."""
    return torch.ops.mx.quantize(x, "mxfp8_e4m3")


def kernels(code: str) -> int:
    """How many kernels a module of Inductor launches."""
    call = code[code.index("def call(") :]
    return len(re.findall(r"^ +(?:cpp_fused\w*\(|kernels?\.cpp_fused\w*\(|triton_\w+\.run\(|\w+_kernel_\d+\.run\()", call, re.M))


def compile_and_run(function: Function, *args: Tensor) -> tuple[Any, int]:
    """What a function compiled as one graph gives, and its number of kernels. No op of this package may be left in it."""
    torch.compiler.reset()
    with fresh_cache():
        result, codes = run_and_get_code(torch.compile(function, fullgraph=True), *args)
    assert len(codes) == 1
    assert "torch.ops.mx" not in codes[0]
    return result, kernels(codes[0])


def check(given: Function | None, op: Function, then: Function | None, *args: Tensor) -> int:
    """Compile producer, op and consumer as one; the number of kernels. Its bits are those of the three, each on what the last one gave."""

    def fused(*args: Tensor) -> Any:
        y = op(given(*args) if given else args[0])
        return then(y, *args) if then else y

    have, count = compile_and_run(fused, *args)
    # Inductor rounds otherwise than eager code does, so the neighbours are compiled too; the op is not.
    want = op(compile_and_run(given, *args)[0] if given else args[0])
    want = compile_and_run(then, want, *args)[0] if then else want
    for one, other in zip(have, want) if isinstance(want, tuple) else [(have, want)]:
        assert_same(one, other)
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
    return count


def rows(count: int, length: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Two tensors whose sums round, with subnormal numbers and zeros."""
    generator = torch.Generator().manual_seed(count + length)
    a, b = (torch.randn(count, length, generator=generator) * 4.0 ** torch.randint(-9, 9, (count, 1), generator=generator) for _ in "ab")
    a[0], b[0] = a[0] * 1e-39 * 0.25, -0.0
    return a.to(dtype).to(device), b.to(dtype).to(device)


def whole(count: int, length: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Small whole numbers: sums of their squares are exact in whatever order they are summed up."""
    generator = torch.Generator().manual_seed(count + length)
    return tuple(torch.randint(-3, 4, (count, length), generator=generator).to(dtype).to(device) for _ in "ab")


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
@pytest.mark.parametrize(
    ("given", "op", "then", "dtype"),
    [
        (gate, lambda x: mx_ops.fake_quant(x, "mxfp4"), None, torch.bfloat16),
        (gate, quantize, None, torch.float16),
        (add, lambda x: mx_ops.fake_quant(x, "mxfp8_e4m3"), lambda y, a, b: y.relu(), torch.float16),
        (add, lambda x: mx_ops.fake_quant(x, "mxfp4", scale_mode="even"), None, torch.float32),
        (None, lambda x: mx_ops.fake_quant(x, "mxfp8_e5m2"), affine, torch.float32),
        (None, lambda x: mx_ops.fake_quant(x, "mxfp8_e4m3"), affine, torch.bfloat16),
    ],
    ids=["gate-mxfp4", "gate-quantize", "add-e4m3-relu", "add-mxfp4", "e5m2-affine", "e4m3-affine"],
)
def test_neighbours_are_one_kernel(given: Function | None, op: Function, then: Function | None, dtype: torch.dtype, device: str) -> None:
    """A producer before the op, a consumer behind it, or both: one kernel, and the bits of each on what came before."""
    assert check(given, op, then, *rows(6, 96, dtype, device)) == 1


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
@pytest.mark.parametrize(("format", "dtype"), [("mxfp4", torch.float16), ("mxfp8_e4m3", torch.bfloat16)])
def test_dequantize_is_one_kernel_with_its_consumer(format: str, dtype: torch.dtype, device: str) -> None:
    """Products that round in the result's dtype are rounded before the consumer sees them."""
    elements, scales = torch.ops.mx.quantize(wild((6, 96)).to(device), format)
    scales[:2] = torch.tensor([[97, 103, 104]], device=device)  # in float16 the small codes are subnormal

    def op(elements: Tensor) -> Tensor:
        return torch.ops.mx.dequantize(elements, scales, format, dtype=dtype)

    a, b = rows(6, 96, dtype, device)
    assert check(None, op, lambda y, elements, a, b: affine(y, a, b), elements, a, b) == 1


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_norms_take_a_kernel_more_at_most(norm: Function, device: str) -> None:
    """A norm reduces over the row, the op over blocks: two kernels on a GPU, one function of two loops on CPU."""
    a, b = whole(6, 128, torch.bfloat16, device)
    count = check(lambda a, b: norm(a, (128,), b[0]), lambda x: mx_ops.fake_quant(x, "mxfp8_e4m3"), None, a, b)
    assert count <= (1 if device == "cpu" else 2)


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
@pytest.mark.parametrize(
    "op",
    [
        lambda x: mx_ops.fake_quant(x, "mxfp8_e4m3"),
        lambda x: mx_ops.fake_quant(x, "mxfp4", dim=0),
        lambda x: mx_ops.fake_quant(x, "mxfp4", seed=torch.tensor([7], device=x.device)),
        lambda x: torch.ops.mx.quantize(x, "mxfp8_e5m2"),
        lambda x: torch.ops.mx.quantize(x, "mxfp4", dim=0),
        lambda x: torch.ops.mx.dequantize(*torch.ops.mx.quantize(x, "mxfp8_e4m3"), "mxfp8_e4m3", dtype=x.dtype),
    ],
    ids=["fake_quant", "dim 0", "seed", "quantize", "quantize, dim 0", "dequantize"],
)
def test_short_blocks_and_outer_dims_keep_their_bits(op: Function, device: str) -> None:
    """So do rows that are no whole blocks, blocks along an outer dim, packed codes and seeds, behind a producer."""
    check(add, op, None, *rows(42, 33, torch.bfloat16, device))


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
def test_one_graph_serves_every_number_of_rows(device: str) -> None:
    """A dynamic dim stays fused, is compiled once, and gives the same bits at every size; the backward holds no op either."""

    def f(a: Tensor, b: Tensor) -> Tensor:
        return mx_ops.fake_quant(a + b, "mxfp8_e4m3")

    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(f, fullgraph=True)
    for count in (6, 31, 123):
        a, b = rows(count, 96, torch.bfloat16, device)
        a.requires_grad_()
        for x in (a, b):
            torch._dynamo.mark_dynamic(x, 0)
        if count == 6:
            with fresh_cache():
                _, codes = run_fw_bw_and_get_code(lambda: compiled(a, b))
            assert 1 <= len(codes) <= 2  # the backward is the identity, and need not be compiled
            assert all(kernels(code) <= 1 and "torch.ops.mx" not in code for code in codes)
            assert kernels(codes[0]) == 1
        y = compiled(a, b)
        assert_same(y, f(a, b))
        (grad,) = torch.autograd.grad(y, a, torch.arange(96.0, device=device).expand(count, 96).to(a.dtype))
        assert_same(grad, torch.arange(96.0).expand(count, 96))
    assert counters["stats"]["unique_graphs"] == 1


MODES = ["default"] + (["max-autotune", "reduce-overhead"] if "cuda" in DEVICES else [])


@pytest.mark.parametrize("mode", ["aot_eager", *MODES])
def test_golden_blocks_compiled(mode: str, device: str) -> None:
    """Every golden block gives in compiled code the codes, scales and values that it gives in eager code, in every mode."""
    words = torch.zeros(len(VECTORS), 32).numpy().view("uint32").copy()
    for row, vector in enumerate(VECTORS):
        bits = [int(word, 16) for word in vector["input_fp32_bits"]]
        words[row, : len(bits)] = bits
    x = float32(words).to(device)

    # It is all one graph, which takes as long to compile as it is large: so by Inductor one scale mode with each format.
    modes = itertools.product(FORMATS, SCALE_MODES) if mode == "aot_eager" else zip(FORMATS, itertools.cycle(SCALE_MODES))
    combinations: list[tuple[str, str | None]] = [*modes, ("nvfp4", None)]
    assert {name for name, _ in combinations} == set(mx_ops.FORMATS)

    def every(x: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for format, scale_mode in combinations:
            scale = torch.ones(1, device=x.device) if mx_ops.FORMATS[format].has_tensor_scale else None
            codes = torch.ops.mx.quantize(x, format, None, scale, scale_mode=scale_mode)
            values = mx_ops.fake_quant(x, format, tensor_scale=scale, scale_mode=scale_mode)
            results += [*codes, values, torch.ops.mx.dequantize(*codes, format, scale)]
        return tuple(results)

    torch.compiler.reset()
    with fresh_cache():
        options = {"backend": mode} if mode == "aot_eager" else {"mode": mode}
        results = torch.compile(every, fullgraph=True, **options)(x)
        for have, want in zip(results, every(x)):
            assert_same(have, want)
    assert len(results) == 4 * len(combinations)


@pytest.mark.parametrize("setting", ["aten", "triton"])
def test_the_setting_changes_no_bit(setting: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either of what a graph may hold gives the same bits; where there is no kernel both are the formulas."""
    monkeypatch.setattr(mx_ops.config, "lowering", setting)
    torch.compiler.reset()
    x = wild((6, 96)).to(device)

    def both(x: Tensor) -> tuple[Tensor, ...]:
        return (mx_ops.fake_quant(x, "mxfp4"), *torch.ops.mx.quantize(x, "mxfp4", dim=0))

    with fresh_cache():
        results = torch.compile(both, fullgraph=True)(x)
    for have, want in zip(results, both(x)):
        assert_same(have, want)
