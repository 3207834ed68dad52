"""Errors are plain and early: the type and the message say what is wrong, in eager, under fake tensors, in export and in compile."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mx_ops

ops = torch.ops.mx


def x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An input of this shape, 4 by 64 unless given."""
    return torch.ones(shape or (4, 64), dtype=dtype)


def u8(*shape: int) -> Tensor:
    """Bytes of this shape."""
    return torch.ones(shape, dtype=torch.uint8)


def other_device(tensor: Tensor) -> Tensor:
    """The tensor on another device than the rest."""
    return tensor.to("meta")


FORMATS_KNOWN = "'mxfp4', 'mxfp8_e4m3', 'mxfp8_e5m2', 'mxfp6_e2m3', 'mxfp6_e3m2', 'mxint8', 'nvfp4'"
SEED = torch.zeros(1, dtype=torch.int64)

# Calls by name: each takes no arguments, and makes its tensors itself, so that it can be made under a FakeTensorMode.
Case = tuple[Callable[[], Any], type[Exception], str]
QUANTIZERS: dict[str, Callable[..., Any]] = {
    "op quantize": ops.quantize,
    "op fake_quant": ops.fake_quant,
    "quantize": mx_ops.quantize,
    "fake_quant": mx_ops.fake_quant,
}
CASES: dict[str, Case] = {}


def add(name: str, function: Callable[[], Any], error: type[Exception], fragment: str) -> None:
    """A call that must fail, with the error and a part of the message."""
    assert name not in CASES
    CASES[name] = (function, error, fragment)


for name, q in QUANTIZERS.items():
    add(f"{name}: format", lambda q=q: q(x(), "mxfp5"), ValueError, f"unknown format 'mxfp5'; the formats are {FORMATS_KNOWN}")
    add(
        f"{name}: scale mode",
        lambda q=q: q(x(), "mxfp4", scale_mode="round"),
        ValueError,
        "unknown scale mode 'round'; the scale modes are 'floor', 'ceil', 'rceil', 'even'",
    )
    for size in (0, 8, 33, 512, -32):
        add(
            f"{name}: block size {size}",
            lambda q=q, size=size: q(x(), "mxfp4", block_size=size),
            ValueError,
            f"unknown block size {size}; the block sizes are 16, 32, 64, 128, 256",
        )
    for dim in (2, -3, 7):
        add(
            f"{name}: dim {dim}",
            lambda q=q, dim=dim: q(x(), "mxfp4", dim=dim),
            IndexError,
            f"dim {dim} is out of range for a tensor of rank 2",
        )
    add(f"{name}: rank 0", lambda q=q: q(torch.tensor(1.0), "mxfp4"), IndexError, "rank 0")
    for dtype in (torch.float64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e8m0fnu):
        add(
            f"{name}: {dtype}",
            lambda q=q, dtype=dtype: q(torch.zeros(4, 64, dtype=dtype), "mxfp4"),
            TypeError,
            f"input is {dtype}; it may be torch.float32, torch.bfloat16, torch.float16",
        )
    add(
        f"{name}: seed dtype",
        lambda q=q: q(x(), "mxfp4", seed=torch.zeros(1, dtype=torch.int32)),
        ValueError,
        "seed is torch.int32 of shape (1,)",
    )
    add(
        f"{name}: seed size",
        lambda q=q: q(x(), "mxfp4", seed=torch.zeros(2, dtype=torch.int64)),
        ValueError,
        "seed is torch.int64 of shape (2,)",
    )
    add(
        f"{name}: no seed in seed",
        lambda q=q: q(x(), "mxfp4", seed=torch.zeros(0, dtype=torch.int64)),
        ValueError,
        "it must be one int64 on the input's device",
    )
    add(
        f"{name}: seed device",
        lambda q=q: q(x(), "mxfp4", seed=torch.zeros(1, dtype=torch.int64, device="meta")),
        ValueError,
        "it must be one int64 on the input's device",
    )
    add(
        f"{name}: tensor_scale",
        lambda q=q: q(x(), "mxfp4", tensor_scale=torch.ones(1)),
        ValueError,
        "mxfp4 has no scale for the whole tensor",
    )

    for mode in ("floor", "up"):
        add(
            f"{name}: nvfp4 with scale mode {mode}",
            lambda q=q, mode=mode: q(x(), "nvfp4", tensor_scale=torch.ones(1), scale_mode=mode),
            ValueError,
            f"nvfp4 has one rule for its scales: leave scale_mode out (it is {mode!r})",
        )
    for scale, found in (
        (lambda: torch.ones(1, dtype=torch.float64), "torch.float64 of shape (1,) on cpu"),
        (lambda: torch.ones(1, dtype=torch.bfloat16), "torch.bfloat16 of shape (1,) on cpu"),
        (lambda: torch.ones(2), "torch.float32 of shape (2,) on cpu"),
        (lambda: torch.ones(0), "torch.float32 of shape (0,) on cpu"),
        (lambda: torch.ones(1, device="meta"), "torch.float32 of shape (1,) on meta"),
    ):
        add(
            f"{name}: nvfp4 with a tensor_scale that is {found}",
            lambda q=q, scale=scale: q(x(), "nvfp4", tensor_scale=scale()),
            ValueError,
            f"tensor_scale is {found}; it must be one float32 on the device of the other tensors, cpu",
        )
    if "fake_quant" not in name:
        add(
            f"{name}: nvfp4 without a tensor_scale",
            lambda q=q: q(x(), "nvfp4"),
            ValueError,
            "nvfp4 has a scale for the whole tensor, which quantize and dequantize do not keep: give both the same tensor_scale",
        )

