"""Seeds: a new one for every layer, step and rank, and the one of a call."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.overrides import handle_torch_function

from .arguments import check_tensor, is_traced

NO_INT = "it may be an int, or an int64 tensor of one element"


def fold_seed(seed: Tensor, *values: Tensor | int) -> Tensor:
    """The seed of a layer, a step, a rank: a new seed for every choice of values, as random as the one it comes from.

    One seed used everywhere gives the same noise everywhere. Fold into it what tells the calls apart. It is arithmetic on the seed's
    own device: nothing is synchronized, and inside a compiled or captured graph it stays part of it.

    Args:
        seed: one int64.
        values: ints, or int64 tensors of one element on seed's device (a step counter under CUDA graphs). One on the CPU beside a seed on
            a GPU is refused: a captured graph would fold what it was at capture ever after.

    Returns:
        One int64, of shape [1], on seed's device.

    Raises:
        TypeError: a seed that is no int64 tensor; a value that is neither that nor an int.
        ValueError: a seed or a value of more than one element, or on another device than the seed; an int outside int64.

    >>> seed = torch.tensor([42])
    >>> layer3 = mx_ops.fold_seed(seed, 3)
    >>> torch.equal(mx_ops.fold_seed(layer3, 100), mx_ops.fold_seed(seed, 3, 100))
    True
    """
    if any(map(is_traced, (seed, *values))):
        return handle_torch_function(fold_seed, (seed, *values), seed, *values)
    if not isinstance(seed, Tensor):
        raise TypeError(f"seed is of type {type(seed).__name__}; it must be an int64 tensor")
    seed = one_int64(seed, "seed")
    for value in values:
        if not isinstance(value, Tensor):
            value = int64(value, "a value")
        elif value.device != seed.device:
            raise ValueError(f"a value is on {value.device}, seed on {seed.device}: move them to one device")
        else:
            value = one_int64(value, "a value")
        # One step of SplitMix64 (Steele et al., 2014) scatters neighbouring seeds; products wrap around, and the shifts are made logical.
        # They are not spelled >>, which gives a DTensor back as it was (torch 2.13 takes __rshift__ for an op that works in place).
        seed = seed - 0x61C8864680B583EB
        seed = (seed ^ (seed.bitwise_right_shift(30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
        seed = (seed ^ (seed.bitwise_right_shift(27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
        seed = (seed ^ (seed.bitwise_right_shift(31) & 0x1FFFFFFFF)) + value
    return seed


def seed_tensor(x: Tensor, stochastic_rounding: bool, seed: Tensor | int | None, tensor_scale: Tensor | None = None) -> Tensor | None:
    """The seed tensor of a call, which is checked: the one given, or one drawn on x's device, inside the graph if there is one."""
    check_tensor(x, "input")
    if tensor_scale is not None:
        check_tensor(tensor_scale, "tensor_scale")
    if not isinstance(stochastic_rounding, bool) and hasattr(stochastic_rounding, "__index__"):  # perhaps meant for the seed
        kind = type(stochastic_rounding).__name__
        raise TypeError(f"stochastic_rounding is of type {kind}; it may be True or False: give a seed by its name, as seed=...")
    if seed is None:
        return torch.randint(2**63 - 1, (1,), device=x.device) if stochastic_rounding else None
    if isinstance(seed, (Tensor, Proxy)):
        return seed  # the op checks it
    if isinstance(seed, bool):  # perhaps meant for stochastic_rounding
        raise TypeError(f"seed is of type bool; {NO_INT}")
    return torch.full((1,), int64(seed, "seed"), dtype=torch.int64, device=x.device)


def int64(value: Any, name: str) -> int:
    """An int that an int64 holds, from whatever Python takes for one, such as a numpy.int64. Raises TypeError and ValueError."""
    if isinstance(value, torch.SymInt):  # operator.index would make a constant of it
        return value  # type: ignore[return-value]
    if not isinstance(value, int):
        try:
            value = index(value)
        except TypeError:
            raise TypeError(f"{name} is of type {type(value).__name__}; {NO_INT}") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is an int outside int64; it may be from -2**63 to 2**63 - 1")
    return value


def index(value: Any) -> int:
    """operator.index, of which torch 2.11 traces too little: no tensor, as NumPy's integers are under torch.compile, and not its error."""
    if not hasattr(value, "__index__"):
        raise TypeError
    if torch.compiler.is_compiling() and hasattr(value, "__array__") and not torch.as_tensor(value).is_floating_point():
        return int(value)
    return operator.index(value)


def one_int64(tensor: Tensor, name: str) -> Tensor:
    """The tensor as of shape [1]. Raises TypeError and ValueError."""
    if tensor.dtype != torch.int64:
        raise TypeError(f"{name} is {tensor.dtype}; it must be an int64 tensor")
    if tensor.numel() != 1:
        raise ValueError(f"{name} is of shape {tuple(tensor.shape)}; it must have one element")
    return tensor.reshape(1)
