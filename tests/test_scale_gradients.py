"""Nothing is differentiated by a tensor_scale: one of which a derivative is asked is refused, by every op and in every way to run it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_same, wild
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import mx_ops

ops = torch.ops.mx
Call = Callable[[Tensor, Tensor], Tensor]
X, ONE, SEED = wild((4, 32)).clamp(-8, 8), torch.tensor([0.5]), torch.tensor([3])
CODES = ops.quantize(X, "nvfp4", None, ONE)
NATIVE = mx_ops.quantize(X, "nvfp4", tensor_scale=ONE)

CALLS: dict[str, Call] = {  # each gives a float of x's size or of its bytes, so that derivatives can be asked
    "op quantize": lambda x, scale: ops.quantize(x, "nvfp4", None, scale)[0].float(),
    "op quantize_both": lambda x, scale: ops.quantize_both(x, "nvfp4", SEED, scale)[3].float(),
    "op dequantize": lambda x, scale: ops.dequantize(*CODES, "nvfp4", scale),
    "op fake_quant": lambda x, scale: ops.fake_quant(x, "nvfp4", None, scale),
    "op fake_quant by name": lambda x, scale: ops.fake_quant(x, "nvfp4", tensor_scale=scale, dim=0),
    "op fake_quant, seeded": lambda x, scale: ops.fake_quant(x, "nvfp4", SEED, scale),
    "op nvfp4_fake_quant": lambda x, scale: ops.nvfp4_fake_quant(x, None, scale),
    "quantize": lambda x, scale: mx_ops.quantize(x, "nvfp4", tensor_scale=scale)[1].float(),
    "quantize_both": lambda x, scale: mx_ops.quantize_both(x, "nvfp4", tensor_scale=scale)[1].float(),
    "dequantize": lambda x, scale: mx_ops.dequantize(*NATIVE, "nvfp4", tensor_scale=scale),
    "fake_quant": lambda x, scale: mx_ops.fake_quant(x, "nvfp4", tensor_scale=scale),
    "nvfp4_fake_quant": lambda x, scale: mx_ops.nvfp4_fake_quant(x, tensor_scale=scale, seed=3),
    "nvfp4_forward": lambda x, scale: mx_ops.nvfp4_forward(x, scale),
}


def asking() -> Tensor:
    """A scale that requires a gradient."""
    return ONE.clone().requires_grad_()


def compiled(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """Run as one graph."""
    torch.compiler.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)(*tensors)


class Model(torch.nn.Module):
    """A call, by a scale that is given or a parameter."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call, self.scale = call, torch.nn.Parameter(ONE.clone())

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Call."""
        return self.call(x, self.scale if scale is None else scale)


def dual(call: Call) -> Tensor:
    """By a scale with a tangent, in forward mode."""
    with forward_ad.dual_level():
        return call(X, forward_ad.make_dual(ONE, ONE))


def times_x(call: Call, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of x that depends on the call."""
    return lambda x: (call(x, scale).sum() * x).sum()


