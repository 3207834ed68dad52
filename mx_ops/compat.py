"""The five names of the kernels that this package succeeds. They stay callable, with their arguments as they were.

Their numbers are those of the ops that stand behind them. New code takes the functions of `functional`, which have every option.
"""

from __future__ import annotations

from torch import Tensor

from .functional import mxfp4_fake_quant, mxfp8_fake_quant, nvfp4_fake_quant


def mxfp4_forward(x: Tensor, stochastic_rounding: bool = False) -> Tensor:
    """`mxfp4_fake_quant`, by the name of the kernel that it succeeds.

    >>> mx_ops.mxfp4_forward(torch.tensor([0.6, 2.4, -5.1]))
    tensor([ 0.5000,  2.0000, -6.0000])
    """
    return mxfp4_fake_quant(x, stochastic_rounding)


def mxfp8_forward(x: Tensor, format: str = "e4m3", stochastic_rounding: bool = False) -> Tensor:
    """`mxfp8_fake_quant`, by the name of the kernel that it succeeds.

    >>> mx_ops.mxfp8_forward(torch.tensor([0.6, 2.4, -5.1]))
    tensor([ 0.6250,  2.5000, -5.0000])
    """
    return mxfp8_fake_quant(x, format, stochastic_rounding)


def nvfp4_forward(x: Tensor, scale_per_t: Tensor | None = None, stochastic_rounding: bool = False) -> Tensor:
    """`nvfp4_fake_quant`, by the name of the kernel that it succeeds: ``scale_per_t`` is the tensor_scale.

    >>> mx_ops.nvfp4_forward(torch.tensor([0.6, 2.4, -5.1]))
    tensor([ 0.4250,  2.5500, -5.1000])
    """
    return nvfp4_fake_quant(x, stochastic_rounding, tensor_scale=scale_per_t)


def fake_quant_mxfp4(x: Tensor, stochastic_rounding: bool = False) -> Tensor:
    """`mxfp4_fake_quant`, by another name of the kernel that it succeeds.

    >>> mx_ops.fake_quant_mxfp4(torch.tensor([0.6, 2.4, -5.1]))
    tensor([ 0.5000,  2.0000, -6.0000])
    """
    return mxfp4_fake_quant(x, stochastic_rounding)


def fake_quant_mxfp8(x: Tensor, stochastic_rounding: bool = False, format: str = "e4m3") -> Tensor:
    """`mxfp8_fake_quant`, by another name of the kernel that it succeeds: here the format comes last.

    >>> mx_ops.fake_quant_mxfp8(torch.tensor([0.6, 2.4, -5.1]))
    tensor([ 0.6250,  2.5000, -5.0000])
    """
    return mxfp8_fake_quant(x, format, stochastic_rounding)
