"""Elements are the OCP element types: every code has its value, and every number rounds to nearest even and saturates."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
from helpers import DTYPES, FORMATS, assert_same

from mx_ops.reference import inductor

# What each element type is called in ml_dtypes, which here is the judge. Of integers NumPy is.
ELEMENTS = {
    "mxfp4": ml_dtypes.float4_e2m1fn,
    "mxfp8_e4m3": ml_dtypes.float8_e4m3fn,
    "mxfp8_e5m2": ml_dtypes.float8_e5m2,
    "mxfp6_e2m3": ml_dtypes.float6_e2m3fn,
    "mxfp6_e3m2": ml_dtypes.float6_e3m2fn,
    "mxint8": np.int8,
}
STEPS = {"mxint8": 1 / 64}  # what one is worth


def values_of(codes: np.ndarray, format: str) -> np.ndarray:
    """The values of codes, one a byte; bits that are none of a code's mean nothing."""
    return (codes & (2 ** oracle.ROWS[format].bits - 1)).view(ELEMENTS[format]).astype(np.float64) * STEPS.get(format, 1)


def codes_of(numbers: np.ndarray, format: str) -> np.ndarray:
    """The codes that numbers round to, to nearest even, saturated."""
    largest = values_of(np.arange(2 ** (oracle.ROWS[format].bits - 1), dtype=np.uint8), format)
    largest = largest[np.isfinite(largest)].max()
    numbers = np.clip(numbers, -largest, largest) / STEPS.get(format, 1)
    integers = np.issubdtype(ELEMENTS[format], np.integer)
    return (np.rint(numbers) if integers else numbers).astype(ELEMENTS[format]).view(np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_code_has_its_value(format: str, dtype: torch.dtype, device: str) -> None:
    """All codes of both signs, all pairs of them that share a byte, dequantize to the values of ml_dtypes."""
    elements = np.arange(256, dtype=np.uint8)
    codes = oracle.unpack(elements, format)
    scales = torch.full((len(codes) // 32,), 127, dtype=torch.uint8, device=device)
    values = torch.ops.mx.dequantize(torch.from_numpy(elements).to(device), scales, format, dtype=dtype)
    assert values.dtype == dtype
    assert_same(values, values_of(codes, format))


def numbers_to_round(format: str) -> np.ndarray:
    """As float32: every magnitude, every tie between neighbours, both float32 neighbours of each, and what saturates; of both signs."""
    values = values_of(np.arange(2 ** (oracle.ROWS[format].bits - 1), dtype=np.uint8), format)
    values = np.sort(values[np.isfinite(values)])
    largest = float(values[-1])
    end_of_binade = 2.0 ** (np.floor(np.log2(largest)) + 1)  # the scale would be another from here on
    beyond = [largest + (largest - values[-2]) / 2, end_of_binade]
    centers = np.concatenate([values, (values[1:] + values[:-1]) / 2, beyond]).astype(np.float32)
    numbers = np.concatenate([centers, np.nextafter(centers, np.float32(0)), np.nextafter(centers, np.float32(np.inf))])
    numbers = np.unique(numbers[numbers < end_of_binade])
    assert len(numbers) > 6 * len(values) - 6
    return np.concatenate([numbers, -numbers])


@pytest.mark.parametrize("format", FORMATS)
def test_every_number_and_tie_rounds_as_ml_dtypes_rounds(format: str, device: str) -> None:
    """In blocks of scale 1, magnitudes, ties and their float32 neighbours round to nearest even, and the largest clips."""
    row = oracle.ROWS[format]
    numbers = numbers_to_round(format)
    blocks = np.zeros((-(-len(numbers) // 30), 32), np.float32)  # an even number of numbers a block, beside two that set the scale
    blocks[:, :2] = 2.0**row.emax
    blocks[:, 2:] = np.resize(numbers, (len(blocks), 30))
    expected = codes_of(blocks, format)

    x = torch.from_numpy(blocks).to(device)
    elements, scales = torch.ops.mx.quantize(x, format)
    assert scales.unique().tolist() == [127]
    assert_same(oracle.unpack(elements.cpu().numpy(), format), expected)
    assert_same(torch.ops.mx.fake_quant(x, format), values_of(expected, format))


def test_formulas_round_to_bfloat16_as_torch_does() -> None:
    """Where compiled code has no bfloat16s: each of them, each tie between two, and what is beside the ties."""
    bits = torch.arange(2**16, dtype=torch.int64)[:, None] * 2**16 + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    x = bits.to(torch.int32).view(torch.float32)
    assert_same(inductor.round_to_bfloat16(x), x.to(torch.bfloat16))
