"""How it is measured: what is compared takes turns, every operand comes from memory, and devices time themselves."""

from __future__ import annotations

import collections
import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..command import one_line
from .rows import leaves, nbytes

LEAST_CACHE = 256 << 20  # on CPU
LEAST_SECONDS = {"clock": 2e-3, "events": 1e-3, "graph": 5e-4}  # that a repetition lasts, by what times it
GRAPHED = 256 << 20  # calls on a GPU that move fewer bytes are replayed from CUDA graphs: to launch them may take longer than they do
UNITS = {"K": 1 << 10, "M": 1 << 20}


def cache_bytes(device: torch.device) -> int:
    """What operands have to exceed to be in no cache: twice the L2 of a GPU, four times the last-level cache of a CPU and 256 MB."""
    if device.type != "cpu":
        found = getattr(torch.get_device_module(device).get_device_properties(device), "L2_cache_size", 0)
        return 2 * found or LEAST_CACHE
    return max(LEAST_CACHE, 4 * last_level_cache())


def last_level_cache() -> int:
    """The bytes of the CPU's largest cache; 0 where Linux does not tell."""
    sizes = [file.read_text().strip() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * UNITS[size[-1]] for size in sizes if size[-1:] in UNITS), default=0)


class Ring:
    """Keeps the latest outputs alive: a new one, which an op allocates itself, then finds no address that is still in a cache."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.total = capacity, 0
        self.kept: collections.deque[tuple[int, Any]] = collections.deque()

    def keep(self, outputs: Any) -> None:
        """Add a call's outputs, and let go of the oldest that are not needed."""
        size = nbytes(leaves(outputs))
        self.kept.append((size, outputs))
        self.total += size
        while self.total - self.kept[0][0] > self.capacity:
            self.total -= self.kept.popleft()[0]


class Contender:
    """Something to be timed: a call that takes other tensors every time."""

    def __init__(self, call: Callable[[], Any], sets: int, moved: int) -> None:
        self.call, self.sets, self.moved = call, sets, moved
        self.timed = "clock"
        self.calls = 1  # a repetition
        self.seconds: list[float] = []  # a call, by repetition
        self.failure = ""
        self.graph: Any = None

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(self.seconds)

    def prepare(self, device: torch.device, ring: Ring) -> None:
        """Have everything compiled, and settle how many calls a repetition has."""
        try:
            for _ in range(2):
                ring.keep(self.call())
            synchronize(device)
            self.settle(device, ring)
        except Exception as error:  # what a compiler or another package raises can be anything
            self.failure = one_line(error)

    def settle(self, device: torch.device, ring: Ring) -> None:
        """Settle how a repetition is timed, and how many calls it has."""
        self.timed = "clock" if device.type == "cpu" else "events"
        start = time.perf_counter()
        for _ in range(3):
            ring.keep(self.call())
        synchronize(device)
        seconds = (time.perf_counter() - start) / 3
        self.calls = max(1, round(LEAST_SECONDS[self.timed] / seconds))
        if device.type == "cuda" and self.moved < GRAPHED:
            calls = self.sets * -(-round(LEAST_SECONDS["graph"] / seconds) // self.sets)
            with contextlib.suppress(RuntimeError):  # a peer may do what cannot be captured
                self.graph = self.capture(max(self.sets, calls))
                self.timed, self.calls = "graph", max(self.sets, calls)

    def capture(self, calls: int) -> torch.cuda.CUDAGraph:
        """Calls as a CUDA graph. Their outputs take turns, too."""
        graph = torch.cuda.CUDAGraph()
        alive: collections.deque[Any] = collections.deque(maxlen=self.sets)
        with torch.cuda.graph(graph):
            for _ in range(calls):
                alive.append(self.call())
        return graph

    def run(self, ring: Ring) -> None:
        """A repetition, on a GPU: launched, not waited for."""
        if self.graph is not None:
            self.graph.replay()
            return
        for _ in range(self.calls):
            ring.keep(self.call())

    def run_by_clock(self, ring: Ring) -> float:
        """A repetition on CPU: seconds a call. What is let go of is no part of it."""
        seconds = 0.0
        for _ in range(self.calls):
            start = time.perf_counter()
            outputs = self.call()
            seconds += time.perf_counter() - start
            ring.keep(outputs)
        return seconds / self.calls


def compare(contenders: list[Contender], device: torch.device, cache: int, rounds: int, progress: Callable[[float], None]) -> None:
    """Time contenders: in every round each has one repetition, so that whatever drifts hits all alike."""
    ring = Ring(cache)
    for contender in contenders:
        contender.prepare(device, ring)
        progress(0.5)
    running = [contender for contender in contenders if not contender.failure]
    for _ in range(rounds):
        measured = round_by_clock(running, ring) if device.type == "cpu" else round_by_events(running, device, ring)
        for contender, seconds in zip(running, measured):
            contender.seconds.append(seconds)
        progress(0.5 * len(contenders) / rounds)


def round_by_clock(contenders: list[Contender], ring: Ring) -> Iterable[float]:
    """A repetition of each on CPU."""
    return [contender.run_by_clock(ring) for contender in contenders]


def round_by_events(contenders: list[Contender], device: torch.device, ring: Ring) -> Iterable[float]:
    """A repetition of each on a GPU. One more, of the first, goes ahead: so the GPU never waits for what the host launches."""
    module = torch.get_device_module(device)
    for _ in range(3):
        contenders[0].run(ring)
    events = [[module.Event(enable_timing=True) for _ in range(2)] for _ in contenders]
    for contender, (start, end) in zip(contenders, events):
        start.record()
        contender.run(ring)
        end.record()
    synchronize(device)
    return [start.elapsed_time(end) / 1e3 / contender.calls for contender, (start, end) in zip(contenders, events)]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


class Copies:
    """Copies within a device's memory, by the bytes that they move: half of them read, half of them written."""

    GRAIN = 512  # bytes that halves are rounded up to: those of a vector of any device

    def __init__(self, device: torch.device, cache: int) -> None:
        self.device, self.cache = device, cache
        self.made: dict[int, Contender] = {}
        self.source = self.target = torch.empty(0, dtype=torch.uint8, device=device)

    def of(self, moved: int) -> Contender:
        """The copy that moves so many bytes."""
        half = -(-moved // 2 // self.GRAIN) * self.GRAIN
        if half not in self.made:
            sets = self.cache // half + 2
            places = itertools.cycle([slice(place * half, (place + 1) * half) for place in range(sets)])

            def call() -> Tensor:
                place = next(places)
                return self.target[place].copy_(self.source[place])

            self.made[half] = Contender(call, sets, 2 * half)
        return self.made[half]

    def allocate(self) -> None:
        """Random bytes for the largest to read."""
        size = max(half * contender.sets for half, contender in self.made.items())
        self.source = torch.randint(256, (size,), dtype=torch.uint8, device=self.device)
        self.target = torch.zeros_like(self.source)


def rate(moved: int, seconds: float) -> float:
    """GB a second."""
    return moved / seconds / 1e9
