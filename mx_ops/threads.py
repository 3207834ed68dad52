"""Work on CPU shared out among threads, in each of which torch works alone.

The threads are started for a call and gone after it: so none is there to fork, to close or to keep. The calling thread is one of them, and
each takes what is left to do: so a call needs none of the others, and what a thread that starts late, or never, leaves, they do.
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
    """What a function gives for items, in their order: as many at a time as torch has threads, in each of which torch works alone.

    Where torch's threads cannot be set apart, they work together on one item after the other. What the function raises is raised, and
    items that are not begun by then are left.
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
        own = torch.get_num_threads()  # asked for the first time, torch sets it
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
        with contextlib.suppress(RuntimeError):  # no more can be started: there is a limit, or the interpreter shuts down
            for _ in range(min(threads, len(todo)) - 1):
                threading.Thread(target=help_out, name="mx_ops").start()
        work()
    finally:
        todo.clear()
        for helper in list(helpers):  # one that is not among them by now has nothing to do
            helper.join()
    if errors:
        raise errors.pop()
    return [results[index] for index in range(len(results))]


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP that torch's threads are of, by which a thread can set its own number of them; None where it cannot be reached.

    torch.set_num_threads sets the number of every thread that asks for the first time, too: a thread that is started meanwhile keeps it.
    """
    torch.get_num_threads()  # asked for the first time, torch sets it
    folder = pathlib.Path(torch.__file__).parent / "lib"
    # What all libraries see (one that was loaded before torch is the one torch uses), what torch's own sees, and Windows's by name.
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
