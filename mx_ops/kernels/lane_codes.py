"""quantize for bfloat16 two at a time: the codes, and the bytes and words that they become.

A code is made in the low byte of its lane. In a NaN block, whose factor is NaN, every quotient is. A mask says, once a word, what is kept
of its codes: nothing where no code is NaN; of FP8 all but the signs, for the limit there is NaN's code, and it is what is left of bits
that are above those of all numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .lanes import cut_at_random, is_nan, lane
from .numerics import MOST_LINES

# Only a GPU shows: what the instructions do (test_on_gpu::test_every_bfloat16_by_packed_instructions).

BITS_OF_128 = tl.constexpr(0x4300)  # the bfloat16 whose last mantissa bit is worth 1: added to it, a code stands in its low bits
LOW_BYTES, HIGH_BYTES = tl.constexpr(0x6240), tl.constexpr(0x7351)  # of two words of lanes: lane by lane, one of each


@triton.jit
def bytes_of(bits: tl.constexpr):
    """A word of four such bytes."""
    return tl.full([], bits * 0x01010101 - (bits // 128 << 32), tl.int32)


@triton.jit
def code_bounds(amax, LARGEST_CODE: tl.constexpr, NAN_CODE: tl.constexpr):
    """The largest code of blocks with these largest magnitudes, in lanes, and the bits of a word of codes that are kept."""
    limit = lane(BITS_OF_128.value + LARGEST_CODE)
    if NAN_CODE != 0:
        limit = tl.where(is_nan(amax), lane(BITS_OF_128.value + NAN_CODE), limit)
    return limit, tl.where(is_nan(amax), bytes_of(NAN_CODE), -1)


@triton.jit
def words_in_lanes(
    x,
    random,
    factor,
    limit,
    kept,
    BITS: tl.constexpr,
    CODES_PER_BYTE: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """The codes of a tuple of elements of blocks as words of four or eight: `pieces.words_of_codes`. ``random`` is as long, or empty."""
    CODES: tl.constexpr = 4 * CODES_PER_BYTE
    words = ()
    for j in tl.static_range(len(x) // CODES):
        codes = tuple_of_codes(x, random, CODES * j, CODES, factor, limit, MANTISSA_BITS, EMIN, EMAX, TWOS_COMPLEMENT)
        if CODES_PER_BYTE == 1:
            word = word_of_bytes(codes[0], codes[1], codes[2], codes[3], LOW_BYTES)
            if not TWOS_COMPLEMENT:
                signs = word_of_bytes(x[4 * j], x[4 * j + 1], x[4 * j + 2], x[4 * j + 3], HIGH_BYTES) >> (8 - BITS)
                word |= signs & bytes_of(1 << (BITS - 1))
        else:
            word = word_of_bytes(
                two_nibbles(codes[0], codes[1], x[8 * j], x[8 * j + 1]),
                two_nibbles(codes[2], codes[3], x[8 * j + 2], x[8 * j + 3]),
                two_nibbles(codes[4], codes[5], x[8 * j + 4], x[8 * j + 5]),
                two_nibbles(codes[6], codes[7], x[8 * j + 6], x[8 * j + 7]),
                LOW_BYTES,
            )
        words = words + (word & kept,)
    return words


@triton.jit
def tuple_of_codes(
    x,
    random,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    factor,
    limit,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """`lane_codes` of some elements of a tuple."""
    codes = ()
    for j in tl.static_range(FIRST, FIRST + COUNT):
        bits = None
        if len(random) > 0:
            bits = random[j]
        codes = codes + (lane_codes(x[j], bits, factor, limit, MANTISSA_BITS, EMIN, EMAX, TWOS_COMPLEMENT),)
    return codes


@triton.jit
def bytes_in_lanes(
    x,
    random,
    factor,
    limit,
    kept,
    BITS: tl.constexpr,
    CODES_PER_BYTE: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """The codes of elements that are neighbours along the last of three axes, as bytes."""
    codes = lane_codes(x, random, factor, limit, MANTISSA_BITS, EMIN, EMAX, TWOS_COMPLEMENT)
    if CODES_PER_BYTE == 1:
        return low_bytes(codes, x, kept.to(tl.int8), BITS, TWOS_COMPLEMENT)
    else:
        codes = with_sign_bit(codes, x)
        first, second = tl.split(tl.reshape(codes, codes.shape[0], codes.shape[1], codes.shape[2] // 2, 2))
        return bytes_of_nibbles(first, second, kept.to(tl.int8))


@triton.jit
def lane_codes(
    x,
    random,
    factor,
    limit,
    MANTISSA_BITS: tl.constexpr,
    EMIN: tl.constexpr,
    EMAX: tl.constexpr,
    TWOS_COMPLEMENT: tl.constexpr,
):
    """The codes of |x| * factor, at most a limit; in two's complement they have the sign of x."""
    if random is not None:
        code = round_lanes_to_code_stochastically(x, factor, limit, random.to(tl.int16), MANTISSA_BITS, EMIN, EMAX)
    elif EMAX - EMIN == 2 and MANTISSA_BITS == 1:
        code = round_lanes_to_code_by_three_lines(x, factor, EMIN)
    elif EMAX - EMIN < MOST_LINES:
        code = round_lanes_to_code_by_lines(x, factor, limit, MANTISSA_BITS, EMIN, EMAX)
    else:
        code = round_lanes_to_code(x, factor, limit, MANTISSA_BITS, EMIN)
    if TWOS_COMPLEMENT:
        code = negative_where(x, code)
    return code


