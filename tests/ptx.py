"""As much of PTX as the kernels have: their inline assembly on arrays, where Triton's interpreter has none.

Which elements share a register is the compiler's choice. Here chance chooses, so that what leaned on neighbours would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray
CANONICAL_NAN = 0x7FFF


def run(asm: str, constraints: str, values: list[Array], dtypes: list[np.dtype], pack: int) -> list[Array]:
    """The results of ``tl.inline_asm_elementwise`` for arrays of one shape."""
    shape = np.broadcast_shapes(*[value.shape for value in values])
    count = int(np.prod(shape))
    order = np.random.default_rng(count).permutation(-(-count // pack) * pack) % count  # the last register is filled up
    registers: dict[str, Array] = {}
    outputs = constraints.count("=")
    for value in values:
        for register in split(np.broadcast_to(value, shape).reshape(-1)[order].reshape(-1, pack)):
            registers[f"${outputs + len(registers)}"] = register
    assert outputs + len(registers) == constraints.count("r")
    execute(asm, registers)
    results, used = [], 0
    for dtype in dtypes:
        needed = pack * dtype.itemsize // 4
        packed = merge([registers[f"${k}"] for k in range(used, used + needed)], dtype)
        used += needed
        result = np.empty(count, dtype)
        result[order] = packed.reshape(-1)
        results.append(result.reshape(shape))
    assert used == outputs
    return results


def split(elements: Array) -> list[Array]:
    """Elements [n, pack] as registers of 32 bits."""
    return list(np.ascontiguousarray(elements).view(np.uint32).T)


def merge(registers: list[Array], dtype: np.dtype) -> Array:
    """The inverse of `split`."""
    return np.ascontiguousarray(np.stack(registers, 1)).view(dtype)


def execute(asm: str, registers: dict[str, Array]) -> None:
    """Run the instructions, one a line."""
    for line in asm.strip().strip("{}").split(";"):
        instruction = line.strip()
        if not instruction or instruction.startswith(".reg"):
            continue
        name, _, operands = instruction.partition(" ")
        target, *sources = re.findall(r"\{[^}]*\}|[^,\s]+", operands)
        registers[target] = INSTRUCTIONS[name](*[operand(source, registers) for source in sources])


def operand(text: str, registers: dict[str, Array]) -> Array:
    """A register, two of 16 bits in braces, or a number."""
    if text.startswith("{"):
        low, high = (registers[name] for name in re.findall(r"\w+", text))
        return low | high << np.uint32(16)
    return registers[text] if text in registers else np.uint32(int(text, 0))


def lanes(function: Callable[..., Array]) -> Callable[..., Array]:
    """An instruction on 16 bits, for both halves of registers."""

    def both(*values: Array) -> Array:
        low, high = (
            function(*[half(value) & np.uint32(0xFFFF) for value in values]) for half in (lambda v: v, lambda v: v >> np.uint32(16))
        )
        return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)

    return both


def from_bfloat16(bits: Array) -> Array:
    """The values of bfloat16s, float64."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def to_bfloat16(value: Array) -> Array:
    """The bits of the bfloat16s nearest to float64s, ties to even."""
    _, exponent = np.frexp(value)
    quantum = np.ldexp(1.0, np.maximum(exponent - 1, -126) - 7)
    rounded = (np.rint(value / quantum) * quantum).astype(np.float32)
    return np.where(np.isnan(value), CANONICAL_NAN, rounded.view(np.uint32) >> np.uint32(16))


def bfloat16(function: Callable[..., Array]) -> Callable[..., Array]:
    """An instruction on bfloat16s that rounds once: of so few bits float64 loses none that matters."""
    return lanes(lambda *values: to_bfloat16(function(*map(from_bfloat16, values))))


def as_float(bits: Array) -> Array:
    """The values of float32s, float64."""
    return np.asarray(bits, np.uint32).view(np.float32).astype(np.float64)


def fma_rz(a: Array, b: Array, c: Array) -> Array:
    """The sum of a product and c in float32, rounded towards zero."""
    exact = as_float(a) * as_float(b) + as_float(c)
    rounded = exact.astype(np.float32)
    beyond = np.abs(rounded.astype(np.float64)) > np.abs(exact)
    return np.where(beyond, np.nextafter(rounded, np.float32(0)), rounded).astype(np.float32).view(np.uint32)


def lop3(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Any function of three bits, by its table."""
    result = a & np.uint32(0)
    for k in range(8):
        if int(table) >> k & 1:
            result = result | ((a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c))
    return result


def prmt(a: Array, b: Array, selector: Array) -> Array:
    """Four bytes of eight; or for each its top bit, eight times."""
    selector = int(np.ravel(selector)[0])
    result = np.uint32(0)
    for k in range(4):
        choice = selector >> (4 * k) & 15
        byte = (b if choice & 4 else a) >> np.uint32(8 * (choice & 3)) & np.uint32(0xFF)
        if choice & 8:
            byte = (byte >> np.uint32(7)) * np.uint32(0xFF)
        result = result | byte << np.uint32(8 * k)
    return result


def fp8(dtype: Any, largest: float) -> Callable[[Array, Array], Array]:
    """Two float32s as FP8, saturated; the second is the low byte."""

    def convert(high: Array, low: Array) -> Array:
        codes = [np.clip(as_float(bits), -largest, largest).astype(np.float32).astype(dtype).view(np.uint8) for bits in (high, low)]
        codes = [np.where(np.isnan(as_float(bits)), 0x7F, code).astype(np.uint32) for bits, code in zip((high, low), codes)]
        return codes[0] << np.uint32(8) | codes[1]

    return convert


INSTRUCTIONS: dict[str, Callable[..., Array]] = {
    "mov.b32": lambda a: a,
    "and.b32": lambda a, b: a & b,
    "or.b32": lambda a, b: a | b,
    "xor.b32": lambda a, b: a ^ b,
    "lop3.b32": lop3,
    "prmt.b32": prmt,
    "shl.b32": lambda a, b: a << b,
    "shr.u32": lambda a, b: a >> b,
    "shr.s32": lambda a, b: (a.view(np.int32) >> b.astype(np.int32)).view(np.uint32),
    "add.u32": lambda a, b: a + b,
    "sub.u32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "mad.lo.u32": lambda a, b, c: a * b + c,
    "add.u16x2": lanes(lambda a, b: (a + b) & np.uint32(0xFFFF)),
    "min.u16x2": lanes(np.minimum),
    "max.u16x2": lanes(np.maximum),
    "abs.bf16x2": lanes(lambda a: a & np.uint32(0x7FFF)),
    "max.NaN.bf16x2": bfloat16(np.maximum),
    "mul.rn.bf16x2": bfloat16(np.multiply),
    "add.rn.bf16x2": bfloat16(np.add),
    "sub.rn.bf16x2": bfloat16(np.subtract),
    "fma.rn.bf16x2": bfloat16(lambda a, b, c: a * b + c),
    "set.lt.f32.f32": lambda a, b: np.where(as_float(a) < as_float(b), np.uint32(0x3F800000), np.uint32(0)),
    "fma.rz.f32": fma_rz,
    "cvt.rn.satfinite.e4m3x2.f32": fp8(ml_dtypes.float8_e4m3fn, 448.0),
    "cvt.rn.satfinite.e5m2x2.f32": fp8(ml_dtypes.float8_e5m2, 57344.0),
}
