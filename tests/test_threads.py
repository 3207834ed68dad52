"""On CPU the reference works on pieces in threads: the bits are those of one thread, and torch's settings stay what they were."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import FORMATS, assert_same, wild
from torch import Tensor

from mx_ops import reference
from mx_ops.formats import FORMATS as ROWS

ops = torch.ops.mx


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads, and pieces so small that a small tensor has many."""
    before = torch.get_num_threads()
    monkeypatch.setattr(reference, "PIECE", 256)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def everything(x: Tensor, format: str, dim: int) -> tuple[Tensor, ...]:
    """What all ops give."""
    seed = torch.tensor([5])
    codes = ops.quantize(x, format, dim=dim)
    values = ops.dequantize(*codes, format, dim=dim, dtype=x.dtype)
    noisy = ops.quantize(x, format, seed, dim=dim)
    return (*codes, values, *noisy, ops.fake_quant(x, format, dim=dim), ops.fake_quant(x, format, seed, dim=dim))


@pytest.mark.parametrize("format", FORMATS)
def test_the_bits_are_those_of_one_thread(format: str, three_threads: None) -> None:
    """Along either dim, from any layout; under inference mode and of inputs that require gradients too."""
    for shape, dim in itertools.product([(34, 66), (2, 1000), (1000, 2)], (0, 1)):
        for x in (wild(shape, dim=dim), wild(shape[::-1], dim=1 - dim).t()):
            results = [everything(x, format, dim), everything(x.detach().requires_grad_(), format, dim)]
            with torch.inference_mode():
                results.append(everything(x, format, dim))
            torch.set_num_threads(1)
            expected = everything(x, format, dim)
            torch.set_num_threads(3)
            for result in results:
                for have, want in zip(result, expected):
                    assert_same(have, want)


def test_threads_work_alone_and_leave_the_number_of_threads(three_threads: None) -> None:
    """In each of them torch has one; outside, and in threads that others start later, as many as before."""
    numbers: list[int] = []
    reference._pool.cache_clear()
    reference._share_out(lambda piece: numbers.append(torch.get_num_threads()), iter([(slice(0, 1),)] * 20))
    assert numbers == [1] * 20
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3


def test_what_a_piece_raises_is_raised(three_threads: None) -> None:
    """Nothing is lost in a thread."""

    def work(piece: object) -> None:
        raise KeyError("a piece")

    with pytest.raises(KeyError, match="a piece"):
        reference._share_out(work, iter([(slice(0, 1),)] * 5))


def test_a_forked_process_has_threads_of_its_own(three_threads: None) -> None:
    """As workers of a DataLoader are."""
    x = wild((66, 130))
    expected = ops.fake_quant(x, FORMATS[0])
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(ops.fake_quant(x, FORMATS[0]), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("format", FORMATS)
def test_every_byte_looks_up_what_it_decodes_to(format: str) -> None:
    """Also where saturation, which a look-up cannot do, sends blocks another way: for every scale, in every dtype."""
    fmt = ROWS[format]
    elements = torch.arange(256, dtype=torch.uint8).repeat(256, 1)
    scales = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 256 * fmt.codes_per_byte // fmt.block_size)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        decoded = torch.empty(256, 256 * fmt.codes_per_byte, dtype=dtype)
        together, each = torch.empty_like(decoded), torch.empty_like(decoded)
        reference.dequantize(elements, scales, decoded, None, fmt, 1, fmt.block_size, traced=True)
        reference.dequantize(elements, scales, together, None, fmt, 1, fmt.block_size)
        for codes, scale, out in zip(elements.split(1), scales.split(1), each.split(1)):
            reference.dequantize(codes, scale, out, None, fmt, 1, fmt.block_size)
        assert_same(together, decoded)
        assert_same(each, decoded)
