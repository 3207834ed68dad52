"""The rules as Triton device functions: the twin of the reference's rules, function by function and name by name.

Its docstrings hold here. What is said here is what only a GPU needs to know. What the rules need to know of a format arrives as FORMAT, a
constexpr tuple.
"""

from __future__ import annotations

import os
from typing import Any

import triton
import triton.language as tl

from ..formats import E4M3, Format

# Only a GPU shows: `quotients` (test_quotients), and a NaN in `larger` (test_on_gpu::test_a_nan_or_an_inf_is_seen).

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
EXPONENT = tl.constexpr(0x7F800000)
TWO_TO_23 = tl.constexpr(0x4B000000)
MOST_LINES = tl.constexpr(3)  # one a binade
SIGN = tl.constexpr(-0x80000000)
LARGEST_FLOAT32 = tl.constexpr((2 - 2.0**-23) * 2.0**127)

# Where FORMAT has each fact: a format's columns, and what a call adds. Inductor copies constexprs into its own module, by these names: no
# other name of the kernels may be the same.
FACTS = (
    *("bits", "codes_per_byte", "mantissa_bits", "emin", "emax", "largest", "largest_code"),
    *("nan_code", "nan_scale", "has_special_codes", "twos_complement"),
)
BITS, CODES_PER_BYTE, MANTISSA_BITS, EMIN, EMAX, LARGEST, LARGEST_CODE = (tl.constexpr(i) for i in range(7))
NAN_CODE, NAN_SCALE, HAS_SPECIAL_CODES, TWOS_COMPLEMENT = (tl.constexpr(i) for i in range(7, 11))
THRESHOLD, DTYPE_MAX = tl.constexpr(11), tl.constexpr(12)  # of the scale mode; the largest number of the dtype that values have


def facts(fmt: Format, threshold: int = 0, dtype_max: float = 0.0) -> tuple[Any, ...]:
    """FORMAT for a format, a scale mode, and the dtype of values where there are any."""
    return (*(getattr(fmt, name) for name in FACTS), threshold, dtype_max)


SCALE_FORMAT = tl.constexpr(facts(E4M3))  # of the scales of blocks, where the whole tensor has a scale too


@triton.jit
def as_float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def as_bits(value):
    return value.to(tl.int32, bitcast=True)


@triton.jit
def to_float32(x):
    if x.dtype == tl.bfloat16:
        return as_float(x.to(tl.int16, bitcast=True).to(tl.int32) << 16)
    else:
        return x.to(tl.float32)


@triton.jit
def from_float32(value, DTYPE: tl.constexpr):
    if INTERPRETED and DTYPE == tl.bfloat16:  # Triton's interpreter flushes subnormals and rounds ties up
        bits = as_bits(value)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return rounded.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(DTYPE)


# Scales.


