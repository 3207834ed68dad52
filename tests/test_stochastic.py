"""Stochastic rounding is floor(|y| / step + u) * step to the bit, with u from the seed and the logical position alone."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from conftest import DEVICES, INTERPRETED
from helpers import DTYPES, FORMATS, assert_same, exact, name_of, wild
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import mx_ops
from mx_ops.reference import rules

TRITON_RUNS = INTERPRETED or "cuda" in DEVICES
SEED = 0x0123_4567_89AB_CDEF
SHAPES = [(1,), (42,), (431,), (6, 33), (33, 6), (16, 40), (64, 1), (2, 31, 3), (2, 2, 3, 34), (2, 3, 5, 8)]
CASES = list(itertools.product(FORMATS, SHAPES))[:: 3 if INTERPRETED else 1]  # interpreted, two formats with each shape


def seed_of(value: int, device: str) -> Tensor:
    """A seed tensor."""
    return torch.tensor([value], dtype=torch.int64, device=device)


def check(x: Tensor, format: str, dim: int, seed: int = SEED, **options) -> None:
    """The ops against the oracle, to the bit."""
    random = oracle.random_bits(seed, tuple(x.shape))
    expected = oracle.fake_quant(exact(x), format, random, dim, dtype=name_of(x.dtype), **options)
    tensor = seed_of(seed, str(x.device))
    assert_same(torch.ops.mx.fake_quant(x, format, tensor, dim=dim, **options), expected)
    if x.shape[dim] % oracle.ROWS[format].codes_per_byte == 0:
        elements, scales = torch.ops.mx.quantize(x, format, tensor, dim=dim, **options)
        expected_elements, expected_scales = oracle.quantize(exact(x), format, random, dim, **options)
        assert_same(elements, expected_elements)
        assert_same(scales, expected_scales)


@pytest.mark.parametrize(("format", "shape"), CASES)
def test_exact_bits(format: str, shape: tuple[int, ...], device: str) -> None:
    """Every dtype, along every dim, of tensors whose last dim is a multiple of eight or is not."""
    for dim in range(len(shape)):
        for dtype in [DTYPES[dim % 3]] if INTERPRETED else DTYPES:  # the kernels know a dtype only by its loads and stores
            check(wild(shape, dtype, dim).to(device), format, dim)


@pytest.mark.parametrize("scale_mode", ["floor", "ceil", "even", None])
@pytest.mark.parametrize("block_size", [16, 64, 256])
def test_exact_bits_of_every_block_size_and_mode(block_size: int, scale_mode: str | None, device: str) -> None:
    """Block sizes and scale modes change what is rounded, and never the random bits."""
    for dim in (0, 1):
        rows = 5 if INTERPRETED else 21
        x = wild((rows, 300) if dim else (300, rows), torch.float32, dim).to(device)
        check(x, "mxfp8_e4m3", dim, block_size=block_size, scale_mode=scale_mode)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32, 2**63 - 1, -(2**63)])
def test_every_kind_of_seed(seed: int, device: str) -> None:
    """Seeds of all 64 bits, negative ones too."""
    check(wild((6, 42)).to(device), "mxfp4", -1, seed)


def test_high_bits_of_the_seed_matter(device: str) -> None:
    """Seeds that agree in their low 32 bits, or in their high 32, give different noise."""
    x = torch.linspace(0.0, 6.0, 4096, device=device)
    values = [torch.ops.mx.fake_quant(x, "mxfp4", seed_of(seed, device)) for seed in (5, 5 + 2**32, 6, 5 + 2**63 - 2**64)]
    for first in range(4):
        for second in range(first):
            assert (values[first] != values[second]).float().mean() > 0.1


@pytest.mark.skipif(INTERPRETED, reason="the kernels have no pieces")
def test_more_elements_than_fit_in_cache(device: str) -> None:
    """Work cut into pieces draws the bits of the whole, along every dim, whether or not the last dim is a multiple of eight."""
    for dim in range(3):
        x = wild((3, 453, 449), torch.bfloat16, dim).to(device)
        check(x, "mxfp8_e5m2", dim)
        check(x.mT, "mxfp8_e5m2", dim)


def test_philox_is_philox() -> None:
    """The reference's random words are Philox-4x32-10: the known answer for zeros, and the oracle's for any seed and 64-bit counter."""
    zero = torch.zeros(1, dtype=torch.int64)
    assert [int(word) for word in rules.philox(zero, zero)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    counter = np.random.default_rng(0).integers(0, 2**62, 1000)
    for seed in (SEED, -SEED, -1):
        words = rules.philox(torch.tensor(seed), torch.from_numpy(counter))
        expected = oracle.philox((seed % 2**32, seed >> 32 & 0xFFFFFFFF), (counter % 2**32, counter >> 32, 0 * counter, 0 * counter))
        for have, want in zip(words, expected):
            assert (have.numpy() == want.astype(np.int64)).all()


if TRITON_RUNS:
    import triton
    import triton.language as tl

    @triton.jit
    def randint4x_kernel(seed_ptr, counter_ptr, out_ptr, N: tl.constexpr):  # noqa: N803, D103
        lane = tl.arange(0, N)
        w0, w1, w2, w3 = tl.randint4x(tl.load(seed_ptr), tl.load(counter_ptr + lane))
        tl.store(out_ptr + lane, w0)
        tl.store(out_ptr + N + lane, w1)
        tl.store(out_ptr + 2 * N + lane, w2)
        tl.store(out_ptr + 3 * N + lane, w3)


@pytest.mark.skipif(not TRITON_RUNS, reason="needs a GPU, or TRITON_INTERPRET=1")
def test_philox_is_that_of_triton() -> None:
    """The reference's random words are those of tl.randint4x, under 64-bit seeds and counters."""
    device = DEVICES[-1]
    counter = torch.from_numpy(np.random.default_rng(1).integers(0, 2**62, 1024)).to(device)
    for seed in (0, SEED, -1):
        out = torch.empty(4, 1024, dtype=torch.int32, device=device)
        randint4x_kernel[(1,)](seed_of(seed, device), counter, out, 1024)
        words = torch.stack(rules.philox(seed_of(seed, device), counter))
        assert torch.equal(out.to(torch.int64) & 0xFFFFFFFF, words)


