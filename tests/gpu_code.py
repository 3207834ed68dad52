"""What Inductor writes for GPUs, run without one: its Triton backend for CPU tensors, and Triton's interpreter.

Run as a program, since Triton is interpreted or not from its import on. ``fused`` compiles and runs the formulas of the ops with their
neighbours. ``write FILE`` traces the Triton kernels of the ops into graphs and keeps the code that Inductor makes of these; ``run FILE``
runs that code. Each prints a line of JSON a case: its name, its kernels, and what went wrong.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import pathlib
import pickle
import sys
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch._inductor.config
import triton
import triton.language as tl
from helpers import assert_same
from torch import Tensor
from torch._dynamo.device_interface import CpuInterface
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.utils import fresh_cache
from triton.backends.compiler import GPUTarget

import mx_ops
from mx_ops import library


class Driver:
    """What Inductor asks of a GPU's driver."""

    def get_current_target(self) -> GPUTarget:
        """An H100."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, *_: Any) -> int:
        """The default one."""
        return 0


class Math:
    """libdevice's functions have no body that could be interpreted; those of Triton have."""

    def __getattr__(self, name: str) -> Any:
        return getattr(tl.math, name)


triton.runtime.driver.set_active(Driver())
torch._inductor.config.cpu_backend = "triton"
torch._inductor.config.compile_threads = 1
triton_helpers.set_driver_to_cpu = lambda: None
triton_helpers.libdevice = Math()
if hasattr(triton_helpers, "get_backend_options_for_target"):  # torch 2.15 asks Triton whether it has a backend for CPU
    CpuInterface.raise_if_triton_unavailable = staticmethod(lambda *_: None)
    options_for = triton_helpers.get_backend_options_for_target
    triton_helpers.get_backend_options_for_target = lambda target, options=None: options_for(Driver().get_current_target(), options)


def report(name: str, check: Callable[[], int]) -> None:
    """Run a check, which gives a number of kernels; print what came of it."""
    try:
        print(json.dumps({"name": name, "kernels": check(), "wrong": None}), flush=True)
    except Exception as error:
        print(json.dumps({"name": name, "kernels": None, "wrong": f"{type(error).__name__}: {error}"[-2000:]}), flush=True)


def fused() -> None:
    """Each pattern as one graph, with static sizes and with dynamic rows. (Not in bfloat16, which interpreted code rounds wrongly.)"""
    from test_fusion import add, affine, check, gate, layer_norm, quantize, rms_norm, rows, whole

    library.backends.interpreted = lambda: False  # the ops are traced, into formulas
    library.backends.kernels_for = lambda device_type: None
    mx_ops.config.lowering = "aten"
    float16, float32 = torch.float16, torch.float32

    def fake_quant(format: str) -> Callable[[Tensor], Tensor]:
        return lambda x: mx_ops.fake_quant(x, format)

    def relu(y: Tensor, *_: Tensor) -> Tensor:
        return y.relu()

    def heads(a: Tensor, b: Tensor) -> Tensor:
        return (a + b).unflatten(-1, (3, 32)).transpose(0, 1)

    patterns: dict[str, tuple[Any, ...]] = {
        "gate, fake_quant": (gate, fake_quant("mxfp4"), None, rows(6, 96, float16, "cpu")),
        "add, fake_quant, relu": (add, fake_quant("mxfp8_e4m3"), relu, rows(6, 96, float16, "cpu")),
        "fake_quant, affine": (None, fake_quant("mxfp8_e5m2"), affine, rows(6, 96, float32, "cpu")),
        "transposed heads, fake_quant": (heads, fake_quant("mxfp8_e4m3"), None, rows(6, 96, float16, "cpu")),
        "gate, quantize": (gate, quantize, None, rows(6, 96, float16, "cpu")),
        "rms_norm, fake_quant": (lambda a, b: rms_norm(a, (128,)), fake_quant("mxfp8_e4m3"), None, whole(6, 128, float16, "cpu")),
        "layer_norm, fake_quant": (lambda a, b: layer_norm(a, (128,)), fake_quant("mxfp4"), None, whole(6, 128, float32, "cpu")),
    }
    for format in ("mxfp4", "mxfp8_e4m3"):
        a, b = rows(6, 96, float16, "cpu")
        elements, scales = torch.ops.mx.quantize(a, format)
        scales[:3] = torch.tensor([97, 102, 104])  # small codes are then subnormal in float16, and round

        def dequantize(elements: Tensor, scales: Tensor = scales, format: str = format) -> Tensor:
            return torch.ops.mx.dequantize(elements, scales, format, dtype=torch.float16)

        def then(y: Tensor, _: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return affine(y, a, b)

        patterns[f"dequantize {format}, affine"] = (None, dequantize, then, (elements, a, b))
    for name, (given, op, then, args) in patterns.items():
        report(name, lambda: check(given, op, then, *args))
        if "dequantize" not in name:  # its scales are no argument here, and have as many rows
            for x in args:
                torch._dynamo.maybe_mark_dynamic(x, 0)
            report(f"{name}, dynamic rows", lambda: check(given, op, then, *args))


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "fake_quant": lambda x, seed: torch.ops.mx.fake_quant(x, "mxfp8_e4m3"),
    "fake_quant, seed": lambda x, seed: torch.ops.mx.fake_quant(x, "mxfp4", seed),
    "fake_quant, seed, dim 0": lambda x, seed: torch.ops.mx.fake_quant(x, "mxfp8_e5m2", seed, dim=0),
    "quantize": lambda x, seed: torch.ops.mx.quantize(x, "mxfp4"),
    "quantize, dim 0": lambda x, seed: torch.ops.mx.quantize(x, "mxfp8_e4m3", dim=0),
    "quantize, seed, transposed": lambda x, seed: torch.ops.mx.quantize(x.t(), "mxfp4", seed, dim=1, block_size=16),
    "both ways": lambda x, seed: torch.ops.mx.dequantize(*torch.ops.mx.quantize(x, "mxfp4"), "mxfp4", dtype=torch.float16),
}
# Traced at the first; of the last a row is several tiles. With few rows: where sizes are unknown each may be a program of its own.
SHAPES = [(34, 64), (6, 96), (6, 42), (2, 128), (32, 32), (2, 2100)]
DYNAMIC: dict[str, tuple[int, ...]] = {"static": (), "dynamic rows": (0,), "dynamic": (0, 1)}


