"""Everything torch.library: schemas, checks, allocation, dispatch, fakes and gradients of the ops in ``torch.ops.mx``.

Each op is one function, from arguments to a checked `Call` whose outputs are allocated. The implementation runs that call; the fake
stops short of it; a compiler's trace runs it over symbols. So shapes, dtypes, strides and errors cannot drift apart.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch._library.triton import triton_ops_to_kernels
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode, dispatch_functionalize
from torch.autograd import forward_ad
from torch.nested._internal.nested_tensor import NestedTensor

from . import config, reference
from .formats import DTYPES, FORMATS, Format, get_block_size, get_format, get_threshold
from .symbols import as_if_unbacked, check, groups, has_unbacked, known, unspecialized

library = torch.library.Library("mx", "DEF")
KNOWN_SHAPES = 4096


class Rule(NamedTuple):
    """What a call's arguments resolve to, tensors aside: what `reference` and `kernels` take after the tensors."""

    fmt: Format
    dim: int  # not negative
    block_size: int
    threshold: int


class Digest:
    """Stands for the numbers of the ops in the keys of torch.compile's cache, so that changed numbers never meet old compiled code.

    The cache does not know what an op is traced into; but it hashes the source of an op's Triton kernels, and for those it takes this.
    """

    __name__ = "mx_ops"
    fn = staticmethod(lambda: None)

    @property
    def src(self) -> str:
        """What decides the code that an op becomes: the source of the package, and the settings."""
        return f"# {source_hash()} {config.get_lowering()} {interpreted()}"


