"""The command ``python -m mx_ops``: its figures are right, and it says what differs."""

from __future__ import annotations

import errno
import json
import math
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import call, spawn
from safetensors.torch import save_file

import mx_ops
from mx_ops.report import checkpoints, figures

COMBINATIONS = [(name, mode) for name, row in mx_ops.FORMATS.items() for mode in row.scale_modes or (None,)]
SHOWN = [(name, mode or "-") for name, mode in COMBINATIONS]


def table(text: str) -> dict[tuple[str, str], list[str]]:
    """The first table of a text: the cells by format and scale mode."""
    rows = [line.split() for line in text.splitlines()]
    found: dict[tuple[str, str], list[str]] = {}
    for cells in rows:
        if tuple(cells[:2]) in SHOWN:
            found.setdefault((cells[0], cells[1]), cells[2:])
    return found


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


def test_what_is_not_measured_as_it_stands_is_said(tmp_path: Path, no_checks: None) -> None:
    """Dtypes that the ops do not take, odd lengths, NaN and Inf, no values at all."""
    wide = torch.randn(4, 64)
    wide[1, 3], wide[1, 4], wide[3, 40] = math.nan, math.inf, -math.inf
    tensors = {
        "ids": torch.arange(4),
        "mask": torch.ones(4, dtype=torch.bool),
        "codes": torch.ones(4).to(torch.float8_e4m3fn),
        "sparse": torch.eye(2).to_sparse(),
        "nested": torch.nested.nested_tensor([torch.ones(2, 32)]),
        "jagged": torch.nested.nested_tensor([torch.ones(2, 32)], layout=torch.jagged),
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
        "skipped, nested: nested, jagged",
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
        "nested": "nested",
        "jagged": "nested",
    }
    assert (file["converted"], file["not_finite"]) == ({"double": "torch.float64"}, 3)
    rows = {tensor["name"]: tensor["rows"][0] for tensor in file["by_tensor"]}
    assert rows["odd"]["bits_per_value"] == 8 * (2 + 1) / 3  # three codes take two bytes
    assert rows["none"] == {**rows["none"], "bits_per_value": None, "sqnr_db": None, "largest_error": None, "clipped": None}
    name, scale_mode = COMBINATIONS[0]
    blocks = wide.view(8, 32)[[0, 1, 3, 4, 5, 6]].double()
    noise = (blocks - mx_ops.fake_quant(blocks.float(), name, scale_mode=scale_mode)).square().sum()
    assert rows["wide"]["sqnr_db"] == pytest.approx(float(10 * torch.log10(blocks.square().sum() / noise)))


def test_a_packed_file_names_what_it_skips_in_a_line(tmp_path: Path, no_checks: None) -> None:
    """As many names as there is room for, and at least one; the JSON document has all."""
    names = [f"model.layers.{layer:03}.mlp.experts.{name}" for layer in range(90) for name in ("down_proj_blocks", "down_proj_scales")]
    odd = [f"model.layers.{layer:03}.self_attn.rotary_embedding.inverse_frequencies" for layer in range(12)]
    tensors = {**dict.fromkeys(names, torch.zeros(4, dtype=torch.uint8)), **dict.fromkeys(odd, torch.ones(3)), "x" * 200: torch.arange(2)}
    torch.save(tensors, tmp_path / "x.pt")
    notes = [line for line in call(tmp_path / "x.pt")[1].splitlines() if "skipped" in line or "padded" in line]
    assert notes == [
        f"  skipped, torch.int64: {'x' * 200}",
        f"  skipped, torch.uint8: {names[0]}, {names[1]} and 178 more",
        f"  padded by a zero a row for mxfp4, which packs 2 values a byte: {odd[0]} and 11 more",
        f"  padded by a zero a row for nvfp4, which packs 2 values a byte: {odd[0]} and 11 more",
    ]
    (file,) = json.loads(call("--json", tmp_path / "x.pt")[1])["files"]
    assert [skipped["name"] for skipped in file["skipped"]] == [*names, "x" * 200]


def test_a_file_without_floating_point_tensors_is_no_failure(tmp_path: Path, no_checks: None) -> None:
    """It has no table."""
    torch.save([torch.arange(4)], tmp_path / "x.pt")
    status, out, err = call(tmp_path / "x.pt")
    assert (status, err, table(out)) == (0, "", {})
    assert f"{tmp_path / 'x.pt'}: no floating-point tensors\n  skipped, torch.int64: 0\n" in out
    assert "fake_quant: not run: no tensor to run it on" in out


