"""Look-ups that stand for the rules on CPU: what a bfloat16 becomes, and what a byte of codes is worth.

A bfloat16 divided by a power of two is a bfloat16, of which there are 2^16: a table has the code, and the value, of each. Measured on an
AMD EPYC, torch 2.13. On one core 2^18 elements take 0.15 ms to divide and 0.15 ms to look up; by the rules they take 1.9 ms. On two cores
bfloat16 2048x4096 to MXFP8, in ms:

                last dim: rules, tables    dim 0: rules, tables
    quantize                 30      17               44     34
    fake_quant               19      17               39     29
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ..formats import Format
from .rules import (
    decode,
    grid_exponent,
    inverse_scale,
    largest_quotient,
    magnitude_and_sign,
    magnitude_code,
    round_to_code,
    scale_byte,
    scale_value,
    signed_code,
    unpack,
    with_sign,
)

Scratch = dict[torch.Size, tuple[Tensor, Tensor]]  # memory to use again, by shape

# Quantizing.


def can_quantize(x: Tensor, seed: Tensor | None, tensor_scale: Tensor | None) -> bool:
    """Whether what x becomes can be looked up."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and seed is None and tensor_scale is None


def divided(blocks: Tensor, fmt: Format, threshold: int) -> tuple[Tensor, Tensor]:
    """The scale bytes of blocks, and the bits of elements divided by them, as int32; all NaN in a NaN block.

    A quotient too small for a bfloat16 is rounded, and becomes element 0 all the same.
    """
    byte = scale_byte((blocks.view(torch.int16) & 0x7FFF).to(torch.int32).amax(-1, keepdim=True) << 16, fmt, threshold)
    inverse = torch.where(byte == 255, math.nan, inverse_scale(byte)).to(torch.bfloat16)
    return byte, (blocks * inverse).view(torch.uint16).to(torch.int32)


def codes_of(blocks: Tensor, fmt: Format, threshold: int) -> tuple[Tensor, Tensor]:
    """The scale bytes and the codes of blocks."""
    byte, quotient = divided(blocks, fmt, threshold)
    return byte, take(codes_of_bfloat16s(fmt), quotient)


def values_of(blocks: Tensor, fmt: Format, threshold: int) -> Tensor:
    """The values of the codes of blocks."""
    byte, quotient = divided(blocks, fmt, threshold)
    largest = torch.finfo(torch.bfloat16).max
    return take(values_of_bfloat16s(fmt), quotient).mul_(scale_value(byte).to(torch.bfloat16)).clamp_(-largest, largest)


def take(table: Tensor, index: Tensor) -> Tensor:
    """table[index], laid out in memory as the index is."""
    order = sorted(range(index.ndim), key=index.stride, reverse=True)
    index = index.permute(order)
    return table.index_select(0, index.reshape(-1)).view(index.shape).permute([order.index(dim) for dim in range(index.ndim)])


@functools.cache
def codes_of_bfloat16s(fmt: Format) -> Tensor:
    """The codes of bfloat16s under a scale of 1, by their bits."""
    x = (torch.arange(1 << 16, dtype=torch.int32, device="cpu") << 16).view(torch.float32)
    magnitude, sign = magnitude_and_sign(x)
    code = signed_code(round_to_code(magnitude, grid_exponent(magnitude.view(torch.int32), fmt), None, fmt), sign >> 31, fmt)
    return torch.where(x.isnan(), fmt.nan_code, code).to(torch.uint8)


@functools.cache
def values_of_bfloat16s(fmt: Format) -> Tensor:
    """The values of these codes."""
    return values_of_codes(codes_of_bfloat16s(fmt).to(torch.int32), fmt).to(torch.bfloat16)


# Dequantizing.


def can_dequantize(scales: Tensor, tensor_scale: Tensor | None, out: Tensor, fmt: Format) -> bool:
    """Whether the values of codes can be looked up: not where one may saturate or a scale is NaN. (MXINT8's code -128 may: it is -2.)"""
    if tensor_scale is not None or out.device.type != "cpu" or out.numel() == 0:
        return False
    saturates = largest_quotient(scales.amax().to(torch.int32), out.dtype) < 2.0 ** (fmt.emax + 1)
    return not bool(saturates)


def finite_scales(byte: Tensor) -> Tensor:
    """`scale_value` of bytes none of which is 255, without intermediates."""
    return byte.to(torch.int32).bitwise_left_shift_(23).clamp_min_(0x400000).view(torch.float32)


def is_half_of_float16(fmt: Format) -> bool:
    """Whether a code is the upper byte of a float16."""
    return fmt.bits == 8 and 2.0**fmt.emin == torch.finfo(torch.float16).tiny


def upper_bytes(packed: Tensor, scratch: Scratch) -> Tensor:
    """The values of upper bytes of float16s, float32: three operations, and no look-up, which torch does in one thread.

    They are so short that a thread alone with a chunk would wait for Python longer than it works. So threads share each operation, although
    they meet after it. And the same memory serves all chunks: pages that the allocator takes fresh from the system cost more than the work.
    2048x4096 to bfloat16, in ms: 2.9 where the allocator has memory, 7.7 where it takes it fresh; asking for memory again 3.1 and 20.6; a
    thread a chunk 5.3 and 11.
    """
    if packed.shape not in scratch:
        scratch[packed.shape] = packed.new_empty(packed.shape, dtype=torch.int16), packed.new_empty(packed.shape, dtype=torch.float32)
    bits, values = scratch[packed.shape]
    return values.copy_(bits.copy_(packed).bitwise_left_shift_(8).view(torch.float16))


def values_of_bytes(packed: Tensor, fmt: Format) -> Tensor:
    """The values of packed codes, by a table: 2^17 in 0.11 ms, where `decode` takes 0.67."""
    values = table_of_bytes(fmt).index_select(0, packed.to(torch.int64, memory_format=torch.contiguous_format).flatten())
    return values.view(torch.float32).view(*packed.shape[:-1], packed.shape[-1] * fmt.codes_per_byte)


@functools.cache
def table_of_bytes(fmt: Format) -> Tensor:
    """The values of each byte of codes, float32. Two are stored as one int64: to look up one number is faster than two."""
    codes = unpack(torch.arange(256, dtype=torch.int32, device="cpu"), fmt)
    return values_of_codes(codes & ((1 << fmt.bits) - 1), fmt).view({1: torch.float32, 2: torch.int64}[fmt.codes_per_byte])


def values_of_codes(codes: Tensor, fmt: Format) -> Tensor:
    """The values of codes under a scale of 1, float32."""
    return with_sign(decode(magnitude_code(codes, fmt), None, fmt), (codes >> (fmt.bits - 1)) << 31, torch.float32)
