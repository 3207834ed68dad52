"""Plain errors, before anything is allocated."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..formats import DTYPES, Format, get_block_size, get_format, get_threshold
from ..symbols import check
from .call import Decoding, Encoding, Tiles
from .layouts import count_blocks, tiled


@functools.cache
def resolve(ndim: int, format: str, dim: int, block_size: int | None, scale_mode: str | None, stochastic: bool) -> Encoding:
    """Check the arguments that are no tensors. Raises ValueError and IndexError."""
    fmt = get_format(format)
    return Encoding(fmt, resolve_dim(ndim, dim), get_block_size(fmt, block_size), get_threshold(fmt, scale_mode, stochastic))


@functools.cache
def resolve_decoding(ndim: int, format: str, dim: int, block_size: int | None) -> Decoding:
    """`resolve` for dequantize."""
    fmt, dim, block_size, _ = resolve(ndim, format, dim, block_size, None, False)
    return Decoding(fmt, dim, block_size)


def resolve_dim(ndim: int, dim: int) -> int:
    """``dim`` as counted from the front. Raises IndexError."""
    if ndim == 0:
        raise IndexError("a tensor of rank 0 has no dim to take blocks along: use x.reshape(1)")
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim {dim} is out of range for a tensor of rank {ndim}: give one from {-ndim} to {ndim - 1}")
    return dim % ndim


def check_strided(tensor: Tensor, name: str) -> None:
    """Check that a tensor lies in memory by strides. Raises TypeError."""
    if tensor.is_nested:
        raise TypeError(f"{name}: nested tensors are not taken; use .values(), the rows of a jagged one, or .to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: tensors of layout {tensor.layout} are not taken; use .to_dense()")


def check_dtype(x: Tensor) -> None:
    """Check what is to be quantized. Raises TypeError."""
    if x.dtype not in DTYPES:
        raise TypeError(f"input is {x.dtype}; it may be {', '.join(map(str, DTYPES))}")
    check_strided(x, "input")


def check_input(x: Tensor, seed: Tensor | None, tensor_scale: Tensor | None, fmt: Format, computed: bool) -> None:
    """Check the tensors of quantize and fake_quant. Raises TypeError and ValueError."""
    check_dtype(x)
    if seed is not None:
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != x.device:
            raise ValueError(
                f"seed is {seed.dtype} of shape {tuple(seed.shape)} on {seed.device}; it must be one int64 on the input's device, such as"
                f" torch.randint(2**63 - 1, (1,), device='{x.device}')"
            )
        check_strided(seed, "seed")
    check_tensor_scale(tensor_scale, fmt, x.device, computed)


def check_codes(elements: Tensor, scales: Tensor, tensor_scale: Tensor | None, rule: Decoding, dtype: torch.dtype) -> None:
    """Check the tensors of dequantize. Raises TypeError and ValueError."""
    for name, tensor in (("elements", elements), ("scales", scales)):
        if tensor.dtype != torch.uint8:
            raise TypeError(f"{name} are {tensor.dtype}; the op takes bytes: use {name}.view(torch.uint8), or mx_ops.dequantize")
        check_strided(tensor, name)
    if dtype not in DTYPES:
        raise TypeError(f"dtype is {dtype}; it may be {', '.join(map(str, DTYPES))}")
    shape = list(elements.shape)
    shape[rule.dim] = count_blocks(shape[rule.dim] * rule.fmt.codes_per_byte, rule.block_size)

    def message() -> str:
        return (
            f"scales of shape {tuple(scales.shape)} do not fit elements of shape {tuple(elements.shape)}: {rule.fmt.name} in blocks"
            f" of {rule.block_size} along dim {rule.dim} has scales of shape {tuple(shape)}"
        )

    check(scales.ndim == elements.ndim, message)
    for have, want in zip(scales.shape, shape):
        check(have == want, message)
    if scales.device != elements.device:
        raise ValueError(f"scales are on {scales.device}, elements on {elements.device}: move them to one device")
    check_tensor_scale(tensor_scale, rule.fmt, elements.device, False)


def check_tensor_scale(tensor_scale: Tensor | None, fmt: Format, device: torch.device, computed: bool) -> None:
    """Check the scale of the whole tensor, which formats without one refuse. Raises ValueError."""
    if not fmt.has_tensor_scale:
        if tensor_scale is not None:
            raise ValueError(f"{fmt.name} has no scale for the whole tensor: leave tensor_scale out")
    elif tensor_scale is None:
        if not computed:
            raise ValueError(
                f"{fmt.name} has a scale for the whole tensor, which quantize and dequantize do not keep: give both the same tensor_scale,"
                " such as mx_ops.tensor_scale(x), or torch.ones(1) if blocks are to have scales alone"
            )
    elif tensor_scale.dtype != torch.float32 or tensor_scale.numel() != 1 or tensor_scale.device != device:
        raise ValueError(
            f"tensor_scale is {tensor_scale.dtype} of shape {tuple(tensor_scale.shape)} on {tensor_scale.device}; it must be one float32 on"
            f" the device of the other tensors, {device}, such as mx_ops.tensor_scale(x)"
        )
    else:
        check_strided(tensor_scale, "tensor_scale")


def check_scales(scales: Tensor, name: str, op: str) -> None:
    """Check that bytes are matrices. Raises TypeError and ValueError."""
    if scales.dtype != torch.uint8:
        raise TypeError(f"{name} are {scales.dtype}; the op takes bytes: use {name}.view(torch.uint8), or mx_ops.{op}")
    check_strided(scales, name)
    check_matrices(scales.shape, name)


def check_matrices(shape: tuple[int, ...], name: str) -> None:
    """Check a rank. Raises ValueError."""
    if len(shape) < 2:
        raise ValueError(f"{name} of shape {tuple(shape)} are no matrix: they must be of shape [..., rows, columns]")


def check_tiles(swizzled: Tensor, rows: int, columns: int, tiles: Tiles) -> None:
    """Check that swizzled scales are as many as so many rows and columns make. Raises ValueError."""
    check(rows >= 0 and columns >= 0, lambda: f"{rows} rows and {columns} columns: sizes may not be negative")
    want_rows, want_columns = tiled(tiles)

    def message() -> str:
        return (
            f"swizzled scales of shape {tuple(swizzled.shape)} do not hold {rows} rows and {columns} columns: those fill"
            f" {want_rows} and {want_columns}"
        )

    check(swizzled.shape[-2] == want_rows, message)
    check(swizzled.shape[-1] == want_columns, message)


def refuse_nested(names: list[str], *args: Any, **kwargs: Any) -> None:
    """The kernel for nested tensors, which have dispatch keys, and a class, of their own. Raises TypeError."""
    for name, arg in zip(names, args):
        if isinstance(arg, Tensor):
            check_strided(arg, name)
