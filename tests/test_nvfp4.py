"""NVFP4 has two levels of scales: each step of its arithmetic is rounded once, in float32, and so the bits are the same everywhere."""

from __future__ import annotations

import math
import types
from fractions import Fraction
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from conftest import INTERPRETED
from helpers import DTYPES, ODD_SHAPES, assert_same, exact, float32, name_of, wild
from torch import Tensor
from torch._inductor.utils import fresh_cache

import mx_ops
from mx_ops import library

# NumPy, by which Triton's interpreter calculates, says so where a scale or a product saturates.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in:RuntimeWarning")

ops = torch.ops.mx
SEED = 0x0123_4567_89AB_CDEF
TINY = 2.0**-149
SHAPES_AND_DIMS = [(shape, dim) for shape in ODD_SHAPES for dim in range(len(shape))]


def scale_of(value: float, device: str) -> Tensor:
    """A tensor's scale."""
    return torch.tensor([value], dtype=torch.float32, device=device)


def check(x: Tensor, dim: int = -1, block_size: int = 16, tensor_scale: Tensor | None = None, seed: int | None = None) -> None:
    """The short way, the long way and the oracle agree; what is finite stays so."""
    expected_scale = oracle.tensor_scale(exact(x)) if tensor_scale is None else exact(tensor_scale)[0]
    computed = mx_ops.tensor_scale(x) if tensor_scale is None else tensor_scale
    assert_same(computed, np.array([expected_scale]))
    noise = None if seed is None else torch.tensor([seed], device=x.device)
    random = None if seed is None else oracle.random_bits(seed, tuple(x.shape))
    options = {"dim": dim, "block_size": block_size}
    values = ops.nvfp4_fake_quant(x, noise, tensor_scale, **options)
    assert values.dtype == x.dtype
    assert_same(values, oracle.fake_quant(exact(x), "nvfp4", random, dtype=name_of(x.dtype), tensor_scale=expected_scale, **options))
    assert values.isfinite().all()
    if x.shape[dim] % 2 == 0:
        elements, scales = ops.quantize(x, "nvfp4", noise, computed, **options)
        expected = oracle.quantize(exact(x), "nvfp4", random, tensor_scale=expected_scale, **options)
        assert_same(elements, expected[0])
        assert_same(scales, expected[1])
        assert_same(ops.dequantize(elements, scales, "nvfp4", computed, dtype=x.dtype, **options), values)


def test_the_oracle_rounds_quotients_as_fractions_do() -> None:
    """Among random numbers, subnormal ones and ties: the float32 that it finds is the nearest, and of two it is the even one."""
    random = np.random.default_rng(0)
    a = np.concatenate([float32(random.integers(1, 0x7F000000, 500)).double().numpy(), np.arange(1, 6000, 7) * TINY])
    b = np.concatenate([float32(random.integers(0x20000000, 0x5F000000, 500)).double().numpy(), np.full(len(a) - 500, 2688.0)])
    found = oracle.quotient(a, b)
    assert (found[500:] > 0).any()
    for x, y, have in zip(a, b, found):
        wanted = Fraction(x) / Fraction(y)
        if not np.isfinite(have):
            assert wanted > Fraction(oracle.DTYPES["float32"][2])
            continue
        below, above = (float(np.nextafter(np.float32(have), np.float32(end))) for end in (-np.inf, np.inf))
        distance = abs(Fraction(have) - wanted)
        for other in (below, above):
            if np.isfinite(other):
                further = abs(Fraction(other) - wanted)
                assert distance < further or (distance == further and int(np.float32(have).view(np.uint32)) % 2 == 0)


@pytest.mark.parametrize(("shape", "dim"), SHAPES_AND_DIMS)
def test_every_shape_and_dim(shape: tuple[int, ...], dim: int, device: str) -> None:
    """Odd shapes along every dim, in every dtype, under the scale of the tensor."""
    for dtype in [DTYPES[len(shape) % 3]] if INTERPRETED else DTYPES:
        check(wild(shape, dtype, dim).to(device), dim)