@triton.jit
def round_lanes_to_code(x, factor, limit, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr):
    """`numerics.round_to_code`, with 128 for 2^23."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y, exponent, binade;
        abs.bf16x2 y, $1;
        mul.rn.bf16x2 y, y, $2;
        and.b32 exponent, y, 0x7F807F80;
        max.u16x2 exponent, exponent, $4;
        shr.s32 binade, exponent, $7;
        add.u32 binade, binade, $6;
        sub.u32 exponent, $5, exponent;
        fma.rn.bf16x2 y, y, exponent, binade;
        min.u16x2 $0, y, $3;
        }""",
        "=r,r,r,r,r,r,r,r,r",
        [
            x,
            factor,
            limit,
            lane((EMIN + 127) << 7),
            lane((127 + MANTISSA_BITS + 127) << 7),
            lane(BITS_OF_128.value - ((EMIN + 127) << MANTISSA_BITS)),
            tl.full([], 7 - MANTISSA_BITS, tl.int32),
        ],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def round_lanes_to_code_by_lines(x, factor, limit, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr, EMAX: tl.constexpr):
    """The same where there are few binades: before it is rounded, a code is the least of one line a binade, as it grows ever slower."""
    y = magnitude_times(x, factor)
    code = limit
    for k in tl.static_range(EMAX - EMIN + 1):
        code = below_line(code, y, lane((127 + MANTISSA_BITS - EMIN - k) << 7), lane(BITS_OF_128.value + (k << MANTISSA_BITS)))
    return code


