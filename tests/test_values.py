"""fake_quant(x) is dequantize(quantize(x)) in x's dtype to the bit, what is finite stays finite, and -0 stays -0."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from conftest import INTERPRETED
from helpers import DTYPES, DTYPES_AND_MODES, FEW, FORMATS, ODD_SHAPES, SCALE_MODES, assert_same, exact, float32, name_of, wild
from torch import Tensor

import mx_ops

BLOCK_SIZES = [16, 32, 64, 128, 256]
SHAPES_AND_DIMS = [(shape, dim) for shape in ODD_SHAPES for dim in range(len(shape))]


def quantize_dequantize(x: Tensor, format: str, dim: int, block_size: int, scale_mode: str) -> Tensor:
    """The long way round, by the two ops; an odd length that two codes a byte refuse is filled up with a zero, which changes no scale."""
    length = x.shape[dim]
    if length % oracle.ROWS[format].codes_per_byte:
        x = torch.cat([x, torch.zeros_like(x.narrow(dim, 0, 1))], dim)
    elements, scales = torch.ops.mx.quantize(x, format, dim=dim, block_size=block_size, scale_mode=scale_mode)
    return torch.ops.mx.dequantize(elements, scales, format, dim=dim, block_size=block_size, dtype=x.dtype).narrow(dim, 0, length)


def check(x: Tensor, format: str, dim: int, block_size: int, scale_mode: str) -> None:
    """The short way, the long way and the oracle agree."""
    values = torch.ops.mx.fake_quant(x, format, dim=dim, block_size=block_size, scale_mode=scale_mode)
    assert values.dtype == x.dtype
    assert_same(values, oracle.fake_quant(exact(x), format, None, dim, block_size, scale_mode, name_of(x.dtype)))
    assert_same(values, quantize_dequantize(x, format, dim, block_size, scale_mode))
    assert values.isfinite().all()


def some(format: str, index: int) -> list[tuple[torch.dtype, str]]:
    """Every dtype with every scale mode; interpreted, one of each in turn, for a kernel knows a mode by one number of its own."""
    every = FEW.get(format, DTYPES_AND_MODES)
    return [every[index % len(every)]] if INTERPRETED else every


@pytest.mark.parametrize(("shape", "dim"), SHAPES_AND_DIMS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_shape_and_dim(shape: tuple[int, ...], dim: int, format: str, device: str) -> None:
    """Odd shapes along every dim, in every dtype and scale mode."""
    for dtype, scale_mode in some(format, SHAPES_AND_DIMS.index((shape, dim))):
        check(wild(shape, dtype, dim).to(device), format, dim, 32, scale_mode)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_block_size(block_size: int, format: str, device: str) -> None:
    """Every block size, in every dtype and scale mode, over whole and ragged blocks along both dims."""
    for dim in (0, 1):
        shape = (3, 431) if dim == 1 else (431, 3)
        for dtype, scale_mode in some(format, BLOCK_SIZES.index(block_size) + 2 * dim):
            check(wild(shape, dtype, dim, seed=block_size).to(device), format, dim, block_size, scale_mode)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_random_data(format: str, dtype: torch.dtype, device: str) -> None:
    """A hundred thousand numbers over the dtype's whole range, and as many of one magnitude."""
    shape = (16 if INTERPRETED else 256, 416)  # a sixteenth is dozens of programs
    check(wild(shape, dtype, seed=1).to(device), format, -1, 32, "floor")
    random = torch.from_numpy(np.random.default_rng(2).standard_normal(shape)).to(dtype)
    check(random.to(device), format, -1, 32, "rceil")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", [name for name in FORMATS if not mx_ops.FORMATS[name].twos_complement])
