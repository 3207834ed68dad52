"""On CPU the reference works on chunks in threads: the bits are those of one thread, and torch's settings stay what they were."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import FORMATS, assert_same, wild
from torch import Tensor

from mx_ops import reference, threads
from mx_ops.formats import FORMATS as ROWS
from mx_ops.reference import chunks

ops = torch.ops.mx


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads, and chunks so small that a small tensor has many."""
    before = torch.get_num_threads()
    monkeypatch.setattr(chunks, "CHUNK", 256)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def everything(x: Tensor, format: str, dim: int) -> tuple[Tensor, ...]:
    """What all ops give."""
    seed = torch.tensor([5])
    codes = ops.quantize(x, format, dim=dim)
    values = ops.dequantize(*codes, format, dim=dim, dtype=x.dtype)
    noisy = ops.quantize(x, format, seed, dim=dim)
    return (*codes, values, *noisy, ops.fake_quant(x, format, dim=dim), ops.fake_quant(x, format, seed, dim=dim))


@pytest.mark.parametrize("format", FORMATS)
def test_the_bits_are_those_of_one_thread(format: str, three_threads: None) -> None:
    """Along either dim, from any layout; under inference mode and of inputs that require gradients too."""
    for shape, dim in itertools.product([(34, 66), (2, 1000), (1000, 2)], (0, 1)):
        for x in (wild(shape, dim=dim), wild(shape[::-1], dim=1 - dim).t()):
            results = [everything(x, format, dim), everything(x.detach().requires_grad_(), format, dim)]
            with torch.inference_mode():
                results.append(everything(x, format, dim))
            torch.set_num_threads(1)
            expected = everything(x, format, dim)
            torch.set_num_threads(3)
            for result in results:
                for have, want in zip(result, expected):
                    assert_same(have, want)


def test_as_many_work_at_a_time_as_torch_has_threads(three_threads: None) -> None:
    """The calling thread is one of them; what each gives is in its place."""
    together = threading.Barrier(3)
    workers = threads.map_alone(lambda _: together.wait(60) >= 0 and threading.get_ident(), range(3))
    assert len(set(workers)) == 3
    assert threading.get_ident() in workers
    assert threads.map_alone(lambda n: n * n, iter(range(100))) == [n * n for n in range(100)]


def test_threads_work_alone_and_leave_the_number_of_threads(three_threads: None) -> None:
    """In each of them torch has one; outside, and in threads that others start meanwhile or later, as many as before."""
    numbers, others = zip(*threads.map_alone(lambda _: (torch.get_num_threads(), number_in_a_thread()), range(20)))
    assert (set(numbers), set(others)) == ({1}, {3})
    assert torch.get_num_threads() == number_in_a_thread() == 3


def number_in_a_thread() -> int:
    """Torch's number of threads in one that has just been started."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_none_is_kept(three_threads: None) -> None:
    """Whatever numbers of threads torch has had."""
    before, x = threading.active_count(), wild((66, 130))
    for number in (2, 3, 4):
        torch.set_num_threads(number)
        ops.fake_quant(x, FORMATS[0])
        assert threading.active_count() == before


def test_where_they_cannot_be_set_apart_they_work_together(three_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torch is built without OpenMP, or its OpenMP cannot be found."""
    x = wild((66, 130))
    expected = ops.fake_quant(x, FORMATS[0])
    monkeypatch.setattr(
        ctypes, "CDLL", lambda path: types.SimpleNamespace(omp_get_max_threads=lambda: 3, omp_set_num_threads=lambda n: None)
    )
    monkeypatch.setattr(threads, "_openmp", threads._openmp.__wrapped__)
    assert threads._openmp() is None  # some other OpenMP is not torch's
    assert_same(ops.fake_quant(x, FORMATS[0]), expected)
    assert threads.map_alone(lambda _: (torch.get_num_threads(), threading.get_ident()), range(5)) == [(3, threading.get_ident())] * 5


def test_torchs_openmp_is_found_by_a_thread_that_never_asked_torch(three_threads: None) -> None:
    """The same as by others, though torch sets the number of threads of such a thread when it is first asked."""
    find = threads._openmp.__wrapped__
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(find).result()
    assert found is not None
    assert found._name == find()._name


def test_what_a_chunk_raises_is_raised(three_threads: None) -> None:
    """Nothing is lost in a thread, the rest is left, and torch has its threads again."""
    begun = []

    def work(where: object) -> None:
        begun.append(where)
        raise KeyError("a chunk")

    with pytest.raises(KeyError, match="a chunk"):
        chunks.share_out(work, iter([(slice(0, 1),)] * 50))
    assert len(begun) <= 3
    assert torch.get_num_threads() == 3


