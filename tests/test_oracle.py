"""The oracle is right: it agrees with published answers, with ml_dtypes and with the golden blocks before it judges anything."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import numpy as np
import oracle
import pytest
from helpers import assert_same

VECTORS = json.loads(pathlib.Path(__file__).with_name("mx_vectors.json").read_text())


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers(counter: str, key: str, answer: str) -> None:
    """Philox-4x32-10 agrees with the known answers that Random123 publishes."""
    words = oracle.philox(tuple(int(word, 16) for word in key.split()), tuple(int(word, 16) for word in counter.split()))
    assert " ".join(f"{int(word):08x}" for word in words) == answer


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        ("mxfp4", ml_dtypes.float4_e2m1fn),
        ("mxfp8_e4m3", ml_dtypes.float8_e4m3fn),
        ("mxfp8_e5m2", ml_dtypes.float8_e5m2),
        ("mxfp6_e2m3", ml_dtypes.float6_e2m3fn),
        ("mxfp6_e3m2", ml_dtypes.float6_e3m2fn),
    ],
)
def test_elements_are_those_of_ml_dtypes(format: str, dtype: type) -> None:
    """Every code of every element type has the value that ml_dtypes gives it."""
    row = oracle.ROWS[format]
    assert_same(row.values(), np.arange(2**row.bits, dtype=np.uint8).view(dtype))
    assert row.finite().max() == row.largest == float(ml_dtypes.finfo(dtype).max)
    assert np.all(np.diff(row.finite()) > 0)


def test_integers_are_multiples_of_a_64th() -> None:
    """Every code of MXINT8 has the value of OCP MX v1.0, section 5.3.4: that of an int8, over 64."""
    row = oracle.ROWS["mxint8"]
    assert_same(row.values(), np.arange(256, dtype=np.uint8).view(np.int8) / 64)
    assert row.finite().max() == row.largest == 127 / 64


@pytest.mark.parametrize(("format", "scale_mode"), [case.split("/") for case in VECTORS[0]["expect"]])
def test_golden_blocks(format: str, scale_mode: str) -> None:
    """The oracle gives the golden blocks, which another exact oracle made."""
    for vector in VECTORS:
        x = np.zeros(32, np.float32)
        bits = np.array([int(word, 16) for word in vector["input_fp32_bits"]], np.uint32)
        x[: len(bits)] = bits.view(np.float32)
        codes, scales = oracle.encode(x.astype(np.float64), format, scale_mode=scale_mode)
        values = oracle.decode(codes, scales, format, 32, "float32").astype(np.float32)
        expected = vector["expect"][f"{format}/{scale_mode}"]
        assert scales.tolist() == [expected["scale"]], vector["name"]
        if expected["codes"] is None:
            assert np.isnan(values).all(), vector["name"]
        else:
            assert codes[: len(bits)].tobytes().hex() == expected["codes"], vector["name"]
            assert [f"{word:08x}" for word in values[: len(bits)].view(np.uint32)] == expected["dequantized_fp32_bits"], vector["name"]
