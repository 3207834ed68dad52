"""The figures of ``python -m mx_ops.bench`` are medians, rates and shares of what its clocks measured. All clocks here are fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_bench import call, table

from mx_ops.bench import __main__ as command
from mx_ops.bench import costs, timing
from mx_ops.bench.output import Progress
from mx_ops.bench.rows import Row, bytes_moved

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Clock:
    """Time that passes where a test says so; a GPU's, too."""

    def __init__(self) -> None:
        self.now = 0.0

    def takes(self, seconds: float) -> Callable[..., torch.Tensor]:
        """A call that takes so long."""

        def call(*arguments: object) -> torch.Tensor:
            self.now += seconds
            return torch.empty(1)

        return call

    def event(self, enable_timing: bool) -> SimpleNamespace:
        """An event of a GPU, whose times are in ms."""
        assert enable_timing
        made = SimpleNamespace(elapsed_time=lambda end: (end.at - made.at) * 1e3)
        made.record = lambda: setattr(made, "at", self.now)
        return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The only clock there is: others of the host fail."""
    clock = Clock()
    for module in (timing, costs):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def contender(call: Callable[..., torch.Tensor], calls: int = 1, sets: int = 1, moved: int = 1) -> timing.Contender:
    """A contender that has so many calls a repetition."""
    made = timing.Contender(call, sets, moved)
    made.calls = calls
    return made


def test_a_time_is_the_median_of_the_rounds() -> None:
    """No mean, no minimum, and between the middle two of an even number."""
    one = contender(lambda: torch.empty(1))
    one.seconds = [9.0, 1.0, 2.0]
    assert one.median == 2
    one.seconds = [8.0, 100.0, 1.0, 2.0]
    assert one.median == 5


def test_a_rate_is_in_billions_of_bytes_a_second() -> None:
    """Of 10^9 bytes."""
    assert timing.rate(3_000_000_000, 2.0) == 1.5


def test_the_table_has_medians_rates_and_shares_of_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the digit, in text and JSON: 32768 bytes, copied in 2 µs, are quantized and dequantized in 8 µs."""
    asked = []

    def compare(contenders: list[timing.Contender], device: torch.device, cache: int, rounds: int, progress: object) -> None:
        asked.append(rounds)
        copy, row = contenders
        copy.seconds, row.seconds = [4e-6, 1e-6, 2e-6], [8e-6, 1e-3, 4e-6]

    monkeypatch.setattr(command, "compare", compare)
    monkeypatch.setattr(command, "cache_bytes", lambda device: 1)
    file = tmp_path / "bench.json"
    arguments = ("--device", "cpu", "--quick", "--shape", "64x128", "--format", "mxfp4", "--json", file)
    monkeypatch.setattr(command, "default_rows", lambda *others: [Row("fake_quant", "mxfp4", (64, 128))])
    status, out, _ = call(*arguments, "--rounds", 3)
    assert (status, asked) == (0, [3])
    assert table(out)[0][8:] == ["8.0", "4.1", "0.250"]
    assert out.splitlines()[1] == "copy: 16 GB/s read and written"
    document = json.loads(file.read_text())
    assert document["copy_gb_s"] == 16.4
    (row,) = document["rows"]
    assert (row["bytes"], row["us"], row["copy_us"], row["share_of_copy"]) == (32768, 8.0, 2.0, 0.25)
    assert row["gb_s"] == pytest.approx(4.096, rel=1e-12)


def test_rounds_are_as_many_as_the_help_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those asked for, else 30, or 7 if quick."""
    asked = []

    def measure(rows: list[Row], device: torch.device, rounds: int, progress: object) -> list[command.Result]:
        asked.append(rounds)
        return [command.Result(row, 1, "clock", 1.0, 1.0, "") for row in rows]

    monkeypatch.setattr(command, "measure", measure)
    one_group = ("--device", "cpu", "--op", "quantize", "--format", "mxfp8_e4m3")
    assert [call(*one_group, "--quick", *more)[0] for more in ((), ("--rounds", 3))] == [0, 0]
    assert asked == [7, 3]
    assert call(*one_group)[0] == 0
    assert set(asked[2:]) == {30}


def test_each_row_is_set_against_the_copy_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not against another's."""

    def compare(contenders: list[timing.Contender], *others: object) -> None:
        for index, one in enumerate(contenders):
            one.seconds = [float(one.moved + index)]  # copies come first, the largest ahead

    monkeypatch.setattr(command, "compare", compare)
    monkeypatch.setattr(command, "cache_bytes", lambda device: 1)
    rows = [Row(op, "mxfp4", (64, 128)) for op in ("quantize", "fake_quant")]
    quantize, fake_quant = command.measure(rows, CPU, 1, lambda steps: None)
    assert (fake_quant.moved, fake_quant.copy_seconds, fake_quant.seconds) == (32768, 32768 + 0, 32768 + 3)
    assert quantize.moved == bytes_moved(rows[0]) == 16384 + 4096 + 256
    assert (quantize.copy_seconds, quantize.seconds) == (21504 + 1, 20736 + 2)  # the copy's halves are whole vectors of 512 bytes