WAYS: dict[str, Callable[[Call], Any]] = {
    "eager": lambda call: call(X, asking()),
    "beside an input that requires one": lambda call: call(X.clone().requires_grad_(), asking()),
    "not a leaf": lambda call: call(X, asking() * 2),
    "checkpoint": lambda call: checkpoint(call, X, asking(), use_reentrant=False),
    "make_fx": lambda call: make_fx(call)(X, asking()),
    "functionalize": lambda call: torch.func.functionalize(call)(X, asking()),
    "export": lambda call: torch.export.export(Model(call), (X, asking())),
    "export of a parameter": lambda call: torch.export.export(Model(call), (X,)),
    "exported": lambda call: torch.export.export(Model(call), (X, ONE)).module()(X, asking()),
    "vmap": lambda call: torch.vmap(call, (0, None))(torch.stack([X, X]), asking()),
    "vmap over scales": lambda call: torch.vmap(call, (None, 0))(X, torch.ones(2, 1, requires_grad=True)),
    "grad": lambda call: torch.func.grad(lambda scale: call(X, scale).sum())(ONE),
    "vjp": lambda call: torch.func.vjp(lambda scale: call(X, scale), ONE),
    "jvp": lambda call: torch.func.jvp(lambda scale: call(X, scale), (ONE,), (ONE,)),
    "jacfwd": lambda call: torch.func.jacfwd(lambda scale: call(X, scale))(ONE),
    "forward mode": dual,
    "forward mode under no_grad": torch.no_grad()(dual),
    "vmap of grad": lambda call: torch.vmap(torch.func.grad(lambda scale: call(X, scale).sum()))(torch.ones(2, 1)),
    "grad of vmap": lambda call: torch.func.grad(lambda scale: torch.vmap(call, (0, None))(torch.stack([X, X]), scale).sum())(ONE),
    "grad of grad of x": lambda call: torch.func.grad(lambda scale: torch.func.grad(times_x(call, scale))(X).sum())(ONE),
    "grad of jvp of x": lambda call: torch.func.grad(lambda scale: torch.func.jvp(times_x(call, scale), (X,), (X,))[1])(ONE),
    "jvp of grad of x": lambda call: torch.func.jvp(lambda scale: torch.func.grad(times_x(call, scale))(X), (ONE,), (ONE,)),
    "autograd of grad of x": lambda call: torch.func.grad(times_x(call, asking()))(X),
    "autograd of jvp of x": lambda call: torch.func.jvp(times_x(call, asking()), (X,), (X,)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_scale_that_is_to_be_differentiated_is_refused(way: str) -> None:
    """The error says what to do; without it the derivative would be zero, or none, without a word."""
    for name, call in CALLS.items():
        with pytest.raises(ValueError, match=r"nothing is differentiated by it: give tensor_scale.detach\(\)") as raised:
            WAYS[way](call)
        assert type(raised.value) is ValueError, name


COMPILED: dict[str, Callable[[Call], Any]] = {
    "compile": lambda call: compiled(call, X, asking()),
    "strict export": lambda call: torch.export.export(Model(call), (X,), strict=True),
    "vmap": lambda call: compiled(torch.vmap(call, (0, None)), torch.stack([X, X]), asking()),
    "grad": lambda call: compiled(torch.func.grad(lambda scale: call(X, scale).sum()), ONE),
    "jvp": lambda call: compiled(lambda scale: torch.func.jvp(lambda scale: call(X, scale), (scale,), (scale,)), ONE),
}


@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("name", ["op quantize", "op quantize_both", "dequantize", "fake_quant", "op nvfp4_fake_quant"])
def test_compiled_code_refuses_it_too(way: str, name: str) -> None:
    """torch.compile raises errors of its own, in which the message is kept."""
    with pytest.raises(Exception, match=r"nothing is differentiated by it: give tensor_scale.detach\(\)"):
        COMPILED[way](CALLS[name])


TAKEN: dict[str, Callable[[Call], Tensor]] = {
    "no_grad": lambda call: torch.no_grad()(call)(X, asking()),
    "inference_mode": lambda call: torch.inference_mode()(call)(X, asking()),
    "detached": lambda call: call(X, asking().detach()),
    "no_grad, compiled": lambda call: compiled(torch.no_grad()(call), X, asking()),
    "detached, compiled": lambda call: compiled(lambda x, scale: call(x, scale.detach()), X, asking()),
    "detached, exported": lambda call: torch.export.export(Model(lambda x, scale: call(x, scale.detach())), (X,)).module()(X),
}


@pytest.mark.parametrize("way", TAKEN)
def test_a_scale_of_which_nothing_is_asked_is_taken(way: str) -> None:
    """Under no_grad, or detached: the values are those by a plain scale."""
    for call in itertools.islice(CALLS.values(), 0, None, 6 if "compiled" in way else 1):
        values = TAKEN[way](call)
        assert_same(values, call(X, ONE))
        assert not values.requires_grad


def test_a_derivative_beside_the_call_is_right() -> None:
    """Under torch.func, too, a scale that is detached, or taken under no_grad, is a constant in the call and differentiated elsewhere."""
    for call in CALLS.values():
        total = call(X, ONE).sum()
        for constant in (lambda scale: call(X, scale.detach()), torch.no_grad()(lambda scale: call(X, scale))):
            assert_same(torch.func.grad(lambda scale: (constant(scale).sum() * scale).sum())(ONE), total[None])
            assert_same(torch.func.jvp(lambda scale: call(X, scale.detach()).sum() * scale, (ONE,), (ONE,))[1], total * ONE)
    x = X.clone().requires_grad_()
    for name in ("op fake_quant", "op nvfp4_fake_quant", "fake_quant"):
        (gradient,) = torch.autograd.grad(CALLS[name](x, ONE).sum(), x)
        assert_same(gradient, torch.ones(4, 32))
        assert_same(torch.func.grad(lambda x: CALLS[name](x, ONE).sum())(X), torch.ones(4, 32))
        assert_same(torch.func.jvp(lambda x: CALLS[name](x, ONE), (X,), (X.neg(),))[1], X.neg())
