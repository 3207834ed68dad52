"""What may be said of sizes while a compiler traces, when they may be symbols."""

from __future__ import annotations

from collections.abc import Callable

import torch


def known(condition: bool | torch.SymBool) -> bool:
    """Whether a condition on sizes is sure to hold.

    One that holds for some values of a symbol only is not, and no guard is made of it: a package that AOTInductor compiled would not
    check the guard.
    """
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def check(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    """Raises ValueError where a condition on sizes does not hold. torch's own check first imports sympy, which takes two seconds."""
    if not known(condition):
        torch._check_value(condition, message)


def groups(length: int, size: int) -> tuple[int, bool]:
    """How many groups of a size to make of a length, and whether they are sure to be whole: else it has to be filled up.

    A length that is a symbol gets more of them than it fills, and two at least. For torch makes a constant of a size that is 1 when a
    graph is traced, and a guard of whether nothing is to be filled up. AOTInductor's package of a fake_quant that was exported with 6
    elements a row gave wrong values for 70.
    """
    whole = known(length % size == 0)
    if isinstance(length, int):
        return -(-length // size), whole
    return (length // size, True) if whole and known(length > size) else (length // size + 2, False)
