"""Compiled code draws the noise of eager code: that of the seed it is given, whatever the seed's value, without compiling again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import assert_same, wild
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import mx_ops


def seed_of(value: int, device: str) -> Tensor:
    """A seed tensor."""
    return torch.tensor([value], device=device)


def layer(x: Tensor, seed: Tensor, step: Tensor, rank: int) -> tuple[Tensor, ...]:
    """A seed for a layer at a step, on a rank, and its noise."""
    seed = mx_ops.fold_seed(seed, rank, step, 1)
    return seed, mx_ops.fake_quant(x, "mxfp4", seed=seed)


def layers(x: Tensor, seed: Tensor, step: Tensor, rank: int) -> tuple[Tensor, ...]:
    """Three layers, of which each has its noise."""
    here = mx_ops.fold_seed(seed, rank, step)
    first = mx_ops.mxfp4_fake_quant(x, seed=mx_ops.fold_seed(here, 0))
    second = mx_ops.mxfp8_fake_quant(x, "e5m2", seed=mx_ops.fold_seed(here, 1))
    return here, first, second, *torch.ops.mx.quantize(x, "mxfp4", mx_ops.fold_seed(here, 2))


@pytest.mark.parametrize(("backend", "function"), [("aot_eager", layer), ("aot_eager", layers), ("inductor", layer)])
def test_one_graph_rounds_by_every_seed(backend: str, function: Callable[..., tuple[Tensor, ...]], device: str) -> None:
    """New values of a seed and of a step, which are tensors, give the new noise, that of eager code, from code compiled once."""
    x = wild((5, 42)).to(device)
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    values = []
    for seed, step in ((5, 0), (5, 1), (-(2**63), 1), (2**63 - 1, 2**40), (5, 0)):
        arguments = (x, seed_of(seed, device), torch.tensor(step, device=device), 3)
        values.append(compiled(*arguments))
        for have, want in zip(values[-1], function(*arguments)):
            assert_same(have, want)
    assert counter.frame_count == 1
    for other in values[1:4]:
        assert not any(torch.equal(one, two) for one, two in zip(values[0][:4], other))  # scales have no noise
    for have, want in zip(values[0], values[4]):
        assert_same(have, want)


def test_every_rank_has_its_graph_or_shares_one(device: str) -> None:
    """Ranks and layers are ints: one of them is compiled for, then any; and the noise is that of eager code."""
    x, seed = wild((5, 42)).to(device), seed_of(7, device)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layers, fullgraph=True, backend=counter)
    for rank in (3, 4, 0, 1, 1000):
        arguments = (x, seed, torch.tensor(2, device=device), rank)
        for have, want in zip(compiled(*arguments), layers(*arguments)):
            assert_same(have, want)
    assert counter.frame_count <= 4  # torch compiles anew for 0 and 1


def drawn(x: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the same call."""
    return mx_ops.fake_quant(x, "mxfp4", True), mx_ops.fake_quant(x, "mxfp4", True)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_drawn_seeds_follow_the_generator(backend: str, device: str) -> None:
    """torch.manual_seed repeats compiled noise; without it, or with another, it is new; equal calls in one graph stay two."""
    x = wild((5, 42)).to(device)
    torch.compiler.reset()
    compiled = torch.compile(drawn, fullgraph=True, backend=backend)
    torch.manual_seed(1)
    first, following = compiled(x), compiled(x)
    torch.manual_seed(1)
    for have, want in zip((*compiled(x), *compiled(x)), (*first, *following)):
        assert_same(have, want)
    torch.manual_seed(2)
    for one, later, other in zip(first, following, compiled(x)):
        assert not torch.equal(one, later)
        assert not torch.equal(one, other)
    assert not torch.equal(first[0], first[1])
    if backend == "aot_eager":  # Inductor has random numbers of its own
        torch.manual_seed(1)
        for have, want in zip(drawn(x), first):
            assert_same(have, want)


