"""Everything torch.library: schemas, checks, allocation, dispatch, fakes and gradients of the ops in ``torch.ops.mx``.

`ops` has the schemas. Each op is one function, from arguments to a checked `call` whose outputs are allocated, by the rules of `checks` and
`layouts`. `registration` makes an op of it, with what torch's `transforms` and compilers (`tracing`) get.
"""

from .backends import interpreted, kernels_for
from .call import Call, Decoding, Encoding
from .checks import check_strided
from .ops import (
    dequantize,
    fake_quant,
    mxfp4_fake_quant,
    mxfp8_fake_quant,
    nvfp4_fake_quant,
    quantize,
    quantize_both,
    swizzle_scales,
    tensor_scale,
    unswizzle_scales,
)
from .registration import library
from .tracing import decompositions, fuses

__all__ = [
    "Call",
    "Decoding",
    "Encoding",
    "check_strided",
    "decompositions",
    "dequantize",
    "fake_quant",
    "fuses",
    "interpreted",
    "kernels_for",
    "library",
    "mxfp4_fake_quant",
    "mxfp8_fake_quant",
    "nvfp4_fake_quant",
    "quantize",
    "quantize_both",
    "swizzle_scales",
    "tensor_scale",
    "unswizzle_scales",
]
