"""Launching a kernel: its plan, its constants, and the input's device made current."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
import triton

from ..formats import Format
from .numerics import constants
from .tiling import View, plan


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
    **options: Any,
) -> bool:
    """Run a kernel over tensors of this shape; False, and nothing done, if `plan` has none for it."""
    if 0 in shape:
        return True
    planned = plan(tuple(shape), dim, block_size, tile, views, places)
    if planned is None:
        return False
    with _current(tensors[0].device):
        kernel[planned.grid](
            *tensors,
            *planned.sizes_and_strides,
            **_columns(kernel, fmt),
            **planned.constants,
            **options,
            enable_fp_fusion=True,  # it cannot change a bit; Triton's default moves from version to version
        )
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