@pytest.mark.parametrize("dtype", DTYPES)
def test_data_of_one_magnitude(dtype: torch.dtype, device: str) -> None:
    """Where neither scales nor elements are lost, with every block size; and with a seed."""
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((3 if INTERPRETED else 123, 416))).to(dtype).to(device)
    for block_size in [16 << DTYPES.index(dtype)] if INTERPRETED else mx_ops.BLOCK_SIZES:
        check(x, block_size=block_size)
    check(x, seed=SEED)
    check(x.t(), dim=0, seed=-3)
    check(x[:, :37].contiguous(), dim=0, seed=SEED, block_size=32)


@pytest.mark.parametrize("value", [1.0, 2.0**-149, 1e-40, 3e-38, 1e-3, 1.7, 448.0, 1e30, 3.4028234663852886e38, 0.0, -0.0])
def test_any_tensor_scale_that_is_a_number(value: float, device: str) -> None:
    """From 0, which counts as 2^-149, to float32's largest: what is finite stays finite, and the bits are the oracle's."""
    for dtype in DTYPES:
        check(wild((7, 42), dtype, seed=4).to(device), tensor_scale=scale_of(value, device))
    zeros = torch.tensor([[0.0, -0.0] * 20], device=device)
    assert_same(mx_ops.nvfp4_fake_quant(zeros, tensor_scale=scale_of(value, device)), zeros)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -TINY])
def test_a_tensor_scale_that_is_none_makes_everything_nan(value: float, device: str) -> None:
    """Values cannot be looked at without a wait: so they raise nothing, and cannot be overlooked. A NaN's sign is no matter."""
    x, scale = wild((3, 42)).to(device), scale_of(value, device)
    x[0, :16] = 0.0
    assert mx_ops.nvfp4_fake_quant(x, tensor_scale=scale).isnan().all()
    elements, scales = ops.quantize(x, "nvfp4", None, scale)
    assert (scales == 0x7F).all()
    assert not elements.any()
    good = ops.quantize(x, "nvfp4", None, scale_of(1.0, device))
    assert ops.dequantize(*good, "nvfp4", scale).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_scale(dtype: torch.dtype, device: str) -> None:
    """The largest magnitude / 2688, to the bit, of any shape and strides; 0 of nothing and of zeros, and NaN or Inf where there is one."""
    for x in (
        wild((31, 42), dtype),
        wild((2, 3, 5), dtype).permute(2, 0, 1),
        wild((1, 7), dtype).expand(3, 7),
        torch.ones((), dtype=dtype),
    ):
        scale = mx_ops.tensor_scale(x.to(device))
        assert (scale.dtype, tuple(scale.shape), scale.device.type) == (torch.float32, (1,), device)
        assert_same(scale, np.array([oracle.tensor_scale(exact(x))]))
    for shape in ((0,), (3, 0), (4, 5)):
        assert_same(mx_ops.tensor_scale(torch.zeros(shape, dtype=dtype, device=device)), torch.zeros(1))
    x = -torch.ones(3, 42, dtype=dtype, device=device)
    x[1, 1] = -torch.inf
    assert_same(mx_ops.tensor_scale(x), torch.tensor([torch.inf]))
    x[2, 2] = torch.nan
    assert_same(mx_ops.tensor_scale(x), torch.tensor([torch.nan]))


@pytest.mark.parametrize("place", [1024 * 4096 - 1, 1024 * 4096])
def test_every_element_counts_for_the_tensor_scale(place: int, device: str) -> None:
    """The largest magnitude is found on either side of where programs take a second tile."""
    x = torch.ones(1024 * 4096 + 2 * 4096 + 123, dtype=torch.bfloat16, device=device)
    x[place] = -2688
    assert_same(mx_ops.tensor_scale(x), torch.ones(1))


TIES = [1344, 1345, 4032, 6720, 9407, 9408, 2688 * 5 + 1344]  # times 2^-149 / 2688, which is between two float32s