for name, q in (("op", ops.nvfp4_fake_quant), ("function", mx_ops.nvfp4_fake_quant)):
    add(f"nvfp4 {name}: dtype", lambda q=q: q(x(dtype=torch.float64)), TypeError, "input is torch.float64")
    add(f"nvfp4 {name}: rank 0", lambda q=q: q(torch.tensor(1.0)), IndexError, "rank 0")
    add(f"nvfp4 {name}: block size", lambda q=q: q(x(), block_size=31), ValueError, "unknown block size 31")
    add(f"nvfp4 {name}: tensor_scale", lambda q=q: q(x(), tensor_scale=torch.ones(3)), ValueError, "torch.float32 of shape (3,) on cpu")
for name, q in (("op tensor_scale", ops.tensor_scale), ("tensor_scale", mx_ops.tensor_scale)):
    add(f"{name}: dtype", lambda q=q: q(x(dtype=torch.float64)), TypeError, "input is torch.float64")
    add(f"{name}: format", lambda q=q: q(x(), "mxfp5"), ValueError, "unknown format 'mxfp5'")
    add(f"{name}: format without one", lambda q=q: q(x(), "mxfp4"), ValueError, "mxfp4 has no scale for the whole tensor")

NO_INT64 = "is an int outside int64; it may be from -2**63 to 2**63 - 1"
NO_INT = "it may be an int, or an int64 tensor of one element"
for name, q in (
    ("quantize", lambda **options: mx_ops.quantize(x(), "mxfp4", **options)),
    ("fake_quant", lambda **options: mx_ops.fake_quant(x(), "mxfp4", **options)),
    ("mxfp4 function", lambda **options: mx_ops.mxfp4_fake_quant(x(), **options)),
    ("mxfp8 function", lambda **options: mx_ops.mxfp8_fake_quant(x(), **options)),
):
    for seed in (2**63, -(2**63) - 1, np.uint64(2**63)):
        add(f"{name}: seed {seed!r}", lambda q=q, seed=seed: q(seed=seed), ValueError, f"seed {NO_INT64}")
    for seed in (3.5, np.float64(3), "3", [3], np.array([3])):
        add(f"{name}: seed {seed!r}", lambda q=q, seed=seed: q(seed=seed), TypeError, f"seed is of type {type(seed).__name__}; {NO_INT}")


def fold(*values: Any) -> Tensor:
    """Fold values into a seed."""
    return mx_ops.fold_seed(torch.zeros(1, dtype=torch.int64), *values)


for value in (2**63, -(2**63) - 1, np.uint64(2**63)):
    add(f"fold_seed: value {value!r}", lambda value=value: fold(1, value), ValueError, f"a value {NO_INT64}")
