"""Every Triton kernel compiles for GPUs that are not here, old ones without FP8 too, and uses no FP8 type anywhere."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import INTERPRETED

import mx_ops

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "sm_100": ("cuda", 100, 32), "gfx942": ("hip", "gfx942", 64)}

# Where TRITON_INTERPRET=1 was there at its import, Triton compiles nothing: so in other processes. Launchers are called as they always
# are, on small CPU tensors, and what they would launch is compiled instead: so no argument or constant can differ from a real one.
CODE = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

launches = []
triton.JITFunction.run = lambda kernel, *args, grid, warmup, **kwargs: launches.append((kernel, args, kwargs))

from mx_ops import kernels
from mx_ops.formats import get_format, get_threshold

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8", torch.int64: "*i64"}

def type_of(value):
    # As Triton's launcher types an argument by its value: 1 and None are compiled in.
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "constexpr" if value is None or value == 1 else "i32" if -2**31 <= value < 2**31 else "i64"

def compile(target, kernel, args, kwargs):
    given = dict(zip(kernel.arg_names, args)) | kwargs
    options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
    signature = {p.name: "constexpr" if p.is_constexpr else type_of(given[p.name]) for p in kernel.params}
    constants = {name: given[name] for name, kind in signature.items() if kind == "constexpr"}
    return triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=constants), target=target, options=options).asm

def launch(op, format, dtype, shape, order, dim, seeded):
    fmt, seed = get_format(format), torch.zeros(1, dtype=torch.int64) if seeded else None
    x = torch.zeros([shape[d] for d in order], dtype=getattr(torch, dtype)).permute([order.index(d) for d in range(len(order))])
    scale = torch.ones(1) if fmt.has_tensor_scale else None
    meta = None if scale is None else scale.to("meta")
    codes = [t for d in (dim, dim - 1) for t in torch.ops.mx.quantize(x.to("meta"), format, None, meta, dim=d, block_size=32)]
    codes = [torch.empty_like(t, device="cpu") for t in codes]
    inputs = {
        "fake_quant": (x, torch.empty_like(x), seed, scale),
        "quantize": (x, *codes[:2], seed, scale),
        "quantize_both": (x, *codes, seed, scale),
        "dequantize": (*codes[:2], torch.empty_like(x), scale),
    }
    threshold = () if op == "dequantize" else (get_threshold(fmt, None, seeded),)
    assert getattr(kernels, op)(*inputs[op], fmt, dim, 32, *threshold)

ROWS_INNERMOST = ("quantize_both_kernel", "fake_quant_lanes_kernel", "quantize_lanes_kernel")
target, cases = json.loads(sys.argv[1])
for name in ("lanes", "dequantize", "fp8", "quantize_both"):
    sys.modules["mx_ops.kernels." + name].has_lanes = lambda device: target[0] == "cuda" and target[1] >= 90
for number, case in enumerate(cases):
    launch(*case)
    assert len(launches) == number + 1
    asm = compile(GPUTarget(*target), *launches[-1])
    machine = asm["ptx" if target[0] == "cuda" else "amdgcn"]
    print(json.dumps({
        "op": case[0],
        "dtype": case[2],
        "kernel": launches[-1][0].__name__,
        "rows_innermost": launches[-1][2].get("ROWS_INNERMOST", launches[-1][0].__name__ in ROWS_INNERMOST),
        "axis": launches[-1][2].get("AXIS") if case[6] else None,
        "stores": asm["ttir"].count("tt.store"),
        "maxima": asm["ttir"].count("arith.maximumf"),
        "fp8": "f8E" in asm["ttir"] or "e4m3" in machine or "e5m2" in machine,
        "in_lanes": launches[-1][2].get("IN_LANES", "lanes" in launches[-1][0].__name__),
        "converts": launches[-1][2].get("CONVERTS", False),
        "binary": len(asm["cubin" if target[0] == "cuda" else "hsaco"]),
    }))
"""

