"""Where the tensors of ``python -m mx_ops`` come from: checkpoints, or a small transformer."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

PICKLES = (".pt", ".pth", ".bin")


class CommandError(Exception):
    """What ends the command with one line and exit status 2."""


class Source(NamedTuple):
    """A file, or a part of the sample: names and tensors, to go through once."""

    name: str
    tensors: Iterable[tuple[str, Tensor]]


def open_checkpoint(name: str) -> Source:
    """The tensors of a file, which is opened and checked now, and read as they are gone through. Raises CommandError."""
    path = Path(name)
    if path.suffix not in (".safetensors", *PICKLES):
        raise CommandError(f"cannot read {name}: its suffix is none of .safetensors, {', '.join(PICKLES)}")
    if not path.is_file():
        raise CommandError(f"cannot read {name}: {'not a file' if path.exists() else 'no such file'}")
    return Source(name, open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path))


def open_safetensors(path: Path) -> Iterable[tuple[str, Tensor]]:
    """The tensors of a safetensors file."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise CommandError(f"cannot read {path}: safetensors is not installed: pip install 'mx_ops[checkpoints]'") from None

    def read() -> Iterator[tuple[str, Tensor]]:
        for name in names:
            with reading(path, "as safetensors"):
                tensor = file.get_tensor(name)
            yield name, tensor

    with reading(path, "as safetensors"):
        file = safe_open(path, "pt")
        names = file.keys()
    return read()


def open_pickle(path: Path) -> Iterable[tuple[str, Tensor]]:
    """The tensors of what torch.save wrote, wherever they lie in its dicts and lists."""
    with reading(path, "as what torch.save writes, weights only"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript and of storages: nothing that the file's user can change
        mapped = zipfile.is_zipfile(path)  # else it is of torch < 1.6, and read as a whole
        return list(find_tensors(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)))


def find_tensors(content: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, under their keys joined with dots."""
    items: Iterable[tuple[object, object]] = ()
    if isinstance(content, Tensor):
        yield name or "tensor", content
    elif isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    for key, value in items:
        yield from find_tensors(value, f"{name}.{key}" if name else str(key))


@contextlib.contextmanager
def reading(path: Path, how: str) -> Iterator[None]:
    """Turns whatever goes wrong inside into a CommandError."""
    try:
        yield
    except Exception as error:  # a corrupt pickle can raise anything
        raise CommandError(f"cannot read {path} {how}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an exception says, cut to the sentence that tells the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    cause = next((line for line in lines if line.startswith("WeightsUnpickler error: ")), lines[0])
    if cause.endswith(":") and len(lines) > 1:
        cause += " " + lines[1]
    return f"{type(error).__name__}: {cause.split('. ')[0]}".rstrip(": ")


def make_sample() -> list[Source]:
    """The matrices of a small transformer, and what flows into them; always the same."""
    activations: list[tuple[str, Tensor]] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layers = [torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True).eval() for _ in range(2)]
        x = torch.randn(8, 128, 512)
        for index, layer in enumerate(layers):
            for name in ("self_attn", "linear1", "linear2"):  # a hook also keeps the layer off its fused path, which would call none
                layer.get_submodule(name).register_forward_pre_hook(
                    lambda module, inputs, name=f"layers.{index}.{name}": activations.append((name, inputs[0]))
                )
            x = layer(x)
    parameters = torch.nn.ModuleList(layers).named_parameters(prefix="layers")
    weights = [(name, parameter) for name, parameter in parameters if parameter.ndim == 2]
    return [Source("sample weights", weights), Source("sample activations", activations)]
