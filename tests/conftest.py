"""What every test shares: the devices, and a summary of what ran where.

The suite runs three ways: on CPU through the reference; on a GPU through the Triton kernels, whenever there is one; and with
TRITON_INTERPRET=1, as far as kernels have a say in it, on CPU through the Triton kernels.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and not INTERPRETED else [])

# Interpreted, a launch takes a tenth of a second, and what no kernel has a say in is what it is without: how arguments are checked, what
# torch's transforms, modes and compilers make of an op, how ranks share a DTensor, the reference, the commands, other processes.
SAME_INTERPRETED = (
    *("aoti", "bench", "bench_output", "bench_plot", "cache", "checkpointing", "checkpoints", "compilations", "distributed", "endings"),
    *("errors", "export", "formats", "fusion", "gpu_code", "gradients", "house", "import", "kernels_compile", "launches", "main", "memory"),
    *("modes", "mutations", "oracle", "private_names", "random_compiled", "readme", "scale_gradients", "sizes", "snapshots", "swizzle"),
    *("threads", "tracers", "trained_model", "transforms"),
)
collect_ignore = [f"test_{name}.py" for name in SAME_INTERPRETED] if INTERPRETED else []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu``, of what a GPU alone can show, run where there is one: `pytest -m gpu` runs them alone."""
    if item.get_closest_marker("gpu") and "cuda" not in DEVICES:
        pytest.skip("needs a GPU" if not torch.cuda.is_available() else "needs a GPU, and TRITON_INTERPRET=1 runs the kernels on CPU")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each device of this machine that has an implementation to test."""
    return request.param


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what ``python -m mx_ops`` compiles and exports, which tests of what comes before have no use for."""
    monkeypatch.setattr("mx_ops.__main__.check_ops", lambda device: iter(()))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Dtypes by their names, in the names of tests."""
    return str(val).removeprefix("torch.") if isinstance(val, torch.dtype) else None


def pytest_report_header() -> list[str]:
    """Versions, and what each device runs."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "not installed"
    cpu = "Triton kernels, interpreted" if INTERPRETED else "ATen reference"
    lines = [f"torch {torch.__version__}, triton {version}", f"cpu: {cpu}"]
    if "cuda" in DEVICES:
        lines.append(f"cuda: Triton kernels on {torch.cuda.get_device_name()}")
    else:
        lines.append("cuda: not run" + (" (TRITON_INTERPRET=1)" if INTERPRETED else " (no GPU)"))
    return [f"mx_ops {line}" for line in lines]


def pytest_terminal_summary(terminalreporter) -> None:
    """Repeat it last: what was not run should not have to be looked for."""
    for line in pytest_report_header():
        terminalreporter.write_line(line)
