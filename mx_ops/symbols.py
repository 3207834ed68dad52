"""What may be said of sizes while a compiler traces, when they may be symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

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


def has_unbacked(sizes: Iterable[int | torch.SymInt]) -> bool:
    """Whether one of some sizes or strides depends on the data: on an unbacked symbol."""
    symbols = [size for size in sizes if isinstance(size, torch.SymInt)]
    if not symbols:
        return False
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return len(free_unbacked_symbols(symbols)) > 0


def memory_order(tensor: torch.Tensor) -> list[int] | None:
    """The dims of a tensor in the order in which memory runs through them, the innermost last; None if it is not sure to have no gaps."""
    order: list[int] = []
    left = list(range(tensor.ndim))
    stride = padded = 1  # torch takes a size of an empty tensor for 1 in its strides
    while left:
        fitting = [dim for dim in left if known(tensor.stride(dim) == stride) or known(tensor.stride(dim) == padded)]
        if not fitting:
            return None
        dim = next((dim for dim in reversed(fitting) if known(tensor.shape[dim] == 1)), fitting[-1])
        left.remove(dim)
        order.insert(0, dim)
        stride, padded = stride * tensor.shape[dim], padded * torch.sym_max(tensor.shape[dim], 1)
    return order


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


def first(tensor: torch.Tensor, length: int | torch.SymInt) -> torch.Tensor:
    """The first of a tensor's last dim.

    Of a slice by symbols torch 2.11 takes the size for a new symbol, of which nothing is known.
    """
    if isinstance(length, int):
        return tensor[..., :length]
    return tensor.index_select(-1, torch.arange(0, length, device=tensor.device))  # type: ignore[call-overload]


class NoGuards:
    """A ShapeEnv which, where torch can do without a guard, makes none; its symbols are those of the one that it stands for."""

    def __init__(self, shape_env: Any) -> None:
        self._shape_env = shape_env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shape_env, name)

    def evaluate_sym_node(self, node: Any, size_oblivious: bool = False, fallback_value: bool | None = None) -> Any:
        """Whether a condition holds; ``fallback_value``, if there is one and that is not sure."""
        if fallback_value is None:
            return self._shape_env.evaluate_sym_node(node, size_oblivious)
        condition = torch.SymBool(node)
        return known(condition) or (not known(torch.sym_not(condition)) and fallback_value)


def unspecialized(tensor: torch.Tensor) -> torch.Tensor:
    """A new tensor like one that has just been made, of whose sizes torch makes no guards unless it cannot do without."""

    def free(size: int | torch.SymInt) -> int | torch.SymInt:
        if not isinstance(size, torch.SymInt):
            return size
        node = size.node
        return torch.SymInt(type(node)(node.expr, NoGuards(node.shape_env), int, node.hint))

    if not any(isinstance(size, torch.SymInt) for size in tensor.shape):
        return tensor
    return tensor.new_empty_strided([*map(free, tensor.shape)], [*map(free, tensor.stride())])