@pytest.mark.parametrize("format", FORMATS)
def test_near_ties(format: str, device: str) -> None:
    """Numbers within 2^-22 of where |y| / step + u reaches an integer, which a float32 sum would misjudge, fall on the right side."""
    row = oracle.ROWS[format]
    shape = (64, 256)
    u = (oracle.random_bits(SEED, shape) + 0.5) / 65536
    # Where the sum is an integer: from subnormal numbers up to binade 1, and 0 where there is no other, short of what would clip.
    steps = (1 - u) + np.arange(256) % min(2 ** (row.mantissa_bits + 1), len(row.finite()) - 1)
    scale = np.float32(2.0 ** (row.emin - row.mantissa_bits))
    center = (steps * scale).astype(np.float32)
    y = np.stack([np.nextafter(center, np.float32(0)), center, np.nextafter(center, np.float32(np.inf))])
    y[..., ::32] = 2.0**row.emax  # makes the scale of the block 1
    y *= np.where(np.arange(256) % 3, 1, -1).astype(np.float32)

    sum_of_float32 = np.floor((np.abs(y) / scale + u.astype(np.float32)).astype(np.float32))
    exact_sum = np.floor(np.abs(y).astype(np.float64) / scale) + (np.abs(y).astype(np.float64) / scale % 1 >= 1 - u)
    assert (sum_of_float32 != exact_sum)[..., np.arange(256) % 32 > 0].sum() > 50  # these are the hard ones

    for part in y:
        x = torch.from_numpy(part).to(device)
        _, scales = torch.ops.mx.quantize(x, format, seed_of(SEED, device))
        assert scales.unique().tolist() == [127]
        check(x, format, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_result_is_a_neighbour(format: str, dtype: torch.dtype, device: str) -> None:
    """Every code is that of the grid point at or below, or at or above, the number: rounding toward or away from zero."""
    x = wild((32, 256), dtype, seed=5).to(device)
    down, up = (oracle.fake_quant(exact(x), format, np.full(x.shape, r), scale_mode="rceil", dtype=name_of(dtype)) for r in (-0.5, 65535.5))
    values = exact(torch.ops.mx.fake_quant(x, format, seed_of(SEED, device)))
    assert ((values == down) | (values == up)).all()
    between = down != up
    assert (values[between] == down[between]).any()
    assert (values[between] == up[between]).any()


@pytest.mark.parametrize("format", FORMATS)
def test_grid_points_never_move(format: str, device: str) -> None:
    """A number that is a code times its scale is a fixed point, under any seed: so rounding twice is rounding once."""
    values = oracle.ROWS[format].finite()
    points = torch.from_numpy(np.resize(np.concatenate([values, -values[1:]]), (8, 31 * 9))).float()
    x = torch.cat([points.reshape(-1, 31), torch.full((72, 1), oracle.ROWS[format].largest)], dim=1).to(device)
    for seed in range(8):
        assert_same(torch.ops.mx.fake_quant(x, format, seed_of(seed, device)), x)
    once = torch.ops.mx.fake_quant(wild((8, 64)).to(device), format, seed_of(1, device))
    assert_same(torch.ops.mx.fake_quant(once, format, seed_of(2, device)), once)


@pytest.mark.parametrize("fraction", [2.0**-10, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("format", FORMATS)
def test_unbiased(format: str, fraction: float, device: str) -> None:
    """The mean of many roundings is the number, within four standard errors, at each end of the grid."""
    row = oracle.ROWS[format]
    size = 2**13 if INTERPRETED else 2**18
    low = row.finite()[[0, 1, -2]]
    high = row.finite()[[1, 2, -1]]
    for below, above in zip(low, high):
        number = np.float32(below + fraction * (above - below))
        x = torch.full((size // 32, 32), float(number))
        x[:, 0] = row.largest  # makes the scale 1
        values = exact(torch.ops.mx.fake_quant(x.to(device), format, seed_of(SEED, device)))[:, 1:]
        share = (float(number) - below) / (above - below)
        error = math.sqrt(share * (1 - share) / values.size) * (above - below)
        assert abs(values.mean() - float(number)) < 4 * error
        assert set(values.flatten()) == {below, above}


def test_layout_is_no_input(device: str) -> None:
    """The same logical tensor gives the same values, whatever its strides, and codes lie where its elements lie."""
    x = wild((2, 34, 6), torch.float32).to(device)
    seed = seed_of(SEED, device)
    spread = torch.zeros(*x.shape, 3, device=device)[..., 1].copy_(x)
    for dim in range(3):
        expected = torch.ops.mx.fake_quant(x, "mxfp4", seed, dim=dim)
        codes = torch.ops.mx.quantize(x, "mxfp4", seed, dim=dim)
        layouts = (
            x.mT.contiguous().mT,
            x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
            x.permute(1, 0, 2).contiguous().transpose(0, 1),
            spread,
        )
        for layout in (layouts[dim], spread) if INTERPRETED else layouts:
            assert_same(torch.ops.mx.fake_quant(layout, "mxfp4", seed, dim=dim), expected)
            for have, want in zip(torch.ops.mx.quantize(layout, "mxfp4", seed, dim=dim), codes):
                assert_same(have, want)


def test_rows_do_not_know_how_many_follow(device: str) -> None:
    """Bits belong to positions: the first rows of a tensor round as they do alone, however the work is tiled."""
    x = wild((70, 123), torch.float32).to(device)
    seed = seed_of(SEED, device)
    whole = torch.ops.mx.fake_quant(x, "mxfp8_e4m3", seed)
    for rows in (1, 2, 31, 69):
        assert_same(torch.ops.mx.fake_quant(x[:rows], "mxfp8_e4m3", seed), whole[:rows])
    along_rows = torch.ops.mx.fake_quant(x, "mxfp8_e4m3", seed, dim=0)
    assert_same(torch.ops.mx.fake_quant(x[:64], "mxfp8_e4m3", seed, dim=0), along_rows[:64])  # two whole blocks
    assert_same(torch.ops.mx.fake_quant(x.flatten()[:123], "mxfp8_e4m3", seed), whole[0])


def test_dims_of_size_one_add_nothing(device: str) -> None:
    """Bits count rows in row-major order: how the rows are grouped into dims changes nothing."""
    x = wild((12, 42), torch.float32).to(device)
    seed = seed_of(SEED, device)
    expected = torch.ops.mx.fake_quant(x, "mxfp4", seed)
    for shape in ((12, 1, 42), (1, 12, 42), (3, 4, 42), (2, 3, 2, 42)):
        assert_same(torch.ops.mx.fake_quant(x.view(shape), "mxfp4", seed).view(12, 42), expected)


def test_default_scale_mode_is_rceil(device: str) -> None:
    """With a seed, and no mode, the scale is rceil's, under which nothing clips; without one it is floor's."""
    x = torch.full((32,), 7.0, device=device)
    assert torch.ops.mx.quantize(x, "mxfp4")[1].item() == torch.ops.mx.quantize(x, "mxfp4", scale_mode="floor")[1].item() == 127
    for function in (torch.ops.mx.quantize, mx_ops.quantize):
        for have, want in zip(
            function(x, "mxfp4", seed=seed_of(3, device)),
            function(x, "mxfp4", seed=seed_of(3, device), scale_mode="rceil"),
        ):
            assert_same(have.view(torch.uint8), want.view(torch.uint8))
        assert function(x, "mxfp4", seed=seed_of(3, device))[1].view(torch.uint8).item() == 128


def test_seed_may_be_an_int(device: str) -> None:
    """An int is the seed of the tensor that holds it, and implies stochastic rounding; a tensor of any one-element shape does."""
    x = wild((6, 42)).to(device)
    for seed in (0, 7, -1, 2**63 - 1):
        expected = torch.ops.mx.fake_quant(x, "mxfp4", seed_of(seed, device))
        assert_same(mx_ops.fake_quant(x, "mxfp4", seed=seed), expected)
        assert_same(mx_ops.fake_quant(x, "mxfp4", True, seed=seed), expected)
        assert_same(mx_ops.mxfp4_fake_quant(x, seed=seed), expected)
        assert_same(mx_ops.mxfp8_fake_quant(x, seed=seed), torch.ops.mx.mxfp8_fake_quant(x, "e4m3", seed_of(seed, device)))
        for shape in ((), (1, 1)):
            assert_same(torch.ops.mx.fake_quant(x, "mxfp4", seed_of(seed, device).view(shape)), expected)
        elements, scales = mx_ops.quantize(x, "mxfp4", seed=seed)
        assert_same(mx_ops.dequantize(elements, scales, "mxfp4"), expected)


class Seven:
    """What Python takes for an int, and is none."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize("seven", [np.int64(7), np.uint8(7), Seven()], ids=lambda seven: type(seven).__name__)
def test_whatever_python_takes_for_an_int_is_one(seven: object, device: str) -> None:
    """As a seed, and as a value of fold_seed, where True is 1; as a seed it is refused, for it may be meant for stochastic_rounding."""
    x = wild((6, 42)).to(device)
    assert_same(mx_ops.fake_quant(x, "mxfp4", seed=seven), mx_ops.fake_quant(x, "mxfp4", seed=7))
    seed = seed_of(42, device)
    assert_same(mx_ops.fold_seed(seed, seven), mx_ops.fold_seed(seed, 7))
    assert_same(mx_ops.fold_seed(seed, True), mx_ops.fold_seed(seed, 1))


class Seeded(torch.nn.Module):
    """A value folded into a seed, and the value as a seed: each of them an int or a tensor."""

    def forward(self, x: Tensor, seed: Tensor, value: Tensor | int) -> tuple[Tensor, Tensor]:
        """Round by both."""
        folded = mx_ops.fold_seed(seed, value, 3)
        return mx_ops.fake_quant(x, "mxfp4", seed=folded), mx_ops.mxfp8_fake_quant(x, seed=value)


def test_compiled_seeds_are_those_of_eager_code(device: str) -> None:
    """One graph serves all tensors, and two all ints: the first is for the first of them, the second for any."""
    x, seed = wild((6, 42)).to(device), seed_of(42, device)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(Seeded(), fullgraph=True, backend=counter)
    ints = (4, 7, -1, 2**63 - 1, -(2**63))
    for values, graphs in ((ints, 2), ((seed_of(4, device), seed_of(-7, device)), 3), ((np.int64(7),), 4)):
        for value in values:
            for have, want in zip(compiled(x, seed, value), Seeded()(x, seed, value)):
                assert_same(have, want)
        assert counter.frame_count == graphs
    with pytest.raises(Exception, match="an int outside int64"):
        compiled(x, seed, 2**63)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_seeds_are_those_of_eager_code(strict: bool, device: str) -> None:
    """A program exported for any int takes any, and one for a tensor any tensor."""
    x, seed = wild((6, 42)).to(device), seed_of(42, device)
    for values, shapes in (((4, 7, -1, 2**62), (None, None, torch.export.Dim.DYNAMIC)), ((seed_of(4, device), seed_of(-7, device)), None)):
        program = torch.export.export(Seeded(), (x, seed, values[0]), dynamic_shapes=shapes, strict=strict).module()
        for value in values:
            for have, want in zip(program(x, seed, value), Seeded()(x, seed, value)):
                assert_same(have, want)


def test_drawn_seeds_follow_the_generator(device: str) -> None:
    """stochastic_rounding=True draws its seed from torch's generator: torch.manual_seed repeats it, and no two calls share it."""
    x = wild((6, 42)).to(device)
    functions = (
        lambda: mx_ops.fake_quant(x, "mxfp4", True),
        lambda: mx_ops.mxfp4_fake_quant(x, True),
        lambda: mx_ops.mxfp8_fake_quant(x, stochastic_rounding=True),
        lambda: mx_ops.mxfp4_forward(x, True),
        lambda: mx_ops.mxfp8_forward(x, "e5m2", True),
        lambda: mx_ops.fake_quant_mxfp4(x, True),
        lambda: mx_ops.fake_quant_mxfp8(x, True),
        lambda: mx_ops.quantize(x, "mxfp4", True)[0].view(torch.uint8),
    )
    for function in functions:
        torch.manual_seed(0)
        first, second = function(), function()
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        assert_same(function(), first)
        assert_same(function(), second)


def test_drawn_seeds_have_63_bits(device: str) -> None:
    """A drawn seed is torch.randint's of [0, 2^63 - 1) on the input's device: two calls in 2^31 share none."""
    x = wild((6, 42)).to(device)
    functions = (
        lambda **options: mx_ops.fake_quant(x, "mxfp4", **options),
        lambda **options: mx_ops.mxfp4_fake_quant(x, **options),
        lambda **options: mx_ops.mxfp8_fake_quant(x, **options),
        lambda **options: mx_ops.nvfp4_fake_quant(x, **options),
        lambda **options: mx_ops.quantize(x, "mxfp8_e4m3", **options)[0].view(torch.uint8),
        lambda **options: mx_ops.quantize_both(x, "mxfp8_e4m3", **options)[2].view(torch.uint8),
    )
    for state, function in enumerate(functions):
        torch.manual_seed(state)
        seed = torch.randint(2**63 - 1, (1,), device=device)
        assert seed.item() >= 2**48
        torch.manual_seed(state)
        assert_same(function(stochastic_rounding=True), function(seed=seed))


def test_no_seed_draws_nothing(device: str) -> None:
    """Without stochastic rounding the generator is left alone."""
    torch.manual_seed(0)
    expected = torch.rand(1, device=device)
    torch.manual_seed(0)
    mx_ops.fake_quant(torch.ones(32, device=device), "mxfp4")
    mx_ops.fake_quant(torch.ones(32, device=device), "mxfp4", seed=1)
    assert torch.equal(torch.rand(1, device=device), expected)


def test_fold_seed(device: str) -> None:
    """Every choice of values has its own seed, always the same one, on the seed's device; values may be given at once or in turn."""
    seed = seed_of(42, device)
    pairs = [(layer, step) for layer in range(100) for step in range(100)]
    folded = [mx_ops.fold_seed(seed, *pair).item() for pair in pairs] if device == "cpu" else []
    assert len(set(folded)) == len(folded)
    assert len({mx_ops.fold_seed(seed_of(other, device), 1).item() for other in range(100)}) == 100
    assert mx_ops.fold_seed(seed, 3, 100).device == seed.device
    assert mx_ops.fold_seed(seed, 3, 100).shape == (1,)
    assert_same(mx_ops.fold_seed(seed, 3, 100), mx_ops.fold_seed(seed.clone(), 3, 100))
    assert_same(mx_ops.fold_seed(seed, 3, 100), mx_ops.fold_seed(mx_ops.fold_seed(seed, 3), 100))
    assert_same(mx_ops.fold_seed(seed, 3, 100), mx_ops.fold_seed(seed.view(()), torch.tensor(3, device=device), seed_of(100, device)))
    for shape in ((), (1,), (1, 1)):
        assert_same(mx_ops.fold_seed(seed, torch.full(shape, 3, device=device)), mx_ops.fold_seed(seed, 3))
    for end in (-(2**63), 2**63 - 1):
        assert_same(mx_ops.fold_seed(seed, end), mx_ops.fold_seed(seed, seed_of(end, device)))
    assert mx_ops.fold_seed(seed, 3, 100).item() != mx_ops.fold_seed(seed, 100, 3).item()
    assert mx_ops.fold_seed(seed, -1).item() != mx_ops.fold_seed(seed, 1).item()
    assert seed.item() == 42


def splitmix64(seed: int, value: int) -> int:
    """One step of fold_seed in Python's ints: SplitMix64's next number after ``seed``, plus the value, modulo 2^64."""
    mask = 2**64 - 1
    z = seed + 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    z = (z ^ z >> 31) + value & mask
    return z - 2**64 if z >= 2**63 else z


FOLDED = [  # seeds, values and what they give, for ever: runs are repeated by them
    (0, (0,), -2152535657050944081),
    (42, (3,), -4767286540954276200),
    (42, (3, 100), 7645025691661814388),
    (-1, (1,), -1956407806741107679),
    (-42, (-7,), 2847773986881678247),
    (-9223372036854775808, (9223372036854775807,), -4026569214492281894),
    (9223372036854775807, (-9223372036854775808,), -6167724403816423769),
    (81985529216486895, (-1, 1, -1), 1186718779651423162),
]


@pytest.mark.parametrize(("seed", "values", "folded"), FOLDED)
def test_fold_seed_gives_these_seeds(seed: int, values: tuple[int, ...], folded: int, device: str) -> None:
    """Golden ones, of negative seeds and values too; the arithmetic is SplitMix64's, on unsigned numbers."""
    assert mx_ops.fold_seed(seed_of(seed, device), *values).item() == folded
    assert mx_ops.fold_seed(seed_of(seed, device), *(seed_of(value, device) for value in values)).item() == folded
    assert functools.reduce(splitmix64, values, seed) == folded


def test_fold_seed_is_splitmix64_of_any_seed(device: str) -> None:
    """Of a thousand seeds and values of all 64 bits."""
    random = np.random.default_rng(0)
    seeds, values = (random.integers(-(2**63), 2**63, 1000) for _ in range(2))
    folded = torch.vmap(mx_ops.fold_seed)(*(torch.from_numpy(part).to(device)[:, None] for part in (seeds, values)))
    assert folded.flatten().tolist() == [splitmix64(int(seed), int(value)) for seed, value in zip(seeds, values)]


def test_fold_seed_scatters(device: str) -> None:
    """Folded seeds of neighbouring values share no noise: each bit of each differs from the next one's about half of the time."""
    seeds = torch.cat([mx_ops.fold_seed(seed_of(0, device), layer, 0) for layer in range(256)]).cpu()
    bits = (seeds[:, None] >> torch.arange(64)) & 1
    assert ((bits[1:] != bits[:-1]).float().mean(0) - 0.5).abs().max() < 0.15
    x = torch.full((4096,), 0.25, device=device)
    x[::32] = 6.0
    noise = torch.stack([mx_ops.fake_quant(x, "mxfp4", seed=mx_ops.fold_seed(seed_of(0, device), layer)) for layer in range(4)]) > 0
    for other in range(1, 4):
        assert abs((noise[0] == noise[other]).float().mean().item() - 0.5) < 0.06
