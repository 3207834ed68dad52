"""The rules of quantization as pure functions: the executable specification.

The functions stand in the order in which a value meets them: its bits, the scale of its block, rounding, its code; then back from the
code to the value. The last four put the rules together: `scale_blocks`, then `codes_of` or `values_of`; and `decoded`. Bits are int32, and
all arithmetic is float32 or int32, and exact except for the one rounding that each rule is about. The Triton kernels have device functions
of the same names.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..formats import Format
from ..symbols import first, groups

BITS = {2: torch.int16, 4: torch.int32}  # what holds the bits of a dtype of this size

EXPONENT = 0x7F800000  # the exponent bits of a float32; as a magnitude, infinity
TWO_TO_23 = 0x4B000000  # the bits of 2^23, whose last mantissa bit is worth 1


# A value is a magnitude and a sign. Both are read from its bits, and the sign is put back by bits.


def magnitude_and_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """|x| as float32, and x's sign as the top bit of an integer of x's size.

    Inductor hands the result of a fused operation on as float32, without rounding it to x's dtype. Reading the bits of x makes it round:
    without that, 0.5% of the values of silu(a) * b -> fake_quant differed in bfloat16 (H100, torch 2.11).
    """
    bits = x.view(BITS[x.dtype.itemsize])
    sign_bit = torch.iinfo(bits.dtype).min
    return (bits & ~sign_bit).view(x.dtype).to(torch.float32), bits & sign_bit


def with_sign(value: Tensor, sign: Tensor, dtype: torch.dtype) -> Tensor:
    """A magnitude, rounded to dtype, with a sign bit."""
    return (value.to(dtype).view(sign.dtype) | sign).view(dtype)


# The scale of a block: a power of two, 2^(byte - 127).


def scale_byte(amax_bits: Tensor, fmt: Format, threshold: int) -> Tensor:
    """The E8M0 byte of each block, from the bits of its largest magnitude; 255 if that is Inf or NaN."""
    # The sum carries into the exponent exactly when the mantissa exceeds the threshold.
    exponent = (amax_bits + (0x7FFFFF - threshold)) >> 23
    if fmt.emax == 0:
        # A subnormal amax may round up to byte 1. Its leading one stands in the mantissa, so its threshold is half of 2^23 + threshold.
        # (Where emax is more than 0, the exponent of a subnormal amax less emax is below 0 under every threshold.)
        exponent = torch.where(amax_bits < 1 << 23, (amax_bits + (0x7FFFFF - ((threshold + (1 << 23)) >> 1))) >> 23, exponent)
    return torch.where(amax_bits >= EXPONENT, 255, (exponent - fmt.emax).clamp(0, 254))


def scale_value(byte: Tensor) -> Tensor:
    """2^(byte - 127), or NaN for byte 255. 2^-127 is the subnormal 0x400000."""
    return torch.where(byte == 255, 0x7FC00000, (byte << 23).clamp_min(0x400000)).view(torch.float32)


def inverse_scale(byte: Tensor) -> Tensor:
    """2^(127 - byte); some finite number for byte 255."""
    return ((254 - byte) << 23).clamp_min(0x400000).view(torch.float32)


def largest_quotient(byte: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest magnitude whose product with the scale is finite in ``dtype`` (or more than any element, if that is smaller)."""
    return inverse_scale(byte.clamp_min(127)) * torch.finfo(dtype).max


# The scale of a block under a scale of the whole tensor (NVFP4): a float8 code, and elements are quotients that round.


def divide(a: Tensor, b: Tensor | float) -> Tensor:
    """The quotient of float32s, correctly rounded in eager and in compiled code.

    On GPUs a float32 division is not: Inductor's is approximate, and by a constant Inductor and eager code both multiply by the reciprocal.
    A float64 division is exact there if the divisor does not look like a constant. Rounding its quotient to float32 gives the same float32
    as rounding once: a quotient of float32s is near a tie of float32s only where it is that tie.
    """
    if a.device.type in ("cpu", "mps"):  # mps has no float64
        return a / b
    wide = a.to(torch.float64)
    return (wide / (b.to(torch.float64) if isinstance(b, Tensor) else torch.where(wide.isnan(), wide, b))).to(torch.float32)


def usable(tensor_scale: Tensor) -> Tensor:
    """A tensor's scale as a number to divide by: at least 2^-149; NaN if it is negative, infinite or NaN."""
    tensor_scale = tensor_scale.reshape(())
    return torch.where((tensor_scale >= 0) & (tensor_scale < math.inf), tensor_scale.clamp_min(2.0**-149), math.nan)


