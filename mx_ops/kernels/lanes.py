"""bfloat16 rounded to nearest two at a time, in the packed instructions that NVIDIA's GPUs have from Hopper on.

A scale that is a power of two leaves a bfloat16 its 8 significant bits, and the rules of `numerics` then hold in bfloat16 as they do in
float32, with 7 bits of mantissa where that has 23: a sum is rounded once there too. Two lanes of 16 bits share a register, so an
instruction serves two elements: for blocks that lie across memory fake_quant takes 9 instructions an element and quantize 12, where they
take 17 and 18 to 21 in float32, and fewer registers. Triton has no such types, and its compiler packs what it likes; so the instructions
are spelled out, for lanes that are neighbours in a thread (``pack=2``).

Numbers here are bits where nothing else is said: magnitudes in int16 are in the order of the bfloat16s. The code in a lane is what the
exponent and mantissa bits of a bfloat16 become when its exponent field is made the format's: it stands ``7 - MANTISSA_BITS`` bits higher
than in its byte, and above it bits may be set.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numerics import (
    as_bits,
    element_limit,
    from_float32,
    grid_exponent,
    round_to_value,
    scale_value,
    scaled,
    scaled_down,
    to_float32,
    with_element_sign,
)
from .pieces import matrix_axes

CAPABILITY = (9, 0)
LONGEST_BLOCK = 32  # of which a thread holds two or four
MANTISSA = tl.constexpr(7)


def in_lanes(x: Tensor, seed: Tensor | None) -> bool:
    """Whether a tensor can be worked in lanes."""
    return x.dtype == torch.bfloat16 and seed is None and has_lanes(x.device)


def has_lanes(device: torch.device) -> bool:
    """Whether a device has the instructions."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= CAPABILITY


@triton.jit
def lane(bits: tl.constexpr):
    """A constant for every lane."""
    return tl.full([], bits, tl.int16)


@triton.jit
def lane_bits(value):
    """The bits of float32s that bfloat16 can hold."""
    return value.to(tl.bfloat16).to(tl.int16, bitcast=True)


@triton.jit
def lane_axes(ROWS: tl.constexpr, BLOCKS: tl.constexpr, ROWS_A_THREAD: tl.constexpr, WIDE: tl.constexpr):
    """The numbers of a tile's blocks and rows. A warp reads rows together, and each thread has whole blocks."""
    block, row = matrix_axes(BLOCKS, ROWS, WIDE)
    return block, tl.max_contiguous(row, [1, ROWS_A_THREAD])


