"""Questions about sizes while a compiler traces, when they may be symbols.

None of them makes a guard where torch can do without: a package that AOTInductor compiled would not check it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


def known(condition: bool | torch.SymBool) -> bool:
    """Whether a condition on sizes holds for all values of the symbols in it. It makes no guard."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def check(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    """Raises ValueError where a condition on sizes does not hold. Where it is known to hold, torch's own check, which imports sympy for two
    seconds, is not called.
    """
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
    """The dims of a tensor from the outermost in memory to the innermost; None if the tensor may have gaps."""
    order: list[int] = []
    left = list(range(tensor.ndim))
    stride = padded = 1  # in the strides of an empty tensor, torch counts its size 0 as 1
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
    """How many groups of a size to make of a length, and whether the length is known to fill them: else it has to be filled up.

    A length that is a symbol gets more groups than it fills, and at least two, for two reasons: torch makes a constant of a size that is 1
    when a graph is traced, and it makes a guard if the filling may be empty. Without this, an AOTInductor package of a fake_quant that was
    exported with 6 elements a row gave wrong values for 70.

    That number is one quotient. It is neither a sum nor a negated quotient, as ``length // size + 2`` and ``-(-length // size)`` are. For
    Inductor divides strides, which are products of sizes, and fails where two sizes are sums, or one is a negated quotient beside a sum
    (torch 2.13: so for the transpose of ``x[:, 2:, 2:] + 1`` of symbolic sizes). The length of a slice is one sum already.
    """
    whole = known(length % size == 0)
    if isinstance(length, int):
        return -(-length // size), whole
    return (length // size, True) if whole and known(length > size) else ((length + 2 * size + 1) // size, False)


def first(tensor: torch.Tensor, length: int | torch.SymInt) -> torch.Tensor:
    """The first ``length`` entries of a tensor's last dim.

    By index_select where the length is a symbol: the size of a slice would be a new symbol, of which torch 2.11 knows nothing.
    """
    if isinstance(length, int):
        return tensor[..., :length]
    return tensor.index_select(-1, torch.arange(0, length, device=tensor.device))  # type: ignore[call-overload]


class NoGuards:
    """Stands for a ShapeEnv, and makes no guard where torch can do without one."""

    def __init__(self, shape_env: Any) -> None:
        self._shape_env = shape_env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shape_env, name)

    def evaluate_sym_node(self, node: Any, size_oblivious: bool = False, fallback_value: bool | None = None) -> Any:
        """Whether a condition holds; ``fallback_value``, if there is one and the condition is not known."""
        if fallback_value is None:
            return self._shape_env.evaluate_sym_node(node, size_oblivious)
        condition = torch.SymBool(node)
        return known(condition) or (not known(torch.sym_not(condition)) and fallback_value)


def unspecialized(tensor: torch.Tensor) -> torch.Tensor:
    """A new tensor like a tensor that has just been made; torch makes guards of its sizes only where it cannot do without."""

    def free(size: int | torch.SymInt) -> int | torch.SymInt:
        if not isinstance(size, torch.SymInt):
            return size
        node = size.node
        return torch.SymInt(type(node)(node.expr, NoGuards(node.shape_env), int, node.hint))

    if not any(isinstance(size, torch.SymInt) for size in tensor.shape):
        return tensor
    return tensor.new_empty_strided([*map(free, tensor.shape)], [*map(free, tensor.stride())])