for value in (3.5, np.float64(3), "3", None, [3], np.array([3])):
    add(
        f"fold_seed: value {value!r}", lambda value=value: fold(1, value), TypeError, f"a value is of type {type(value).__name__}; {NO_INT}"
    )
for dtype in (torch.int32, torch.bool, torch.float32):
    add(
        f"fold_seed: value of {dtype}",
        lambda dtype=dtype: fold(1, torch.zeros(1, dtype=dtype)),
        TypeError,
        f"a value is {dtype}; it must be an int64 tensor",
    )
for shape in ((2,), (0,), (1, 3)):
    add(
        f"fold_seed: value of shape {shape}",
        lambda shape=shape: fold(1, torch.zeros(shape, dtype=torch.int64)),
        ValueError,
        f"a value is of shape {shape}; it must have one element",
    )
for shape in ((), (1,)):  # one of no dims would pass for a number
    add(
        f"fold_seed: value of shape {shape} elsewhere",
        lambda shape=shape: mx_ops.fold_seed(other_device(torch.zeros(1, dtype=torch.int64)), torch.zeros(shape, dtype=torch.int64)),
        ValueError,
        "a value is on cpu, seed on meta: move them to one device",
    )

for name, q in (("op quantize", ops.quantize), ("quantize", mx_ops.quantize)):
    for length in (1, 31, 33):
        add(
            f"{name}: mxfp4 of odd length {length}",
            lambda q=q, length=length: q(x(4, length), "mxfp4"),
            ValueError,
            f"mxfp4 packs 2 elements a byte, so the length {length} of dim 1 must be even",
        )
    add(
        f"{name}: mxfp4 of odd length along dim 0",
        lambda q=q: q(x(5, 64), "mxfp4", dim=0),
        ValueError,
        "the length 5 of dim 0 must be even",
    )

for name, q in (("op", ops.mxfp4_fake_quant), ("function", mx_ops.mxfp4_fake_quant), ("mxfp4_forward", mx_ops.mxfp4_forward)):
    add(f"mxfp4 {name}: dtype", lambda q=q: q(x(dtype=torch.float64)), TypeError, "input is torch.float64")
    add(f"mxfp4 {name}: rank 0", lambda q=q: q(torch.tensor(1.0)), IndexError, "rank 0")
for name, q in (("op", ops.mxfp4_fake_quant), ("function", mx_ops.mxfp4_fake_quant)):
    add(f"mxfp4 {name}: scale mode", lambda q=q: q(x(), scale_mode="up"), ValueError, "unknown scale mode 'up'")
    add(f"mxfp4 {name}: block size", lambda q=q: q(x(), block_size=31), ValueError, "unknown block size 31")
    add(f"mxfp4 {name}: dim", lambda q=q: q(x(), dim=2), IndexError, "dim 2 is out of range")
    add(f"mxfp4 {name}: seed", lambda q=q: q(x(), seed=torch.zeros(1)), ValueError, "seed is torch.float32")
for name, q in (
    ("op", ops.mxfp8_fake_quant),
    ("function", mx_ops.mxfp8_fake_quant),
    ("mxfp8_forward", mx_ops.mxfp8_forward),
    ("fake_quant_mxfp8", mx_ops.fake_quant_mxfp8),
):
    for format in ("e3m4", "mxfp8_e4m3"):
        add(
            f"mxfp8 {name}: format {format}",
            lambda q=q, format=format: q(x(), format=format),
            ValueError,
            f"{format!r}; the formats are 'e4m3', 'e5m2'",
        )
    add(f"mxfp8 {name}: dtype", lambda q=q: q(x(dtype=torch.float64)), TypeError, "input is torch.float64")

