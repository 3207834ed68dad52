"""Launching a kernel: what is found out once for each kind of call, and the little that is left to do for each call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton

from ..symbols import known

# Only a GPU shows: launches by alignment, their keys and eviction, the current device (test_on_gpu, "Addresses" and "Launches").

CAPABILITY = (9, 0)  # from which NVIDIA's GPUs have packed bfloat16 instructions, and that which rounds to FP8
KNOWN_CALLS = 4096  # then all are forgotten


class Launch(NamedTuple):
    """A kernel, its grid, and its arguments after the tensors."""

    kernel: triton.JITFunction
    grid: tuple[int, int, int]
    numbers: tuple[int, ...]
    constants: dict[str, Any]  # and options of the compiler


def has_bf16x2(device: torch.device) -> bool:
    """Whether a device has the instructions of `bf16x2.py` and `fp8.py`."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= CAPABILITY


runners: dict[Any, tuple[Callable, tuple]] = {}


def launch(find: Callable[..., Launch | None], tensors: tuple[Any, ...], rule: tuple, traced: bool) -> bool:
    """Run what ``find(*tensors, *rule, aligned)`` finds, or put it into the graph that is traced; False if it finds nothing.

    Triton looks at every argument of every call to see for what a kernel has to be compiled. Here that follows from what ``find`` looks
    at, and from which pointers are multiples of 16. So a call that is like an earlier one runs what was compiled for that: an eager
    fake_quant of 32x4096 takes the host 32 us, where it took 59, and the launch by Triton's own way 27 (H100, torch 2.11, Triton 3.6).
    """
    if traced:
        if is_empty(tensors):
            return True
        found = find(*tensors, *rule, aligned=True)  # as Inductor's own tensors are; those it is given and that are not it copies
        if found is None:
            return False
        torch.library.wrap_triton(found.kernel)[found.grid](*tensors, *found.numbers, **found.constants)
        return True
    device = tensors[0].device
    key = (find, rule, device.index, *[t if t is None else (t.shape, t.stride(), t.dtype, t.data_ptr() % 16) for t in tensors])
    runner, rest = runners.get(key, (None, ()))
    if runner is not None:
        with current(device):
            runner(*tensors, *rest)
        return True
    if is_empty(tensors):
        return True
    found = find(*tensors, *rule, aligned=tensors[0].data_ptr() % 16 == 0)
    if found is None:
        return False
    with current(device):
        # Fused multiply-adds cannot change a bit; Triton's default moves from version to version.
        compiled = found.kernel[found.grid](*tensors, *found.numbers, **found.constants, enable_fp_fusion=True)
    if isinstance(compiled, triton.compiler.CompiledKernel):  # nothing is compiled for the interpreter
        if len(runners) >= KNOWN_CALLS:
            runners.clear()
        given = dict(zip(found.kernel.arg_names[len(tensors) :], found.numbers)) | found.constants
        runners[key] = (compiled[found.grid], tuple(given[name] for name in found.kernel.arg_names[len(tensors) :]))
    return True


def quantum(tensor: torch.Tensor, aligned: bool) -> int:
    """How many entries of a tensor take 16 bytes; 0 if it starts between multiples of those."""
    return 16 // tensor.itemsize if aligned else 0


def is_empty(tensors: tuple[Any, ...]) -> bool:
    """Whether there is nothing to do."""
    return any(known(size == 0) for size in tensors[0].shape)


def current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a device current for a launch; entering costs microseconds, so only where it is not current already."""
    accelerator = getattr(torch, device.type)
    if device.type == "cpu" or device.index == accelerator.current_device():
        return contextlib.nullcontext()
    return accelerator.device(device)
