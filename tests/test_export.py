"""An exported program keeps each op as one node, saves, loads, and gives the bits of eager ones; tables lower it to ATen on request.

``data/program.pt2`` is a program as torch 2.13 saved it. It and the digests in it stay: every later release has to load it, and to agree.
Only a new file, beside it, may be made, with ``PYTHONPATH=. python tests/test_export.py tests/data/NAME.pt2``.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import re
import sys
from collections.abc import Callable

import pytest
import torch
from helpers import assert_same, float32, scale_for, wild
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.export import Dim, ExportedProgram

import mx_ops

Tensors = tuple[Tensor, ...]

DATA = pathlib.Path(__file__).with_name("data")
VECTORS = json.loads(pathlib.Path(__file__).with_name("mx_vectors.json").read_text())


class TwoLayers(torch.nn.Module):
    """Two linear layers with fake-quantized weights and inputs; seeded stochastic rounding in the second; codes beside the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 48), torch.nn.Linear(48, 40)

    def forward(self, x: Tensor, seed: Tensor) -> Tensors:
        """The output of the second layer, its codes, their scales and their values."""
        linear = torch.nn.functional.linear
        x = linear(mx_ops.fake_quant(x, "mxfp8_e4m3"), mx_ops.mxfp4_fake_quant(self.first.weight), self.first.bias)
        x = mx_ops.mxfp8_fake_quant(torch.relu(x), "e5m2", seed=mx_ops.fold_seed(seed, 1))
        x = linear(x, mx_ops.fake_quant(self.second.weight, "mxfp4", scale_mode="rceil"), self.second.bias)
        elements, scales = torch.ops.mx.quantize(x, "mxfp4", dim=0)
        return x, elements, scales, torch.ops.mx.dequantize(elements, scales, "mxfp4", dim=0, dtype=torch.bfloat16)


NODES = ["mx::fake_quant", "mx::mxfp4_fake_quant", "mx::mxfp8_fake_quant", "mx::fake_quant", "mx::quantize", "mx::dequantize"]


class AllOps(torch.nn.Module):
    """Every op on one input, along both dims, with noise and without; what `data/program.pt2` is."""

    def forward(self, x: Tensor, seed: Tensor) -> Tensors:
        """Codes, scales and values."""
        elements, scales = torch.ops.mx.quantize(x, "mxfp8_e4m3", scale_mode="even")
        noisy, noisy_scales = torch.ops.mx.quantize(torch.cat([x, x], 1), "mxfp4", seed, block_size=16)
        return (
            elements,
            scales,
            noisy,
            noisy_scales,
            torch.ops.mx.dequantize(elements, scales, "mxfp8_e4m3", dtype=torch.float16),
            torch.ops.mx.dequantize(noisy, noisy_scales, "mxfp4", block_size=16),
            torch.ops.mx.fake_quant(x, "mxfp4", dim=0),
            torch.ops.mx.fake_quant(x, "mxfp8_e5m2", seed, dim=0, scale_mode="ceil"),
            torch.ops.mx.mxfp4_fake_quant(x, seed),
            torch.ops.mx.mxfp8_fake_quant(x.bfloat16()),
        )


def golden(device: str) -> Tensors:
    """The inputs of the golden blocks, two a row, short ones filled up with zeros; and a seed."""
    rows = [[int(word, 16) for word in vector["input_fp32_bits"]] for vector in VECTORS]
    x = float32([row + [0] * (32 - len(row)) for row in rows]).to(device)
    return torch.cat([x, x.flip(0)], 1), torch.tensor([2**50 + 9], device=device)


def digest(tensor: Tensor) -> str:
    """A hash of a tensor's bits, by which any NaN is any other."""
    tensor = tensor.cpu().contiguous()
    if tensor.dtype.is_floating_point:
        tensor = torch.where(tensor.isnan(), torch.tensor(float("nan"), dtype=tensor.dtype), tensor)
    return hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def mx_nodes(program: ExportedProgram) -> list[str]:
    """The names of the ops of mx in a graph, in order."""
    return [node.target.name() for node in program.graph.nodes if getattr(node.target, "namespace", "") == "mx"]


