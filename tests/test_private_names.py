"""The private names of torch that the package needs are few, in library/private.py alone, and where they were."""

from __future__ import annotations

import ast
import functools
import importlib
import pathlib
import re

import pytest
import torch

NAMES = {
    "torch._C._AutoDispatchBelowAutograd": "calls an op without its derivative by it, as make_autograd_impl does",
    "torch._C.DispatchKey.CPU": "tells by it whether nothing but the device is left to dispatch to",
    "torch._C.DispatchKey.CUDA": "tells by it whether nothing but the device is left to dispatch to",
    "torch._C.DispatchKey.XPU": "tells by it whether nothing but the device is left to dispatch to",
    "torch._C.DispatchKeySet": "tells by it whether nothing but the device is left to dispatch to",
    "torch._C._after_ADInplaceOrView_keyset.raw_repr": "tells by it whether nothing but the device is left to dispatch to",
    "torch._C._after_autograd_keyset": "calls an op without its derivative by it, as make_autograd_impl does",
    "torch._C._are_functorch_transforms_active": "differentiates under torch.func by it, which register_autograd does not",
    "torch.autograd.forward_ad._current_level": "spares eager calls the look for a tangent by it",
    "torch._functorch.config.decompose_custom_triton_ops": "tells by it whether a graph is exported, and keeps the op, or compiled",
    "torch._inductor.codegen.cpp_utils.DTYPE_TO_ATEN": "tells Inductor's C++ backend the names of dtypes by it",
    "torch._inductor.codegen.cpp_utils.DTYPE_TO_CPP": "tells Inductor's C++ backend the names of dtypes by it",
    "torch._library.autograd.Info": "registers gradients by it, as torch.library.register_autograd does",
    "torch._library.autograd.make_autograd_impl": "registers gradients by it, as torch.library.register_autograd does",
    "torch._library.triton.triton_ops_to_kernels": "makes torch.compile's cache depend on the numbers of the ops by it",
    "torch.fx.experimental._config": "makes no guards of what sizes in an example are by its backed_size_oblivious",
    "torch.nested._internal.nested_tensor.NestedTensor": "refuses jagged tensors, in inference mode too, by it",
    "torch._subclasses.fake_tensor.FakeTensor": "tells subclasses of Tensor by it, which are to work on their parts first",
    "torch._subclasses.functional_tensor.FunctionalTensor": "tells subclasses of Tensor by it, which are to work on their parts first",
    "torch._subclasses.functional_tensor.dispatch_functionalize": "makes decompositions change nothing in place by it",
    "torch._subclasses.functional_tensor.FunctionalTensorMode": "traces the ops for compilers under it",
}
CHECKS = {"torch._check_value", "torch._check_type", "torch._check_index"}  # documented, in spite of their names


def private_names(file: pathlib.Path) -> set[str]:
    """The names under torch that a file uses and that have a part with a leading underscore."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    names = {name for name in names if re.match(r"torch\..*\b_[a-zA-Z]", name)} - CHECKS
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def test_private_names_are_those_of_the_list_and_in_one_file() -> None:
    """No other file, and no other name."""
    package = pathlib.Path(__file__).parents[1] / "mx_ops"  # not imported: where a name is gone, that fails
    used = {file.relative_to(package).as_posix(): private_names(file) for file in sorted(package.rglob("*.py"))}
    assert {file: names for file, names in used.items() if names} == {"library/private.py": set(NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_private_names_are_where_they_were(name: str) -> None:
    """Where torch moves one, this says what is missing and what for."""
    *path, last = name.split(".")
    for depth in range(len(path), 0, -1):
        try:
            module = importlib.import_module(".".join(path[:depth]))
        except ImportError:
            continue
        if hasattr(functools.reduce(lambda owner, part: getattr(owner, part, None), path[depth:], module), last):
            return
        break
    pytest.fail(f"torch {torch.__version__} has no {name} any more. mx_ops {NAMES[name]}.")
