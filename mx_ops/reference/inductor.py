"""What a graph for Inductor needs beyond the rules: steps that its C++ computes in vectors, and outputs whose strides are symbols.

**Vectors.** Where `in_vectors` says so, a traced op takes other steps to the same bits, for four reasons:

- Inductor's C++ has no vectors of int16, and a loop that holds one int16 has no vectors at all. So bfloat16s are handled as float32s, and
  `round_to_bfloat16` does what the missing conversion would. (For float16 that takes more; float16 goes without vectors.)
- It reduces vectors of int32 through memory, and vectors of float32 in registers. So a block's maximum is taken of float32s.
- It computes a block's scale again for each vector. It reinterprets bits through memory, which is slow in the longer vectors of a loop over
  bfloat16s. And it packs codes that share a byte without vectors. So scales, quotients and codes are `stored` before they are used; what a
  loop stores and then reads, the C++ compiler keeps in registers.

One core (AMD EPYC with AVX-512, torch 2.13), bfloat16 2048x4096 along the last dim, in ms:

    steps                        the rules'  these
    quantize to MXFP8 E4M3             29.7    6.7   (torchao: 7.7)
    quantize to MXFP4                  46.2    8.5
    fake_quant to MXFP8 E4M3           27.9    9.2
    dequantize                         25.6    5.2
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..formats import Format
from ..symbols import first, has_unbacked, memory_order
from . import rules
from .chunks import in_rows
from .rules import ScaledBlocks

BITS = {2: torch.int32, 4: torch.int32}  # what holds the sign of a dtype of this size


def in_vectors(x: Tensor) -> bool:
    """Whether Inductor's C++ can compute in vectors what becomes of x, or x itself.

    The device is the one on which the graph is traced. The graph may run on another: the bits are the same.
    """
    return x.device.type == "cpu" and x.dtype != torch.float16


def round_to_bfloat16(x: Tensor) -> Tensor:
    """The bfloat16s nearest to float32s, ties to even, as float32s."""
    bits = x.view(torch.int32)
    nearest = ((bits + (0x7FFF + ((bits >> 16) & 1))) & -0x10000).view(torch.float32)
    return torch.where(x != x, x, nearest)  # Inductor's C++ has no vectors for isnan


def magnitude_and_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """As in the rules, but the sign has 32 bits."""
    return rules.magnitude_and_sign(round_to_bfloat16(x.to(torch.float32)) if x.dtype == torch.bfloat16 else x)


def with_sign(value: Tensor, sign: Tensor, dtype: torch.dtype) -> Tensor:
    """As in the rules, of a sign of 32 bits."""
    signed = rules.with_sign(value, sign, torch.float32)
    return signed if dtype == torch.float32 else round_to_bfloat16(signed).to(dtype)


def stored(x: Tensor) -> Tensor:
    """The same, as a value that Inductor stores: it stores what as_strided views.

    It is x itself where a stride holds an unbacked symbol, for Inductor does not keep to such strides (see `write`).
    """
    return x if has_unbacked(x.stride()) else x.as_strided(x.shape, x.stride())


def scale_blocks(x: Tensor, tensor_scale: Tensor | None, fmt: Format, threshold: int) -> ScaledBlocks:
    """As in the rules, by steps that Inductor's C++ computes in vectors."""
    magnitude, sign = magnitude_and_sign(x)
    largest = x.to(torch.float32).abs().amax(-1, keepdim=True)  # for a maximum of bfloat16s Inductor may write invalid C++
    amax_bits = magnitude_and_sign(largest.to(x.dtype))[0].view(torch.int32)
    scale = stored(rules.stored_scale(amax_bits, tensor_scale, fmt, threshold).to(torch.uint8)).to(torch.int32)
    y = rules.scaled_down(magnitude, scale, tensor_scale, fmt)
    y, sign = magnitude_and_sign(stored(rules.with_sign(y, sign, torch.float32)))
    return ScaledBlocks(scale, y, sign, rules.grid_exponent(y.view(torch.int32), fmt))


def codes_of(blocks: ScaledBlocks, random: Tensor | None, fmt: Format) -> Tensor:
    """As in the rules, but stored, as bytes."""
    code = rules.codes_of(blocks, random, fmt)
    return code if has_unbacked(code.stride()) else stored(code.to(torch.uint8))


def write(out: Tensor, chunk: Tensor, dim: int, finish: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """Put what ``finish`` makes of values into a chunk of out. Gives out, or what stands for it in a traced graph.

    The values have ``dim`` last, in blocks or in rows.

    In a graph, a stride may hold an unbacked symbol: a size that depends on the data. Inductor then chooses a tensor's order in memory by
    itself, and tells neither as_strided nor whoever takes the graph's outputs (torch 2.11 to 2.13). Only a tensor of one dim has one
    possible order. So there the values are flattened to one dim, in the order of out, before ``finish``. The last step has to be an
    operation (``finish``, or the conversion to out's dtype) and no view: Inductor looks through a view at what it views.
    """
    length = chunk.shape[-1]
    if any(has_unbacked(tensor.stride()) for tensor in (out, *values)):
        order = memory_order(out)
        if order is not None:
            rows = [value.flatten(-2) if value.ndim > chunk.ndim else value for value in values]
            flat = [first(row, length).movedim(-1, dim).permute(order).reshape(-1) for row in rows]
            return finish(*flat).to(out.dtype).as_strided(out.shape, out.stride())
    value = finish(*values)
    chunk.copy_(in_rows(value, length) if value.ndim > chunk.ndim else first(value, length))
    return out
