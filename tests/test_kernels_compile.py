"""Every Triton kernel compiles for GPUs that are not here, old ones without FP8 too, and uses no FP8 type anywhere."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

import mx_ops

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "sm_100": ("cuda", 100, 32), "gfx942": ("hip", "gfx942", 64)}
PROCESSES = 2

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
    elements, scales = torch.empty(0), torch.empty(0)
    if op != "fake_quant":
        scale = torch.ones(1, device="meta") if fmt.has_tensor_scale else None
        elements, scales = torch.ops.mx.quantize(torch.zeros(shape, device="meta"), format, None, scale, dim=dim, block_size=32)
        elements, scales = torch.empty_like(elements, device="cpu"), torch.empty_like(scales, device="cpu")
    scale = torch.ones(1) if fmt.has_tensor_scale else None
    inputs = {
        "fake_quant": (x, torch.empty_like(x), seed, scale),
        "quantize": (x, elements, scales, seed, scale),
        "dequantize": (elements, scales, x, scale),
    }
    threshold = () if op == "dequantize" else (get_threshold(fmt, None, seeded),)
    assert getattr(kernels, op)(*inputs[op], fmt, dim, 32, *threshold)

target, cases = json.loads(sys.argv[1])
for number, case in enumerate(cases):
    launch(*case)
    assert len(launches) == number + 1
    asm = compile(GPUTarget(*target), *launches[-1])
    machine = asm["ptx" if target[0] == "cuda" else "amdgcn"]
    print(json.dumps({
        "op": case[0],
        "axis": launches[-1][2].get("AXIS") if case[6] else None,
        "stores": asm["ttir"].count("tt.store"),
        "maxima": asm["ttir"].count("arith.maximumf"),
        "fp8": "f8E" in asm["ttir"] or "e4m3" in machine or "e5m2" in machine,
        "binary": len(asm["cubin" if target[0] == "cuda" else "hsaco"]),
    }))
"""

# op, format, dtype, shape, order of its dims in memory, dim, seeded. Not every combination, but each kernel with each format and each
# dtype, with masks and without; and random numbers along either axis of a tile, or along neither.
LAYOUTS = [((64, 1024), (0, 1)), ((42, 122), (1, 0)), ((6, 40, 34), (2, 0, 1))]
AXES = {2: ((64, 1024), (0, 1), 1), 0: ((64, 1024), (0, 1), 0), -1: ((64, 42, 8), (2, 0, 1), 0)}
DTYPES = ("float32", "bfloat16", "float16")
CASES = [
    *(
        (op, format, DTYPES[(i + j) % 3], *LAYOUTS[j % 3], 0, False)
        for i, op in enumerate(("fake_quant", "quantize", "dequantize"))
        for j, format in enumerate(mx_ops.FORMATS)
    ),
    *(("fake_quant", format, dtype, (64, 1024), (0, 1), 1, False) for format, dtype in zip(itertools.cycle(mx_ops.FORMATS), DTYPES)),
    *(
        (op, format, dtype, *AXES[axis], True)
        for (op, axis), format, dtype in zip(
            itertools.product(("fake_quant", "quantize"), AXES), itertools.cycle(mx_ops.FORMATS), itertools.cycle(DTYPES[1:])
        )
    ),
]


@pytest.mark.parametrize("name", TARGETS)
def test_every_kernel_compiles(name: str, tmp_path: pathlib.Path) -> None:
    """Each kernel, with each format, dtype and axis of random numbers, becomes machine code for the target, in which no FP8 occurs."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    root = pathlib.Path(mx_ops.__file__).parents[1]
    shares = [json.dumps([TARGETS[name], CASES[part::PROCESSES]]) for part in range(PROCESSES)]
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    processes = [
        subprocess.Popen([*command, share], cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for share in shares
    ]
    results = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        results += [json.loads(line) for line in output.splitlines()]

    assert len(results) == len(CASES)
    for result in results:
        assert result["binary"] > 1000
        assert result["stores"] == (2 if result["op"] == "quantize" else 1)
        assert not result["fp8"]
        assert result["maxima"] == (result["op"] != "dequantize")  # of a block: NaN if anything is, which the interpreter takes otherwise
    axes = {(result["op"], result["axis"]) for result in results}
    assert axes == {*itertools.product(("fake_quant", "quantize"), (None, 2, 0, -1)), ("dequantize", None)}
