"""Scales in the order of matrix units: every byte where cuBLAS looks for it, and back again."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import torch
from helpers import FORMATS, assert_same, wild
from torch import Tensor

import mx_ops

SHAPES = [(1, 1), (128, 4), (127, 3), (129, 5), (33, 9), (256, 8), (300, 1), (1, 17), (2, 128, 4), (3, 1, 5, 6), (2, 0, 3, 3)]
EMPTY = [(0, 4), (4, 0), (0, 0), (0, 128, 4)]


def random_bytes(shape: tuple[int, ...]) -> Tensor:
    """Bytes none of which is 0, which padding is."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def by_the_formula(scales: Tensor) -> Tensor:
    """Element by element."""
    *outer, rows, columns = scales.shape
    row_tiles, column_tiles = -(-rows // 128), -(-columns // 4)
    out = torch.zeros(*outer, 128 * row_tiles, 4 * column_tiles, dtype=scales.dtype)
    flat = out.view(*outer, 512 * row_tiles * column_tiles)
    for i, j in itertools.product(range(rows), range(columns)):
        place = (i // 128 * column_tiles + j // 4) * 512 + i % 32 * 16 + i % 128 // 32 * 4 + j % 4
        flat[..., place] = scales[..., i, j]
    return out


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "offset": lambda x: torch.nn.functional.pad(x.flatten(), (1, 0))[1:].view(x.shape),
    "sliced": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1))[..., 3:-1, 1:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + EMPTY)
def test_every_byte_is_where_the_formula_says(shape: tuple[int, ...], layout: str, device: str) -> None:
    """Of whole tiles and of others, which zeros fill up; of batches; from any strides."""
    scales = random_bytes(shape)
    given = LAYOUTS[layout](scales).to(device)
    swizzled = torch.ops.mx.swizzle_scales(given)
    assert_same(swizzled, by_the_formula(scales))
    assert swizzled.is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + EMPTY)
def test_there_and_back_again(shape: tuple[int, ...], layout: str, device: str) -> None:
    """Unswizzled they are what they were, also where what fills a tile up is no zero."""
    scales = random_bytes(shape).to(device)
    swizzled = torch.ops.mx.swizzle_scales(scales)
    swizzled = torch.where(swizzled == 0, 77, swizzled)
    back = torch.ops.mx.unswizzle_scales(LAYOUTS[layout](swizzled), *shape[-2:])
    assert_same(back, scales)
    assert back.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.uint8, torch.int8])
def test_functions_keep_any_dtype_of_one_byte(dtype: torch.dtype, device: str) -> None:
    """The bytes are those of the op."""
    scales = random_bytes((33, 5)).to(device)
    swizzled = mx_ops.swizzle_scales(scales.view(dtype))
    assert swizzled.dtype == dtype
    assert_same(swizzled.view(torch.uint8), torch.ops.mx.swizzle_scales(scales))
    back = mx_ops.unswizzle_scales(swizzled, 33, 5)
    assert back.dtype == dtype
    assert_same(back.view(torch.uint8), scales)


@pytest.mark.parametrize("format", FORMATS)
def test_scales_of_quantize_along_either_dim(format: str, device: str) -> None:
    """Rows of the matrix whose blocked dim is moved last."""
    x = wild((70, 66), torch.bfloat16).to(device)
    for dim in (0, 1):
        scales = mx_ops.quantize(x, format, dim=dim)[1].movedim(dim, -1)
        moved = mx_ops.quantize(x.movedim(dim, -1).contiguous(), format)[1]
        assert_same(mx_ops.swizzle_scales(scales).view(torch.uint8), by_the_formula(moved.view(torch.uint8).cpu()))


