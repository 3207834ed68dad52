"""Activation checkpointing repeats a call's noise where it computes it again, and a policy can choose to keep what a call gave."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from helpers import assert_same, wild
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import mx_ops

FAKE_QUANT = torch.ops.mx.fake_quant.default
# What a graph holds for a fake-quant, once: interpreted, the op itself; of its formulas, the maximum of the blocks; and on a GPU, where
# the last block may be short or there is a seed, its Triton kernel.
FORMS = (FAKE_QUANT, torch.ops.aten.amax.default, triton_kernel_wrapper_functional)


def compile_by(how: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is, or compiled as one graph."""
    torch.compiler.reset()
    return function if how == "eager" else torch.compile(function, backend=how, fullgraph=True)


class Calls(TorchDispatchMode):
    """How often each op runs."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.of[op] += 1
        return op(*args, **(kwargs or {}))


class Graphs:
    """A backend that keeps the graphs it is given, forward and backward."""

    def __init__(self) -> None:
        self.forward: list[torch.fx.GraphModule] = []
        self.backward: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Compile nothing: the graphs run as they are."""

        def keep(graphs: list[torch.fx.GraphModule], graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        compilers = {"fw_compiler": functools.partial(keep, self.forward), "bw_compiler": functools.partial(keep, self.backward)}
        return aot_autograd(**compilers, partition_fn=min_cut_rematerialization_partition)(graph, inputs)

    def count(self, graphs: list[torch.fx.GraphModule]) -> int:
        """How many fake-quants are computed in graphs, which hold each as one of FORMS."""
        return sum(node.target in FORMS for graph in graphs for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("how", "seeded"), [("eager", True), ("eager", False), ("aot_eager", True), ("aot_eager", False), ("inductor", False)]
)
def test_the_noise_of_the_recompute_is_that_of_the_forward(how: str, seeded: bool, device: str) -> None:
    """A weight that multiplies quantized activations has them for its gradient, to the bit, whether seeds are given or drawn."""

    def region(x: Tensor, weight: Tensor, seed: Tensor) -> Tensor:
        return mx_ops.fake_quant(x * 0.75, "mxfp4", True, seed=seed if seeded else None) * weight

    run = compile_by(how, lambda *arguments: checkpoint(region, *arguments, use_reentrant=False))
    x = wild((5, 42)).clamp(-1e3, 1e3).to(device).requires_grad_()
    weight = torch.ones(5, 42, device=device, requires_grad=True)
    steps = []
    torch.manual_seed(1)
    for step in range(3):
        values = run(x, weight, torch.tensor([step], device=device))
        torch.rand(step + 1, device=device)  # what is drawn meanwhile must not matter
        steps.append(values.detach().clone())
        to_x, to_weight = torch.autograd.grad(values.sum(), (x, weight))
        assert_same(to_weight, steps[-1])
        assert_same(to_x, torch.full((5, 42), 0.75))
        if seeded:
            assert_same(steps[-1], mx_ops.fake_quant(x.detach() * 0.75, "mxfp4", seed=step))
    assert not any(torch.equal(steps[first], steps[second]) for first, second in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_layers_of_a_checkpointed_model_keep_their_noise(how: str, device: str) -> None:
    """Regions one after another, and one within another, each repeat their own draws; in eager code they are those of no checkpointing."""

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        return mx_ops.mxfp8_fake_quant(x, stochastic_rounding=True) * weight

    def model(x: Tensor, weights: list[Tensor], run: Callable[..., Any]) -> tuple[Tensor, ...]:
        def inner(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
            second = layer(x, weights[0])
            return second, run(layer, second, weights[1])

        first = run(layer, x, weights[0])
        return first, *run(inner, first, weights[1], weights[2])

    x = torch.randn(3, 42, generator=torch.Generator().manual_seed(0)).to(device)
    weights = [torch.full((3, 42), 2.0, device=device, requires_grad=True) for _ in range(3)]
    results = []
    for run in (
        lambda function, *arguments: checkpoint(function, *arguments, use_reentrant=False),
        lambda function, *arguments: function(*arguments),
    ):
        compiled = compile_by(how, functools.partial(model, run=run))
        torch.manual_seed(1)
        values = compiled(x, weights)
        gradients = torch.autograd.grad(values[-1].sum(), weights)
        # A layer's gradient is what it quantized, times the weights after it: all powers of two, so that nothing else rounds.
        for value, gradient, after in zip(values, gradients, (4, 2, 1)):
            assert_same(gradient, value / 2 * after)
        results.append((*values, *gradients))
    # Of a compiled region on a GPU that is computed again torch draws from generators of its own: not what the default one would give.
    if how == "eager" or device == "cpu":
        for have, want in zip(*results):
            assert_same(have, want)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("policy", [CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE], ids=lambda policy: policy.name)
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_a_policy_chooses_whether_an_op_runs_again(how: str, policy: CheckpointPolicy, stochastic: bool, device: str) -> None:
    """Selective checkpointing sees a call as the one op it is, in eager and in compiled code; what must be saved is computed once."""
    seen: Counter = Counter()

    def choose(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        seen[op] += 1
        return policy if op is FAKE_QUANT else CheckpointPolicy.PREFER_RECOMPUTE

    def region(x: Tensor, weight: Tensor) -> Tensor:
        return mx_ops.fake_quant(x * 0.75, "mxfp4", stochastic) * weight

    def run(x: Tensor, weight: Tensor) -> Tensor:
        contexts = functools.partial(create_selective_checkpoint_contexts, choose)
        return checkpoint(region, x, weight, use_reentrant=False, context_fn=contexts)

    x, weight = wild((5, 42)).clamp(-1e3, 1e3).to(device), torch.ones(5, 42, device=device, requires_grad=True)
    times = 1 if policy == CheckpointPolicy.MUST_SAVE else 2
    if how == "eager":
        with Calls() as calls:
            values = run(x, weight)
            assert calls.of[FAKE_QUANT] == 1
            (gradient,) = torch.autograd.grad(values.sum(), weight)
        assert calls.of[FAKE_QUANT] == times
    else:
        torch.compiler.reset()
        graphs = Graphs()
        values = torch.compile(run, backend=graphs, fullgraph=True)(x, weight)
        (gradient,) = torch.autograd.grad(values.sum(), weight)
        assert graphs.count(graphs.forward) == 1
        assert graphs.count(graphs.backward) == times - 1
    assert seen[FAKE_QUANT] >= 1
    assert seen[FAKE_QUANT] == sum(seen[op] for op in FORMS)  # nothing of what the op does
    assert_same(gradient, values)
