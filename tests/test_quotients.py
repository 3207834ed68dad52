"""Quotients of GPUs are those of a division: every divisor at every tie of E2M1, and every quotient that is hard to round."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from mx_ops.formats import FORMATS
from mx_ops.kernels import rules

pytestmark = pytest.mark.gpu

NVFP4 = rules.facts(FORMATS["nvfp4"])
TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between the values of E2M1
AROUND = 8  # float32s on either side of a tie times a divisor


@triton.jit
def count_wrong(x_ptr, scale_ptr, wrong_ptr, length: tl.constexpr, capped: tl.constexpr, format: tl.constexpr, tile: tl.constexpr) -> None:
    """How many quotients are not those of a division."""
    i = tl.program_id(0) * tile + tl.arange(0, tile)
    x, scale = tl.load(x_ptr + i, mask=i < length, other=1.0), tl.load(scale_ptr + i, mask=i < length, other=1.0)
    fast = rules.quotients(x, rules.divisor(scale), capped, format)
    wrong = rules.as_bits(fast) != rules.as_bits(tl.div_rn(x, scale))
    tl.atomic_add(wrong_ptr, tl.sum(wrong.to(tl.int32), 0))


def wrong_quotients(x: Tensor, scale: Tensor, capped: bool) -> int:
    """How many of x / scale."""
    wrong = torch.zeros(1, dtype=torch.int32, device=x.device)
    count_wrong[(triton.cdiv(x.numel(), 1024),)](x, scale, wrong, x.numel(), capped, NVFP4, 1024)
    return int(wrong)


def divisors() -> Tensor:
    """All mantissas of a float32, as integers of 24 bits."""
    return torch.arange(2**23, 2**24, dtype=torch.int64, device="cuda")


@pytest.mark.parametrize("capped", [False, True])
def test_every_divisor_at_every_tie(capped: bool) -> None:
    """Dividends around each product of a divisor and a tie."""
    scale = divisors().float() / 2**23
    for tie in TIES:
        product = (scale * tie).view(torch.int32)
        for k in range(-AROUND, AROUND + 1):
            assert wrong_quotients((product + k).view(torch.float32), scale, capped) == 0


def near_midpoints(bits: int, remainder: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Dividends and divisors of 24 bits, for which dividend * 2^bits = middle * divisor + remainder, where middle is odd and has 25 bits.

    The middle of two float32s is half of such a number. It follows from the divisor by an inverse modulo a power of two, which only odd
    numbers have: of an even divisor and an even remainder both are halved first.
    """
    divisor = divisors()
    half = 2 - remainder % 2
    divisor = divisor[divisor % (2 * half) == half]
    odd = divisor // half
    inverse = odd  # right in three bits, which each step doubles; what is beyond 64 bits is lost, and does not count
    for _ in range(4):
        inverse = inverse * (2 - odd * inverse)
    modulus = 2**bits // half
    for k in range(2**25 // modulus):
        middle = (-(remainder // half) * inverse) % modulus + k * modulus
        dividend = middle * divisor + remainder
        assert bool((dividend % 2**bits == 0).all())
        dividend >>= bits
        found = (middle % 2 == 1) & (middle >= 2**24) & (dividend >= 2**23) & (dividend < 2**24)
        yield dividend[found], divisor[found]


@pytest.mark.parametrize("remainder", [-3, -2, -1, 1, 2, 3])
def test_every_quotient_that_is_hard_to_round(remainder: int) -> None:
    """Those so near to the middle of two float32s that the error of the one correction could decide: at most 3 of the remainder."""
    found = 0
    for bits in (24, 25):  # quotients from 1 to 2, and from a half to 1
        for dividend, divisor in near_midpoints(bits, remainder):
            found += dividend.numel()
            for factor in (1.0, 2.0**-60):
                x, scale = dividend.float() / 2**23 * factor, divisor.float() / 2**23 * factor
                assert wrong_quotients(x, scale, True) == 0
    assert found > 2**20