def test_equal_calls_with_one_seed_are_one(device: str) -> None:
    """An op is a function of its arguments: a compiler may keep one of two equal calls, and the noise is still eager's."""
    x, seed = wild((5, 42)).to(device), seed_of(7, device)
    torch.compiler.reset()
    compiled = torch.compile(lambda x, seed: [mx_ops.fake_quant(x, "mxfp4", seed=seed) for _ in range(2)], backend="aot_eager")
    for values in compiled(x, seed):
        assert_same(values, mx_ops.fake_quant(x, "mxfp4", seed=seed))


def capture(function, *arguments: Tensor) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """A graph of a call, and the tensors that it fills. Called once before, for Triton to compile what the graph then holds."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*arguments)
    return graph, outputs


@pytest.mark.gpu
def test_a_captured_graph_rounds_by_what_its_seed_holds() -> None:
    """Replayed after a new seed, step and input are copied into its buffers, a CUDA graph gives eager's bits for them."""
    x, seed, step = wild((5, 42)).cuda(), seed_of(1, "cuda"), torch.tensor(0, device="cuda")
    graph, outputs = capture(lambda *buffers: layers(*buffers, 3), x, seed, step)
    for value, at, other in ((1, 0, 0), (2, 0, 0), (2, 1, 0), (-(2**63), 2**40, 1), (1, 0, 0)):
        fresh = (wild((5, 42), seed=other).cuda(), seed_of(value, "cuda"), torch.tensor(at, device="cuda"))
        for buffer, new in zip((x, seed, step), fresh):
            buffer.copy_(new)
        graph.replay()
        for have, want in zip(outputs, layers(*fresh, 3)):
            assert_same(have, want)


@pytest.mark.gpu
def test_a_captured_graph_draws_new_seeds() -> None:
    """Each replay of a graph that draws its seed gives new noise, which torch.manual_seed repeats."""
    x = wild((5, 42)).cuda()  # it has to live as long as the graph
    graph, outputs = capture(drawn, x)

    def replay() -> list[Tensor]:
        graph.replay()
        return [output.clone() for output in outputs]

    torch.manual_seed(1)
    first, following = replay(), replay()
    torch.manual_seed(1)
    for have, want in zip((*replay(), *replay()), (*first, *following)):
        assert_same(have, want)
    for one, later in zip(first, following):
        assert not torch.equal(one, later)
    assert not torch.equal(first[0], first[1])


@pytest.mark.gpu
def test_reduce_overhead_rounds_by_every_seed() -> None:
    """torch.compile(mode="reduce-overhead") replays one graph for all seeds, forward and backward, with eager's bits."""
    from torch._dynamo.utils import counters

    def step(x: Tensor, w: Tensor, seed: Tensor) -> Tensor:
        return mx_ops.fake_quant(x * 0.75, "mxfp4", seed=mx_ops.fold_seed(seed, 3)) * w

    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    x, w = wild((5, 42)).clamp(-4, 4).cuda(), torch.ones(5, 42, device="cuda", requires_grad=True)
    for value in (1, 2, 2, 3, -(2**63), 1):  # the first call warms up, the second records, the others replay
        torch.compiler.cudagraph_mark_step_begin()
        y = compiled(x, w, seed_of(value, "cuda"))
        values = y.detach().clone()
        (grad,) = torch.autograd.grad(y.sum(), w)
        grad = grad.clone()
        quantized = mx_ops.fake_quant(x * 0.75, "mxfp4", seed=mx_ops.fold_seed(seed_of(value, "cuda"), 3))
        assert_same(grad, values)
        assert_same(values, quantized)
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.gpu
def test_reduce_overhead_draws_new_seeds() -> None:
    """Every replay of a compiled graph that draws its seeds has new noise, which torch.manual_seed repeats."""
    torch.compiler.reset()
    compiled = torch.compile(drawn, mode="reduce-overhead", fullgraph=True)
    x = wild((5, 42)).cuda()

    def run() -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return [output.clone() for output in compiled(x)]

    for _ in range(3):
        run()
    torch.manual_seed(1)
    first, following = run(), run()
    torch.manual_seed(1)
    for have, want in zip((*run(), *run()), (*first, *following)):
        assert_same(have, want)
    for one, later in zip(first, following):
        assert not torch.equal(one, later)
    assert not torch.equal(first[0], first[1])
