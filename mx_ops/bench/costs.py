"""What a call costs besides its work: time of the host, and the compilers of a first call."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from .. import library
from ..command import CommandError
from .output import Progress
from .peers import compiled
from .rows import Row, default_rows, function, quantized
from .timing import synchronize

HOST_SHAPE = (32, 4096)  # so small that a GPU waits for its host
HOST_CALLS = 200  # launched one after another; not so many that the host has to wait for the GPU
BARE = "bare launch"
FIRST_SHAPE = (1024, 4096)


class HostCost(NamedTuple):
    """A way to call an op, and how long it keeps the host."""

    op: str
    call: str
    us: float
    ratio: float  # to the bare launch


def check_host(device: torch.device) -> None:
    """Raises CommandError where no kernel is launched."""
    if library.kernels_for(device.type) is None:
        raise CommandError(f"--host measures launches of Triton kernels, and on {device.type} there are none: give a GPU as --device")


def host_costs(device: torch.device, rounds: int, progress: Progress) -> Iterator[HostCost]:
    """Calls of each op, against the bare launch of the kernel that they launch."""
    for row in at_shape(device, HOST_SHAPE):
        progress.tell(row.op)
        ways = ways_to_call(row, device)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, way in ways.items():
                times[name].append(host_seconds(way, device))
        medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
        for name, seconds in medians.items():
            yield HostCost(row.op, name, seconds * 1e6, seconds / medians[BARE])
        progress(1)


def ways_to_call(row: Row, device: torch.device) -> dict[str, Callable[[], Any]]:
    """An op, and the bare launch of its kernel. Raises CommandError if it launches none."""
    x = torch.randn(row.shape, device=device, dtype=row.dtype)
    inputs = tuple(quantized(row, x)) if row.op == "dequantize" else (x,)
    call = function(row)
    with launches() as seen:
        call(*inputs)
    if not seen:
        raise CommandError(f"{row.op} launched no Triton kernel")
    ways: dict[str, Callable[[], Any]] = {BARE: seen[0], "op": lambda: call(*inputs)}
    if len(seen) > 1:
        ways[BARE] = lambda: [launch() for launch in seen]
    if row.op == "fake_quant":
        leaf = x.clone().requires_grad_()
        ways["op, input requires grad"] = lambda: call(leaf)
    return ways


def at_shape(device: torch.device, shape: tuple[int, int]) -> list[Row]:
    """Each op once, in the first format."""
    rows = {row.op: row for row in reversed(default_rows(device.type, quick=True, shape=shape)) if row.mode == "nearest"}
    return list(reversed(rows.values()))


def host_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds a call before it returns; the device is idle before the first, and is not waited for."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(HOST_CALLS):
        call()
    seconds = (time.perf_counter() - start) / HOST_CALLS
    synchronize(device)
    return seconds


@contextmanager
def launches() -> Iterator[list[Callable[[], Any]]]:
    """The bare Triton launches of what is called meanwhile: each repeats a launch with the very same arguments."""
    from ..kernels.launch import runners

    if library.interpreted():
        from triton.runtime.interpreter import InterpretedFunction as Kernel
    else:
        from triton import JITFunction as Kernel

    runners.clear()  # what was launched before would be launched by other means
    run = Kernel.run
    seen: list[Callable[[], Any]] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if not warmup:
            seen.append(lambda: kernel[grid](*args, **options))
        return run(kernel, *args, grid=grid, warmup=warmup, **options)

    Kernel.run = record
    try:
        yield seen
    finally:
        Kernel.run = run


class FirstCall(NamedTuple):
    """An op's first call, with every cache empty."""

    op: str
    format: str
    by: str
    seconds: float


FIRST_CALL = "import sys; from mx_ops.bench.costs import first_call; print(first_call(*sys.argv[1:]))"


def first_calls(device: torch.device, progress: Progress) -> Iterator[FirstCall]:
    """First calls of each op, eager and compiled, each in a process of its own. Raises CommandError where one fails."""
    for row in at_shape(device, FIRST_SHAPE):
        for by in ("eager", "compiled"):
            progress.tell(f"{row.op}, {by}")
            with tempfile.TemporaryDirectory() as folder:
                result = subprocess.run(
                    [sys.executable, "-c", FIRST_CALL, str(device), row.op, row.format, by],
                    env={**os.environ, "TRITON_CACHE_DIR": f"{folder}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"},
                    capture_output=True,
                    text=True,
                )
            if result.returncode != 0:
                reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise CommandError(f"the first call of {row.op}, {by}, failed: {reason}")
            yield FirstCall(row.op, row.format, by, float(result.stdout))
            progress(1)


def first_call(device: str, op: str, format: str, by: str) -> float:
    """Seconds that this process's first call takes; the device itself is started before."""
    row = Row(op, format, FIRST_SHAPE, dim=None if op == "quantize_both" else -1)
    x = torch.randn(FIRST_SHAPE, dtype=row.dtype, device=device)
    inputs: tuple[Any, ...] = (x,)
    if op == "dequantize":
        inputs = tuple(part.to(device) for part in torch.ops.mx.quantize(x.cpu(), format))
    call = function(row)
    call = compiled(call) if by == "compiled" else call
    synchronize(torch.device(device))
    start = time.perf_counter()
    call(*inputs)
    synchronize(torch.device(device))
    return time.perf_counter() - start
