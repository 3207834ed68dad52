"""The ops in plain ATen: the CPU kernel, the kernel of every backend without its own, and the twin of every Triton kernel.

`rules` is the specification. `ops` applies it to whole tensors: in `chunks` on CPU, by `tables` where those serve, and in a graph with what
`inductor` needs. `swizzle` orders scales as matrix units read them.
"""

from .ops import dequantize, fake_quant, quantize, quantize_both, tensor_scale
from .swizzle import swizzle_scales, unswizzle_scales

__all__ = ["dequantize", "fake_quant", "quantize", "quantize_both", "swizzle_scales", "tensor_scale", "unswizzle_scales"]
