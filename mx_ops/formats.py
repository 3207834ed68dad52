"""Facts about the formats and the scale modes. Every fact stands here once; no other file names a format.

Sources: element types and emax, OCP Microscaling Formats (MX) v1.0, sections 5.1 and 5.3; the scale mode ``floor``, section 6.3;
``rceil`` is the rule of NVIDIA's hardware and libraries (the smallest scale that clips nothing). NVFP4: the two levels of scales
of Pretraining Large Language Models with NVFP4 (NVIDIA, arXiv 2509.25149).

Choosing a scale mode. ``floor`` is the rule of the standard, and the default. Where you may choose, take ``even`` for MXFP4 and ``rceil``
for MXFP8. This is the cosine between embeddings of quantized layers and those of float32 ones:

                floor    ceil     rceil    even
    MXFP4       0.930    0.871    0.927    0.936
    MXFP8 E4M3  0.9958   0.9973   0.9973   0.9969

NVFP4, which has one rule, has 0.963. Measured on all-MiniLM-L6-v2, a trained sentence encoder (the model that the tests install): weights
and inputs of its 36 linear layers were fake-quantized along the dim that is summed over; means over 512 sentences from docstrings of
Python's standard library (torch 2.13 on CPU, 2026-11-28). ``python -m mx_ops FILE`` says what each mode does to weights of your own.

Under a seed ``rceil`` is the default, for it clips nothing. A value that clips is too small, whatever the random bits. For MXFP4 and 2^22
Gaussian values, the sum of signed errors toward zero is 0.6% of the sum of magnitudes under ``floor``, 0.1% under ``even`` and 0.00% under
``rceil`` (means over 8 seeds, in float32 and in bfloat16).

torchao's MX (0.18) makes the same codes and scales of finite values, in all four modes, but for two kinds of blocks. Where the scale's
byte is 0 it divides by twice the scale, and under ``rceil`` by 1: of a block whose largest value is 1.80e-39 that value becomes 9.18e-40
or 0 in MXFP8 E4M3, and here 1.84e-39. And its ``rceil`` takes a logarithm, which rounds: 0x1.800002p+101, just above 6 * 2^99, has the
byte 226 in MXFP4 and clips; here the byte is 227.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

BLOCK_SIZES = (16, 32, 64, 128, 256)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Format:
    """A row of the table: an element type, and how blocks of it are stored.

    A code is a sign bit above ``bits - 1`` bits of magnitude: exponent field, then mantissa. Magnitudes up to ``largest_code`` are
    finite and ascend with their code; those above are as in IEEE 754: the exponent field is all ones, mantissa 0 is infinity, others NaN.
    In two's complement, which an integer is, a negative code is minus its magnitude; those of one binade are then multiples of one step.
    """

    name: str
    element: str
    bits: int  # of a code
    mantissa_bits: int
    emin: int  # exponent of the smallest normal number, and of the subnormal ones
    emax: int  # exponent of the largest number
    largest: float
    nan_code: int  # the code of every element of a block that holds a NaN or an Inf; 0 where no code is NaN
    dtype: torch.dtype  # torch's own name for a byte of elements
    block_size: int = 32
    twos_complement: bool = False  # a negative code is 2^bits less its magnitude, and there is no -0
    scale: Format | None = None  # whose elements the scales of blocks are, under one float32 for the whole tensor; None: they are E8M0

    def __reduce__(self) -> tuple[Callable[..., Format], tuple[Any, ...]]:
        """A copy of a row of the table, in this process or another, is that row: rows are compared by identity."""
        if FORMATS.get(self.name) is self:
            return get_format, (self.name,)
        return Format, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def codes_per_byte(self) -> int:
        """How many codes share a byte; the first of them takes the low bits."""
        return 8 // self.bits

    @property
    def largest_code(self) -> int:
        """The magnitude code of ``largest``."""
        exponent_field = self.emax - self.emin + 1
        fraction = self.largest / 2.0**self.emax - 1
        return (exponent_field << self.mantissa_bits) + int(fraction * 2**self.mantissa_bits)

    @property
    def has_special_codes(self) -> bool:
        """Whether some codes are NaN or infinite."""
        return self.largest_code < 2 ** (self.bits - 1) - 1

    @property
    def converts(self) -> bool:
        """Whether GPUs that have such instructions round to it by one: to FP8."""
        return self.bits == 8 and not self.twos_complement

    @property
    def rounds_from_odd(self) -> bool:
        """Whether numbers that were rounded to odd, to bfloat16s, round on as they would themselves, under the smallest scale too."""
        return self.mantissa_bits + 3 <= 8 and self.emin - self.mantissa_bits - 2 >= 127 - 133  # a step is worth four of bfloat16's

    @property
    def has_tensor_scale(self) -> bool:
        """Whether the whole tensor has a scale too."""
        return self.scale is not None

    @property
    def divides(self) -> bool:
        """Whether elements are quotients that round, since scales are no powers of two."""
        return self.scale is not None

    @property
    def scale_dtype(self) -> torch.dtype:
        """The dtype whose bytes are the scales of blocks."""
        return torch.float8_e8m0fnu if self.scale is None else self.scale.dtype

    @property
    def nan_scale(self) -> int:
        """The scale of a block that holds a NaN or an Inf."""
        return 255 if self.scale is None else self.scale.nan_code

    @property
    def scale_modes(self) -> tuple[str, ...]:
        """The names of the modes in which scales are found; none where there is one rule."""
        return tuple(SCALE_MODES) if self.scale is None else ()


E4M3 = Format("mxfp8_e4m3", "E4M3", 8, 3, -6, 8, 448.0, 0x7F, torch.float8_e4m3fn)

FORMATS = {
    row.name: row
    for row in (
        Format("mxfp4", "E2M1", 4, 1, 0, 2, 6.0, 0x00, torch.float4_e2m1fn_x2),
        E4M3,
        Format("mxfp8_e5m2", "E5M2", 8, 2, -14, 15, 57344.0, 0x7F, torch.float8_e5m2),
        Format("mxfp6_e2m3", "E2M3", 6, 3, 0, 2, 7.5, 0x00, torch.uint8),  # one code a byte, in its low bits
        Format("mxfp6_e3m2", "E3M2", 6, 2, -2, 4, 28.0, 0x00, torch.uint8),
        Format("mxint8", "INT8", 8, 6, 0, 0, 127 / 64, 0x00, torch.int8, twos_complement=True),
        Format("nvfp4", "E2M1", 4, 1, 0, 2, 6.0, 0x00, torch.float4_e2m1fn_x2, block_size=16, scale=E4M3),
    )
}


# A scale mode is one number a format: the block's scale exponent is floor(log2(amax)) - emax, plus one if the 23 mantissa bits of
# amax exceed this threshold.


def floor(fmt: Format) -> int:
    """No mantissa exceeds it: round the exponent down."""
    return 0x7FFFFF


def ceil(fmt: Format) -> int:
    """Every amax that is no power of two rounds up."""
    return 0


def rceil(fmt: Format) -> int:
    """Round up just when amax would clip."""
    return float32_bits(fmt.largest) & 0x7FFFFF


def even(fmt: Format) -> int:
    """Round up when amax, rounded to the element's mantissa, carries."""
    return 2**23 - 2 ** (22 - fmt.mantissa_bits) - 1