def data(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A tensor and a seed."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator), torch.tensor([2**40 + 5])


def write(file: pathlib.Path) -> None:
    """Keep the code of each call, for sizes that are known and that are not."""
    from mx_ops import kernels

    library.backends.kernels_for = lambda device_type: kernels
    mx_ops.config.lowering = "triton"
    codes = {}
    for name, call in CALLS.items():
        for kind, dims in DYNAMIC.items():
            torch.compiler.reset()
            x, seed = data(SHAPES[0])
            for dim in dims:
                torch._dynamo.mark_dynamic(x, dim)
            codes[name, kind] = code_of(call, x, seed)
    file.write_bytes(pickle.dumps(codes))


def code_of(function: Callable, *args: Tensor) -> str:
    """The module that Inductor makes of a function; it is not loaded."""
    codes = []

    def stop(graph: GraphLowering) -> None:
        code = graph.codegen()[0]
        codes.append(getattr(code, "value", code))
        raise InterruptedError

    with mock.patch.object(GraphLowering, "_compile_to_module", stop), fresh_cache():
        try:
            torch.compile(function, fullgraph=True)(*args)
        except Exception as error:
            if not codes:
                raise error
    return codes[0]


def run(file: pathlib.Path) -> None:
    """Run the code of each call on tensors of many sizes, and compare with the reference."""
    library.backends.kernels_for = lambda device_type: None
    triton_heuristics.CachingAutotuner.run = launch
    with tempfile.TemporaryDirectory() as folder:
        for (name, kind), code in pickle.loads(file.read_bytes()).items():
            module = load(code, pathlib.Path(folder))
            shapes = [shape for shape in SHAPES if all(d in DYNAMIC[kind] or shape[d] == SHAPES[0][d] for d in (0, 1))]
            for shape in shapes:
                report(f"{name}, {kind}, {shape}", lambda: compare(module, code, name, kind, shape))


def load(code: str, folder: pathlib.Path) -> ModuleType:
    """A module of Inductor's, told that its kernels are interpreted: they then spare the interpreter what is slow in it."""
    assert "INTERPRETED = tl.constexpr(False)" in code or "INTERPRETED" not in code  # not every kernel asks
    code = code.replace("INTERPRETED = tl.constexpr(False)", "INTERPRETED = tl.constexpr(True)")
    name = f"code{len(list(folder.iterdir()))}"
    (folder / f"{name}.py").write_text(code)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(module: ModuleType, code: str, name: str, kind: str, shape: tuple[int, int]) -> int:
    """One call through Inductor's code and through the reference; the number of kernels."""
    from test_fusion import kernels

    x, seed = data(shape)
    sizes = [shape[dim] for dim in DYNAMIC[kind]]
    want = CALLS[name](x, seed)
    have = module.call([*sizes, x, *([seed] if "seed" in name else [])])
    for one, other in zip(have, want if isinstance(want, tuple) else (want,)):
        assert_same(one, other)
        assert one.stride() == other.stride()
    assert "kernel_0.run(" in code
    return kernels(code)


def launch(self: Any, *args: Any, stream: Any = None, interpreted: Callable = triton_heuristics.CachingAutotuner.run, **kwargs: Any) -> Any:
    """Inductor has no interpreted launch of kernels that are not its own: here their arguments are told apart as its launcher does."""
    if self.inductor_meta.get("grid_type") != "FixedGrid":
        return interpreted(self, *args, stream=stream, **kwargs)
    names = list(self.triton_meta["signature"])
    constants = {names[key[0]] if isinstance(key, tuple) else key: value for key, value in self.triton_meta["constants"].items()}
    parameters = inspect.signature(self.fn.fn).parameters.values()
    given = [parameter.name for parameter in parameters if parameter.annotation is not tl.constexpr]
    *values, x, y, z = args
    if len(values) < len(given):  # torch 2.11 leaves out what it compiles in
        given = [name for name in given if name not in constants]
    return self.fn[x, y, z](**(dict(zip(given, values, strict=True)) | constants))


if __name__ == "__main__":
    command, *files = sys.argv[1:]
    {"fused": fused, "write": write, "run": run}[command](*map(pathlib.Path, files))
