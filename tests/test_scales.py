"""The scale of a block is its mode's power of two, for every exponent that amax can have; a NaN or an Inf anywhere makes it NaN."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from conftest import INTERPRETED
from helpers import FORMATS, SCALE_MODES, assert_same, exact, float32

MAX_MANTISSA = 0x7FFFFF

# NumPy, by which Triton's interpreter multiplies, says so when it meets a signalling NaN.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")


def check(x: torch.Tensor, format: str, scale_mode: str, block_size: int = 32) -> None:
    """The op and the oracle give the same bytes."""
    elements, scales = torch.ops.mx.quantize(x, format, block_size=block_size, scale_mode=scale_mode)
    expected_elements, expected_scales = oracle.quantize(exact(x), format, block_size=block_size, scale_mode=scale_mode)
    assert_same(scales, expected_scales)
    assert_same(elements, expected_elements)


def among_zeros(amax: torch.Tensor, block_size: int) -> torch.Tensor:
    """A block for each amax, which stands at a place that wanders from block to block; the rest is zero."""
    blocks = torch.zeros(len(amax), block_size, dtype=amax.dtype, device=amax.device)
    index = torch.arange(len(amax), device=amax.device)
    blocks[index, index % block_size] = amax
    return blocks


@pytest.mark.parametrize("scale_mode", SCALE_MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_exponent_at_every_threshold(format: str, scale_mode: str, device: str) -> None:
    """All float32 exponents, with the mantissas where some mode's scale changes and both their neighbours."""
    row = oracle.ROWS[format]
    of_largest = int(np.float32(row.largest).view(np.uint32)) & MAX_MANTISSA
    thresholds = [0, of_largest, 2**23 - 2 ** (22 - row.mantissa_bits) - 1, MAX_MANTISSA]
    if row.emax == 0:  # then some modes tell subnormal maxima of one binade apart too
        thresholds += [(threshold + 2**23) // 2 for threshold in thresholds]
    mantissas = np.array(sorted({m for t in thresholds for m in (t - 1, t, t + 1) if 0 <= m <= MAX_MANTISSA}))
    assert len(mantissas) >= 9
    bits = (np.arange(255)[:, None] << 23 | mantissas).flatten()
    check(among_zeros(float32(bits).to(device), 16), format, scale_mode, block_size=16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale_mode", SCALE_MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_16_bit_value_as_amax(format: str, scale_mode: str, dtype: torch.dtype, device: str) -> None:
    """All 65536 values of bfloat16 and of float16, NaNs and infinities too, each the maximum of a block."""
    bits = np.arange(0, 65536, 61 if INTERPRETED else 1)  # interpreted, all would take minutes; 61 is odd, and so meets every exponent
    values = torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(dtype).to(device)
    check(among_zeros(values, 16), format, scale_mode, block_size=16)


def test_float64_is_no_detour() -> None:
    """The oracle reads all float32 bits as they are: NaN, subnormal numbers and -0 survive the way there and back."""
    bits = np.array([0x00000001, 0x80000001, 0x007FFFFF, 0x80000000, 0x7F7FFFFF, 0xFF800000], np.uint32)
    assert (exact(float32(bits)).astype(np.float32).view(np.uint32) == bits).all()


@pytest.mark.parametrize("length", [42] if INTERPRETED else [64, 42, 33])
@pytest.mark.parametrize("format", FORMATS)
def test_nan_and_inf_anywhere(format: str, length: int, device: str) -> None:
    """Quiet, signalling and negative NaNs and infinities at each position, ragged tails included, spoil that block and no other."""
    bad = float32([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000])
    length += length % oracle.ROWS[format].codes_per_byte  # op quantize takes even lengths where two codes share a byte
    x = torch.linspace(-3.0, 5.0, length).repeat(len(bad), length, 1)
    for position in range(length):
        x[:, position, position] = bad
    clean = torch.linspace(-3.0, 5.0, length)[None]

    elements, scales = torch.ops.mx.quantize(x.to(device), format)
    values = torch.ops.mx.dequantize(elements, scales, format)
    _, clean_scales = torch.ops.mx.quantize(clean.to(device), format)
    expected = torch.ops.mx.fake_quant(clean.to(device), format).expand(len(bad), length, length).clone()
    expected_scales = clean_scales.expand(len(bad), length, -1).clone()
    codes = oracle.unpack(elements.cpu().numpy(), format)
    for position in range(length):
        block = position // 32
        expected_scales[:, position, block] = 255
        expected[:, position, block * 32 : block * 32 + 32] = torch.nan
        assert (codes[:, position, block * 32 : block * 32 + 32] == oracle.ROWS[format].nan_code).all()
    assert_same(scales, expected_scales)
    assert_same(values, expected)
    assert_same(torch.ops.mx.fake_quant(x.to(device), format), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", FORMATS)
def test_nan_and_inf_in_16_bit_dtypes(format: str, dtype: torch.dtype, device: str) -> None:
    """A NaN or an Inf in bfloat16 or float16 makes its block NaN, in that dtype."""
    x = torch.ones(3, 64, dtype=dtype, device=device)
    x[0, 5], x[1, 37], x[2, 63] = torch.nan, torch.inf, -torch.inf
    expected = torch.ones(3, 64)
    expected[0, :32] = expected[1:, 32:] = torch.nan
    values = torch.ops.mx.fake_quant(x, format)
    assert values.dtype == dtype
    assert_same(values, expected)
