"""bfloat16 two at a time, in the packed instructions that NVIDIA's GPUs have from Hopper on: loading, scales, and fake_quant.

A scale that is a power of two leaves a bfloat16 its 8 significant bits, and the rules of `numerics` then hold in bfloat16 as they do in
float32, with 7 bits of mantissa where that has 23: a sum is rounded once there too. Two lanes of 16 bits share a register, so an
instruction serves two elements: for blocks that lie across memory fake_quant takes 8 instructions an element, where it takes 17 in
float32, and fewer registers. Triton has no such types, and its compiler packs what it likes; so the instructions are spelled out, for
lanes that are neighbours in a thread (``pack=2``).

Numbers here are bits where nothing else is said: magnitudes in int16 are in the order of the bfloat16s.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numerics import (
    EXPONENT,
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
from .pieces import PIECES, matrix_axes

# Only a GPU shows: what the instructions do, and that older ones do without them (test_on_gpu, its first section).

CAPABILITY = (9, 0)
LONGEST_BLOCK = 32  # of which a thread holds two or four


def in_lanes(x: Tensor) -> bool:
    """Whether a tensor can be worked in lanes."""
    return x.dtype == torch.bfloat16 and has_lanes(x.device)


def has_lanes(device: torch.device) -> bool:
    """Whether a device has the instructions."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= CAPABILITY


@triton.jit
def lane(bits: tl.constexpr):
    """A constant for every lane, of 16 bits."""
    return tl.full([], bits if bits < 0x8000 else bits - 0x10000, tl.int16)


@triton.jit
def lane_bits(value):
    """The bits of float32s that bfloat16 can hold."""
    return from_float32(value, tl.bfloat16).to(tl.int16, bitcast=True)


@triton.jit
def pieces_in_bfloat16(pieces):
    """A tuple of elements as bfloat16s, each rounded to odd: of two that are nearest the one whose last bit is 1, unless it is one itself.

    Rounded on, to a grid that has no points between multiples of four of the last bit, it becomes what the element would.
    """
    rounded = ()
    for j in tl.static_range(len(pieces)):
        if pieces[j].dtype == tl.bfloat16:
            rounded = rounded + (pieces[j],)
        else:
            rounded = rounded + (round_to_odd(to_float32(pieces[j])),)
    return rounded


@triton.jit
def round_to_odd(x):
    """float32s as bfloat16s: their last bit is set where bits are cut off."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 low, high, bits, carried;
        add.u32 low, $1, 0xFFFF;
        add.u32 high, $2, 0xFFFF;
        prmt.b32 carried, low, high, 0x7632;
        prmt.b32 bits, $1, $2, 0x7632;
        lop3.b32 $0, carried, 0x00010001, bits, 0xEA;
        }""",
        "=r,r,r",
        [x],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=2,
    )


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
    amax = tl.zeros([BLOCKS, ROWS], tl.bfloat16)
    for j in tl.static_range(BLOCK):
        if MASKED:
            x = tl.load(pointer, mask=(row < rows_left) & (block * BLOCK + j < elements_left), other=0)
        else:
            x = tl.load(pointer)
        elements = elements + (x,)
        amax = larger_magnitude(amax, x)
        pointer += x_length
    return elements, bits_of(amax)


@triton.jit
def larger_magnitude(magnitude, x):
    """The larger of a magnitude and |x|; NaN if either is."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 m;
        abs.bf16x2 m, $2;
        max.NaN.bf16x2 $0, $1, m;
        }""",
        "=r,r,r",
        [magnitude, x],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def bits_of(magnitude):
    """The bits of magnitudes, as int32."""
    return magnitude.to(tl.int16, bitcast=True).to(tl.int32)


@triton.jit
def amax_of_pieces_in_lanes(pieces, AXIS: tl.constexpr):
    """The bits of the largest magnitude of each block of a tile, whose groups are along an axis."""
    amax = tl.zeros(pieces[0].shape, tl.bfloat16)
    for j in tl.static_range(PIECES):
        amax = larger_magnitude(amax, pieces[j])
    return tl.max(bits_of(amax), AXIS, keep_dims=True)


