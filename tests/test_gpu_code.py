"""What Inductor writes for GPUs is fused, holds the Triton kernels where they are faster, and gives the reference's bits: without a GPU."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pathlib
import pkgutil
import subprocess
import sys
import types
from typing import Any

import pytest
import torch
import triton.language as tl
from conftest import INTERPRETED
from helpers import scale_for, wild
from torch import Tensor

import mx_ops
from mx_ops import kernels, library

OLD = torch.__version__ < "2.12"
SCRIPT = pathlib.Path(__file__).with_name("gpu_code.py")


def start(interpreted: bool, *arguments: str) -> list[dict[str, Any]]:
    """Run the script in a process of its own; its report."""
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[1]), str(SCRIPT.parent)])
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert not [line for line in lines if line["wrong"]]
    return lines


ODD, LAST = (6, 42), (6, 96)
# What a call is, of what shape, and whether its formulas are as fast as the kernel.
FUSED: dict[str, tuple[str, str, tuple[int, int], dict[str, Any], bool]] = {
    "fake_quant": ("fake_quant", "mxfp8_e4m3", LAST, {}, True),
    "fake_quant, two codes a byte": ("fake_quant", "mxfp4", LAST, {}, True),
    "fake_quant, a short block": ("fake_quant", "mxfp8_e4m3", ODD, {}, False),
    "fake_quant, an outer dim": ("fake_quant", "mxfp8_e4m3", (96, 6), {"dim": 0}, False),
    "fake_quant, a seed": ("fake_quant", "mxfp8_e4m3", LAST, {"seed": torch.tensor([1])}, False),
    "fake_quant, quotients": ("fake_quant", "nvfp4", LAST, {}, False),
    "quantize": ("quantize", "mxfp8_e4m3", LAST, {}, True),
    "quantize, two codes a byte": ("quantize", "mxfp4", LAST, {}, False),
    "quantize, an outer dim": ("quantize", "mxint8", (96, 6), {"dim": 0}, False),
    "quantize, quotients": ("quantize", "nvfp4", LAST, {"tensor_scale": torch.ones(1)}, False),
    "quantize_both": ("quantize_both", "mxfp8_e4m3", (96, 96), {}, False),
}


def call_of(name: str) -> library.Call:
    """One of these calls."""
    op, format, shape, options, _ = FUSED[name]
    return getattr(library, op)(wild(shape), format, **options)


@pytest.mark.parametrize("name", FUSED)
def test_a_graph_holds_what_is_faster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under "auto" the formulas where Inductor's code is as fast, the kernel elsewhere; under the other settings what they say.

    Where elements are quotients that round, the kernel is there under all of them. Which of them runs shows in the call itself.
    """
    fused = FUSED[name][-1]
    divides = call_of(name).rule.fmt.divides
    launched: list[tuple[Tensor, ...]] = []

    def kernel(*tensors: Any, traced: bool) -> bool:
        launched.append(tensors)
        return traced

    ops = ("fake_quant", "quantize", "quantize_both")
    monkeypatch.setattr(library.backends, "kernels_for", lambda device_type: types.SimpleNamespace(**dict.fromkeys(ops, kernel)))
    for setting, expected in (("auto", fused), ("aten", not divides), ("triton", False)):
        monkeypatch.setattr(mx_ops.config, "lowering", setting)
        assert library.fuses(call_of(name)) == expected
        library.tracing.trace(call_of(name))
        assert len(launched) == (not expected)
        launched.clear()


def test_dequantize_is_fused_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every format: NVFP4's products are rounded once, as Inductor's are."""
    for format in mx_ops.FORMATS:
        given = scale_for(wild(LAST), format)
        call = library.dequantize(*torch.ops.mx.quantize(wild(LAST), format, **given), format, **given)
        for setting in ("auto", "aten", "triton"):
            monkeypatch.setattr(mx_ops.config, "lowering", setting)
            assert library.fuses(call) == (setting != "triton")


def device_names(file: pathlib.Path) -> list[str]:
    """What a file defines for kernels: functions that Triton compiles, and constants."""
    names = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and "tl.constexpr(" in ast.unparse(node.value):
            names += [name.id for name in ast.walk(node.targets[0]) if isinstance(name, ast.Name)]
    return names


def test_device_functions_have_names_of_their_own() -> None:
    """No two files define one name for kernels: Inductor puts all that a kernel calls into one module."""
    names = [name for file in (pathlib.Path(mx_ops.__file__).parent / "kernels").glob("*.py") for name in device_names(file)]
    assert len(names) > 80
    assert sorted(names) == sorted(set(names))


def test_device_constants_are_of_one_line() -> None:
    """What torch 2.11 writes into its own code as it is: there a line break would end a string before its end."""
    constants = [
        value.value
        for module in pkgutil.iter_modules(kernels.__path__)
        for value in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).values()
        if isinstance(value, tl.constexpr)
    ]
    assert any(isinstance(constant, str) for constant in constants)
    assert not [constant for constant in constants if isinstance(constant, str) and ("\n" in constant or "'" in constant)]


@pytest.mark.skipif(INTERPRETED, reason="in processes of its own, it is the same there")
@pytest.mark.skipif(torch.cuda.is_available(), reason="test_fusion runs what is written for a GPU")
def test_neighbours_are_one_kernel_on_a_gpu() -> None:
    """Each pattern is one Triton kernel, with a dynamic number of rows too; two if a norm comes first. Bits are those of the parts."""
    lines = start(True, "fused")
    # torch 2.11 keeps a producer apart whose dims are transposed.
    exceptions = {name: 2 for name in (line["name"] for line in lines) if "norm" in name or (OLD and "transposed" in name)}
    assert {line["name"]: line["kernels"] for line in lines} == {line["name"]: 1 for line in lines} | exceptions
    assert len(lines) == 16


@pytest.mark.skipif(INTERPRETED, reason="in processes of its own, it is the same there")
@pytest.mark.skipif(torch.cuda.is_available(), reason="test_fusion runs what is written for a GPU")
def test_triton_kernels_in_a_graph_serve_every_size(tmp_path: pathlib.Path) -> None:
    """A graph compiled with sizes unknown runs the kernels rightly at every size, though it was traced at one."""
    assert start(False, "write", str(tmp_path / "codes")) == []
    lines = start(True, "run", str(tmp_path / "codes"))
    assert {line["kernels"] for line in lines if "both ways" not in line["name"]} == {1}
    assert {line["kernels"] for line in lines if "both ways" in line["name"]} == {2}
    assert len(lines) == 7 * (1 + 1 + 6)
