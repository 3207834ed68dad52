"""FP8 by an instruction that NVIDIA's GPUs have, as they have those of `bf16x2`: it rounds two float32s to nearest.

It saturates and keeps the sign; a NaN becomes 0x7F, which is the code of NaN here too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rules import MANTISSA_BITS, to_float32

# Only a GPU shows: what the instruction does (test_on_gpu::test_every_bfloat16_by_packed_instructions, and of float32s).

# In one line: torch 2.11 puts constants into the code that it writes, and there breaks their lines.
CONVERT = (
    "{ .reg .b16 low, high; cvt.rn.satfinite.FP8x2.f32 low, $2, $1; cvt.rn.satfinite.FP8x2.f32 high, $4, $3; mov.b32 $0, {low, high}; }"
)
TO_E4M3 = tl.constexpr(CONVERT.replace("FP8", "e4m3"))
TO_E5M2 = tl.constexpr(CONVERT.replace("FP8", "e5m2"))


@triton.jit
def words_of_fp8(parts, factor, FORMAT: tl.constexpr):
    """The codes of a tuple of elements times a factor as words of four: `quantize.words_of_codes`."""
    words = ()
    for j in tl.static_range(0, len(parts), 4):
        words = words + (word_of_fp8(parts[j], parts[j + 1], parts[j + 2], parts[j + 3], factor, FORMAT),)
    return words


@triton.jit
def word_of_fp8(x0, x1, x2, x3, factor, FORMAT: tl.constexpr):
    """Four elements times a factor as the bytes of a word."""
    y0, y1, y2, y3 = multiplied(x0, factor), multiplied(x1, factor), multiplied(x2, factor), multiplied(x3, factor)
    CONVERSION: tl.constexpr = TO_E4M3 if FORMAT[MANTISSA_BITS] == 3 else TO_E5M2
    return tl.inline_asm_elementwise(CONVERSION, "=r,r,r,r,r", [y0, y1, y2, y3], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def bytes_of_fp8(x, factor, FORMAT: tl.constexpr):
    """Elements times a factor, of which four are neighbours in a thread."""
    CONVERSION: tl.constexpr = TO_E4M3 if FORMAT[MANTISSA_BITS] == 3 else TO_E5M2
    return tl.inline_asm_elementwise(CONVERSION, "=r,r,r,r,r", [multiplied(x, factor)], dtype=tl.uint8, is_pure=True, pack=4)


@triton.jit
def multiplied(x, factor):
    """Elements times a factor, as float32s. The factor is one, or a bfloat16 where they are, and two of these are multiplied at once."""
    if factor.dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 y;
            mul.rn.bf16x2 y, $2, $3;
            shl.b32 $0, y, 16;
            and.b32 $1, y, 0xFFFF0000;
            }""",
            "=r,=r,r,r",
            [x, factor],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return to_float32(x) * factor