@triton.jit
def load_lanes(
    x_ptr,
    x_row,
    x_length,
    rows_left,
    elements_left,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_A_THREAD: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The elements of blocks that lie across memory, one by one, each a matrix [BLOCKS, ROWS]; and the bits of the largest magnitudes."""
    block, row = lane_axes(ROWS, BLOCKS, ROWS_A_THREAD, WIDE)
    pointer = x_ptr + (row * x_row + block * BLOCK * x_length)
    elements = ()
    amax = tl.zeros([BLOCKS, ROWS], tl.int16)
    for j in tl.static_range(BLOCK):
        if MASKED:
            x = tl.load(pointer, mask=(row < rows_left) & (block * BLOCK + j < elements_left), other=0)
        else:
            x = tl.load(pointer)
        elements = elements + (x,)
        amax = larger_magnitude(amax, x)
        pointer += x_length
    return elements, amax.to(tl.int32) << 16


@triton.jit
def fake_quant_lanes(
    x,
    byte,
    factor,
    tensor_scale,
    DTYPE_MAX: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    LARGEST: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """What elements of blocks with these scales become. Under a tensor's scale they are quotients, for which there are no lanes."""
    limit = tl.minimum(element_limit(byte, tensor_scale, DTYPE_MAX), LARGEST)
    if tensor_scale is None:
        rounded = round_lanes(x, factor.to(tl.bfloat16), lane_bits(limit), MANTISSA_BITS, EMIN)
        return scale_up(rounded, scale_value(byte).to(tl.bfloat16), x, TWOS_COMPLEMENT)
    else:
        x = to_float32(x)
        y = scaled_down(tl.abs(x), factor, tensor_scale, LARGEST)
        rounded = tl.minimum(round_to_value(y, grid_exponent(as_bits(y), EMIN), None, MANTISSA_BITS), limit)
        value = with_element_sign(scaled(rounded, byte, tensor_scale, DTYPE_MAX), as_bits(x), TWOS_COMPLEMENT)
        return from_float32(value, tl.bfloat16)


@triton.jit
def quantize_lanes(
    x,
    scale,
    factor,
    BITS: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    LARGEST: tl.constexpr,
    NAN_CODE: tl.constexpr,
    NAN_SCALE: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """The codes, in lanes, of elements of blocks with these scales."""
    keep = tl.where(scale == NAN_SCALE, 0, -1).to(tl.int16)
    nan = tl.where(scale == NAN_SCALE, NAN_CODE << (MANTISSA - MANTISSA_BITS), 0).to(tl.int16)
    rounded = round_lanes(x, factor.to(tl.bfloat16), lane_bits(tl.full([], LARGEST, tl.float32)), MANTISSA_BITS, EMIN)
    return encode(rounded, x, keep, nan, BITS, MANTISSA_BITS, EMIN, TWOS_COMPLEMENT)


@triton.jit
def larger_magnitude(bits, x):
    """The larger of a magnitude and |x|."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 m;
        and.b32 m, $2, 0x7FFF7FFF;
        max.u16x2 $0, $1, m;
        }""",
        "=r,r,r",
        [bits, x],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def amax_of_lanes(x):
    """The bits of the largest magnitude along the last axis, which stays."""
    return tl.max(x.to(tl.int16, bitcast=True) & 0x7FFF, 2, keep_dims=True).to(tl.int32) << 16


@triton.jit
def round_lanes(x, factor, limit, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr):
    """The bits of |x| * factor, rounded to a value of the format, and no more than a limit: `numerics.round_to_value`."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y, exponent, anchor, rounded;
        and.b32 y, $1, 0x7FFF7FFF;
        mul.rn.bf16x2 y, y, $2;
        and.b32 exponent, y, 0x7F807F80;
        max.u16x2 exponent, exponent, $4;
        add.u32 anchor, exponent, $5;
        add.rn.bf16x2 rounded, y, anchor;
        sub.rn.bf16x2 rounded, rounded, anchor;
        min.u16x2 $0, rounded, $3;
        }""",
        "=r,r,r,r,r,r",
        [x, factor, limit, lane((EMIN + 127) << MANTISSA), lane((MANTISSA - MANTISSA_BITS) << MANTISSA)],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def scale_up(rounded, scale, x, TWOS_COMPLEMENT: tl.constexpr):
    """A rounded magnitude times its scale, with the sign of x. In two's complement, which has no -0, 0 has none."""
    if TWOS_COMPLEMENT:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 value, sign;
            mul.rn.bf16x2 value, $1, $2;
            add.u32 sign, $1, 0x7FFF7FFF;
            and.b32 sign, sign, $3;
            lop3.b32 $0, sign, 0x80008000, value, 0xEA;
            }""",
            "=r,r,r,r",
            [rounded, scale, x],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 value;
            mul.rn.bf16x2 value, $1, $2;
            lop3.b32 $0, $3, 0x80008000, value, 0xEA;
            }""",
            "=r,r,r,r",
            [rounded, scale, x],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )


@triton.jit
def encode(rounded, x, keep, nan, BITS: tl.constexpr, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr, TWOS_COMPLEMENT: tl.constexpr):
    """The code of a rounded magnitude with the sign of x; ``nan`` in blocks whose ``keep`` is 0 and not -1."""
    EXPONENT_FIELD: tl.constexpr = (1 - EMIN) << MANTISSA  # 2^-(126 + emin) makes the exponent field that of the format
    if TWOS_COMPLEMENT:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 code, negative;
            mul.rn.bf16x2 code, $1, $3;
            prmt.b32 negative, $2, 0, 0xBB99;
            xor.b32 code, code, negative;
            and.b32 negative, negative, $6;
            add.u16x2 code, code, negative;
            lop3.b32 $0, code, $4, $5, 0xEA;
            }""",
            "=r,r,r,r,r,r,r",
            [rounded, x, lane(EXPONENT_FIELD), keep, nan, lane(1)],
            dtype=tl.int16,
            is_pure=True,
            pack=2,
        )
    else:
        # A sign goes from bit 15 to the one above the magnitude: of a code with the one and a code with the other the smaller has it there.
        SIGNS: tl.constexpr = (1 << (BITS - 1 + MANTISSA - MANTISSA_BITS)) - 0x8000
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 code, moved;
            mul.rn.bf16x2 code, $1, $3;
            lop3.b32 code, $2, 0x80008000, code, 0xEA;
            xor.b32 moved, code, $6;
            min.u16x2 code, code, moved;
            lop3.b32 $0, code, $4, $5, 0xEA;
            }""",
            "=r,r,r,r,r,r,r",
            [rounded, x, lane(EXPONENT_FIELD), keep, nan, lane(SIGNS)],
            dtype=tl.int16,
            is_pure=True,
            pack=2,
        )


