"""What may be said of sizes while a compiler traces, when they may be symbols."""

from __future__ import annotations

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


def groups(length: int, size: int) -> tuple[int, bool]:
    """How many groups of a size to make of a length, and whether they are sure to be whole: else it has to be filled up.

    They are never one that later may be more, but two: torch makes a constant of whatever is 1 when a graph is traced. AOTInductor's
    package of a fake_quant that was exported with 6 elements a row gave wrong values for 70.
    """
    whole = known(length % size == 0)
    count = length // size if whole else -(-length // size)
    if isinstance(length, int) or known(length > size):
        return count, whole
    return torch.sym_max(count, 2), False