for name, d in (("op dequantize", ops.dequantize), ("dequantize", mx_ops.dequantize)):
    add(f"{name}: format", lambda d=d: d(u8(4, 32), u8(4, 1), "fp4"), ValueError, f"unknown format 'fp4'; the formats are {FORMATS_KNOWN}")
    add(f"{name}: block size", lambda d=d: d(u8(4, 32), u8(4, 1), "mxfp4", block_size=4), ValueError, "unknown block size 4")
    add(f"{name}: dim", lambda d=d: d(u8(4, 32), u8(4, 1), "mxfp8_e4m3", dim=2), IndexError, "dim 2 is out of range")
    add(f"{name}: rank 0", lambda d=d: d(u8(), u8(), "mxfp8_e4m3"), IndexError, "rank 0")
    for dtype in (torch.float64, torch.int32, torch.float8_e4m3fn):
        add(
            f"{name}: to {dtype}",
            lambda d=d, dtype=dtype: d(u8(4, 32), u8(4, 1), "mxfp8_e4m3", dtype=dtype),
            TypeError,
            f"dtype is {dtype}; it may be torch.float32, torch.bfloat16, torch.float16",
        )
    for shape in ((4, 2), (4,), (1, 1), (4, 1, 1), (4, 0), (1, 4)):
        add(
            f"{name}: scales of shape {shape}",
            lambda d=d, shape=shape: d(u8(4, 32), u8(*shape), "mxfp8_e4m3"),
            ValueError,
            f"scales of shape {shape} do not fit elements of shape (4, 32)",
        )
    add(
        f"{name}: scales of other blocks",
        lambda d=d: d(u8(4, 32), u8(4, 2), "mxfp4", block_size=16),
        ValueError,
        "has scales of shape (4, 4)",
    )
    add(
        f"{name}: scales along another dim",
        lambda d=d: d(u8(4, 32), u8(4, 1), "mxfp8_e4m3", dim=0),
        ValueError,
        "has scales of shape (1, 32)",
    )
    add(
        f"{name}: scales elsewhere",
        lambda d=d: d(u8(4, 32), other_device(u8(4, 1)), "mxfp8_e4m3"),
        ValueError,
        "scales are on meta, elements on cpu: move them to one device",
    )
    add(
        f"{name}: tensor_scale",
        lambda d=d: d(u8(4, 32), u8(4, 1), "mxfp8_e4m3", tensor_scale=torch.ones(1)),
        ValueError,
        "mxfp8_e4m3 has no scale for the whole tensor",
    )

    add(
        f"{name}: nvfp4 without a tensor_scale",
        lambda d=d: d(u8(4, 32), u8(4, 4), "nvfp4"),
        ValueError,
        "nvfp4 has a scale for the whole tensor",
    )
    add(
        f"{name}: nvfp4 with two tensor scales",
        lambda d=d: d(u8(4, 32), u8(4, 4), "nvfp4", tensor_scale=torch.ones(2)),
        ValueError,
        "tensor_scale is torch.float32 of shape (2,) on cpu; it must be one float32",
    )

for dtype in (torch.float8_e4m3fn, torch.int8, torch.float32):
    add(
        f"op dequantize: elements of {dtype}",
        lambda dtype=dtype: ops.dequantize(torch.zeros(4, 32, dtype=dtype), u8(4, 1), "mxfp8_e4m3"),
        TypeError,
        f"elements are {dtype}; the op takes bytes: use elements.view(torch.uint8), or mx_ops.dequantize",
    )
add(
    "op dequantize: scales in e8m0",
    lambda: ops.dequantize(u8(4, 32), u8(4, 1).view(torch.float8_e8m0fnu), "mxfp8_e4m3"),
    TypeError,
    "scales are torch.float8_e8m0fnu; the op takes bytes",
)
add(
    "dequantize: elements of another format",
    lambda: mx_ops.dequantize(u8(4, 32).view(torch.float8_e5m2), u8(4, 1), "mxfp8_e4m3"),
    TypeError,
    "elements of mxfp8_e4m3 are torch.float8_e5m2; they may be torch.float8_e4m3fn or torch.uint8",
)
add(
    "dequantize: elements of int8",
    lambda: mx_ops.dequantize(torch.zeros(4, 32, dtype=torch.int8), u8(4, 1), "mxfp4"),
    TypeError,
    "elements of mxfp4 are torch.int8; they may be torch.float4_e2m1fn_x2 or torch.uint8",
)
add(
    "dequantize: elements of FP6",
    lambda: mx_ops.dequantize(u8(4, 32).view(torch.float8_e4m3fn), u8(4, 1), "mxfp6_e2m3"),
    TypeError,
    "elements of mxfp6_e2m3 are torch.float8_e4m3fn; they may be torch.uint8",
)
add(
    "dequantize: scales of float32",
    lambda: mx_ops.dequantize(u8(4, 32), x(4, 1), "mxfp8_e4m3"),
    TypeError,
    "scales are torch.float32; they may be torch.float8_e8m0fnu or torch.uint8",
)


