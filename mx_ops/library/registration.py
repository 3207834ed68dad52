"""How an op is registered with torch: one function gives its implementation, its fake, and all else that torch asks of an op."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .call import Call
from .checks import refuse_nested
from .private import add_to_cache_key, argument_names, register_for_graphs, register_for_nested
from .tracing import Digest, fake_outputs, functions, lower
from .transforms import batch_blocks

library = torch.library.Library("mx", "DEF")


def op(
    schema: str, derivative: Callable | None = None, batching: Callable | None = None, whole: bool = False
) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Define an op by its schema; register what the function says as its implementation on every backend, its fake, its gradient.

    ``whole`` says that an op without a format always takes, or gives, a scale of the whole tensor. Schemas are forever: they only append
    arguments with defaults.
    """

    def register(function: Callable[..., Call]) -> Callable[..., Call]:
        name = library.define(schema, tags=torch.Tag.pt2_compliant_tag)
        qualified = f"mx::{name}"
        library.impl(name, lambda *args, **kwargs: function(*args, **kwargs).run(), "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, lambda *args, **kwargs: fake_outputs(function(*args, **kwargs)), lib=library)
        overload = getattr(torch.ops.mx, name).default
        vmap = batch_blocks(overload, whole) if batching is None else batching(overload)
        torch.library.register_vmap(qualified, vmap, lib=library)
        register_for_graphs(qualified, functools.partial(lower, function), library)
        add_to_cache_key(qualified, Digest())
        if derivative is not None:
            library.impl(name, derivative(overload, function), "Autograd", with_keyset=True)
        refuse = functools.partial(refuse_nested, argument_names(overload))
        for key in ("AutogradNestedTensor", "NestedTensorCPU", "NestedTensorCUDA"):
            library.impl(name, refuse, key)
        register_for_nested(qualified, lambda mode, op, types, args, kwargs=None: refuse(*args), library)
        functions[overload] = function
        return function

    return register