@functools.cache
def source_hash() -> str:
    """A hash of the files that say what the ops compute."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Call(NamedTuple):
    """A checked call: its kernel and twin by name, the tensors and the rule they take, and which of the tensors are the outputs."""

    name: str
    tensors: tuple[Any, ...]  # the input first; last the seed, where there can be one, and the tensor's scale; or None
    rule: tuple
    outputs: Any  # a Tensor, or a tuple of them

    @property
    def blocked(self) -> tuple[int, ...]:
        """The dims along which blocks lie."""
        dim = self.rule[1]
        return (dim, dim - 1) if self.name == "quantize_both" else (dim,)

    def run(self, traced: bool = False) -> Any:
        """Fill the outputs: by the kernel where the device has one that takes these shapes, else by the reference.

        Traced, it may give other tensors than the call's, in their place.
        """
        tensors = self.scaled_tensors(traced)
        kernel = getattr(kernels_for(tensors[0].device.type), self.name, None)
        if kernel is None or (traced and fuses(self)) or not kernel(*tensors, *self.rule, traced=traced):
            return getattr(reference, self.name)(*tensors, *self.rule, traced=traced)
        return self.outputs

    def scaled_tensors(self, traced: bool) -> tuple[Any, ...]:
        """The tensors, with the scale of the whole one computed where the format has one that was not given."""
        if self.tensors[-1] is not None or not self.rule[0].has_tensor_scale:
            return self.tensors
        return (*self.tensors[:-1], tensor_scale(self.tensors[0], self.rule[0].name).run(traced))


def fuses(call: Call) -> bool:
    """Whether a compiled graph gets a call's formulas, for Inductor to fuse with their neighbours, and not its Triton kernel.

    It does unless Inductor's code is slower than the kernel. Measured on an H100 (torch 2.11, Triton 3.6, bf16 8192x14336; shares of a
    copy of the same bytes): fused into what comes before, fake_quant runs at 1.00 to 1.02, with the kernel beside it at 0.6. But

    - two codes a byte Inductor packs at 0.24 to 0.42, the kernel at 0.96;
    - along a dim that is not innermost in memory, or whose last block may be short, it makes two kernels, which both read the input;
    - random numbers it makes in a kernel of their own, and stores and loads 4 bytes an element for them;
    - blocks along two dims it makes in two kernels at least;
    - where a stride depends on the data, formulas work through one dim, and divide at each place; and where there is nothing to do, torch
      2.11 divides by zero as it launches them;
    - and quotients that round it gets right in float64 only (`reference.divide`): where elements are such, the kernel is there under any
      setting.

    The second and third are read off the code that torch 2.13 generates. Along an innermost dim that is 18 to 20 instructions an element of
    fake_quant, a consumer included, for sm_90, where a copy of bfloat16 leaves time for about 38.
    """
    quantizes = call.name in ("quantize", "quantize_both", "fake_quant")
    if quantizes and call.rule[0].divides and kernels_for(call.tensors[0].device.type) is not None:
        return False
    if config.get_lowering() != "auto":
        return config.lowering == "aten"
    if has_unbacked(call.tensors[0].stride()):
        return False
    if not quantizes:
        return True
    if call.name == "quantize_both":
        return False
    x, *_, seed, _ = call.tensors
    fmt, dim, block_size, _ = call.rule
    packs = call.name == "quantize" and fmt.codes_per_byte > 1
    _, whole_blocks = groups(x.shape[dim], block_size)
    return whole_blocks and known(x.stride(dim) == 1) and not packs and seed is None


@functools.cache
def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def kernels_for(device_type: str) -> ModuleType | None:
    """The Triton kernels, if they serve this type of device."""
    if device_type not in ("cuda", "xpu", *(["cpu"] if interpreted() else [])) or importlib.util.find_spec("triton") is None:
        return None
    from . import kernels

    return kernels


# Checks: plain errors, before anything is allocated.


@functools.cache
def resolve(ndim: int, format: str, dim: int, block_size: int | None, scale_mode: str | None, stochastic: bool) -> Rule:
    """Check the arguments that are no tensors. Raises ValueError and IndexError."""
    fmt = get_format(format)
    return Rule(fmt, resolve_dim(ndim, dim), get_block_size(fmt, block_size), get_threshold(fmt, scale_mode, stochastic))


def resolve_dim(ndim: int, dim: int) -> int:
    """``dim`` as counted from the front. Raises IndexError."""
    if ndim == 0:
        raise IndexError("a tensor of rank 0 has no dim to take blocks along: use x.reshape(1)")
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim {dim} is out of range for a tensor of rank {ndim}: give one from {-ndim} to {ndim - 1}")
    return dim % ndim


def check_strided(tensor: Tensor, name: str) -> None:
    """Check that a tensor lies in memory by strides. Raises TypeError."""
    if tensor.is_nested:
        raise TypeError(f"{name}: nested tensors are not taken; use .values(), the rows of a jagged one, or .to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: tensors of layout {tensor.layout} are not taken; use .to_dense()")


def check_dtype(x: Tensor) -> None:
    """Check what is to be quantized. Raises TypeError."""
    if x.dtype not in DTYPES:
        raise TypeError(f"input is {x.dtype}; it may be {', '.join(map(str, DTYPES))}")
    check_strided(x, "input")


def check_input(x: Tensor, seed: Tensor | None, tensor_scale: Tensor | None, fmt: Format, computed: bool) -> None:
    """Check the tensors of quantize and fake_quant. Raises TypeError and ValueError."""
    check_dtype(x)
    if seed is not None:
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != x.device:
            raise ValueError(
                f"seed is {seed.dtype} of shape {tuple(seed.shape)} on {seed.device}; it must be one int64 on the input's device, such as"
                f" torch.randint(2**63 - 1, (1,), device='{x.device}')"
            )
        check_strided(seed, "seed")
    check_tensor_scale(tensor_scale, fmt, x.device, computed)


def check_codes(elements: Tensor, scales: Tensor, tensor_scale: Tensor | None, rule: Rule, dtype: torch.dtype) -> None:
    """Check the tensors of dequantize. Raises TypeError and ValueError."""
    for name, tensor in (("elements", elements), ("scales", scales)):
        if tensor.dtype != torch.uint8:
            raise TypeError(f"{name} are {tensor.dtype}; the op takes bytes: use {name}.view(torch.uint8), or mx_ops.dequantize")
        check_strided(tensor, name)
    if dtype not in DTYPES:
        raise TypeError(f"dtype is {dtype}; it may be {', '.join(map(str, DTYPES))}")
    shape = list(elements.shape)
    shape[rule.dim] = count_blocks(shape[rule.dim] * rule.fmt.codes_per_byte, rule)

    def message() -> str:
        return (
            f"scales of shape {tuple(scales.shape)} do not fit elements of shape {tuple(elements.shape)}: {rule.fmt.name} in blocks"
            f" of {rule.block_size} along dim {rule.dim} has scales of shape {tuple(shape)}"
        )

    check(scales.ndim == elements.ndim, message)
    for have, want in zip(scales.shape, shape):
        check(have == want, message)
    if scales.device != elements.device:
        raise ValueError(f"scales are on {scales.device}, elements on {elements.device}: move them to one device")
    check_tensor_scale(tensor_scale, rule.fmt, elements.device, False)


def check_tensor_scale(tensor_scale: Tensor | None, fmt: Format, device: torch.device, computed: bool) -> None:
    """Check the scale of the whole tensor, which formats without one refuse. Raises ValueError."""
    if not fmt.has_tensor_scale:
        if tensor_scale is not None:
            raise ValueError(f"{fmt.name} has no scale for the whole tensor: leave tensor_scale out")
    elif tensor_scale is None:
        if not computed:
            raise ValueError(
                f"{fmt.name} has a scale for the whole tensor, which quantize and dequantize do not keep: give both the same tensor_scale,"
                " such as mx_ops.tensor_scale(x), or torch.ones(1) if blocks are to have scales alone"
            )
    elif tensor_scale.dtype != torch.float32 or tensor_scale.numel() != 1 or tensor_scale.device != device:
        raise ValueError(
            f"tensor_scale is {tensor_scale.dtype} of shape {tuple(tensor_scale.shape)} on {tensor_scale.device}; it must be one float32 on"
            f" the device of the other tensors, {device}, such as mx_ops.tensor_scale(x)"
        )
    else:
        check_strided(tensor_scale, "tensor_scale")


# Allocation: the blocked dim is the innermost in memory, as matrix units read it.


def count_blocks(length: int, rule: Rule) -> int:
    """How many blocks there are in a row, the last perhaps short."""
    return -(-length // rule.block_size)


def blocked(shape: torch.Size, dim: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes of a shape, but ``length`` along the blocked dim, and their strides."""
    strides, stride = [1] * len(shape), 1 if known(length == 0) else length  # as torch has them of what is empty
    for outer in reversed(range(len(shape))):
        if outer != dim:
            strides[outer] = stride
            stride = stride if known(shape[outer] == 0) else stride * shape[outer]
    return (*shape[:dim], length, *shape[dim + 1 :]), tuple(strides)