def scale_code(amax_bits: Tensor, tensor_scale: Tensor, fmt: Format) -> Tensor:
    """The code of each block's scale under a tensor's: amax / largest / tensor_scale, each quotient rounded, then the nearest code.

    It saturates, and is 0 only for a block of zeros. It is NaN if the block holds an Inf or a NaN, or if the tensor's scale is NaN.
    """
    assert fmt.scale is not None
    quotient = divide(divide(amax_bits.view(torch.float32), fmt.largest), tensor_scale)
    code = round_to_code(quotient, grid_exponent(quotient.view(torch.int32), fmt.scale), None, fmt.scale)
    code = torch.where(quotient < math.inf, code.clamp_min(1), fmt.scale.largest_code)
    code = torch.where(amax_bits == 0, 0, code)
    code = torch.where(amax_bits >= EXPONENT, fmt.scale.nan_code, code)
    return torch.where(tensor_scale.isnan(), fmt.scale.nan_code, code)


def block_scale(code: Tensor, tensor_scale: Tensor, fmt: Format) -> Tensor:
    """The block's own scale times the tensor's, rounded to float32 and saturated.

    The top bit of the block's scale is ignored, as in the unsigned UE4M3 of NVIDIA's hardware.
    """
    assert fmt.scale is not None
    product = decode(code & ((1 << (fmt.scale.bits - 1)) - 1), None, fmt.scale) * tensor_scale
    return product.clamp_max(torch.finfo(torch.float32).max)


