"""Every private name of torch that the package uses, and the reason beside it.

No other file uses one. `tests/test_private_names.py` has the same list, and says of a name that torch has moved what it was for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch._library.triton import triton_ops_to_kernels
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode, dispatch_functionalize
from torch.autograd import forward_ad
from torch.nested._internal.nested_tensor import NestedTensor

from ..formats import FORMATS

# Dispatch. Where nothing but the device is left to dispatch to, the kernel for autograd runs the call itself: to go back to the dispatcher
# takes as long as a launch. No public function says whether that is so.

DEVICE_KEYS = (torch._C.DispatchKey.CUDA, torch._C.DispatchKey.CPU, torch._C.DispatchKey.XPU)
# Key sets as ints, which Python compares ten times as fast.
DEVICE_ALONE = frozenset(keyset.raw_repr() for keyset in map(torch._C.DispatchKeySet, DEVICE_KEYS))
AFTER_AUTOGRAD = torch._C._after_ADInplaceOrView_keyset.raw_repr()


def runs_here(keyset: Any) -> bool:
    """Whether nothing but the device is left to dispatch to: no mode, no subclass, no transform, no tangents."""
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return keyset.raw_repr() & AFTER_AUTOGRAD in DEVICE_ALONE


def in_transform() -> bool:
    """Whether one of torch.func's transforms is active. What register_autograd registers raises an error under them."""
    return torch._C._are_functorch_transforms_active()


def has_tangent(tensor: Tensor) -> bool:
    """Whether a tensor has a tangent in forward mode. The level spares eager calls the look for one."""
    return torch.autograd.forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def unrecorded() -> contextlib.AbstractContextManager:
    """While it lasts, autograd records nothing, whatever the caller's grad mode; make_autograd_impl does so too."""
    return torch._C._AutoDispatchBelowAutograd()


def below_autograd(overload: Any, keyset: Any, *args: Any, **kwargs: Any) -> Any:
    """The op without its derivative, at this level of torch.func's transforms; those further out see the caller's grad mode."""
    with torch._C._AutoDispatchBelowAutograd():
        return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)


def autograd_kernel(overload: Any, backward: Callable) -> Callable:
    """What torch.library.register_autograd would register. It serves here as one case of a kernel that knows others too."""
    return make_autograd_impl(overload, Info(backward, None))


def argument_names(overload: Any) -> list[str]:
    """The names of an op's arguments, in order: torch gives a schema by an attribute that is private."""
    return [argument.name for argument in overload._schema.arguments]


# Graphs.


def register_for_graphs(name: str, rule: Callable, library: torch.library.Library) -> None:
    """Register what a graph gets in place of an op. Compilers trace under this mode, and there is no public way to be asked."""
    torch.library.register_torch_dispatch(name, FunctionalTensorMode, rule, lib=library)


def keeps_ops() -> bool:
    """Whether the graph that is traced is exported, and keeps the ops. Export says so by this flag, made for torch.library.triton_op."""
    import torch._functorch.config

    return not torch._functorch.config.decompose_custom_triton_ops


def are_tensors(types: Iterable[type]) -> bool:
    """Whether types are those of plain tensors as they are traced; other subclasses of Tensor work on their parts first."""
    return all(issubclass(kind, FakeTensor) or kind in (Tensor, FunctionalTensor) for kind in types)


def functionalized(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, tracing nothing that changes a tensor in place: what run_decompositions asks for."""
    return dispatch_functionalize(function)


def add_to_cache_key(name: str, source: Any) -> None:
    """Make the key of torch.compile's cache depend on ``source.src`` in graphs of an op: the cache hashes an op's Triton kernels alone."""
    triton_ops_to_kernels[name] = [source]


def as_if_unbacked() -> contextlib.AbstractContextManager:
    """While it lasts torch makes no guard of a size in the example where it can do without. There is no public setting for that."""
    from torch.fx.experimental import _config

    return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def name_dtypes() -> None:
    """Tell Inductor's C++ backend, if it is loaded, the names of dtypes that the Python functions give and that it may lack.

    Those are float4_e2m1fn_x2 (torch 2.11 to 2.15) and float8_e8m0fnu (up to 2.13).
    """
    if "torch._inductor.codegen.cpp_utils" in sys.modules:
        from torch._inductor.codegen.cpp_utils import DTYPE_TO_ATEN, DTYPE_TO_CPP

        for dtype in (torch.float8_e8m0fnu, *(fmt.dtype for fmt in FORMATS.values())):
            name = str(dtype).removeprefix("torch.").capitalize()
            DTYPE_TO_CPP.setdefault(dtype, f"at::{name}")
            DTYPE_TO_ATEN.setdefault(dtype, f"at::k{name}")


# Nested tensors.


def register_for_nested(name: str, rule: Callable, library: torch.library.Library) -> None:
    """Register a rule for jagged tensors. They have a class of their own, which in inference mode no dispatch key stands for."""
    torch.library.register_torch_dispatch(name, NestedTensor, rule, lib=library)