def code_layouts(shape: torch.Size, rule: Rule) -> tuple[Any, Any]:
    """`blocked` for the elements and the scales of a shape. Raises ValueError where its length does not fill whole bytes."""
    length, per_byte = shape[rule.dim], rule.fmt.codes_per_byte
    check(
        length % per_byte == 0,
        lambda: (
            f"{rule.fmt.name} packs {per_byte} elements a byte, so the length {length} of dim {rule.dim} must be even: pad the input,"
            " or use fake_quant, which takes any length"
        ),
    )
    return blocked(shape, rule.dim, length // per_byte), blocked(shape, rule.dim, count_blocks(length, rule))


known_layouts = functools.lru_cache(KNOWN_SHAPES)(code_layouts)


def empty_codes(x: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Elements and scales for x. Raises ValueError where its length does not fill whole bytes."""
    try:
        elements, scales = known_layouts(x.shape, rule)  # computed anew, they take longer than both allocations
    except TypeError:  # symbols have no hash
        elements, scales = code_layouts(x.shape, rule)
    return x.new_empty_strided(*elements, dtype=torch.uint8), x.new_empty_strided(*scales, dtype=torch.uint8)


functions: dict[Any, Callable[..., Call]] = {}  # by op, below


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The ops in ATen, for ``ExportedProgram.run_decompositions``: a program lowered by them runs where there is no mx_ops.

    With torch's own table, ``{**torch.export.default_decompositions(), **mx_ops.decompositions()}`` lowers the rest of the program too.
    The bits stay the same.

    >>> class Model(torch.nn.Module):
    ...     def forward(self, x):
    ...         return mx_ops.fake_quant(x, "mxfp4")
    >>> program = torch.export.export(Model(), (torch.ones(2, 42),)).run_decompositions(mx_ops.decompositions())
    >>> {node.target.namespace for node in program.graph.nodes if node.op == "call_function"}
    {'aten'}
    >>> torch.equal(program.module()(torch.arange(84.0).view(2, 42)), mx_ops.fake_quant(torch.arange(84.0).view(2, 42), "mxfp4"))
    True
    """
    return {overload: dispatch_functionalize(functools.partial(decompose, function)) for overload, function in functions.items()}


def decompose(function: Callable[..., Call], *args: Any, **kwargs: Any) -> Any:
    """What an op does, by its formulas.

    A graph takes inputs of any strides, but holds those that its values had when it was traced: so the formulas work on copies.
    """
    with as_if_unbacked():
        call = function(*args, **kwargs)
        given = {id(arg) for arg in args}
        tensors = [t.clone(memory_format=torch.contiguous_format) if id(t) in given and t is not None else t for t in call.tensors]
        copied = call._replace(tensors=tuple(tensors))
        return getattr(reference, call.name)(*copied.scaled_tensors(traced=True), *call.rule, traced=True)


# The ops. The dispatcher leaves out arguments that equal the schema's defaults, so the functions' defaults are the same.


def op(
    schema: str, derivative: Callable | None = None, batching: Callable | None = None, whole: bool = False
) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Define an op by its schema; register what the function says as its implementation on every backend, its fake, its gradient.

    ``whole`` says that an op without a format always takes, or gives, a scale of the whole tensor. Schemas are forever: they only append
    arguments with defaults.
    """

    def register(function: Callable[..., Call]) -> Callable[..., Call]:
        name = library.define(schema, tags=torch.Tag.pt2_compliant_tag)
        library.impl(name, lambda *args, **kwargs: function(*args, **kwargs).run(), "CompositeExplicitAutograd")
        torch.library.register_fake(f"mx::{name}", lambda *args, **kwargs: fake_outputs(function(*args, **kwargs)), lib=library)
        overload = getattr(torch.ops.mx, name).default
        names = [argument.name for argument in overload._schema.arguments]

        def vmap(info: Any, in_dims: tuple, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            given = dict(zip(names, args))
            fmt = FORMATS.get(given.get("format", ""))
            alone = given.get("seed") is not None or (whole if fmt is None else fmt.has_tensor_scale)
            # Where an op has no dim, blocks lie along the last two: a slice that has fewer gets its own error.
            alone |= "dim" not in names and args[0].ndim - (in_dims[0] is not None) < 2
            return batch(overload, info.batch_size, in_dims, args, kwargs, alone, "dim" in names)

        torch.library.register_vmap(f"mx::{name}", batching(overload) if batching else vmap, lib=library)
        torch.library.register_torch_dispatch(f"mx::{name}", FunctionalTensorMode, functools.partial(lower, function), lib=library)
        triton_ops_to_kernels[f"mx::{name}"] = [Digest()]
        if derivative is not None:
            library.impl(name, derivative(overload, function), "Autograd", with_keyset=True)
        for key in ("AutogradNestedTensor", "NestedTensorCPU", "NestedTensorCUDA"):
            library.impl(name, functools.partial(refuse_nested, names), key)
        torch.library.register_torch_dispatch(
            f"mx::{name}", NestedTensor, lambda mode, op, types, args, kwargs=None: refuse_nested(names, *args), lib=library
        )
        functions[overload] = function
        return function

    return register


def fake_outputs(call: Call) -> Any:
    """What a call gives, without its values.

    torch.export asks of each size of a tensor whether it is 1. Of a size that follows from a symbol, as the number of blocks does, it makes
    a guard of the answer in the example, and the exported program refuses other numbers of blocks. Of `unspecialized` sizes it makes none.
    """
    if not torch.compiler.is_exporting():
        return call.outputs
    if isinstance(call.outputs, Tensor):
        return unspecialized(call.outputs)
    return tuple(map(unspecialized, call.outputs))


def lower(function: Callable[..., Call], mode: Any, overload: Any, types: Any, args: tuple, kwargs: dict | None) -> Any:
    """What a graph gets in place of an op: the op itself when it is exported, and when it is compiled, what the op does.

    So a compiler sees through the op: Inductor fuses it, and AOTInductor packages it with nothing of mx left in it. Export says so by a
    flag of its own, made for ``torch.library.triton_op``. Interpreted kernels cannot be traced: the op then stays.
    """
    import torch._functorch.config

    name_dtypes()
    if interpreted() or not torch._functorch.config.decompose_custom_triton_ops:
        return mode.__torch_dispatch__(overload, types, args, kwargs)
    if not all(issubclass(kind, FakeTensor) or kind in (Tensor, FunctionalTensor) for kind in types):
        return NotImplemented  # a subclass of Tensor first does what it does
    with mode, as_if_unbacked():  # AOTInductor would not check the guards
        return function(*args, **(kwargs or {})).run(traced=True)


def name_dtypes() -> None:
    """Tell Inductor's C++ backend, if it is there, the names of the dtypes that the Python functions give and it may lack.

    Those are float4_e2m1fn_x2 (torch 2.11 to 2.15) and float8_e8m0fnu (up to 2.13).
    """
    if "torch._inductor.codegen.cpp_utils" in sys.modules:
        from torch._inductor.codegen.cpp_utils import DTYPE_TO_ATEN, DTYPE_TO_CPP

        for dtype in (torch.float8_e8m0fnu, *(fmt.dtype for fmt in FORMATS.values())):
            name = str(dtype).removeprefix("torch.").capitalize()
            DTYPE_TO_CPP.setdefault(dtype, f"at::{name}")
            DTYPE_TO_ATEN.setdefault(dtype, f"at::k{name}")


class StraightThrough(torch.autograd.Function):
    """What a call gives, with the derivative of the identity."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """The values."""
        return run(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient, as it comes."""
        return grad, None


def refuse_nested(names: list[str], *args: Any, **kwargs: Any) -> None:
    """The kernel for nested tensors, which have keys, and a class, of their own. Raises TypeError."""
    for name, arg in zip(names, args):
        if isinstance(arg, Tensor):
            check_strided(arg, name)


DEVICE_KEYS = (torch._C.DispatchKey.CUDA, torch._C.DispatchKey.CPU, torch._C.DispatchKey.XPU)
# As ints, which Python compares ten times as fast.
DEVICE_ALONE = frozenset(keyset.raw_repr() for keyset in map(torch._C.DispatchKeySet, DEVICE_KEYS))
AFTER_AUTOGRAD = torch._C._after_ADInplaceOrView_keyset.raw_repr()


def runs_here(keyset: Any) -> bool:
    """Whether nothing but the device is left to dispatch to: no mode, no subclass, no transform, no tangents.

    Then a kernel for autograd runs the call itself: to go back to the dispatcher takes as long as a launch.
    """
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return keyset.raw_repr() & AFTER_AUTOGRAD in DEVICE_ALONE


def below_autograd(overload: Any, keyset: Any, *args: Any, **kwargs: Any) -> Any:
    """The op without its derivative, at this level of torch.func's transforms; those further out see the caller's grad mode."""
    with torch._C._AutoDispatchBelowAutograd():
        return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)


def place_of_scale(overload: Any) -> int:
    """Which of an op's arguments the tensor_scale is; one that no call has, where there is none."""
    names = [argument.name for argument in overload._schema.arguments]
    return names.index("tensor_scale") if "tensor_scale" in names else len(names)


def check_no_derivative(scale: Tensor | None) -> None:
    """Check that no derivative by a tensor_scale is asked, in either mode: it would be zero without a word. Raises ValueError."""
    if scale is None:
        return
    asked = scale.requires_grad and torch.is_grad_enabled()
    if asked or (torch.autograd.forward_ad._current_level >= 0 and forward_ad.unpack_dual(scale).tangent is not None):
        raise ValueError(
            f"tensor_scale {'requires a gradient' if asked else 'has a tangent'}, and nothing is differentiated by it: give"
            " tensor_scale.detach()"
        )


def straight_through(overload: Any, function: Callable[..., Call]) -> Callable:
    """The kernel for autograd of every fake_quant: derivatives are those of the identity, in both modes, and under torch.func.

    What `torch.library.register_autograd` would register knows backward alone: in forward mode it gives zeros without a word, and under
    torch.func an error. It serves where it suffices.
    """

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, *[None] * (len(ctx.needs_input_grad) - 1)

    implementation = make_autograd_impl(overload, Info(backward, None))
    scale = place_of_scale(overload) - 1  # in what follows the input

    def autograd(keyset: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) > scale:
            check_no_derivative(args[scale])
        if runs_here(keyset):
            if input.requires_grad and torch.is_grad_enabled():
                return StraightThrough.apply(input, lambda input: function(input, *args, **kwargs).run())
            return function(input, *args, **kwargs).run()
        transformed = torch._C._are_functorch_transforms_active()
        if not transformed and (torch.autograd.forward_ad._current_level < 0 or forward_ad.unpack_dual(input).tangent is None):
            return implementation(keyset, input, *args, **kwargs)
        values = below_autograd(overload, keyset, input, *args, **kwargs)
        out = input + torch.zeros_like(values)  # has the derivatives, and is batched as the values are
        with torch.no_grad():
            out.detach().copy_(values)
        return out

    return autograd


def constant(overload: Any, function: Callable[..., Call]) -> Callable:
    """The kernel for autograd of what has no derivative, floating-point numbers too."""
    scale = place_of_scale(overload)

    def autograd(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > scale:
            check_no_derivative(args[scale])
        if not runs_here(keyset):
            return below_autograd(overload, keyset, *args, **kwargs)
        if args[0].requires_grad and torch.is_grad_enabled():
            with torch._C._AutoDispatchBelowAutograd():  # the formulas are not to be recorded
                return function(*args, **kwargs).run()
        return function(*args, **kwargs).run()

    return autograd


def batch(
    op: Callable, size: int, in_dims: tuple[int | None, ...], args: tuple, kwargs: dict, alone: bool, has_dim: bool = True
) -> tuple[Any, Any]:
    """An op under vmap gives what a Python loop over the batch gives: by one call, where the batch may be one more dim of its tensors.

    If each slice is ``alone`` it may not: with a seed it draws the noise, and with a scale of the whole tensor it has the scale, that it
    would have by itself.
    """
    if alone:
        slices = [op(*(arg if at is None else arg.select(at, i) for arg, at in zip(args, in_dims)), **kwargs) for i in range(size)]
        if size == 0:  # what a slice of zeros gives has the shapes
            slices = [op(*(arg if at is None else arg.sum(at, dtype=arg.dtype) for arg, at in zip(args, in_dims)), **kwargs)]

        def stack(parts: Iterable[Tensor]) -> Tensor:
            return torch.stack(tuple(parts))[:size]

        outputs = stack(slices) if isinstance(slices[0], Tensor) else tuple(map(stack, zip(*slices)))
    else:
        whole = [
            arg.movedim(at, 0) if at is not None else arg.expand(size, *arg.shape) if isinstance(arg, Tensor) else arg
            for arg, at in zip(args, in_dims)
        ]
        if has_dim:
            kwargs = kwargs | {"dim": resolve_dim(whole[0].ndim - 1, kwargs.get("dim", -1)) + 1}
        outputs = op(*whole, **kwargs)
    return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)


@op(
    "quantize(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None, *,"
    " int dim=-1, int? block_size=None, str? scale_mode=None) -> (Tensor elements, Tensor scales)",
    derivative=constant,
)
def quantize(input, format, seed=None, tensor_scale=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    rule = resolve(input.ndim, format, dim, block_size, scale_mode, seed is not None)
    check_input(input, seed, tensor_scale, rule.fmt, computed=False)
    codes = empty_codes(input, rule)
    return Call("quantize", (input, *codes, seed, tensor_scale), rule, codes)


@op(
    "quantize_both(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None, *, int? block_size=None, str? scale_mode=None)"
    " -> (Tensor elements, Tensor scales, Tensor elements_t, Tensor scales_t)",
    derivative=constant,
)
def quantize_both(input, format, seed=None, tensor_scale=None, *, block_size=None, scale_mode=None) -> Call:
    if input.ndim < 2:
        raise IndexError(f"quantize_both takes blocks along the last two dims, and this tensor's rank is {input.ndim}: use quantize")
    rule = resolve(input.ndim, format, -1, block_size, scale_mode, seed is not None)
    check_input(input, seed, tensor_scale, rule.fmt, computed=False)
    across = resolve(input.ndim, format, -2, block_size, scale_mode, seed is not None)
    codes = (*empty_codes(input, rule), *empty_codes(input, across))
    return Call("quantize_both", (input, *codes, seed, tensor_scale), rule, codes)


@op(
    "dequantize(Tensor elements, Tensor scales, str format, Tensor? tensor_scale=None, *,"
    " int dim=-1, int? block_size=None, ScalarType dtype=float) -> Tensor",
    derivative=constant,
)
def dequantize(elements, scales, format, tensor_scale=None, *, dim=-1, block_size=None, dtype=torch.float32) -> Call:
    rule = resolve(elements.ndim, format, dim, block_size, None, False)
    check_codes(elements, scales, tensor_scale, rule, dtype)
    layout = blocked(elements.shape, rule.dim, elements.shape[rule.dim] * rule.fmt.codes_per_byte)
    out = elements.new_empty_strided(*layout, dtype=dtype)
    return Call("dequantize", (elements, scales, out, tensor_scale), (rule.fmt, rule.dim, rule.block_size), out)


@op(
    "fake_quant(Tensor input, str format, Tensor? seed=None, Tensor? tensor_scale=None, *,"
    " int dim=-1, int? block_size=None, str? scale_mode=None) -> Tensor",
    derivative=straight_through,
)
def fake_quant(input, format, seed=None, tensor_scale=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    rule = resolve(input.ndim, format, dim, block_size, scale_mode, seed is not None)
    check_input(input, seed, tensor_scale, rule.fmt, computed=True)
    out = torch.empty_like(input)
    return Call("fake_quant", (input, out, seed, tensor_scale), rule, out)


@op(
    "mxfp4_fake_quant(Tensor input, Tensor? seed=None, *, int dim=-1, int? block_size=None, str? scale_mode=None) -> Tensor",
    derivative=straight_through,
)
def mxfp4_fake_quant(input, seed=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    return fake_quant(input, "mxfp4", seed, dim=dim, block_size=block_size, scale_mode=scale_mode)


@op(
    'mxfp8_fake_quant(Tensor input, str format="e4m3", Tensor? seed=None, *,'
    " int dim=-1, int? block_size=None, str? scale_mode=None) -> Tensor",
    derivative=straight_through,
)
def mxfp8_fake_quant(input, format="e4m3", seed=None, *, dim=-1, block_size=None, scale_mode=None) -> Call:
    prefix = "mxfp8_"
    known = [name.removeprefix(prefix) for name in FORMATS if name.startswith(prefix)]
    if format not in known:
        raise ValueError(f"unknown MXFP8 format {format!r}; the formats are {', '.join(map(repr, known))}")
    return fake_quant(input, prefix + format, seed, dim=dim, block_size=block_size, scale_mode=scale_mode)


@op(
    "nvfp4_fake_quant(Tensor input, Tensor? seed=None, Tensor? tensor_scale=None, *, int dim=-1, int? block_size=None) -> Tensor",
    derivative=straight_through,
    whole=True,
)
def nvfp4_fake_quant(input, seed=None, tensor_scale=None, *, dim=-1, block_size=None) -> Call:
    return fake_quant(input, "nvfp4", seed, tensor_scale, dim=dim, block_size=block_size)


@op('tensor_scale(Tensor input, str format="nvfp4") -> Tensor', derivative=constant, whole=True)
def tensor_scale(input, format="nvfp4") -> Call:
    fmt = get_format(format)
    if not fmt.has_tensor_scale:
        raise ValueError(f"{fmt.name} has no scale for the whole tensor")
    check_dtype(input)
    out = input.new_empty(1, dtype=torch.float32)
    return Call("tensor_scale", (input, out), (fmt,), out)


# Scales as matrix units read them. These are ops of their own, and no argument of quantize, for they cost next to nothing: bf16 8192x16384
# to MXFP8 moves 260 + 132 + 4 MiB, and to swizzle the scales moves those 4 MiB twice more, 2.1% of it (2.4% for MXFP4, of 328 MiB). As an
# argument, it would give one of quantize's two outputs another shape, and dequantize, DTensor rules and each kernel a second form to know.

TILE = (128, 4)  # rows and columns of the tiles in which matrix units read scales


def check_scales(scales: Tensor, name: str, op: str) -> None:
    """Check that bytes are matrices. Raises TypeError and ValueError."""
    if scales.dtype != torch.uint8:
        raise TypeError(f"{name} are {scales.dtype}; the op takes bytes: use {name}.view(torch.uint8), or mx_ops.{op}")
    check_strided(scales, name)
    check_matrices(scales.shape, name)


def check_matrices(shape: tuple[int, ...], name: str) -> None:
    """Check a rank. Raises ValueError."""
    if len(shape) < 2:
        raise ValueError(f"{name} of shape {tuple(shape)} are no matrix: they must be of shape [..., rows, columns]")


def batch_matrices(overload: Any) -> Callable:
    """The vmap rule of ops on [..., rows, columns]: the batch is one more of the dims in front."""

    def vmap(info: Any, in_dims: tuple, matrices: Tensor, *sizes: int) -> tuple[Tensor, int]:
        matrices = matrices.movedim(in_dims[0], 0)
        check_matrices(matrices.shape[1:], overload._schema.arguments[0].name)
        return overload(matrices, *sizes), 0

    return vmap


@op("swizzle_scales(Tensor scales) -> Tensor", batching=batch_matrices)
def swizzle_scales(scales) -> Call:
    check_scales(scales, "scales", "swizzle_scales")
    *outer, rows, columns = scales.shape
    tiles = -(-rows // TILE[0]), -(-columns // TILE[1])
    out = scales.new_empty([*outer, tiles[0] * TILE[0], tiles[1] * TILE[1]])
    return Call("swizzle_scales", (scales, out), tiles, out)


@op("unswizzle_scales(Tensor swizzled, SymInt rows, SymInt columns) -> Tensor", batching=batch_matrices)
def unswizzle_scales(swizzled, rows, columns) -> Call:
    check_scales(swizzled, "swizzled scales", "unswizzle_scales")
    check(rows >= 0 and columns >= 0, lambda: f"{rows} rows and {columns} columns: sizes may not be negative")
    *outer, have_rows, have_columns = swizzled.shape
    tiles = -(-rows // TILE[0]), -(-columns // TILE[1])

    def message() -> str:
        return (
            f"swizzled scales of shape {tuple(swizzled.shape)} do not hold {rows} rows and {columns} columns: those fill"
            f" {tiles[0] * TILE[0]} and {tiles[1] * TILE[1]}"
        )

    check(have_rows == tiles[0] * TILE[0], message)
    check(have_columns == tiles[1] * TILE[1], message)
    out = swizzled.new_empty([*outer, rows, columns])
    return Call("unswizzle_scales", (swizzled, out), tiles, out)
