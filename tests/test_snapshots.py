"""What others rely on stands here in full: the schemas, and the graph that torch.export makes of a model.

After a change that is meant, `EXPECTTEST_ACCEPT=1 pytest tests/test_snapshots.py` writes the new text; schemas only append arguments.
"""

from __future__ import annotations

import textwrap

import pytest
import torch
from conftest import INTERPRETED
from expecttest import TestCase
from torch import Tensor
from torch._dynamo.testing import AotEagerAndRecordGraphs

import mx_ops

OPS = (
    "quantize",
    "quantize_both",
    "dequantize",
    "fake_quant",
    "mxfp4_fake_quant",
    "mxfp8_fake_quant",
    "nvfp4_fake_quant",
    "tensor_scale",
)


def print_graph(program: torch.export.ExportedProgram) -> str:
    """The calls of a graph, in order, with what in their arguments is no tensor: the part that every release of torch prints alike."""
    lines = []
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            args = [repr(arg) for arg in node.args if isinstance(arg, str)]
            kwargs = [f"{name}={value}" for name, value in node.kwargs.items()]
            lines.append(f"{node.target}({', '.join(args + kwargs)})")
    return "\n".join(lines)


def print_ops(graph: torch.fx.Graph) -> str:
    """The ops of a graph, each once, in the order of their names."""
    names = {node.target.name() for node in graph.nodes if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)}
    return "\n".join(textwrap.wrap(" ".join(sorted(names)), 110))


class TwoLayers(torch.nn.Module):
    """Two linear layers with fake-quantized weights and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 48), torch.nn.Linear(48, 40)

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        """FP8 activations, FP4 weights; the second layer's activations are rounded stochastically."""
        weight = mx_ops.mxfp4_fake_quant(self.first.weight)
        x = torch.nn.functional.linear(mx_ops.mxfp8_fake_quant(x), weight, self.first.bias).relu()
        weight = mx_ops.fake_quant(self.second.weight, "mxfp4", scale_mode="rceil", block_size=16)
        return torch.nn.functional.linear(mx_ops.fake_quant(x, "mxfp8_e5m2", seed=seed), weight, self.second.bias)


class TestSnapshots(TestCase):
    """The texts."""

    def test_schemas(self) -> None:
        """The schema of every op."""
        text = "\n".join(str(getattr(torch.ops.mx, name).default._schema) for name in OPS)
        self.assertExpectedInline(
            text.replace(" *, ", "\n    *, ").replace(") -> ", ")\n    -> "),
            """\
mx::quantize(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None,
    *, int dim=-1, int? block_size=None, str? scale_mode=None)
    -> (Tensor elements, Tensor scales)
mx::quantize_both(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None,
    *, int? block_size=None, str? scale_mode=None)
    -> (Tensor elements, Tensor scales, Tensor elements_t, Tensor scales_t)
mx::dequantize(Tensor elements, Tensor scales, str format, Tensor? tensor_scale=None,
    *, int dim=-1, int? block_size=None, ScalarType dtype=6)
    -> Tensor
mx::fake_quant(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None,
    *, int dim=-1, int? block_size=None, str? scale_mode=None)
    -> Tensor
mx::mxfp4_fake_quant(Tensor input, Tensor? seed=None,
    *, int dim=-1, int? block_size=None, str? scale_mode=None)
    -> Tensor
mx::mxfp8_fake_quant(Tensor input, str format="e4m3", Tensor? seed=None,
    *, int dim=-1, int? block_size=None, str? scale_mode=None)
    -> Tensor
mx::nvfp4_fake_quant(Tensor input, Tensor? seed=None, Tensor? tensor_scale=None,
    *, int dim=-1, int? block_size=None)
    -> Tensor
mx::tensor_scale(Tensor input, str format="nvfp4")
    -> Tensor""",
        )

    def test_exported_graph(self) -> None:
        """Each call of an op is one node."""
        program = torch.export.export(TwoLayers(), (torch.ones(3, 64), torch.tensor([1])), strict=False)
        self.assertExpectedInline(
            print_graph(program),
            """\
mx.mxfp4_fake_quant.default()
mx.mxfp8_fake_quant.default()
aten.linear.default()
aten.relu.default()
mx.fake_quant.default('mxfp4', block_size=16, scale_mode=rceil)
mx.fake_quant.default('mxfp8_e5m2')
aten.linear.default()""",
        )

    @pytest.mark.skipif(INTERPRETED, reason="interpreted, a compiled graph holds the op itself")
    def test_compiled_graphs(self) -> None:
        """Forward and backward of a compiled call hold formulas in ATen and nothing of this package; the backward is the identity."""
        torch.compiler.reset()
        backend = AotEagerAndRecordGraphs()
        x = torch.ones(3, 64, requires_grad=True)
        torch.compile(lambda x: mx_ops.fake_quant(x * 2, "mxfp8_e4m3"), fullgraph=True, backend=backend)(x).sum().backward()
        self.assertExpectedInline(
            print_ops(backend.fw_graphs[0].graph),
            """\
aten::__lshift__.Scalar aten::__rshift__.Scalar aten::_to_copy aten::abs aten::add.Tensor aten::amax
aten::as_strided aten::bitwise_and.Scalar aten::bitwise_or.Tensor aten::clamp aten::clamp_max aten::clamp_min
aten::copy aten::empty_like aten::eq.Scalar aten::ge.Scalar aten::minimum aten::mul.Tensor aten::permute
aten::rsub.Scalar aten::scalar_tensor aten::sub.Tensor aten::view aten::view.dtype aten::where.self""",
        )
        self.assertExpectedInline(print_ops(backend.bw_graphs[0].graph), """aten::mul.Tensor""")