# op, format, dtype, shape, order of its dims in memory, dim, seeded. Not every combination, but each format, each dtype, and each op with
# each way its elements lie in memory: side by side, across, with ragged rows, and with more dims than two. Then random numbers
# along either axis of a tile, or along neither.
LAYOUTS = [((64, 1024), (0, 1), 1), ((64, 1024), (0, 1), 0), ((42, 122), (0, 1), 1), ((6, 40, 34), (2, 0, 1), 0)]
AXES = {2: ((64, 1024), (0, 1), 1), 0: ((64, 1024), (0, 1), 0), -1: ((64, 42, 8), (2, 0, 1), 0)}
DTYPES = ("float32", "bfloat16", "float16")
FORMATS = list(mx_ops.FORMATS)
CASES = [
    *(
        (op, FORMATS[k % len(FORMATS)], DTYPES[k % 3], *layout, False)
        for k, (op, layout) in enumerate(itertools.product(("fake_quant", "quantize", "dequantize"), LAYOUTS))
    ),
    *(("quantize_both", format, dtype, (64, 1024), (0, 1), 1, seeded) for format, dtype, seeded in zip(FORMATS, DTYPES, (False, True))),
    *((op, format, "bfloat16", (64, 1024), (0, 1), 0, False) for op in ("fake_quant", "quantize") for format in FORMATS[::5]),
    ("fake_quant", "mxfp4", "float16", (64, 1024), (0, 1), 0, False),
    *(("quantize_both", format, "bfloat16", (64, 1024), (0, 1), 1, False) for format in FORMATS[:2]),
    *(
        (op, format, dtype, *AXES[axis], True)
        for (op, axis), format, dtype in zip(
            itertools.product(("fake_quant", "quantize"), AXES), itertools.cycle(FORMATS), itertools.cycle(DTYPES[1:])
        )
    ),
]
# All of them for two GPUs that know least of what kernels could lean on; for the others every kernel, in every way it is laid out, once.
ALL = ("sm_80", "gfx942")
FEW = [case for case in CASES if not case[6] and case[4] != LAYOUTS[-1][1]]
# Stores, by whether a tile's rows are its innermost axis (one more where whole tiles have one of their own); and maxima of floats, of a
# block: NaN if anything is, which the interpreter takes otherwise.
STORES = {
    "fake_quant_kernel": {False: (1,)},
    "fake_quant_pieces_kernel": {False: (2,), True: (8,)},
    "quantize_kernel": {False: (2,)},
    "quantize_pieces_kernel": {False: (3,), True: (2, 3)},
    "quantize_both_kernel": {True: (11,)},
    "fake_quant_lanes_kernel": {True: (32,)},
    "quantize_lanes_kernel": {True: (2,)},
    "dequantize_kernel": {False: (1,)},
    "dequantize_pieces_kernel": {False: (2,)},
}
MAXIMA = {"fake_quant_kernel": 1, "quantize_kernel": 1, "quantize_both_kernel": 8}
MAXIMA_OF_PIECES = {"fake_quant_pieces_kernel": 7, "quantize_pieces_kernel": 7, "quantize_both_kernel": 7}  # of float32s


@pytest.mark.skipif(INTERPRETED, reason="what is compiled is the same there")
@pytest.mark.parametrize("name", TARGETS)
def test_every_kernel_compiles(name: str, tmp_path: pathlib.Path) -> None:
    """Each kernel, and for some each format, dtype and axis of random numbers, becomes machine code; FP8 where it is converted to."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    root = pathlib.Path(mx_ops.__file__).parents[1]
    cases = CASES if name in ALL else FEW
    command = [sys.executable, "-W", "ignore", "-c", CODE, json.dumps([TARGETS[name], cases])]
    process = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines()]

    assert len(results) == len(cases)
    for result in results:
        assert result["binary"] > 1000
        assert result["stores"] in STORES[result["kernel"]][result["rows_innermost"]], result
        pieces = MAXIMA_OF_PIECES.get(result["kernel"], 0) if result["dtype"] == "float32" else 0
        assert result["maxima"] == (0 if result["in_lanes"] else MAXIMA.get(result["kernel"], 0) + pieces), result
        assert result["converts"] == result["fp8"], result
    kernels = {(result["kernel"], result["rows_innermost"]) for result in results}
    lanes = name in ("sm_90", "sm_100")
    expected = {(kernel, innermost) for kernel, stores in STORES.items() for innermost in stores}
    assert kernels == {(kernel, innermost) for kernel, innermost in expected if lanes or "lanes" not in kernel}
    axes = {(result["op"], result["axis"]) for result in results if result["axis"] is not None}
    assert axes == ({*itertools.product(("fake_quant", "quantize"), (2, 0, -1)), ("quantize_both", 0)} if name in ALL else set())