def test_on_cpu_a_repetition_is_timed_call_by_call(clock: Clock) -> None:
    """Seconds a call, without what it takes to let go of earlier outputs."""
    ring = SimpleNamespace(keep=clock.takes(100))
    one = contender(clock.takes(0.5), calls=4)
    assert one.run_by_clock(ring) == 0.5  # type: ignore[arg-type]
    assert clock.now == 4 * 100.5


@pytest.mark.parametrize(
    ("device", "moved", "sets", "timed", "calls"),
    [
        (CPU, 1, 4, "clock", 20),  # of 100 µs: 2 ms
        (GPU, timing.GRAPHED, 4, "events", 10),  # 1 ms
        (GPU, timing.GRAPHED - 1, 4, "graph", 8),  # 0.5 ms, and every set as often as others
        (GPU, timing.GRAPHED - 1, 16, "graph", 16),
        (GPU, timing.GRAPHED - 1, 0, "events", 10),  # what cannot be captured
    ],
)
def test_a_repetition_is_as_long_as_its_clock_needs(
    device: torch.device, moved: int, sets: int, timed: str, calls: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By three calls and the wait for the device that does their work."""

    def capture(self: timing.Contender, calls: int) -> str:
        if not sets:
            raise RuntimeError("cannot be captured")
        return f"graph of {calls}"

    ring = timing.Ring(1)
    monkeypatch.setattr(timing.Contender, "capture", capture)
    monkeypatch.setattr(timing, "synchronize", clock.takes(0 if device == CPU else 3e-4))
    one = contender(clock.takes(1e-4 if device == CPU else 0), sets=sets or 4, moved=moved)
    one.settle(device, ring)
    assert (one.timed, one.calls, one.graph) == (timed, calls, f"graph of {calls}" if timed == "graph" else None)


def test_a_slow_call_is_a_repetition(clock: Clock) -> None:
    """None has less than a call."""
    one = contender(clock.takes(9))
    one.settle(CPU, timing.Ring(1))
    assert one.calls == 1


def test_on_a_gpu_its_events_time_repetitions(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each contender alone, in seconds a call, calls or graphs of them; what goes ahead counts for none."""
    module = SimpleNamespace(Event=clock.event, synchronize=lambda device: None)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    called, graphed = contender(clock.takes(0.25), calls=4), contender(clock.takes(100), calls=8)
    graphed.graph = SimpleNamespace(replay=clock.takes(4))
    assert timing.round_by_events([called, graphed], GPU, timing.Ring(1)) == [0.25, 0.5]
    assert clock.now == 3 * 1 + 1 + 4


def test_costs_of_the_host_leave_out_the_device(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds a call until it returns: the device is waited for before and after."""
    monkeypatch.setattr(costs, "HOST_CALLS", 4)
    monkeypatch.setattr(costs, "synchronize", clock.takes(100))
    assert costs.host_seconds(clock.takes(0.5), GPU) == 0.5
    assert clock.now == 100 + 4 * 0.5 + 100


def test_costs_of_the_host_are_medians_that_the_first_round_is_no_part_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """In µs, and as a ratio to the bare launch; the ways take turns."""
    times = {costs.BARE: iter([1000, 2.0, 90, 4]), "op": iter([1000, 6.0, 5, 70])}
    order = []

    def host_seconds(way: str, device: torch.device) -> float:
        order.append(way)
        return next(times[way]) / 1e6

    monkeypatch.setattr(costs, "at_shape", lambda *others: [Row("fake_quant", "mxfp4", (2, 64))])
    monkeypatch.setattr(costs, "ways_to_call", lambda *others: {way: way for way in times})
    monkeypatch.setattr(costs, "host_seconds", host_seconds)
    bare, op = costs.host_costs(GPU, 3, Progress("calls", 1))
    assert (bare.op, bare.call, bare.ratio) == ("fake_quant", "bare launch", 1)
    assert (op.op, op.call, op.ratio) == ("fake_quant", "op", 1.5)
    assert (bare.us, op.us) == (pytest.approx(4, rel=1e-12), pytest.approx(6, rel=1e-12))
    assert order == [*times] * 4


def test_a_first_call_is_timed_with_its_wait_for_the_device(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without the wait before it."""
    monkeypatch.setattr(costs, "FIRST_SHAPE", (2, 64))
    monkeypatch.setattr(costs, "synchronize", clock.takes(0.5))
    monkeypatch.setattr(costs, "function", lambda row: clock.takes(2.5))
    assert costs.first_call("cpu", "quantize", "mxfp4", "eager") == 3
    assert clock.now == 3.5