def reload(program: ExportedProgram) -> ExportedProgram:
    """The program as it is once saved and loaded."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def check(given: Tensors, expected: Tensors) -> None:
    """The same dtypes, strides and bits."""
    assert len(given) == len(expected)
    for have, want in zip(given, expected):
        assert (have.dtype, have.stride()) == (want.dtype, want.stride())
        codes = want.element_size() == 1
        assert_same(have.view(torch.uint8) if codes else have, want.view(torch.uint8) if codes else want)


@pytest.fixture
def model(device: str) -> Callable[..., Tensors]:
    """The model, and its inputs as its attribute."""
    torch.manual_seed(0)
    model = TwoLayers().to(device)
    model.inputs = (torch.randn(34, 64, device=device), torch.tensor([5], device=device))
    return model


@pytest.mark.parametrize("strict", [False, True])
def test_each_call_is_one_node(strict: bool, model: TwoLayers) -> None:
    """An exported program has one node a call, decomposed by torch's table, saved and loaded or not, and gives the model's bits."""
    program = torch.export.export(model, model.inputs, strict=strict)
    for exported in (program, program.run_decompositions(), reload(program), reload(program.run_decompositions())):
        assert sorted(mx_nodes(exported)) == sorted(NODES)
        check(exported.module()(*model.inputs), model(*model.inputs))


def test_another_seed_is_another_input(model: TwoLayers) -> None:
    """A seed that is an input is not baked in."""
    program = torch.export.export(model, model.inputs)
    seed = model.inputs[1] + 1
    check(program.module()(model.inputs[0], seed), model(model.inputs[0], seed))
    assert not torch.equal(model(model.inputs[0], seed)[0], model(*model.inputs)[0])


def test_seeds_drawn_in_the_graph(device: str) -> None:
    """stochastic_rounding=True is a randint in the graph: loaded too, it draws what eager code draws, and anew at each call."""

    class Noisy(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mx_ops.fake_quant(x, "mxfp4", stochastic_rounding=True)

    x = wild((31, 42)).to(device)
    for program in (torch.export.export(Noisy(), (x,)), reload(torch.export.export(Noisy(), (x,)).run_decompositions())):
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert [target.split(".")[1] for target in targets] == ["randint", "fake_quant"]
        torch.manual_seed(3)
        given = program.module()(x), program.module()(x)
        torch.manual_seed(3)
        check(given, (Noisy()(x), Noisy()(x)))
        assert not torch.equal(*given)


def test_dynamic_sizes(device: str) -> None:
    """One program serves every number of rows, and every length of more than one block."""
    every = {0: Dim("rows", min=2), 1: Dim("length", min=33)}

    class Chain(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensors:
            elements, scales = torch.ops.mx.quantize(x, "mxfp8_e4m3", dim=1)
            return mx_ops.fake_quant(x, "mxfp4"), elements, scales, torch.ops.mx.dequantize(elements, scales, "mxfp8_e4m3", dim=1)

    for strict in (False, True):
        program = torch.export.export(Chain(), (wild((6, 42)).to(device),), dynamic_shapes=(every,), strict=strict)
        for shape in ((6, 42), (3, 431), (31, 33), (2, 64)):
            x = wild(shape).to(device)
            check(program.module()(x), Chain()(x))


def test_fake_quant_of_any_size(device: str) -> None:
    """One program serves every size, whatever size it was exported with: less than a block of a column may become many blocks."""

    class Both(torch.nn.Module):
        def forward(self, x: Tensor, seed: Tensor) -> Tensors:
            return mx_ops.fake_quant(x, "mxfp4", dim=0), mx_ops.fake_quant(x, "mxfp8_e4m3", seed=seed)

    seed = torch.tensor([3], device=device)
    every = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {})
    program = torch.export.export(Both(), (wild((6, 7)).to(device), seed), dynamic_shapes=every)
    for lowered in (program, program.run_decompositions(mx_ops.decompositions())):
        for shape in ((6, 7), (70, 7), (7, 70), (64, 2), (2, 32), (2, 431)):
            x = wild(shape).to(device)
            check(lowered.module()(x, seed), Both()(x, seed))


def test_unbacked_sizes(device: str) -> None:
    """Sizes that only the data know may stand in any dim that is not blocked."""

    class Chosen(torch.nn.Module):
        def forward(self, x: Tensor, seed: Tensor) -> Tensors:
            x = x[x[:, 0] > 0]
            elements, scales = torch.ops.mx.quantize(x, "mxfp4", seed)
            return mx_ops.fake_quant(x, "mxfp8_e5m2"), elements, scales, torch.ops.mx.dequantize(elements, scales, "mxfp4")

    seed = torch.tensor([1], device=device)
    program = torch.export.export(Chosen(), (wild((31, 42)).to(device), seed))
    for lowered in (program, reload(program), program.run_decompositions(mx_ops.decompositions())):
        for x in (wild((31, 42)), wild((31, 42), seed=1), -wild((31, 42)).abs()):
            check(lowered.module()(x.to(device), seed), Chosen()(x.to(device), seed))


@pytest.mark.parametrize(("strict", "whole"), [(False, False), (True, True)], ids=["ours", "strict, ours and torch's"])
def test_decompositions_leave_nothing_of_ours(strict: bool, whole: bool, device: str) -> None:
    """Lowered by the table, a program holds ATen alone, and gives the same bits for any sizes and strides."""
    table = {**torch.export.default_decompositions(), **mx_ops.decompositions()} if whole else mx_ops.decompositions()
    every = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {})
    seed = torch.tensor([3], device=device)
    lowered = torch.export.export(AllOps(), (wild((5, 70)).to(device), seed), dynamic_shapes=every, strict=strict).run_decompositions(table)
    calls = [node.target for node in lowered.graph.nodes if node.op == "call_function"]
    assert {call.namespace for call in calls if isinstance(call, torch._ops.OpOverload)} == {"aten"}
    assert not any(call._schema.is_mutable for call in calls if isinstance(call, torch._ops.OpOverload))
    for x in (wild((5, 70)), wild((70, 33)).t().contiguous().t(), wild((1, 431)).expand(3, 431), wild((64, 288))[::2, ::3]):
        given, expected = lowered.module()(x.to(device), seed), AllOps()(x.to(device), seed)
        for have, want in zip(given, expected):
            assert have.dtype == want.dtype
            assert_same(have, want)


def test_decompositions_take_other_strides(device: str) -> None:
    """Lowered by the table, a program of fixed sizes reads right whatever strides its inputs have, as the op itself would."""

    class Both(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensors:
            return mx_ops.fake_quant(x, "mxfp4"), *torch.ops.mx.quantize(x, "mxfp8_e5m2", dim=0)

    x = wild((64, 96)).to(device)
    lowered = torch.export.export(Both(), (x,)).run_decompositions(mx_ops.decompositions())
    for other in (x, x.t().contiguous().t(), x[:, :1].expand(64, 96)):
        for have, want in zip(lowered.module()(other), Both()(other)):
            assert_same(have, want)


def test_codes_in_torchs_dtypes_survive(device: str) -> None:
    """Codes and scales in torch's own dtypes come out of the program; out of a saved one too, where torch's format has the dtypes."""

    class Codes(torch.nn.Module):
        def __init__(self, format: str) -> None:
            super().__init__()
            self.format = format

        def forward(self, x: Tensor) -> Tensors:
            options = scale_for(x, self.format)
            elements, scales = mx_ops.quantize(x, self.format, **options)
            return elements, scales, mx_ops.dequantize(elements, scales, self.format, **options)

    x = wild((31, 42)).to(device)
    for format in mx_ops.FORMATS:
        program = torch.export.export(Codes(format), (x,))
        check(program.module()(x), Codes(format)(x))
        check(program.run_decompositions(mx_ops.decompositions()).module()(x), Codes(format)(x))
        try:
            loaded = reload(program)
        except RuntimeError as error:  # torch's files have no number for FP4 (2.15), nor for E8M0 (2.11)
            if not re.search("float4_e2m1fn_x2|float8_e8m0fnu", str(error)):
                raise
        else:
            check(loaded.module()(x), Codes(format)(x))


@pytest.mark.parametrize("format", mx_ops.FORMATS)
def test_torch_compile_gives_our_dtypes(format: str, device: str) -> None:
    """Compiled code gives and takes codes and scales in torch's own dtypes, which Inductor's CPU backend does not all know."""
    torch.compiler.reset()
    x = wild((31, 42)).to(device)
    with fresh_cache():
        options = scale_for(x, format)
        codes = torch.compile(lambda x: mx_ops.quantize(x, format, **options), fullgraph=True)(x)
        check(codes, mx_ops.quantize(x, format, **options))
        values = torch.compile(lambda elements, scales: mx_ops.dequantize(elements, scales, format, **options), fullgraph=True)(*codes)
        check((values,), (mx_ops.dequantize(*codes, format, **options),))


@pytest.mark.parametrize("file", sorted(path.name for path in DATA.glob("*.pt2")))
def test_programs_of_earlier_releases(file: str, device: str) -> None:
    """A program saved by an earlier release loads, and its bits are those of then and those of now."""
    extra = {"digests.json": ""}
    program = torch.export.load(DATA / file, extra_files=extra)
    assert set(mx_nodes(program)) == {"mx::quantize", "mx::dequantize", "mx::fake_quant", "mx::mxfp4_fake_quant", "mx::mxfp8_fake_quant"}
    if device == "cpu":
        assert [digest(output) for output in program.module()(*golden(device))] == json.loads(extra["digests.json"])
    assert [digest(output) for output in AllOps()(*golden(device))] == json.loads(extra["digests.json"])


def save_program(file: str) -> None:
    """Make what the last test loads."""
    assert not pathlib.Path(file).exists(), f"{file} is to stay as it is"
    example = (torch.ones(3, 42), torch.tensor([1]))
    program = torch.export.export(AllOps(), example, dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {}))
    digests = [digest(output) for output in AllOps()(*golden("cpu"))]
    torch.export.save(program, file, extra_files={"digests.json": json.dumps(digests)})


if __name__ == "__main__":
    save_program(sys.argv[1])
