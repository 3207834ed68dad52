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
