"""The ops of ``torch.ops.mx``: each schema, and the function that checks a call's arguments and allocates its outputs.

The implementation of an op runs the `Call` that its function gives; its fake stops short of that; a compiler's trace runs it over symbols.
So shapes, dtypes, strides and errors cannot drift apart. The dispatcher leaves out arguments that equal the schema's defaults, so the
functions' defaults are the same.
"""

from __future__ import annotations

import torch

from ..formats import FORMATS, get_format
from .call import Call, find_tensor_scale
from .checks import check_codes, check_dtype, check_input, check_scales, check_tiles, resolve, resolve_decoding
from .layouts import blocked, empty_codes, tiled, tiles_for
from .registration import op
from .transforms import batch_matrices, constant, straight_through


@op(
    "quantize(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None, *,"
    " int dim=-1, int? block_size=None, str? scale_mode=None) -> (Tensor elements, Tensor scales)",
    derivative=constant,
)
def quantize(input, format, seed=None, tensor_scale=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    rule = resolve(input.ndim, format, dim, block_size, scale_mode, seed is not None)
    check_input(input, seed, tensor_scale, rule.fmt, computed=False)
    codes = empty_codes(input, rule)
    return Call("quantize", (input,), codes, rule, seed, tensor_scale)


@op(
    "quantize_both(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None, *, int? block_size=None, str? scale_mode=None)"
    " -> (Tensor elements, Tensor scales, Tensor elements_t, Tensor scales_t)",
    derivative=constant,
)
def quantize_both(input, format, seed=None, tensor_scale=None, *, block_size=None, scale_mode=None) -> Call:
    if input.ndim < 2:
        raise IndexError(f"quantize_both takes blocks along the last two dims, and this tensor's rank is {input.ndim}: use quantize")
    rule = resolve(input.ndim, format, -1, block_size, scale_mode, seed is not None)
    check_input(input, seed, tensor_scale, rule.fmt, computed=False)
    across = resolve(input.ndim, format, -2, block_size, scale_mode, seed is not None)
    codes = (*empty_codes(input, rule), *empty_codes(input, across))
    return Call("quantize_both", (input,), codes, rule, seed, tensor_scale)


@op(
    "dequantize(Tensor elements, Tensor scales, str format, Tensor? tensor_scale=None, *,"
    " int dim=-1, int? block_size=None, ScalarType dtype=float) -> Tensor",
    derivative=constant,
)
def dequantize(elements, scales, format, tensor_scale=None, *, dim=-1, block_size=None, dtype=torch.float32) -> Call:
    rule = resolve_decoding(elements.ndim, format, dim, block_size)
    check_codes(elements, scales, tensor_scale, rule, dtype)
    layout = blocked(elements.shape, rule.dim, elements.shape[rule.dim] * rule.fmt.codes_per_byte)
    out = elements.new_empty_strided(*layout, dtype=dtype)
    return Call("dequantize", (elements, scales), out, rule, tensor_scale=tensor_scale)


@op(
    "fake_quant(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None, *,"
    " int dim=-1, int? block_size=None, str? scale_mode=None) -> Tensor",
    derivative=straight_through,
)
def fake_quant(input, format, seed=None, tensor_scale=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    rule = resolve(input.ndim, format, dim, block_size, scale_mode, seed is not None)
    check_input(input, seed, tensor_scale, rule.fmt, computed=True)
    return Call("fake_quant", (input,), torch.empty_like(input), rule, seed, tensor_scale)


@op(
    "mxfp4_fake_quant(Tensor input, Tensor? seed=None, *, int dim=-1, int? block_size=None, str? scale_mode=None) -> Tensor",
    derivative=straight_through,
)
def mxfp4_fake_quant(input, seed=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    return fake_quant(input, "mxfp4", seed, dim=dim, block_size=block_size, scale_mode=scale_mode)


@op(
    'mxfp8_fake_quant(Tensor input, str format="e4m3", Tensor? seed=None, *,'
    " int dim=-1, int? block_size=None, str? scale_mode=None) -> Tensor",
    derivative=straight_through,
)
def mxfp8_fake_quant(input, format="e4m3", seed=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    prefix = "mxfp8_"
    names = [name.removeprefix(prefix) for name in FORMATS if name.startswith(prefix)]
    if format not in names:
        raise ValueError(f"unknown MXFP8 format {format!r}; the formats are {', '.join(map(repr, names))}")
    return fake_quant(input, prefix + format, seed, dim=dim, block_size=block_size, scale_mode=scale_mode)


@op(
    "nvfp4_fake_quant(Tensor input, Tensor? seed=None, Tensor? tensor_scale=None, *, int dim=-1, int? block_size=None) -> Tensor",
    derivative=straight_through,
    whole=True,
)
def nvfp4_fake_quant(input, seed=None, tensor_scale=None, *, dim=-1, block_size=None) -> Call:
    return fake_quant(input, "nvfp4", seed, tensor_scale, dim=dim, block_size=block_size)


@op('tensor_scale(Tensor input, str format="nvfp4") -> Tensor', derivative=constant, whole=True)
def tensor_scale(input, format="nvfp4") -> Call:
    fmt = get_format(format)
    if not fmt.has_tensor_scale:
        raise ValueError(f"{fmt.name} has no scale for the whole tensor")
    check_dtype(input)
    return find_tensor_scale(input, fmt)


# Scales as matrix units read them. These are ops of their own, and no argument of quantize, for they cost next to nothing: bf16 8192x16384
# to MXFP8 moves 260 + 132 + 4 MiB, and to swizzle the scales moves those 4 MiB twice more, 2.1% of it (2.4% for MXFP4, of 328 MiB). As an
# argument, it would give one of quantize's two outputs another shape, and dequantize, DTensor rules and each kernel a second form to know.


@op("swizzle_scales(Tensor scales) -> Tensor", batching=batch_matrices)
def swizzle_scales(scales) -> Call:
    check_scales(scales, "scales", "swizzle_scales")
    *outer, rows, columns = scales.shape
    tiles = tiles_for(rows, columns)
    return Call("swizzle_scales", (scales,), scales.new_empty([*outer, *tiled(tiles)]), tiles)


@op("unswizzle_scales(Tensor swizzled, SymInt rows, SymInt columns) -> Tensor", batching=batch_matrices)
def unswizzle_scales(swizzled, rows, columns) -> Call:
    check_scales(swizzled, "swizzled scales", "unswizzle_scales")
    tiles = tiles_for(rows, columns)
    check_tiles(swizzled, rows, columns, tiles)
    return Call("unswizzle_scales", (swizzled,), swizzled.new_empty([*swizzled.shape[:-2], rows, columns]), tiles)