@triton.jit
def larger(a, b):
    """ATen's maximum: NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def scale_byte(amax_bits, FORMAT: tl.constexpr):
    exponent = (amax_bits + (0x7FFFFF - FORMAT[THRESHOLD])) >> 23
    if FORMAT[EMAX] == 0:
        subnormal = (amax_bits + (0x7FFFFF - ((FORMAT[THRESHOLD] + (1 << 23)) >> 1))) >> 23
        exponent = tl.where(amax_bits < 1 << 23, subnormal, exponent)
    return tl.where(amax_bits >= EXPONENT, 255, tl.minimum(tl.maximum(exponent - FORMAT[EMAX], 0), 254))


@triton.jit
def scale_value(byte):
    return as_float(tl.where(byte == 255, 0x7FC00000, tl.maximum(byte << 23, 0x400000)))


@triton.jit
def inverse_scale(byte):
    return as_float(tl.maximum((254 - byte) << 23, 0x400000))


@triton.jit
def largest_quotient(byte, FORMAT: tl.constexpr):
    return inverse_scale(tl.maximum(byte, 127)) * FORMAT[DTYPE_MAX]


@triton.jit
def usable(tensor_scale):
    positive = tl.maximum(tensor_scale, as_float(tl.full([], 1, tl.int32)))
    return tl.where((tensor_scale >= 0) & (tensor_scale < float("inf")), positive, float("nan"))


@triton.jit
def scale_code(amax_bits, tensor_scale, FORMAT: tl.constexpr):
    SCALE: tl.constexpr = SCALE_FORMAT.value
    quotient = quotients(tl.div_rn(as_float(amax_bits), FORMAT[LARGEST]), divisor(tensor_scale), True, SCALE)
    code = round_to_code(quotient, grid_exponent(quotient, SCALE), None, SCALE)
    code = tl.where(amax_bits == 0, 0, tl.maximum(code, 1))
    code = tl.where(amax_bits >= EXPONENT, FORMAT[NAN_SCALE], code)
    return tl.where(tensor_scale == tensor_scale, code, FORMAT[NAN_SCALE])  # its NaN goes into every block


@triton.jit
def block_scale(code, tensor_scale):
    SCALE: tl.constexpr = SCALE_FORMAT.value
    product = decode(magnitude_code(code, SCALE), None, SCALE) * tensor_scale
    return tl.where(product > LARGEST_FLOAT32, LARGEST_FLOAT32, product)  # a NaN stays


@triton.jit
def block_scales(amax_bits, tensor_scale, FORMAT: tl.constexpr):
    """The blocks' scale bytes, and by what `scaled_down` divides their magnitudes: the inverse scales, or those of a tensor's scale."""
    if tensor_scale is None:
        byte = scale_byte(amax_bits, FORMAT)
        return byte, inverse_scale(byte)
    else:
        byte = scale_code(amax_bits, tensor_scale, FORMAT)
        return byte, divisor(block_scale(byte, tensor_scale))


@triton.jit
def scaled(value, byte, tensor_scale, FORMAT: tl.constexpr):
    if tensor_scale is None:
        return value * scale_value(byte)
    else:
        product = value * block_scale(byte, tensor_scale)
        return tl.where(product > FORMAT[DTYPE_MAX], FORMAT[DTYPE_MAX], product)  # a NaN stays


@triton.jit
def element_limit(byte, tensor_scale, FORMAT: tl.constexpr):
    if tensor_scale is None:
        return largest_quotient(byte, FORMAT)
    else:
        return FORMAT[DTYPE_MAX]


# Elements.


@triton.jit
def scaled_down(magnitude, factor, tensor_scale, CAPPED: tl.constexpr, FORMAT: tl.constexpr):
    if tensor_scale is None:
        return magnitude * factor
    else:
        return quotients(magnitude, factor, CAPPED, FORMAT)


@triton.jit
def divisor(scale):
    """A scale as `quotients` takes it: a power of two, the scale times that, and 1 over this. Of 0 the power is 0, as are quotients."""
    unit = tl.where(scale == 0, 0.0, inverse_scale(as_bits(scale) >> 23))
    mantissa = tl.where(scale == 0, 1.0, scale * unit)  # from 1 to 2, or less if the scale is subnormal, but never so small itself
    return unit, mantissa, tl.div_rn(tl.full(mantissa.shape, 1.0, tl.float32), mantissa)


@triton.jit
def quotients(magnitude, divisor, CAPPED: tl.constexpr, FORMAT: tl.constexpr):
    """As correctly rounded as div_rn's, which asks at every element whether it is a special case: 4 or 5 instructions, not 25.

    The product with the reciprocal is corrected once, by its remainder. As the reciprocal is correctly rounded, the result is the nearest
    float32 if the product is one of the two around the quotient (Markstein 1990). If it is further off, the correction's own error is less
    than 2^-23 of a step, and only quotients within that of the middle of two float32s could come out wrong; of those the product is always
    one of the two. (A test tries every such quotient.) A remainder is exact, save for quotients that are too small to count.

    What would be larger than the largest element need only stay so. Rounding to nearest takes NaN for it, as the largest is then the
    minimum of both; where it has to be a number, it is ``CAPPED``.
    """
    unit, mantissa, reciprocal = divisor
    dividend = magnitude * unit
    if CAPPED:
        dividend = tl.minimum(dividend, 2 * FORMAT[LARGEST])
    if INTERPRETED:  # where fma rounds twice
        return tl.div_rn(dividend, tl.broadcast_to(mantissa, dividend.shape))
    else:
        quotient = dividend * reciprocal
        return tl.fma(tl.fma(quotient, -mantissa, dividend), reciprocal, quotient)


@triton.jit
def grid_exponent(y, FORMAT: tl.constexpr):
    return tl.maximum(as_bits(y) & EXPONENT, (FORMAT[EMIN] + 127) << 23)


@triton.jit
def whole_steps(y, exponent, random, FORMAT: tl.constexpr):
    units_a_one = as_float(((127 + 17 + FORMAT[MANTISSA_BITS]) << 23) - (exponent - (127 << 23)))
    return ((y * units_a_one).to(tl.int32) + (2 * random + 1)) >> 17


@triton.jit
def round_to_value(y, exponent, random, FORMAT: tl.constexpr):
    anchor = exponent + ((23 - FORMAT[MANTISSA_BITS]) << 23)
    if random is None:
        rounded = y + as_float(anchor)
    else:
        rounded = as_float(anchor + whole_steps(y, exponent, random, FORMAT))
    return rounded - as_float(anchor)


@triton.jit
def round_to_code(y, exponent, random, FORMAT: tl.constexpr):
    MANTISSA: tl.constexpr = FORMAT[MANTISSA_BITS]
    BINADES: tl.constexpr = FORMAT[LARGEST_CODE] >> MANTISSA
    if random is not None:
        code = (exponent >> (23 - MANTISSA)) - ((FORMAT[EMIN] + 127) << MANTISSA) + whole_steps(y, exponent, random, FORMAT)
    elif BINADES <= MOST_LINES:
        # Before it is rounded, a code is the least of one line a binade, as it grows ever slower.
        code = TWO_TO_23 + FORMAT[LARGEST_CODE]
        for k in tl.static_range(BINADES):
            slope = as_float(tl.full([], (127 + MANTISSA - FORMAT[EMIN] - k) << 23, tl.int32))
            offset = as_float(tl.full([], TWO_TO_23 + (k << MANTISSA), tl.int32))
            code = tl.minimum(as_bits(y * slope + offset), code)
        code -= TWO_TO_23
    else:
        binade = (exponent >> (23 - MANTISSA)) - ((FORMAT[EMIN] + 127) << MANTISSA)
        steps_a_one = as_float(((127 + MANTISSA) << 23) - (exponent - (127 << 23)))
        code = as_bits(y * steps_a_one + as_float(binade + TWO_TO_23)) - TWO_TO_23
    return tl.minimum(code, FORMAT[LARGEST_CODE])


@triton.jit
def signed_code(magnitude, x_bits, FORMAT: tl.constexpr):
    if FORMAT[TWOS_COMPLEMENT]:
        negative = x_bits >> 31
        return ((magnitude ^ negative) - negative) & ((1 << FORMAT[BITS]) - 1)
    else:
        return magnitude | ((x_bits >> (32 - FORMAT[BITS])) & (1 << (FORMAT[BITS] - 1)))


@triton.jit
def magnitude_code(code, FORMAT: tl.constexpr):
    if FORMAT[TWOS_COMPLEMENT]:
        return tl.abs((code << (32 - FORMAT[BITS])) >> (32 - FORMAT[BITS]))
    else:
        return code & ((1 << (FORMAT[BITS] - 1)) - 1)


@triton.jit
def decode(magnitude, limit, FORMAT: tl.constexpr):
    # Read as a float32, a magnitude code is 2^(126 + emin) times too small, subnormal codes included: a GPU, unlike a CPU, has no mode
    # that flushes them. This takes 2 instructions where the reference takes 5.
    bits = magnitude << (23 - FORMAT[MANTISSA_BITS])
    value = as_float(bits) * as_float(tl.full([], (FORMAT[EMIN] + 253) << 23, tl.int32))
    if limit is not None:
        value = tl.minimum(value, limit)
    if FORMAT[HAS_SPECIAL_CODES]:
        special = bits + ((256 - (1 << (FORMAT[BITS] - 1 - FORMAT[MANTISSA_BITS]))) << 23)
        value = tl.where(magnitude > FORMAT[LARGEST_CODE], as_float(special), value)
    return value


@triton.jit
def with_sign(value, sign_bits):
    """ATen's copysign, for a value without a sign and the sign bit of an int32."""
    return as_float(as_bits(value) | (sign_bits & SIGN))


