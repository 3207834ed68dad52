"""The ops as Python functions: torch's own dtypes instead of bytes, and seeds drawn where none is given.

The ops of ``torch.ops.mx`` take and give bytes, as uint8. The functions take and give views of the same bytes. Where a dtype is in the
way, call the ops: torch 2.11 does not batch a view in another dtype under `torch.vmap`, and `mx_ops.config` says what cannot be exported.

CUDA, ROCm and XPU devices run Triton kernels; every other device runs ATen. A tensor that has more than five dims after merging (a
shuffled tensor of rank 6 and more) runs in ATen on GPUs too. Every op batches under `torch.vmap`. Gradients of the fake-quants pass
straight through, under `torch.func` and in forward mode too.

Codes in modules: keep them as uint8 buffers. ``module.half()`` and ``module.to(dtype)`` leave these alone. They convert float8 buffers,
scales too, and fail on float4 ones (torch 2.13).

>>> weight, module = torch.linspace(-3, 3, 64).reshape(2, 32), torch.nn.Module()
>>> for name, codes in zip(("elements", "scales"), mx_ops.quantize(weight, "mxfp4")):
...     module.register_buffer(name, codes.view(torch.uint8))
>>> values = mx_ops.dequantize(module.half().elements, module.scales, "mxfp4", dtype=torch.float16)
>>> torch.equal(values, mx_ops.fake_quant(weight, "mxfp4").half())
True

Codes in torchao: its `MXTensor` holds the same bytes (torchao 0.18). The one made here dequantizes to the bits of `dequantize`. It is a
weight for `torch.nn.functional.linear`, which then quantizes its other argument alike. For MXFP4 the first argument is
``elements.view(torch.uint8)``; the third stays ``elements.dtype``.

    from torchao.prototype.mx_formats.mx_tensor import MXTensor, QuantizeTensorToMXKwargs
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    elements, scales = mx_ops.quantize(weight, "mxfp8_e4m3")
    how = QuantizeTensorToMXKwargs(elem_dtype=elements.dtype)
    w = MXTensor(elements, scales, elements.dtype, 32, weight.dtype, KernelPreference.EMULATED, how, False)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import bytes_of, bytes_of_scales, check_tensor, is_traced, node, view_in
from .formats import get_format
from .seeds import seed_tensor

_ops = torch.ops.mx


def quantize(
    x: Tensor,
    format: str,
    stochastic_rounding: bool = False,
    *,
    seed: Tensor | int | None = None,
    tensor_scale: Tensor | None = None,
    dim: int = -1,
    block_size: int | None = None,
    scale_mode: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantize to MX or NVFP4 blocks: element codes, and one scale a block, which in MX is a power of two.

    A block is ``block_size`` consecutive elements along ``dim`` (the last of a row may be short); its scale is
    2^(floor(log2(amax)) - emax) under ``scale_mode="floor"`` (OCP MX v1.0, section 6.3). Elements are divided by the scale, rounded to
    nearest even, and saturated. A block that holds a NaN or an Inf gets the NaN scale. How NVFP4 does it: see `nvfp4_fake_quant`.

    Args:
        x: float32, bfloat16 or float16, of rank 1 or more, any strides.
        format: a name of `mx_ops.FORMATS`, such as ``"mxfp4"``, ``"mxfp8_e4m3"``, ``"mxfp6_e2m3"``, ``"mxint8"`` or ``"nvfp4"``.
        stochastic_rounding: round up with the probability of the remainder, by random numbers of `seed`. Then ``scale_mode`` is
            ``"rceil"`` unless given: under ``"floor"`` a block's top clips, which biases.
        seed: one int64 on x's device (or an int), the only source of randomness: the same seed gives the same bits on every device,
            for every layout, compiled or not. A seed implies stochastic rounding. Without one, `torch.randint` draws it.
        tensor_scale: for ``"nvfp4"`` alone, which needs one: a float32 on x's device, such as ``mx_ops.tensor_scale(x)``. It is no result:
            keep it for `dequantize`. ``torch.ones(1)`` is no second scale. Nothing is differentiated by it.
        dim: the dim along which blocks lie.
        block_size: 16, 32, 64, 128 or 256; the format's own (32, and 16 for NVFP4) unless given.
        scale_mode: ``"floor"``; ``"rceil"``, the smallest scale that clips nothing, as NVIDIA's hardware computes it; ``"ceil"``,
            which rounds up to the next power of two; or ``"even"``, which rounds amax to the element's mantissa first. NVFP4 has none.

    Returns:
        Elements, in the format's dtype (float4_e2m1fn_x2: two along ``dim`` in a byte, the first in the low bits; float8_e4m3fn;
        float8_e5m2; uint8 for MXFP6, whose codes have a byte each; int8), and scales (float8_e8m0fnu, or float8_e4m3fn for NVFP4),
        ceil(n / block_size) along ``dim``. Both have ``dim`` innermost in memory. How to gather DTensors: `mx_ops.distributed`.

    Raises:
        ValueError: unknown format, scale mode or block size; an odd length along ``dim`` for mxfp4 and nvfp4; a seed or a tensor_scale
            that does not fit; no tensor_scale for nvfp4, one for another format, or a scale mode for nvfp4; a tensor_scale that requires
            a gradient, where gradients are on, or has a tangent: give ``tensor_scale.detach()``.
        TypeError: another dtype; what is no tensor, or a nested or sparse one; a seed that is neither a tensor nor an int.
        IndexError: ``dim`` out of range, or x of rank 0.

    >>> x = torch.tensor([[1.0, -0.3, 6.0, 0.1]])
    >>> elements, scales = mx_ops.quantize(x, "mxfp8_e4m3")
    >>> elements.dtype, scales.view(torch.uint8)  # the scale is 2 to the 121 - 127, so that 6 becomes 384
    (torch.float8_e4m3fn, tensor([[121]], dtype=torch.uint8))
    >>> mx_ops.dequantize(elements, scales, "mxfp8_e4m3")
    tensor([[ 1.0000, -0.3125,  6.0000,  0.1016]])
    """
    if is_traced(x, seed, tensor_scale):
        return node(quantize, locals())
    seed = seed_tensor(x, stochastic_rounding, seed, tensor_scale)
    elements, scales = _ops.quantize(x, format, seed, tensor_scale, dim=dim, block_size=block_size, scale_mode=scale_mode)
    fmt = get_format(format)
    return view_in(elements, fmt.dtype), view_in(scales, fmt.scale_dtype)