def test_vmap_is_a_loop(device: str) -> None:
    """Whatever dim is the batch, and nested."""
    scales = random_bytes((3, 33, 5)).to(device)
    for at in (0, 1, -1):
        parts = scales.movedim(0, at).unbind(at)
        swizzled = torch.vmap(mx_ops.swizzle_scales, in_dims=at)(scales.movedim(0, at))
        assert_same(swizzled, torch.stack([mx_ops.swizzle_scales(part) for part in parts]))
        back = torch.vmap(lambda part: mx_ops.unswizzle_scales(part, 33, 5), in_dims=at)(swizzled.movedim(0, at))
        assert_same(back, scales)
    nested = torch.vmap(torch.vmap(mx_ops.swizzle_scales))(scales[None])
    assert_same(nested[0], mx_ops.swizzle_scales(scales))
    with pytest.raises(ValueError, match=r"scales of shape \(33,\) are no matrix"):
        torch.vmap(torch.ops.mx.swizzle_scales)(scales[0].T)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_it_is_the_same_and_one_loop(dynamic: bool, device: str) -> None:
    """Quantize, swizzle and back, in one graph; ragged sizes and whole ones."""

    def chain(x: Tensor) -> tuple[Tensor, Tensor]:
        scales = mx_ops.quantize(x, "mxfp8_e4m3")[1]
        swizzled = mx_ops.swizzle_scales(scales)
        return swizzled.view(torch.uint8), mx_ops.unswizzle_scales(swizzled, *scales.shape).view(torch.uint8)

    torch.compiler.reset()
    compiled = torch.compile(chain, fullgraph=True, dynamic=dynamic)
    for shape in ((33, 160), (128, 128), (130, 70)):
        x = wild(shape).to(device)
        for have, want in zip(compiled(x), chain(x)):
            assert_same(have, want)


@pytest.mark.parametrize("shape", [(33, 5), (256, 8)])
def test_export_keeps_the_ops_and_dynamic_sizes(shape: tuple[int, int]) -> None:
    """A program serves sizes that its example had not, as it stands and lowered to ATen."""

    class Model(torch.nn.Module):
        def forward(self, scales: Tensor) -> Tensor:
            return torch.ops.mx.unswizzle_scales(torch.ops.mx.swizzle_scales(scales), scales.shape[0], scales.shape[1])

    class Swizzle(torch.nn.Module):
        def forward(self, scales: Tensor) -> Tensor:
            return torch.ops.mx.swizzle_scales(scales)

    dynamic = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    both = torch.export.export(Model(), (random_bytes(shape),), dynamic_shapes=dynamic)
    assert [node.target for node in both.graph.nodes if "mx" in str(node.target)] == [
        torch.ops.mx.swizzle_scales.default,
        torch.ops.mx.unswizzle_scales.default,
    ]
    one = torch.export.export(Swizzle(), (random_bytes(shape),), dynamic_shapes=dynamic)
    for other in ((33, 5), (256, 8), (128, 9), (131, 4), (400, 70)):
        scales = random_bytes(other)
        for program in (both, both.run_decompositions(mx_ops.decompositions())):
            assert_same(program.module()(scales), scales)
        for program in (one, one.run_decompositions(mx_ops.decompositions())):
            assert_same(program.module()(scales), by_the_formula(scales))


BYTES = torch.zeros(128, 4, dtype=torch.uint8)
ERRORS: list[tuple[type[Exception], str, Callable[[], object]]] = [
    (
        TypeError,
        "scales are torch.float8_e8m0fnu; the op takes bytes",
        lambda: torch.ops.mx.swizzle_scales(BYTES.view(torch.float8_e8m0fnu)),
    ),
    (TypeError, "swizzled scales are torch.float32; the op", lambda: torch.ops.mx.unswizzle_scales(BYTES.float(), 128, 4)),
    (TypeError, "scales are torch.bfloat16; they may be of any dtype of one byte", lambda: mx_ops.swizzle_scales(BYTES.bfloat16())),
    (TypeError, "swizzled scales are torch.bool; they may be", lambda: mx_ops.unswizzle_scales(BYTES.bool(), 128, 4)),
    (ValueError, "scales of shape (4,) are no matrix", lambda: mx_ops.swizzle_scales(BYTES[0])),
    (ValueError, "swizzled scales of shape (4,) are no matrix", lambda: mx_ops.unswizzle_scales(BYTES[0], 1, 4)),
    (ValueError, "swizzled scales of shape (128, 4) do not hold 129 rows and 4 columns", lambda: mx_ops.unswizzle_scales(BYTES, 129, 4)),
    (ValueError, "those fill 128 and 8", lambda: mx_ops.unswizzle_scales(BYTES, 1, 5)),
    (ValueError, "-1 rows and 4 columns: sizes may not be negative", lambda: mx_ops.unswizzle_scales(BYTES[:0], -1, 4)),
]


@pytest.mark.parametrize(("error", "message", "call"), ERRORS)
def test_errors_are_plain_and_early(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    """They name what was given and what may be."""
    with pytest.raises(error, match=re.escape(message)):
        call()