add(
    "dequantize: scales of nvfp4 in e8m0",
    lambda: mx_ops.dequantize(u8(4, 32), u8(4, 4).view(torch.float8_e8m0fnu), "nvfp4", tensor_scale=torch.ones(1)),
    TypeError,
    "scales are torch.float8_e8m0fnu; they may be torch.float8_e4m3fn or torch.uint8",
)


# What is no tensor, of every tensor argument of every function: the first part of each name is what the error calls the argument.
ONE = torch.ones(1)
TENSORS: dict[str, Callable[[Any], Any]] = {
    "input, quantize": lambda t: mx_ops.quantize(t, "mxfp4"),
    "input, quantize_both": lambda t: mx_ops.quantize_both(t, "mxfp4"),
    "input, fake_quant": lambda t: mx_ops.fake_quant(t, "mxfp4"),
    "input, fake_quant with a seed": lambda t: mx_ops.fake_quant(t, "mxfp4", seed=7),
    "input, fake_quant with a drawn seed": lambda t: mx_ops.fake_quant(t, "mxfp4", stochastic_rounding=True),
    "input, mxfp4_fake_quant": mx_ops.mxfp4_fake_quant,
    "input, mxfp8_fake_quant": mx_ops.mxfp8_fake_quant,
    "input, nvfp4_fake_quant": mx_ops.nvfp4_fake_quant,
    "input, mxfp4_forward": mx_ops.mxfp4_forward,
    "input, fake_quant_mxfp8": lambda t: mx_ops.fake_quant_mxfp8(t, True),
    "input, tensor_scale": mx_ops.tensor_scale,
    "elements of mxfp4, dequantize": lambda t: mx_ops.dequantize(t, u8(4, 1), "mxfp4"),
    "scales, dequantize": lambda t: mx_ops.dequantize(u8(4, 32), t, "mxfp4"),
    "scales, swizzle_scales": mx_ops.swizzle_scales,
    "swizzled scales, unswizzle_scales": lambda t: mx_ops.unswizzle_scales(t, 2, 3),
    "tensor_scale, quantize": lambda t: mx_ops.quantize(x(), "nvfp4", tensor_scale=t),
    "tensor_scale, quantize_both": lambda t: mx_ops.quantize_both(x(), "nvfp4", tensor_scale=t),
    "tensor_scale, dequantize": lambda t: mx_ops.dequantize(u8(4, 32), u8(4, 4), "nvfp4", tensor_scale=t),
    "tensor_scale, fake_quant": lambda t: mx_ops.fake_quant(x(), "nvfp4", tensor_scale=t),
    "tensor_scale, nvfp4_fake_quant": lambda t: mx_ops.nvfp4_fake_quant(x(), tensor_scale=t),
}
for name, q in TENSORS.items():
    argument = name.split(",")[0]
    for value in ([1.0], 0.5, np.ones((4, 64), dtype=np.float32), *([None] if argument != "tensor_scale" else [])):
        kind = type(value).__name__
        add(f"{name}: {kind}", lambda q=q, value=value: q(value), TypeError, f"{argument} must be a tensor, not of type {kind}")

DRAWING: dict[str, Callable[..., Any]] = {
    "quantize": mx_ops.quantize,
    "quantize_both": mx_ops.quantize_both,
    "fake_quant": mx_ops.fake_quant,
    "mxfp4_fake_quant": lambda x, _, *args, **options: mx_ops.mxfp4_fake_quant(x, *args, **options),
    "mxfp8_fake_quant": lambda x, _, *args, **options: mx_ops.mxfp8_fake_quant(x, "e4m3", *args, **options),
    "nvfp4_fake_quant": lambda x, _, *args, **options: mx_ops.nvfp4_fake_quant(x, *args, **options),
}
for name, q in DRAWING.items():
    for seed in (True, False, np.True_):
        add(f"{name}: seed {seed!r}", lambda q=q, seed=seed: q(x(), "mxfp4", seed=seed), TypeError, f"seed is of type bool; {NO_INT}")
    for seed in (7, np.int64(7), SEED):  # where the ops have their seed the functions have another argument
        add(
            f"{name}: seed in place of stochastic_rounding, {seed!r}",
            lambda q=q, seed=seed: q(x(), "mxfp4", seed),
            TypeError,
            f"stochastic_rounding is of type {type(seed).__name__}; it may be True or False: give a seed by its name, as seed=...",
        )