def test_tiny_tensors(device: str) -> None:
    """Where amax / 2688 is subnormal or 0, and a tie between two: the scale is right, and values are not lost."""
    for count in TIES:
        x = torch.tensor([[count, -count, count // 2, 0.0, count // 3, -1.0]], dtype=torch.float64).mul(TINY).float().to(device)
        check(x)
        check(x, seed=SEED)
    values = mx_ops.nvfp4_fake_quant(torch.full((1, 16), 1344 * TINY, device=device))
    assert_same(values, torch.full((1, 16), 1344 * TINY))


def test_every_scale_and_its_neighbours(device: str) -> None:
    """Maxima at each tie between two scales, and just beside it, under tensor scales that are powers of two and that are not."""
    points = oracle.ROWS["mxfp8_e4m3"].finite()
    wanted = np.concatenate([points, (points[1:] + points[:-1]) / 2, [2.0**-10, 2.0**-30, 463.0, 464.0, 1e9]])
    for scale in (2.0**-3, 1.7, 3e-39):
        centers = (wanted * 6 * scale).astype(np.float32)
        amax = np.concatenate([centers, np.nextafter(centers, np.float32(0)), np.nextafter(centers, np.float32(np.inf))])
        x = torch.zeros(len(amax), 16)
        x[:, 3], x[:, 5] = torch.from_numpy(amax), -torch.from_numpy(amax) / 4
        check(x.to(device), tensor_scale=scale_of(scale, device))
    _, scales = ops.quantize(x.to(device), "nvfp4", None, scale_of(scale, device))
    assert len(scales.unique()) == 127


def test_zeros_and_what_is_not_finite(device: str) -> None:
    """A block of zeros has scale 0, any other at least 1; a NaN or an Inf spoils its block alone, under a scale that is given."""
    x = torch.zeros(5, 48, device=device)
    x[1], x[2, 0], x[3, 20], x[4, 47] = -0.0, TINY, torch.nan, -torch.inf
    scale = scale_of(1.0, device)
    elements, scales = ops.quantize(x, "nvfp4", None, scale)
    assert scales.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0x7F, 0], [0, 0, 0x7F]]
    assert (elements[1] == 0x88).all()
    assert not elements[[0, 2, 3, 4]].any()
    expected = torch.where(x == 0, x, 0.0)
    expected[3, 16:32] = expected[4, 32:] = torch.nan
    assert_same(ops.dequantize(elements, scales, "nvfp4", scale), expected)
    for dtype in DTYPES:
        assert_same(mx_ops.nvfp4_fake_quant(x.to(dtype), tensor_scale=scale), expected)
    assert mx_ops.nvfp4_fake_quant(x).isnan().all()  # so is the scale of the whole then


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_under_every_scale(dtype: torch.dtype, device: str) -> None:
    """All bytes of elements under all of scales, whose top bit says nothing: only scale 0x7F is not finite, and products saturate."""
    elements = torch.arange(256, dtype=torch.uint8).expand(256, 256).contiguous().to(device)
    scales = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 32).contiguous().to(device)
    for scale in (1.0, TINY, 0.3, 1e30, oracle.DTYPES["float32"][2]):
        values = ops.dequantize(elements, scales, "nvfp4", scale_of(scale, device), dtype=dtype)
        expected = oracle.dequantize(
            elements.cpu().numpy(), scales.cpu().numpy(), "nvfp4", -1, 16, name_of(dtype), np.float64(np.float32(scale))
        )
        assert_same(values, expected)
        assert_same(values.isfinite(), (scales[:, :1] & 0x7F != 0x7F).expand(256, 512))