@triton.jit
def bytes_of(codes, CODES_PER_BYTE: tl.constexpr, MANTISSA_BITS: tl.constexpr):
    """Codes in lanes, which are neighbours along the last axis, as bytes."""
    if CODES_PER_BYTE == 1:
        return low_bytes(codes, MANTISSA - MANTISSA_BITS)
    else:
        first, second = tl.split(tl.reshape(codes, codes.shape[0], codes.shape[1], codes.shape[2] // 2, 2))
        return low_bytes(two_nibbles(first, second, MANTISSA_BITS), 0)


@triton.jit
def low_bytes(lanes, SHIFT: tl.constexpr):
    """The low byte of each lane, shifted to the right."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b;
        shr.u32 a, $1, $3;
        shr.u32 b, $2, $3;
        prmt.b32 $0, a, b, 0x6420;
        }""",
        "=r,r,r,r,r,r,r",
        [lanes, tl.full([], SHIFT, tl.int32)],
        dtype=tl.uint8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def two_nibbles(c0, c1, MANTISSA_BITS: tl.constexpr):
    """Two codes in lanes as the half-bytes of a lane's low byte."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b;
        shr.u32 a, $1, $3;
        shr.u32 b, $2, $3;
        shl.b32 b, b, 4;
        or.b32 $0, a, b;
        }""",
        "=r,r,r,r,r",
        [c0, c1, tl.full([], MANTISSA - MANTISSA_BITS, tl.int32)],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def word_of_bytes(c0, c1, c2, c3, MANTISSA_BITS: tl.constexpr):
    """Four codes in lanes as the bytes of a word."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b, c, d;
        shr.u32 a, $2, $6;
        shr.u32 b, $3, $6;
        shr.u32 c, $4, $6;
        shr.u32 d, $5, $6;
        prmt.b32 a, a, b, 0x6240;
        prmt.b32 c, c, d, 0x6240;
        prmt.b32 $0, a, c, 0x5410;
        prmt.b32 $1, a, c, 0x7632;
        }""",
        "=r,=r,r,r,r,r,r,r",
        [c0, c1, c2, c3, tl.full([], MANTISSA - MANTISSA_BITS, tl.int32)],
        dtype=tl.int32,
        is_pure=True,
        pack=2,
    )


@triton.jit
def word_of_nibbles(c0, c1, c2, c3, c4, c5, c6, c7, MANTISSA_BITS: tl.constexpr):
    """Eight codes in lanes as the half-bytes of a word."""
    low, high = four_nibbles(c0, c1, c2, c3, MANTISSA_BITS), four_nibbles(c4, c5, c6, c7, MANTISSA_BITS)
    return tl.inline_asm_elementwise(
        """{
        prmt.b32 $0, $2, $3, 0x5410;
        prmt.b32 $1, $2, $3, 0x7632;
        }""",
        "=r,=r,r,r",
        [low, high],
        dtype=tl.int32,
        is_pure=True,
        pack=2,
    )


@triton.jit
def four_nibbles(c0, c1, c2, c3, MANTISSA_BITS: tl.constexpr):
    """Four codes in lanes as the half-bytes of a lane."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b, c, d;
        shr.u32 a, $1, $5;
        shr.u32 b, $2, $5;
        shr.u32 c, $3, $5;
        shr.u32 d, $4, $5;
        shl.b32 b, b, 4;
        shl.b32 c, c, 8;
        shl.b32 d, d, 12;
        or.b32 a, a, b;
        or.b32 c, c, d;
        or.b32 $0, a, c;
        }""",
        "=r,r,r,r,r,r,r",
        [c0, c1, c2, c3, tl.full([], MANTISSA - MANTISSA_BITS, tl.int32)],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )
