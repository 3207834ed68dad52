"""The command ``python -m mx_ops.bench``: it counts bytes right, measures what it says, and ends plainly."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import FORMATS

from mx_ops.bench import __main__ as command
from mx_ops.bench import costs, peers, rows, timing
from mx_ops.bench.rows import Pools, Row, bytes_moved, default_rows, function, leaves, nbytes

ROOT = Path(__file__).parent.parent
OPS = [op for op in rows.OPS if hasattr(torch.ops.mx, op)]
SHAPE = "6x64"


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what makes sure that operands are in no cache: it takes a quarter of a gigabyte."""
    monkeypatch.setattr(command, "cache_bytes", lambda device: 1 << 10)


def call(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's own
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def table(text: str) -> list[list[str]]:
    """The rows of the table in a text, after its header."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.split() == " ".join(command.COLUMNS).split())
    return [line.split() for line in itertools.takewhile(bool, lines)]


@pytest.mark.parametrize("layout", ["contiguous", *rows.LAYOUTS])
@pytest.mark.parametrize("op", OPS)
def test_bytes_are_those_of_the_tensors_read_and_written(op: str, layout: str, device: str) -> None:
    """In every format, along either dim, whole blocks or not: each element of inputs and outputs counts once, and seeds do not."""
    for format, dim, shape, dtype in itertools.product(FORMATS, (-1, 0), ((4, 70), (34, 64)), (torch.bfloat16, torch.float32)):
        row = Row(op, format, shape, dtype, dim=None if op == "quantize_both" else dim, layout=layout)
        inputs = Pools(torch.device(device), 1).of(row).take()
        outputs = leaves(function(row)(*inputs))
        tensors = {id(tensor): tensor for tensor in (*inputs, *outputs)}.values()
        expected = sum(tensor.nbytes for tensor in tensors)
        assert bytes_moved(row) == expected
        assert bytes_moved(replace(row, mode="stochastic")) == expected


def test_bytes_of_a_matrix_counted_by_hand() -> None:
    """64x128 values of two bytes: codes of 4 and 8 bits, and a scale for every 32 values."""
    values, scales = 2 * 64 * 128, 64 * 128 // 32
    assert bytes_moved(Row("fake_quant", "mxfp4", (64, 128))) == 2 * values
    assert bytes_moved(Row("fake_quant", "mxfp4", (64, 128), torch.float32)) == 4 * values
    assert bytes_moved(Row("quantize", "mxfp4", (64, 128))) == values + values // 4 + scales
    assert bytes_moved(Row("quantize", "mxfp8_e4m3", (64, 128), dim=0)) == values + values // 2 + scales
    assert bytes_moved(Row("dequantize", "mxfp8_e5m2", (64, 128))) == values + values // 2 + scales


@pytest.mark.parametrize("op", OPS)
def test_inputs_rotate_through_more_than_the_caches(op: str) -> None:
    """No two sets share memory, the last used comes last, they are of the row's layout, and none is zeros."""
    for layout, cache in itertools.product(("contiguous", *rows.LAYOUTS), (1, 100_000)):
        row = Row(op, "mxfp4", (16, 64), layout=layout, dim=None if op == "quantize_both" else -1)
        pool = Pools(torch.device("cpu"), cache).of(row)
        first = pool.take()
        others = [pool.take() for _ in range(len(pool) - 1)]
        assert sum(map(nbytes, others)) > cache
        storages = [tensor.untyped_storage().data_ptr() for tensors in (first, *others) for tensor in tensors]
        assert len(set(storages)) == len(storages)
        assert all(a is b for a, b in zip(pool.take(), first))
        assert all(tensor.count_nonzero() > 0.5 * tensor.numel() for tensors in (first, *others) for tensor in tensors)
        assert {tensor.is_contiguous() for tensor in first} == {layout == "contiguous"}


def test_inputs_of_one_row_are_those_of_others() -> None:
    """Ops, formats and modes are compared on the same tensors."""
    pools = Pools(torch.device("cpu"), 1)
    pool = pools.of(Row("fake_quant", "mxfp4", (4, 64)))
    assert pool is pools.of(Row("quantize", "mxfp8_e5m2", (4, 64), dim=0))
    assert [x.data_ptr() for x, _ in pools.of(Row("fake_quant", "mxfp4", (4, 64), mode="stochastic")).sets] == [
        x.data_ptr() for (x,) in pool.sets
    ]
    codes = pools.of(Row("dequantize", "mxfp4", (4, 64))).take()
    assert [tuple(code.shape) for code in codes] == [(4, 32), (4, 2)]


def test_outputs_stay_alive_until_more_than_the_caches_has_followed() -> None:
    """An op then allocates no memory that is still in a cache."""
    ring = timing.Ring(1000)
    outputs = [torch.empty(300, dtype=torch.uint8) for _ in range(9)]
    for output in outputs:
        ring.keep(output)
    assert [output for _, output in ring.kept] == outputs[-4:]
    ring.keep((torch.empty(5000, dtype=torch.uint8), outputs[0]))
    assert len(ring.kept) == 1


def test_copies_move_as_many_bytes_as_their_rows() -> None:
    """Half of them read and half of them written, rounded up to whole vectors; in turn, through more than the caches."""
    copies = timing.Copies(torch.device("cpu"), 10_000)
    small, large = copies.of(3000), copies.of(4097)
    assert copies.of(3001) is small
    assert (small.moved, large.moved) == (3072, 5120)
    copies.allocate()
    for _ in range(small.sets):
        small.call()
    assert small.sets * 3072 // 2 > 10_000
    assert torch.equal(copies.target[: small.sets * 1536], copies.source[: small.sets * 1536])
    assert copies.source.float().std() > 60  # bytes at random


def test_rows_take_turns() -> None:
    """A round has a repetition of each: the medians of all have seen the same minutes."""
    order: list[str] = []

    def contender(name: str) -> timing.Contender:
        def run() -> torch.Tensor:
            order.append(name)
            return torch.empty(1)

        return timing.Contender(run, 1, 1)

    contenders = [contender(name) for name in "abc"]
    for one in contenders:
        one.settle = lambda device, ring: None  # type: ignore[method-assign]
    timing.compare(contenders, torch.device("cpu"), 1, 4, lambda steps: None)
    assert "".join(order) == "aabbcc" + "abc" * 4
    assert [len(one.seconds) for one in contenders] == [4, 4, 4]


def test_text_and_json_have_every_row(tmp_path: Path, small_caches: None) -> None:
    """All columns are there, every number is finite, and both say the same."""
    file = tmp_path / "bench.json"
    status, out, _ = call("--device", "cpu", "--quick", "--rounds", 1, "--shape", SHAPE, "--json", file)
    assert status == 0
    assert "of copy" in out
    document = json.loads(file.read_text())
    expected = default_rows("cpu", quick=True, shape=command.parse_shape(SHAPE))
    assert len(document["rows"]) == len(expected) == len(table(out))
    for row, entry, cells in zip(expected, document["rows"], table(out)):
        dim = "both" if row.dim is None else str(row.dim)
        assert cells[:8] == [row.op, "eager", row.format, row.mode, dim, SHAPE, "bfloat16", "clock"]
        assert (entry["op"], entry["format"], entry["mode"], entry["bytes"]) == (row.op, row.format, row.mode, bytes_moved(row))
        assert all(math.isfinite(entry[key]) and entry[key] > 0 for key in ("us", "gb_s", "copy_us", "share_of_copy"))
        assert entry["share_of_copy"] == pytest.approx(entry["copy_us"] / entry["us"])
        assert entry["gb_s"] == pytest.approx(entry["bytes"] / entry["us"] / 1e3)
        assert cells[8:] == [f"{entry['us']:.1f}", f"{entry['gb_s']:.1f}", f"{entry['share_of_copy']:.3f}"]
    assert document["torch"] == torch.__version__
    assert {"hardware", "date", "method", "copy_gb_s", "triton", "mx_ops"} <= set(document)


def test_filters(small_caches: None) -> None:
    """Ops and formats that are asked for, and no others."""
    status, out, _ = call(
        *("--device", "cpu", "--quick", "--rounds", 1, "--shape", SHAPE),
        *("--op", "quantize", "--op", "dequantize", "--format", "mxfp8_e4m3"),
    )
    assert status == 0
    assert [cells[:3] for cells in table(out)] == [["quantize", "eager", "mxfp8_e4m3"], ["dequantize", "eager", "mxfp8_e4m3"]]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_table_covers_every_op_format_mode_and_dim(kind: str) -> None:
    """On either kind of device, and a quick one every op; none of it twice; and only what can be packed."""
    found = default_rows(kind)
    assert len(set(found)) == len(found)
    eager = [row for row in found if row.by == "eager" and row.layout == "contiguous" and row.dtype == torch.bfloat16]
    for format, dim in itertools.product(FORMATS, (-1, 0)):
        modes = {row.mode for row in eager if (row.op, row.format, row.dim) == ("fake_quant", format, dim)}
        assert modes == {"nearest", "stochastic"}
        for op in ("quantize", "dequantize"):
            assert any((row.op, row.format, row.dim) == (op, format, dim) for row in eager)
    assert {row.op for row in default_rows(kind, quick=True)} == set(OPS)
    assert all(row.possible for row in default_rows(kind, shape=(33, 63)))
    odd = [row for row in default_rows(kind, shape=(33, 63)) if row.fmt.codes_per_byte > 1 and row.shape == (33, 63)]
    assert {row.op for row in odd} == {"fake_quant"}
    if kind == "cuda":
        assert {row.layout for row in found} == {"contiguous", "transposed", "sliced"}
        assert any(row.shape[1] % 32 for row in found)
    else:
        assert {row.by for row in found} == {"eager", "compiled"}


def test_a_row_that_fails_says_why_and_the_others_are_measured(small_caches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 1 if it is one of ours."""

    def broken(row: Row):
        def fail(*tensors: torch.Tensor) -> None:
            raise RuntimeError("no such kernel\nand much more")

        return fail if row.op == "dequantize" else function(row)

    monkeypatch.setattr(command, "function", broken)
    arguments = ("--device", "cpu", "--quick", "--rounds", 1, "--shape", SHAPE, "--format", FORMATS[0])
    status, out, _ = call(*arguments)
    assert status == 1
    failed = [cells for cells in table(out) if cells[0] == "dequantize"]
    assert [cells[7:] for cells in failed] == [["-"] * 4]
    assert out.endswith(f"\nnot run:\n  dequantize eager {FORMATS[0]} nearest -1 {SHAPE} bfloat16: RuntimeError: no such kernel\n")
    assert all("-" not in cells[7:] for cells in table(out) if cells[0] != "dequantize")


def test_peers_stand_beside_our_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row for each way to run one, of the largest shape, nearest and contiguous; torchao only where there is one."""
    mine = default_rows("cuda")
    monkeypatch.setattr(peers, "torchao_version", lambda: None)
    aten = peers.peer_rows(mine, "cuda", quick=False)
    assert {row.by for row in aten} == {peers.ATEN}
    assert {(row.mode, row.layout, row.shape) for row in aten} == {("nearest", "contiguous", rows.LARGE_ON_GPUS)}
    assert {row.op for row in aten} == set(OPS)
    assert peers.peer_rows(mine, "cpu", quick=False) == []
    monkeypatch.setattr(peers, "torchao_version", lambda: "0.1")
    monkeypatch.setattr(peers, "torchao_element", lambda fmt: fmt.dtype)
    both = peers.peer_rows(mine, "cuda", quick=False)
    assert {row.by for row in both} == {peers.ATEN, *peers.TORCHAO}
    assert {(row.op, row.dim) for row in both if row.by in peers.TORCHAO} == {
        ("fake_quant", -1),
        ("quantize", -1),
        ("quantize", 0),
        ("dequantize", -1),
    }


def test_compiled_rows_give_the_bits_of_eager_ones() -> None:
    """Each is compiled alone, so that none runs into Dynamo's limit; formulas where those are asked for."""
    x = torch.randn(4, 64)
    for by in ("compiled", peers.ATEN):
        call = function(Row("fake_quant", FORMATS[0], (4, 64), torch.float32, by=by))
        assert torch.equal(call(x), torch.ops.mx.fake_quant(x, FORMATS[0]))
    one, other = (function(Row("quantize", FORMATS[0], (4, 64), dim=dim)) for dim in (-1, 0))
    assert one.__code__ is other.__code__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "sort"], "argument --op: invalid choice: 'sort'"),
        (["--format", "fp4"], "argument --format: invalid choice: 'fp4'"),
        (["--shape", "4096"], "argument --shape: '4096' is not of the form 4096x14336"),
        (["--shape", "0x32"], "argument --shape: '0x32' is not of the form 4096x14336"),
        (["--rounds", "0"], "argument --rounds: '0' is no positive number"),
        (["--device", "abacus"], "cannot use the device 'abacus': "),
        (["--json", "/no/such/folder/x.json"], "cannot write /no/such/folder/x.json: its folder does not exist"),
        (["--json", "x" * 300], "File name too long"),
        (["--plot", "/"], "cannot write /: it is a folder"),
        (["--plot", "x.xls"], "cannot draw x.xls: matplotlib writes none but ."),
        (["--plot", "x"], "cannot draw x: matplotlib writes none but ."),
        (["--host", "--plot", "x.svg"], "--plot draws the table of speeds"),
        (["--host", "--first-calls"], "not allowed with argument"),
        (["--op", "quantize", "--format", "mxfp4", "--shape", "3x33"], "nothing to measure"),
    ],
)
def test_wrong_arguments_end_with_a_plain_message(arguments: list[str], message: str) -> None:
    """And exit status 2, before anything is measured."""
    status, out, err = call(*(arguments if "--device" in arguments else ["--device", "cpu", *arguments]))
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert err.startswith("usage: ") or err.count("\n") == 1


def test_first_calls_are_those_of_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every op, eager and compiled, with no cache of any compiler."""
    started = []

    def start(command: list[str], env: dict[str, str], **options: object) -> subprocess.CompletedProcess[str]:
        started.append(command)
        assert not Path(env["TRITON_CACHE_DIR"]).exists()
        assert not Path(env["TORCHINDUCTOR_CACHE_DIR"]).exists()
        return subprocess.CompletedProcess(command, 0, "1.25\n", "")

    monkeypatch.setattr(subprocess, "run", start)
    status, out, err = call("--device", "cpu", "--first-calls")
    assert status == 0
    assert err.splitlines()[1:] == [f"{op}, {by}" for op in OPS for by in ("eager", "compiled")]
    assert [command[:3] for command in started] == [[sys.executable, "-c", costs.FIRST_CALL]] * (2 * len(OPS))
    assert [command[4:] for command in started] == [[op, FORMATS[0], by] for op in OPS for by in ("eager", "compiled")]
    assert out.count("1.25") == 2 * len(OPS)


@pytest.mark.parametrize("op", OPS)
def test_a_first_call_is_timed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds are what is printed."""
    monkeypatch.setattr(costs, "FIRST_SHAPE", (2, 64))
    assert 0 < costs.first_call("cpu", op, FORMATS[0], "eager") < 600


def test_a_process_ends_with_the_exit_status_of_the_command() -> None:
    """`python -m mx_ops.bench` is the command."""
    result = subprocess.run(
        [sys.executable, "-m", "mx_ops.bench", "--device", "abacus"], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("mx_ops.bench: cannot use the device 'abacus': ")


def test_importing_mx_ops_does_not_import_the_benchmark() -> None:
    """Nor torchao."""
    code = "import sys, mx_ops; print([name for name in sys.modules if name.startswith(('mx_ops.bench', 'torchao'))])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
