"""Every row of the table of cases compiles for GPUs that are not here, old ones too, and uses an instruction only where they have it."""

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
from mx_ops.kernels import cases

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "sm_100": ("cuda", 100, 32), "gfx942": ("hip", "gfx942", 64)}

# Where TRITON_INTERPRET=1 was there at its import, Triton compiles nothing: so in other processes. Launchers are called as they always
# are, on small CPU tensors, and what they would launch is compiled instead: so no argument or constant can differ from a real one.
CODE = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

launches, chosen = [], []
triton.JITFunction.run = lambda kernel, *args, grid, warmup, **kwargs: launches.append((kernel, args, kwargs))

from mx_ops import kernels
from mx_ops.formats import get_format, get_threshold
from mx_ops.kernels import cases, grid
from mx_ops.kernels import launch as launching

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8", torch.int64: "*i64"}

def choose(*args):
    case = cases.choose(*args)
    chosen.append(cases.CASES.index(case._replace(packed=False, converted=False)))
    return case

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
    if op == "dequantize" and order == [1, 0]:
        codes[0] = codes[0].t().contiguous().t()  # as nothing here writes them
    inputs = {
        "fake_quant": (x, torch.empty_like(x), seed, scale),
        "quantize": (x, *codes[:2], seed, scale),
        "quantize_both": (x, *codes, seed, scale),
        "dequantize": (*codes[:2], torch.empty_like(x), scale),
    }
    threshold = () if op == "dequantize" else (get_threshold(fmt, None, seeded),)
    assert getattr(kernels, op)(*inputs[op], fmt, dim, 32, *threshold)

target, calls = json.loads(sys.argv[1])
launching.has_bf16x2 = lambda device: target[0] == "cuda" and target[1] >= 90
cases.LARGE = 1 << 18
for name in ("fake_quant", "quantize", "dequantize", "quantize_both"):
    sys.modules["mx_ops.kernels." + name].choose = choose
for number, call in enumerate(calls):
    launch(*call)
    assert len(launches) == len(chosen) == number + 1
    asm = compile(GPUTarget(*target), *launches[-1])
    machine, tile = asm["ptx" if target[0] == "cuda" else "amdgcn"], grid.Tile(*launches[-1][2]["TILE"])
    print(json.dumps({
        "call": call,
        "case": chosen[-1],
        "axis": tile.axis if call[6] else None,
        "drops_nan": "arith.maxnumf" in asm["ttir"],
        "fp8": "f8E" in asm["ttir"] or "e4m3" in machine or "e5m2" in machine,
        "bf16x2": "bf16x2" in asm["ttir"],
        "converted": tile.converted,
        "packed": tile.packed,
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
    *((op, "nvfp4", "bfloat16", (64, 1024), (0, 1), dim, False) for op in ("fake_quant", "quantize") for dim in (0, 1)),
    *((op, "nvfp4", "bfloat16", (64, 1024), (0, 1), 0, True) for op in ("fake_quant", "quantize")),
    *((op, "mxfp8_e4m3", "bfloat16", (64, 1024), (0, 1), 1, False) for op in ("fake_quant", "quantize", "dequantize")),
    *(("quantize", format, "bfloat16", shape, (0, 1), 1, False) for format in ("mxfp4", "mxfp8_e4m3") for shape in ((64, 1024), (42, 122))),
    *(("fake_quant", "mxfp4", "float16", (64, 1024), (0, 1), dim, False) for dim in (0, 1)),
    ("dequantize", "mxfp4", "float32", (64, 1024), (0, 1), 1, False),
    ("dequantize", "mxfp8_e4m3", "bfloat16", (64, 1024), (1, 0), 1, False),
    ("dequantize", "mxfp4", "bfloat16", (6, 40, 34), (2, 0, 1), 2, False),
    *(("quantize_both", format, "bfloat16", (rows, 1024), (0, 1), 1, False) for format in (*FORMATS[:2], "nvfp4") for rows in (64, 256)),
    *(
        (op, format, dtype, *AXES[axis], True)
        for (op, axis), format, dtype in zip(
            itertools.product(("fake_quant", "quantize"), AXES), itertools.cycle(FORMATS), itertools.cycle(DTYPES[1:])
        )
    ),
]
# All of them for the GPU that has every instruction; for two that know least of what kernels could lean on, and for the newest, fewer.
FEW = [case for case in CASES if not case[6] and case[4] != LAYOUTS[-1][1]]
CALLS = {"sm_80": FEW[::2], "sm_90": CASES, "sm_100": FEW[::3], "gfx942": FEW[1::2]}


@pytest.mark.skipif(INTERPRETED, reason="what is compiled is the same there")
@pytest.mark.parametrize("name", TARGETS)
def test_every_kernel_compiles(name: str, tmp_path: pathlib.Path) -> None:
    """Each row, and for some each format, dtype and axis of random numbers, becomes machine code."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    root = pathlib.Path(mx_ops.__file__).parents[1]
    calls = CALLS[name]
    command = [sys.executable, "-W", "ignore", "-c", CODE, json.dumps([TARGETS[name], calls])]
    process = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines()]

    assert len(results) == len(calls)
    for result in results:
        assert result["binary"] > 1000
        # As a maximum does that Triton was not told otherwise: a tensor's scale, whose NaN is asked for, has one.
        assert not result["drops_nan"] or result["call"][1] == "nvfp4", result
        assert result["fp8"] == result["converted"], result
        assert result["bf16x2"] <= result["packed"], result
        assert name in ("sm_90", "sm_100") or not (result["packed"] or result["converted"]), result
    if name == "sm_90":
        reached = {result["case"] for result in results}
        assert [row for i, row in enumerate(cases.CASES) if i not in reached] == []
        axes = {(result["call"][0], result["axis"]) for result in results if result["axis"] is not None}
        assert axes == {*itertools.product(("fake_quant", "quantize"), (2, 0, -1)), ("quantize_both", 0)}
