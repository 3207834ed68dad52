"""The ops on whole tensors: each fills the outputs that it is given.

Eager on CPU, they work in chunks, and by tables where those serve. Traced, they are what Inductor fuses with an op's neighbours: they work
on the whole tensor, whose sizes may be symbols, and may give another tensor in place of an output. The rules then go one of two ways:
those of `rules`, or those of `inductor`, which its C++ computes in vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import Format
from ..symbols import groups, known
from . import inductor, rules, tables
from .chunks import Where, chunks_of, cut, fill_up, in_blocks, in_rows, share_out
from .inductor import write


def random_blocks(seed: Tensor | None, x: Tensor, where: Where, dim: int, block_size: int) -> Tensor | None:
    """The random bits of a chunk of x, in blocks as the chunk is; None without a seed."""
    return None if seed is None else in_blocks(rules.random_bits(seed, x.shape, where).movedim(dim, -1), block_size)


def quantize(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fill elements and scales with the codes of x."""
    tensor_scale = None if tensor_scale is None else rules.usable(tensor_scale)
    looked_up = not traced and tables.can_quantize(x, seed, tensor_scale)
    way = inductor if traced and inductor.in_vectors(x) else rules

    def work(where: Where) -> tuple[Tensor, Tensor]:
        values = in_blocks(cut(x, where, dim), block_size)
        if looked_up:
            scale, code = tables.codes_of(values, fmt, threshold)
        else:
            blocks = way.scale_blocks(values, tensor_scale, fmt, threshold)
            scale, code = blocks.scale, way.codes_of(blocks, random_blocks(seed, x, where, dim, block_size), fmt)
        chunk = cut(elements, where, dim, fmt.codes_per_byte)
        written = write(elements, chunk, dim, lambda packed: packed.to(torch.uint8), rules.pack(code, fmt))
        return written, write(scales, cut(scales, where, dim, block_size), dim, lambda scale: scale, scale.squeeze(-1))

    if traced:
        return work(None)
    share_out(work, chunks_of(x, dim, block_size))
    return elements, scales


def quantize_both(
    x: Tensor,
    elements: Tensor,
    scales: Tensor,
    elements_t: Tensor,
    scales_t: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantize` along a dim and along the one before it."""
    return (
        *quantize(x, elements, scales, seed, tensor_scale, fmt, dim, block_size, threshold, traced),
        *quantize(x, elements_t, scales_t, seed, tensor_scale, fmt, dim - 1, block_size, threshold, traced),
    )


def fake_quant(
    x: Tensor,
    out: Tensor,
    seed: Tensor | None,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    threshold: int,
    traced: bool = False,
) -> Tensor:
    """Fill out with the values of the codes of x."""
    tensor_scale = None if tensor_scale is None else rules.usable(tensor_scale)
    looked_up = not traced and tables.can_quantize(x, seed, tensor_scale)
    way = inductor if traced and inductor.in_vectors(x) else rules

    def work(where: Where) -> Tensor:
        values, chunk = in_blocks(cut(x, where, dim), block_size), cut(out, where, dim)
        if looked_up:
            chunk.copy_(in_rows(tables.values_of(values, fmt, threshold), chunk.shape[-1]))
            return out
        blocks = way.scale_blocks(values, tensor_scale, fmt, threshold)
        value, sign = rules.values_of(blocks, random_blocks(seed, x, where, dim, block_size), tensor_scale, fmt, out.dtype)
        return write(out, chunk, dim, lambda value, sign: way.with_sign(value, sign, out.dtype), value, sign)

    if traced:
        return work(None)
    share_out(work, chunks_of(x, dim, block_size))
    return out


def dequantize(
    elements: Tensor,
    scales: Tensor,
    out: Tensor,
    tensor_scale: Tensor | None,
    fmt: Format,
    dim: int,
    block_size: int,
    traced: bool = False,
) -> Tensor:
    """Fill out with the values of codes."""
    tensor_scale = None if tensor_scale is None else rules.usable(tensor_scale)
    if not traced and tables.can_dequantize(scales, tensor_scale, out, fmt):
        return look_up(elements, scales, out, fmt, dim, block_size)
    way = inductor if traced and inductor.in_vectors(out) else rules

    def work(where: Where) -> Tensor:
        packed, chunk = cut(elements, where, dim, fmt.codes_per_byte), cut(out, where, dim)
        scale = cut(scales, where, dim, block_size).to(torch.int32)
        codes = in_blocks(rules.unpack(packed.to(torch.int32), fmt), block_size)
        if not known(scale.shape[-1] == codes.shape[-2]):
            scale = fill_up(scale, codes.shape[-2])
        value, sign = rules.decoded(codes, scale.unsqueeze(-1), tensor_scale, fmt, out.dtype, way.BITS[out.dtype.itemsize])
        _, whole = groups(chunk.shape[-1], block_size)
        if whole:  # then nothing has to be stored, and any consumer is fused
            value, sign = value.flatten(-2), sign.flatten(-2)
        return write(out, chunk, dim, lambda value, sign: way.with_sign(value, sign, out.dtype), value, sign)

    if traced:
        return work(None)
    share_out(work, chunks_of(out, dim, block_size))
    return out


def look_up(elements: Tensor, scales: Tensor, out: Tensor, fmt: Format, dim: int, block_size: int) -> Tensor:
    """`dequantize` by tables."""
    scale_values = tables.finite_scales(scales)
    together = tables.is_half_of_float16(fmt)
    scratch: tables.Scratch = {}

    def work(where: Where) -> None:
        packed, chunk = cut(elements, where, dim, fmt.codes_per_byte), cut(out, where, dim)
        value = tables.upper_bytes(packed, scratch) if together else tables.values_of_bytes(packed, fmt)
        scale = cut(scale_values, where, dim, block_size).unsqueeze(-1)
        chunk.copy_(in_rows(in_blocks(value, block_size).mul_(scale), chunk.shape[-1]))

    share_out(work, chunks_of(out, dim, block_size, times=2, together=together), together)  # twice as large: half the intermediates
    return out


def tensor_scale(x: Tensor, out: Tensor, fmt: Format, traced: bool = False) -> Tensor:
    """Fill out with the scale under which x's largest magnitude is the format's largest number; NaN if x holds one."""
    assert fmt.scale is not None
    if known(x.numel() == 0):
        amax = x.new_zeros((), dtype=torch.float32)
    elif traced:  # in one pass with what comes before, which is rounded to x's dtype
        way = inductor if inductor.in_vectors(x) else rules
        magnitude, _ = way.magnitude_and_sign(x)
        if not known(x.numel() > 0):  # a zero more along each dim, so that there is a maximum
            magnitude = torch.nn.functional.pad(magnitude, (0, 1) * x.ndim)
        amax = magnitude.amax()
    else:  # in one pass, with nothing stored
        least, most = torch.aminmax(x)
        amax = torch.maximum(-least, most).abs().to(torch.float32)  # abs, so that neither -0 nor a NaN keeps its sign
    return out.copy_(rules.divide(amax, fmt.largest * fmt.scale.largest))
