"""Importing mx_ops is light: it needs no GPU and no Triton, starts neither, and brings in nothing that a first call can bring."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import mx_ops

ROOT = pathlib.Path(mx_ops.__file__).parents[1]


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_without_triton() -> None:
    """Where Triton cannot be imported, the ops run on the CPU."""
    code = """
import sys
sys.modules["triton"] = None
import torch, mx_ops
x = torch.tensor([[1.0, -0.3, 6.0, 0.1]])
elements, scales = mx_ops.quantize(x, "mxfp8_e4m3")
print(mx_ops.dequantize(elements, scales, "mxfp8_e4m3").tolist(), mx_ops.fake_quant(x, "mxfp4", seed=1, dim=0).tolist())
print(mx_ops.mxfp4_fake_quant(x).tolist())
"""
    exact, noisy, fp4 = run(code).replace("]] [[", "]]\n[[").splitlines()
    assert exact == "[[1.0, -0.3125, 6.0, 0.1015625]]"
    assert noisy.startswith("[[1.0, -0.")
    assert fp4 == "[[1.0, -0.5, 6.0, 0.0]]"


def test_interpreter_is_asked_for_by_a_variable() -> None:
    """TRITON_INTERPRET=1, and nothing less, sends CPU tensors to the Triton kernels."""
    code = "import sys, torch, mx_ops; mx_ops.fake_quant(torch.ones(32), 'mxfp4'); print('triton' in sys.modules)"
    assert run(code).strip() == "False"
    assert run(code, TRITON_INTERPRET="0").strip() == "False"
    assert run(code, TRITON_INTERPRET="1").strip() == "True"


def test_imports_nothing_heavy() -> None:
    """After `import torch`, `import mx_ops` adds neither Triton nor the compiler, and starts no GPU."""
    code = """
import sys, torch
before = set(sys.modules)
import mx_ops
added = {name for name in set(sys.modules) - before if name.split(".")[0] != "mx_ops"}
heavy = ("triton", "torch._inductor", "torch._dynamo", "torch.export", "torch._export", "torch.distributed.tensor", "numpy", "sympy")
print(sorted(name for name in added if any(name == root or name.startswith(root + ".") for root in heavy)))
print(torch.cuda.is_initialized())
"""
    assert run(code).splitlines() == ["[]", "False"]


def test_first_calls_import_nothing_heavy() -> None:
    """What sizes allow is checked without sympy, which takes longer to import than a kernel to compile."""
    code = """
import sys, torch, mx_ops
elements, scales = torch.ops.mx.quantize(torch.ones(64, 64), "mxfp4")
torch.ops.mx.dequantize(elements, scales, "mxfp4")
mx_ops.fake_quant(torch.ones(64, 64), "mxfp4")
torch.ops.mx.quantize_both(torch.ones(64, 64), "mxfp4")
torch.ops.mx.unswizzle_scales(torch.ops.mx.swizzle_scales(torch.zeros(4, 8, dtype=torch.uint8)), 4, 8)
print([name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_all_is_complete() -> None:
    """__all__ lists every public name and the settings, each of which has a docstring or is data; the older names come last."""
    public = {name for name, value in vars(mx_ops).items() if not name.startswith("_") and type(value).__name__ != "module"}
    assert set(mx_ops.__all__) == public | {"config"}
    assert all(getattr(mx_ops, name).__doc__ for name in mx_ops.__all__)
    older = ["fake_quant_mxfp4", "fake_quant_mxfp8", "mxfp4_forward", "mxfp8_forward", "nvfp4_forward"]
    names = mx_ops.__all__[: -len(older)]
    assert mx_ops.__all__ == [*sorted(names, key=lambda name: (not name.isupper(), name)), *older]


def test_importing_twice_is_importing_once() -> None:
    """A second import, of any module, registers nothing again."""
    assert run("import mx_ops, mx_ops.library, mx_ops.functional; from mx_ops import *; print(fake_quant.__name__)").strip() == "fake_quant"
