"""Models packaged by AOTInductor hold nothing of mx_ops and give its bits where it is not there: in Python, and in C++ over libtorch alone.

Interpreted kernels cannot be traced, so the tests are defined where the ops run in ATen. They run on CPU.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest
import torch
from conftest import INTERPRETED
from helpers import wild
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.export import Dim
from torch.nn.functional import linear
from torch.utils import cpp_extension

import mx_ops

Tensors = tuple[Tensor, ...]

CONFIG = {"aot_inductor.compile_wrapper_opt_level": "O0"}  # halves the time of the compiler

# PACKAGE INPUTS OUTPUTS...: what both programs take. They run a package on the tensors of a file, and write the bytes of what it gives.
PYTHON = """
import sys, torch
for package, inputs, outputs in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    given = torch._inductor.aoti_load_package(package)(*torch.load(inputs))
    torch.save([output.contiguous().view(torch.uint8) for output in given], outputs)
assert "mx_ops" not in sys.modules and not [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("mx::")]
"""
CPP = """
#include <ATen/core/Tensor.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iterator>

int main(int, char** argv) {
  while (*++argv) {
    torch::inductor::AOTIModelPackageLoader package(*argv);
    std::ifstream in(*++argv, std::ios::binary);
    auto loaded = torch::jit::pickle_load({std::istreambuf_iterator<char>(in), {}});
    std::vector<at::Tensor> inputs;
    for (auto& value : loaded.toListRef())
      inputs.push_back(value.toTensor());
    std::vector<c10::IValue> bytes;
    for (auto& output : package.run(inputs))
      bytes.push_back(output.contiguous().view(at::kByte));
    auto data = torch::jit::pickle_save(c10::ivalue::Tuple::create(bytes));
    std::ofstream(*++argv, std::ios::binary).write(data.data(), data.size());
  }
}
"""


class TwoLayers(torch.nn.Module):
    """Quantized weights and activations, noise in the second layer, and codes. Sums are of small integers: exact in any order."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in (("first", (48, 64)), ("second", (40, 48))):
            self.register_buffer(name, torch.randint(-6, 7, shape, generator=generator).float())

    def forward(self, x: Tensor, seed: Tensor) -> Tensors:
        """The output of the second layer, its codes, their scales and their values."""
        x = linear(mx_ops.fake_quant(x, "mxfp8_e4m3"), mx_ops.mxfp4_fake_quant(self.first)).relu()
        x = mx_ops.mxfp8_fake_quant(x, "e5m2", seed=mx_ops.fold_seed(seed, 1))
        x = linear(x, mx_ops.fake_quant(self.second, "mxfp4", scale_mode="rceil"))
        elements, scales = torch.ops.mx.quantize(x, "mxfp4", dim=0)
        return x, elements, scales, mx_ops.dequantize(elements, scales, "mxfp4", dim=0, dtype=torch.bfloat16)


class AnySize(torch.nn.Module):
    """Ops along either dim, with noise and without, of tensors whose sizes are all unknown."""

    def forward(self, x: Tensor, y: Tensor, seed: Tensor) -> Tensors:
        """Values of x, which is exported with a single short block along either dim; codes of y, with whole ones, and their values."""
        elements, scales = torch.ops.mx.quantize(y, "mxfp8_e4m3", block_size=16)
        return (
            mx_ops.fake_quant(x, "mxfp8_e5m2"),
            mx_ops.mxfp4_fake_quant(x, seed=seed, dim=0),
            elements,
            scales,
            torch.ops.mx.dequantize(elements, scales, "mxfp8_e4m3", block_size=16, dtype=torch.float16),
        )


# Sizes of x and of y: exported at the first. Rows shorter and longer than a block and than eight, whole and ragged, and of one element.
SIZES = [
    ((6, 7), (3, 64)),
    ((7, 70), (70, 7)),
    ((32, 8), (2, 70)),
    ((64, 2), (2, 64)),
    ((1, 1), (1, 1)),
    ((33, 5), (5, 33)),
    ((2, 431), (1, 431)),
    ((131, 1), (4, 16)),
]


def inputs_of(sizes: tuple[tuple[int, int], tuple[int, int]]) -> Tensors:
    """Inputs for `AnySize`."""
    return wild(sizes[0]), wild(sizes[1], dim=1, seed=1), torch.tensor([-(2**40) - 7])


