"""Every op at every kind of size that a compiler may leave open, in every way to compile it, against eager code: bytes and strides.

A program is a call on an input of a layout and a dtype, whose sizes are of a kind, compiled in a way. Each call meets each kind of sizes in
each way, on inputs that take turns. `test_sizes.py` runs a few of them, ``python -m tests.sizes --jobs 2`` all, with ``--device cuda`` on a
GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import queue
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch._inductor.config
from torch import Tensor

import mx_ops

ops = torch.ops.mx
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Inputs(NamedTuple):
    """What calls work on."""

    x: Tensor
    seed: Tensor
    scale: Tensor  # of a whole tensor

    def scale_for(self, format: str) -> Tensor | None:
        """The scale, for a format that has one."""
        return self.scale if mx_ops.FORMATS[format].has_tensor_scale else None


# The calls: each gives tensors by name.


def quantize(format: str, dim: int, seeded: bool = False) -> Callable[[Inputs], dict[str, Tensor]]:
    """Codes, scales, and the values of these."""

    def call(given: Inputs) -> dict[str, Tensor]:
        scale = given.scale_for(format)
        elements, scales = ops.quantize(given.x, format, given.seed if seeded else None, scale, dim=dim)
        values = ops.dequantize(elements, scales, format, scale, dim=dim, dtype=given.x.dtype)
        return {"elements": elements, "scales": scales, "values": values}

    return call


def quantize_both(format: str, seeded: bool = False) -> Callable[[Inputs], dict[str, Tensor]]:
    """Codes and scales along the last two dims."""

    def call(given: Inputs) -> dict[str, Tensor]:
        outputs = ops.quantize_both(given.x, format, given.seed if seeded else None, given.scale_for(format))
        return dict(zip(("elements", "scales", "elements_t", "scales_t"), outputs))

    return call


def fake_quant(format: str, dim: int, seeded: bool = False, scaled: bool = True) -> Callable[[Inputs], dict[str, Tensor]]:
    """Values; a format's scale of the whole tensor is given, or computed by the op."""

    def call(given: Inputs) -> dict[str, Tensor]:
        scale = given.scale_for(format) if scaled else None
        return {"values": ops.fake_quant(given.x, format, given.seed if seeded else None, scale, dim=dim)}

    return call


def tensor_scale(given: Inputs) -> dict[str, Tensor]:
    """The scale of the whole tensor."""
    return {"scale": ops.tensor_scale(given.x)}


def swizzle(given: Inputs) -> dict[str, Tensor]:
    """Scales in tiles, and back."""
    scales = ops.quantize(given.x, "mxfp8_e4m3")[1]
    swizzled = ops.swizzle_scales(scales)
    return {"swizzled": swizzled, "scales": ops.unswizzle_scales(swizzled, scales.shape[-2], scales.shape[-1])}


CALLS: dict[str, Callable[[Inputs], dict[str, Tensor]]] = {
    **{f"quantize {name}, dim {dim}": quantize(name, dim) for name in ("mxfp4", "mxfp8_e4m3", "nvfp4") for dim in (-2, -1)},
    **{f"fake_quant mxfp8_e5m2, dim {dim}": fake_quant("mxfp8_e5m2", dim) for dim in (-2, -1, 0)},
    **{f"fake_quant mxint8 seeded, dim {dim}": fake_quant("mxint8", dim, seeded=True) for dim in (-2, -1)},
    "quantize mxfp6_e2m3 seeded, dim -2": quantize("mxfp6_e2m3", -2, seeded=True),
    "fake_quant nvfp4 computed, dim -2": fake_quant("nvfp4", -2, scaled=False),
    "quantize_both mxfp4": quantize_both("mxfp4"),
    "quantize_both mxint8 seeded": quantize_both("mxint8", seeded=True),
    "tensor_scale": tensor_scale,
    "swizzle": swizzle,
}

# The layouts: what a program makes of its input before the calls.

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.flatten(0, 1),
    "transposed": lambda x: x.flatten(0, 1).transpose(-1, -2),
    "heads": lambda x: x.transpose(1, 2),
    "computed": lambda x: (x * 2).transpose(-1, -2),
    "sliced": lambda x: x[..., 2:],
}
INPUTS = (
    *itertools.product(("contiguous", "transposed"), ("float32", "bfloat16")),
    *(("heads", "bfloat16"), ("computed", "float32"), ("sliced", "float16")),
)

# The sizes: of an input of four dims. What an example has a program is compiled with, and it runs with every other size too.


class Sizes(NamedTuple):
    """A kind of sizes: the example's, those of the runs, and the dims left open: symbols with a value, and unbacked ones."""

    example: tuple[int, ...]
    runs: tuple[tuple[int, ...], ...] = ()
    symbols: tuple[int, ...] = ()
    unbacked: tuple[int, ...] = ()