def quantize_both(
    x: Tensor,
    format: str,
    stochastic_rounding: bool = False,
    *,
    seed: Tensor | int | None = None,
    tensor_scale: Tensor | None = None,
    block_size: int | None = None,
    scale_mode: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantize` along the last dim and along the one before it, from one read of x: what a training step needs of a matrix.

    A product and its gradients sum over different dims of a matrix, and blocks lie along the dim that is summed over.

    Args:
        x: as in `quantize`, of rank 2 or more.
        format, stochastic_rounding, seed, tensor_scale, block_size, scale_mode: as in `quantize`. An element has the same noise in both.

    Returns:
        ``(*quantize(x, format, dim=-1), *quantize(x, format, dim=-2))``, to the bit and the stride.

    Raises:
        ValueError, TypeError: as `quantize`, along either dim.
        IndexError: x of rank 0 or 1.

    >>> x = torch.arange(64.0).view(32, 2)
    >>> elements, scales, elements_t, scales_t = mx_ops.quantize_both(x, "mxfp8_e4m3")
    >>> scales.shape, scales_t.shape, elements_t.stride()
    (torch.Size([32, 1]), torch.Size([1, 2]), (1, 32))
    >>> mx_ops.dequantize(elements_t, scales_t, "mxfp8_e4m3", dim=-2)[:3]
    tensor([[0., 1.],
            [2., 3.],
            [4., 5.]])
    """
    if is_traced(x, seed, tensor_scale):
        return node(quantize_both, locals())
    seed = seed_tensor(x, stochastic_rounding, seed, tensor_scale)
    codes = _ops.quantize_both(x, format, seed, tensor_scale, block_size=block_size, scale_mode=scale_mode)
    elements, scales, elements_t, scales_t = codes
    fmt = get_format(format)
    return (
        view_in(elements, fmt.dtype),
        view_in(scales, fmt.scale_dtype),
        view_in(elements_t, fmt.dtype),
        view_in(scales_t, fmt.scale_dtype),
    )


def dequantize(
    elements: Tensor,
    scales: Tensor,
    format: str,
    *,
    tensor_scale: Tensor | None = None,
    dim: int = -1,
    block_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The values of blocks: each element times its block's scale (OCP MX v1.0, section 5.1).

    Args:
        elements, scales: as `quantize` gives them, or the same bytes as uint8; any strides.
        format, tensor_scale, dim, block_size: as they were quantized.
        dtype: float32, bfloat16 or float16. Values are rounded to it once. A finite product beyond its range saturates to its largest
            value; only a NaN scale or an element that is NaN or Inf gives such a value. So MXFP4's values under the scale bytes 253 and
            254, which are beyond float32, saturate, and 255 is NaN. gpt-oss's decoder, as transformers has it (5.24), gives Inf under
            253 and 254, and takes 255 for 2^128.

    Returns:
        A tensor of ``dtype``, with ``dim`` innermost in memory.

    Raises:
        ValueError: unknown format or block size; scales or a tensor_scale that do not fit; no tensor_scale for nvfp4; a tensor_scale of
            which a derivative is asked, as in `quantize`.
        TypeError: elements that are not of the format's dtype, or another ``dtype``; what is no tensor, or a nested or sparse one.
        IndexError: ``dim`` out of range.

    >>> codes = torch.tensor([[0x21, 0xF6]], dtype=torch.uint8)  # low nibble first: 0.5, 1, 4, -6
    >>> mx_ops.dequantize(codes, torch.tensor([[128]], dtype=torch.uint8), "mxfp4")  # times 2 to the 128 - 127
    tensor([[  1.,   2.,   8., -12.]])
    """
    if is_traced(elements, scales, tensor_scale):
        return node(dequantize, locals())
    fmt = get_format(format)
    if tensor_scale is not None:
        check_tensor(tensor_scale, "tensor_scale")
    elements = bytes_of(elements, fmt.dtype, f"elements of {format}")
    scales = bytes_of(scales, fmt.scale_dtype, "scales")
    return _ops.dequantize(elements, scales, format, tensor_scale, dim=dim, block_size=block_size, dtype=dtype)


def fake_quant(
    x: Tensor,
    format: str,
    stochastic_rounding: bool = False,
    *,
    seed: Tensor | int | None = None,
    tensor_scale: Tensor | None = None,
    dim: int = -1,
    block_size: int | None = None,
    scale_mode: str | None = None,
) -> Tensor:
    """What x becomes in MX: ``dequantize(quantize(x))`` in x's dtype, to the bit, in one pass. The gradient passes straight through.

    Args and errors are those of `quantize`, but a length along ``dim`` may be odd, and NVFP4 takes ``mx_ops.tensor_scale(x)`` where no
    tensor_scale is given.

    Returns:
        A tensor of x's shape, dtype and (if x is dense) strides.

    >>> x = torch.tensor([1.0, -0.3, 6.0, 0.1], requires_grad=True)
    >>> y = mx_ops.fake_quant(x, "mxfp4")
    >>> y.detach()
    tensor([ 1.0000, -0.5000,  6.0000,  0.0000])
    >>> y.sum().backward()
    >>> x.grad
    tensor([1., 1., 1., 1.])
    >>> mx_ops.fake_quant(x.detach(), "mxfp4", seed=7)  # -0.3 is rounded to -0.5 with probability 0.6, and to 0 otherwise
    tensor([ 1.0000, -0.5000,  6.0000,  0.0000])
    """
    seed = seed_tensor(x, stochastic_rounding, seed, tensor_scale)
    return _ops.fake_quant(x, format, seed, tensor_scale, dim=dim, block_size=block_size, scale_mode=scale_mode)


def mxfp4_fake_quant(
    x: Tensor,
    stochastic_rounding: bool = False,
    *,
    seed: Tensor | int | None = None,
    dim: int = -1,
    block_size: int | None = None,
    scale_mode: str | None = None,
) -> Tensor:
    """`fake_quant` to MXFP4.

    >>> mx_ops.mxfp4_fake_quant(torch.tensor([0.6, 2.4, -5.1]))
    tensor([ 0.5000,  2.0000, -6.0000])
    """
    seed = seed_tensor(x, stochastic_rounding, seed)
    return _ops.mxfp4_fake_quant(x, seed, dim=dim, block_size=block_size, scale_mode=scale_mode)


def mxfp8_fake_quant(
    x: Tensor,
    format: str = "e4m3",
    stochastic_rounding: bool = False,
    *,
    seed: Tensor | int | None = None,
    dim: int = -1,
    block_size: int | None = None,
    scale_mode: str | None = None,
) -> Tensor:
    """`fake_quant` to MXFP8, ``"e4m3"`` or ``"e5m2"``.

    >>> mx_ops.mxfp8_fake_quant(torch.tensor([0.6, 2.4, -5.1]), "e5m2")
    tensor([ 0.6250,  2.5000, -5.0000])
    """
    seed = seed_tensor(x, stochastic_rounding, seed)
    return _ops.mxfp8_fake_quant(x, format, seed, dim=dim, block_size=block_size, scale_mode=scale_mode)


def nvfp4_fake_quant(
    x: Tensor,
    stochastic_rounding: bool = False,
    *,
    seed: Tensor | int | None = None,
    tensor_scale: Tensor | None = None,
    dim: int = -1,
    block_size: int | None = None,
) -> Tensor:
    """`fake_quant` to NVFP4: E2M1 elements in blocks of 16, whose scales are E4M3, under one float32 scale t for the whole tensor.

    All arithmetic is float32, and each operation is rounded to nearest even once. For each block, from its largest magnitude amax:

    1. t is `tensor_scale`, or `mx_ops.tensor_scale(x)`: amax of the whole tensor / 2688. Below 2^-149 it counts as that, so that 0 is no
       error; a negative, infinite or NaN t makes everything NaN. It is not read before the kernels run: so that raises nothing.
    2. s = (amax / 6) / t, two quotients, rounded to E4M3, saturated at 448; at least 2^-9, E4M3's least, but 0 for a block of zeros.
    3. d = s * t, at most float32's largest value. This is what elements are divided by and, by `dequantize`, multiplied by.
    4. Elements are x / d, rounded to nearest even on the E2M1 grid, and saturated at 6; 0 if d is 0. -0 stays -0. Under stochastic
       rounding it is floor(|x / d| / step + u) steps, with the random bits that every format has at this place.
    5. Values are element * d, rounded once more to x's dtype, and at most its largest value.

    Where s is rounded down, the top of the block clips, which no random bits make up for. Under a seed the values are too small on average,
    for Gaussian x by 0.19% of the sum of magnitudes (MXFP4 under ``"rceil"``, which clips nothing: 0.00%; `mx_ops.formats` says how that
    was measured). 3.5% of these values clip, and all of the bias is theirs.

    A NaN or an Inf makes its block NaN: scale 0x7F, elements 0. If t is computed it makes t NaN, and so all of the tensor.

    torchao (0.18) has the same t, and the same s but that it has none below 2^-6, E4M3's least normal number; what it dequantizes has
    the same bits. It multiplies by the rounded (1 / t) / s where this divides by d: an element within a float32 step of a tie between two
    codes may then be the other. In most tensors none is; in some of bfloat16, where t puts many on ties, 0.1% are. Of zeros it makes NaN.

    >>> mx_ops.nvfp4_fake_quant(torch.tensor([0.6, 2.4, -5.1]))  # t is 5.1 / 2688, s 448 and d 0.85
    tensor([ 0.4250,  2.5500, -5.1000])
    """
    seed = seed_tensor(x, stochastic_rounding, seed, tensor_scale)
    return _ops.nvfp4_fake_quant(x, seed, tensor_scale, dim=dim, block_size=block_size)


def tensor_scale(x: Tensor, format: str = "nvfp4") -> Tensor:
    """The scale of a whole tensor, for a format that has one: x's largest magnitude / 2688, which is 6 * 448, rounded once.

    So the block with that magnitude has the largest scale, 448, and that element the largest code, 6. It stays on x's device: nothing is
    synchronized, and a CUDA graph or a compiled one that holds it computes it anew. Of a DTensor it is the scale of the whole.

    Args:
        x: float32, bfloat16 or float16, of any shape and strides.
        format: ``"nvfp4"``, the only one that has such a scale.

    Returns:
        One float32, of shape [1], without a gradient: 0 if x is empty or has zeros only; NaN if x holds a NaN, and Inf if it holds an Inf.

    Raises:
        ValueError: unknown format, or one without a scale for the whole tensor.
        TypeError: another dtype.

    >>> x = torch.tensor([[1.0, -0.3, 5376.0, 0.1]])
    >>> scale = mx_ops.tensor_scale(x)
    >>> scale
    tensor([2.])
    >>> elements, scales = mx_ops.quantize(x, "nvfp4", tensor_scale=scale)
    >>> scales.dtype, scales.float()
    (torch.float8_e4m3fn, tensor([[448.]]))
    >>> mx_ops.dequantize(elements, scales, "nvfp4", tensor_scale=scale)
    tensor([[   0.,   -0., 5376.,    0.]])
    """
    check_tensor(x, "input")
    return _ops.tensor_scale(x, format)


def swizzle_scales(scales: Tensor) -> Tensor:
    """Scales in the order in which matrix units read them: tiles of 128 rows and 4 columns (NVIDIA's, from Blackwell on).

    The byte of row i and column j goes to (i // 128 * ceil(columns / 4) + j // 4) * 512 + i % 32 * 16 + i % 128 // 32 * 4 + j % 4 of its
    matrix (cuBLAS, "1D block scaling factors layout"). ``swizzle_scales(scales).flatten()`` is what `torch.nn.functional.scaled_mm` takes
    as ``SwizzleType.SWIZZLE_32_4_4``.

    Args:
        scales: of shape [..., rows, columns], of any dtype of one byte, any strides; a column for every block. Those that `quantize` gives
            along another ``dim`` than the last are to be given as ``scales.movedim(dim, -1)``.

    Returns:
        A contiguous tensor of the same dtype, of shape [..., rows, columns] rounded up to whole tiles. What is beyond is 0.

    Raises:
        TypeError: a dtype of more than a byte.
        ValueError: fewer than two dims.

    >>> scales = mx_ops.quantize(torch.ones(2, 96), "mxfp8_e4m3")[1]
    >>> swizzled = mx_ops.swizzle_scales(scales)
    >>> swizzled.shape, swizzled.dtype
    (torch.Size([128, 4]), torch.float8_e8m0fnu)
    >>> swizzled.view(torch.uint8).flatten()[:20]  # row 1 is 16 bytes from row 0
    tensor([119, 119, 119,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
              0,   0, 119, 119, 119,   0], dtype=torch.uint8)
    """
    if is_traced(scales):
        return node(swizzle_scales, locals())
    return view_in(_ops.swizzle_scales(bytes_of_scales(scales, "scales")), scales.dtype)


def unswizzle_scales(swizzled: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `swizzle_scales`.

    Args:
        swizzled: as `swizzle_scales` gives them: [..., rows, columns], rounded up to multiples of 128 and 4.
        rows, columns: what the scales had.

    Returns:
        A contiguous tensor of the same dtype, of shape [..., rows, columns].

    Raises:
        TypeError: a dtype of more than a byte.
        ValueError: a shape that does not hold so many rows and columns; fewer than two dims.

    >>> scales = torch.arange(6, dtype=torch.uint8).view(2, 3)
    >>> mx_ops.unswizzle_scales(mx_ops.swizzle_scales(scales), 2, 3)
    tensor([[0, 1, 2],
            [3, 4, 5]], dtype=torch.uint8)
    """
    if is_traced(swizzled):
        return node(unswizzle_scales, locals())
    return view_in(_ops.unswizzle_scales(bytes_of_scales(swizzled, "swizzled scales"), rows, columns), swizzled.dtype)
