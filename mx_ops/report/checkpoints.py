"""Where the tensors of ``python -m mx_ops`` come from: checkpoints, or a small transformer. They are read a window at a time."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..command import CommandError, one_line
from ..formats import DTYPES

PICKLES = (".pt", ".pth", ".bin")
CONVERTED = (torch.float64,)  # measured as float32
MAPPED = 64 << 20  # bytes of a file to have in memory at a time: the pages of a mapped file count as the process's own
AROUND = 128 << 10  # bytes that the operating system may map before and after
REPEATED = 1 << 30  # a larger tensor must store all its bytes: what expand() makes of a few would take for ever

Box = tuple[slice, ...]


@dataclass
class Stored:
    """A tensor of a source: what it is, and a way to its values."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]  # as a matrix at least
    skipped: str  # why it is not measured; empty if it is
    fetch: Callable[[int], Tensor]  # gives the tensor, told how many bytes of it will be read: keep no reference

    @classmethod
    def of(cls, name: str, tensor: Tensor, fetch: Callable[[int], Tensor]) -> Stored:
        """What a tensor is, without a reference to it."""
        skipped = ""
        if tensor.is_nested:  # it has neither a shape nor strides
            return cls(name, tensor.dtype, torch.Size(), (), "nested", fetch)
        if tensor.layout != torch.strided or tensor.is_meta:
            skipped = "no data" if tensor.is_meta else str(tensor.layout)
        elif tensor.dtype not in (*DTYPES, *CONVERTED):
            skipped = str(tensor.dtype)
        strides = () if skipped else (0,) * (2 - tensor.ndim) + tensor.stride()
        return cls(name, tensor.dtype, tensor.shape, strides, skipped, fetch)

    @property
    def rows(self) -> int:
        """The rows of the matrix as which it is read."""
        return math.prod(self.shape[:-1])

    @property
    def length(self) -> int:
        """The length of these rows."""
        return self.shape[-1] if self.shape else 1

    @torch.no_grad()
    def read(self, rows: slice, columns: slice) -> Tensor:
        """A copy of a window of the matrix, converted where its dtype is one of CONVERTED."""
        size = (rows.stop - rows.start, columns.stop - columns.start)
        window = torch.empty(size, dtype=torch.float32 if self.dtype in CONVERTED else self.dtype)
        done = 0
        for box in boxes(self.shape[:-1] or (1,), rows.start, rows.stop):
            sizes = [part.stop - part.start for part in (*box, columns)]
            more = math.prod(sizes[:-1])
            self.fill(window[done : done + more].view(sizes), (*box, columns))
            done += more
        return window

    def fill(self, out: Tensor, box: Box) -> None:
        """Copy a box. If it spans more of the file than may be in memory, copy one half after the other."""
        spans = [(size - 1) * stride for size, stride in zip(out.shape, self.strides)]
        span = (sum(spans) + 1) * self.dtype.itemsize
        if span > MAPPED and max(spans) > 0:
            dim = spans.index(max(spans))
            middle = out.shape[dim] // 2
            for part, start in zip(out.tensor_split((middle,), dim), (box[dim].start, box[dim].start + middle)):
                self.fill(part, (*box[:dim], slice(start, start + part.shape[dim]), *box[dim + 1 :]))
        else:
            tensor = self.fetch(span + AROUND)
            out.copy_(tensor[(None,) * (2 - tensor.ndim)][box])