def test_there_are_cases() -> None:
    """The loops above made what they say."""
    assert len(CASES) > 200


def test_a_case_without_its_mistake_passes() -> None:
    """The calls above fail of one mistake each: without one they run."""
    for q in QUANTIZERS.values():
        q(x(), "mxfp4", seed=SEED, dim=-1, block_size=32, scale_mode="floor")
    for d in (ops.dequantize, mx_ops.dequantize):
        d(u8(4, 32), u8(4, 1), "mxfp8_e4m3", dtype=torch.float16)


@pytest.mark.parametrize("name", CASES)
def test_error(name: str) -> None:
    """The type and the message of the error, in eager and under a FakeTensorMode."""
    function, error, fragment = CASES[name]
    with pytest.raises(error, match=re.escape(fragment)) as raised:
        function()
    assert type(raised.value) is error
    with FakeTensorMode(), pytest.raises(error, match=re.escape(fragment)) as raised:
        function()
    assert type(raised.value) is error


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "coo": (lambda t: t.to_sparse(), "{}: tensors of layout torch.sparse_coo are not taken; use .to_dense()"),
    "csr": (lambda t: t.to_sparse_csr(), "{}: tensors of layout torch.sparse_csr are not taken; use .to_dense()"),
    "csc": (lambda t: t.to_sparse_csc(), "{}: tensors of layout torch.sparse_csc are not taken; use .to_dense()"),
    "bsr": (lambda t: t.to_sparse_bsr((1, 1)), "{}: tensors of layout torch.sparse_bsr are not taken; use .to_dense()"),
    "bsc": (lambda t: t.to_sparse_bsc((1, 1)), "{}: tensors of layout torch.sparse_bsc are not taken; use .to_dense()"),
    "mkldnn": (lambda t: t.to_mkldnn(), "{}: tensors of layout torch._mkldnn are not taken; use .to_dense()"),
    "jagged": (lambda t: torch.nested.nested_tensor([t, t[:2]], layout=torch.jagged), "{}: nested tensors are not taken; use .values(), "),
    "nested": (lambda t: torch.nested.nested_tensor([t, t[:2]]), "{}: nested tensors are not taken; use .values(), "),
}
TAKERS: dict[str, dict[str, Callable[[Tensor], Any]]] = {  # by the dtype and the shape of what they are given
    "values": {
        "op quantize": lambda t: ops.quantize(t, "mxfp4"),
        "op quantize_both": lambda t: ops.quantize_both(t, "mxfp8_e4m3"),
        "op fake_quant": lambda t: ops.fake_quant(t, "mxfp4"),
        "op mxfp4_fake_quant": ops.mxfp4_fake_quant,
        "op mxfp8_fake_quant": ops.mxfp8_fake_quant,
        "op nvfp4_fake_quant": ops.nvfp4_fake_quant,
        "op tensor_scale": ops.tensor_scale,
        "quantize": lambda t: mx_ops.quantize(t, "mxfp4"),
        "fake_quant": lambda t: mx_ops.fake_quant(t, "mxfp4", stochastic_rounding=True),
        "tensor_scale": mx_ops.tensor_scale,
    },
    "scale": {
        "op quantize": lambda t: ops.quantize(x(), "nvfp4", None, t),
        "op fake_quant": lambda t: ops.fake_quant(x(), "nvfp4", None, t),
        "op dequantize": lambda t: ops.dequantize(u8(4, 32), u8(4, 4), "nvfp4", t),
        "nvfp4_fake_quant": lambda t: mx_ops.nvfp4_fake_quant(x(), tensor_scale=t),
    },
    "seed": {
        "op quantize": lambda t: ops.quantize(x(), "mxfp4", t),
        "fake_quant": lambda t: mx_ops.fake_quant(x(), "mxfp4", seed=t),
    },
    "bytes": {
        "op dequantize elements": lambda t: ops.dequantize(t, u8(4, 2), "mxfp8_e4m3"),
        "dequantize elements": lambda t: mx_ops.dequantize(t, u8(4, 2), "mxfp8_e4m3"),
        "dequantize scales": lambda t: mx_ops.dequantize(u8(4, 64), t, "mxfp8_e4m3", block_size=16),
        "op swizzle_scales": ops.swizzle_scales,
        "op unswizzle_scales": lambda t: ops.unswizzle_scales(t, 4, 64),
        "swizzle_scales": mx_ops.swizzle_scales,
        "unswizzle_scales": lambda t: mx_ops.unswizzle_scales(t, 4, 64),
    },
}
GIVEN = {"values": x(), "scale": torch.ones(1, 1), "seed": torch.ones(1, 1, dtype=torch.int64), "bytes": u8(4, 64)}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning", "ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("taken", "layout"),
    [(taken, layout) for taken, layout in itertools.product(TAKERS, LAYOUTS) if layout != "mkldnn" or taken == "values"],  # of matrices
)
def test_what_has_no_strides_is_refused(taken: str, layout: str) -> None:
    """Sparse, nested and oneDNN's tensors, as any argument: the error says what to give, whether gradients are on or not."""
    make, message = LAYOUTS[layout]
    given = make(GIVEN[taken])
    for name, function in TAKERS[taken].items():
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode(), pytest.raises(TypeError) as raised:
                function(given)
            argument = str(raised.value).split(":")[0]
            assert message.format(argument) in str(raised.value), (name, mode)
            assert argument in (
                "input",
                "tensor_scale",
                "seed",
                "elements",
                "elements of mxfp8_e4m3",
                "scales",
                "swizzled",
                "swizzled scales",
            )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_what_the_errors_of_nested_tensors_tell_works() -> None:
    """The rows of a jagged tensor are quantized as its parts are."""
    parts = [x(3, 64), x(5, 64) * 3]
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    values = mx_ops.fake_quant(jagged.values(), "mxfp4")
    assert torch.equal(values, torch.cat([mx_ops.fake_quant(part, "mxfp4") for part in parts]))
    for nested in (jagged, torch.nested.nested_tensor(parts)):
        assert torch.equal(mx_ops.fake_quant(nested.to_padded_tensor(0.0), "mxfp4")[1], mx_ops.fake_quant(parts[1], "mxfp4"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantized_dtypes_are_refused() -> None:
    """Those of torch, of which a view as bytes would crash the process."""
    for dtype in (torch.qint8, torch.quint8):
        given = torch.quantize_per_tensor(x(), 0.1, 0, dtype)
        for function in TAKERS["values"].values():
            with pytest.raises(TypeError, match=f"input is {dtype}; it may be"):
                function(given)
        for function in TAKERS["bytes"].values():
            with pytest.raises(TypeError, match=f"are {dtype}; "):
                function(given)


def test_errors_on_a_device(device: str) -> None:
    """A seed or scales on the CPU do not fit an input on a GPU, and an input on the CPU no seed elsewhere."""
    elsewhere = "cpu" if device != "cpu" else "meta"
    with pytest.raises(ValueError, match="must be one int64 on the input's device"):
        ops.fake_quant(x().to(device), "mxfp4", torch.zeros(1, dtype=torch.int64, device=elsewhere))
    with pytest.raises(ValueError, match="move them to one device"):
        ops.dequantize(u8(4, 32).to(device), u8(4, 1).to(elsewhere), "mxfp8_e4m3")


def test_fold_seed_errors() -> None:
    """fold_seed takes one int64."""
    for wrong in (42, torch.zeros(1), torch.zeros(1, dtype=torch.int32)):
        with pytest.raises(TypeError, match="it must be an int64 tensor"):
            mx_ops.fold_seed(wrong, 1)
    with pytest.raises(ValueError, match="must have one element"):
        mx_ops.fold_seed(torch.zeros(2, dtype=torch.int64), 1)


class Model(torch.nn.Module):
    """A call of a case's kind, on an input that is traced."""

    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, tensor: Tensor) -> Any:
        """Call it."""
        return self.function(tensor)


TRACED: dict[str, tuple[Callable[[Tensor], Any], Tensor, type[Exception], str]] = {
    "format": (lambda t: mx_ops.fake_quant(t, "mxfp5"), x(), ValueError, "unknown format 'mxfp5'"),
    "scale mode": (lambda t: mx_ops.quantize(t, "mxfp4", scale_mode="up"), x(), ValueError, "unknown scale mode 'up'"),
    "block size": (lambda t: mx_ops.fake_quant(t, "mxfp4", block_size=8), x(), ValueError, "unknown block size 8"),
    "odd length": (lambda t: mx_ops.quantize(t, "mxfp4"), x(4, 33), ValueError, "the length 33 of dim 1 must be even"),
    "seed": (lambda t: ops.fake_quant(t, "mxfp4", t), x(), ValueError, "it must be one int64"),
    "bool seed": (lambda t: mx_ops.fake_quant(t, "mxfp4", seed=True), x(), TypeError, f"seed is of type bool; {NO_INT}"),
    "seed without its name": (lambda t: mx_ops.fake_quant(t, "mxfp4", 7), x(), TypeError, "give a seed by its name, as seed=..."),
    "no tensor": (lambda t: mx_ops.fake_quant([t], "mxfp4"), x(), TypeError, "input must be a tensor, not of type list"),
    "int seed": (lambda t: mx_ops.fake_quant(t, "mxfp4", seed=2**63), x(), ValueError, f"seed {NO_INT64}"),
    "no seed": (lambda t: mx_ops.fake_quant(t, "mxfp4", seed=3.5), x(), TypeError, f"seed is of type float; {NO_INT}"),
    "value": (lambda t: mx_ops.fold_seed(t, -(2**63) - 1), SEED, ValueError, f"a value {NO_INT64}"),
    "no value": (lambda t: mx_ops.fold_seed(t, 3.5), SEED, TypeError, f"a value is of type float; {NO_INT}"),
    "values": (lambda t: mx_ops.fold_seed(t, torch.cat([t, t])), SEED, ValueError, "a value is of shape (2,)"),
    "scales": (lambda t: ops.dequantize(t, t, "mxfp8_e4m3"), u8(4, 64), ValueError, "scales of shape (4, 64) do not fit"),
    "dtype": (lambda t: mx_ops.fake_quant(t, "mxfp4"), x(dtype=torch.float64), TypeError, "input is torch.float64"),
    "to dtype": (lambda t: ops.dequantize(t, t, "mxfp4", dtype=torch.float64), u8(4, 64), TypeError, "dtype is torch.float64"),
    "dim": (lambda t: mx_ops.fake_quant(t, "mxfp4", dim=2), x(), IndexError, "dim 2 is out of range"),
    "no tensor_scale": (lambda t: mx_ops.quantize(t, "nvfp4"), x(), ValueError, "nvfp4 has a scale for the whole tensor"),
    "tensor_scale": (lambda t: ops.fake_quant(t, "nvfp4", None, t), x(), ValueError, "it must be one float32"),
    "rank 0": (lambda t: mx_ops.fake_quant(t, "mxfp4"), torch.tensor(1.0), IndexError, "rank 0"),
}


@pytest.mark.parametrize("name", TRACED)
def test_error_in_export(name: str) -> None:
    """torch.export.export raises the same types with the same messages."""
    function, tensor, error, fragment = TRACED[name]
    with pytest.raises(error, match=re.escape(fragment)) as raised:
        torch.export.export(Model(function), (tensor,), strict=False)
    assert type(raised.value) is error


@pytest.mark.parametrize("name", TRACED)
def test_error_in_compile(name: str) -> None:
    """torch.compile raises errors of its own, in which the message is kept."""
    function, tensor, _, fragment = TRACED[name]
    torch.compiler.reset()
    with pytest.raises(Exception, match=re.escape(fragment)):
        torch.compile(function, backend="eager", fullgraph=True)(tensor)