SCALE_MODES = {"floor": floor, "ceil": ceil, "rceil": rceil, "even": even}


def float32_bits(value: float) -> int:
    """The 32 bits of a float32, as an int."""
    return struct.unpack("<I", struct.pack("<f", value))[0]


def get_format(name: str) -> Format:
    """The row called ``name``. Raises ValueError, naming the known formats."""
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; the formats are {', '.join(map(repr, FORMATS))}")
    return FORMATS[name]


def get_threshold(fmt: Format, scale_mode: str | None, stochastic: bool) -> int:
    """The threshold of a scale mode; None is floor, or rceil for stochastic rounding, which clipping would bias.

    A format that has no modes has no threshold: 0. Raises ValueError, naming the modes there are.
    """
    if not fmt.scale_modes:
        if scale_mode is not None:
            raise ValueError(f"{fmt.name} has one rule for its scales: leave scale_mode out (it is {scale_mode!r})")
        return 0
    if scale_mode is None:
        scale_mode = "rceil" if stochastic else "floor"
    if scale_mode not in SCALE_MODES:
        raise ValueError(f"unknown scale mode {scale_mode!r}; the scale modes are {', '.join(map(repr, SCALE_MODES))}")
    return SCALE_MODES[scale_mode](fmt)


def get_block_size(fmt: Format, block_size: int | None) -> int:
    """``block_size``, or the format's own. Raises ValueError, naming the sizes there are."""
    if block_size is None:
        return fmt.block_size
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"unknown block size {block_size}; the block sizes are {', '.join(map(str, BLOCK_SIZES))}")
    return block_size