SIZES = {
    "static": Sizes((2, 3, 34, 70)),
    "static, zeros": Sizes((2, 0, 34, 32)),
    "symbols": Sizes((2, 3, 34, 70), ((3, 2, 96, 36), (2, 5, 10, 160)), symbols=(0, 1, 2, 3)),
    "symbols, rows": Sizes((2, 3, 34, 64), ((2, 7, 34, 64), (2, 2, 34, 64)), symbols=(1,)),
    "symbols, a block": Sizes((2, 3, 32, 30), ((3, 2, 96, 96), (2, 40, 34, 64)), symbols=(0, 1, 2, 3)),
    "unbacked rows": Sizes((2, 3, 34, 64), ((2, 0, 34, 64), (2, 1, 34, 64), (2, 33, 34, 64)), unbacked=(1,)),
    "unbacked rows and neighbours": Sizes((2, 3, 34, 70), ((0, 3, 34, 70), (1, 1, 2, 70), (3, 5, 66, 70)), unbacked=(0, 1, 2)),
    "unbacked": Sizes((2, 3, 34, 70), ((2, 3, 34, 0), (1, 1, 2, 2), (1, 4, 66, 98), (2, 2, 2, 32)), unbacked=(0, 1, 2, 3)),
    "unbacked, a block": Sizes((1, 2, 2, 2), ((2, 3, 34, 70), (1, 1, 64, 64)), unbacked=(0, 1, 2, 3)),
}


class Model(torch.nn.Module):
    """A call on what a layout makes of an input, of which masks choose the places of the dims whose sizes are to depend on the data."""

    def __init__(self, call: str, layout: str, masked: tuple[int, ...]) -> None:
        super().__init__()
        self.call, self.layout, self.masked = CALLS[call], LAYOUTS[layout], masked

    def forward(self, x: Tensor, seed: Tensor, scale: Tensor, *masks: Tensor) -> dict[str, Tensor]:
        """Everything that the call gives."""
        for dim, mask in zip(self.masked, masks):
            x = x.index_select(dim, mask.nonzero().squeeze(1))
        return self.call(Inputs(self.layout(x), seed, scale))


class Program(NamedTuple):
    """A row of the table."""

    call: str
    layout: str
    dtype: str
    kind: str
    way: str

    def __str__(self) -> str:
        return "; ".join(self)

    @property
    def sizes(self) -> Sizes:
        """Those of its kind."""
        return SIZES[self.kind]

    @property
    def masked(self) -> tuple[int, ...]:
        """The dims from which masks choose; torch.compile takes inputs whose sizes are unbacked as they are."""
        return () if self.way == "compile" else self.sizes.unbacked

    def arguments(self, shape: tuple[int, ...], device: str) -> tuple[Tensor, ...]:
        """What makes the call's input one of this shape."""
        most = [max(of_dim) for of_dim in zip(self.sizes.example, *self.sizes.runs)]
        full = [most[dim] if dim in self.masked else size for dim, size in enumerate(shape)]
        generator = torch.Generator().manual_seed(sum(shape))
        x = torch.randn(full, generator=generator) * 2.0 ** torch.randint(-20, 14, (*full[:-1], 1), generator=generator)
        masks = [torch.arange(most[dim]) < shape[dim] for dim in self.masked]
        everything = (x.to(DTYPES[self.dtype]), torch.tensor([2**40 + 1]), torch.tensor([0.01]), *masks)
        return tuple(tensor.to(device) for tensor in everything)


def compiled(model: Model, program: Program, example: tuple[Tensor, ...]) -> Callable[..., dict[str, Tensor]]:
    """torch.compile."""
    torch._dynamo.reset()
    for dim in program.sizes.symbols:
        torch._dynamo.mark_dynamic(example[0], dim)
    for dim in program.sizes.unbacked:
        torch._dynamo.decorators.mark_unbacked(example[0], dim)
    run = torch.compile(model, fullgraph=True, dynamic=None if program.sizes.symbols else False)
    run(*example)
    return run