# What a process of its own does: it knows what its calls are to give, from one thread, and then has three.
PROCESS = """
import atexit, os, signal, threading
import torch, mx_ops
from mx_ops.reference import chunks
chunks.CHUNK = 256
x = torch.randn(66, 130)
torch.set_num_threads(1)
expected = mx_ops.fake_quant(x, "mxfp4")
torch.set_num_threads(3)

def right():
    return torch.equal(mx_ops.fake_quant(x, "mxfp4"), expected) and torch.get_num_threads() == 3

def starts(possible):
    # Only so many threads can be started from now on.
    left = [None] * possible

    def attempt(self):
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(self)

    threading.Thread.start = attempt

start = threading.Thread.start
"""


def says(code: str) -> list[str]:
    """What a process prints, line by line; it has to end well."""
    command = [sys.executable, "-c", PROCESS + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_calls_work_after_the_main_thread_and_at_exit() -> None:
    """Where the interpreter starts no threads, they work in their own."""
    code = """
        def later():
            threading.main_thread().join()
            print("after the main thread", right())

        atexit.register(lambda: print("at exit", right()))
        threading.Thread(target=later).start()
    """
    assert says(code) == ["after the main thread True", "at exit True"]


def test_where_no_thread_can_be_started_calls_work_in_fewer() -> None:
    """In their own, if need be; and none is left behind."""
    code = """
        for possible in (0, 1):
            starts(possible)
            print(right(), threading.active_count())
    """
    assert says(code) == ["True 1"] * 2


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="Windows has no such limit")
def test_calls_work_under_a_limit_on_threads() -> None:
    """The system's own, which binds all users but root."""
    code = """
        import resource
        if os.getuid() == 0:
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            threading.Thread(target=int).start()
        except RuntimeError as error:
            print(error)
        print(right(), threading.active_count())
    """
    assert says(code) == ["can't start new thread", "True 1"]


def test_an_interrupted_call_leaves_no_thread() -> None:
    """As soon as the first is started; torch has its threads again, and so have later calls."""
    code = """
        def interrupted(self):
            start(self)
            raise KeyboardInterrupt

        threading.Thread.start = interrupted
        try:
            mx_ops.fake_quant(x, "mxfp4")
        except KeyboardInterrupt:
            print("interrupted", torch.get_num_threads())
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join()
        threading.Thread.start = start
        print(right(), threading.active_count())
    """
    assert says(code) == ["interrupted 3", "True 1"]


def test_first_calls_leave_the_number_of_threads_to_all() -> None:
    """To eight threads that race for the first, and to those that have nothing to do with it and are started meanwhile."""
    code = """
        ready, numbers = threading.Barrier(9), []

        def race():
            ready.wait()
            numbers.append(torch.get_num_threads() if right() else "wrong")

        def ask():
            numbers.append(torch.get_num_threads())

        racing = [threading.Thread(target=race) for _ in range(8)]
        for thread in racing:
            thread.start()
        ready.wait()
        while any(thread.is_alive() for thread in racing):
            other = threading.Thread(target=ask)
            other.start()
            other.join()
        print(set(numbers))
    """
    assert says(code) == ["{3}"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """As workers of a DataLoader are; also where it has its parent's number, as process 1 of another process 1 has."""
    code = """
        print(right(), flush=True)
        parent = os.getpid()
        for getpid in (os.getpid, lambda: parent):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                os.getpid = getpid
                os._exit(0 if right() else 1)
            print(os.waitpid(child, 0)[1])
    """
    assert says(code) == ["True", "0", "0"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_byte_looks_up_what_it_decodes_to(format: str) -> None:
    """Also where saturation, which a look-up cannot do, sends blocks another way: for every scale, in every dtype."""
    fmt = ROWS[format]
    elements = torch.arange(256, dtype=torch.uint8).repeat(256, 1)
    scales = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 256 * fmt.codes_per_byte // fmt.block_size)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        decoded = torch.empty(256, 256 * fmt.codes_per_byte, dtype=dtype)
        together, each = torch.empty_like(decoded), torch.empty_like(decoded)
        reference.dequantize(elements, scales, decoded, None, fmt, 1, fmt.block_size, traced=True)
        reference.dequantize(elements, scales, together, None, fmt, 1, fmt.block_size)
        for codes, scale, out in zip(elements.split(1), scales.split(1), each.split(1)):
            reference.dequantize(codes, scale, out, None, fmt, 1, fmt.block_size)
        assert_same(together, decoded)
        assert_same(each, decoded)