def test_python_functions_and_names(device: str) -> None:
    """The functions give the op's bits, codes in torch's own dtypes; every name of the format is the same."""
    x = wild((6, 42), torch.bfloat16).to(device)
    scale = mx_ops.tensor_scale(x)
    elements, scales = mx_ops.quantize(x, "nvfp4", tensor_scale=scale)
    assert (elements.dtype, scales.dtype) == (torch.float4_e2m1fn_x2, torch.float8_e4m3fn)
    assert (tuple(elements.shape), tuple(scales.shape)) == ((6, 21), (6, 3))
    expected = mx_ops.fake_quant(x, "nvfp4")
    assert_same(mx_ops.dequantize(elements, scales, "nvfp4", tensor_scale=scale, dtype=x.dtype), expected)
    for values in (
        mx_ops.nvfp4_fake_quant(x),
        mx_ops.nvfp4_fake_quant(x, tensor_scale=scale.view(())),
        mx_ops.fake_quant(x, "nvfp4", tensor_scale=scale),
        mx_ops.nvfp4_forward(x),
        mx_ops.nvfp4_forward(x, scale),
        ops.fake_quant(x, "nvfp4"),
    ):
        assert_same(values, expected)
    other = scale * 3
    assert_same(mx_ops.nvfp4_forward(x, other), mx_ops.nvfp4_fake_quant(x, tensor_scale=other))
    assert not torch.equal(mx_ops.nvfp4_forward(x, other), expected)
    torch.manual_seed(0)
    first = mx_ops.nvfp4_forward(x, None, True)
    torch.manual_seed(0)
    assert_same(mx_ops.nvfp4_fake_quant(x, stochastic_rounding=True), first)


def test_the_scale_has_no_gradient(device: str) -> None:
    """The gradient of the input passes straight through; none goes by way of the scale, computed or given (test_scale_gradients.py)."""
    x = wild((6, 42)).clamp(-1e3, 1e3).to(device).requires_grad_()
    scale = mx_ops.tensor_scale(x)
    assert not scale.requires_grad
    assert not ops.tensor_scale(x).requires_grad
    for values in (mx_ops.nvfp4_fake_quant(x), mx_ops.nvfp4_fake_quant(x, tensor_scale=scale)):
        (gradient,) = torch.autograd.grad(values, x, torch.arange(42.0, device=device).expand(6, 42))
        assert_same(gradient, torch.arange(42.0).expand(6, 42))


