"""``python -m mx_ops.bench --host`` sets what a call costs the host against the bare launch of its kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import INTERPRETED
from test_bench import OPS, call

from mx_ops.bench import costs


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
def test_host_costs_are_set_against_the_bare_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the very kernel that the op launches, with the very arguments: it fills the same outputs."""
    monkeypatch.setattr(costs, "HOST_CALLS", 1)
    monkeypatch.setattr(costs, "HOST_SHAPE", (2, 64))
    file = tmp_path / "host.json"
    status, out, err = call("--device", "cpu", "--host", "--rounds", 1, "--json", file)
    assert status == 0
    assert err.splitlines()[1:] == OPS
    found = json.loads(file.read_text())["host"]
    expected = [(op, way) for op in OPS for way in ("bare launch", "op", *["op, input requires grad"] * (op == "fake_quant"))]
    assert [(one["op"], one["call"]) for one in found] == expected
    assert all(one["us"] > 0 and one["ratio"] > 0 for one in found)
    assert "to bare launch" in out
    x = torch.randn(2, 64)
    with costs.launches() as seen:
        values = torch.ops.mx.fake_quant(x, "mxfp4")
    expected_values = values.clone()
    values.zero_()
    seen[0]()
    assert torch.equal(values, expected_values)


@pytest.mark.skipif(INTERPRETED, reason="interpreted, there are kernels on CPU")
def test_host_costs_need_a_gpu() -> None:
    """It is said plainly."""
    status, out, err = call("--device", "cpu", "--host")
    assert (status, out) == (2, "")
    assert "--host measures launches of Triton kernels, and on cpu there are none" in err