@triton.jit
def amax_of_lanes(x, A_THREAD: tl.constexpr):
    """The bits of the largest magnitude along the last of three axes, which stays."""
    # A thread has four or eight neighbours: registers first, then the lanes of one. (Of 16-bit integers `tl.max` makes 32-bit ones first.)
    A: tl.constexpr = x.shape[0]
    B: tl.constexpr = x.shape[1]
    THREADS: tl.constexpr = x.shape[2] // A_THREAD
    registers = tl.permute(tl.reshape(x, A, B, THREADS, A_THREAD // 2, 2), (0, 1, 2, 4, 3))
    if A_THREAD == 8:
        registers = tl.reshape(registers, A, B, THREADS, 2, 2, 2)
        even, odd = tl.split(registers)
        even0, even1 = tl.split(even)
        odd0, odd1 = tl.split(odd)
        amax = larger_magnitude(larger_magnitude(larger_magnitude(magnitude_of(even0), even1), odd0), odd1)
    else:
        even, odd = tl.split(registers)
        amax = larger_magnitude(magnitude_of(even), odd)
    return tl.max(tl.reshape(bits_of(amax), A, B, THREADS * 2), 2, keep_dims=True)


@triton.jit
def magnitude_of(x):
    """|x|."""
    return tl.inline_asm_elementwise("abs.bf16x2 $0, $1;", "=r,r", [x], dtype=tl.bfloat16, is_pure=True, pack=2)


@triton.jit
def lane_scales(amax, EMAX: tl.constexpr, THRESHOLD: tl.constexpr):
    """`numerics.block_scales` by the bits of bfloat16s: bytes, and inverse scales, which are NaN where the scale is."""
    exponent = (amax + ((0x7FFFFF - THRESHOLD) >> 16)) >> 7
    if EMAX == 0:
        exponent = tl.where(amax < 1 << 7, (amax + ((0x7FFFFF - ((THRESHOLD + (1 << 23)) >> 1)) >> 16)) >> 7, exponent)
        exponent = tl.minimum(exponent, 254)
    byte = tl.maximum(exponent - EMAX, 0)
    inverse = tl.where(is_nan(amax), 0x7FC0, tl.maximum((254 - byte) << 7, 0x40))
    return tl.where(is_nan(amax), 255, byte), inverse.to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def is_nan(amax):
    """Whether a block whose largest magnitude has these bits holds a NaN or an Inf."""
    return amax >= EXPONENT >> 16


@triton.jit
def fake_quant_lanes(
    x,
    random,
    byte,
    factor,
    tensor_scale,
    DTYPE_MAX: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    LARGEST: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """What elements of blocks with these scales become. Under a tensor's scale they are quotients, for which there are no lanes."""
    limit = tl.minimum(element_limit(byte, tensor_scale, DTYPE_MAX), LARGEST)
    if tensor_scale is None:
        rounded = round_lanes(x, from_float32(factor, tl.bfloat16), lane_bits(limit), random, MANTISSA_BITS, EMIN, EMAX)
        return scale_up(rounded, from_float32(scale_value(byte), tl.bfloat16), x, TWOS_COMPLEMENT)
    else:
        x = to_float32(x)
        y = scaled_down(tl.abs(x), factor, tensor_scale, LARGEST, False)
        rounded = tl.minimum(round_to_value(y, grid_exponent(as_bits(y), EMIN), None, MANTISSA_BITS), limit)
        value = with_element_sign(scaled(rounded, byte, tensor_scale, DTYPE_MAX), as_bits(x), TWOS_COMPLEMENT)
        return from_float32(value, tl.bfloat16)


@triton.jit
def round_lanes(x, factor, limit, random, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr, EMAX: tl.constexpr):
    """The bits of |x| * factor, rounded to a value of the format, and no more than a limit."""
    if random is None:
        return round_lanes_to_nearest(x, factor, limit, MANTISSA_BITS, EMIN)
    else:
        return round_lanes_stochastically(x, factor, limit, random.to(tl.int16), MANTISSA_BITS, EMIN, EMAX)


@triton.jit
def round_lanes_to_nearest(x, factor, limit, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr):
    """Ties to even: `numerics.round_to_value`."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y, exponent, anchor, rounded;
        abs.bf16x2 y, $1;
        mul.rn.bf16x2 y, y, $2;
        and.b32 exponent, y, 0x7F807F80;
        max.u16x2 exponent, exponent, $4;
        add.u32 anchor, exponent, $5;
        add.rn.bf16x2 rounded, y, anchor;
        sub.rn.bf16x2 rounded, rounded, anchor;
        min.u16x2 $0, rounded, $3;
        }""",
        "=r,r,r,r,r,r",
        [x, factor, limit, lane((EMIN + 127) << 7), lane((7 - MANTISSA_BITS) << 7)],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def round_lanes_stochastically(x, factor, limit, random, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr, EMAX: tl.constexpr):
    """By 16 random bits: `numerics.whole_steps`."""
    cut, raised = cut_at_random(x, factor, random, MANTISSA_BITS, EMIN, EMAX)
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y;
        fma.rn.bf16x2 y, $2, $4, $1;
        min.u16x2 $0, y, $3;
        }""",
        "=r,r,r,r,r",
        [cut, raised, limit, lane(((EMIN + 127) << 7) - 0x8000)],  # -2^emin
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def cut_at_random(x, factor, random, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr, EMAX: tl.constexpr):
    """|x| * factor, cut to whole steps after random bits were added below them; and 1 where it was raised by a binade first, else 0.

    A float32 holds 17 bits, and more, of the part of a step. ``random`` and the odd half are added there, and that part is cut off.
    Magnitudes under 2^emin are raised into the binade above first, whose steps are as long as theirs; what of them this cuts off is below
    the half. Larger ones do without the half: what a bfloat16 has of a step is a multiple of 2^-7.
    """
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y, low, high, raise_low, raise_high, bits;
        abs.bf16x2 y, $2;
        mul.rn.bf16x2 y, y, $3;
        min.u16x2 y, y, $12;
        shl.b32 low, y, 16;
        and.b32 high, y, 0xFFFF0000;
        set.lt.f32.f32 raise_low, low, $5;
        set.lt.f32.f32 raise_high, high, $5;
        fma.rz.f32 low, raise_low, $7, low;
        fma.rz.f32 high, raise_high, $7, high;
        and.b32 bits, $4, 0xFFFF;
        mad.lo.u32 low, bits, $9, low;
        shr.u32 bits, $4, 16;
        mad.lo.u32 high, bits, $9, high;
        prmt.b32 y, low, high, 0x7632;
        and.b32 $0, y, $11;
        prmt.b32 $1, raise_low, raise_high, 0x7632;
        }""",
        "=r,=r,r,r,r,r,r,r,r,r,r,r,r",
        [
            x,
            factor,
            random,
            tl.full([], (EMIN + 127) << 23, tl.int32),  # 2^emin, and the odd half above it
            tl.full([], ((EMIN + 127) << 23) + (1 << (6 - MANTISSA_BITS)), tl.int32),
            tl.full([], 1 << (7 - MANTISSA_BITS), tl.int32),
            lane(-(1 << (7 - MANTISSA_BITS))),
            lane((EMAX + 129) << 7),  # all quotients but NaN are less, and what it becomes is above all limits
        ],
        dtype=(tl.int16, tl.bfloat16),
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
