"""The ops are good citizens of torch: pure, with fakes that tell the truth, and the same bits when compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import INTERPRETED
from helpers import DTYPES, assert_same, wild
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mx_ops

OPS = [
    "quantize",
    "quantize_both",
    "dequantize",
    "fake_quant",
    "mxfp4_fake_quant",
    "mxfp8_fake_quant",
    "nvfp4_fake_quant",
    "tensor_scale",
    "swizzle_scales",
    "unswizzle_scales",
]
Sample = tuple[tuple[Any, ...], dict[str, Any]]


def inputs(device: str) -> Iterator[tuple[Tensor, int]]:
    """Tensors of many layouts, and a dim of each of an even length."""
    yield wild((64,)).to(device), 0
    yield wild((6, 34)).to(device), -1
    yield wild((6, 34), torch.bfloat16).to(device).t(), 0
    yield wild((34, 5), torch.float16).to(device), 0
    yield wild((2, 3, 70)).to(device).permute(2, 0, 1), 0
    yield wild((2, 3, 70)).to(device).permute(0, 2, 1), 1
    yield wild((8, 12, 10))[::2, 1::3, ::5].to(device), 2
    yield wild((1, 34)).to(device).expand(6, 34), 1
    yield wild((6, 1), torch.bfloat16).to(device).expand(6, 34), 1
    yield wild((3, 1, 34, 1)).to(device), 2
    yield torch.empty(0, 34, device=device), 1
    yield torch.empty(3, 0, 2, device=device).permute(1, 2, 0), 0


def sample_inputs(op: str, device: str) -> Iterator[Sample]:
    """Arguments for an op by its name: every layout, with and without what has a default."""
    seed, scale = torch.tensor([7], device=device), torch.tensor([0.37], device=device)
    if op.endswith("swizzle_scales"):
        for shape in ((1, 1), (128, 4), (33, 5), (256, 12), (2, 3, 130, 7), (0, 4), (4, 0), (2, 0, 3, 3)):
            *_, rows, columns = shape
            scales = torch.randint(256, shape, dtype=torch.uint8, device=device)
            for given in (scales, scales.mT.contiguous().mT, scales.expand(2, *shape)):
                yield ((given,), {}) if op == "swizzle_scales" else ((torch.ops.mx.swizzle_scales(given), rows, columns), {})
        return
    for index, (x, dim) in enumerate(inputs(device)):
        more = index % 4 == 0  # for formats that differ from the others in numbers, or in one argument
        if op == "tensor_scale":
            yield (x, "nvfp4") if more else (x,), {}
        elif op == "dequantize":
            for format in ("mxfp4", "mxfp8_e5m2"):
                codes = torch.ops.mx.quantize(x, format, dim=dim)
                yield (*codes, format), {"dim": dim}
                yield (codes[0].contiguous(), codes[1].contiguous(), format), {"dim": dim, "dtype": torch.bfloat16}
            codes = torch.ops.mx.quantize(x, "mxfp8_e4m3", dim=dim, block_size=16)
            yield (*codes, "mxfp8_e4m3", None), {"dim": dim, "block_size": 16, "dtype": torch.float16}
            if more:
                yield (*torch.ops.mx.quantize(x, "mxint8", dim=dim), "mxint8"), {"dim": dim}
                yield (*torch.ops.mx.quantize(x, "nvfp4", None, scale, dim=dim), "nvfp4", scale), {"dim": dim}
        elif op == "quantize_both":
            if x.ndim > 1:
                even = all(length % 2 == 0 for length in x.shape[-2:])
                yield (x, "mxfp4" if even else "mxfp8_e4m3"), {}
                yield (x, "mxfp8_e5m2", seed), {"block_size": 16, "scale_mode": "even"}
                if even and more:
                    yield (x, "nvfp4", None, scale), {}
        elif op == "nvfp4_fake_quant":
            yield ((x, seed, scale), {"dim": dim, "block_size": 32}) if index % 2 else ((x,), {"dim": dim})
        else:
            formats = {"mxfp4_fake_quant": [()], "mxfp8_fake_quant": [("e4m3",), ("e5m2",)]}.get(op, [("mxfp4",), ("mxfp8_e4m3",)])
            for format in formats:
                yield (x, *format), {"dim": dim}
                yield (x, *format, seed), {"dim": dim, "block_size": 16, "scale_mode": "even"}
            if more and op in ("quantize", "fake_quant"):
                yield (x, "mxint8"), {"dim": dim}
                yield (x, "nvfp4", seed, scale), {"dim": dim}


def packet(op: str) -> torch._ops.OpOverload:
    """An op by its name."""
    return getattr(torch.ops.mx, op).default


def leaves(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One or several outputs as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def test_these_are_all_the_ops() -> None:
    """No op of the namespace is missing from the tests below."""
    names = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("mx::")}
    assert names == {f"mx::{op}" for op in OPS}


# What torch.library.opcheck does: the last compiles, which takes a second a sample, where the others take milliseconds.
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, device: str) -> None:
    """Schemas, autograd and fakes pass torch.library.opcheck, with inputs that require gradients and that do not.

    So does AOT dispatch: for each op and, over all of them, with each layout, with seeds and without.
    """
    samples = list(sample_inputs(op, device))
    for index, (args, kwargs) in enumerate(samples):
        if op.endswith("fake_quant") and index % 3 == 0 and args[0].numel():
            args = (args[0].detach().clone(memory_format=torch.preserve_format).requires_grad_(), *args[1:])
        checks = CHECKS if (index + OPS.index(op)) % 7 == 0 else () if INTERPRETED else CHECKS[:-1]
        result = torch.library.opcheck(packet(op), args, kwargs, test_utils=checks)
        assert result == dict.fromkeys(checks, "SUCCESS"), index
    assert len(samples) >= 12


@pytest.mark.skipif(INTERPRETED, reason="what an op allocates is no matter of its kernel")
@pytest.mark.parametrize("op", OPS)
def test_fakes_tell_the_truth(op: str, device: str) -> None:
    """Shapes, dtypes, strides and devices of fake and meta outputs are those of real ones, for every layout."""
    mode = FakeTensorMode()
    for args, kwargs in sample_inputs(op, device):
        real = leaves(packet(op)(*args, **kwargs))
        with mode:
            fake_args = [mode.from_tensor(arg) if isinstance(arg, Tensor) else arg for arg in args]
            fake = leaves(packet(op)(*fake_args, **kwargs))
        meta_args = [
            torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device="meta") if isinstance(arg, Tensor) else arg for arg in args
        ]
        meta = leaves(packet(op)(*meta_args, **kwargs))
        assert len(real) == len(fake) == len(meta)
        for have, fake_one, meta_one in zip(real, fake, meta):
            for other in (fake_one, meta_one):
                assert (other.shape, other.dtype) == (have.shape, have.dtype)
                if have.numel():  # torch.empty_like itself gives an empty tensor other strides on meta than elsewhere
                    assert other.stride() == have.stride()
                assert other.storage_offset() == have.storage_offset() == 0
            assert fake_one.device == have.device
            assert meta_one.device.type == "meta"


@pytest.mark.skipif(INTERPRETED, reason="what an op allocates is no matter of its kernel")
@pytest.mark.parametrize("op", OPS)
def test_outputs_are_fresh(op: str, device: str) -> None:
    """Outputs share memory neither with inputs nor with each other, and a second call gives the same bits in new memory."""
    for args, kwargs in sample_inputs(op, device):
        first, second = leaves(packet(op)(*args, **kwargs)), leaves(packet(op)(*args, **kwargs))
        for one, other in zip(first, second):
            assert_same(one, other)
        outputs, given = ({t.untyped_storage().data_ptr() for t in ts if isinstance(t, Tensor)} for ts in ((*first, *second), args))
        if first[0].numel():
            assert len(outputs) == 2 * len(first)
            assert not outputs & given


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_calls_give_the_same_bits(dtype: torch.dtype, device: str) -> None:
    """Under torch.compile, in one graph, ops and functions give the bits of eager, forward and backward."""

    def chain(x: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        elements, scales = torch.ops.mx.quantize(x, "mxfp4", dim=0)
        values = torch.ops.mx.dequantize(elements, scales, "mxfp4", dim=0, dtype=x.dtype)
        noisy = mx_ops.fake_quant(x, "mxfp8_e4m3", seed=mx_ops.fold_seed(seed, 3))
        return elements, scales, values, noisy, mx_ops.mxfp8_fake_quant(x.t(), "e5m2")

    torch.compiler.reset()
    x, seed = wild((34, 42), dtype).to(device).requires_grad_(), torch.tensor([9], device=device)
    expected, compiled = chain(x, seed), torch.compile(chain, fullgraph=True)(x, seed)
    for have, want in zip(compiled, expected):
        assert_same(have, want)
        assert have.stride() == want.stride()
    for outputs in (compiled, expected):
        (gradient,) = torch.autograd.grad(outputs[3].sum() + outputs[4].sum(), x)
        assert_same(gradient, torch.full((34, 42), 2.0))
