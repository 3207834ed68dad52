"""Every Triton kernel gives the bytes of its ATen twin.

Where there is a GPU its kernels are compared with the reference on CPU; in the interpreter, on CPU, with the reference called by name. On
CPU without the interpreter there are no kernels to compare. MX_OPS_TWIN_VALUES sets how many random values each comparison takes.
"""

from __future__ import annotations

import os

import pytest
import torch
from conftest import DEVICES, INTERPRETED
from helpers import FEW
from torch import Tensor

import mx_ops
from mx_ops import library

VALUES = int(os.environ.get("MX_OPS_TWIN_VALUES", 1 << 12 if INTERPRETED else 1 << 22))
CHUNK = 1 << 25
LENGTH = 512 if INTERPRETED else 4096  # of a row; interpreted there are eight, so that along the other dim there are rows, too
TWINS = (["cpu"] if INTERPRETED else []) + [device for device in DEVICES if device != "cpu"]
EXPONENTS = {torch.float32: (-150, 127), torch.bfloat16: (-140, 127), torch.float16: (-26, 15)}


def random_values(count: int, dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Rows of values of every magnitude, neighbours within a few binades; a NaN or an Inf here and there, and a block of the largest."""
    rows = -(-count // LENGTH)
    low, high = EXPONENTS[dtype]
    scale = torch.randint(low, high, (rows, LENGTH // 32, 1), generator=generator, device=device)
    spread = torch.randint(-6, 1, (rows, LENGTH // 32, 32), generator=generator, device=device)
    x = torch.randn(rows, LENGTH // 32, 32, generator=generator, device=device)
    largest = torch.finfo(dtype).max
    x = torch.ldexp(torch.ldexp(x, spread), scale).clamp(-largest, largest).to(dtype).view(rows, LENGTH)
    x[0, 40], x[-1, 99], x[0, 128:160] = float("nan"), float("-inf"), largest
    return x


def run_reference(name: str, *args: Tensor | str | None, **kwargs: object) -> Tensor | tuple[Tensor, ...]:
    """What an op gives where no kernel serves: its checked call, filled by the reference."""
    call = getattr(library, name)(*args, **kwargs)
    call.twin(*call.arguments)
    return call.outputs


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, but that any NaN equals any NaN."""
    if a.dtype.is_floating_point:
        bits = {2: torch.int16, 4: torch.int32}[a.element_size()]
        return bool(torch.where(a.isnan() & b.isnan(), True, a.view(bits) == b.view(bits)).all())
    return torch.equal(a, b)


CASES = [(name, mode, dtype) for name, row in mx_ops.FORMATS.items() for mode in row.scale_modes or (None,) for dtype in EXPONENTS]
if INTERPRETED:  # then of formats of whole bytes that differ in numbers only, a few
    CASES = [case for case in CASES if case[0] not in FEW or (case[2], case[1]) in FEW[case[0]]]


@pytest.mark.skipif(not TWINS, reason="needs a GPU, or TRITON_INTERPRET=1")
@pytest.mark.parametrize("device", TWINS)
@pytest.mark.parametrize(("format", "scale_mode", "dtype"), CASES)
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
def test_kernels_give_the_bytes_of_the_reference(
    stochastic: bool, format: str, scale_mode: str | None, dtype: torch.dtype, device: str
) -> None:
    """fake_quant, quantize and dequantize of the same values, along memory and across it: same elements, same scales, same numbers."""
    generator = torch.Generator(device).manual_seed(31)
    for start in range(0, VALUES, CHUNK):
        x = random_values(min(CHUNK, VALUES - start), dtype, device, generator)
        seed = torch.tensor([-start - 2**40 - 3]) if stochastic else None
        seed_there = None if seed is None else seed.to(device)
        # Not computed from x, which holds a NaN; under this one some blocks saturate, and the scales of some are subnormal.
        scale = torch.tensor([0.37 * 2.0 ** EXPONENTS[dtype][1] / 2688]) if mx_ops.FORMATS[format].has_tensor_scale else None
        scale_there = None if scale is None else scale.to(device)
        elements, scales = torch.ops.mx.quantize(x, format, seed_there, scale_there, scale_mode=scale_mode)
        there = torch.ops.mx.fake_quant(x, format, seed_there, scale_there, scale_mode=scale_mode), elements, scales
        x = x.cpu()
        here = (
            run_reference("fake_quant", x, format, seed, scale, scale_mode=scale_mode),
            *run_reference("quantize", x, format, seed, scale, scale_mode=scale_mode),
        )
        for name, a, b in zip(("fake_quant", "elements", "scales"), there, here):
            assert same_bytes(a.cpu(), b), name
        if not stochastic:  # random numbers are placed by row and column
            across = x.t().contiguous().to(device)
            there = (
                torch.ops.mx.fake_quant(across, format, None, scale_there, dim=0, scale_mode=scale_mode),
                *torch.ops.mx.quantize(across, format, None, scale_there, dim=0, scale_mode=scale_mode),
            )
            for name, a, b in zip(("fake_quant across", "elements across", "scales across"), there, here):
                assert same_bytes(a.t().cpu(), b), name
        values = torch.ops.mx.dequantize(elements, scales, format, scale_there, dtype=dtype)
        assert same_bytes(values.cpu(), run_reference("dequantize", elements.cpu(), scales.cpu(), format, scale, dtype=dtype))


def test_the_devices_compared_are_named() -> None:
    """What this file compared is printed, so that a machine without kernels does not pass for one with them."""
    print(f"twins compared on: {', '.join(TWINS) or 'none (no GPU, no interpreter)'}; {VALUES} values each")
    assert bool(TWINS) == (INTERPRETED or torch.cuda.is_available())
