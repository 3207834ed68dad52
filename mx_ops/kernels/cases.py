"""Which kernel runs when: the whole dispatch as one table. ``python -m mx_ops.kernels`` prints it.

A call has the first row of its op and layout whose facts are all true of it.

Layouts, of the tensor that is read (of `dequantize`, the codes):

- along: elements of a block are side by side, and rows start at multiples of 16 bytes;
- across: rows are side by side, and a block lies across them;
- ragged: any other.

Parts are how a tile is held, `tile.py` says of which elements: in one, in 8, or in whole blocks, a part for each element of a block.
A share is of a copy's speed, measured in bfloat16 of 8192 x 16384 elements on an H100 (2.99 TB/s; torch 2.11, Triton 3.6) unless it is
said, with what else was tried.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..formats import Format
from ..symbols import known
from . import launch

WHOLE_BLOCKS = -1  # as a number of parts: as many as a block has elements
LONGEST_BLOCK = 32  # of which a thread holds two or four whole ones
LARGE = 1 << 25  # elements: whole tiles of smaller tensors have one size

# What may be true of a call.
FACTS = {
    "bf16x2": "the GPU has packed bfloat16 instructions (NVIDIA's from Hopper on), and they give the same bits: see `packs`",
    "nearest": "it rounds to nearest",
    "divides": "elements are quotients: the tensor has a scale",
    "two a byte": "a byte has two codes",
    "convert": "it rounds to FP8 to nearest, and the GPU has the instruction (NVIDIA's from Hopper on)",
    "16 bits": "values have 16 bits",
    "short": f"blocks are of at most {LONGEST_BLOCK}",
    "words": "the blocked dim is a multiple of eight: rows of codes start at whole words",
    "large": f"x has at least {LARGE} elements, and whole tiles",
}


class Case(NamedTuple):
    """A row: for which calls it is; how a tile is held, cut and worked; what was measured."""

    op: str
    layout: str
    facts: tuple[str, ...]
    parts: int
    packs: bool  # whether bfloat16s are worked two at a time if the call allows it
    elements: int  # of a tile
    elements_per_thread: int
    rows: int = 0  # of a tile, across: at most
    rows_first: bool = True  # whether the next program there has the next rows, or the next blocks
    measured: str = ""
    packed: bool = False  # as the call allows it
    converted: bool = False


B = WHOLE_BLOCKS
# fmt: off
CASES = (
    Case("fake_quant", "along", ("divides",), 1, False, 512, 16, measured=
         "1.00, seeded 0.81; float32 1.00, seeded 1.00. 32 elements a thread, seeded 0.79; 8, 0.71"),
    Case("fake_quant", "along", (), 1, False, 1024, 16, measured=
         "1.00, seeded 1.00. Tiles of 2048 1.00, 0.99; of 4096 and 8192 0.99, 0.93. 8 elements a thread, seeded 0.81; 32, 0.98 and 0.89"),
    Case("fake_quant", "across", ("bf16x2", "nearest", "short", "divides"), B, True, 4096, 64, 128, measured="0.99"),
    Case("fake_quant", "across", ("bf16x2", "nearest", "short"), B, True, 4096, 128, 128, measured=
         "0.99. 2 rows a thread 0.98; 64 rows 0.97; in 8 parts 0.985"),
    Case("fake_quant", "across", ("divides",), 8, True, 4096, 64, 128, measured=
         "float32 1.00, seeded 0.99; bfloat16, seeded 0.68. 64 rows, float32, seeded 0.90; tiles of 2048 0.87 to 0.93"),
    Case("fake_quant", "across", (), 8, True, 2048, 64, 64, measured=
         "seeded 0.985 to 0.99. 128 rows 0.98; 32 elements a thread 0.82 to 0.90; the next blocks in the next program 0.89"),
    Case("fake_quant", "ragged", (), 8, True, 2048, 32, measured="rows of 16383: 0.92. Tiles of 1024 0.90, of 4096 0.93"),
    Case("quantize", "along", ("divides",), 1, False, 2048, 16, measured="0.88, float32 1.02. 32 elements a thread 0.85 and 0.96"),
    Case("quantize", "along", ("two a byte",), 1, True, 4096, 32, measured="1.01; by the float32 rules, too, but 0.86 to 0.91 on an H200"),
    Case("quantize", "along", (), 1, True, 8192, 16, measured="1.01; by the float32 rules, too, but 0.86 to 0.91 on an H200"),
    Case("quantize", "across", ("bf16x2", "nearest", "short", "words", "divides"), B, True, 8192, 64, 128, False,
         "0.79. 64 rows 0.72"),
    Case("quantize", "across", ("bf16x2", "nearest", "short", "words"), B, True, 16384, 64, 128, False,
         "MXFP8 0.97, MXFP4 and MXINT8 0.985. Tiles of 8192 0.97, 0.98; of 32768 0.98, 0.92 and 0.94"),
    Case("quantize", "across", ("divides",), 8, False, 4096, 32, 64, False, "float32 0.96. 64 elements a thread 0.82"),
    Case("quantize", "across", (), 8, True, 4096, 64, 64, False, "MXFP8 0.88, MXFP4 0.83. The next rows in the next program 0.86, 0.84"),
    Case("quantize", "ragged", ("divides",), 8, False, 2048, 32, measured="bfloat16 two at a time takes 2.5% more instructions"),
    Case("quantize", "ragged", (), 8, True, 2048, 32, measured="rows of 16383: 0.85. Tiles of 1024 0.825, of 4096 0.80"),
    Case("dequantize", "along", ("16 bits",), 1, False, 2048, 8, measured=
         "MXFP8 0.99, MXFP4 0.98. Half as many threads 0.985, 0.98; no prefetch 0.975 both; nothing evicted first 0.004 to 0.007 less"),
    Case("dequantize", "along", (), 1, False, 1024, 4, measured="float32: MXFP8 0.98, MXFP4 0.97, where mere casts have 0.967 and 0.959"),
    Case("dequantize", "across", (), 8, False, 4096, 64, 128, False, "0.89. 64 rows 0.84 and 0.89; the next rows in the next 0.85, 0.83"),
    Case("dequantize", "ragged", (), 8, False, 2048, 32, measured="rows of 16383: 0.92. Tiles of 1024 0.86, of 4096 0.85"),
    Case("quantize_both", "across", ("convert", "16 bits", "bf16x2", "large"), 8, True, 32768, 128, 128, False, "as below"),
    Case("quantize_both", "across", ("convert", "16 bits"), 8, True, 16384, 128, 128, False,
         "MXFP8 0.89 to 0.90. Tiles of half 0.89; 64 elements a thread 0.87; twice the tile and the threads 0.885; 256 rows 0.87"),
    Case("quantize_both", "across", ("divides",), 8, True, 4096, 32, 64, measured="0.40, float32 0.66. 64 elements a thread 0.38, 0.48"),
    Case("quantize_both", "across", (), 8, True, 8192, 64, 128, measured=
         "MXFP4 0.88 to 0.91, MXFP6 and MXINT8 0.87 to 0.89; float32 0.95 to 0.97, 0.94 and 0.945, MXFP8 0.955. The next blocks in the "
         "next program 0.86, 0.875, float32 0.91 and 0.93; 64 rows 0.86"),
)
# fmt: on


def choose(op: str, layout: str, x: Tensor, seeded: bool, fmt: Format, dim: int, block_size: int) -> Case | None:
    """The row for a call, with what it allows; ``x`` is the tensor that is quantized, or that has the values. None if there is none."""
    packed, converted = packs(op, x, seeded, fmt), op.startswith("quantize") and converts(fmt, seeded, x.device)
    facts = {
        "bf16x2": packed,
        "nearest": not seeded,
        "divides": fmt.divides,
        "two a byte": fmt.codes_per_byte == 2,
        "convert": converted,
        "16 bits": x.itemsize == 2,
        "short": block_size <= LONGEST_BLOCK,
        "words": known(x.shape[dim] % 8 == 0),
        "large": known(x.shape[dim] % 256 == 0) and known(x.numel() >= LARGE),
    }
    for case in CASES:
        if case.op == op and case.layout == layout and all(facts[fact] for fact in case.facts):
            return case._replace(packed=case.packs and packed, converted=converted)
    return None


def packs(op: str, x: Tensor, seeded: bool, fmt: Format) -> bool:
    """Whether packed bfloat16 instructions give a call's bits: under a scale that is a power of two, or where quotients round to nearest.

    For codes along two dims, other dtypes become bfloat16s that are rounded to odd, of formats that round on from there as from x.
    """
    if not launch.has_bf16x2(x.device):
        return False
    if op == "quantize_both":
        return not fmt.divides and (x.dtype == torch.bfloat16 or (not seeded and fmt.rounds_from_odd))
    return x.dtype == torch.bfloat16 and not (fmt.divides and seeded)


def converts(fmt: Format, seeded: bool, device: torch.device) -> bool:
    """Whether an instruction rounds to FP8: to nearest, to a format that it knows, on a device that has it."""
    return fmt.converts and not seeded and launch.has_bf16x2(device)


def table() -> str:
    """The table in Markdown."""
    lines = ["| op | layout | if | parts | bf16x2 | elements | a thread | rows | next program | share of a copy |", "|" + " --- |" * 10]
    for case in CASES:
        cells = (
            case.op,
            case.layout,
            ", ".join(case.facts) or "else",
            "a block's" if case.parts == WHOLE_BLOCKS else case.parts,
            "if it can" if case.packs else "no",
            case.elements,
            case.elements_per_thread,
            case.rows or "",
            ("rows" if case.rows_first else "blocks") if case.layout == "across" else "",
            case.measured,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
