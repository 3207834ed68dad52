"""Work on CPU shared out among threads, in each of which torch uses one core.

A call starts its threads and ends them, so that none is left to fork, to close or to keep. The calling thread works too, and each thread
takes the next item that is left: so a call also ends where a thread starts late, or cannot be started at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import pathlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def map_alone(function: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """What a function gives for items, in their order: as many items at a time as torch has threads, each in one thread.

    Where a thread cannot have its own number of torch's threads, all of those share the work on one item after the other. What the function
    raises is raised, and items that are not begun by then are left.
    """
    todo = deque(enumerate(items))
    threads = torch.get_num_threads()
    openmp = _openmp() if threads > 1 else None
    if openmp is None:
        return [function(item) for _, item in todo]
    results: dict[int, B] = {}
    helpers: list[threading.Thread] = []
    errors: list[BaseException] = []

    def work() -> None:
        own = torch.get_num_threads()  # a thread's number is set when it first asks: not later, over the 1 below
        try:
            openmp.omp_set_num_threads(1)
            while todo:
                try:
                    index, item = todo.popleft()
                except IndexError:  # another thread was faster
                    break
                results[index] = function(item)
        finally:
            openmp.omp_set_num_threads(own)

    def help_out() -> None:
        helpers.append(threading.current_thread())
        try:
            work()
        except BaseException as error:
            errors.append(error)
            todo.clear()

    try:
        with contextlib.suppress(RuntimeError):  # no more threads can be started: there is a limit, or the interpreter shuts down
            for _ in range(min(threads, len(todo)) - 1):
                threading.Thread(target=help_out, name="mx_ops").start()
        work()
    finally:
        todo.clear()
        for helper in list(helpers):  # a thread that is not in the list by now finds nothing to do
            helper.join()
    if errors:
        raise errors.pop()
    return [results[index] for index in range(len(results))]


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch uses, through which a thread can set the number of threads for itself; None if it is not found.

    torch.set_num_threads will not do: it also sets the number for every thread that first asks later, and a thread that others start
    meanwhile would keep it.
    """
    torch.get_num_threads()  # a thread's number is set when it first asks: not later, over what is tried below
    folder = pathlib.Path(torch.__file__).parent / "lib"
    # First what is visible to all libraries (torch uses an OpenMP that was loaded before it), then torch's own, then Windows's by name.
    for path in (None, *(str(folder / name) for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "libiomp5md.dll"))):
        try:
            library = ctypes.CDLL(path)
            before = library.omp_get_max_threads()
        except (OSError, AttributeError, TypeError):
            continue
        try:
            library.omp_set_num_threads(1)
            if torch.get_num_threads() == 1:
                return library
        finally:
            library.omp_set_num_threads(before)
    return None