def boxes(sizes: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The flat indices from start to stop of an array of these sizes, as boxes, in order."""
    if len(sizes) == 1:
        yield (slice(start, stop),)
        return
    inner = math.prod(sizes[1:])
    while start < stop:
        first = start // inner
        if start % inner or stop - start < inner:  # a part of one index
            end = min(stop, (first + 1) * inner)
            yield from ((slice(first, first + 1), *box) for box in boxes(sizes[1:], start - first * inner, end - first * inner))
        else:
            end = stop - stop % inner
            yield (slice(first, end // inner), *(slice(0, size) for size in sizes[1:]))
        start = end


class Source(NamedTuple):
    """A file, a folder, or a part of the sample, and its tensors. Who reads a tensor takes it from the list."""

    name: str
    tensors: list[Stored]


class MappedFile:
    """A file mapped into memory. After MAPPED bytes of reading it is closed and opened again, which gives its pages back."""

    def __init__(self, path: Path, how: str, load: Callable[[], Any], get: Callable[[Any, Any], Tensor]) -> None:
        self.path, self.how, self.load, self.get = path, how, load, get
        self.most: float = MAPPED
        self.read = 0
        self.identity = self.identify()
        with reading(path, how):
            self.content = load()

    def identify(self) -> tuple[int, ...]:
        """What differs where another file is put in this one's place."""
        with reading(self.path, self.how):
            status = os.stat(self.path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def fetch(self, key: Any, size: int = 0) -> Tensor:
        """A tensor, of which ``size`` bytes will be read."""
        self.read += size
        with reading(self.path, self.how):
            if self.read > self.most:
                self.content = None  # first, so that never two are open
                self.content, self.read = self.load(), size
                if self.identify() != self.identity:
                    raise CommandError(f"cannot read {self.path}: it changed while it was read")
            return self.get(self.content, key)


def open_checkpoint(name: str) -> Source:
    """The tensors of a file or folder, which is opened and checked now, and read as they are measured. Raises CommandError."""
    path = Path(name)
    if path.is_dir():
        return Source(name, open_folder(path))
    if path.suffix not in (".safetensors", *PICKLES):
        raise CommandError(f"cannot read {name}: its suffix is none of .safetensors, {', '.join(PICKLES)}")
    if not path.is_file():
        raise CommandError(f"cannot read {name}: {'not a file' if path.exists() else 'no such file'}")
    return Source(name, open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path))


def open_folder(folder: Path) -> list[Stored]:
    """The tensors of the safetensors files of a folder: of those that its index names, or of all."""
    indexes = visible(folder, "*.safetensors.index.json")
    index = next((path for path in indexes if path.name == "model.safetensors.index.json"), indexes[0] if len(indexes) == 1 else None)
    if index is None and indexes:
        raise CommandError(f"cannot read {folder}: it has several indexes, {', '.join(path.name for path in indexes)}: name files instead")
    placed: dict[str, str] = {}
    if index is not None:
        with reading(index, "as an index of safetensors files"):
            placed = {str(name): str(file) for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
        files = [folder / file for file in sorted(set(placed.values()))]
    else:
        files = visible(folder, "*.safetensors")
        files += [folder / name for name in unnamed_shards({path.name for path in files})]
    if not files:
        others = ": name files instead" if any(path.suffix in PICKLES for path in folder.iterdir()) else ""
        raise CommandError(f"cannot read {folder}: a folder without safetensors files{others}")
    for path in files:
        if not path.is_file():
            raise CommandError(f"cannot read {folder}: {path.name} is missing")
    tensors = {path.name: open_safetensors(path) for path in files}
    found = {(tensor.name, file) for file, shard in tensors.items() for tensor in shard}
    for entry in placed.items():
        if entry not in found:
            raise CommandError(f"cannot read {folder}: {entry[0]} is not in {entry[1]}")
    return [tensor for shard in tensors.values() for tensor in shard]


def visible(folder: Path, pattern: str) -> list[Path]:
    """The paths in a folder that match, without hidden ones, which copying from a Mac can leave."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def unnamed_shards(names: set[str]) -> list[str]:
    """The missing files of a checkpoint whose shards are numbered, as in model-00001-of-00003.safetensors."""
    shards = [match.groups() for name in names if (match := re.fullmatch(r"(.*-)\d{5}(-of-(\d{5})\.safetensors)", name))]
    every = {f"{before}{number:05}{after}" for before, after, count in shards for number in range(1, int(count) + 1)}
    return sorted(every - names)


def open_safetensors(path: Path) -> list[Stored]:
    """The tensors of a safetensors file."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise CommandError(f"cannot read {path}: safetensors is not installed: pip install 'mx_ops[checkpoints]'") from None
    file = MappedFile(path, "as safetensors", lambda: safe_open(path, "pt"), lambda content, name: content.get_tensor(name))
    names = file.content.keys()
    return [Stored.of(name, file.fetch(name), functools.partial(file.fetch, name)) for name in names]


def open_pickle(path: Path) -> list[Stored]:
    """The tensors of what torch.save wrote, wherever they lie in its dicts and lists."""

    def load() -> list[tuple[str, Tensor]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of TorchScript and of storages: the file's user can change neither
            return list(find_tensors(torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))))

    file = MappedFile(path, "as what torch.save writes, weights only", load, lambda content, index: content[index][1])
    if not zipfile.is_zipfile(path):  # it is of torch < 1.6, which is read as a whole
        file.most = math.inf
    found = []
    for index, (name, tensor) in enumerate(file.content):
        found.append(Stored.of(name, tensor, functools.partial(file.fetch, index)))
        if not found[-1].skipped and tensor.nbytes > max(REPEATED, there := tensor.untyped_storage().nbytes()):
            raise CommandError(f"cannot read {path}: {name} repeats {there} bytes until they are {tensor.nbytes}")
    return found


def find_tensors(content: object, name: str = "", seen: dict[int, object] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, under their keys joined with dots. A container at several places counts at the first."""
    seen = {} if seen is None else seen
    items: Iterable[tuple[object, object]] = ()
    if isinstance(content, Tensor):
        yield name or "tensor", content
    elif id(content) not in seen:
        if isinstance(content, Mapping):
            items = content.items()
        elif isinstance(content, (list, tuple)):
            items = enumerate(content)
        seen[id(content)] = content
    for key, value in items:
        yield from find_tensors(value, f"{name}.{key}" if name else str(key), seen)


@contextlib.contextmanager
def reading(path: Path, how: str) -> Iterator[None]:
    """Turn any exception inside into a CommandError."""
    try:
        yield
    except CommandError:
        raise
    except Exception as error:  # a corrupt pickle can raise anything
        raise CommandError(f"cannot read {path} {how}: {one_line(error)}") from error


def make_sample() -> list[Source]:
    """The matrices of a small transformer, and what flows into them; always the same."""
    activations: list[tuple[str, Tensor]] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layers = [torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True).eval() for _ in range(2)]
        x = torch.randn(8, 128, 512)
        for index, layer in enumerate(layers):
            for name in ("self_attn", "linear1", "linear2"):  # with a hook a layer leaves its fused path, which calls no hook
                layer.get_submodule(name).register_forward_pre_hook(
                    lambda module, inputs, name=f"layers.{index}.{name}": activations.append((name, inputs[0]))
                )
            x = layer(x)
    parameters = torch.nn.ModuleList(layers).named_parameters(prefix="layers")
    weights: list[tuple[str, Tensor]] = [(name, parameter) for name, parameter in parameters if parameter.ndim == 2]
    return [Source("sample weights", in_memory(weights)), Source("sample activations", in_memory(activations))]


def in_memory(tensors: list[tuple[str, Tensor]]) -> list[Stored]:
    """Tensors that are in memory already."""
    return [Stored.of(name, tensor, lambda size, tensor=tensor: tensor) for name, tensor in tensors]  # type: ignore[misc]
