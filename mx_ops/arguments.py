"""What the functions do with tensors before an op sees them and after: checks, and views in torch's own dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.overrides import handle_torch_function

from .library import check_strided


def is_traced(first: Any, second: Any = None, third: Any = None) -> bool:
    """Whether torch.fx traces the call: then tensors are proxies, which have no dtype to ask for."""
    return isinstance(first, Proxy) or isinstance(second, Proxy) or isinstance(third, Proxy)


def node(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """The call as one node of torch.fx's graph."""
    return handle_torch_function(function, tuple(arguments.values()), **arguments)


def check_tensor(value: Any, name: str) -> None:
    """Check that an argument is a tensor, which the ops say in the dispatcher's words. Raises TypeError."""
    if not isinstance(value, (Tensor, Proxy)):
        raise TypeError(f"{name} must be a tensor, not of type {type(value).__name__}")


def bytes_of(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """The bytes of a tensor of one-byte elements."""
    check_tensor(tensor, name)
    allowed = dict.fromkeys((dtype, torch.uint8))
    if tensor.dtype not in allowed:
        raise TypeError(f"{name} are {tensor.dtype}; they may be {' or '.join(map(str, allowed))}")
    check_strided(tensor, name)
    return view_in(tensor, torch.uint8)


def bytes_of_scales(tensor: Tensor, name: str) -> Tensor:
    """The bytes of scales of any format."""
    check_tensor(tensor, name)
    if tensor.dtype.itemsize != 1 or tensor.dtype == torch.bool or tensor.is_quantized:
        raise TypeError(f"{name} are {tensor.dtype}; they may be of any dtype of one byte, such as torch.float8_e8m0fnu")
    check_strided(tensor, name)
    return view_in(tensor, torch.uint8)


def view_in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of a tensor in a dtype. No view is taken where it has that already: torch 2.11 does not batch views under vmap."""
    if tensor.dtype == dtype:
        return tensor
    if torch.jit.is_tracing():
        raise NotImplementedError(
            f"torch.jit.trace has no view of {tensor.dtype} as {dtype}: trace the ops, such as torch.ops.mx.quantize, which take and give"
            " bytes, or use torch.export"
        )
    return tensor.view(dtype)