def test_negative_zero_stays(format: str, dtype: torch.dtype, device: str) -> None:
    """-0 and what rounds to it keep their sign, in codes and in values, in a block of zeros and beside a large number."""
    x = torch.tensor([[-0.0, 0.0] * 16, [-(2.0**-24), 1000.0] * 16], dtype=dtype, device=device)
    assert_same(torch.ops.mx.fake_quant(x, format)[:, 0::2], torch.full((2, 16), -0.0))
    assert_same(torch.ops.mx.fake_quant(x, format)[0, 1::2], torch.zeros(16))
    elements, scales = torch.ops.mx.quantize(x, format)
    codes = oracle.unpack(elements.cpu().numpy(), format)
    assert (codes[:, 0::2] == oracle.ROWS[format].sign).all()
    assert_same(torch.ops.mx.dequantize(elements, scales, format)[:, 0::2], torch.full((2, 16), -0.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_have_no_negative_zero(dtype: torch.dtype, device: str) -> None:
    """-0 and what rounds to it become 0 in MXINT8, and -128 is no code of anything; but a product that underflows keeps its sign."""
    x = torch.tensor([[-0.0, 0.0] * 16, [-(2.0**-24), 1000.0] * 16, [-1.99, -2.0] * 16], dtype=dtype, device=device)
    for scale_mode in SCALE_MODES:
        assert_same(torch.ops.mx.fake_quant(x, "mxint8", scale_mode=scale_mode)[:2, 0::2], torch.zeros(2, 16))
        elements, scales = torch.ops.mx.quantize(x, "mxint8", scale_mode=scale_mode)
        assert not (elements[:2, 0::2] != 0).any()
        assert not (elements == 0x80).any()
        assert_same(torch.ops.mx.dequantize(elements, scales, "mxint8", dtype=dtype)[:2, 0::2], torch.zeros(2, 16))
    codes, scale = torch.tensor([[0xFF, 0x00, 0x80]], dtype=torch.uint8), torch.tensor([[90]], dtype=torch.uint8)
    values = torch.ops.mx.dequantize(codes.to(device), scale.to(device), "mxint8", dtype=torch.float16)  # 2^-6 * 2^-37 is none of its
    assert_same(values, torch.tensor([[-0.0, 0.0, -0.0]]))
    assert torch.ops.mx.dequantize(codes.to(device), torch.full_like(scale, 127, device=device), "mxint8")[0, 2].item() == -2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
def test_subnormal_inputs(format: str, dtype: torch.dtype, device: str) -> None:
    """Subnormal numbers are numbers: in no mode is a block of them flushed to zero."""
    random = np.random.default_rng(3)
    magnitude = random.integers(0, 2**23, (7, 42)) >> np.arange(7)[:, None]  # every row is a binade smaller than the one before
    x = float32(magnitude | random.integers(0, 2, (7, 42)) << 31).to(dtype)
    assert (x != 0).float().mean() > 0.8
    for scale_mode in SCALE_MODES:
        check(x.to(device), format, -1, 32, scale_mode)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale_mode", SCALE_MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_finite_in_finite_out(format: str, scale_mode: str, dtype: torch.dtype, device: str) -> None:
    """The dtype's largest values, which round up beyond it in some modes, come out finite: at most its largest value."""
    largest = torch.finfo(dtype).max
    factors = torch.tensor([1.0, -1.0, 0.999, 0.97, -0.95, 0.9, 0.8, 0.75, 0.7, 0.51, 0.5, -0.49, 0.3, 1e-3], dtype=torch.float64)
    x = (factors * largest).to(dtype).repeat(5).view(5, -1)
    x[1:] *= torch.tensor([[1.0], [0.5], [0.25], [0.125]], dtype=dtype)
    check(x.to(device), format, -1, 32, scale_mode)
    # Under these amax / largest element is rounded up, so amax itself is what saturates: if there is a scale that is large enough.
    if scale_mode in ("ceil", "rceil") and oracle.ROWS[format].largest * 2.0**127 > largest:
        assert torch.ops.mx.fake_quant(x.to(device), format, scale_mode=scale_mode)[0, 0].item() == largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_code_under_every_scale(format: str, dtype: torch.dtype, device: str) -> None:
    """All 256 scales times all codes: values round to the dtype and saturate; only NaN or Inf codes and scale 255 are not finite."""
    elements = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 256))
    blocks = 256 * oracle.ROWS[format].codes_per_byte // 32
    scales = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, blocks))
    tensors = [torch.from_numpy(array.copy()).to(device) for array in (elements, scales)]
    values = torch.ops.mx.dequantize(*tensors, format, dtype=dtype)
    assert values.dtype == dtype
    assert_same(values, oracle.dequantize(elements, scales, format, dtype=name_of(dtype)))
    codes = oracle.unpack(elements, format) & (oracle.ROWS[format].sign - 1)
    special = np.isin(codes, list(oracle.ROWS[format].special)) | (scales[:, :1] == 255)
    assert_same(values.isfinite(), ~special)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_large_scales_saturate_by_a_table_or_not(format: str, dtype: torch.dtype, device: str) -> None:
    """Under each scale alone, up to the largest: on CPU a table serves where no product is beyond the dtype's range, and only there."""
    elements = np.arange(256, dtype=np.uint8)[None]
    largest = 112 + (143 if dtype != torch.float16 else 31)  # of a product that is an element, 2^15 at most, times the scale
    for scale in range(largest - (1 if INTERPRETED else 19), min(largest, 254) + 1):
        scales = np.full((1, 256 * oracle.ROWS[format].codes_per_byte // 32), scale, np.uint8)
        values = torch.ops.mx.dequantize(torch.from_numpy(elements).to(device), torch.from_numpy(scales).to(device), format, dtype=dtype)
        assert_same(values, oracle.dequantize(elements, scales, format, dtype=name_of(dtype)))


def test_special_codes(device: str) -> None:
    """The codes that are no numbers: E5M2 has two infinities and six NaNs, E4M3 two NaNs, E2M1 none; under any scale."""
    infinite, nan = torch.tensor([[0x7C, 0xFC]]), torch.tensor([[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]])
    for scale in (0, 127, 254):
        scales = torch.tensor([[scale]], dtype=torch.uint8, device=device)
        for dtype in DTYPES:
            e5m2 = [torch.ops.mx.dequantize(c.to(torch.uint8).to(device), scales, "mxfp8_e5m2", dtype=dtype) for c in (infinite, nan)]
            assert e5m2[0].tolist() == [[torch.inf, -torch.inf]]
            assert e5m2[1].isnan().all()
            e4m3 = torch.ops.mx.dequantize(nan.to(torch.uint8).to(device), scales, "mxfp8_e4m3", dtype=dtype)
            assert e4m3.isnan().tolist() == [[False, False, True, False, False, True]]
            e2m1 = torch.ops.mx.dequantize(nan.to(torch.uint8).to(device), scales, "mxfp4", dtype=dtype)
            assert e2m1.isfinite().all()


@pytest.mark.skipif(INTERPRETED, reason="interpreted, it would take minutes")
@pytest.mark.parametrize(("format", "dtype"), list(zip(FORMATS, itertools.cycle(DTYPES))))
def test_many_codes(format: str, dtype: torch.dtype, device: str) -> None:
    """Of 8 MB of codes and more, which GPUs fetch ahead of their turn, dequantize gives the values of fake_quant."""
    x = wild((4100, 4096), torch.float32).to(dtype).to(device)
    codes = torch.ops.mx.quantize(x, format)
    assert_same(torch.ops.mx.dequantize(*codes, format, dtype=dtype), torch.ops.mx.fake_quant(x, format))


@pytest.mark.parametrize("format", FORMATS)
def test_python_functions_are_the_ops(format: str, device: str) -> None:
    """mx_ops.quantize, dequantize and fake_quant give the ops' bits, in torch's own dtypes; dequantize takes these and bytes."""
    x = wild((6, 42), torch.bfloat16).to(device)
    elements, scales = mx_ops.quantize(x, format, scale_mode="even", block_size=16)
    expected = torch.ops.mx.quantize(x, format, scale_mode="even", block_size=16)
    assert elements.dtype == mx_ops.FORMATS[format].dtype
    assert scales.dtype == torch.float8_e8m0fnu
    assert_same(elements.view(torch.uint8), expected[0])
    assert_same(scales.view(torch.uint8), expected[1])
    values = mx_ops.dequantize(elements, scales, format, block_size=16, dtype=torch.bfloat16)
    assert_same(values, mx_ops.dequantize(*expected, format, block_size=16, dtype=torch.bfloat16))
    assert_same(values, mx_ops.fake_quant(x, format, scale_mode="even", block_size=16))


def test_names_of_one_format(device: str) -> None:
    """The ops and functions of one format, and the older names, are fake_quant."""
    x = wild((6, 42), torch.float32).to(device)
    fp4, e4m3, e5m2 = (mx_ops.fake_quant(x, format) for format in ("mxfp4", "mxfp8_e4m3", "mxfp8_e5m2"))
    for function in (torch.ops.mx.mxfp4_fake_quant, mx_ops.mxfp4_fake_quant, mx_ops.mxfp4_forward, mx_ops.fake_quant_mxfp4):
        assert_same(function(x), fp4)
    for function in (torch.ops.mx.mxfp8_fake_quant, mx_ops.mxfp8_fake_quant, mx_ops.mxfp8_forward, mx_ops.fake_quant_mxfp8):
        assert_same(function(x), e4m3)
        assert_same(function(x, format="e5m2"), e5m2)
    options = {"dim": 0, "block_size": 16, "scale_mode": "ceil"}
    assert_same(torch.ops.mx.mxfp4_fake_quant(x, **options), mx_ops.fake_quant(x, "mxfp4", **options))
    assert_same(torch.ops.mx.mxfp8_fake_quant(x, "e5m2", **options), mx_ops.fake_quant(x, "mxfp8_e5m2", **options))


@pytest.mark.parametrize("option", [{"dim": 0}, {"block_size": 16}, {"scale_mode": "ceil"}, {"seed": 3}], ids=str)
def test_functions_pass_every_option_on(option: dict[str, Any], device: str) -> None:
    """What a function is given, the op is: it changes the bits, and changes them as the op's own does."""
    x = wild((6, 42)).to(device)
    seed = {"seed": torch.tensor([3], device=device)} if "seed" in option else {}
    op, both = torch.ops.mx.fake_quant, torch.ops.mx.quantize_both
    for function, format in ((mx_ops.mxfp4_fake_quant, "mxfp4"), (mx_ops.mxfp8_fake_quant, "mxfp8_e4m3")):
        assert not torch.equal(op(x, format, **option | seed), op(x, format))
        assert_same(function(x, **option), op(x, format, **option | seed))
        assert_same(mx_ops.fake_quant(x, format, **option), op(x, format, **option | seed))
        for have, want in zip(mx_ops.quantize(x, format, **option), torch.ops.mx.quantize(x, format, **option | seed)):
            assert_same(have.view(torch.uint8), want)
        if "dim" not in option:
            for have, want in zip(mx_ops.quantize_both(x, format, **option), both(x, format, **option | seed)):
                assert_same(have.view(torch.uint8), want)
    if "scale_mode" not in option:
        assert_same(mx_ops.nvfp4_fake_quant(x, **option), op(x, "nvfp4", **option | seed))
        elements, scales = mx_ops.quantize(x, "mxfp8_e4m3", **option)
        of_codes = {name: value for name, value in option.items() if name != "seed"}
        expected = torch.ops.mx.dequantize(elements.view(torch.uint8), scales.view(torch.uint8), "mxfp8_e4m3", **of_codes)
        assert_same(mx_ops.dequantize(elements, scales, "mxfp8_e4m3", **of_codes), expected)
