"""The rules in Triton: device functions in `numerics`, the grid in `tiling`, and a file per op with its kernel and its launcher."""

from .dequantize import dequantize
from .fake_quant import fake_quant
from .quantize import quantize

__all__ = ["dequantize", "fake_quant", "quantize"]
