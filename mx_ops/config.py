"""Settings, and what compilers make of the ops.

Compiled code. Under `torch.compile`, and in a package of AOTInductor, a call is no black box: the graph holds what the call does. On GPUs
that is the op's formulas, which Inductor fuses with their neighbours. Where Inductor's own code would be slower it is the op's Triton
kernel: for packed FP4 codes, under a seed, and along a dim that is not innermost in memory or whose last block may be short. NVFP4 is the
kernel on GPUs under every setting, for Inductor's own division there is not exact. On CPU it is always the formulas.

`lowering` asks for one of the two. Set it before compiling: what is compiled stays as it is until `torch.compiler.reset()`.

    "aten"    the formulas
    "triton"  the kernel, where the device has one
    "auto"    whichever is faster (the default)

The bits are those of eager code: what comes before a fused op is first rounded to its own dtype, as it is where it is stored. Inductor
launches this many kernels on a GPU, with static sizes and with a dynamic number of rows (torch 2.13, read off the code it generates):

    1  fake_quant(silu(a) * b), fake_quant(x + residual), MXFP8 quantize(silu(a) * b)
    1  relu(fake_quant(x)), a * fake_quant(x) + b, a * dequantize(...) + b
    2  fake_quant(rms_norm(x)), fake_quant(layer_norm(x))

Exported code. `torch.export` keeps each call as one node. Its seed is an input, or is drawn in the graph. A saved program loads in every
later release, to the same bits. Where mx_ops is not to be there, `mx_ops.decompositions()` lowers the ops to ATen. A package of
AOTInductor (``torch._inductor.aoti_compile_and_package(program)``) holds nothing of mx_ops and needs none of it, in Python or in C++.

>>> class Model(torch.nn.Module):
...     def forward(self, x, seed):
...         return mx_ops.fake_quant(x, "mxfp4", seed=seed)
>>> x, seed = torch.linspace(-3, 3, 84).reshape(2, 42), torch.tensor([1])
>>> dynamic = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}, {})
>>> program = torch.export.export(Model(), (x, seed), dynamic_shapes=dynamic)
>>> [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
['mx.fake_quant.default']
>>> import io
>>> torch.export.save(program, file := io.BytesIO())
>>> loaded = torch.export.load(io.BytesIO(file.getvalue()))
>>> lowered = program.run_decompositions({**torch.export.default_decompositions(), **mx_ops.decompositions()})
>>> x = torch.linspace(-9, 9, 365).reshape(5, 73)
>>> torch.equal(loaded.module()(x, seed), Model()(x, seed)), torch.equal(lowered.module()(x, seed), Model()(x, seed))
(True, True)

Limits of exported code:

- Files of `torch.export.save` cannot name float4_e2m1fn_x2 (nor float8_e8m0fnu in torch 2.11). AOTInductor's packages for CPU can name
  neither. In a model that is to be saved or packaged use the ops, whose bytes are uint8. `torch.compile` takes all dtypes.
- The functions `quantize` and `dequantize` view bytes in other dtypes. If a model calls them, and its example has one block along a dim,
  then what `decompositions` lowers takes one block always, and refuses other numbers. Use the ops, or an example longer than a block.

Settings elsewhere that the ops feel:

- Under `torch.use_deterministic_algorithms` torch fills new tensors before the ops write them, which costs a pass over the result.
  ``torch.utils.deterministic.fill_uninitialized_memory = False`` spares it.
- Modes of the machine that flush subnormal numbers to zero change results near them.
"""

from __future__ import annotations

lowering = "auto"

LOWERINGS = ("auto", "aten", "triton")


def get_lowering() -> str:
    """The setting. Raises ValueError, naming the values there are, if it is none of them."""
    if lowering not in LOWERINGS:
        raise ValueError(f"mx_ops.config.lowering is {lowering!r}; it may be {', '.join(map(repr, LOWERINGS))}")
    return lowering
