"""bfloat16 two at a time, by the packed instructions that NVIDIA's GPUs have from Hopper on: largest magnitudes, and rounding to values.

Under a scale that is a power of two a bfloat16 keeps its 8 significant bits. So the rules of `rules.py` hold in bfloat16 as they do in
float32, with 7 bits of mantissa for 23: there, too, a sum is rounded once. An instruction serves two elements, which are the halves of a
register: for blocks that lie across memory fake_quant takes 8 instructions an element for 17, and fewer registers. Triton has no packed
types, and packs as it likes. So the instructions are spelled out, for elements that are neighbours in a thread (``pack=2``).

Numbers here are bits unless it is said: as int16, magnitudes are in the order of the bfloat16s.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rules import EMAX, EMIN, EXPONENT, MANTISSA_BITS, THRESHOLD, TWOS_COMPLEMENT, to_float32

# Only a GPU shows: what the instructions do, and that older ones do without them (test_on_gpu, its first section).


@triton.jit
def both(bits: tl.constexpr):
    """A constant of 16 bits, for both halves."""
    return tl.full([], bits if bits < 0x8000 else bits - 0x10000, tl.int16)


@triton.jit
def parts_in_bfloat16(parts):
    """A tuple of elements as bfloat16s, each rounded to odd: of two that are nearest the one whose last bit is 1, unless it is one itself.

    Rounded on, to a grid that has no points between multiples of four of the last bit, it becomes what the element would.
    """
    rounded = ()
    for j in tl.static_range(len(parts)):
        if parts[j].dtype == tl.bfloat16:
            rounded = rounded + (parts[j],)
        else:
            rounded = rounded + (round_to_odd(to_float32(parts[j])),)
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
def amax_of_neighbours(x, NEIGHBOURS: tl.constexpr):
    """The bits of the largest magnitude along the last of three axes, which stays; a thread has four or eight neighbours along it."""
    # Registers first, then the halves of one. (Of 16-bit integers `tl.max` makes 32-bit ones first.)
    A: tl.constexpr = x.shape[0]
    B: tl.constexpr = x.shape[1]
    THREADS: tl.constexpr = x.shape[2] // NEIGHBOURS
    registers = tl.permute(tl.reshape(x, A, B, THREADS, NEIGHBOURS // 2, 2), (0, 1, 2, 4, 3))
    if NEIGHBOURS == 8:
        registers = tl.reshape(registers, A, B, THREADS, 2, 2, 2)
        even, odd = tl.split(registers)
        even0, even1 = tl.split(even)
        odd0, odd1 = tl.split(odd)
        amax = larger_magnitude(larger_magnitude(larger_magnitude(without_sign(even0), even1), odd0), odd1)
    else:
        even, odd = tl.split(registers)
        amax = larger_magnitude(without_sign(even), odd)
    return tl.max(tl.reshape(bits_of(amax), A, B, THREADS * 2), 2, keep_dims=True)


@triton.jit
def without_sign(x):
    """|x|."""
    return tl.inline_asm_elementwise("abs.bf16x2 $0, $1;", "=r,r", [x], dtype=tl.bfloat16, is_pure=True, pack=2)


@triton.jit
def packed_scales(amax, FORMAT: tl.constexpr):
    """`rules.block_scales` by the bits of bfloat16s: bytes, and inverse scales as bfloat16s, which are NaN where the scale is.

    By those of float32s quantize takes 5 instructions more for 16 elements, and has 0.006 to 0.012 of a copy less, of MXINT8 across memory
    0.11 less (H200, torch 2.11, Triton 3.6).
    """
    exponent = (amax + ((0x7FFFFF - FORMAT[THRESHOLD]) >> 16)) >> 7
    if FORMAT[EMAX] == 0:
        subnormal = (amax + ((0x7FFFFF - ((FORMAT[THRESHOLD] + (1 << 23)) >> 1)) >> 16)) >> 7
        exponent = tl.minimum(tl.where(amax < 1 << 7, subnormal, exponent), 254)
    byte = tl.maximum(exponent - FORMAT[EMAX], 0)
    inverse = tl.where(is_nan(amax), 0x7FC0, tl.maximum((254 - byte) << 7, 0x40))
    return tl.where(is_nan(amax), 255, byte), inverse.to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def is_nan(amax):
    """Whether a block whose largest magnitude has these bits of a bfloat16 holds a NaN or an Inf."""
    return amax >= EXPONENT >> 16


@triton.jit
def round_packed(x, factor, limit, random, FORMAT: tl.constexpr):
    """The bits of |x| * factor, rounded to a value of the format, and no more than a limit."""
    if random is None:
        return round_packed_to_nearest(x, factor, limit, FORMAT)
    else:
        return round_packed_stochastically(x, factor, limit, random.to(tl.int16), FORMAT)


@triton.jit
def round_packed_to_nearest(x, factor, limit, FORMAT: tl.constexpr):
    """Ties to even: `rules.round_to_value`."""
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
        [x, factor, limit, both((FORMAT[EMIN] + 127) << 7), both((7 - FORMAT[MANTISSA_BITS]) << 7)],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def round_packed_stochastically(x, factor, limit, random, FORMAT: tl.constexpr):
    """By 16 random bits: `rules.whole_steps`."""
    cut, raised = cut_at_random(x, factor, random, FORMAT)
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y;
        fma.rn.bf16x2 y, $2, $4, $1;
        min.u16x2 $0, y, $3;
        }""",
        "=r,r,r,r,r",
        [cut, raised, limit, both(((FORMAT[EMIN] + 127) << 7) - 0x8000)],  # -2^emin
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def cut_at_random(x, factor, random, FORMAT: tl.constexpr):
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
            tl.full([], (FORMAT[EMIN] + 127) << 23, tl.int32),  # 2^emin, and the odd half above it
            tl.full([], ((FORMAT[EMIN] + 127) << 23) + (1 << (6 - FORMAT[MANTISSA_BITS])), tl.int32),
            tl.full([], 1 << (7 - FORMAT[MANTISSA_BITS]), tl.int32),
            both(-(1 << (7 - FORMAT[MANTISSA_BITS]))),
            both((FORMAT[EMAX] + 129) << 7),  # all quotients but NaN are less, and what it becomes is above all limits
        ],
        dtype=(tl.int16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def scale_up(rounded, scale, x, FORMAT: tl.constexpr):
    """A rounded magnitude times its scale, with the sign of x. In two's complement, which has no -0, 0 has none."""
    if FORMAT[TWOS_COMPLEMENT]:
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
