"""What MX quantization must give, worked out a second time: from the rules, in NumPy float64 and Python ints, sharing no code with mx_ops.

float64 makes the oracle simple because nothing in it rounds unasked: a float32 times a power of two, its quotient by a grid step, the
fraction of that quotient and 1 - u are all float64s. Every tensor is an array here, and a float array holds the exact values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Row:
    """An element type: sign, exponent and mantissa; a format is one row."""

    bits: int
    mantissa_bits: int
    emin: int
    emax: int
    largest: float
    nan_code: int = 0
    special: dict[int, float] = field(default_factory=dict)  # magnitude codes that are no numbers
    twos_complement: bool = False  # the codes are integers

    @property
    def codes_per_byte(self) -> int:
        """Only 4-bit codes share a byte."""
        return 2 if self.bits == 4 else 1

    @property
    def sign(self) -> int:
        """The sign bit of a code."""
        return 1 << (self.bits - 1)

    def values(self) -> np.ndarray:
        """The value of every code of this many bits."""
        if self.twos_complement:
            return np.concatenate([np.arange(self.sign), np.arange(-self.sign, 0)]) * 2.0 ** (self.emin - self.mantissa_bits)
        values = []
        for code in range(2**self.bits):
            magnitude = code & (self.sign - 1)
            exponent, mantissa = divmod(magnitude, 2**self.mantissa_bits)
            if magnitude in self.special:
                value = self.special[magnitude]
            elif exponent == 0:
                value = mantissa * 2.0 ** (self.emin - self.mantissa_bits)
            else:
                value = (2**self.mantissa_bits + mantissa) * 2.0 ** (self.emin + exponent - 1 - self.mantissa_bits)
            values.append(-value if code & self.sign else value)
        return np.array(values)

    def finite(self) -> np.ndarray:
        """The values of the finite magnitudes, ascending; the index of each is its code."""
        return np.array([value for value in self.values()[: self.sign] if np.isfinite(value)])


ROWS = {
    "mxfp4": Row(4, 1, 0, 2, 6.0),
    "mxfp8_e4m3": Row(8, 3, -6, 8, 448.0, 0x7F, {0x7F: np.nan}),
    "mxfp8_e5m2": Row(8, 2, -14, 15, 57344.0, 0x7F, {0x7C: np.inf, 0x7D: np.nan, 0x7E: np.nan, 0x7F: np.nan}),
    "mxfp6_e2m3": Row(6, 3, 0, 2, 7.5),
    "mxfp6_e3m2": Row(6, 2, -2, 4, 28.0),
    "mxint8": Row(8, 6, 0, 0, 127 / 64, twos_complement=True),
    "nvfp4": Row(4, 1, 0, 2, 6.0),
}

# Mantissa bits, exponent of the smallest normal number and largest value of the dtypes that values come in.
DTYPES = {
    "float32": (23, -126, (2 - 2.0**-23) * 2.0**127),
    "bfloat16": (7, -126, (2 - 2.0**-7) * 2.0**127),
    "float16": (10, -14, 65504.0),
}


def binade(x: np.ndarray) -> np.ndarray:
    """floor(log2(x)) of positive x."""
    return np.frexp(x)[1] - 1


def power(exponent: np.ndarray) -> np.ndarray:
    """2 to an integer."""
    return np.ldexp(1.0, exponent)


def scale_byte(amax: np.ndarray, format: str, scale_mode: str) -> np.ndarray:
    """The E8M0 byte of blocks with these largest magnitudes."""
    row = ROWS[format]
    finite = np.where(np.isfinite(amax) & (amax > 0), amax, 1.0)
    top = binade(finite)
    exponent = top - row.emax
    if scale_mode == "ceil":
        exponent += finite > power(top)
    elif scale_mode == "rceil":
        exponent += finite > row.largest * power(exponent)
    elif scale_mode == "even":
        exponent += finite >= (2 - 2.0 ** -(row.mantissa_bits + 1)) * power(top)
    else:
        assert scale_mode == "floor", scale_mode
    byte = np.where(amax == 0, 0, np.clip(exponent + 127, 0, 254))
    return np.where(np.isfinite(amax), byte, 255).astype(np.uint8)


def round_magnitude(y: np.ndarray, mantissa_bits: int, emin: int, random: np.ndarray | None = None) -> np.ndarray:
    """A magnitude on a floating-point grid: the nearest, ties to even; or floor(y / step + u) * step with u = (random + 0.5) / 65536."""
    step = power(np.maximum(binade(y), emin) - mantissa_bits)
    steps = y / step
    if random is None:
        return np.rint(steps) * step
    u = (random + 0.5) / 65536
    whole = np.floor(steps)
    return (whole + (steps - whole >= 1 - u)) * step


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The float32 nearest to a quotient of float32s. Rounding to float64 first does no harm: test_oracle asks fractions."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return (np.asarray(a, np.float64) / b).astype(np.float32).astype(np.float64)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The float32 nearest to a product of float32s, which a float64 holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (np.asarray(a, np.float64) * b).astype(np.float32).astype(np.float64)


def tensor_scale(x: np.ndarray) -> np.ndarray:
    """The scale of a tensor in NVFP4."""
    return quotient(np.abs(x).max(initial=0.0), 2688.0)


def usable(tensor_scale: np.ndarray) -> np.ndarray:
    """A tensor's scale, as it is divided by."""
    return np.maximum(tensor_scale, 2.0**-149) if 0 <= tensor_scale < np.inf else np.float64(np.nan)


