"""What torch's transforms make of an op: derivatives in both modes, and vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..formats import FORMATS
from .call import Call
from .checks import check_matrices, resolve_dim
from .private import argument_names, autograd_kernel, below_autograd, has_tangent, in_transform, runs_here, unrecorded

# Derivatives.


class StraightThrough(torch.autograd.Function):
    """What a call gives, with the derivative of the identity."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """The values."""
        return run(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient, as it comes."""
        return grad, None


def place_of_scale(overload: Any) -> int:
    """Which of an op's arguments the tensor_scale is; without one, a number that no argument has."""
    names = argument_names(overload)
    return names.index("tensor_scale") if "tensor_scale" in names else len(names)


def check_no_derivative(scale: Tensor | None) -> None:
    """Check that no derivative by a tensor_scale is asked for, in either mode: it would be zero without a word. Raises ValueError."""
    if scale is None:
        return
    asked = scale.requires_grad and torch.is_grad_enabled()
    if asked or has_tangent(scale):
        raise ValueError(
            f"tensor_scale {'requires a gradient' if asked else 'has a tangent'}, and nothing is differentiated by it: give"
            " tensor_scale.detach()"
        )


def straight_through(overload: Any, function: Callable[..., Call]) -> Callable:
    """The kernel for autograd of every fake_quant: derivatives are those of the identity, in both modes, and under torch.func.

    What `torch.library.register_autograd` would register knows only backward: in forward mode it gives zeros without a word, and under
    torch.func an error. It is used where it suffices.
    """

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, *[None] * (len(ctx.needs_input_grad) - 1)

    backward_alone = autograd_kernel(overload, backward)
    scale = place_of_scale(overload) - 1  # in what follows the input

    def autograd(keyset: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) > scale:
            check_no_derivative(args[scale])
        if runs_here(keyset):
            if input.requires_grad and torch.is_grad_enabled():
                return StraightThrough.apply(input, lambda input: function(input, *args, **kwargs).run())
            return function(input, *args, **kwargs).run()
        if not in_transform() and not has_tangent(input):
            return backward_alone(keyset, input, *args, **kwargs)
        values = below_autograd(overload, keyset, input, *args, **kwargs)
        out = input + torch.zeros_like(values)  # has the derivatives, and is batched as the values are
        with torch.no_grad():
            out.detach().copy_(values)
        return out

    return autograd


def constant(overload: Any, function: Callable[..., Call]) -> Callable:
    """The kernel for autograd of an op that has no derivative, whether it gives floating-point numbers or not."""
    scale = place_of_scale(overload)

    def autograd(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > scale:
            check_no_derivative(args[scale])
        if not runs_here(keyset):
            return below_autograd(overload, keyset, *args, **kwargs)
        if args[0].requires_grad and torch.is_grad_enabled():
            with unrecorded():  # autograd is not to record the formulas
                return function(*args, **kwargs).run()
        return function(*args, **kwargs).run()

    return autograd


# vmap.


def batch_blocks(overload: Any, whole: bool) -> Callable:
    """The vmap rule of ops on blocks; ``whole`` says that the op has a scale of the whole tensor, if it takes no format."""
    names = argument_names(overload)

    def vmap(info: Any, in_dims: tuple, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        given = dict(zip(names, args))
        fmt = FORMATS.get(given.get("format", ""))
        alone = given.get("seed") is not None or (whole if fmt is None else fmt.has_tensor_scale)
        # An op without a dim has blocks along the last two: a slice that has fewer gets its own error.
        alone |= "dim" not in names and args[0].ndim - (in_dims[0] is not None) < 2
        return batch(overload, info.batch_size, in_dims, args, kwargs, alone, "dim" in names)

    return vmap


def batch(
    op: Callable, size: int, in_dims: tuple[int | None, ...], args: tuple, kwargs: dict, alone: bool, has_dim: bool = True
) -> tuple[Any, Any]:
    """What a Python loop over the batch gives; by one call, where the batch may be one more dim of the tensors.

    It may not where each slice is ``alone``: with a seed, a slice has the noise that it would draw by itself, and with a scale of the whole
    tensor, the scale.
    """
    if alone:
        slices = [op(*(arg if at is None else arg.select(at, i) for arg, at in zip(args, in_dims)), **kwargs) for i in range(size)]
        if size == 0:  # the outputs for a slice of zeros have the shapes
            slices = [op(*(arg if at is None else arg.sum(at, dtype=arg.dtype) for arg, at in zip(args, in_dims)), **kwargs)]

        def stack(of_slices: Iterable[Tensor]) -> Tensor:
            return torch.stack(tuple(of_slices))[:size]

        outputs = stack(slices) if isinstance(slices[0], Tensor) else tuple(map(stack, zip(*slices)))
    else:
        batched = [
            arg.movedim(at, 0) if at is not None else arg.expand(size, *arg.shape) if isinstance(arg, Tensor) else arg
            for arg, at in zip(args, in_dims)
        ]
        if has_dim:
            kwargs = kwargs | {"dim": resolve_dim(batched[0].ndim - 1, kwargs.get("dim", -1)) + 1}
        outputs = op(*batched, **kwargs)
    return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)


def batch_matrices(overload: Any) -> Callable:
    """The vmap rule of ops on [..., rows, columns]: the batch is one more of the dims in front."""
    name = argument_names(overload)[0]

    def vmap(info: Any, in_dims: tuple, matrices: Tensor, *sizes: int) -> tuple[Tensor, int]:
        matrices = matrices.movedim(in_dims[0], 0)
        check_matrices(matrices.shape[1:], name)
        return overload(matrices, *sizes), 0

    return vmap
