"""Sizes are no reason to compile again: Triton makes one kernel an op for tensors of a kind, whatever their sizes."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import INTERPRETED
from torch import Tensor

from mx_ops import library

Shape = tuple[int, ...]


def fake_quant(x: Tensor, format: str, dim: int) -> None:
    """One call."""
    torch.ops.mx.fake_quant(x, format, dim=dim)


def fake_quant_seeded(x: Tensor, format: str, dim: int) -> None:
    """One call that rounds stochastically."""
    torch.ops.mx.fake_quant(x, format, torch.zeros(1, dtype=torch.int64), dim=dim)


def quantize(x: Tensor, format: str, dim: int) -> None:
    """One call."""
    torch.ops.mx.quantize(x, format, dim=dim)


def dequantize(x: Tensor, format: str, dim: int) -> None:
    """One call, on codes as quantize lays them out."""
    elements, scales = (torch.empty_like(codes, device="cpu") for codes in torch.ops.mx.quantize(x.to("meta"), format, dim=dim))
    torch.ops.mx.dequantize(elements, scales, format, dim=dim, dtype=x.dtype)


def quantize_both(x: Tensor, format: str, dim: int) -> None:
    """One call, which has blocks along both of the last dims."""
    torch.ops.mx.quantize_both(x, format)


OPS: dict[str, Callable[[Tensor, str, int], None]] = {
    "fake_quant": fake_quant,
    "fake_quant, seed": fake_quant_seeded,
    "quantize": quantize,
    "dequantize": dequantize,
    "quantize_both": quantize_both,
}
FORMATS = ["mxfp4", "mxfp8_e4m3"]
# Twenty shapes each, of one kind: rows start at multiples of 16 bytes and are whole tiles; or they are not, and there are multiples of 16.
# quantize_both, which has blocks along the last two dims, is like quantize along the first of them.
KINDS: dict[str, tuple[list[Shape], int]] = {
    "rows": ([(16 * n, 4096) for n in range(1, 21)], -1),
    "batch, sequence, hidden": ([(batch, sequence, 4096) for batch in (1, 2, 3, 4, 8) for sequence in (128, 256, 512, 1000)], -1),
    "hidden": ([(4096, 128 * n) for n in range(1, 21)], -1),
    "rows that are no whole blocks": ([(16 * n, 4100) for n in range(1, 21)], -1),
    "rows, dim 0": ([(128 * n, 4096) for n in range(1, 21)], 0),
    "hidden, dim 0": ([(4096, 128 * n) for n in range(2, 22)], 0),
    "batch, sequence, hidden, dim 1": ([(batch, 128 * n, 4096) for batch in (2, 3, 4, 8) for n in (1, 2, 3, 4, 5)], 1),
}
# What may come on top, and how many are allowed. Triton compiles anew for an integer that is 1, and for one that is, or is no, multiple of
# 16. Rows that start between multiples of 16 bytes have kernels of their own, tiles that overhang a mask, and rows shorter than a tile
# smaller tiles, in powers of two. None of that goes on with the number of sizes, of which there are hundreds here.
OTHERS: dict[str, tuple[list[Shape], int, int]] = {
    "odd rows": ([(n, 4096) for n in range(1, 200)], -1, 2),
    "odd rows that are no whole blocks": ([(n, 4100) for n in range(2, 200)], -1, 3),
    "odd batch, sequence, hidden": ([(batch, sequence, 4096) for batch in range(1, 8) for sequence in range(100, 130)], -1, 2),
    "even lengths": ([(4096, n) for n in range(1024, 1424, 2)], -1, 9),
    "lengths, dim 0": ([(n, 4096) for n in range(256, 656, 2)], 0, 12),
    "whole blocks, dim 0": ([(32 * n, 4096) for n in range(1, 200)], 0, 4),
    "large, dim 0": ([(128 * n, 16384) for n in range(1, 40)], 0, 2),
    "batch, whole blocks, dim 1": ([(batch, 32 * n, 4096) for batch in range(1, 8) for n in range(4, 24)], 1, 4),
}


def cases(kinds: dict[str, Any]) -> list[tuple[str, str]]:
    """The ops, and the kinds of shapes that each has."""
    return [(op, kind) for op in OPS for kind, (_, dim, *_) in kinds.items() if op != "quantize_both" or dim != -1]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> dict[Any, dict[str, Any]]:
    """What Triton would compile on a GPU: by its own key for that, the types and constants of the kernel's arguments."""
    import triton
    from triton.backends.compiler import GPUTarget

    from mx_ops import kernels

    keys: dict[Any, dict[str, Any]] = {}

    def record(kernel: Any, key: str, signature: dict, device: int, constants: dict, options: Any, attributes: Any, warmup: bool) -> None:
        keys[kernel.__name__, key] = signature | {"constants": constants, "attributes": attributes}

    active = types.SimpleNamespace(  # of a device number that is no real one's, for Triton keeps what it knows of it
        get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 1000, get_current_stream=lambda device: 0
    )
    monkeypatch.setattr("triton.runtime.jit.driver", types.SimpleNamespace(active=active))
    monkeypatch.setattr(triton.JITFunction, "_do_compile", record)
    monkeypatch.setattr(library.backends, "kernels_for", lambda device_type: kernels)
    monkeypatch.setattr(sys.modules["mx_ops.kernels.launch"], "has_bf16x2", lambda device: True)
    return keys


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("op", "kind"), cases(KINDS))
def test_sizes_alone_compile_nothing(op: str, kind: str, format: str, compilations: dict) -> None:
    """Twenty shapes, one compilation; another format, dtype or dim is another."""
    shapes, dim = KINDS[kind]
    assert len(set(shapes)) == 20
    for shape in shapes:
        OPS[op](torch.empty(shape, dtype=torch.bfloat16), format, dim)
    assert len(compilations) == 1
    OPS[op](torch.empty(shapes[0], dtype=torch.float16), format, dim)
    OPS[op](torch.empty(shapes[0], dtype=torch.bfloat16), "mxint8", dim)
    assert len(compilations) == 3


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("op", "kind"), cases(OTHERS))
def test_any_sizes_compile_few(op: str, kind: str, compilations: dict) -> None:
    """Hundreds of shapes, a handful of compilations."""
    shapes, dim, most = OTHERS[kind]
    for shape in shapes:
        OPS[op](torch.empty(shape, dtype=torch.bfloat16), "mxfp4", dim)
    assert 1 <= len(compilations) <= most
