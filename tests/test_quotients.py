"""What GPUs divide by one step less than a correct quotient takes has the codes of the correct one: every divisor, at every tie."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from mx_ops.kernels import numerics

TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between the values of E2M1
AROUND = 8  # float32s on either side of a tie times a divisor


@triton.jit
def count_wrong(
    count_ptr,
    tie: tl.constexpr,
    around: tl.constexpr,
    largest: tl.constexpr,
    mantissa_bits: tl.constexpr,
    emin: tl.constexpr,
    largest_code: tl.constexpr,
    exact: tl.constexpr,
    tile: tl.constexpr,
) -> None:
    """How many codes, or quotients where these are to be exact, are not those of a division; and how many divisors there were."""
    i = tl.program_id(0) * tile + tl.arange(0, tile)
    scale = numerics.as_float(i + 0x3F800000)
    divisor = numerics.divisor(scale)
    wrong = tl.zeros([tile], tl.int32)
    for k in range(-around, around + 1):
        x = numerics.as_float(numerics.as_bits(scale * tie) + k)
        quotient = tl.div_rn(x, scale)
        fast = numerics.quotients(x, divisor, largest, exact)
        if exact:
            wrong += (numerics.as_bits(fast) != numerics.as_bits(quotient)).to(tl.int32)
        else:
            exponent = numerics.grid_exponent(numerics.as_bits(quotient), emin)
            want = numerics.round_to_code(quotient, exponent, None, mantissa_bits, emin, largest_code)
            exponent = numerics.grid_exponent(numerics.as_bits(fast), emin)
            have = numerics.round_to_code(fast, exponent, None, mantissa_bits, emin, largest_code)
            value = numerics.round_to_value(fast, exponent, None, mantissa_bits)
            exponent = numerics.grid_exponent(numerics.as_bits(quotient), emin)
            wrong += (have != want).to(tl.int32)
            wrong += (value != numerics.round_to_value(quotient, exponent, None, mantissa_bits)).to(tl.int32)
    tl.atomic_add(count_ptr, tl.sum(wrong, 0))
    tl.atomic_add(count_ptr + 1, tile)


@pytest.mark.gpu
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("tie", TIES)
def test_every_divisor_at_every_tie(tie: float, exact: bool) -> None:
    """All 2^23 mantissas of a divisor, and the 17 dividends around each product with a tie: codes and values, or quotients."""
    counts = torch.zeros(2, dtype=torch.int32, device="cuda")
    count_wrong[(2**13,)](counts, tie, AROUND, 6.0, 1, 0, 7, exact, 2**10)
    assert counts.tolist() == [0, 2**23]
