"""Whether all ways to run the ops give the same bits: eager, compiled, exported, and fake_quant against quantize and dequantize."""

from __future__ import annotations

import errno
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..command import one_line
from ..formats import FORMATS, Format
from .figures import COMBINATIONS, Report, compare, scales_of_tensor

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


class Check(NamedTuple):
    """Whether one way to run the ops gives the bits of another: "same bits", "differs", "failed" or "not run", and the details."""

    name: str
    against: str
    status: str
    details: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is known to be wrong."""
        return self.status in ("same bits", "not run")


class Ops(torch.nn.Module):
    """Every op in every format, to nearest. With a seed too where codes share a byte: stochastic rounding is the same code in all formats.

    The flips around the ops are exact. They give a compiler something to compile.
    """

    def forward(self, x: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """All outputs by name. The ops give bytes: Inductor's C++ and torch.export.save do not know all of torch's own dtypes."""
        x, outputs = x.flip(0), {}
        tensor_scales = scales_of_tensor(x.nan_to_num(0.0, 0.0, 0.0))
        for name in FORMATS:
            scale = tensor_scales.get(name)
            with_a_seed = [("with a seed", seed)] * (FORMATS[name].codes_per_byte > 1)
            for rounding, maybe_seed in [("to nearest", None), *with_a_seed]:
                elements, scales = torch.ops.mx.quantize(x, name, maybe_seed, scale)
                outputs[f"quantize, {name}, {rounding}, elements"] = elements.flip(0)
                outputs[f"quantize, {name}, {rounding}, scales"] = scales.flip(0)
                if maybe_seed is None:  # dequantize does not depend on how the codes were rounded
                    outputs[f"dequantize, {name}"] = torch.ops.mx.dequantize(elements, scales, name, scale).flip(0)
                outputs[f"fake_quant, {name}, {rounding}"] = torch.ops.mx.fake_quant(x, name, maybe_seed, scale).flip(0)
        return outputs


def check_ops(device: torch.device) -> Iterator[Check]:
    """Run the ops compiled and exported on rows from subnormal to huge, short blocks, an Inf and a NaN."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 80, generator=generator) * 2.0 ** torch.randint(-140, 120, (16, 1), generator=generator)
    x[0, 0], x[1, 40] = math.inf, math.nan
    inputs = (x.to(device), torch.tensor([2**40 + 1], device=device))
    eager = Ops()(*inputs)
    unwritable = ""
    for name, run in (("torch.compile", run_compiled), ("torch.export, saved and loaded", run_exported)):
        try:
            yield check_outputs(name, run(Ops(), inputs), eager)
        except Exception as error:  # whatever a compiler raises is what this is to report
            unwritable = unwritable or cannot_write(error)  # the next error differs: this one left torch half imported
            limit = unwritable or ("no C++ compiler" if lacks_compiler(error) else "")
            yield Check(name, "eager", "not run" if limit else "failed", [limit or one_line(error)])


def run_compiled(model: torch.nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The outputs under torch.compile, as one graph."""
    return torch.compile(model, fullgraph=True)(*inputs)


def run_exported(model: torch.nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The outputs of the exported program that a file gives back."""
    import torch.export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ops.pt2"
        torch.export.save(torch.export.export(model, inputs), path)
        return torch.export.load(path).module()(*inputs)


def check_outputs(name: str, have: dict[str, Tensor], want: dict[str, Tensor]) -> Check:
    """Compare outputs with eager's."""
    details = []
    for output, expected in want.items():
        count, first = compare(have[output], expected, expected.shape)
        if count:
            details.append(f"{output}: {count} of {expected.numel()} values differ, {first}")
    return Check(name, "eager", "differs" if details else "same bits", details)


def lacks_compiler(error: Exception) -> bool:
    """Whether Inductor found no C++ compiler: a limit of the machine, and no wrong bit."""
    return any(type(cause).__name__ == "InvalidCxxCompiler" for cause in causes(error))


def cannot_write(error: Exception) -> str:
    """What a compiler could not write, if nothing else went wrong: its cache, or a temporary file."""
    for cause in causes(error):
        if isinstance(cause, OSError) and (cause.errno in UNWRITABLE or "temporary directory" in str(cause)):
            return f"cannot write {cause.filename}: {cause.strerror}" if cause.filename else str(cause.strerror)
    return ""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def describe_combination(fmt: Format, scale_mode: str | None) -> str:
    """A format, and its mode if it has modes."""
    return fmt.name if scale_mode is None else f"{fmt.name}, {scale_mode}"


def check_fake_quant(reports: list[Report]) -> Check:
    """What the reports found about fake_quant."""
    details = [
        f"{describe_combination(fmt, scale_mode)}, {tensor.name}: {figures.wrong}"
        for report in reports
        for tensor in report.tensors
        for (fmt, scale_mode), figures in zip(COMBINATIONS, tensor.figures)
        if figures.wrong
    ]
    if not any(report.tensors for report in reports):
        return Check("fake_quant", "dequantize(quantize)", "not run", ["no tensor to run it on"])
    return Check("fake_quant", "dequantize(quantize)", "differs" if details else "same bits", details)
