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
from typing import Any

import pytest
import torch
import triton.language as tl
from conftest import INTERPRETED

import mx_ops
from mx_ops import kernels

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