def quotients(magnitude: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Magnitudes divided by their block's scale, saturated; 0 if that scale is 0."""
    return divide(magnitude, torch.where(scale == 0, math.inf, scale)).clamp_max(fmt.largest)


# Both kinds of scales. The scale of a block below is what is stored: the E8M0 byte, or the float8 code where there is a tensor's scale.


def stored_scale(amax_bits: Tensor, tensor_scale: Tensor | None, fmt: Format, threshold: int) -> Tensor:
    """The scale of each block, from the bits of its largest magnitude."""
    return scale_byte(amax_bits, fmt, threshold) if tensor_scale is None else scale_code(amax_bits, tensor_scale, fmt)


def scaled_down(magnitude: Tensor, scale: Tensor, tensor_scale: Tensor | None, fmt: Format) -> Tensor:
    """Magnitudes divided by the scales of their blocks."""
    if tensor_scale is None:
        return magnitude * inverse_scale(scale)
    return quotients(magnitude, block_scale(scale, tensor_scale, fmt), fmt)


def scaled(value: Tensor, scale: Tensor, tensor_scale: Tensor | None, fmt: Format, dtype: torch.dtype) -> Tensor:
    """Elements' magnitudes times the scales of their blocks, at most the largest value of ``dtype``."""
    if tensor_scale is None:
        return value * scale_value(scale)  # `largest_quotient` has bounded the value
    return (value * block_scale(scale, tensor_scale, fmt)).clamp_max(torch.finfo(dtype).max)


# Random numbers, for stochastic rounding.


def philox(seed: Tensor, counter: Tensor) -> tuple[Tensor, ...]:
    """Philox-4x32-10 of 64-bit counters under a 64-bit key: four int64 tensors of 32 random bits each.

    The same bits as Triton's ``tl.randint4x(seed, counter)``. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    word = 0xFFFFFFFF
    key0, key1 = seed & word, (seed >> 32) & word
    c0, c1, c2, c3 = counter & word, (counter >> 32) & word, torch.zeros_like(counter), torch.zeros_like(counter)
    for _ in range(10):
        # A product of two 32-bit numbers fills an int64, sign bit included. So >> may shift in ones, which the mask drops.
        product0, product2 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((product2 >> 32) & word) ^ c1 ^ key0, ((product0 >> 32) & word) ^ c3 ^ key1
        c1, c3 = product2 & word, product0 & word
        key0, key1 = (key0 + 0x9E3779B9) & word, (key1 + 0xBB67AE85) & word
    return c0, c1, c2, c3


def random_bits(seed: Tensor, shape: torch.Size, where: tuple[slice, ...] | None) -> Tensor:
    """16 random bits for each element of a chunk of a tensor of this shape; they depend on the seed and on the logical position alone.

    Eight neighbours along the last dim share a counter, row * ceil(K / 8) + k // 8; word w serves elements 2w (low half) and 2w + 1.
    The chunk starts at a multiple of eight along the last dim; None is the whole tensor.
    """
    *rows, last = [slice(0, size) for size in shape] if where is None else where
    counter = torch.arange(last.start // 8, groups(last.stop, 8)[0], device=seed.device)
    stride = -(-shape[-1] // 8)
    for dim in reversed(range(len(rows))):
        position = torch.arange(rows[dim].start, rows[dim].stop, device=seed.device) * stride
        counter = counter + position.view([-1] + [1] * (len(rows) - dim))
        stride = stride * shape[dim]
    halves = [half for word in philox(seed.view(()), counter) for half in (word & 0xFFFF, word >> 16)]
    return first(torch.stack(halves, -1).flatten(-2), last.stop - last.start).to(torch.int32)


# Rounding to the grid of elements: to nearest, ties to even, or by random bits.


def grid_exponent(y_bits: Tensor, fmt: Format) -> Tensor:
    """The exponent bits of each magnitude's binade on the element grid: subnormal elements share the binade of emin."""
    return (y_bits & EXPONENT).clamp_min((fmt.emin + 127) << 23)


def whole_steps(y: Tensor, exponent: Tensor, random: Tensor, fmt: Format) -> Tensor:
    """floor(y / step + (random + 0.5) / 65536), counted in units of 2^-17 steps and so without a rounding.

    ``random + 0.5`` is an odd number of these units, so what y has below one unit can never decide.
    """
    units_a_one = (((127 + 17 + fmt.mantissa_bits) << 23) - (exponent - (127 << 23))).view(torch.float32)
    return ((y * units_a_one).to(torch.int32) + (2 * random + 1)) >> 17


def round_to_value(y: Tensor, exponent: Tensor, random: Tensor | None, fmt: Format) -> Tensor:
    """The multiple of the grid's step that a magnitude rounds to; to nearest, ties to even, without random bits.

    The anchor is the power of two whose last mantissa bit is worth one step. Adding it to y rounds y to nearest even, as float32 addition
    does; and anchor + n steps has the bits of the anchor plus n.
    """
    anchor = exponent + ((23 - fmt.mantissa_bits) << 23)
    if random is None:
        rounded = y + anchor.view(torch.float32)
    else:
        rounded = (anchor + whole_steps(y, exponent, random, fmt)).view(torch.float32)
    return rounded - anchor.view(torch.float32)


def round_to_code(y: Tensor, exponent: Tensor, random: Tensor | None, fmt: Format) -> Tensor:
    """The magnitude code of what `round_to_value` gives, saturated.

    It is the code of the binade's start plus the whole steps, whether or not they carry into the next binade. To nearest, both are added
    to 2^23 as float32s: the addition rounds to nearest even (the binade's code is even), and the code stands in the sum's low bits.
    """
    binade = (exponent >> (23 - fmt.mantissa_bits)) - ((fmt.emin + 127) << fmt.mantissa_bits)
    if random is None:
        steps_a_one = (((127 + fmt.mantissa_bits) << 23) - (exponent - (127 << 23))).view(torch.float32)
        code = (y * steps_a_one + (binade + TWO_TO_23).view(torch.float32)).view(torch.int32) - TWO_TO_23
    else:
        code = binade + whole_steps(y, exponent, random, fmt)
    return code.clamp_max(fmt.largest_code)


# Codes, and bytes of them.


def signed_code(magnitude: Tensor, negative: Tensor, fmt: Format) -> Tensor:
    """Codes, from their magnitude and -1 where the value is negative, 0 elsewhere."""
    if fmt.twos_complement:
        return ((magnitude ^ negative) - negative) & ((1 << fmt.bits) - 1)
    return magnitude | (negative & (1 << (fmt.bits - 1)))


def pack(codes: Tensor, fmt: Format) -> Tensor:
    """The bytes of codes along the last dim; the first code of a byte takes its low bits."""
    in_a_byte = codes.unflatten(-1, (codes.shape[-1] // fmt.codes_per_byte, fmt.codes_per_byte)).unbind(-1)
    packed = in_a_byte[0]
    for index, code in enumerate(in_a_byte[1:], 1):
        packed = packed | (code << (index * fmt.bits))
    return packed


def unpack(packed: Tensor, fmt: Format) -> Tensor:
    """The inverse of `pack`."""
    # Broadcast, not stacked: Inductor makes a kernel of its own of a stack, which stores every code as an int32.
    shifts = torch.arange(fmt.codes_per_byte, dtype=packed.dtype, device=packed.device) * fmt.bits
    return ((packed.unsqueeze(-1) >> shifts) & ((1 << fmt.bits) - 1)).flatten(-2)


def magnitude_code(code: Tensor, fmt: Format) -> Tensor:
    """The magnitude of codes, which have no bits but their own."""
    if fmt.twos_complement:
        return torch.where(code >> (fmt.bits - 1) == 1, (1 << fmt.bits) - code, code)
    return code & ((1 << (fmt.bits - 1)) - 1)


def decode(magnitude: Tensor, limit: Tensor | None, fmt: Format) -> Tensor:
    """The values of magnitude codes, the finite ones no larger than ``limit``."""
    bits = (magnitude << (23 - fmt.mantissa_bits)) + ((fmt.emin + 126) << 23)
    # A subnormal code lacks the leading one: raised by a binade it reads as 2^emin more than it is worth.
    subnormal = (bits + (1 << 23)).view(torch.float32) - 2.0**fmt.emin
    value = torch.where(magnitude < (1 << fmt.mantissa_bits), subnormal, bits.view(torch.float32))
    if limit is not None:
        value = torch.minimum(value, limit)
    if fmt.has_special_codes:
        # The exponent field is all ones. With the float32's field set to ones too, it is Inf or NaN by the same rule.
        special = (magnitude << (23 - fmt.mantissa_bits)) + ((256 - (1 << (fmt.bits - 1 - fmt.mantissa_bits))) << 23)
        value = torch.where(magnitude > fmt.largest_code, special.view(torch.float32), value)
    return value


def element_sign(sign: Tensor, value: Tensor, fmt: Format) -> Tensor:
    """The sign bit of an element of this magnitude, from the sign bit of what was rounded to it."""
    return torch.where(value == 0, 0, sign) if fmt.twos_complement else sign


# The rules together, for blocks along the last dim of a tensor.


class ScaledBlocks(NamedTuple):
    """Blocks of values, divided by their scales."""

    scale: Tensor  # one a block, as it is stored
    y: Tensor  # magnitudes
    sign: Tensor  # as the top bit of an integer
    exponent: Tensor  # of y's binade on the element grid, as the bits of a float32


def scale_blocks(x: Tensor, tensor_scale: Tensor | None, fmt: Format, threshold: int) -> ScaledBlocks:
    """What quantizing begins with, whether codes or values come of it."""
    magnitude, sign = magnitude_and_sign(x)
    scale = stored_scale(magnitude.view(torch.int32).amax(-1, keepdim=True), tensor_scale, fmt, threshold)
    y = scaled_down(magnitude, scale, tensor_scale, fmt)
    return ScaledBlocks(scale, y, sign, grid_exponent(y.view(torch.int32), fmt))


def codes_of(blocks: ScaledBlocks, random: Tensor | None, fmt: Format) -> Tensor:
    """The codes of blocks; in a NaN block, all are the format's code for NaN."""
    scale, y, sign, exponent = blocks
    code = signed_code(round_to_code(y, exponent, random, fmt), sign >> (8 * sign.dtype.itemsize - 1), fmt)
    return torch.where(scale == fmt.nan_scale, fmt.nan_code, code)


def values_of(
    blocks: ScaledBlocks, random: Tensor | None, tensor_scale: Tensor | None, fmt: Format, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The values of the codes of blocks, as magnitudes and signs."""
    scale, y, sign, exponent = blocks
    rounded = round_to_value(y, exponent, random, fmt)
    if tensor_scale is None:
        rounded = torch.minimum(rounded, largest_quotient(scale, dtype).clamp_max(fmt.largest))
    return scaled(rounded, scale, tensor_scale, fmt, dtype), element_sign(sign, rounded, fmt)


def decoded(
    codes: Tensor, scale: Tensor, tensor_scale: Tensor | None, fmt: Format, dtype: torch.dtype, sign_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The values of codes under the scales of their blocks, as magnitudes and signs."""
    limit = largest_quotient(scale, dtype) if tensor_scale is None else None
    value = scaled(decode(magnitude_code(codes, fmt), limit, fmt), scale, tensor_scale, fmt, dtype)
    return value, ((codes >> (fmt.bits - 1)) * torch.iinfo(sign_dtype).min).to(sign_dtype)
