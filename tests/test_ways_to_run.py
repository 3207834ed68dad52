"""Eager, compiled, exported and loaded, an op gives the same bits, on whatever kernels the tests run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from commands import call
from safetensors.torch import save_file


def test_all_ways_to_run_agree(tmp_path: Path) -> None:
    """With TRITON_INTERPRET=1 that is Triton's interpreter. The JSON document is all of stdout."""
    save_file({"x": torch.randn(4, 64)}, tmp_path / "x.safetensors")
    status, out, err = call("--json", tmp_path / "x.safetensors")
    document = json.loads(out)
    assert (status, err, document["ok"]) == (0, "", True)
    assert ("interpreted" in document["backend"]) == (os.environ.get("TRITON_INTERPRET") == "1")
    assert [(check["name"], check["status"]) for check in document["checks"]] == [
        ("fake_quant", "same bits"),
        ("torch.compile", "same bits"),
        ("torch.export, saved and loaded", "same bits"),
    ]