@triton.jit
def round_lanes_to_code_by_three_lines(x, factor, EMIN: tl.constexpr):
    """The same where there are three binades of two codes each, which need no limit.

    Of the last binade the line may be any that meets, or misses by less than an ulp of y, the midpoint of its codes. Here it is one that
    stays under the largest code and a half up to 2^(emax + 1), which no quotient reaches.
    """
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y, code, line;
        abs.bf16x2 y, $1;
        mul.rn.bf16x2 y, y, $2;
        fma.rn.bf16x2 code, y, $3, $4;
        fma.rn.bf16x2 line, y, $5, $6;
        min.u16x2 code, code, line;
        fma.rn.bf16x2 line, y, $7, $8;
        min.u16x2 $0, code, line;
        }""",
        "=r,r,r,r,r,r,r,r,r",
        [
            x,
            factor,
            lane((128 - EMIN) << 7),  # a code a half of 2^emin
            lane(BITS_OF_128.value),
            lane((127 - EMIN) << 7),
            lane(BITS_OF_128.value + 2),
            lane(((123 - EMIN) << 7) + 0x4C),  # 0.0996 codes 2^emin: from 5 of those on, 6.5 and more
            lane(BITS_OF_128.value + 6),
        ],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def magnitude_times(x, factor):
    """|x| * factor."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y;
        abs.bf16x2 y, $1;
        mul.rn.bf16x2 $0, y, $2;
        }""",
        "=r,r,r",
        [x, factor],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def below_line(code, y, slope, offset):
    """The smaller of a code and y * slope + offset, rounded to nearest even."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 line;
        fma.rn.bf16x2 line, $2, $3, $4;
        min.u16x2 $0, $1, line;
        }""",
        "=r,r,r,r,r",
        [code, y, slope, offset],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def round_lanes_to_code_stochastically(x, factor, limit, random, MANTISSA_BITS: tl.constexpr, EMIN: tl.constexpr, EMAX: tl.constexpr):
    """As `lanes.cut_at_random` does it; what that has raised by a binade is a code of the first."""
    cut, raised = cut_at_random(x, factor, random, MANTISSA_BITS, EMIN, EMAX)
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 y, binade;
        and.b32 binade, $2, 0x00800080;
        sub.u32 y, $1, binade;
        shr.s32 y, y, $5;
        add.u32 y, y, $4;
        min.u16x2 $0, y, $3;
        }""",
        "=r,r,r,r,r,r,r",
        [cut, raised, limit, lane(BITS_OF_128.value - ((EMIN + 126) << MANTISSA_BITS)), tl.full([], 7 - MANTISSA_BITS, tl.int32)],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def negative_where(x, code):
    """The code, negative where x is."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 negative, flipped;
        prmt.b32 negative, $1, 0, 0xBB99;
        and.b32 flipped, $2, 0x00FF00FF;
        xor.b32 flipped, flipped, negative;
        and.b32 negative, negative, 0x00010001;
        add.u16x2 $0, flipped, negative;
        }""",
        "=r,r,r",
        [x, code],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def low_bytes(code, x, kept, BITS: tl.constexpr, TWOS_COMPLEMENT: tl.constexpr):
    """Those bits of the low bytes of lanes that are kept, with the sign of x at a sign bit."""
    SIGN_BIT: tl.constexpr = 0 if TWOS_COMPLEMENT else 1 << (BITS - 1)
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 codes, signs;
        prmt.b32 codes, $1, $2, 0x6420;
        prmt.b32 signs, $3, $4, 0x7531;
        shr.u32 signs, signs, $6;
        lop3.b32 codes, signs, $10, codes, 0xEA;
        and.b32 $0, codes, $5;
        }""",
        "=r,r,r,r,r,r,r,r,r,r,r,r,r,r",
        [code, x, kept, tl.full([], 8 - BITS, tl.int32), bytes_of(SIGN_BIT)],
        dtype=tl.uint8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def word_of_bytes(lanes0, lanes1, lanes2, lanes3, SELECT: tl.constexpr):
    """A byte of each of four lanes as a word."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b;
        prmt.b32 a, $2, $3, $6;
        prmt.b32 b, $4, $5, $6;
        prmt.b32 $0, a, b, 0x5410;
        prmt.b32 $1, a, b, 0x7632;
        }""",
        "=r,=r,r,r,r,r,r,r",
        [lanes0, lanes1, lanes2, lanes3, tl.full([], SELECT, tl.int32)],
        dtype=tl.int32,
        is_pure=True,
        pack=2,
    )


@triton.jit
def with_sign_bit(code, x):
    """A code of four bits with the sign of x."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 signs;
        shr.u32 signs, $2, 12;
        lop3.b32 $0, signs, 0x00080008, $1, 0xEA;
        }""",
        "=r,r,r",
        [code, x],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def two_nibbles(code, next_code, x, next_x):
    """Two codes of four bits, with the signs of their elements, as the half-bytes of a lane's low byte."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 first, second;
        shr.u32 first, $3, 12;
        lop3.b32 first, first, 0x00080008, $1, 0xEA;
        shr.u32 second, $4, 12;
        lop3.b32 second, second, 0x00080008, $2, 0xEA;
        mul.lo.u32 second, second, 16;
        lop3.b32 $0, first, second, 0x000F000F, 0xE4;
        }""",
        "=r,r,r,r,r",
        [code, next_code, x, next_x],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def bytes_of_nibbles(code, next_code, kept):
    """Those bits that are kept of two codes, as the half-bytes of a byte."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b;
        mul.lo.u32 a, $3, 16;
        lop3.b32 a, $1, a, 0x000F000F, 0xE4;
        mul.lo.u32 b, $4, 16;
        lop3.b32 b, $2, b, 0x000F000F, 0xE4;
        prmt.b32 a, a, b, 0x6420;
        and.b32 $0, a, $5;
        }""",
        "=r,r,r,r,r,r",
        [code, next_code, kept],
        dtype=tl.uint8,
        is_pure=True,
        pack=4,
    )