@pytest.mark.parametrize("shape", [(40, 96), (1, 1300), (1300,), (3, 1300)])
def test_figures_do_not_depend_on_the_chunks_they_are_taken_in(
    shape: tuple[int, ...], tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks cut neither a block nor a byte of codes."""
    torch.save(torch.randn(shape), tmp_path / "x.pt")
    whole = json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"]
    monkeypatch.setattr(figures, "CHUNK", 512)
    monkeypatch.setattr(figures, "AT_ONCE", 2)
    for row, expected in zip(json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"], whole):
        assert row == {**expected, "sqnr_db": pytest.approx(expected["sqnr_db"], abs=1e-9)}


def test_a_row_longer_than_a_chunk_is_cut_between_blocks(tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks as large as they are."""
    x = torch.ones(figures.CHUNK + 64)
    x[::256] = 1000.0  # another cut would free values from the largest of their block
    torch.save(x, tmp_path / "x.pt")
    cut = json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"]
    monkeypatch.setattr(figures, "CHUNK", 2 * figures.CHUNK)
    assert json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"] == cut


def test_values_of_nvfp4_are_clipped_by_both_its_scales(tmp_path: Path, no_checks: None) -> None:
    """Of a scale of 3 for the tensor: a block whose top is 17 * 6 times that has the scale 16, and clips at 16 * 6; one of 448 does not."""
    x = torch.zeros(2, 16)
    x[0, 0], x[1, 0], x[1, 1] = 3 * 448 * 6, 3 * 17 * 6, 3 * 16 * 6
    torch.save(x, tmp_path / "x.pt")
    (row,) = [row for row in json.loads(call("--json", tmp_path / "x.pt")[1])["files"][0]["rows"] if row["format"] == "nvfp4"]
    assert (row["clipped"], row["largest_error"]) == (1 / 32, 3 * 6)


def test_the_scale_of_a_tensor_is_that_of_all_its_chunks(tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the finite values among them."""
    x = torch.randn(40, 64)
    x[21, 3], x[30, 7], x[35, 1] = -70.0, math.inf, math.nan
    monkeypatch.setattr(figures, "CHUNK", 512)
    monkeypatch.setattr(figures, "AT_ONCE", 2)
    scales = []
    monkeypatch.setattr(figures, "measure", lambda *arguments: scales.append(arguments[4]) or figures.Figures())
    torch.save(x, tmp_path / "x.pt")
    call(tmp_path / "x.pt")
    assert {float(scale) for scale in scales if scale is not None} == {float(mx_ops.tensor_scale(torch.tensor([70.0])))}
    assert sum(scale is None for scale in scales) == 5 * 24


def test_the_sample_is_always_the_same() -> None:
    """Whatever was drawn before, and nothing that is drawn later depends on it."""
    samples = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        samples.append([(source.name, tensor.name, tensor.fetch(0)) for source in checkpoints.make_sample() for tensor in source.tensors])
        assert torch.equal(torch.random.get_rng_state(), before)
    for (*name, tensor), (*same_name, same) in zip(*samples, strict=True):
        assert name == same_name
        assert torch.equal(tensor, same)


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Torch with three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("error", [None, KeyError])
def test_chunks_are_worked_on_alone_and_torch_keeps_its_threads(error: type[Exception] | None, three_threads: None) -> None:
    """Also where a chunk fails."""
    inside = []

    def work(chunk: int) -> int:
        inside.append(torch.get_num_threads())
        if error:
            raise error
        return 2 * chunk

    if error:
        with pytest.raises(error):
            figures.map_chunks(work, [*range(9)], torch.device("cpu"))
    else:
        assert figures.map_chunks(work, [*range(9)], torch.device("cpu")) == [*range(0, 18, 2)]
    assert set(inside) == {1}
    assert torch.get_num_threads() == 3
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


# What is wrong is said.


def test_a_fake_quant_with_other_bits_is_named_with_its_first_value(
    tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By format, scale mode, tensor and index, also beyond the first chunk; NaN in place of NaN is no difference."""

    def broken(x: torch.Tensor, name: str, scale_mode: str | None, **options: torch.Tensor | None) -> torch.Tensor:
        y = fake_quant(x, name, scale_mode=scale_mode, **options)
        return torch.where(x == 3.0, 2.5, y) if (name, scale_mode) == ("mxfp8_e5m2", "even") else y

    fake_quant = mx_ops.fake_quant
    monkeypatch.setattr(mx_ops, "fake_quant", broken)
    monkeypatch.setattr(figures, "CHUNK", 512)
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


def test_a_difference_far_along_a_row_is_found_where_it_is(tmp_path: Path, no_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a later chunk of a row, and of a later window, in a row that is not the first."""
    fake_quant = mx_ops.fake_quant
    monkeypatch.setattr(mx_ops, "fake_quant", lambda x, *names, **options: torch.where(x == 3.0, 2.5, fake_quant(x, *names, **options)))
    monkeypatch.setattr(figures, "CHUNK", 512)
    monkeypatch.setattr(figures, "AT_ONCE", 2)
    x = torch.zeros(2, 2000)
    x[1, 1703], x[1, 1800] = 3.0, 3.0
    torch.save(x, tmp_path / "x.pt")
    assert "\n  mxfp4, floor, tensor: 2 of 4000 values differ, first at [1, 1703]: 2.5, not 3\n" in call(tmp_path / "x.pt")[1]


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


def test_a_compile_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    """Nor is what torch says of its modules, which it leaves half imported, when it is asked again."""
    torch.save([], tmp_path / "x.pt")
    (tmp_path / "file").touch()
    status, out, _ = spawn(tmp_path / "x.pt", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "file" / "cache"))
    reason = f"not run: cannot write {tmp_path / 'file' / 'cache'}: Not a directory"
    assert status == 0
    assert out.endswith(f"\ntorch.compile: {reason}\ntorch.export, saved and loaded: {reason}\n")


def test_a_machine_without_a_temporary_folder_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in a compiler it is missed."""

    def compile(model: torch.nn.Module, fullgraph: bool):
        try:
            tempfile.mkdtemp()
        except OSError as error:
            raise RuntimeError("the backend failed") from error

    torch.save([], tmp_path / "x.pt")
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    status, out, _ = call(tmp_path / "x.pt")
    reason = f"not run: No usable temporary directory found in ['{tmp_path / 'absent'}']"
    assert status == 0
    assert out.endswith(f"\ntorch.compile: {reason}\ntorch.export, saved and loaded: {reason}\n")


def test_a_file_that_is_missed_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no limit of the machine that a compiler does not find what it wrote."""

    def compile(model: torch.nn.Module, fullgraph: bool):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "kernel.so")

    monkeypatch.setattr(torch, "compile", compile)
    torch.save([], tmp_path / "x.pt")
    status, out, _ = call(tmp_path / "x.pt")
    assert status == 1
    assert "\ntorch.compile: FAILED: FileNotFoundError: [Errno 2] No such file or directory: 'kernel.so'\n" in out
