"""The rules in Triton: device functions in `rules` and `tile`, the grid in `grid`, and a file per op: its kernels and launcher."""

from .dequantize import dequantize
from .fake_quant import fake_quant
from .quantize import quantize
from .quantize_both import quantize_both
from .tensor_scale import tensor_scale

__all__ = ["dequantize", "fake_quant", "quantize", "quantize_both", "tensor_scale"]
