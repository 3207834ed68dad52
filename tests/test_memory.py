"""On CPU an op needs its output and little more: no float32 copy of a large tensor, and no table of random numbers."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import mx_ops

ROWS, COLUMNS, SPARE_MB = 8192, 4096, 64

# In a fresh process, whose first call, of a small tensor, brings in what any call does. VmHWM is its peak, VmRSS what it has now;
# getrusage would give the peak of the process that it was forked from, if that was higher.
CODE = """
import ctypes, torch, mx_ops
def memory(field):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(field))
def call(x):
    return {call}
x = torch.empty({rows}, {columns}, dtype=torch.bfloat16)
for row in x:
    row.normal_()
torch.ops.mx.fake_quant(x[:256], "mxfp4", torch.tensor([1]))
ctypes.CDLL(None).malloc_trim(0)  # what it freed is not to be found later
before = memory("VmRSS")
y = call(x)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("call", "output_mb"),
    [
        ("mx_ops.fake_quant(x, 'mxfp4')", 64),
        ("mx_ops.fake_quant(x, 'mxfp8_e4m3', dim=0)", 64),
        ("mx_ops.fake_quant(x, 'mxfp4', seed=1)", 64),
        ("mx_ops.fake_quant(x, 'mxfp4', seed=1, dim=0)", 64),
        ("mx_ops.fake_quant(x.t(), 'mxfp8_e5m2')", 64),
        ("mx_ops.quantize(x, 'mxfp4')", 17),
        ("mx_ops.nvfp4_fake_quant(x)", 64),
        ("mx_ops.dequantize(x[:2048].view(torch.uint8), x[:128].view(torch.uint8).view(-1, 256)[:2048], 'mxfp8_e5m2')", 64),
    ],
)
def test_peak_memory(call: str, output_mb: int) -> None:
    """A call on 64 MB of bfloat16 raises the peak by its output and at most 64 MB."""
    code = CODE.format(call=call, rows=ROWS, columns=COLUMNS)
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = pathlib.Path(mx_ops.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=True)
    grown = float(result.stdout)
    assert output_mb * 0.9 < grown < output_mb + SPARE_MB
