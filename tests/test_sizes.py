"""Whatever size a compiler leaves open, the bits and the strides are those of eager code."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same
from sizes import SIZES, Program, check, differences

import mx_ops

ops = torch.ops.mx

# Of the table in sizes.py those that were wrong, or did not compile, before their sizes were open; and each kind of sizes in some way.
PROGRAMS = [
    ("quantize mxfp8_e4m3, dim -2", "contiguous", "float32", "unbacked rows and neighbours", "compile"),
    ("quantize nvfp4, dim -1", "transposed", "bfloat16", "unbacked", "compile"),
    ("quantize_both mxfp4", "transposed", "float32", "unbacked, a block", "lowered"),
    ("fake_quant mxint8 seeded, dim -2", "contiguous", "bfloat16", "unbacked", "lowered"),
    ("fake_quant mxfp8_e5m2, dim -1", "heads", "bfloat16", "unbacked rows", "package"),
    ("fake_quant nvfp4 computed, dim -2", "computed", "float32", "unbacked", "lowered"),
    ("swizzle", "contiguous", "float32", "unbacked", "compile"),
    ("tensor_scale", "computed", "float32", "unbacked", "package"),
    ("quantize_both mxint8 seeded", "heads", "bfloat16", "symbols, a block", "package"),
    ("quantize mxfp4, dim -1", "sliced", "float16", "symbols, a block", "export"),
    ("quantize nvfp4, dim -2", "contiguous", "bfloat16", "symbols, a block", "lowered"),
    ("quantize mxfp8_e4m3, dim -2", "sliced", "float16", "symbols", "compile"),
    ("fake_quant mxfp8_e5m2, dim 0", "computed", "float32", "static, zeros", "compile"),
]


@pytest.mark.parametrize("row", PROGRAMS, ids="; ".join)
def test_programs_agree_with_eager_code_at_all_sizes(row: tuple[str, ...]) -> None:
    """A few programs of the table: ``python -m tests.sizes`` has them all."""
    assert check(Program(*row)) == []


def test_a_wrong_byte_and_a_wrong_stride_are_found() -> None:
    """What compares can fail."""
    x = torch.arange(6.0).view(2, 3)
    assert differences({"x": x.clone()}, {"x": x}) == []
    assert differences({"x": x + (x == 5)}, {"x": x}) == ["x of shape (2, 3): 1 of 6 differ"]
    assert differences({"x": x * torch.tensor([-1.0, 1, 1])}, {"x": x}) == ["x of shape (2, 3): 2 of 6 differ"]
    assert differences({"x": x.t().contiguous().t()}, {"x": x}) == ["x of shape (2, 3): strides (1, 2), not (3, 1)"]
    assert differences({"x": x[:1]}, {"x": x}) == ["x: (1, 3) torch.float32, not (2, 3) torch.float32"]
    assert {size for kind in SIZES.values() for shape in (kind.example, *kind.runs) for size in shape} >= {0, 1, 2, 33, 64, 70}


def test_strides_are_those_of_empty_like_where_sizes_are_unbacked() -> None:
    """Inductor was not told the strides of such an output."""
    x = torch.randn(6, 3, 95)
    for dim in (0, 1):
        torch._dynamo.decorators.mark_unbacked(x, dim)
    compiled = torch.compile(lambda x: ops.fake_quant(x, "mxfp4", dim=1), fullgraph=True)(x)
    assert compiled.stride() == (285, 95, 1)
    assert_same(compiled, ops.fake_quant(x, "mxfp4", dim=1))


@pytest.mark.parametrize("columns", [16, 96])
@pytest.mark.parametrize("op", [ops.quantize, ops.quantize_both], ids=str)
def test_a_number_of_blocks_is_no_guard(op, columns: int) -> None:
    """Not whether there is one in the example, nor whether there are more."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs = op(x, "mxfp4")
            return *outputs, ops.dequantize(*outputs[:2], "mxfp4")

    shapes = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Model(), (torch.randn(columns, columns),), dynamic_shapes=shapes)
    assert {(limits.lower, str(limits.upper)) for limits in program.range_constraints.values()} == {(2, "int_oo")}
    for size in (2, 32, 34, 96, 160):
        x = torch.randn(size, size)
        for have, want in zip(program.module()(x), Model()(x)):
            assert_same(have, want)
            assert have.stride() == want.stride()


def test_sizes_of_codes_and_scales_that_depend_on_the_data_are_checked_when_they_are_known() -> None:
    """Where they do not fit, a program says so."""
    elements, scales = ops.quantize(torch.randn(8, 64), "mxfp8_e4m3")

    class Model(torch.nn.Module):
        def forward(self, elements: torch.Tensor, scales: torch.Tensor, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            some, same = rows.item(), others.item()
            for size in (some, same):
                torch._check(size >= 0)
                torch._check(size <= 8)
            return ops.dequantize(elements[:some], scales[:same], "mxfp8_e4m3")

    five, four = torch.tensor(5), torch.tensor(4)
    program = torch.export.export(Model(), (elements, scales, five, four))
    assert_same(program.module()(elements, scales, four, four), ops.dequantize(elements[:4], scales[:4], "mxfp8_e4m3"))
    with pytest.raises((RuntimeError, ValueError)):
        program.module()(elements, scales, five, four)


def test_nothing_in_gives_nothing_out_where_its_size_depends_on_the_data() -> None:
    """NVFP4 of no rows has the scale 0 and no values, as in eager code."""

    def rows(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = x[mask]
        return mx_ops.nvfp4_fake_quant(chosen), mx_ops.tensor_scale(chosen)

    x, mask = torch.randn(4, 32), torch.tensor([True, False, True, False])
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(rows, fullgraph=True)
        for which in (mask, torch.zeros_like(mask)):
            for have, want in zip(compiled(x, which), rows(x, which)):
                assert_same(have, want)