def test_every_slice_under_vmap_has_its_own_scale(device: str) -> None:
    """As in a Python loop: computed, batched or shared."""
    x = wild((3, 4, 20)).to(device)
    scales = torch.stack([mx_ops.tensor_scale(part) for part in x])
    assert_same(torch.vmap(mx_ops.tensor_scale)(x), scales)
    assert len(scales.unique()) == 3
    for dim in (0, -1):
        loop = torch.stack([mx_ops.nvfp4_fake_quant(part, dim=dim) for part in x])
        assert_same(torch.vmap(lambda part: mx_ops.nvfp4_fake_quant(part, dim=dim))(x), loop)
        assert_same(torch.vmap(lambda part: mx_ops.fake_quant(part, "nvfp4", dim=dim))(x), loop)
        assert_same(torch.vmap(lambda part, scale: mx_ops.nvfp4_fake_quant(part, tensor_scale=scale, dim=dim))(x, scales), loop)
        codes = torch.vmap(lambda part, scale: ops.quantize(part, "nvfp4", None, scale, dim=dim))(x, scales)
        assert_same(torch.vmap(lambda e, s, t: ops.dequantize(e, s, "nvfp4", t, dim=dim))(*codes, scales), loop)
    shared = torch.vmap(lambda part: mx_ops.nvfp4_fake_quant(part, tensor_scale=scales[0]))(x)
    assert_same(shared, torch.stack([mx_ops.nvfp4_fake_quant(part, tensor_scale=scales[0]) for part in x]))
    assert_same(torch.vmap(torch.func.grad(lambda part: mx_ops.nvfp4_fake_quant(part).sum()))(x), torch.ones_like(x))


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
@pytest.mark.parametrize(("backend", "dtype"), [("inductor", torch.float32), ("inductor", torch.bfloat16), ("aot_eager", torch.float16)])
def test_compiled_bits(backend: str, dtype: torch.dtype, device: str) -> None:
    """One graph, with a producer whose result is rounded to its dtype, gives eager's bits for every number of rows, ties included."""

    def every(x: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        x = x * 0.75
        scale = mx_ops.tensor_scale(x)
        elements, scales = ops.quantize(x, "nvfp4", None, scale)
        values = ops.dequantize(elements, scales, "nvfp4", scale, dtype=x.dtype)
        # Random numbers take long to compile, and are those of every dtype.
        noisy = mx_ops.nvfp4_fake_quant(x, seed=seed if x.dtype == torch.float32 else None, dim=0) + 1
        return scale, elements, scales, values, mx_ops.nvfp4_fake_quant(x), noisy

    torch.compiler.reset()
    seed = torch.tensor([5], device=device)
    with fresh_cache():
        compiled = torch.compile(every, backend=backend, fullgraph=True)
        for rows in (6, 31):
            x = wild((rows, 42), dtype, seed=rows).to(device)
            torch._dynamo.mark_dynamic(x, 0)
            for have, want in zip(compiled(x, seed), every(x, seed)):
                assert_same(have, want)
        if dtype == torch.float32:
            for count in TIES:
                x = (torch.tensor([[count * 4.0, -4.0] * 21] * 6, dtype=torch.float64) * (TINY / 3)).float().to(device)
                for have, want in zip(compiled(x, seed), every(x, seed)):
                    assert_same(have, want)


class Both(torch.nn.Module):
    """A scale that the caller holds, and one that the op computes."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Codes, their values, and values."""
        scale = ops.tensor_scale(x)
        elements, scales = ops.quantize(x, "nvfp4", None, scale)
        return elements, scales, ops.dequantize(elements, scales, "nvfp4", scale), ops.nvfp4_fake_quant(x, dim=0)


@pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
def test_exported_and_lowered(device: str) -> None:
    """Each call is one node, of dynamic sizes too; and the table of decompositions leaves none."""
    every = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Both(), (wild((6, 42)).to(device),), dynamic_shapes=every)
    nodes = [str(node.target).split(".")[1] for node in program.graph.nodes if str(node.target).startswith("mx.")]
    assert nodes == ["tensor_scale", "quantize", "dequantize", "nvfp4_fake_quant"]
    lowered = program.run_decompositions(mx_ops.decompositions())
    calls = [node.target for node in lowered.graph.nodes if node.op == "call_function"]
    assert {call.namespace for call in calls if isinstance(call, torch._ops.OpOverload)} == {"aten"}
    for shape in ((6, 42), (31, 64), (5, 70)):
        x = wild(shape).to(device)
        for run in (program.module(), lowered.module()):
            for have, want in zip(run(x), Both()(x)):
                assert_same(have, want)


def test_decompositions_hold_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that computes the scale of the whole tensor, where compiled graphs are to hold kernels."""

    def kernel(*tensors: Any, traced: bool) -> bool:
        raise AssertionError("a kernel in a decomposition")

    program = torch.export.export(Both(), (wild((6, 42)),))
    monkeypatch.setattr(mx_ops.config, "lowering", "triton")
    monkeypatch.setattr(library.backends, "kernels_for", lambda device_type: types.SimpleNamespace(tensor_scale=kernel))
    program.run_decompositions(mx_ops.decompositions())


def test_on_a_gpu_the_kernel_divides_under_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's own division is not the nearest float32 there: a graph holds the Triton kernel, also where formulas were asked for."""
    x = torch.ones(4, 64)
    calls = [library.fake_quant(x, "nvfp4"), library.quantize(x, "nvfp4", None, torch.ones(1))]
    for setting, there, here in (("auto", False, True), ("aten", False, True), ("triton", False, False)):
        monkeypatch.setattr(mx_ops.config, "lowering", setting)
        monkeypatch.setattr(library.backends, "kernels_for", lambda device_type: library)
        assert [library.fuses(call) for call in calls] == [there] * 2
        assert library.fuses(library.fake_quant(x, "mxfp8_e4m3")) == (setting != "triton")
        monkeypatch.setattr(library.backends, "kernels_for", lambda device_type: None)
        assert library.fuses(calls[0]) == here