def nvfp4_scales(amax: np.ndarray, tensor_scale: np.ndarray) -> np.ndarray:
    """The E4M3 codes of blocks with these largest magnitudes."""
    e4m3, scale = ROWS["mxfp8_e4m3"], usable(tensor_scale)
    wanted = quotient(quotient(amax, 6.0), scale)
    wanted = np.where(wanted <= 448, wanted, 448.0)
    code = np.maximum(np.searchsorted(e4m3.finite(), round_magnitude(wanted, 3, -6)), 1)
    code = np.where(amax == 0, 0, code)
    return np.where(np.isfinite(amax) & np.isfinite(scale), code, 0x7F).astype(np.uint8)


def nvfp4_units(scales: np.ndarray, tensor_scale: np.ndarray) -> np.ndarray:
    """What an element of one is worth in blocks with these scales."""
    value = np.append(ROWS["mxfp8_e4m3"].finite(), np.nan)[scales & 0x7F]
    unit = product(value, usable(tensor_scale))
    return np.where(unit > DTYPES["float32"][2], DTYPES["float32"][2], unit)


def to_blocks(x: np.ndarray, block_size: int) -> np.ndarray:
    """The last axis as [blocks, block_size], the last block filled up with zeros."""
    count = -(-x.shape[-1] // block_size)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, count * block_size - x.shape[-1])]
    return np.pad(x, padding).reshape(*x.shape[:-1], count, block_size)


def from_blocks(x: np.ndarray, length: int) -> np.ndarray:
    """The inverse of to_blocks."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])[..., :length]


def pack(codes: np.ndarray, format: str) -> np.ndarray:
    """Bytes of codes along the last axis: the even one of two 4-bit codes is the low half."""
    return codes if ROWS[format].codes_per_byte == 1 else codes[..., 0::2] | codes[..., 1::2] << 4


def unpack(elements: np.ndarray, format: str) -> np.ndarray:
    """Codes of bytes along the last axis."""
    if ROWS[format].codes_per_byte == 1:
        return elements
    return np.stack([elements & 15, elements >> 4], axis=-1).reshape(*elements.shape[:-1], 2 * elements.shape[-1])


def encode(
    x: np.ndarray,
    format: str,
    block_size: int = 32,
    scale_mode: str | None = None,
    random: np.ndarray | None = None,
    tensor_scale: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes, one a byte, and scales of blocks along the last axis; ``random`` has 16 bits for each element."""
    row = ROWS[format]
    blocks = to_blocks(x, block_size)
    amax = np.abs(blocks).max(-1, initial=0.0)
    if tensor_scale is None:
        scales = scale_byte(amax, format, scale_mode or ("floor" if random is None else "rceil"))
        bad = (scales == 255)[..., None]
        y = np.abs(np.where(bad, 0.0, blocks)) * power(127 - scales.astype(np.int64))[..., None]
    else:
        scales = nvfp4_scales(amax, tensor_scale)
        bad = (scales == 0x7F)[..., None]
        unit = nvfp4_units(scales, tensor_scale)[..., None]
        y = np.where(bad | (unit == 0), 0.0, quotient(np.abs(np.where(bad, 0.0, blocks)), unit))
        y = np.minimum(y, row.largest)
    rounded = round_magnitude(y, row.mantissa_bits, row.emin, None if random is None else to_blocks(random, block_size))
    code = np.searchsorted(row.finite(), np.minimum(rounded, row.largest))
    negative = -code % 2**row.bits if row.twos_complement else code | row.sign
    code = np.where(np.signbit(blocks), negative, code)
    code = np.where(bad, row.nan_code, code).astype(np.uint8)
    return from_blocks(code, x.shape[-1]), scales


def decode(
    codes: np.ndarray, scales: np.ndarray, format: str, block_size: int, dtype: str, tensor_scale: np.ndarray | None = None
) -> np.ndarray:
    """The values, in ``dtype``, of codes, one a byte, in blocks along the last axis."""
    mantissa_bits, emin, largest = DTYPES[dtype]
    if tensor_scale is None:
        scale = np.where(scales == 255, np.nan, power(scales.astype(np.int64) - 127))
    else:
        scale = nvfp4_units(scales, tensor_scale)
    elements = to_blocks(ROWS[format].values()[codes & (2 ** ROWS[format].bits - 1)], block_size)
    value = elements * scale[..., None] if tensor_scale is None else product(elements, scale[..., None])
    value = np.where(np.isinf(value) & np.isfinite(elements), np.copysign(largest, value), value)  # of a product that float32 has not
    value = from_blocks(value, codes.shape[-1])
    finite = np.where(np.isfinite(value), value, 0.0)
    rounded = np.copysign(round_magnitude(np.minimum(np.abs(finite), largest), mantissa_bits, emin), finite)
    return np.where(np.isfinite(value), rounded, value)


def quantize(
    x: np.ndarray,
    format: str,
    random: np.ndarray | None = None,
    dim: int = -1,
    block_size: int = 32,
    scale_mode: str | None = None,
    tensor_scale: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of elements and scales."""
    random = None if random is None else np.moveaxis(random, dim, -1)
    codes, scales = encode(np.moveaxis(x, dim, -1), format, block_size, scale_mode, random, tensor_scale)
    return np.moveaxis(pack(codes, format), -1, dim), np.moveaxis(scales, -1, dim)


def dequantize(
    elements: np.ndarray,
    scales: np.ndarray,
    format: str,
    dim: int = -1,
    block_size: int = 32,
    dtype: str = "float32",
    tensor_scale: np.ndarray | None = None,
) -> np.ndarray:
    """The values of the bytes of elements and scales."""
    codes = unpack(np.moveaxis(elements, dim, -1), format)
    return np.moveaxis(decode(codes, np.moveaxis(scales, dim, -1), format, block_size, dtype, tensor_scale), -1, dim)


def fake_quant(
    x: np.ndarray,
    format: str,
    random: np.ndarray | None = None,
    dim: int = -1,
    block_size: int = 32,
    scale_mode: str | None = None,
    dtype: str = "float32",
    tensor_scale: np.ndarray | None = None,
) -> np.ndarray:
    """The values, in ``dtype``, that x has once quantized; of any length."""
    random = None if random is None else np.moveaxis(random, dim, -1)
    codes, scales = encode(np.moveaxis(x, dim, -1), format, block_size, scale_mode, random, tensor_scale)
    return np.moveaxis(decode(codes, scales, format, block_size, dtype, tensor_scale), -1, dim)


def philox(key: tuple[int, int], counter: tuple[np.ndarray | int, ...]) -> list[np.ndarray]:
    """Philox-4x32-10 (Salmon et al., 2011): four words of 32 random bits from four words of counter and two of key."""
    word = np.uint64(0xFFFFFFFF)
    c = [np.asarray(part, np.uint64) for part in counter]
    for turn in range(10):
        key0, key1 = (np.uint64((k + turn * weyl) % 2**32) for k, weyl in zip(key, (0x9E3779B9, 0xBB67AE85)))
        left, right = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [right >> np.uint64(32) ^ c[1] ^ key0, right & word, left >> np.uint64(32) ^ c[3] ^ key1, left & word]
    return c


def random_at(seed: int, length: int, row: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The 16 random bits of the elements ``[row, k]`` of a tensor whose last dim has this length, rows counted in row-major order."""
    counter = row * -(-length // 8) + k // 8
    words = np.stack(philox((seed % 2**32, seed >> 32 & 0xFFFFFFFF), (counter % 2**32, counter >> 32, 0 * counter, 0 * counter)))
    word = np.take_along_axis(words, np.broadcast_to(k % 8 // 2, counter.shape)[None], axis=0)[0]
    return (word >> np.where(k % 2, 16, 0).astype(np.uint64) & np.uint64(0xFFFF)).astype(np.int64)


def random_bits(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The 16 random bits of every element of a tensor of this shape."""
    *rows, length = shape
    row = np.arange(int(np.prod(rows, dtype=np.int64)))[:, None]
    return random_at(seed, length, row, np.arange(length)[None, :]).reshape(shape)