def integers() -> Tensors:
    """Inputs for `TwoLayers`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-8, 9, (34, 64), generator=generator).float(), torch.tensor([5])


def check(given: list[Tensor], expected: Tensors) -> None:
    """The same bits, as bytes."""
    assert len(given) == len(expected)
    for index, (have, want) in enumerate(zip(given, expected)):
        assert torch.equal(have.contiguous().view(torch.uint8), want.contiguous().view(torch.uint8)), index


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Both models, packaged from an empty cache."""
    folder = tmp_path_factory.mktemp("packages")
    every = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    programs = {
        "static": torch.export.export(TwoLayers(), integers()),
        "dynamic": torch.export.export(AnySize(), inputs_of(SIZES[0]), dynamic_shapes=(every, every, {})),
    }
    with fresh_cache():
        yield {
            name: torch._inductor.aoti_compile_and_package(program, package_path=str(folder / f"{name}.pt2"), inductor_configs=CONFIG)
            for name, program in programs.items()
        }


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A Python program that does not import mx_ops, in a folder from which it could not."""
    file = tmp_path_factory.mktemp("python") / "main.py"
    file.write_text(PYTHON)
    return [sys.executable, "-W", "ignore", str(file)]


def check_elsewhere(program: list[str], packages: dict[str, str], folder: pathlib.Path) -> None:
    """What a program gives for both packages is what the models give here."""
    jobs = {"static": (TwoLayers(), integers()), "dynamic": (AnySize(), inputs_of(SIZES[1]))}
    command = list(program)
    for name, (_, inputs) in jobs.items():
        torch.save(list(inputs), folder / f"{name}-inputs.pt")
        command += [packages[name], str(folder / f"{name}-inputs.pt"), str(folder / f"{name}-outputs.pt")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name, (model, inputs) in jobs.items():
        check(list(torch.load(folder / f"{name}-outputs.pt")), model(*inputs))


@pytest.mark.skipif(INTERPRETED, reason="a package holds no kernel that could be interpreted")
@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_packages_name_no_op_of_ours(name: str, packages: dict[str, str]) -> None:
    """No file of a package, source or machine code, has the name of an op of mx."""
    with zipfile.ZipFile(packages[name]) as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    assert any(entry.endswith(".so") for entry in contents)
    assert any(entry.endswith(".cpp") for entry in contents)
    assert [entry for entry, content in contents.items() if b"mx::" in content or b"mx_ops" in content] == []


@pytest.mark.skipif(INTERPRETED, reason="a package holds no kernel that could be interpreted")
def test_one_package_serves_all_sizes(packages: dict[str, str]) -> None:
    """Rows and blocks in any number, whatever their number was at export. A package checks no guard: so none may have been made."""
    package = torch._inductor.aoti_load_package(packages["dynamic"])
    for sizes in SIZES:
        inputs = inputs_of(sizes)
        check(package(*inputs), AnySize()(*inputs))


@pytest.mark.skipif(INTERPRETED, reason="a package holds no kernel that could be interpreted")
def test_python_without_us(packages: dict[str, str], python: list[str], tmp_path: pathlib.Path) -> None:
    """A process that never imports mx_ops runs both packages, to the same bits."""
    check_elsewhere(python, packages, tmp_path)


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A C++ program over libtorch alone."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "main.cpp").write_text(CPP)
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{cpp_extension.library_paths()[0]}", f"-Wl,-rpath,{cpp_extension.library_paths()[0]}"]
    libraries += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    command = ["g++", "-std=c++20", "-O0", *includes, "main.cpp", "-o", "main", *libraries]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [str(folder / "main")]


@pytest.mark.skipif(INTERPRETED, reason="a package holds no kernel that could be interpreted")
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_cpp_without_python(packages: dict[str, str], cpp: list[str], tmp_path: pathlib.Path) -> None:
    """A C++ program that links libtorch, and no Python, runs both packages, to the same bits."""
    linked = subprocess.run(["ldd", *cpp], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu" in linked
    assert "python" not in linked.replace(cpp_extension.library_paths()[0], "")
    check_elsewhere(cpp, packages, tmp_path)
