"""Launching a kernel: its plan, its constants, and the input's device made current."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
import triton

from ..formats import Format
from ..symbols import known
from .numerics import constants
from .tiling import View, plan

planned = functools.lru_cache(maxsize=4096)(plan)


def launch(
    kernel: triton.JITFunction,
    tensors: tuple[Any, ...],
    views: tuple[View, ...],
    shape: torch.Size,
    dim: int,
    block_size: int,
    fmt: Format,
    tile: int,
    places: View | None = None,
    traced: bool = False,
    **options: Any,
) -> bool:
    """Run a kernel over tensors of this shape, or put it into the graph that is traced; False, and nothing done, if there is no `plan`."""
    if any(known(size == 0) for size in shape):
        return True
    if traced:
        found = plan(tuple(shape), dim, block_size, tile, views, places)
    else:
        found = planned(tuple(shape), dim, block_size, tile, views, places)
    if found is None:
        return False
    constants = {**_columns(kernel, fmt), **found.constants, **options}
    if traced:
        torch.library.wrap_triton(kernel)[found.grid](*tensors, *found.sizes_and_strides, **constants)
        return True
    with _current(tensors[0].device):
        # Fused multiply-adds cannot change a bit; Triton's default moves from version to version.
        kernel[found.grid](*tensors, *found.sizes_and_strides, **constants, enable_fp_fusion=True)
    return True


@functools.cache
def _columns(kernel: triton.JITFunction, fmt: Format) -> dict[str, Any]:
    """Those columns of a format's row that a kernel takes."""
    return {name: value for name, value in constants(fmt).items() if name in kernel.arg_names}


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a device current for a launch; entering costs microseconds, so only where it is not current already."""
    accelerator = getattr(torch, device.type)
    if device.type == "cpu" or device.index == accelerator.current_device():
        return contextlib.nullcontext()
    return accelerator.device(device)