def export(model: Model, program: Program, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The exported program."""
    dynamic = dict.fromkeys(program.sizes.symbols, torch.export.Dim.DYNAMIC)
    return torch.export.export(model, example, dynamic_shapes=(dynamic, *[None] * (len(example) - 1)) if dynamic else None)


def loaded(model: Model, program: Program, example: tuple[Tensor, ...]) -> Callable[..., dict[str, Tensor]]:
    """What torch.export gives, saved and loaded."""
    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        torch.export.save(export(model, program, example), file.name)
        return torch.export.load(file.name).module()


def lowered(model: Model, program: Program, example: tuple[Tensor, ...]) -> Callable[..., dict[str, Tensor]]:
    """The exported program in ATen."""
    table = {**torch.export.default_decompositions(), **mx_ops.decompositions()}
    return export(model, program, example).run_decompositions(table).module()


def packaged(model: Model, program: Program, example: tuple[Tensor, ...]) -> Callable[..., dict[str, Tensor]]:
    """What AOTInductor makes of the exported program."""
    import torch._inductor

    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(export(model, program, example), package_path=f"{folder}/model.pt2")
        return torch._inductor.aoti_load_package(path)


WAYS = {"compile": compiled, "export": loaded, "lowered": lowered, "package": packaged}


# Two codes a byte want an even length along the dim of the blocks, which heads' tokens are not.
UNFIT = {("quantize mxfp4, dim -2", "heads"), ("quantize nvfp4, dim -2", "heads"), ("quantize_both mxfp4", "heads")}


def programs() -> Iterator[Program]:
    """All of them. Static sizes are those of any other program in the ways that need no compiler."""
    inputs = itertools.cycle(INPUTS)
    for call, kind, way in itertools.product(CALLS, SIZES, WAYS):
        if SIZES[kind].symbols or SIZES[kind].unbacked or way in ("compile", "package"):
            fitting = (given for given in inputs if (call, given[0]) not in UNFIT)
            yield Program(call, *next(fitting), kind, way)


def differences(have: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    """What differs, in bytes or, of what is not empty, in strides."""
    found = []
    for name, expected in want.items():
        actual = have[name]
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            found.append(f"{name}: {tuple(actual.shape)} {actual.dtype}, not {tuple(expected.shape)} {expected.dtype}")
            continue
        wrong = (actual != expected) & ~((actual != actual) & (expected != expected))
        if expected.is_floating_point():
            wrong |= actual.signbit() != expected.signbit()
        if wrong.any():
            found.append(f"{name} of shape {tuple(expected.shape)}: {int(wrong.sum())} of {wrong.numel()} differ")
        if expected.numel() > 0 and actual.stride() != expected.stride():
            found.append(f"{name} of shape {tuple(expected.shape)}: strides {actual.stride()}, not {expected.stride()}")
    return found


def check(program: Program, device: str = "cpu") -> list[str]:
    """What is wrong about a program: nothing, if it is right at all its sizes."""
    model = Model(program.call, program.layout, program.masked)
    try:
        # Without optimizations C++ compiles in half the time.
        with quiet(), torch._inductor.config.patch({"aot_inductor.debug_compile": True}):
            run = WAYS[program.way](model, program, program.arguments(program.sizes.example, device))
    except Exception as error:
        return [f"not compiled: {type(error).__name__}: {first_line(error)}"]
    found = []
    for shape in (program.sizes.example, *program.sizes.runs):
        given = program.arguments(shape, device)
        want = model(*given)
        try:
            with quiet():
                have = run(*given)
        except Exception as error:
            found.append(f"{shape}: {type(error).__name__}: {first_line(error)}")
            continue
        found += [f"{shape}: {difference}" for difference in differences(have, want)]
    return found


def first_line(error: Exception) -> str:
    """What an error says first; a compiler's first line only says that it failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[: 2 if "raised:" in lines[0] else 1])[:300] if lines else ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def work(program: Program, device: str) -> list[str]:
    """Check a program in a process of its own."""
    torch.set_num_threads(1)
    try:
        return check(program, device)
    except Exception:
        return [traceback.format_exc()[-500:]]


def work_in_turn(programs: queue.SimpleQueue[Program], device: str, end: float, done: queue.SimpleQueue[Any]) -> None:
    """Take programs and put what is wrong about each; a process that crashes, as a program does that reads what it should not, is one."""
    pool = None
    while time.monotonic() < end:
        try:
            program = programs.get_nowait()
        except queue.Empty:
            break
        pool = pool or concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        start = time.monotonic()
        try:
            found = pool.submit(work, program, device).result()
        except concurrent.futures.process.BrokenProcessPool:
            found, pool = ["the process crashed"], None
        done.put((program, found, time.monotonic() - start))
    done.put(None)


def main() -> int:
    """Run the table; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.sizes", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORDS", help="programs whose names hold all of these, separated by semicolons")
    parser.add_argument("--without", default="nothing", metavar="WORD", help="no programs whose names hold this")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no program after these")
    options = parser.parse_args()
    words = [word.strip() for word in options.only.split(";")]
    rows = [row for row in programs() if all(word in str(row) for word in words) and options.without not in str(row)]
    done: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    waiting: queue.SimpleQueue[Program] = queue.SimpleQueue()
    finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for row in random.Random(0).sample(rows, len(rows)):
        waiting.put(row)
    end = time.monotonic() + options.seconds
    for _ in range(options.jobs):
        threading.Thread(target=work_in_turn, args=(waiting, options.device, end, finished)).start()
    working = options.jobs
    while working:
        if (result := finished.get()) is None:
            working -= 1
            continue
        row, found, seconds = result
        done[row.kind, row.way] += 1
        wrong[row.kind, row.way] += bool(found)
        print(f"{'WRONG' if found else 'right'}  {row}  ({seconds:.0f} s)", *found[:12], sep="\n    ", flush=True)
    print(f"\ntorch {torch.__version__}, {options.device}: {done.total()} of {len(rows)} programs run, {wrong.total()} wrong; by kind:")
    for kind in SIZES:
        print(f"  {kind:30}", *(f"{way} {wrong[kind, way]}/{done[kind, way]}" for way in WAYS))
    return int(wrong.total() > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