@triton.jit
def with_element_sign(value, x_bits, FORMAT: tl.constexpr):
    """A value with the sign of x, as its code has it. In two's complement 0 has none, and -0 + 0 is 0."""
    if FORMAT[TWOS_COMPLEMENT]:
        return with_sign(value, x_bits) + 0.0
    else:
        return with_sign(value, x_bits)


# Random numbers.


@triton.jit
def philox(seed, counter):
    # A product of 64 bits is one instruction; `tl.philox` takes two for its halves.
    key0, key1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c2, c3 = tl.zeros(counter.shape, tl.uint32), tl.zeros(counter.shape, tl.uint32)
    for _ in tl.static_range(10):
        product0, product2 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c2 = (product2 >> 32).to(tl.uint32) ^ c1 ^ key0, (product0 >> 32).to(tl.uint32) ^ c3 ^ key1
        c1, c3 = product2.to(tl.uint32), product0.to(tl.uint32)
        key0, key1 = key0 + 0x9E3779B9, key1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def words_in_order(w0, w1, w2, w3):
    """Four words as eight half-words, in a new last axis."""
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [.., 2, 2], in row-major order w0 w1 w2 w3
    return tl.join(words & 0xFFFF, words >> 16)


@triton.jit
def random_at(seed, position):
    """16 random bits for each position, by a Philox of its own."""
    w0, w1, w2, w3 = philox(seed, position >> 3)
    half = (position & 7).to(tl.int32)
    word = tl.where(half < 4, tl.where(half < 2, w0, w1), tl.where(half < 6, w2, w3))
    return ((word >> ((half & 1) * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32)
