"""What the tests share: the axes they run over, data that looks for trouble, and comparison by bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from conftest import INTERPRETED
from torch import Tensor

import mx_ops

FORMATS = [name for name, row in mx_ops.FORMATS.items() if row.scale_modes]  # those of MX
ALL_FORMATS = list(mx_ops.FORMATS)
SCALE_MODES = ["floor", "ceil", "rceil", "even"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Interpreted, each mode with one dtype: a launch is milliseconds there, and the kernels know a dtype only by its loads and stores.
DTYPES_AND_MODES = list(zip(itertools.cycle(DTYPES), SCALE_MODES) if INTERPRETED else itertools.product(DTYPES, SCALE_MODES))
# And of formats of whole bytes that differ in numbers only, one each: what is theirs alone is tested elsewhere.
FEW = {"mxfp6_e2m3": DTYPES_AND_MODES[:1], "mxfp6_e3m2": DTYPES_AND_MODES[1:2], "mxint8": DTYPES_AND_MODES[2:3]} if INTERPRETED else {}
ODD_SHAPES = [(1,), (6,), (31,), (33,), (42,), (123,), (431,), (3, 42), (33, 6), (2, 31, 3), (2, 1, 3, 34)]


def name_of(dtype: torch.dtype) -> str:
    """The name by which the oracle knows a dtype."""
    return str(dtype).removeprefix("torch.")


def exact(tensor: Tensor | np.ndarray) -> np.ndarray:
    """The values of a tensor as float64, which holds those of every dtype here."""
    return tensor.detach().cpu().to(torch.float64).numpy() if isinstance(tensor, Tensor) else tensor.astype(np.float64)


def assert_same(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    """The same shape and the same bits: NaN is NaN, and everything else, the sign of zero too, is itself."""
    assert tuple(actual.shape) == tuple(expected.shape)
    have, want = exact(actual), exact(expected)
    same = (have == want) & (np.signbit(have) == np.signbit(want)) | np.isnan(have) & np.isnan(want)
    wrong = np.argwhere(~same)
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        raise AssertionError(f"{len(wrong)} of {same.size} differ; the first, at {at}, is {have[at]!r} and not {want[at]!r}")


def wild(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, dim: int = -1, seed: int = 0) -> Tensor:
    """Finite data: exponents span the dtype from block to block along ``dim``; ties, subnormal numbers and zeros of both signs occur."""
    random = np.random.default_rng(seed)
    moved = np.moveaxis(np.empty(shape), dim, -1).shape
    lowest = {torch.float32: -149, torch.bfloat16: -133, torch.float16: -24}[dtype]
    highest = 15 if dtype == torch.float16 else 127
    blocks = (*moved[:-1], -(-moved[-1] // 16))
    top = np.repeat(random.integers(lowest, highest + 1, blocks), 16, axis=-1)[..., : moved[-1]]
    mantissa = 1 + random.random(moved)
    mantissa = np.where(random.random(moved) < 0.5, np.rint(mantissa * 32) / 32, mantissa)
    value = np.ldexp(mantissa, np.maximum(top - random.geometric(0.3, moved) + 1, lowest))
    value = np.where(random.random(moved) < 0.05, 0.0, value) * np.where(random.random(moved) < 0.5, -1.0, 1.0)
    largest = torch.finfo(dtype).max
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.clip(value, -largest, largest), -1, dim))).to(dtype)


def float32(bits: Any) -> Tensor:
    """The float32s of these bits."""
    return torch.from_numpy(np.asarray(bits, dtype=np.uint32).view(np.float32))


def scale_for(x: Tensor, format: str) -> dict[str, Tensor]:
    """The scale of a whole tensor, as an argument, where a format has one."""
    return {"tensor_scale": mx_ops.tensor_scale(x)} if mx_ops.FORMATS[format].has_tensor_scale else {}
