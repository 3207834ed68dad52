"""The 43 golden blocks, which an exact rational oracle made, come out as they stand: scales, codes and values, in every mode.

A format is one row of data: a row added to the table passes its blocks with no other change.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import oracle
import pytest
import torch
from helpers import FORMATS, SCALE_MODES, assert_same, exact, float32, wild

import mx_ops
from mx_ops import Format

VECTORS = json.loads(pathlib.Path(__file__).with_name("mx_vectors.json").read_text())
CASES = [tuple(case.split("/")) for case in VECTORS[0]["expect"]]


def check(format: str, scale_mode: str, device: str) -> int:
    """Every golden block of a format and mode, a block a row, through the three ops; how many there were."""
    x, codes, values = (np.zeros((len(VECTORS), 32), kind) for kind in (np.uint32, np.uint8, np.uint32))
    scales = np.zeros((len(VECTORS), 1), np.uint8)
    for row, vector in enumerate(VECTORS):
        words = [int(word, 16) for word in vector["input_fp32_bits"]]
        expected = vector["expect"][f"{format}/{scale_mode}"]
        x[row, : len(words)] = words
        scales[row] = expected["scale"]
        if expected["codes"] is None:
            assert expected["scale"] == 255
            codes[row] = mx_ops.FORMATS[format].nan_code
            values[row] = 0x7FC00000
        else:
            codes[row, : len(words)] = list(bytes.fromhex(expected["codes"]))
            values[row, : len(words)] = [int(word, 16) for word in expected["dequantized_fp32_bits"]]

    elements, scale = torch.ops.mx.quantize(float32(x).to(device), format, scale_mode=scale_mode)
    assert_same(scale, scales)
    assert_same(oracle.unpack(elements.cpu().numpy(), format), codes)
    assert_same(torch.ops.mx.dequantize(elements, scale, format), float32(values))
    assert_same(torch.ops.mx.fake_quant(float32(x).to(device), format, scale_mode=scale_mode), float32(values))
    return len(x)


@pytest.mark.parametrize(("format", "scale_mode"), CASES)
def test_golden_blocks(format: str, scale_mode: str, device: str) -> None:
    """Scales, codes, dequantized values and fake-quantized values are those of the golden blocks."""
    assert check(format, scale_mode, device) == 43


def test_every_format_and_mode_has_golden_blocks() -> None:
    """No format, mode or block has dropped out: six formats in four modes, but of MXINT8 there are blocks in two of them only."""
    assert len(VECTORS) == 43
    assert {format for format, _ in CASES} == set(FORMATS)
    assert {scale_mode for _, scale_mode in CASES} == set(mx_ops.SCALE_MODES)
    assert len(CASES) == 5 * 4 + 2


def test_nan_codes_are_canonical() -> None:
    """A block with a NaN or an Inf holds 0x7F in every FP8 element, and 0 where no code is NaN."""
    codes = {name: row.nan_code for name, row in mx_ops.FORMATS.items()}
    assert codes == {name: 0x7F if name.startswith("mxfp8") else 0x00 for name in codes}


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A format that is in no specification, in the table for as long as a test runs: E2M2, of five bits."""
    monkeypatch.setitem(mx_ops.FORMATS, "fp5", Format("fp5", "E2M2", 5, 2, 0, 2, 7.0, 0x00, torch.uint8))
    monkeypatch.setitem(oracle.ROWS, "fp5", oracle.Row(5, 2, 0, 2, 7.0))
    mx_ops.library.checks.resolve.cache_clear()
    yield "fp5"
    mx_ops.library.checks.resolve.cache_clear()


@pytest.mark.parametrize("scale_mode", SCALE_MODES)
def test_a_format_is_one_row_of_data(added: str, scale_mode: str, device: str) -> None:
    """A format added as a row of facts is quantized as the oracle does."""
    x = wild((31, 42)).to(device)
    elements, scales = torch.ops.mx.quantize(x, added, scale_mode=scale_mode)
    expected_elements, expected_scales = oracle.quantize(exact(x), added, scale_mode=scale_mode)
    assert_same(elements, expected_elements)
    assert_same(scales, expected_scales)
    expected = oracle.fake_quant(exact(x), added, scale_mode=scale_mode)
    assert_same(torch.ops.mx.fake_quant(x, added, scale_mode=scale_mode), expected)
    assert_same(torch.ops.mx.dequantize(elements, scales, added), expected)
