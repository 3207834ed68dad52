"""quantize for bfloat16 two at a time: the codes, and the bytes and words that they become.

A code is made in the low byte of its half of a register. In a NaN block the factor is NaN, and so is every quotient. It becomes bits above
those of all codes, which a limit cuts. Then a mask says which bits of a word of codes are kept. Where no code is NaN it keeps none. FP8 has
such a code: there it is the limit of a NaN block, and the mask keeps all bits but the signs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .bf16x2 import both, cut_at_random
from .rules import BITS, CODES_PER_BYTE, EMAX, EMIN, LARGEST_CODE, MANTISSA_BITS, MOST_LINES, NAN_CODE, TWOS_COMPLEMENT

# Only a GPU shows: what the instructions do (test_on_gpu::test_every_bfloat16_by_packed_instructions).

BITS_OF_128 = tl.constexpr(0x4300)  # the bfloat16 whose last mantissa bit is worth 1: added to it, a code stands in its low bits
LOW_BYTES, HIGH_BYTES = tl.constexpr(0x6240), tl.constexpr(0x7351)  # of two registers: half by half, one of each


@triton.jit
def bytes_of(bits: tl.constexpr):
    """A word of four such bytes."""
    return tl.full([], bits * 0x01010101 - (bits // 128 << 32), tl.int32)


@triton.jit
def code_bounds(nan, FORMAT: tl.constexpr):
    """The largest code of blocks that are NaN or not, in both halves, and the bits of a word of codes that are kept."""
    limit = both(BITS_OF_128.value + FORMAT[LARGEST_CODE])
    if FORMAT[NAN_CODE] != 0:
        limit = tl.where(nan, both(BITS_OF_128.value + FORMAT[NAN_CODE]), limit)
    return limit, tl.where(nan, bytes_of(FORMAT[NAN_CODE]), -1)


@triton.jit
def words_of_packed(
    x,
    random,
    factor,
    limit,
    kept,
    FORMAT: tl.constexpr,
):
    """The codes of a tuple of elements of blocks as words of four or eight: `quantize.words_of_codes`. ``random`` is as long, or empty."""
    CODES: tl.constexpr = 4 * FORMAT[CODES_PER_BYTE]
    words = ()
    for j in tl.static_range(len(x) // CODES):
        codes = tuple_of_codes(x, random, CODES * j, CODES, factor, limit, FORMAT)
        if FORMAT[CODES_PER_BYTE] == 1:
            word = word_of_bytes(codes[0], codes[1], codes[2], codes[3], LOW_BYTES)
            if not FORMAT[TWOS_COMPLEMENT]:
                signs = word_of_bytes(x[4 * j], x[4 * j + 1], x[4 * j + 2], x[4 * j + 3], HIGH_BYTES) >> (8 - FORMAT[BITS])
                word |= signs & bytes_of(1 << (FORMAT[BITS] - 1))
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
    FORMAT: tl.constexpr,
):
    """`packed_codes` of some elements of a tuple."""
    codes = ()
    for j in tl.static_range(FIRST, FIRST + COUNT):
        bits = None
        if len(random) > 0:
            bits = random[j]
        codes = codes + (packed_codes(x[j], bits, factor, limit, FORMAT),)
    return codes


@triton.jit
def bytes_of_packed(
    x,
    random,
    factor,
    limit,
    kept,
    FORMAT: tl.constexpr,
):
    """The codes of elements that are neighbours along the last of three axes, as bytes."""
    codes = packed_codes(x, random, factor, limit, FORMAT)
    if FORMAT[CODES_PER_BYTE] == 1:
        return low_bytes(codes, x, kept.to(tl.int8), FORMAT)
    else:
        codes = with_sign_bit(codes, x)
        first, second = tl.split(tl.reshape(codes, codes.shape[0], codes.shape[1], codes.shape[2] // 2, 2))
        return bytes_of_nibbles(first, second, kept.to(tl.int8))


@triton.jit
def packed_codes(
    x,
    random,
    factor,
    limit,
    FORMAT: tl.constexpr,
):
    """The codes of |x| * factor, at most a limit; in two's complement they have the sign of x."""
    if random is not None:
        code = round_packed_to_code_stochastically(x, factor, limit, random.to(tl.int16), FORMAT)
    elif FORMAT[EMAX] - FORMAT[EMIN] == 2 and FORMAT[MANTISSA_BITS] == 1:
        code = round_packed_to_code_by_three_lines(x, factor, FORMAT)
    elif FORMAT[EMAX] - FORMAT[EMIN] < MOST_LINES:
        code = round_packed_to_code_by_lines(x, factor, limit, FORMAT)
    else:
        code = round_packed_to_code(x, factor, limit, FORMAT)
    if FORMAT[TWOS_COMPLEMENT]:
        code = negative_where(x, code)
    return code


@triton.jit
def round_packed_to_code(x, factor, limit, FORMAT: tl.constexpr):
    """`rules.round_to_code`, with 128 for 2^23."""
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
            both((FORMAT[EMIN] + 127) << 7),
            both((127 + FORMAT[MANTISSA_BITS] + 127) << 7),
            both(BITS_OF_128.value - ((FORMAT[EMIN] + 127) << FORMAT[MANTISSA_BITS])),
            tl.full([], 7 - FORMAT[MANTISSA_BITS], tl.int32),
        ],
        dtype=tl.int16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def round_packed_to_code_by_lines(x, factor, limit, FORMAT: tl.constexpr):
    """The same where there are few binades: before it is rounded, a code is the least of one line a binade, as it grows ever slower."""
    y = magnitude_times(x, factor)
    code = limit
    for k in tl.static_range(FORMAT[EMAX] - FORMAT[EMIN] + 1):
        code = below_line(
            code, y, both((127 + FORMAT[MANTISSA_BITS] - FORMAT[EMIN] - k) << 7), both(BITS_OF_128.value + (k << FORMAT[MANTISSA_BITS]))
        )
    return code


@triton.jit
def round_packed_to_code_by_three_lines(x, factor, FORMAT: tl.constexpr):
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
            both((128 - FORMAT[EMIN]) << 7),  # a code a half of 2^emin
            both(BITS_OF_128.value),
            both((127 - FORMAT[EMIN]) << 7),
            both(BITS_OF_128.value + 2),
            both(((123 - FORMAT[EMIN]) << 7) + 0x4C),  # 0.0996 codes 2^emin: from 5 of those on, 6.5 and more
            both(BITS_OF_128.value + 6),
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
def round_packed_to_code_stochastically(x, factor, limit, random, FORMAT: tl.constexpr):
    """As `bf16x2.cut_at_random` does it; what that has raised by a binade is a code of the first."""
    cut, raised = cut_at_random(x, factor, random, FORMAT)
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
        [
            cut,
            raised,
            limit,
            both(BITS_OF_128.value - ((FORMAT[EMIN] + 126) << FORMAT[MANTISSA_BITS])),
            tl.full([], 7 - FORMAT[MANTISSA_BITS], tl.int32),
        ],
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
def low_bytes(code, x, kept, FORMAT: tl.constexpr):
    """Those bits of the low bytes of lanes that are kept, with the sign of x at a sign bit."""
    SIGN_BIT: tl.constexpr = 0 if FORMAT[TWOS_COMPLEMENT] else 1 << (FORMAT[BITS] - 1)
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
        [code, x, kept, tl.full([], 8 - FORMAT[BITS], tl.int32), bytes_of(SIGN_BIT)],
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
