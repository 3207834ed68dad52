"""The machine: the device to run on, and what runs the ops there."""

from __future__ import annotations

import os
from typing import Any

import torch

import mx_ops

from .. import library
from ..command import CommandError, one_line


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or this machine's GPU, or its CPU. Raises CommandError."""
    if name is None:
        name = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise CommandError(f"cannot use the device {name!r}: {one_line(error)}") from error
    return device


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions, and what runs the ops where."""
    try:
        import triton
    except ImportError:
        triton = None
    kernels = "ATen reference" if library.kernels_for(device.type) is None else "Triton kernels"
    if kernels == "Triton kernels" and os.environ.get("TRITON_INTERPRET") == "1":
        kernels += ", interpreted,"
    if device.type == "cpu":
        hardware = f"CPU ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
    else:
        hardware = f"{torch.get_device_module(device).get_device_name(device)} ({device})"
    return {
        "mx_ops": mx_ops.__version__,
        "torch": torch.__version__,
        "triton": triton and triton.__version__,
        "device": str(device),
        "backend": f"{kernels} on {hardware}",
    }
